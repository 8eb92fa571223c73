//! The topology unit: finds a flow's topics, keeps the target's topics in step, tells the coordinator.
//!
//! Owns creation and growth of target topics and the choice of where mirroring begins; nothing is ever deleted or
//! shrunk, and no broker is left to create a topic by itself.

mod claims;
mod incarnations;
mod postponed;
mod scan;
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::control::{HEARTBEATS_SHARED, InventoryChange, TopicEntry};
use mirrormesh_core::flow::{FlowSpec, TopicRules};
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::relay::machine::TARGET_NOT_IDEMPOTENT;
use mirrormesh_core::report::{Event, UnitState};
use mirrormesh_core::unit::Generation;
use mirrormesh_kafka::ErrorCode;
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_runtime::trace_context::follow;
use mirrormesh_worker::{Failure, RefusedTopic, UnitContext};

use tracing::{Instrument as _, Span};

use crate::link::FlowLink;
use incarnations::FormerIds;
use postponed::Postponed;

/// Topics and partitions in one report at most; one topic with more partitions goes alone.
const REPORT_MAX: usize = 10_000;
/// After a failed scan the next one comes this soon: a topic that was just made has no leader yet for some milliseconds.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// Each further failure doubles the time up to the flow's discovery interval, and to this at most.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// What went wrong with a scan: a stable name and what to do.
pub(crate) type Trouble = (String, String);

/// What the unit knows.
struct Topology {
    context: UnitContext,
    link: Arc<FlowLink>,
    /// Topics as they were reported, by source name.
    reported: BTreeMap<TopicName, TopicEntry>,
    /// Nothing was mirrored by this flow before: `start` applies to what is found now. Topics and partitions that
    /// come later are mirrored from their beginning, so that no early record is missed.
    first: bool,
    /// Topics that the coordinator did not take, with why; they are offered again with every scan.
    refused: BTreeMap<TopicName, Trouble>,
    /// Topics that another mesh has, with why they are left alone.
    claimed: BTreeMap<TopicName, Trouble>,
    /// Refusals that an event was recorded for: one that comes again, or goes and comes, is said once.
    said: BTreeMap<TopicName, Trouble>,
    /// What brokers that lag behind may still say.
    former: FormerIds,
    /// Target topics that could not be created or grown.
    postponed: Postponed,
    /// The rules about topics, and the flow that they are of.
    rules: Option<(FlowSpec, Arc<TopicRules>)>,
    /// How long to wait after the next failure.
    retry: Duration,
}

/// Runs the unit until it is asked to stop.
pub(crate) async fn run(context: UnitContext, link: Arc<FlowLink>) {
    let mut topology = Topology {
        first: context.flow.generation.is_none(),
        context,
        link,
        reported: BTreeMap::new(),
        refused: BTreeMap::new(),
        claimed: BTreeMap::new(),
        said: BTreeMap::new(),
        former: FormerIds::default(),
        postponed: Postponed::default(),
        rules: None,
        retry: RETRY_MIN,
    };
    let stop = topology.context.stop.clone();
    let mut changes = topology.context.flow_changes.clone();
    loop {
        let span = topology.start_span();
        let wait = tokio::select! {
            wait = topology.round().instrument(span) => wait,
            () = stop.cancelled() => return,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // A changed selection is looked at at once. The sender lives as long as the unit.
            _ = changes.changed() => topology.postponed.hurry(),
            () = stop.cancelled() => return,
        }
    }
}

impl Topology {
    /// The span of a scan in the trace of the flow's change that the unit was started for, until one succeeded.
    fn start_span(&self) -> Span {
        let Some(trace) = &self.context.trace else { return Span::none() };
        let span = tracing::info_span!("topology scan", flow = %self.context.flow_id);
        follow(&span, trace);
        span
    }

    /// One scan, with its report. Returns how long to wait.
    async fn round(&mut self) -> Duration {
        let view = self.context.flow_changes.borrow().clone();
        match self.scan(&view.flow.spec).await {
            Ok(()) => {
                self.first = false;
                self.context.trace = None;
                self.retry = RETRY_MIN;
                self.well();
                Duration::from_millis(view.flow.spec.discovery_interval_ms)
            }
            Err((reason, message)) => {
                let failure = Failure::new(reason, message);
                if self.context.report.backoff(&failure) {
                    tracing::warn!(flow = %self.context.flow_id, %failure, "topics can't be kept in step");
                }
                let interval = Duration::from_millis(view.flow.spec.discovery_interval_ms);
                let wait = self.retry;
                self.retry = (wait * 2).min(interval).min(RETRY_MAX).max(RETRY_MIN);
                wait
            }
        }
    }

