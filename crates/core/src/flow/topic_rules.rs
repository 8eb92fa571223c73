//! A flow's rules about topics: which are copied, and what they are called on the target.
//!
//! The rules are MirrorMaker 2's (`ReplicationPolicy`, `MirrorSourceConnector`).

use std::collections::BTreeSet;

use super::filter::{NameFilter, PatternError};
use super::naming::{Naming, heartbeat_hop, is_heartbeats, is_internal_topic};
use super::spec::FlowSpec;
use crate::ids::{ClusterId, TopicName};

/// A flow's rules about topics, compiled.
#[derive(Debug, Clone)]
pub struct TopicRules {
    filter: NameFilter,
    naming: Naming,
    source: ClusterId,
    target: ClusterId,
    heartbeat_topics: bool,
    clusters: BTreeSet<ClusterId>,
}

impl TopicRules {
    /// Compiles the patterns of a specification. The ids of the mesh's clusters are those that may stand before
    /// `heartbeats` in the name of a heartbeat topic; the flow's own two always may.
    pub fn new(spec: &FlowSpec, clusters: &BTreeSet<ClusterId>) -> Result<Self, PatternError> {
        let own = [spec.source.clone(), spec.target.clone()];
        Ok(Self {
            filter: NameFilter::new(&spec.topics_include, &spec.topics_exclude)?,
            naming: spec.naming.clone(),
            source: spec.source.clone(),
            target: spec.target.clone(),
            heartbeat_topics: spec.heartbeat_topics,
            clusters: clusters.iter().cloned().chain(own).collect(),
        })
    }

    /// Name on the target, if the name alone does not keep the topic from being mirrored.
    pub fn target_of(&self, topic: &str) -> Option<TopicName> {
        self.choose_by_name(topic).ok()
    }

    /// Name on the target for an offset of this topic, whether or not the name is valid or copied; for checkpoints,
    /// which also speak about topics that came from the target.
    pub fn checkpoint_topic(&self, topic: &str) -> String {
        let upstream = match self.heartbeat_hop(topic) {
            Some((cluster, upstream)) if self.is_heartbeats_topic(topic) => {
                Some((cluster.as_str(), upstream))
            }
            _ => self.naming.split(topic),
        };
        match upstream {
            Some((alias, upstream)) if alias == self.target.as_str() => upstream.to_owned(),
            _ => self.target_topic(topic),
        }
    }

    /// The selection alone, as checkpoints use it.
    pub fn selects(&self, topic: &str) -> bool {
        self.filter.matches(topic)
    }

    /// The patterns.
    pub(super) fn filter(&self) -> &NameFilter {
        &self.filter
    }

    /// The cluster to copy to.
    pub(super) fn target(&self) -> &ClusterId {
        &self.target
    }

    /// Never copied, whatever the patterns say.
    pub(super) fn is_internal(&self, topic: &str) -> bool {
        is_internal_topic(topic, self.naming.separator())
    }

    /// Copied without being selected.
    pub(super) fn passes_as_heartbeats(&self, topic: &str) -> bool {
        self.heartbeat_topics && self.is_heartbeats_topic(topic)
    }

    /// Name on the target of a topic of the source.
    pub(super) fn target_topic(&self, topic: &str) -> String {
        let prefixed = || format!("{}{}{topic}", self.source, self.naming.separator());
        match &self.naming {
            Naming::Prefix { .. } => prefixed(),
            _ if self.is_heartbeats_topic(topic) => prefixed(),
            Naming::Identity => topic.to_owned(),
            Naming::Rename(map) => map.get(topic).map_or_else(|| topic.to_owned(), Clone::clone),
        }
    }

    fn is_heartbeats_topic(&self, topic: &str) -> bool {
        is_heartbeats(&self.clusters, self.naming.separator(), topic)
    }

    fn heartbeat_hop<'a>(&self, topic: &'a str) -> Option<(&ClusterId, &'a str)> {
        heartbeat_hop(&self.clusters, self.naming.separator(), topic)
    }

    /// Copying the topic would bring data back to where it came from, as far as names tell (`isCycle`).
    pub(super) fn is_cycle(&self, topic: &str) -> bool {
        let is_heartbeats = self.is_heartbeats_topic(topic);
        let mut rest = topic;
        while let Some((alias, upstream)) = match self.heartbeat_hop(rest) {
            Some((cluster, upstream)) if is_heartbeats => Some((cluster.as_str(), upstream)),
            _ => self.naming.split(rest),
        } {
            if alias == self.target.as_str() {
                return true;
            }
            rest = upstream;
        }
        false
    }
}

