//! What the cluster looks like: brokers, topics, leaders.
//!
//! Owns the public description of topics and the cache from which leaders are looked up. Must not know how metadata is
//! asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::MetadataResponse;
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponseTopic};
use tokio::time::Instant;

use crate::error::ErrorCode;
use crate::wire::TopicId;

/// A broker of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Its id.
    pub node_id: i32,
    /// `host:port` as it advertises itself.
    pub address: Arc<str>,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Its id; brokers before 0.10.1 have none.
    pub cluster_id: Option<String>,
    /// The broker that takes administrative requests, if known.
    pub controller_id: Option<i32>,
    /// Live brokers, ordered by id.
    pub brokers: Vec<BrokerInfo>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: i32,
    /// The leading broker, if there is one.
    pub leader: Option<i32>,
    /// The leader's epoch, -1 if the brokers are too old to say.
    pub leader_epoch: i32,
    /// Brokers that should have it.
    pub replicas: Vec<i32>,
    /// Brokers that have all of it.
    pub isr: Vec<i32>,
    /// What is wrong with it.
    pub error: ErrorCode,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its id, all zeroes on brokers without ids.
    pub topic_id: TopicId,
    /// Whether Kafka keeps its own state in it.
    pub internal: bool,
    /// Whether it exists and may be seen.
    pub error: ErrorCode,
    /// Ordered by number.
    pub partitions: Vec<PartitionInfo>,
}

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub node_id: i32,
    /// Its epoch, -1 if unknown.
    pub leader_epoch: i32,
    /// The topic's id, all zeroes if unknown.
    pub topic_id: TopicId,
    /// The same number for partitions whose replicas are on the same brokers, whoever leads.
    pub replica_set: u64,
}

/// What the cache knows about a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    Known(Leader),
    /// Asked for and absent, for this reason.
    Absent(ErrorCode),
    /// Not asked for, or declared out of date since.
    Unknown,
}

/// What was learned last.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    brokers: BTreeMap<i32, BrokerInfo>,
    topics: HashMap<Arc<str>, CachedTopic>,
}

#[derive(Debug)]
struct CachedTopic {
    topic_id: TopicId,
    error: ErrorCode,
    learned: Instant,
    partitions: HashMap<i32, CachedPartition>,
}

#[derive(Debug)]
struct CachedPartition {
    leader: Option<i32>,
    leader_epoch: i32,
    replica_set: u64,
    error: ErrorCode,
    outdated: bool,
}

impl Cache {
    pub(crate) fn address(&self, node_id: i32) -> Option<Arc<str>> {
        self.brokers.get(&node_id).map(|broker| Arc::clone(&broker.address))
    }

