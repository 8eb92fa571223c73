//! Offsets of logs, asked from the leaders of their partitions.
//!
//! Owns the routing of requests about many partitions, each answered on its own: a leader that moved is looked up again
//! once, everything else is the caller's to judge.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::future::join_all;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, OffsetForLeaderEpochRequest};
use kafka_protocol::protocol::{Message as _, VersionRange};

use crate::client::metadata::Lookup;
use crate::client::{Client, topic_name};
use crate::error::{Error, ErrorCode, Result};
use crate::wire::api::Api;

/// From version 7 on the offset of the newest timestamp can be asked for (KIP-734).
const WITH_MAX_TIMESTAMP: i16 = 7;

const CONSUMER_REPLICA: BrokerId = BrokerId(-1);
const DEBUGGING_REPLICA: BrokerId = BrokerId(-2);

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Its first offset.
    Earliest,
    /// One past its last offset: the high watermark, or with `read_committed` the last stable offset.
    Latest,
    /// One past its last offset, replicated or not: what the next append gets. Never mixed with other places in one
    /// call.
    LogEnd,
    /// The first offset with this timestamp or a newer one, in ms.
    Timestamp(i64),
    /// The offset with the newest timestamp (Kafka 3.0).
    MaxTimestamp,
}

impl OffsetSpec {
    /// As Kafka's `ListOffsets` request writes it.
    fn timestamp(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest | Self::LogEnd => -1,
            Self::Timestamp(timestamp_ms) => timestamp_ms.max(0),
            Self::MaxTimestamp => -3,
        }
    }
}

/// A question about one partition; each at most once in a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetQuery {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The place.
    pub spec: OffsetSpec,
    /// The leader's epoch as we know it, -1 to take any: the leader answers 74 or 75 if its own differs.
    pub leader_epoch: i32,
}

/// An answer about one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedOffset {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Kafka's code; [`ErrorCode::NETWORK_EXCEPTION`] if its leader could not be asked.
    pub error: ErrorCode,
    /// The offset, -1 if there is none.
    pub offset: i64,
    /// The timestamp found, -1 unless one was asked for. In ms.
    pub timestamp: i64,
    /// The epoch of the record found, -1 if unknown.
    pub leader_epoch: i32,
}

/// A question about the end of an epoch; each partition at most once in a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochQuery {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The epoch in question.
    pub leader_epoch: i32,
    /// The leader's epoch as we know it, -1 to take any.
    pub current_leader_epoch: i32,
}

/// The end of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Kafka's code; [`ErrorCode::NETWORK_EXCEPTION`] if its leader could not be asked.
    pub error: ErrorCode,
    /// The epoch in question, or the largest smaller one that the log has; -1 if none.
    pub leader_epoch: i32,
    /// One past its last offset, -1 if the epoch is unknown.
    pub end_offset: i64,
}

/// Answers by topic and partition.
type Answers<T> = HashMap<(Arc<str>, i32), T>;

impl Client {
    /// Asks the leaders for offsets; the answers come in the order of the questions.
    ///
    /// # Errors
    /// Only if no metadata could be had or a leader is too old for the question.
    pub async fn list_offsets(
        &self,
        queries: &[OffsetQuery],
        read_committed: bool,
    ) -> Result<Vec<ListedOffset>> {
        let places: Vec<_> =
            queries.iter().map(|query| (Arc::clone(&query.topic), query.partition)).collect();
        let mut answers = Answers::new();
        let ask = |node, indices: Vec<usize>| {
            let asked = indices.into_iter().filter_map(|index| queries.get(index)).collect();
            self.list_offsets_at(node, asked, read_committed)
        };
        let failures =
            self.ask_leaders(&places, &mut answers, ask, |answer: &ListedOffset| answer.error).await?;
        let unanswered = |(topic, partition): (Arc<str>, i32), error| ListedOffset {
            topic,
            partition,
            error,
            offset: -1,
            timestamp: -1,
            leader_epoch: -1,
        };
        Ok(in_order(places, answers, &failures, unanswered))
    }

