//! Appending record batches as they are.
//!
//! Owns the Produce request, encoded by hand: kafka-protocol would copy every record byte into its buffer, here the
//! record bytes go to the socket as segments of their own. Always acks=all, never transactional. Must not know what a
//! batch holds, nor what a refusal means.

mod plain;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest as WireRequest, ProduceResponse as WireResponse};
use kafka_protocol::protocol::{Message as _, Request as _, VersionRange};

use super::answer::Answer;
use super::api::Api as _;
use super::conn::Connection;
use super::decode;
use super::request::{self, EncodedRequest};
use super::{NO_TOPIC_ID, TopicId};
use crate::error::{Error, ErrorCode, Result};

/// From this version on topics are named by id only (KIP-516).
const FIRST_WITH_TOPIC_IDS: i16 = 13;
const ACKS_ALL: i16 = -1;

/// One record batch as it goes to the socket: its bytes in up to two pieces, so that a rewritten header can stand
/// before records that were never copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProduceRecords {
    header: Bytes,
    body: Bytes,
}

impl ProduceRecords {
    /// A batch of two pieces.
    pub fn new(header: Bytes, body: Bytes) -> Self {
        Self { header, body }
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.header.len() + self.body.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for ProduceRecords {
    fn from(bytes: Bytes) -> Self {
        Self { header: Bytes::new(), body: bytes }
    }
}

/// One batch for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceEntry {
    /// The topic.
    pub topic: Arc<str>,
    /// The topic's id, all zeroes if unknown.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// Exactly one batch: a broker refuses more.
    pub records: ProduceRecords,
}

/// An append to partitions that one broker leads; each partition at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceRequest {
    /// How long the broker may wait for its followers before it answers 7. The connection is given up
    /// `Limits::produce_margin` later.
    pub timeout: Duration,
    /// What to append.
    pub entries: Vec<ProduceEntry>,
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducedPartition {
    /// The topic, as named in the request.
    pub topic: Arc<str>,
    /// Its id, as named in the request.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// Whether it was appended.
    pub error: ErrorCode,
    /// The offset of its first record, -1 with an error. For a duplicate, that of the first time.
    pub base_offset: i64,
    /// -1 for an append to a topic with `CreateTime`; set for a duplicate and with `LogAppendTime`. In ms.
    pub log_append_time: i64,
    /// The first offset that is still in the log; -1 if unknown.
    pub log_start_offset: i64,
    /// The broker's words, with those about single records.
    pub error_message: Option<String>,
}

/// The answer to an append: one entry for each of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceResponse {
    /// How long the broker mutes this connection because of a quota: stop sending, keep the connection.
    pub throttle: Duration,
    /// In the order of the answer.
    pub partitions: Vec<ProducedPartition>,
}

impl Connection {
    /// Queues an append as soon as a place in the pipeline is free. Requests of one caller go out in the order of its
    /// calls; the answer need not be awaited before the next call. Cancel-safe: without an [`Answer`] nothing was sent.
    ///
    /// # Errors
    /// Only errors after which nothing was sent. The [`Answer`] has those with an unknown outcome.
    pub async fn produce_enqueue(&self, request: &ProduceRequest) -> Result<Answer<ProduceResponse>> {
        let slot = self.slot(WireRequest::NAME).await?;
        self.produce_with(slot, request)
    }

    /// As [`Connection::produce_enqueue`], at once.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if no place in the pipeline is free.
    pub fn try_produce_enqueue(&self, request: &ProduceRequest) -> Result<Answer<ProduceResponse>> {
        let slot = self.try_slot(WireRequest::NAME)?;
        self.produce_with(slot, request)
    }

    fn produce_with(
        &self,
        slot: tokio::sync::OwnedSemaphorePermit,
        request: &ProduceRequest,
    ) -> Result<Answer<ProduceResponse>> {
        let version = self.version::<WireRequest>(versions(request))?;
        let sent = Sent::of(request, version)?;
        let correlation = self.next_correlation();
        let segments = encode(request, &sent, version, correlation, self.client_id())?;
        let bytes = segments.iter().map(Bytes::len).sum();
        request::check_size(WireRequest::NAME, bytes, self.limits().frame_bytes_max)?;
        let timeout = request.timeout.saturating_add(self.limits().produce_margin);
        let outgoing = EncodedRequest { api: WireRequest::NAME, correlation, segments, timeout };
        let heap_bytes_max = self.limits().decoded_bytes_max();
        let broker: Arc<str> = self.broker().into();
        let end = Arc::clone(self.end());
        let read = move |frame| {
            let response = read(&broker, frame, version, sent, heap_bytes_max)?;
            end.muted_for(response.throttle);
            Ok(response)
        };
        self.submit(slot, outgoing, Box::new(read))
    }
}

