//! What a worker has to start and stop to get from what runs to what is desired.
//!
//! Pure comparison; knows nothing about tasks.

use std::collections::BTreeMap;

use crate::unit::{AssignedUnit, Unit};

/// One step; stops come before starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Drain the unit, then say that it was released.
    Stop(Unit),
    /// Start the unit.
    Start(Unit, AssignedUnit),
}

/// The same run: a partition's generation may have moved on, which the unit itself began.
fn same_run(a: &AssignedUnit, b: &AssignedUnit) -> bool {
    a.number == b.number
        && match (&a.partition, &b.partition) {
            (Some(a), Some(b)) => {
                a.target_topic == b.target_topic
                    && a.source_topic_id == b.source_topic_id
                    && a.target_topic_id == b.target_topic_id
            }
            (a, b) => a.is_none() == b.is_none(),
        }
}

/// Compares. A unit whose assignment number or detail changed is stopped first and started once its stop is
/// complete: the caller runs `diff` again then, so a start is only said for units that don't run at all.
pub fn diff(desired: &BTreeMap<Unit, AssignedUnit>, running: &BTreeMap<Unit, AssignedUnit>) -> Vec<Step> {
    let stops = running
        .iter()
        .filter(|(unit, assigned)| !desired.get(*unit).is_some_and(|wanted| same_run(wanted, assigned)))
        .map(|(unit, _)| Step::Stop(unit.clone()));
    let starts = desired
        .iter()
        .filter(|(unit, _)| !running.contains_key(unit))
        .map(|(unit, assigned)| Step::Start(unit.clone(), assigned.clone()));
    stops.chain(starts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FlowId, TopicId, TopicName};
    use crate::unit::{Generation, PartitionDetail, PartitionGeneration, PartitionStart};

    fn unit(flow: &str) -> Unit {
        Unit::Topology(FlowId::new(flow).unwrap())
    }

    fn assigned(number: u64) -> AssignedUnit {
        AssignedUnit { number, partition: None }
    }

    #[test]
    fn a_generation_that_moved_on_restarts_nothing_and_another_topic_does() {
        let start = PartitionStart { source_offset: 1, target_offset: 2, ..PartitionStart::default() };
        let detail = PartitionDetail {
            target_topic: TopicName::new("uk.t").unwrap(),
            source_topic_id: TopicId([1; 16]),
            target_topic_id: TopicId([2; 16]),
            begun: PartitionGeneration { generation: Generation { producer_id: 7, epoch: 0 }, start },
        };
        let unit = Unit::Partition(FlowId::new("f").unwrap(), TopicName::new("t").unwrap(), 0);
        let set = |detail: &PartitionDetail| {
            BTreeMap::from([(unit.clone(), AssignedUnit { number: 1, partition: Some(detail.clone()) })])
        };
        let mut moved = detail.clone();
        moved.begun.generation.epoch = 1;
        moved.begun.start.source_offset = 50;
        assert!(diff(&set(&moved), &set(&detail)).is_empty(), "the unit itself began it");
        let stop = vec![Step::Stop(unit.clone())];
        let source = PartitionDetail { source_topic_id: TopicId([9; 16]), ..moved.clone() };
        assert_eq!(diff(&set(&source), &set(&detail)), stop);
        let target = PartitionDetail { target_topic_id: TopicId([9; 16]), ..moved.clone() };
        assert_eq!(diff(&set(&target), &set(&detail)), stop);
        let renamed = PartitionDetail { target_topic: TopicName::new("hq.t").unwrap(), ..moved };
        assert_eq!(diff(&set(&renamed), &set(&detail)), stop);
    }

    #[test]
    fn stops_come_first_and_changed_units_restart() {
        let desired =
            BTreeMap::from([(unit("a"), assigned(2)), (unit("b"), assigned(1)), (unit("d"), assigned(4))]);
        let running =
            BTreeMap::from([(unit("a"), assigned(1)), (unit("b"), assigned(1)), (unit("c"), assigned(3))]);
        assert_eq!(
            diff(&desired, &running),
            vec![Step::Stop(unit("a")), Step::Stop(unit("c")), Step::Start(unit("d"), assigned(4))]
        );
        assert!(diff(&desired, &desired).is_empty());
    }
}
