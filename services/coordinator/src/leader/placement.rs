//! What the last plan left without a worker, and topics that were refused: soft state of one leadership.

use std::collections::BTreeMap;

use mirrormesh_core::control::{ControlState, HEARTBEATS_SHARED};
use mirrormesh_core::ids::{FlowId, TopicName};
use mirrormesh_core::unit::{Role, Unit};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Units of one flow and role that have no worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// How many.
    pub(crate) units: usize,
    /// Since when there are some.
    pub(crate) since: Instant,
    /// The same on the wall clock, ms since 1970.
    pub(crate) since_ms: u64,
}

/// What waits, by flow and role.
type ByFlow = BTreeMap<(FlowId, Role), Waiting>;

/// What the last plan left without a worker.
#[derive(Debug, Default)]
pub(crate) struct Placement(Mutex<(ByFlow, usize)>);

impl Placement {
    /// Takes a plan's rest.
    pub(crate) fn update(&self, placed: usize, unplaced: &[Unit], now: Instant, now_ms: u64) {
        let mut kept = self.0.lock();
        let mut waiting = ByFlow::new();
        for unit in unplaced {
            let key = (unit.flow().clone(), unit.role());
            let before = kept.0.get(&key);
            let (since, since_ms) = before.map_or((now, now_ms), |before| (before.since, before.since_ms));
            waiting.entry(key).or_insert(Waiting { units: 0, since, since_ms }).units += 1;
        }
        *kept = (waiting, placed);
    }

    /// What waits of a flow.
    pub(crate) fn of_flow(&self, flow: &FlowId) -> Vec<(Role, Waiting)> {
        let all = [Role::Source, Role::Checkpoint, Role::Heartbeat];
        let kept = self.0.lock();
        all.into_iter().filter_map(|role| Some((role, *kept.0.get(&(flow.clone(), role))?))).collect()
    }

    /// How many units the last plan placed, and how many not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let kept = self.0.lock();
        (kept.1, kept.0.values().map(|waiting| waiting.units).sum())
    }
}

/// Why a topic was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Stable name.
    pub(crate) reason: &'static str,
    /// What is wrong and what to do.
    pub(crate) message: String,
    /// Since when, ms since 1970.
    pub(crate) since_ms: u64,
}

/// The refused topics of a flow, as one assignment of its topology unit was answered.
#[derive(Debug, Default)]
struct Refused {
    /// Number of the assignment: what an earlier one was answered says nothing any more.
    number: u64,
    topics: BTreeMap<TopicName, Refusal>,
}

/// Topics that were not taken into the inventory, by flow.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<FlowId, Refused>>);

