//! Writing records to internal topics: small, compacted, of one partition.
//!
//! Owns the order of appends: one request of a topic is in flight at a time, and a request is repeated under the same
//! sequence until its outcome is known, so that nothing is appended twice and no record overtakes another. Must not know
//! what the records mean.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::admin::ProducerIdentity;
use crate::backoff::Backoff;
use crate::batch::{Codec, Producer, Record, encode_records};
use crate::client::{self, Client, RETRY_MAX, RETRY_MIN};
use crate::error::{Class, Error, ErrorCode, Result};
use crate::wire::produce::{ProduceEntry, ProduceRecords, ProduceRequest};

/// Internal topics have one partition.
const PARTITION: i32 = 0;
/// Of the time that a request has, the broker may wait so much for its followers: its answer says more than silence.
const BROKER_PART: f64 = 0.6;
/// Records of one batch, and bytes of their keys and values. Far below what a broker takes by default (1 MiB).
const BATCH_RECORDS_MAX: usize = 5_000;
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Writes of one topic that wait for their turn; who comes later waits to be let in.
const WAITING_MAX: usize = 1_000;

/// A record for an internal topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its timestamp in ms.
    pub timestamp_ms: i64,
}

impl NewRecord {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// An idempotent writer with acks=all. Clones share it.
#[derive(Clone)]
pub struct InternalWriter {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    // Lock: held only to look up or insert.
    topics: Mutex<HashMap<Arc<str>, mpsc::Sender<Waiting>>>,
}

/// Records that are to be appended together, and who waits for that.
struct Waiting {
    records: Vec<NewRecord>,
    done: oneshot::Sender<Result<i64>>,
}

impl InternalWriter {
    /// A writer that has not connected to anything yet.
    pub fn new(client: Client) -> Self {
        Self { inner: Arc::new(Inner { client, topics: Mutex::default() }) }
    }

    /// Appends one record to partition 0 and returns its offset, -1 if the broker had the record already.
    ///
    /// # Errors
    /// As [`InternalWriter::write`].
    pub async fn send(&self, topic: &str, record: NewRecord) -> Result<i64> {
        self.append(topic, vec![record]).await
    }

    /// Appends records to partition 0, in order, and waits until they are acknowledged. Records of one topic are appended
    /// in the order in which the futures of their calls are first polled. What waits at one time shares a request.
    ///
    /// # Errors
    /// [`Error::Deadline`] if no broker took the records in the time of `Limits::admin_timeout`: they may have been
    /// appended. A broker's refusal otherwise. Of many records the first ones may be there.
    pub async fn write(&self, topic: &str, records: Vec<NewRecord>) -> Result<()> {
        let (mut portion, mut bytes) = (Vec::new(), 0);
        for record in records {
            let more = record.bytes();
            if !portion.is_empty() && !fits(portion.len() + 1, bytes + more) {
                self.append(topic, std::mem::take(&mut portion)).await?;
                bytes = 0;
            }
            bytes += more;
            portion.push(record);
        }
        if portion.is_empty() {
            return Ok(());
        }
        self.append(topic, portion).await.map(drop)
    }

    async fn append(&self, topic: &str, records: Vec<NewRecord>) -> Result<i64> {
        let (done, outcome) = oneshot::channel();
        let ended = || Error::Request { api: "Produce", problem: format!("the writer to {topic} has ended") };
        self.topic(topic).send(Waiting { records, done }).await.map_err(|_| ended())?;
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// The queue of a topic; its task ends with the writer.
    fn topic(&self, topic: &str) -> mpsc::Sender<Waiting> {
        let mut topics = self.inner.topics.lock();
        if let Some(queue) = topics.get(topic).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let name: Arc<str> = topic.into();
        let client = self.inner.client.clone();
        let lane =
            Lane { client, topic: Arc::clone(&name), producer: None, sequence: 0, waiting, next: None };
        tokio::spawn(lane.run());
        topics.insert(name, queue.clone());
        queue
    }
}

impl fmt::Debug for InternalWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalWriter").field("client", &self.inner.client).finish_non_exhaustive()
    }
}

/// Whether so many records with so many bytes may be one batch.
fn fits(records: usize, bytes: usize) -> bool {
    records <= BATCH_RECORDS_MAX && bytes <= BATCH_BYTES_MAX
}

/// The task of one topic.
struct Lane {
    client: Client,
    topic: Arc<str>,
    /// Who appends; `None` until a producer id is needed.
    producer: Option<ProducerIdentity>,
    /// The sequence of the next record.
    sequence: i32,
    waiting: mpsc::Receiver<Waiting>,
    /// Taken from the queue, but too large for the batch before.
    next: Option<Waiting>,
}

impl Lane {
    async fn run(mut self) {
        loop {
            let first = match self.next.take() {
                Some(first) => first,
                None => match self.waiting.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            let together = self.gather(first);
            if together.is_empty() {
                continue;
            }
            let outcome = self.append(&together).await;
            let mut ahead = 0_i64;
            for waiting in together {
                let count = i64::try_from(waiting.records.len()).unwrap_or(0);
                let own = outcome.clone().map(|base| if base < 0 { base } else { base + ahead });
                ahead += count;
                // Who waited may have given up.
                drop(waiting.done.send(own));
            }
        }
    }

    /// Adds what waits as well, as far as it fits. Leaves out the records of those who gave up waiting.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let (mut together, mut records, mut bytes) = (Vec::new(), 0, 0);
        let mut candidate = Some(first);
        while let Some(waiting) = candidate {
            if !waiting.done.is_closed() {
                let more: usize = waiting.records.iter().map(NewRecord::bytes).sum();
                if !together.is_empty() && !fits(records + waiting.records.len(), bytes + more) {
                    self.next = Some(waiting);
                    break;
                }
                records += waiting.records.len();
                bytes += more;
                together.push(waiting);
            }
            candidate = self.waiting.try_recv().ok();
        }
        together
    }

