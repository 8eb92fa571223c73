//! A validated flow specification: every default is filled in.
//!
//! Owns the defaults and the rules between fields; where text enters, `mirrormesh-proto` names the field at fault.

use super::filter::{NameFilter, PatternError};
use super::naming::Naming;
use super::{DEFAULT_GROUPS_EXCLUDE, DEFAULT_TOPICS_EXCLUDE};
use std::collections::BTreeMap;

use crate::ids::{ClusterId, TopicName};
use crate::throttle::Throttle;

/// Where a partition that was never mirrored begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The first record that the source still has.
    Earliest,
    /// The end of the source partition.
    Latest,
    /// The first record with this timestamp in ms or a later one.
    Timestamp(i64),
}

/// What to do when records are lost or the histories of the clusters part: retention overrun, truncation, a topic made
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LossPolicy {
    /// Stop the partition until somebody acts.
    #[default]
    StopPartition,
    /// Record the event and go on behind the loss.
    Continue,
}

/// What to do with a record that is larger than the target takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OversizedPolicy {
    /// Stop the partition until somebody acts.
    #[default]
    StopPartition,
    /// Leave it out, with an event that names it.
    Skip,
}

/// What to do with timestamps that the target would refuse (`message.timestamp.before.max.ms`, `.after.max.ms`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimestampPolicy {
    /// Stop the partition: timestamps are part of the content.
    #[default]
    Keep,
    /// Move them to the nearest one that the target takes.
    Clamp,
}

/// What a flow copies and how.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the user's, each with a name in the API"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowSpec {
    /// Cluster to copy from.
    pub source: ClusterId,
    /// Cluster to copy to.
    pub target: ClusterId,
    /// Patterns of topics to copy.
    pub topics_include: Vec<String>,
    /// Patterns of topics not to copy.
    pub topics_exclude: Vec<String>,
    /// Patterns of groups to translate.
    pub groups_include: Vec<String>,
    /// Patterns of groups not to translate.
    pub groups_exclude: Vec<String>,
    /// How topics are named on the target.
    pub naming: Naming,
    /// Where a partition that was never mirrored begins.
    pub start: StartAt,
    /// Copy records at all.
    pub records_enabled: bool,
    /// Copy aborted and open transactional records too.
    pub read_uncommitted: bool,
    /// Copy heartbeat topics, whatever the patterns say (KIP-1089).
    pub heartbeat_topics: bool,
    /// Write checkpoints.
    pub checkpoints_enabled: bool,
    /// How often, in ms.
    pub checkpoint_interval_ms: u64,
    /// Write heartbeats.
    pub heartbeats_enabled: bool,
    /// How often, in ms.
    pub heartbeat_interval_ms: u64,
    /// Replication factor of mirrored topics; `None` is the broker's default.
    pub replication_factor: Option<i16>,
    /// Replication factor of internal topics; `None` is the smaller of 3 and the number of brokers.
    pub internal_replication_factor: Option<i16>,
    /// How often to look for topics and groups, in ms.
    pub discovery_interval_ms: u64,
    /// Another flow may write the same target topics.
    pub shared_target: bool,
    /// What to do when records are lost.
    pub on_loss: LossPolicy,
    /// The same for single source topics.
    pub on_loss_by_topic: BTreeMap<TopicName, LossPolicy>,
    /// What to do with records that are too large.
    pub on_oversized: OversizedPolicy,
    /// What to do with timestamps that the target refuses.
    pub timestamps: TimestampPolicy,
    /// Records that can't be mirrored exactly once wait, in place of being mirrored with doubles detected.
    pub require_exactly_once: bool,
    /// Options of an earlier version that the flow was stored with. An update of the flow clears them.
    pub retired: RetiredOptions,
    /// Leave out what any flow mirrored to the source, not only what came from this flow's target.
    pub skip_mirrored: bool,
    /// Go on where another mesh stopped, on target topics that it claims.
    pub adopt: bool,
    /// How fast records are copied at most, over all workers.
    pub throttle: Throttle,
    /// The same for single source topics, beside the flow's.
    pub throttle_by_topic: BTreeMap<TopicName, Throttle>,
}

/// Options that earlier versions had and that have no effect any more. The flow's status names those that were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetiredOptions {
    /// `records.strict_delivery`: markers before batches. Such a flow runs with `require_exactly_once`.
    pub strict_delivery: bool,
    /// `records.at_least_once`: targets that give out no producer ids. Such a target gets no record any more.
    pub at_least_once: bool,
}

/// Name of the positions topic of all flows from a source, on their targets.
pub fn positions_topic(source: &ClusterId) -> String {
    format!("mirrormesh-positions.{source}.internal")
}