    pub(crate) fn node_ids(&self) -> Vec<i32> {
        self.brokers.keys().copied().collect()
    }

    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Lookup {
        let Some(topic) = self.topics.get(topic) else { return Lookup::Unknown };
        if !topic.error.is_ok() {
            return Lookup::Absent(topic.error);
        }
        match topic.partitions.get(&partition) {
            None => Lookup::Absent(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            Some(CachedPartition { outdated: true, .. }) => Lookup::Unknown,
            Some(CachedPartition { leader: Some(node_id), leader_epoch, replica_set, .. }) => {
                Lookup::Known(Leader {
                    node_id: *node_id,
                    leader_epoch: *leader_epoch,
                    topic_id: topic.topic_id,
                    replica_set: *replica_set,
                })
            }
            Some(CachedPartition { leader: None, error, .. }) => {
                Lookup::Absent(if error.is_ok() { ErrorCode::LEADER_NOT_AVAILABLE } else { *error })
            }
        }
    }

    /// A topic's id, and whether it exists and may be seen.
    pub(crate) fn topic(&self, topic: &str) -> Option<(TopicId, ErrorCode)> {
        self.topics.get(topic).map(|topic| (topic.topic_id, topic.error))
    }

    /// Whether something was learned about the topic after `instant`.
    pub(crate) fn learned_after(&self, topic: &str, instant: Instant) -> bool {
        self.topics.get(topic).is_some_and(|topic| topic.learned > instant)
    }

    pub(crate) fn invalidate(&mut self, topic: &str, partition: i32) {
        // What is absent is asked for again anyway.
        let partition = self.topics.get_mut(topic).and_then(|topic| topic.partitions.get_mut(&partition));
        if let Some(partition) = partition {
            partition.outdated = true;
        }
    }

    /// Brokers of the newest answer replace all others.
    pub(crate) fn learn_brokers(&mut self, cluster: &ClusterInfo) {
        if !cluster.brokers.is_empty() {
            self.brokers = cluster.brokers.iter().map(|broker| (broker.node_id, broker.clone())).collect();
        }
    }

    /// Takes over what is newer. With `only_known`, topics that nobody routes by are left out.
    pub(crate) fn learn_topics(&mut self, topics: &[TopicInfo], only_known: bool, now: Instant) {
        for info in topics {
            let previous = self.topics.remove(&info.name);
            if only_known && previous.is_none() {
                continue;
            }
            let previous = previous.filter(|previous| previous.topic_id == info.topic_id);
            let partitions = info.partitions.iter().map(|partition| {
                let known =
                    previous.as_ref().and_then(|previous| previous.partitions.get(&partition.partition));
                (partition.partition, merged(partition, known))
            });
            let cached = CachedTopic {
                topic_id: info.topic_id,
                error: info.error,
                learned: now,
                partitions: partitions.collect(),
            };
            self.topics.insert(Arc::clone(&info.name), cached);
        }
    }
}

/// A broker that lags behind tells of an older epoch: what we know already is better then, and if that is out of date
/// it stays so (KAFKA-8677 is the same rule in Kafka's client).
fn merged(info: &PartitionInfo, known: Option<&CachedPartition>) -> CachedPartition {
    match known {
        Some(known) if info.leader_epoch >= 0 && info.leader_epoch < known.leader_epoch => CachedPartition {
            leader: known.leader,
            leader_epoch: known.leader_epoch,
            replica_set: replica_set(&info.replicas),
            error: known.error,
            outdated: known.outdated,
        },
        _ => CachedPartition {
            leader: info.leader,
            leader_epoch: info.leader_epoch,
            replica_set: replica_set(&info.replicas),
            error: info.error,
            outdated: false,
        },
    }
}

/// A hash of the set (FNV-1a), whatever the order.
fn replica_set(replicas: &[i32]) -> u64 {
    let mut sorted = replicas.to_vec();
    sorted.sort_unstable();
    let bytes = sorted.into_iter().flat_map(i32::to_be_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The cluster as a response describes it.
pub(crate) fn cluster_info(response: &MetadataResponse) -> ClusterInfo {
    let mut brokers: Vec<BrokerInfo> = response.brokers.iter().map(broker_info).collect();
    brokers.sort_by_key(|broker| broker.node_id);
    ClusterInfo {
        cluster_id: response.cluster_id.as_ref().map(ToString::to_string),
        controller_id: Some(response.controller_id.0).filter(|id| *id >= 0),
        brokers,
    }
}

fn broker_info(broker: &MetadataResponseBroker) -> BrokerInfo {
    let host = broker.host.as_str();
    let address = if host.contains(':') {
        format!("[{host}]:{}", broker.port)
    } else {
        format!("{host}:{}", broker.port)
    };
    BrokerInfo {
        node_id: broker.node_id.0,
        address: address.into(),
        rack: broker.rack.as_ref().map(ToString::to_string),
    }
}

/// The topics of a response; one without a name was asked for by an id that we never ask for.
pub(crate) fn topic_infos(response: &MetadataResponse) -> Vec<TopicInfo> {
    response.topics.iter().filter_map(topic_info).collect()
}

fn topic_info(topic: &MetadataResponseTopic) -> Option<TopicInfo> {
    let name = topic.name.as_ref()?;
    let mut partitions: Vec<PartitionInfo> = topic
        .partitions
        .iter()
        .map(|partition| PartitionInfo {
            partition: partition.partition_index,
            leader: Some(partition.leader_id.0).filter(|id| *id >= 0),
            leader_epoch: partition.leader_epoch,
            replicas: partition.replica_nodes.iter().map(|node| node.0).collect(),
            isr: partition.isr_nodes.iter().map(|node| node.0).collect(),
            error: ErrorCode(partition.error_code),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.partition);
    Some(TopicInfo {
        name: name.as_str().into(),
        topic_id: topic.topic_id.into_bytes(),
        internal: topic.is_internal,
        error: ErrorCode(topic.error_code),
        partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(id: u8, leader: i32, leader_epoch: i32) -> TopicInfo {
        let partition = PartitionInfo {
            partition: 0,
            leader: Some(leader).filter(|leader| *leader >= 0),
            leader_epoch,
            replicas: vec![],
            isr: vec![],
            error: ErrorCode::NONE,
        };
        TopicInfo {
            name: "t".into(),
            topic_id: [id; 16],
            internal: false,
            error: ErrorCode::NONE,
            partitions: vec![partition],
        }
    }

    fn node(cache: &Cache) -> Option<i32> {
        match cache.leader("t", 0) {
            Lookup::Known(leader) => Some(leader.node_id),
            _ => None,
        }
    }

    #[tokio::test]
    async fn an_older_epoch_is_not_taken_over_unless_the_topic_is_new() {
        let now = Instant::now();
        let mut cache = Cache::default();
        cache.learn_topics(&[topic(1, 5, 8)], false, now);
        cache.learn_topics(&[topic(1, 4, 7)], false, now);
        assert_eq!(node(&cache), Some(5));
        cache.invalidate("t", 0);
        assert_eq!(cache.leader("t", 0), Lookup::Unknown);
        cache.learn_topics(&[topic(1, 4, 7)], false, now);
        assert_eq!(
            cache.leader("t", 0),
            Lookup::Unknown,
            "news from before the invalidation do not settle it"
        );
        cache.learn_topics(&[topic(1, 6, 9)], false, now);
        assert_eq!(node(&cache), Some(6));
        cache.learn_topics(&[topic(2, 3, 0)], false, now);
        assert_eq!(node(&cache), Some(3), "a topic created anew begins with epoch 0");
    }

    #[tokio::test]
    async fn absence_has_a_reason() {
        let mut cache = Cache::default();
        assert_eq!(cache.leader("t", 0), Lookup::Unknown);
        cache.learn_topics(&[topic(1, -1, 3)], false, Instant::now());
        assert_eq!(cache.leader("t", 0), Lookup::Absent(ErrorCode::LEADER_NOT_AVAILABLE));
        assert_eq!(cache.leader("t", 1), Lookup::Absent(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        let mut unknown = topic(0, 1, 1);
        unknown.error = ErrorCode::TOPIC_AUTHORIZATION_FAILED;
        cache.learn_topics(&[unknown], false, Instant::now());
        assert_eq!(cache.leader("t", 0), Lookup::Absent(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
    }

    #[tokio::test]
    async fn a_listing_does_not_fill_the_cache() {
        let mut cache = Cache::default();
        cache.learn_topics(&[topic(1, 1, 1)], true, Instant::now());
        assert_eq!(cache.leader("t", 0), Lookup::Unknown);
    }
}