    /// Says that topics are in step. What the coordinator refused is a condition of its own there, each topic with its
    /// reason; a claim of another mesh is known only here.
    fn well(&self) {
        let Some((topic, (reason, message))) = self.claimed.first_key_value() else {
            self.context.report.running("");
            return;
        };
        let text = match self.claimed.len() {
            1 => message.clone(),
            count => format!("{message}; the same holds for {} more topics after {topic}", count - 1),
        };
        self.context.report.set(UnitState::Running, reason, &text, None);
    }

    /// Makes sure that the flow has a producer id; the first one that the Raft log takes is everybody's.
    async fn claim(&self) -> Result<(), Trouble> {
        if self.context.flow_changes.borrow().flow.generation.is_some() {
            return Ok(());
        }
        let at_least_once = self.context.flow_changes.borrow().flow.spec.at_least_once;
        let offered = match self.link.target.init_producer_id().await {
            Ok(id) => Generation { producer_id: id.producer_id, epoch: id.epoch },
            Err(error) if at_least_once && gives_no_ids(&error) => {
                tracing::warn!(flow = %self.context.flow_id, %error, "no producer id: mirroring at least once");
                // The time is a number that the flow did not have before, should it be made anew.
                Generation::unnumbered(now_ms())
            }
            Err(error) => return Err(no_producer_id(error)),
        };
        let taken = self
            .context
            .coordinator
            .claim_producer(&self.context.flow_id, offered)
            .await
            .map_err(|error| ("COORDINATOR_UNREACHABLE".to_owned(), error.to_string()))?;
        tracing::info!(flow = %self.context.flow_id, producer_id = taken.producer_id, epoch = taken.epoch, "producer id");
        Ok(())
    }

    /// Tells the coordinator what changed and remembers what it took.
    async fn tell(
        &mut self,
        found: BTreeMap<TopicName, TopicEntry>,
        gone: Vec<TopicName>,
    ) -> Result<(), Trouble> {
        let changed: Vec<TopicEntry> =
            found.values().filter(|entry| self.reported.get(&entry.topic) != Some(entry)).cloned().collect();
        // One that is gone, or that is again what was reported, is no trouble any more.
        self.refused.retain(|topic, _| changed.iter().any(|entry| entry.topic == *topic));
        if changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let (mut refused, mut shared) = (BTreeMap::<TopicName, Trouble>::new(), BTreeSet::new());
        for change in cut(changed, &gone) {
            let answer = self
                .context
                .coordinator
                .report_inventory(&self.context.flow_id, self.context.assigned.number, change)
                .await
                .map_err(|error| ("INVENTORY_REFUSED".to_owned(), error.to_string()))?;
            for RefusedTopic { topic, reason, message } in answer {
                if reason == HEARTBEATS_SHARED {
                    // No trouble: another flow mirrors them already. They are offered again with every scan.
                    shared.insert(topic);
                } else {
                    refused.insert(topic, (reason, message));
                }
            }
        }
        let news: Vec<Event> = refused
            .iter()
            .filter(|(topic, trouble)| self.said.get(*topic) != Some(trouble))
            .map(|(topic, (reason, message))| self.event(reason, message, topic))
            .collect();
        if !news.is_empty() {
            self.context.coordinator.report_events(news);
        }
        for topic in gone {
            self.reported.remove(&topic);
            self.said.remove(&topic);
        }
        self.said.extend(refused.clone());
        for (topic, entry) in found {
            if refused.contains_key(&topic) || shared.contains(&topic) {
                continue;
            }
            if let Some(known) = self.reported.get(&topic) {
                self.former.replace(known, &entry);
            }
            self.said.remove(&topic);
            self.reported.insert(topic, entry);
        }
        self.refused = refused;
        Ok(())
    }

