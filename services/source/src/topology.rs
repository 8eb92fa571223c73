//! The topology unit: finds a flow's topics, keeps the target's topics in step, tells the coordinator.
//!
//! Owns creation and growth of target topics and the choice of where mirroring begins; nothing is ever deleted or
//! shrunk, and no broker is left to create a topic by itself.

mod claims;
mod incarnations;
mod loops;
mod postponed;
mod scan;
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::control::{HEARTBEATS_SHARED, InventoryChange, SeenTopic, TopicEntry};
use mirrormesh_core::flow::{FlowSpec, StartAt, Surprises, TopicRules};
use mirrormesh_core::ids::{ClusterId, TopicName};
use mirrormesh_core::report::{Event, UnitState};
use mirrormesh_core::unit::Generation;
use mirrormesh_kafka::{Backoff, ErrorCode};
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_runtime::trace_context::follow;
use mirrormesh_worker::{Failure, RefusedTopic, UnitContext};

use tracing::{Instrument as _, Span};

use crate::link::FlowLink;
use incarnations::FormerIds;
use loops::Loops;
use postponed::Postponed;

/// The target gives out no producer ids.
const TARGET_NOT_IDEMPOTENT: &str = "TARGET_NOT_IDEMPOTENT";
/// Topics and partitions in one report at most; one topic with more partitions goes alone.
const REPORT_MAX: usize = 10_000;
/// The flow selects no topic.
const NO_TOPIC_SELECTED: &str = "NO_TOPIC_SELECTED";
/// A topic that the user named is left out by a rule that the patterns don't show.
const TOPIC_LEFT_OUT: &str = "TOPIC_LEFT_OUT";
/// Two source topics would have one target topic.
const TARGET_TOPIC_CONFLICT: &str = "TARGET_TOPIC_CONFLICT";
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
    /// Source topics that are there now.
    present: Vec<SeenTopic>,
    /// Those that were reported: partitions, and whether the flow selects them. `None` before the first report.
    seen: Option<BTreeMap<TopicName, (i32, bool)>>,
    /// Topics that the coordinator did not take, with why; they are offered again with every scan.
    refused: BTreeMap<TopicName, Trouble>,
    /// Topics that another mesh has, with why they are left alone.
    claimed: BTreeMap<TopicName, Trouble>,
    /// Refusals that an event was recorded for: one that comes again, or goes and comes, is said once.
    said: BTreeMap<TopicName, Trouble>,
    /// What the user may not expect of the selection.
    surprises: Surprises,
    /// What brokers that lag behind may still say.
    former: FormerIds,
    /// Target topics that could not be created or grown.
    postponed: Postponed,
    /// Topics that came from the target.
    loops: Loops,
    /// The rules about topics, with the flow and the clusters of the mesh that they were made from.
    rules: Option<(FlowSpec, BTreeSet<ClusterId>, Arc<TopicRules>)>,
    /// Pauses after failures.
    retry: Backoff,
}