    /// Asks the leaders where epochs end (KIP-101); the answers come in the order of the questions.
    pub async fn offset_for_leader_epoch(&self, queries: &[EpochQuery]) -> Result<Vec<EpochEndOffset>> {
        let places: Vec<_> =
            queries.iter().map(|query| (Arc::clone(&query.topic), query.partition)).collect();
        let mut answers = Answers::new();
        let ask = |node, indices: Vec<usize>| {
            let asked = indices.into_iter().filter_map(|index| queries.get(index)).collect();
            self.epoch_ends_at(node, asked)
        };
        let failures =
            self.ask_leaders(&places, &mut answers, ask, |answer: &EpochEndOffset| answer.error).await?;
        let unanswered = |(topic, partition): (Arc<str>, i32), error| EpochEndOffset {
            topic,
            partition,
            error,
            leader_epoch: -1,
            end_offset: -1,
        };
        Ok(in_order(places, answers, &failures, unanswered))
    }

    /// Sends a request about one partition to its leader, whom it looks up again once.
    pub(crate) async fn call_leader<R: Api>(
        &self,
        topic: &str,
        partition: i32,
        request: &R,
        versions: VersionRange,
    ) -> Result<(Arc<str>, R::Response)> {
        let timeout = self.limits().admin_timeout;
        let leader = self.leader(topic, partition).await?;
        match self.call_node(leader.node_id, request, versions, timeout).await {
            Err(error) if error.is_connection_error() && !error.outcome_unknown() => {
                self.invalidate(topic, partition);
                let leader = self.leader(topic, partition).await?;
                self.call_node(leader.node_id, request, versions, timeout).await
            }
            outcome => outcome,
        }
    }

    /// Turns a partition's code into an error; after one that says so its leader will be looked up again.
    pub(crate) fn check_partition(
        &self,
        api: &'static str,
        topic: &str,
        partition: i32,
        code: ErrorCode,
        message: Option<Arc<str>>,
    ) -> Result<()> {
        if code.is_leader_error() {
            self.invalidate(topic, partition);
        }
        code.ok().map_err(|code| Error::Partition { topic: topic.into(), partition, api, code, message })
    }

    /// Asks each leader about its partitions, all at once, and those that moved a second time. What stays unanswered
    /// is returned with the reason.
    async fn ask_leaders<T, F>(
        &self,
        places: &[(Arc<str>, i32)],
        answers: &mut Answers<T>,
        ask: impl Fn(i32, Vec<usize>) -> F,
        error_of: impl Fn(&T) -> ErrorCode,
    ) -> Result<HashMap<usize, ErrorCode>>
    where
        F: Future<Output = Result<Vec<((Arc<str>, i32), T)>>>,
    {
        let mut open: Vec<usize> = (0..places.len()).collect();
        let mut failures = HashMap::new();
        for _ in 0..2 {
            let routes = self.routes(places, &open, &mut failures).await?;
            let asked = routes.into_iter().map(|(node, indices)| {
                let asking = ask(node, indices.clone());
                async move { (indices, asking.await) }
            });
            for (indices, outcome) in join_all(asked).await {
                match outcome {
                    Ok(found) => answers.extend(found),
                    Err(error) if error.is_connection_error() => {
                        failures.extend(indices.iter().map(|index| (*index, ErrorCode::NETWORK_EXCEPTION)));
                    }
                    Err(error) => return Err(error),
                }
            }
            let moved = |index: &usize| {
                let answer = places.get(*index).and_then(|place| answers.get(place));
                answer
                    .map_or_else(|| failures.contains_key(index), |answer| error_of(answer).is_leader_error())
            };
            open.retain(moved);
            for (topic, partition) in open.iter().filter_map(|index| places.get(*index)) {
                self.invalidate(topic, *partition);
            }
            if open.is_empty() {
                break;
            }
        }
        Ok(failures)
    }

    /// The open questions by leader; those without one get the reason.
    async fn routes(
        &self,
        places: &[(Arc<str>, i32)],
        open: &[usize],
        failures: &mut HashMap<usize, ErrorCode>,
    ) -> Result<BTreeMap<i32, Vec<usize>>> {
        let named = || open.iter().filter_map(|index| places.get(*index).map(|place| (*index, place)));
        let unknown: BTreeSet<&str> = named()
            .filter(|(_, (topic, partition))| !matches!(self.lookup(topic, *partition), Lookup::Known(_)))
            .map(|(_, (topic, _))| &**topic)
            .collect();
        if !unknown.is_empty() {
            self.refresh_metadata(&unknown.into_iter().collect::<Vec<_>>()).await?;
        }
        let mut routes: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (index, (topic, partition)) in named() {
            failures.remove(&index);
            match self.lookup(topic, *partition) {
                Lookup::Known(leader) => routes.entry(leader.node_id).or_default().push(index),
                Lookup::Absent(code) => drop(failures.insert(index, code)),
                Lookup::Unknown => drop(failures.insert(index, ErrorCode::LEADER_NOT_AVAILABLE)),
            }
        }
        Ok(routes)
    }