/// Is this the name of a positions topic, of whatever source?
pub fn is_positions_topic(name: &str) -> bool {
    name.strip_prefix("mirrormesh-positions.").is_some_and(|rest| rest.ends_with(".internal"))
}

impl FlowSpec {
    /// A flow with all defaults.
    pub fn new(source: ClusterId, target: ClusterId) -> Self {
        let own = |list: [&str; 3]| list.iter().map(|&s| s.to_owned()).collect();
        Self {
            source,
            target,
            topics_include: vec![".*".to_owned()],
            topics_exclude: own(DEFAULT_TOPICS_EXCLUDE),
            groups_include: vec![".*".to_owned()],
            groups_exclude: own(DEFAULT_GROUPS_EXCLUDE),
            naming: Naming::Prefix { separator: ".".to_owned() },
            start: StartAt::Earliest,
            records_enabled: true,
            read_uncommitted: false,
            heartbeat_topics: true,
            checkpoints_enabled: true,
            checkpoint_interval_ms: 5_000,
            heartbeats_enabled: true,
            heartbeat_interval_ms: 1_000,
            replication_factor: None,
            internal_replication_factor: None,
            discovery_interval_ms: 5_000,
            shared_target: false,
            on_loss: LossPolicy::default(),
            on_loss_by_topic: BTreeMap::new(),
            on_oversized: OversizedPolicy::default(),
            timestamps: TimestampPolicy::default(),
            require_exactly_once: false,
            retired: RetiredOptions::default(),
            skip_mirrored: false,
            adopt: false,
            throttle: Throttle::NONE,
            throttle_by_topic: BTreeMap::new(),
        }
    }

    /// What to do when records of a source topic are lost.
    pub fn loss_policy(&self, topic: &TopicName) -> LossPolicy {
        self.on_loss_by_topic.get(topic).copied().unwrap_or(self.on_loss)
    }

    /// The rules about groups, compiled.
    pub fn group_filter(&self) -> Result<NameFilter, PatternError> {
        NameFilter::new(&self.groups_include, &self.groups_exclude)
    }

    /// `{source}.checkpoints.internal`, with the flow's separator.
    pub fn checkpoints_topic(&self) -> String {
        let separator = match &self.naming {
            Naming::Prefix { separator } => separator.as_str(),
            Naming::Identity | Naming::Rename(_) => ".",
        };
        format!("{}{separator}checkpoints{separator}internal", self.source)
    }

    /// `mirrormesh-positions.{source}.internal` on the target.
    pub fn positions_topic(&self) -> String {
        positions_topic(&self.source)
    }

    /// Could a record of the two flows land in the same target topic? Only what is certain from the specifications
    /// counts: equal or all-matching patterns under naming that does not keep them apart. What only shows when
    /// topics are found is refused then (`TARGET_TOPIC_CONFLICT`).
    pub fn surely_overlaps(&self, other: &Self) -> bool {
        if self.target != other.target || !self.records_enabled || !other.records_enabled {
            return false;
        }
        let names_collide = match (&self.naming, &other.naming) {
            (Naming::Prefix { separator: a }, Naming::Prefix { separator: b }) => {
                a == b && self.source == other.source
            }
            (Naming::Identity, Naming::Identity) => true,
            (Naming::Rename(a), Naming::Rename(b)) => a == b,
            _ => false,
        };
        let all = |spec: &Self| spec.topics_include.iter().any(|p| p == ".*");
        names_collide
            && (all(self)
                || all(other)
                || self.topics_include.iter().any(|pattern| other.topics_include.contains(pattern)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(source: &str, target: &str) -> FlowSpec {
        FlowSpec::new(ClusterId::new(source).unwrap(), ClusterId::new(target).unwrap())
    }

    #[test]
    fn internal_names() {
        assert_eq!(spec("uk", "hq").checkpoints_topic(), "uk.checkpoints.internal");
        assert_eq!(spec("uk", "hq").positions_topic(), "mirrormesh-positions.uk.internal");
    }

    #[test]
    fn overlap_is_seen_where_it_is_certain() {
        assert!(spec("uk", "hq").surely_overlaps(&spec("uk", "hq")));
        assert!(!spec("uk", "hq").surely_overlaps(&spec("us", "hq")), "prefixes keep them apart");
        let identity = |source: &str, include: &str| FlowSpec {
            naming: Naming::Identity,
            topics_include: vec![include.to_owned()],
            ..spec(source, "hq")
        };
        assert!(identity("uk", "orders.*").surely_overlaps(&identity("us", "orders.*")));
        assert!(identity("uk", ".*").surely_overlaps(&identity("us", "orders.*")));
        assert!(!identity("uk", "a").surely_overlaps(&identity("us", "b")));
    }
}