    fn event(&self, reason: &str, message: &str, subject: &TopicName) -> Event {
        Event {
            flow: self.context.flow_id.clone(),
            time_ms: now_ms(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            subject: subject.to_string(),
            from_offset: None,
            to_offset: None,
            count: None,
            sequence: 0,
        }
    }
}

/// Cuts a report into parts that fit into a message and into an entry of the Raft log, however many topics appear at
/// once.
fn cut(topics: Vec<TopicEntry>, gone: &[TopicName]) -> Vec<InventoryChange> {
    let mut parts = vec![InventoryChange { removed_topics: gone.to_vec(), ..InventoryChange::default() }];
    let mut size = gone.len();
    for entry in topics {
        let more = 1 + entry.starts.len();
        if size > 0 && size + more > REPORT_MAX {
            parts.push(InventoryChange::default());
            size = 0;
        }
        size += more;
        if let Some(part) = parts.last_mut() {
            part.topics.push(entry);
        }
    }
    parts
}

/// The target's brokers don't know the request for a producer id, or refuse it to the flow.
fn gives_no_ids(error: &mirrormesh_kafka::Error) -> bool {
    let refused = [ErrorCode::CLUSTER_AUTHORIZATION_FAILED, ErrorCode::UNSUPPORTED_VERSION];
    matches!(error, mirrormesh_kafka::Error::Unsupported { .. })
        || error.code().is_some_and(|code| refused.contains(&code))
}

/// The target gave out no producer id. Without one a target can't refuse what it has already: nothing is sent there,
/// unless the flow says so.
pub(crate) fn no_producer_id(error: mirrormesh_kafka::Error) -> Trouble {
    if gives_no_ids(&error) {
        let message = format!(
            "the target's brokers give out no producer ids ({error}), so they can't tell a record that they have already: \
             nothing is mirrored there; take a target of Kafka 0.11 or later that has idempotent produce switched on, \
             grant the flow's user IdempotentWrite on the target cluster where it is refused, or set \
             records.at_least_once on the flow, under which records may be doubled"
        );
        return (TARGET_NOT_IDEMPOTENT.to_owned(), message);
    }
    unreachable(error)
}

/// A cluster that did not answer.
pub(crate) fn unreachable(error: mirrormesh_kafka::Error) -> Trouble {
    let failure = Failure::from(error);
    (failure.reason, failure.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::ids::TopicId;
    use mirrormesh_core::unit::PartitionStart;

    fn entry(name: &str, partitions: usize) -> TopicEntry {
        let topic = TopicName::new(name).unwrap();
        TopicEntry {
            target_topic: topic.clone(),
            topic,
            source_topic_id: TopicId::default(),
            target_topic_id: TopicId::default(),
            starts: vec![PartitionStart::default(); partitions],
            generations: BTreeMap::new(),
        }
    }

    #[test]
    fn many_topics_become_several_reports_and_none_is_lost() {
        let all: Vec<TopicEntry> = (0..5_000).map(|n| entry(&format!("t{n}"), 4)).collect();
        let gone = [TopicName::new("gone").unwrap()];
        let parts = cut(all.clone(), &gone);
        assert_eq!(parts.len(), 3);
        let size = |part: &InventoryChange| part.topics.iter().map(|t| 1 + t.starts.len()).sum::<usize>();
        assert!(parts.iter().all(|part| size(part) <= REPORT_MAX));
        assert_eq!(parts.iter().flat_map(|part| part.topics.clone()).collect::<Vec<_>>(), all);
        assert_eq!((parts[0].removed_topics.len(), parts[1].removed_topics.len()), (1, 0));
        let large = cut(vec![entry("a", 1), entry("b", 2 * REPORT_MAX), entry("c", 1)], &[]);
        assert_eq!(large.iter().map(|part| part.topics.len()).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn a_target_that_gives_out_no_producer_ids_is_named() {
        let (api, ours, theirs) = ("InitProducerId", "0 to 5".to_owned(), "nothing".to_owned());
        let error = mirrormesh_kafka::Error::Unsupported { broker: "hq:9092".into(), api, ours, theirs };
        let (reason, message) = no_producer_id(error);
        assert_eq!(reason, "TARGET_NOT_IDEMPOTENT");
        assert!(message.contains("hq:9092") && message.contains("InitProducerId"), "{message}");
        let code = ErrorCode::CLUSTER_AUTHORIZATION_FAILED;
        let refused = mirrormesh_kafka::Error::Broker { broker: "hq:9092".into(), api, code, message: None };
        let (reason, message) = no_producer_id(refused);
        assert_eq!(reason, "TARGET_NOT_IDEMPOTENT");
        assert!(
            message.contains("records.at_least_once") && message.contains("IdempotentWrite"),
            "{message}"
        );
        let other = mirrormesh_kafka::Error::Request { api, problem: "x".to_owned() };
        assert_eq!(no_producer_id(other).0, "INVALID_REQUEST");
    }
}