    async fn list_offsets_at(
        &self,
        node: i32,
        queries: Vec<&OffsetQuery>,
        read_committed: bool,
    ) -> Result<Vec<((Arc<str>, i32), ListedOffset)>> {
        let newest = queries.iter().any(|query| query.spec == OffsetSpec::MaxTimestamp);
        // Consumers are shown what is replicated; a "debugging" replica is shown the log end (`ReplicaManager`
        // .fetchOffset). The replica id holds for the whole request.
        let log_end = queries.iter().any(|query| query.spec == OffsetSpec::LogEnd);
        if log_end && queries.iter().any(|query| query.spec != OffsetSpec::LogEnd) {
            let problem = "the log end can't be asked for together with other places".to_owned();
            return Err(Error::Request { api: ListOffsetsRequest::NAME, problem });
        }
        let replica = if log_end { DEBUGGING_REPLICA } else { CONSUMER_REPLICA };
        let all = ListOffsetsRequest::VERSIONS;
        let versions = if newest { VersionRange { min: WITH_MAX_TIMESTAMP, max: all.max } } else { all };
        let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for query in queries {
            let wanted = ListOffsetsPartition::default()
                .with_partition_index(query.partition)
                .with_current_leader_epoch(query.leader_epoch)
                .with_timestamp(query.spec.timestamp());
            topics.entry(&query.topic).or_default().push(wanted);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
        });
        let request = ListOffsetsRequest::default()
            .with_replica_id(replica)
            .with_isolation_level(i8::from(read_committed))
            .with_timeout_ms(self.broker_timeout_ms())
            .with_topics(topics.collect());
        let (_, response) = self.call_node(node, &request, versions, self.limits().request_timeout).await?;
        let mut answers = Vec::new();
        for topic in response.topics {
            let name: Arc<str> = topic.name.as_str().into();
            answers.extend(topic.partitions.iter().map(|partition| {
                let answer = ListedOffset {
                    topic: Arc::clone(&name),
                    partition: partition.partition_index,
                    error: ErrorCode(partition.error_code),
                    offset: partition.offset,
                    timestamp: partition.timestamp,
                    leader_epoch: partition.leader_epoch,
                };
                ((Arc::clone(&name), partition.partition_index), answer)
            }));
        }
        Ok(answers)
    }

    async fn epoch_ends_at(
        &self,
        node: i32,
        queries: Vec<&EpochQuery>,
    ) -> Result<Vec<((Arc<str>, i32), EpochEndOffset)>> {
        let mut topics: BTreeMap<&str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
        for query in queries {
            let wanted = OffsetForLeaderPartition::default()
                .with_partition(query.partition)
                .with_current_leader_epoch(query.current_leader_epoch)
                .with_leader_epoch(query.leader_epoch);
            topics.entry(&query.topic).or_default().push(wanted);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetForLeaderTopic::default().with_topic(topic_name(topic)).with_partitions(partitions)
        });
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(topics.collect());
        let versions = OffsetForLeaderEpochRequest::VERSIONS;
        let (_, response) = self.call_node(node, &request, versions, self.limits().request_timeout).await?;
        let mut answers = Vec::new();
        for topic in response.topics {
            let name: Arc<str> = topic.topic.as_str().into();
            answers.extend(topic.partitions.iter().map(|partition| {
                let answer = EpochEndOffset {
                    topic: Arc::clone(&name),
                    partition: partition.partition,
                    error: ErrorCode(partition.error_code),
                    leader_epoch: partition.leader_epoch,
                    end_offset: partition.end_offset,
                };
                ((Arc::clone(&name), partition.partition), answer)
            }));
        }
        Ok(answers)
    }
}

/// An answer for each question: a partition that its leader left out counts as not led there.
fn in_order<T>(
    places: Vec<(Arc<str>, i32)>,
    mut answers: Answers<T>,
    failures: &HashMap<usize, ErrorCode>,
    unanswered: impl Fn((Arc<str>, i32), ErrorCode) -> T,
) -> Vec<T> {
    let answer = |(index, place): (usize, (Arc<str>, i32))| {
        let failure = failures.get(&index).copied();
        match (answers.remove(&place), failure) {
            (Some(answer), None) => answer,
            (_, failure) => unanswered(place, failure.unwrap_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        }
    };
    places.into_iter().enumerate().map(answer).collect()
}