/// Runs the unit until it is asked to stop.
pub(crate) async fn run(context: UnitContext, link: Arc<FlowLink>) {
    let mut topology = Topology {
        present: Vec::new(),
        seen: None,
        context,
        link,
        reported: BTreeMap::new(),
        refused: BTreeMap::new(),
        claimed: BTreeMap::new(),
        said: BTreeMap::new(),
        surprises: Surprises::default(),
        former: FormerIds::default(),
        postponed: Postponed::default(),
        loops: Loops::default(),
        rules: None,
        retry: Backoff::new(RETRY_MIN, RETRY_MAX),
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
                self.context.trace = None;
                self.retry.reset();
                self.well();
                Duration::from_millis(view.flow.spec.discovery_interval_ms)
            }
            Err((reason, message)) => {
                let failure = Failure::new(reason, message);
                if self.context.report.backoff(&failure) {
                    tracing::warn!(flow = %self.context.flow_id, %failure, "topics can't be kept in step");
                }
                let interval = Duration::from_millis(view.flow.spec.discovery_interval_ms);
                self.retry.delay().min(interval)
            }
        }
    }

    /// Says that topics are in step. What the coordinator refused is a condition of its own there, each topic with its
    /// reason; what else is left out is known only here.
    fn well(&self) {
        let (reason, text) = summary(&self.surprises, &self.claimed);
        if reason.is_empty() {
            self.context.report.running("");
        } else {
            self.context.report.set(UnitState::Running, &reason, &text, None);
        }
    }

    /// Makes sure that the flow has a producer id; the first one that the Raft log takes is everybody's.
    async fn claim(&self) -> Result<(), Trouble> {
        if self.context.flow_changes.borrow().flow.generation.is_some() {
            return Ok(());
        }
        let offered = match self.link.target.init_producer_id().await {
            Ok(id) => Generation { producer_id: id.producer_id, epoch: id.epoch },
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

    /// Tells the coordinator which source topics are there, before any is created on the target: their partitions begin where
    /// `start` says, however often creation fails and whoever owns the unit. A flow from the earliest records needs none of it.
    async fn tell_seen(&mut self, spec: &FlowSpec) -> Result<(), Trouble> {
        if spec.start == StartAt::Earliest {
            return Ok(());
        }
        let now: BTreeMap<TopicName, (i32, bool)> =
            self.present.iter().map(|seen| (seen.topic.clone(), (seen.partitions, seen.selected))).collect();
        let is_new = |seen: &&SeenTopic| {
            let known = self.seen.as_ref().and_then(|known| known.get(&seen.topic));
            known != Some(&(seen.partitions, seen.selected))
        };
        let seen: Vec<SeenTopic> = self.present.iter().filter(is_new).cloned().collect();
        if seen.is_empty() && self.seen.is_some() {
            return Ok(());
        }
        let change = InventoryChange { seen, seen_all: true, ..InventoryChange::default() };
        let number = self.context.assigned.number;
        let reported = self.context.coordinator.report_inventory(&self.context.flow_id, number, change).await;
        reported.map_err(|error| ("INVENTORY_REFUSED".to_owned(), error.to_string()))?;
        self.seen = Some(now);
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
            self.reported.insert(topic, TopicEntry { earliest: Vec::new(), ..entry });
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

/// What the unit says of a look that went well: nothing selected, or the first of the topics that are left out against
/// what the user expects. Empty if there is neither.
fn summary(surprises: &Surprises, claimed: &BTreeMap<TopicName, Trouble>) -> Trouble {
    if let Some(message) = &surprises.nothing_selected {
        return (NO_TOPIC_SELECTED.to_owned(), message.clone());
    }
    let mut topics: BTreeMap<&TopicName, (&str, &str)> = BTreeMap::new();
    topics.extend(surprises.left_out.iter().map(|(topic, (reason, text))| {
        let reason = if *reason == TARGET_TOPIC_CONFLICT { *reason } else { TOPIC_LEFT_OUT };
        (topic, (reason, text.as_str()))
    }));
    topics.extend(claimed.iter().map(|(topic, (reason, text))| (topic, (&**reason, &**text))));
    let Some((topic, (reason, text))) = topics.first_key_value() else { return Trouble::default() };
    let more = match topics.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more topics: PreviewFlowTopics lists them)"),
    };
    ((*reason).to_owned(), format!("{topic}: {text}{more}"))
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

/// The target gave out no producer id. Without one it can't refuse a record that it has already: nothing is sent there.
pub(crate) fn no_producer_id(error: mirrormesh_kafka::Error) -> Trouble {
    if gives_no_ids(&error) {
        let message = format!(
            "the target's brokers give out no producer ids ({error}), so they can't tell a record that they have already: \
             nothing is mirrored there; take a target of Kafka 0.11 or later that has idempotent produce switched on, or \
             grant the flow's user IdempotentWrite on the target cluster where it is refused"
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
            earliest: Vec::new(),
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
    fn a_look_says_the_first_thing_that_is_amiss() {
        let trouble = |reason: &str| (reason.to_owned(), "why".to_owned());
        let topic = |name: &str| TopicName::new(name).unwrap();
        let none = BTreeMap::new();
        assert_eq!(summary(&Surprises::default(), &none), Trouble::default());
        let mut surprises = Surprises::default();
        surprises.left_out.insert(topic("b"), ("LOOP", "named".to_owned()));
        let left_out = summary(&surprises, &none);
        assert_eq!(left_out, ("TOPIC_LEFT_OUT".to_owned(), "b: named".to_owned()), "no count of nothing");
        let other = BTreeMap::from([(topic("a"), trouble("FLOW_CLAIMED"))]);
        let (reason, text) = summary(&surprises, &other);
        assert_eq!(reason, "FLOW_CLAIMED");
        assert!(text.starts_with("a: why (and 1 more topics"), "{text}");
        // One topic is counted once, whoever has something to say about it.
        let claimed = BTreeMap::from([(topic("b"), trouble("FLOW_CLAIMED"))]);
        assert_eq!(summary(&surprises, &claimed), ("FLOW_CLAIMED".to_owned(), "b: why".to_owned()));
        surprises.nothing_selected = Some("nothing".to_owned());
        assert_eq!(summary(&surprises, &claimed), trouble_of("NO_TOPIC_SELECTED", "nothing"));
    }

    fn trouble_of(reason: &str, text: &str) -> Trouble {
        (reason.to_owned(), text.to_owned())
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
        assert!(message.contains("IdempotentWrite") && message.contains("Kafka 0.11"), "{message}");
        let other = mirrormesh_kafka::Error::Request { api, problem: "x".to_owned() };
        assert_eq!(no_producer_id(other).0, "INVALID_REQUEST");
    }
}