impl Refusals {
    /// Takes the answer to a report under this assignment of the topology unit: of the topics that were reported, these
    /// were refused.
    pub(crate) fn update<'a>(
        &self,
        (flow, number): (&FlowId, u64),
        reported: impl Iterator<Item = &'a TopicName>,
        refused: &[(TopicName, &'static str, String)],
        now_ms: u64,
    ) {
        let mut reported = reported.peekable();
        // A report about groups comes under another unit's number, and says nothing about topics.
        if reported.peek().is_none() {
            return;
        }
        let mut kept = self.0.lock();
        let Refused { number: known, topics } = kept.entry(flow.clone()).or_default();
        if std::mem::replace(known, number) != number {
            topics.clear();
        }
        for topic in reported {
            let before = topics.remove(topic);
            let refusal =
                refused.iter().find(|(name, reason, _)| name == topic && *reason != HEARTBEATS_SHARED);
            if let Some((_, reason, message)) = refusal {
                let since_ms = before.filter(|b| b.reason == *reason).map_or(now_ms, |b| b.since_ms);
                topics.insert(topic.clone(), Refusal { reason, message: message.clone(), since_ms });
            }
        }
        if topics.is_empty() {
            kept.remove(flow);
        }
    }

    /// Forgets what was said to assignments that ended: the next one offers its topics anew.
    pub(crate) fn forget_outdated(&self, state: &ControlState) {
        self.0.lock().retain(|flow, refused| {
            let owner = state.owners.get(&Unit::Topology(flow.clone()));
            state.flows.contains_key(flow) && owner.is_some_and(|owner| owner.number == refused.number)
        });
    }

    /// The refused topics of a flow.
    pub(crate) fn of_flow(&self, flow: &FlowId) -> BTreeMap<TopicName, Refusal> {
        self.0.lock().get(flow).map(|refused| refused.topics.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_waits_keeps_its_beginning() {
        let (placement, begin) = (Placement::default(), Instant::now());
        let flow = FlowId::new("f").unwrap();
        let later = begin + Duration::from_secs(9);
        placement.update(3, &[Unit::Topology(flow.clone())], begin, 100);
        placement.update(3, &[Unit::Topology(flow.clone()), Unit::Groups(flow.clone())], later, 200);
        let source = Waiting { units: 1, since: begin, since_ms: 100 };
        let checkpoint = Waiting { units: 1, since: later, since_ms: 200 };
        assert_eq!(placement.of_flow(&flow), [(Role::Source, source), (Role::Checkpoint, checkpoint)]);
        assert_eq!(placement.counts(), (3, 2));
        placement.update(5, &[], later, 300);
        assert!(placement.of_flow(&flow).is_empty());
    }

    #[test]
    fn a_refusal_lasts_until_the_topic_is_taken_or_removed() {
        let refusals = Refusals::default();
        let flow = FlowId::new("f").unwrap();
        let topic = |name: &str| TopicName::new(name).unwrap();
        let names = [topic("a"), topic("b")];
        let refused = [(topic("a"), "TARGET_TOPIC_CONFLICT", "no".to_owned())];
        refusals.update((&flow, 1), names.iter(), &refused, 10);
        refusals.update((&flow, 1), names.iter(), &refused, 20);
        let known = refusals.of_flow(&flow);
        assert_eq!(known.len(), 1);
        assert_eq!(known[&topic("a")].since_ms, 10);
        refusals.update((&flow, 1), [topic("b")].iter(), &[], 30);
        assert_eq!(refusals.of_flow(&flow).len(), 1, "another topic says nothing about it");
        refusals.update((&flow, 1), [topic("a")].iter(), &[], 40);
        assert!(refusals.of_flow(&flow).is_empty());
    }

    #[test]
    fn a_heartbeat_topic_of_another_flow_is_no_complaint() {
        let (refusals, flow) = (Refusals::default(), FlowId::new("f").unwrap());
        let topic = TopicName::new("heartbeats").unwrap();
        let refused = [(topic.clone(), HEARTBEATS_SHARED, "flows/g mirrors it".to_owned())];
        refusals.update((&flow, 1), [topic].iter(), &refused, 10);
        assert!(refusals.of_flow(&flow).is_empty());
    }

    #[test]
    fn a_refusal_ends_with_the_assignment_that_it_was_said_to() {
        let (refusals, flow) = (Refusals::default(), FlowId::new("f").unwrap());
        let topic = |name: &str| TopicName::new(name).unwrap();
        let refused = [(topic("a"), "TARGET_TOPIC_CONFLICT", "no".to_owned())];
        refusals.update((&flow, 1), [topic("a")].iter(), &refused, 10);
        refusals.update((&flow, 9), [].iter(), &[], 20);
        assert_eq!(refusals.of_flow(&flow).len(), 1, "a report about groups");
        refusals.update((&flow, 2), [topic("b")].iter(), &[], 30);
        assert!(refusals.of_flow(&flow).is_empty(), "another assignment offers its topics anew");
        refusals.update((&flow, 2), [topic("a")].iter(), &refused, 40);
        refusals.forget_outdated(&ControlState::default());
        assert!(refusals.of_flow(&flow).is_empty(), "the flow, or its unit, is gone");
    }
}
