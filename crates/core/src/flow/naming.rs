//! Replication policies: what a topic is called on the target, and which topics are never copied.
//!
//! The rules are MirrorMaker 2's (mm2-conformance 3.2, 3.3: `ReplicationPolicy`, `MirrorSourceConnector`).

use std::collections::BTreeMap;

use super::filter::{NameFilter, PatternError};
use super::spec::FlowSpec;
use crate::ids::{ClusterId, TopicName};

/// How topics are named on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// `{source}{separator}{topic}` (`DefaultReplicationPolicy`).
    Prefix {
        /// Between alias and topic.
        separator: String,
    },
    /// The same name (`IdentityReplicationPolicy`); heartbeat topics get the prefix all the same.
    Identity,
    /// By a map; unnamed topics keep their names.
    Rename(BTreeMap<String, String>),
}

const HEARTBEATS: &str = "heartbeats";

impl Naming {
    fn separator(&self) -> &str {
        match self {
            Self::Prefix { separator } => separator,
            Self::Identity | Self::Rename(_) => ".",
        }
    }

    /// Name on the target of a topic of `source`.
    pub fn target_topic(&self, source: &ClusterId, topic: &str) -> String {
        let prefixed = || format!("{source}{}{topic}", self.separator());
        match self {
            Self::Prefix { .. } => prefixed(),
            _ if topic.ends_with(HEARTBEATS) => prefixed(),
            Self::Identity => topic.to_owned(),
            Self::Rename(map) => map.get(topic).map_or_else(|| topic.to_owned(), Clone::clone),
        }
    }

    /// Alias in front of a remote topic's name, and the rest; `None` for a local topic.
    fn split<'a>(&self, topic: &'a str) -> Option<(&'a str, &'a str)> {
        match self {
            Self::Prefix { separator } => {
                topic.split_once(separator.as_str()).filter(|(_, rest)| !rest.is_empty())
            }
            Self::Identity | Self::Rename(_) if topic.ends_with(HEARTBEATS) => {
                topic.split_once('.').filter(|(_, rest)| !rest.is_empty())
            }
            Self::Identity | Self::Rename(_) => None,
        }
    }

    /// Copying the topic to `target` would bring data back to where it came from (`isCycle`).
    pub fn is_cycle(&self, target: &ClusterId, topic: &str) -> bool {
        let mut rest = topic;
        while let Some((alias, upstream)) = self.split(rest) {
            if alias == target.as_str() {
                return true;
            }
            rest = upstream;
        }
        false
    }

    /// The topic holds heartbeats of some cluster (`isHeartbeatsTopic`).
    pub fn is_heartbeats_topic(&self, topic: &str) -> bool {
        let mut rest = topic;
        while let Some((_, upstream)) = self.split(rest) {
            rest = upstream;
        }
        rest == HEARTBEATS
    }
}

/// Never copied (`isInternalTopic`): Kafka's own, MirrorMaker 2's and ours.
pub fn is_internal_topic(topic: &str, separator: &str) -> bool {
    topic.starts_with("__")
        || topic.starts_with('.')
        || topic.ends_with("-internal")
        || topic.ends_with(".internal")
        || topic.ends_with(&format!("{separator}internal"))
}

/// A flow's rules about topics, compiled.
#[derive(Debug, Clone)]
pub struct TopicRules {
    filter: NameFilter,
    naming: Naming,
    source: ClusterId,
    target: ClusterId,
    heartbeat_topics: bool,
}

impl TopicRules {
    /// Compiles the patterns of a specification.
    pub fn new(spec: &FlowSpec) -> Result<Self, PatternError> {
        Ok(Self {
            filter: NameFilter::new(&spec.topics_include, &spec.topics_exclude)?,
            naming: spec.naming.clone(),
            source: spec.source.clone(),
            target: spec.target.clone(),
            heartbeat_topics: spec.heartbeat_topics,
        })
    }

    /// Name on the target, if the topic is to be copied.
    pub fn target_of(&self, topic: &str) -> Option<TopicName> {
        let heartbeats = self.heartbeat_topics && self.naming.is_heartbeats_topic(topic);
        let selected = (self.filter.matches(topic) || heartbeats)
            && !is_internal_topic(topic, self.naming.separator())
            && !self.naming.is_cycle(&self.target, topic);
        if !selected {
            return None;
        }
        TopicName::new(self.naming.target_topic(&self.source, topic)).ok()
    }

    /// Name on the target for an offset of this topic, whether or not the name is valid or copied; for checkpoints,
    /// which also speak about topics that came from the target (mm2-conformance 3.11, step 4).
    pub fn checkpoint_topic(&self, topic: &str) -> String {
        match self.naming.split(topic) {
            Some((alias, upstream)) if alias == self.target.as_str() => upstream.to_owned(),
            _ => self.naming.target_topic(&self.source, topic),
        }
    }

    /// The selection alone, as checkpoints use it.
    pub fn selects(&self, topic: &str) -> bool {
        self.filter.matches(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(id: &str) -> ClusterId {
        ClusterId::new(id).unwrap()
    }

    fn prefix() -> Naming {
        Naming::Prefix { separator: ".".into() }
    }

    #[test]
    fn prefix_names_and_cycles_as_mm2() {
        let n = prefix();
        assert_eq!(n.target_topic(&cluster("a"), "x"), "a.x");
        // mm2-conformance 3.3: refused, then accepted.
        for topic in ["target.x", "target.source.x", "source.target.x"] {
            assert!(n.is_cycle(&cluster("target"), topic), "{topic}");
        }
        for topic in ["x", "source.x", "other.x"] {
            assert!(!n.is_cycle(&cluster("target"), topic), "{topic}");
        }
        assert!(!n.is_cycle(&cluster("a"), "a."), "`a.` has no source");
    }

    #[test]
    fn identity_keeps_names_but_for_heartbeats() {
        let n = Naming::Identity;
        assert_eq!(n.target_topic(&cluster("a"), "x"), "x");
        assert_eq!(n.target_topic(&cluster("a"), "heartbeats"), "a.heartbeats");
        assert!(n.is_heartbeats_topic("b.a.heartbeats"));
        assert!(!n.is_heartbeats_topic("my-heartbeats"));
        assert!(n.is_cycle(&cluster("b"), "b.heartbeats"));
        assert!(!n.is_cycle(&cluster("b"), "b.x"));
    }

    #[test]
    fn rules_select_name_and_leave_out_internal_topics() {
        let mut spec = FlowSpec::new(cluster("uk"), cluster("hq"));
        spec.topics_include = vec![".*".into()];
        let rules = TopicRules::new(&spec).unwrap();
        assert_eq!(rules.target_of("orders").unwrap().as_str(), "uk.orders");
        assert_eq!(rules.target_of("heartbeats").unwrap().as_str(), "uk.heartbeats");
        for topic in
            ["__consumer_offsets", "hq.orders", "mm2-offset-syncs.hq.internal", "a-internal", "x.replica"]
        {
            assert!(rules.target_of(topic).is_none(), "{topic}");
        }
        assert_eq!(rules.checkpoint_topic("hq.orders"), "orders");
        assert_eq!(rules.checkpoint_topic("orders"), "uk.orders");
    }
}