/// Ids are all or nothing: a request has either names or ids.
fn versions(request: &ProduceRequest) -> VersionRange {
    let all = WireRequest::VERSIONS;
    let ids = request.entries.iter().all(|entry| entry.topic_id != NO_TOPIC_ID);
    if ids { all } else { VersionRange { min: all.min, max: FIRST_WITH_TOPIC_IDS - 1 } }
}

/// How a topic is named in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Name(Arc<str>),
    Id(TopicId),
}

/// Which partitions a request has, grouped by topic in the order of their first entry. Requests have few topics, and a
/// broker answers in their order: what is looked for is mostly where it was looked for last.
struct Sent {
    topics: Vec<SentTopic>,
    /// The topic that was found last.
    last: usize,
}

struct SentTopic {
    name: Arc<str>,
    id: TopicId,
    /// Indices into the request's entries.
    entries: Vec<usize>,
    /// Those that are not answered.
    partitions: Vec<i32>,
}

impl SentTopic {
    fn is(&self, key: &Key) -> bool {
        match key {
            Key::Name(name) => self.name == *name,
            Key::Id(id) => self.id == *id,
        }
    }
}

impl Sent {
    fn of(request: &ProduceRequest, version: i16) -> Result<Self> {
        let mut sent = Self { topics: Vec::new(), last: 0 };
        for (index, entry) in request.entries.iter().enumerate() {
            let key = if version >= FIRST_WITH_TOPIC_IDS {
                Key::Id(entry.topic_id)
            } else {
                Key::Name(Arc::clone(&entry.topic))
            };
            if sent.find(&key).is_none() {
                sent.last = sent.topics.len();
                sent.topics.push(SentTopic {
                    name: Arc::clone(&entry.topic),
                    id: entry.topic_id,
                    entries: Vec::new(),
                    partitions: Vec::new(),
                });
            }
            let Some(topic) = sent.find(&key) else { continue };
            if topic.name != entry.topic
                || topic.id != entry.topic_id
                || topic.partitions.contains(&entry.partition)
            {
                let problem = format!("{}-{} is in it twice", entry.topic, entry.partition);
                return Err(Error::Request { api: WireRequest::NAME, problem });
            }
            topic.partitions.push(entry.partition);
            topic.entries.push(index);
        }
        Ok(sent)
    }

    fn find(&mut self, key: &Key) -> Option<&mut SentTopic> {
        if !self.topics.get(self.last).is_some_and(|topic| topic.is(key)) {
            self.last = self.topics.iter().position(|topic| topic.is(key))?;
        }
        self.topics.get_mut(self.last)
    }

    /// The topic that an answer speaks of.
    fn take(&mut self, key: &Key, partition: i32) -> Option<(Arc<str>, TopicId)> {
        let topic = self.find(key)?;
        let place = topic.partitions.iter().position(|unanswered| *unanswered == partition)?;
        topic.partitions.swap_remove(place);
        Some((Arc::clone(&topic.name), topic.id))
    }

    fn unanswered(&self) -> Option<String> {
        let unanswered = |topic: &SentTopic| {
            topic.partitions.first().map(|partition| format!("{}-{partition} is not in it", topic.name))
        };
        self.topics.iter().find_map(unanswered)
    }
}

/// The whole frame, length first. Records are segments of their own, everything between them is written here.
fn encode(
    request: &ProduceRequest,
    sent: &Sent,
    version: i16,
    correlation: i32,
    client_id: &str,
) -> Result<Vec<Bytes>> {
    let mut out = Encoder {
        scratch: BytesMut::with_capacity(128 + 128 * request.entries.len()),
        segments: Vec::with_capacity(2 + 2 * request.entries.len()),
        flexible: version >= WireRequest::FLEXIBLE_FROM,
    };
    out.segments.push(Bytes::new());
    out.scratch.put_i16(WireRequest::KEY);
    out.scratch.put_i16(version);
    out.scratch.put_i32(correlation);
    // The client id keeps its old form in the flexible header too.
    out.short_text(client_id)?;
    out.no_tags();
    out.no_transactional_id();
    out.scratch.put_i16(ACKS_ALL);
    out.scratch.put_i32(i32::try_from(request.timeout.as_millis()).unwrap_or(i32::MAX));
    out.count(sent.topics.len())?;
    for topic in &sent.topics {
        if version >= FIRST_WITH_TOPIC_IDS {
            out.scratch.put_slice(&topic.id);
        } else {
            out.text(&topic.name)?;
        }
        out.count(topic.entries.len())?;
        for entry in topic.entries.iter().filter_map(|index| request.entries.get(*index)) {
            out.scratch.put_i32(entry.partition);
            out.records(&entry.records)?;
            out.no_tags();
        }
        out.no_tags();
    }
    out.no_tags();
    out.finish()
}

struct Encoder {
    scratch: BytesMut,
    /// The first one is the place of the length.
    segments: Vec<Bytes>,
    flexible: bool,
}

