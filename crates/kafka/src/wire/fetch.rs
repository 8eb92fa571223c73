//! Fetching record batches as they lie in the log.
//!
//! Owns the Fetch request, for itself or within a session (see [`super::fetch_session`]), and the form in which its answer is handed on: record bytes are
//! slices of the frame, untouched. Must not know what a batch holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition as WirePartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{
    BrokerId, FetchRequest as WireRequest, FetchResponse as WireResponse, TopicName,
};
use kafka_protocol::protocol::{Message as _, Request as _, StrBytes, VersionRange};
use uuid::Uuid;

use super::answer::Answer;
use super::api::Api as _;
use super::conn::Connection;
use super::decode;
use super::{NO_TOPIC_ID, TopicId};
use crate::error::{Error, ErrorCode, Result};

/// From this version on topics are named by id only (KIP-516).
const FIRST_WITH_TOPIC_IDS: i16 = 13;
/// From this version on a broker can say where logs diverge (KIP-595); before it the question cannot be written.
const FIRST_WITH_DIVERGENCE: i16 = 12;
/// From this version on a broker can remember what is read (KIP-227).
const FIRST_WITH_SESSIONS: i16 = 7;
/// The id and the epoch of a request that belongs to no session and begins none.
pub(crate) const NO_SESSION: (i32, i32) = (0, -1);

/// What to read from one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchPartition {
    /// Its topic.
    pub topic: Arc<str>,
    /// The topic's id, all zeroes if unknown.
    pub topic_id: TopicId,
    /// Its number.
    pub partition: i32,
    /// The first offset wanted. The first batch of the answer may begin before it.
    pub offset: i64,
    /// The leader's epoch as we know it, -1 if unknown: the broker answers 74 or 75 if its own differs.
    pub leader_epoch: i32,
    /// The epoch of the last record read, -1 if unknown: with it the broker can say where the logs diverge.
    pub last_fetched_epoch: i32,
    /// The most bytes wanted, but for a larger first batch.
    pub max_bytes: i32,
}

/// A fetch from one broker; each partition at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// How long the broker may wait for `min_bytes`.
    pub max_wait: Duration,
    /// How many bytes are worth an answer before `max_wait` is over.
    pub min_bytes: i32,
    /// The most bytes wanted in all, but for a larger first batch.
    pub max_bytes: i32,
    /// Only up to the last stable offset, with the list of aborted transactions.
    pub read_committed: bool,
    /// What to read.
    pub partitions: Vec<FetchPartition>,
}

/// A transaction whose records must not be mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

/// The end of an epoch in the leader's log, where it differs from what the reader has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch.
    pub epoch: i32,
    /// One past its last offset.
    pub end_offset: i64,
}

/// Who leads a partition now, according to a broker that does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentLeader {
    /// The broker.
    pub node_id: i32,
    /// Its epoch.
    pub leader_epoch: i32,
}

/// What came from one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedPartition {
    /// Its topic, as named in the request.
    pub topic: Arc<str>,
    /// Its number.
    pub partition: i32,
    /// Whether it could be read.
    pub error: ErrorCode,
    /// One past the last offset that a consumer may see, -1 with an error.
    pub high_watermark: i64,
    /// The first offset of an open transaction, or the high watermark; -1 if unknown.
    pub last_stable_offset: i64,
    /// The first offset that is still there; -1 if unknown.
    pub log_start_offset: i64,
    /// Aborted transactions in the fetched range; only with `read_committed`.
    pub aborted: Vec<AbortedTransaction>,
    /// Record batches, untouched; the last one may be cut off.
    pub records: Bytes,
    /// Where the leader's log leaves what the reader has.
    pub diverging: Option<EpochEnd>,
    /// The leader, if this broker is not.
    pub current_leader: Option<CurrentLeader>,
}

/// The answer to a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchResponse {
    /// How long the broker mutes this connection because of a quota.
    pub throttle: Duration,
    /// One entry per partition that the broker had something to say about.
    pub partitions: Vec<FetchedPartition>,
    /// The size of the frame that all record bytes are slices of: it stays in memory as long as any of them.
    pub frame_bytes: usize,
    /// The session that the broker keeps, 0 if none.
    pub session_id: i32,
}

/// The session that a request belongs to.
pub(crate) struct InSession<'a> {
    /// Id and epoch.
    pub(crate) session: (i32, i32),
    /// What is no longer read.
    pub(crate) forgotten: &'a [FetchPartition],
    /// Names of all topics that the answer may speak of.
    pub(crate) names: Arc<Names>,
}