    /// Appends the records as one batch and returns its base offset. Repeats the request until the outcome is known, the
    /// time is over, or nobody waits for it any more.
    async fn append(&mut self, together: &[Waiting]) -> Result<i64> {
        let records: Vec<Record> = together.iter().flat_map(|waiting| &waiting.records).map(record).collect();
        let timeout = self.client.limits().admin_timeout;
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let operation = "writing to an internal topic";
        let mut last = Error::Timeout { broker: "the cluster".into(), api: operation, timeout };
        // Whether the broker may have appended the records.
        let mut sent = false;
        while together.iter().any(|waiting| !waiting.done.is_closed()) {
            match tokio::time::timeout_at(deadline, self.attempt(&records, &mut sent)).await {
                Ok(Ok(base_offset)) => {
                    self.sequence = following(self.sequence, records.len());
                    return Ok(base_offset);
                }
                Ok(Err(error)) if self.again(&error) => last = error,
                Ok(Err(error)) => {
                    self.fence(sent);
                    return Err(error);
                }
                Err(_) => break,
            }
            let pause = backoff.delay();
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        self.fence(sent);
        Err(Error::Deadline { operation, timeout, last: Box::new(last) })
    }

    /// One request. `sent` is set before the request can reach a broker.
    async fn attempt(&mut self, records: &[Record], sent: &mut bool) -> Result<i64> {
        let identity = if let Some(identity) = self.producer {
            identity
        } else {
            self.sequence = 0;
            *self.producer.insert(self.client.init_producer_id().await?)
        };
        let producer = Producer {
            producer_id: identity.producer_id,
            epoch: identity.epoch,
            base_sequence: self.sequence,
        };
        let batch = encode_records(records, Codec::None, producer)?;
        let answer = self.produce(batch.into(), sent).await;
        if let Err(error) = &answer
            && (error.is_connection_error() || error.code().is_some_and(ErrorCode::is_leader_error))
        {
            self.client.invalidate(&self.topic, PARTITION);
        }
        answer
    }

    async fn produce(&self, records: ProduceRecords, sent: &mut bool) -> Result<i64> {
        let leader = self.client.leader(&self.topic, PARTITION).await?;
        let connection =
            self.client.connection(leader.node_id, client::ConnectionRole::InternalTopics).await?;
        let entry = ProduceEntry {
            topic: Arc::clone(&self.topic),
            topic_id: leader.topic_id,
            partition: PARTITION,
            records,
        };
        let timeout = self.client.limits().request_timeout;
        let wait = timeout.mul_f64(BROKER_PART).max(Duration::from_millis(1));
        let request = ProduceRequest { timeout: wait, entries: vec![entry] };
        let answer = connection.produce_enqueue(&request).await?;
        *sent = true;
        let Ok(answered) = tokio::time::timeout(timeout, answer).await else {
            // A repeated request must not wait behind this one.
            connection.close();
            return Err(Error::Timeout { broker: connection.broker().into(), api: "Produce", timeout });
        };
        let response = answered?;
        let malformed =
            || Error::Request { api: "Produce", problem: "its answer has no partition".to_owned() };
        let produced = response.partitions.into_iter().next().ok_or_else(malformed)?;
        match produced.error {
            // The first time counted: the answer to it was lost.
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER => Ok(-1),
            code if code.is_ok() => Ok(produced.base_offset),
            code => Err(Error::Partition {
                topic: Arc::clone(&self.topic),
                partition: PARTITION,
                api: "Produce",
                code,
                message: produced.error_message.map(Into::into),
            }),
        }
    }

    /// Whether the request is worth repeating. A broker that lost what it knew of our producer id, or that another epoch
    /// was used with, gets a new one.
    fn again(&mut self, error: &Error) -> bool {
        match error.code() {
            Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER | ErrorCode::UNKNOWN_PRODUCER_ID) => {
                self.fence(true);
                true
            }
            Some(ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::INVALID_PRODUCER_ID_MAPPING) => {
                self.producer = None;
                true
            }
            _ => error.class() == Class::Retriable,
        }
    }

    /// Makes sure that the broker refuses what may still be in flight: it would come after what is written from now on.
    fn fence(&mut self, sent: bool) {
        if !sent {
            return;
        }
        self.sequence = 0;
        self.producer = self.producer.and_then(|identity| {
            let epoch = identity.epoch.checked_add(1)?;
            Some(ProducerIdentity { epoch, ..identity })
        });
    }
}

/// The sequence behind so many records; it begins again at 0 behind the largest one.
fn following(sequence: i32, records: usize) -> i32 {
    let next = (i64::from(sequence) + i64::try_from(records).unwrap_or(0)) & i64::from(i32::MAX);
    i32::try_from(next).unwrap_or(0)
}

fn record(new: &NewRecord) -> Record {
    Record {
        offset: 0,
        timestamp: new.timestamp_ms,
        key: Some(Bytes::copy_from_slice(&new.key)),
        value: new.value.as_deref().map(Bytes::copy_from_slice),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