impl FlowSpec {
    /// The rules about topics, compiled, in a mesh that has these clusters.
    pub fn topic_rules(&self, clusters: &BTreeSet<ClusterId>) -> Result<TopicRules, PatternError> {
        TopicRules::new(self, clusters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn cluster(id: &str) -> ClusterId {
        ClusterId::new(id).unwrap()
    }

    /// The rules of a flow from `source` to `target` in a mesh that has a third cluster, `us`.
    fn rules(source: &str, target: &str, naming: Naming) -> TopicRules {
        let spec = FlowSpec {
            naming,
            topics_include: vec![".*".into()],
            ..FlowSpec::new(cluster(source), cluster(target))
        };
        TopicRules::new(&spec, &BTreeSet::from([cluster("us"), cluster("us-west")])).unwrap()
    }

    fn prefix(separator: &str) -> Naming {
        Naming::Prefix { separator: separator.into() }
    }

    #[test]
    fn prefix_names_and_cycles_as_mm2() {
        let rules = rules("source", "target", prefix("."));
        assert_eq!(rules.target_topic("x"), "source.x");
        // Refused, then accepted.
        for topic in ["target.x", "target.source.x", "source.target.x"] {
            assert!(rules.is_cycle(topic), "{topic}");
        }
        for topic in ["x", "source.x", "other.x", "target."] {
            assert!(!rules.is_cycle(topic), "{topic}");
        }
    }

    #[test]
    fn identity_keeps_names_but_for_heartbeats() {
        let rules = rules("a", "b", Naming::Identity);
        for (topic, target) in [
            ("x", "x"),
            ("heartbeats", "a.heartbeats"),
            ("us.heartbeats", "a.us.heartbeats"),
            ("us-west.us.heartbeats", "a.us-west.us.heartbeats"),
        ] {
            assert_eq!(rules.target_of(topic).unwrap().as_str(), target);
        }
        assert!(rules.is_cycle("b.heartbeats") && rules.is_cycle("us.b.heartbeats"));
        assert!(!rules.is_cycle("b.x"));
        assert_eq!(rules.checkpoint_topic("b.heartbeats"), "heartbeats");
    }

    #[test]
    fn only_cluster_ids_before_heartbeats_make_it_special() {
        let topics = [
            "device-heartbeats",
            "heartbeats-raw",
            "hq.device-heartbeats",
            "other.heartbeats",
            "us.other.heartbeats",
            "usheartbeats",
            "us.Heartbeats",
        ];
        let rename = Naming::Rename(BTreeMap::from([("device-heartbeats".into(), "devices".into())]));
        for topic in topics {
            let identity = rules("uk", "hq", Naming::Identity);
            assert_eq!(identity.target_of(topic).unwrap().as_str(), topic);
            assert_eq!(identity.checkpoint_topic(topic), topic);
            let renamed = rules("uk", "hq", rename.clone()).target_of(topic).unwrap();
            assert_eq!(renamed.as_str(), if topic == "device-heartbeats" { "devices" } else { topic });
        }
        // With prefixes a name still tells where a topic came from, whatever follows.
        assert!(rules("uk", "hq", prefix(".")).target_of("hq.device-heartbeats").is_none());
    }

    #[test]
    fn heartbeat_topics_pass_whatever_the_patterns_say() {
        let mut spec = FlowSpec::new(cluster("uk"), cluster("hq"));
        spec.topics_include = vec!["orders".into()];
        spec.naming = prefix("-");
        let known = BTreeSet::from([cluster("us"), cluster("us-west")]);
        let rules = TopicRules::new(&spec, &known).unwrap();
        for topic in ["heartbeats", "us-heartbeats", "us-west-heartbeats", "us-us-west-heartbeats"] {
            assert_eq!(rules.target_of(topic).unwrap().as_str(), format!("uk-{topic}"));
        }
        for topic in ["device-heartbeats", "us.heartbeats", "hq-heartbeats", "west-heartbeats"] {
            assert!(rules.target_of(topic).is_none(), "{topic}");
        }
        spec.heartbeat_topics = false;
        assert!(TopicRules::new(&spec, &known).unwrap().target_of("heartbeats").is_none());
    }

    #[test]
    fn rules_select_name_and_leave_out_internal_topics() {
        let rules = TopicRules::new(&FlowSpec::new(cluster("uk"), cluster("hq")), &BTreeSet::new()).unwrap();
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
