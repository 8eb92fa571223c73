//! Which changes of a flow restart which units.
//!
//! Pure; knows nothing about tasks. Whatever does not restart a unit reaches it through `UnitContext::flow_changes`.

use std::time::Duration;

use mirrormesh_core::unit::Unit;
use mirrormesh_kafka::backoff::pause_after;

use crate::unit::FlowView;

/// First delay before a failed unit is started again.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest delay before a failed unit is started again.
const BACKOFF_MAX: Duration = Duration::from_mins(1);

/// Must the unit be stopped and started to follow the change?
///
/// A cluster that is reached otherwise restarts everything. Partition units also restart when what they read, the
/// identity that they write with or a policy of theirs changed: one that stopped for a policy tries again then. All
/// other units follow by themselves.
pub(crate) fn needs_restart(unit: &Unit, old: &FlowView, new: &FlowView) -> bool {
    let clusters = old.source != new.source
        || old.target != new.target
        || old.flow.spec.source != new.flow.spec.source
        || old.flow.spec.target != new.flow.spec.target;
    clusters
        || match unit {
            Unit::Partition(_, topic, _) => {
                let (old_spec, new_spec) = (&old.flow.spec, &new.flow.spec);
                old.flow.generation != new.flow.generation
                    || old.flow.mesh_id != new.flow.mesh_id
                    || old_spec.read_uncommitted != new_spec.read_uncommitted
                    || old_spec.skip_mirrored != new_spec.skip_mirrored
                    || old_spec.require_exactly_once != new_spec.require_exactly_once
                    || old_spec.loss_policy(topic) != new_spec.loss_policy(topic)
                    || old_spec.on_oversized != new_spec.on_oversized
                    || old_spec.timestamps != new_spec.timestamps
            }
            Unit::Group(..) | Unit::Heartbeat(_) | Unit::Topology(_) | Unit::Groups(_) => false,
        }
}

/// How long a unit that failed this many times in a row waits: 1 s, doubled each time, at most 60 s.
pub(crate) fn backoff(failures: u32) -> Duration {
    pause_after(failures, BACKOFF_MIN, BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::flow::{FlowSpec, LossPolicy, OversizedPolicy, TimestampPolicy};
    use mirrormesh_core::ids::{ClusterId, FlowId, GroupId, TopicName};
    use mirrormesh_core::throttle::{Share, Throttle};
    use mirrormesh_core::unit::{AssignedFlow, ClusterSpec, Generation, ThrottleShares};
    use std::collections::{BTreeMap, BTreeSet};

    fn view() -> FlowView {
        let spec = FlowSpec::new(ClusterId::new("uk").unwrap(), ClusterId::new("hq").unwrap());
        let cluster = |address: &str| ClusterSpec {
            bootstrap_servers: vec![address.to_owned()],
            properties: BTreeMap::new(),
            kafka_cluster_id: None,
        };
        FlowView {
            id: FlowId::new("uk-hq").unwrap(),
            flow: AssignedFlow {
                spec,
                generation: None,
                mesh_id: "m".to_owned(),
                clusters: BTreeSet::new(),
                shares: ThrottleShares::default(),
            },
            source: cluster("a:9092"),
            target: cluster("b:9092"),
        }
    }

    #[test]
    fn only_what_a_unit_cannot_follow_restarts_it() {
        let flow = FlowId::new("uk-hq").unwrap();
        let partition = Unit::Partition(flow.clone(), TopicName::new("t").unwrap(), 0);
        let others = [
            Unit::Topology(flow.clone()),
            Unit::Groups(flow.clone()),
            Unit::Group(flow.clone(), GroupId::new("g").unwrap()),
            Unit::Heartbeat(flow),
        ];
        let mut filter = view();
        filter.flow.spec.topics_include = vec!["a.*".into()];
        let mut uncommitted = view();
        uncommitted.flow.spec.read_uncommitted = true;
        let mut generation = view();
        generation.flow.generation = Some(Generation { producer_id: 7, epoch: 1 });
        let mut cluster = view();
        cluster.target.bootstrap_servers = vec!["c:9092".into()];
        let mut met = view();
        met.source.kafka_cluster_id = Some("MkU3OEVBNTcwNTJENDM2Qk".into());

        let mut policies = [view(), view(), view(), view(), view(), view()];
        let t = TopicName::new("t").unwrap();
        policies[0].flow.spec.on_loss = LossPolicy::Continue;
        policies[1].flow.spec.on_loss_by_topic.insert(t.clone(), LossPolicy::Continue);
        policies[2].flow.spec.on_oversized = OversizedPolicy::Skip;
        policies[3].flow.spec.timestamps = TimestampPolicy::Clamp;
        policies[4].flow.spec.skip_mirrored = true;
        policies[5].flow.spec.require_exactly_once = true;
        for changed in &policies {
            assert!(needs_restart(&partition, &view(), changed), "{changed:?}");
            assert!(!needs_restart(&others[0], &view(), changed), "{changed:?}");
        }
        let mut other_topic = view();
        other_topic.flow.spec.on_loss_by_topic.insert(TopicName::new("u").unwrap(), LossPolicy::Continue);
        assert!(!needs_restart(&partition, &view(), &other_topic), "another topic's policy");
        let mut same = view();
        same.flow.spec.on_loss_by_topic.insert(t, LossPolicy::StopPartition);
        assert!(!needs_restart(&partition, &view(), &same), "said once more, the same in effect");

        let mut throttled = view();
        throttled.flow.spec.throttle =
            Throttle { bytes_per_second: std::num::NonZeroU64::new(1_024), ..Throttle::NONE };
        throttled.flow.shares.flow = Share { part: 1, of: 2 };
        assert!(!needs_restart(&partition, &view(), &throttled), "throttles are live");

        assert!(!needs_restart(&partition, &view(), &filter));
        assert!(needs_restart(&partition, &view(), &uncommitted));
        assert!(needs_restart(&partition, &view(), &generation));
        assert!(needs_restart(&partition, &view(), &cluster));
        for unit in &others {
            assert!(!needs_restart(unit, &view(), &filter), "{unit}");
            assert!(!needs_restart(unit, &view(), &uncommitted), "{unit}");
            assert!(!needs_restart(unit, &view(), &generation), "{unit}");
            assert!(needs_restart(unit, &view(), &cluster), "{unit}");
            assert!(needs_restart(unit, &view(), &met), "{unit}: its clients know the cluster's id then");
        }
    }

    #[test]
    fn backoff_doubles_to_its_limit() {
        let seconds: Vec<u64> = (1..=8).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(0), BACKOFF_MIN);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