impl Connection {
    /// Fetches and waits.
    ///
    /// # Errors
    /// Those of the connection, and [`Error::Broker`] if the broker refuses the whole request.
    pub async fn fetch(&self, request: &FetchRequest) -> Result<FetchResponse> {
        self.fetch_enqueue(request).await?.await
    }

    /// Queues a fetch as soon as a place in the pipeline is free. Cancel-safe: without an [`Answer`] nothing was sent.
    pub async fn fetch_enqueue(&self, request: &FetchRequest) -> Result<Answer<FetchResponse>> {
        let names = Arc::new(Names::of(request));
        self.fetch_part(request, InSession { session: NO_SESSION, forgotten: &[], names }).await
    }

    /// Whether the broker can keep fetch sessions.
    pub(crate) fn knows_sessions(&self) -> bool {
        let range = VersionRange { min: FIRST_WITH_SESSIONS, max: i16::MAX };
        self.versions().select(WireRequest::KEY, range).is_some()
    }

    /// Fetches within a session and waits.
    pub(crate) async fn fetch_in_session(
        &self,
        request: &FetchRequest,
        part: InSession<'_>,
    ) -> Result<FetchResponse> {
        self.fetch_part(request, part).await?.await
    }

    async fn fetch_part(&self, request: &FetchRequest, part: InSession<'_>) -> Result<Answer<FetchResponse>> {
        let slot = self.slot(WireRequest::NAME).await?;
        let version = self.version::<WireRequest>(versions(request, &part))?;
        // The broker's own waiting does not count against it.
        let timeout = request.max_wait + self.limits().request_timeout;
        let outgoing = self.encode(&encode(request, &part, version), version, timeout)?;
        let heap_bytes_max = self.limits().decoded_bytes_max();
        let broker: Arc<str> = self.broker().into();
        let names = part.names;
        let end = Arc::clone(self.end());
        let read = move |frame| {
            let response = read(&broker, frame, version, &names, heap_bytes_max)?;
            end.muted_for(response.throttle);
            Ok(response)
        };
        self.submit(slot, outgoing, Box::new(read))
    }
}

/// Ids are all or nothing: a request has either names or ids.
fn versions(request: &FetchRequest, part: &InSession<'_>) -> VersionRange {
    let all = WireRequest::VERSIONS;
    let mut partitions = request.partitions.iter().chain(part.forgotten);
    let ids = partitions.all(|partition| partition.topic_id != NO_TOPIC_ID) && !part.names.lacks_ids;
    if ids { all } else { VersionRange { min: all.min, max: FIRST_WITH_TOPIC_IDS - 1 } }
}

/// Partitions keep their order within a topic, topics that of their first partition.
fn encode(request: &FetchRequest, part: &InSession<'_>, version: i16) -> WireRequest {
    let mut topics: Vec<FetchTopic> = Vec::new();
    let mut places: HashMap<(&str, TopicId), usize> = HashMap::new();
    for partition in &request.partitions {
        let place = *places.entry((&partition.topic, partition.topic_id)).or_insert_with(|| {
            topics.push(
                FetchTopic::default()
                    .with_topic(TopicName(StrBytes::from_string(partition.topic.to_string())))
                    .with_topic_id(Uuid::from_bytes(partition.topic_id)),
            );
            topics.len() - 1
        });
        if let Some(topic) = topics.get_mut(place) {
            topic.partitions.push(
                WirePartition::default()
                    .with_partition(partition.partition)
                    .with_fetch_offset(partition.offset)
                    .with_current_leader_epoch(partition.leader_epoch)
                    .with_last_fetched_epoch(if version >= FIRST_WITH_DIVERGENCE {
                        partition.last_fetched_epoch
                    } else {
                        -1
                    })
                    .with_partition_max_bytes(partition.max_bytes),
            );
        }
    }
    let (session_id, session_epoch) = part.session;
    WireRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(request.max_wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes)
        .with_isolation_level(i8::from(request.read_committed))
        .with_session_id(session_id)
        .with_session_epoch(session_epoch)
        .with_topics(topics)
        .with_forgotten_topics_data(part.forgotten.iter().map(forgotten).collect())
}

