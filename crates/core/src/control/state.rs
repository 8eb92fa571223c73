//! The replicated state: data only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::topic_pause::TopicPause;
use crate::flow::FlowSpec;
use crate::ids::{ClusterId, FlowId, GroupId, TopicId, TopicName, WorkerId};
use crate::report::Event;
use crate::unit::{ClusterSpec, Generation, Owner, PartitionGeneration, PartitionStart, Unit, WorkerRecord};

/// Events kept over all flows; the oldest go first.
pub const EVENTS_MAX: usize = 2_000;
/// Answered request ids kept; the oldest go first.
pub const REQUESTS_MAX: usize = 1_000;
/// Deleted flows of which the place is kept.
pub const RETIRED_MAX: usize = 200;

/// A cluster with what the mesh knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    /// How to reach it.
    pub spec: ClusterSpec,
    /// Created, ms since 1970.
    pub created_ms: u64,
    /// Last changed, ms since 1970.
    pub updated_ms: u64,
    /// Revision of the last change; the etag.
    pub revision: u64,
}

/// One topic in a flow's inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicEntry {
    /// Name on the source.
    pub topic: TopicName,
    /// Name on the target.
    pub target_topic: TopicName,
    /// Topic id on the source.
    pub source_topic_id: TopicId,
    /// Topic id on the target.
    pub target_topic_id: TopicId,
    /// Where the mirror of each partition begins. Entries once stored stay as they are: every worker must count
    /// from the same place.
    pub starts: Vec<PartitionStart>,
    /// Partitions that began a generation of their own; the others use the flow's and `starts`.
    pub generations: BTreeMap<i32, PartitionGeneration>,
    /// First source offsets of the partitions in `starts`, where those begin elsewhere (`start` of the flow): for
    /// partitions that appeared after the flow had looked at its source. Only reported, never stored.
    pub earliest: Vec<i64>,
}

/// A source topic, and how many partitions it had when it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenTopic {
    /// The topic.
    pub topic: TopicName,
    /// Its partitions.
    pub partitions: i32,
    /// The flow selects it.
    pub selected: bool,
}

/// Which topics a flow did not see appear: they were there at its first look, or while it did not select them. Their
/// partitions begin where `start` says; all others begin at their first record, so that no early record is missed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenTopics {
    /// Partitions by source topic.
    pub topics: BTreeMap<TopicName, i32>,
    /// The first look is complete.
    pub complete: bool,
}

impl SeenTopics {
    /// Takes a report. Until the first look is complete, all that is there was there before. Later only what is not
    /// selected counts: a selected topic that appears is mirrored from its first record. True if anything changed.
    pub(super) fn take(&mut self, seen: &[SeenTopic], complete: bool) -> bool {
        let mut changed = false;
        for SeenTopic { topic, partitions, selected } in seen {
            // A broker that does not know the topic's partitions for now tells of none.
            let counts = *partitions > 0 && (!self.complete || !selected);
            if counts && self.topics.get(topic) != Some(partitions) {
                self.topics.insert(topic.clone(), *partitions);
                changed = true;
            }
        }
        changed |= complete && !self.complete;
        self.complete |= complete;
        changed
    }

    /// Was this partition there before?
    pub(super) fn holds(&self, topic: &TopicName, partition: usize) -> bool {
        let partitions = self.topics.get(topic).copied().unwrap_or(0);
        usize::try_from(partitions).is_ok_and(|partitions| partition < partitions)
    }
}

/// A flow with what the mesh knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// What to copy and how.
    pub spec: FlowSpec,
    /// It is to be paused.
    pub paused: bool,
    /// Its producer identity; absent until one was claimed.
    pub generation: Option<Generation>,
    /// Created, ms since 1970.
    pub created_ms: u64,
    /// Last changed by a user, ms since 1970.
    pub updated_ms: u64,
    /// Revision of the last change by a user; the etag.
    pub revision: u64,
    /// Topics by source name.
    pub topics: BTreeMap<TopicName, TopicEntry>,
    /// Topics that are not mirrored any more, by source name: selected again, they go on where they were.
    pub dropped: BTreeMap<TopicName, TopicEntry>,
    /// Groups.
    pub groups: BTreeSet<GroupId>,
    /// Number of its last event.
    pub event_sequence: u64,
    /// Topics that are paused, in whole or in part.
    pub paused_topics: BTreeMap<TopicName, TopicPause>,
    /// Topics whose partitions begin where `start` says, of a flow that does not begin at the earliest records.
    pub seen: SeenTopics,
}

/// What is kept of a deleted flow, so that the same flow goes on where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredFlow {
    /// Its id.
    pub id: FlowId,
    /// What it copied and how.
    pub spec: FlowSpec,
    /// Its producer identity.
    pub generation: Option<Generation>,
    /// Its topics.
    pub topics: BTreeMap<TopicName, TopicEntry>,
    /// Topics that were not mirrored any more.
    pub dropped: BTreeMap<TopicName, TopicEntry>,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// Its id.
    pub request_id: String,
    /// What it was.
    pub fingerprint: u64,
    /// Revision after it.
    pub revision: u64,
}

/// Everything the coordinators agree on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ControlState {
    /// Grows with every change.
    pub revision: u64,
    /// What tells this mesh from others that use the same clusters; fixed once, empty before.
    pub mesh_id: String,
    /// Number given to the last assignment.
    pub assignment_number: u64,
    /// Number given to the last session.
    pub session_number: u64,
    /// All clusters.
    pub clusters: BTreeMap<ClusterId, ClusterRecord>,
    /// All flows.
    pub flows: BTreeMap<FlowId, FlowRecord>,
    /// What is kept of deleted flows, oldest first.
    pub retired: VecDeque<RetiredFlow>,
    /// All workers with an open session.
    pub workers: BTreeMap<WorkerId, WorkerRecord>,
    /// Who runs what.
    pub owners: BTreeMap<Unit, Owner>,
    /// Events, oldest first.
    pub events: VecDeque<Event>,
    /// Answered request ids, oldest first.
    pub requests: VecDeque<RequestRecord>,
}