impl Encoder {
    fn short_text(&mut self, text: &str) -> Result<()> {
        let length = i16::try_from(text.len()).map_err(|_| too_long("a name"))?;
        self.scratch.put_i16(length);
        self.scratch.put_slice(text.as_bytes());
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<()> {
        if !self.flexible {
            return self.short_text(text);
        }
        self.count(text.len())?;
        self.scratch.put_slice(text.as_bytes());
        Ok(())
    }

    /// The length of an array, of bytes, or of a string in the flexible form.
    fn count(&mut self, count: usize) -> Result<()> {
        let count = i32::try_from(count).map_err(|_| too_long("an array"))?;
        if self.flexible {
            let mut rest = count.unsigned_abs() + 1;
            while rest >= 0x80 {
                self.scratch.put_u8((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            self.scratch.put_u8((rest & 0x7f) as u8);
        } else {
            self.scratch.put_i32(count);
        }
        Ok(())
    }

    fn no_transactional_id(&mut self) {
        if self.flexible { self.scratch.put_u8(0) } else { self.scratch.put_i16(-1) }
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.scratch.put_u8(0);
        }
    }

    fn records(&mut self, batch: &ProduceRecords) -> Result<()> {
        self.count(batch.len())?;
        // A header is short: it goes with what stands before it.
        self.scratch.put_slice(&batch.header);
        self.cut();
        self.segments.extend(Some(&batch.body).filter(|body| !body.is_empty()).cloned());
        Ok(())
    }

    fn cut(&mut self) {
        if !self.scratch.is_empty() {
            self.segments.push(self.scratch.split().freeze());
        }
    }

    fn finish(mut self) -> Result<Vec<Bytes>> {
        self.cut();
        let bytes: usize = self.segments.iter().map(Bytes::len).sum();
        let length = i32::try_from(bytes).map_err(|_| too_long("the request"))?;
        if let Some(place) = self.segments.first_mut() {
            *place = Bytes::copy_from_slice(&length.to_be_bytes());
        }
        Ok(self.segments)
    }
}

fn too_long(what: &str) -> Error {
    Error::Request { api: WireRequest::NAME, problem: format!("{what} is too long") }
}

fn read(
    broker: &Arc<str>,
    frame: Bytes,
    version: i16,
    sent: Sent,
    heap_bytes_max: usize,
) -> Result<ProduceResponse> {
    match plain::read(&frame, version, &sent) {
        Some(response) => Ok(response),
        None => read_in_full(broker, frame, version, sent, heap_bytes_max),
    }
}

fn read_in_full(
    broker: &Arc<str>,
    frame: Bytes,
    version: i16,
    mut sent: Sent,
    heap_bytes_max: usize,
) -> Result<ProduceResponse> {
    let response: WireResponse = decode::decode_from::<WireRequest>(broker, frame, version, heap_bytes_max)?;
    let malformed = |problem: String| decode::malformed::<WireRequest>(broker, version, problem);
    let mut partitions = Vec::new();
    for topic in response.responses {
        let key = if version >= FIRST_WITH_TOPIC_IDS {
            Key::Id(topic.topic_id.into_bytes())
        } else {
            Key::Name(topic.name.as_str().into())
        };
        for partition in topic.partition_responses {
            let Some((name, id)) = sent.take(&key, partition.index) else {
                let index = partition.index;
                return Err(malformed(format!(
                    "it speaks of {key:?}, partition {index}, which was not asked or twice"
                )));
            };
            partitions.push(produced(name, id, &partition));
        }
    }
    // A batch without an answer has an unknown outcome, and so has the whole request.
    sent.unanswered().map_or(Ok(()), |problem| Err(malformed(problem)))?;
    Ok(ProduceResponse { throttle: decode::throttle(response.throttle_time_ms), partitions })
}

/// Reads a foreign frame as the answer to a request for one partition.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(frame: Bytes, version: i16, heap_bytes_max: usize) {
    let records = ProduceRecords::default();
    let entry = ProduceEntry { topic: "topic".into(), topic_id: [7; 16], partition: 0, records };
    let request = ProduceRequest { timeout: Duration::from_secs(1), entries: vec![entry] };
    if let Ok(sent) = Sent::of(&request, version) {
        drop(read(&"broker".into(), frame, version, sent, heap_bytes_max));
    }
}

fn produced(topic: Arc<str>, topic_id: TopicId, answer: &PartitionProduceResponse) -> ProducedPartition {
    let about_records = answer.record_errors.iter().map(|error| {
        let words = error.batch_index_error_message.as_deref().unwrap_or("refused");
        format!("record {}: {words}", error.batch_index)
    });
    let words: Vec<String> =
        answer.error_message.iter().map(ToString::to_string).chain(about_records).collect();
    ProducedPartition {
        topic,
        topic_id,
        partition: answer.index,
        error: ErrorCode(answer.error_code),
        base_offset: answer.base_offset,
        log_append_time: answer.log_append_time_ms,
        log_start_offset: answer.log_start_offset,
        error_message: (!words.is_empty()).then(|| words.join("; ")),
    }
}

#[cfg(test)]
mod tests;