fn forgotten(partition: &FetchPartition) -> ForgottenTopic {
    ForgottenTopic::default()
        .with_topic(TopicName(StrBytes::from_string(partition.topic.to_string())))
        .with_topic_id(Uuid::from_bytes(partition.topic_id))
        .with_partitions(vec![partition.partition])
}

/// The names of the requested topics, so that an answer shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    by_name: HashMap<Arc<str>, Arc<str>>,
    by_id: HashMap<TopicId, Arc<str>>,
    /// A topic is among them whose id is not known: ids can't be used.
    lacks_ids: bool,
}

impl Names {
    fn of(request: &FetchRequest) -> Self {
        let mut names = Self::default();
        for partition in &request.partitions {
            names.add(partition);
        }
        names
    }

    pub(crate) fn add(&mut self, partition: &FetchPartition) {
        self.by_name.insert(Arc::clone(&partition.topic), Arc::clone(&partition.topic));
        self.by_id.insert(partition.topic_id, Arc::clone(&partition.topic));
        self.lacks_ids |= partition.topic_id == NO_TOPIC_ID;
    }

    pub(crate) fn knows(&self, partition: &FetchPartition) -> bool {
        self.by_id.get(&partition.topic_id).is_some_and(|name| *name == partition.topic)
            && self.by_name.contains_key(&partition.topic)
    }

    fn of_topic(&self, topic: &FetchableTopicResponse, version: i16) -> Option<&Arc<str>> {
        if version >= FIRST_WITH_TOPIC_IDS {
            self.by_id.get(topic.topic_id.as_bytes())
        } else {
            self.by_name.get(topic.topic.as_str())
        }
    }
}

fn read(
    broker: &Arc<str>,
    frame: Bytes,
    version: i16,
    names: &Names,
    heap_bytes_max: usize,
) -> Result<FetchResponse> {
    let frame_bytes = frame.len();
    let response: WireResponse = decode::decode_from::<WireRequest>(broker, frame, version, heap_bytes_max)?;
    let code = ErrorCode(response.error_code);
    if !code.is_ok() {
        return Err(Error::Broker {
            broker: Arc::clone(broker),
            api: WireRequest::NAME,
            code,
            message: None,
        });
    }
    let mut partitions =
        Vec::with_capacity(response.responses.iter().map(|topic| topic.partitions.len()).sum());
    for topic in response.responses {
        let Some(name) = names.of_topic(&topic, version) else {
            let problem = "it speaks of a topic that was not asked for";
            return Err(decode::malformed::<WireRequest>(broker, version, problem));
        };
        partitions.extend(topic.partitions.into_iter().map(|partition| fetched(Arc::clone(name), partition)));
    }
    let throttle = decode::throttle(response.throttle_time_ms);
    Ok(FetchResponse { throttle, partitions, frame_bytes, session_id: response.session_id })
}

/// Reads a foreign frame as the answer to a request for one partition.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(frame: Bytes, version: i16, heap_bytes_max: usize) {
    let topic: Arc<str> = "topic".into();
    let names = Names {
        by_name: HashMap::from([(Arc::clone(&topic), Arc::clone(&topic))]),
        by_id: HashMap::from([([7; 16], topic)]),
        lacks_ids: false,
    };
    drop(read(&"broker".into(), frame, version, &names, heap_bytes_max));
}

fn fetched(topic: Arc<str>, data: PartitionData) -> FetchedPartition {
    let diverging = (data.diverging_epoch.epoch >= 0).then_some(EpochEnd {
        epoch: data.diverging_epoch.epoch,
        end_offset: data.diverging_epoch.end_offset,
    });
    let current_leader = (data.current_leader.leader_epoch >= 0).then_some(CurrentLeader {
        node_id: data.current_leader.leader_id.0,
        leader_epoch: data.current_leader.leader_epoch,
    });
    let aborted = data.aborted_transactions.unwrap_or_default();
    FetchedPartition {
        topic,
        partition: data.partition_index,
        error: ErrorCode(data.error_code),
        high_watermark: data.high_watermark,
        last_stable_offset: data.last_stable_offset,
        log_start_offset: data.log_start_offset,
        aborted: aborted
            .into_iter()
            .map(|aborted| AbortedTransaction {
                producer_id: aborted.producer_id.0,
                first_offset: aborted.first_offset,
            })
            .collect(),
        records: data.records.unwrap_or_default(),
        diverging,
        current_leader,
    }
}

#[cfg(test)]
mod tests;
