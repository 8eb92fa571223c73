//! Reading an internal topic from its beginning up to its end.
//!
//! Owns the reader's position. The end is asked for with our own client, without blocking a thread; librdkafka is only
//! started when there is something to read, and is idle between calls: it fetches nothing and asks nobody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::util::Timeout;
use rdkafka::{Offset, TopicPartitionList};

use super::context::Quiet;
use super::{base_config, failed};
use crate::admin::{OffsetQuery, OffsetSpec};
use crate::client::{Client, worth_asking_again};
use crate::error::{Class, Error, ErrorCode, Result};

/// Internal topics have one partition.
const PARTITION: i32 = 0;
/// A fetch at the end of the log is answered after this time, so that the end is noticed soon.
const FETCH_WAIT_MS: &str = "5";
/// What is read ahead at most. librdkafka's own 64 MiB would be held by every flow of a worker while it starts.
const AHEAD_KBYTES: &str = "2048";
const AHEAD_RECORDS: &str = "10000";

/// A record of an internal topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalRecord {
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its timestamp in ms, -1 if it has none.
    pub timestamp_ms: i64,
}

/// Reads partition 0 of one topic, committed records only, each once.
pub struct InternalReader {
    client: Client,
    topic: Arc<str>,
    /// Taken out only to be dropped.
    consumer: Option<Arc<StreamConsumer<Quiet>>>,
    /// The first offset that has not been returned.
    next: i64,
    /// Whether librdkafka has met the cluster.
    introduced: bool,
    timeout: Duration,
}

impl InternalReader {
    /// A reader that stands at the beginning of a topic. `client` must be one of the same cluster. It is asked for the end
    /// before each reading, and compares the cluster id on its connections, which librdkafka does not.
    ///
    /// # Errors
    /// [`Error::Librdkafka`] for properties that librdkafka does not know.
    pub async fn open(client: &Client, topic: &str) -> Result<Self> {
        let config = client.config();
        let topic: Arc<str> = topic.into();
        let mut native = base_config(config);
        // No group is joined, but librdkafka wants a name for one before it assigns anything.
        native.set("group.id", format!("{}-internal", config.client_id));
        native.set("enable.auto.commit", "false");
        native.set("enable.auto.offset.store", "false");
        native.set("enable.partition.eof", "true");
        native.set("auto.offset.reset", "earliest");
        native.set("isolation.level", "read_committed");
        native.set("fetch.wait.max.ms", FETCH_WAIT_MS);
        native.set("queued.max.messages.kbytes", AHEAD_KBYTES);
        native.set("queued.min.messages", AHEAD_RECORDS);
        native.set("fetch.error.backoff.ms", "20");
        let about = Arc::clone(&topic);
        let consumer = blocking("make a reader for", &topic, move || {
            native.create_with_context(Quiet).map_err(|error| failed("make a reader for", &about, &error))
        })
        .await?;
        let timeout = config.limits.admin_timeout;
        Ok(Self {
            client: client.clone(),
            topic,
            consumer: Some(Arc::new(consumer)),
            next: 0,
            introduced: false,
            timeout,
        })
    }

    /// All records that have not been returned yet, up to the end that the log has now; a few newer ones may come too.
    ///
    /// After an error it can be called again: nothing is lost, nothing comes twice.
    ///
    /// # Errors
    /// [`Error::LogTruncated`] if the log ends before what has been returned: open a new reader.
    /// [`Error::Deadline`] if nothing comes for as long as an administrative call may take.
    pub async fn read_to_end(&mut self) -> Result<Vec<InternalRecord>> {
        let end = self.end().await?;
        if end < self.next {
            let topic = Arc::clone(&self.topic);
            return Err(Error::LogTruncated { topic, partition: PARTITION, position: self.next, end });
        }
        if end == self.next {
            return Ok(Vec::new());
        }
        let consumer = self.consumer.clone().ok_or_else(|| self.problem("read", "the reader is closed"))?;
        self.introduce(&consumer).await?;
        // Assigned anew each time: only an end that is reported after this is the end as it is now.
        self.assign(&consumer, Some(self.next)).await?;
        let outcome = self.collect(&consumer, end).await;
        let unassigned = self.assign(&consumer, None).await;
        let records = outcome?;
        unassigned?;
        self.next = records.last().map_or(end, |record| end.max(record.offset + 1));
        Ok(records)
    }

    /// Releases librdkafka's threads and connections, without holding up the runtime.
    pub async fn close(mut self) {
        if let Some(consumer) = self.consumer.take() {
            drop(tokio::task::spawn_blocking(move || drop(consumer)).await);
        }
    }

    /// One past the last record that a reader of committed records sees.
    async fn end(&self) -> Result<i64> {
        let query = OffsetQuery {
            topic: Arc::clone(&self.topic),
            partition: PARTITION,
            spec: OffsetSpec::Latest,
            leader_epoch: -1,
        };
        let queries = [query];
        let client = &self.client;
        client
            .retrying("finding the end of an internal topic", worth_asking_again, || async {
                let listed = client.list_offsets(&queries, true).await?;
                let code =
                    listed.first().map_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, |listed| listed.error);
                match listed.first() {
                    Some(listed) if code.is_ok() => Ok(listed.offset),
                    _ => Err(Error::Partition {
                        topic: Arc::clone(&self.topic),
                        partition: PARTITION,
                        api: "ListOffsets",
                        code,
                        message: None,
                    }),
                }
            })
            .await
    }

    /// Lets librdkafka connect and learn the leader. It looks for a leader when it is assigned a partition, and if no
    /// connection stands by then, only again when a timer of half a second rings.
    async fn introduce(&mut self, consumer: &Arc<StreamConsumer<Quiet>>) -> Result<()> {
        if self.introduced {
            return Ok(());
        }
        let consumer = Arc::clone(consumer);
        let topic = Arc::clone(&self.topic);
        let timeout = self.timeout;
        blocking("find", &self.topic, move || {
            let found = consumer.fetch_metadata(Some(&topic), Timeout::After(timeout));
            found.map(drop).map_err(|error| failed("find", &topic, &error))
        })
        .await?;
        self.introduced = true;
        Ok(())
    }

    /// Starts fetching at `from`, or stops.
    async fn assign(&self, consumer: &Arc<StreamConsumer<Quiet>>, from: Option<i64>) -> Result<()> {
        let consumer = Arc::clone(consumer);
        let topic = Arc::clone(&self.topic);
        // Both wait for librdkafka's main thread.
        blocking("position the reader of", &self.topic, move || {
            let assigned = match from {
                None => consumer.unassign(),
                Some(offset) => {
                    let mut list = TopicPartitionList::with_capacity(1);
                    list.add_partition_offset(&topic, PARTITION, Offset::Offset(offset))
                        .and_then(|()| consumer.assign(&list))
                }
            };
            assigned.map_err(|error| failed("position the reader of", &topic, &error))
        })
        .await
    }

    async fn collect(&self, consumer: &StreamConsumer<Quiet>, end: i64) -> Result<Vec<InternalRecord>> {
        let mut records = Vec::new();
        let mut expected = self.next;
        let mut last_error = None;
        loop {
            let Ok(received) = tokio::time::timeout(self.timeout, consumer.recv()).await else {
                let last = last_error.unwrap_or_else(|| self.problem("read", "nothing came"));
                let (operation, timeout) = ("reading an internal topic", self.timeout);
                return Err(Error::Deadline { operation, timeout, last: Box::new(last) });
            };
            match received {
                Ok(message) if message.offset() >= expected => {
                    let offset = message.offset();
                    records.push(InternalRecord {
                        offset,
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().map(<[u8]>::to_vec),
                        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                    });
                    expected = offset + 1;
                    if expected >= end {
                        return Ok(records);
                    }
                }
                // From an earlier assignment.
                Ok(_) => {}
                // What is left up to the end was compacted away or is a transaction's marker.
                Err(KafkaError::PartitionEOF(_)) => return Ok(records),
                Err(error) => {
                    let error = failed("read", &self.topic, &error);
                    if error.class() != Class::Retriable {
                        return Err(error);
                    }
                    last_error = Some(error);
                }
            }
        }
    }

    fn problem(&self, operation: &'static str, problem: &str) -> Error {
        let topic = Arc::clone(&self.topic);
        Error::Librdkafka { operation, topic, problem: problem.to_owned(), class: Class::Retriable }
    }
}

impl Drop for InternalReader {
    fn drop(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        // Closing waits for librdkafka's threads; outside of a runtime that may as well happen here.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(consumer)));
        }
    }
}

impl fmt::Debug for InternalReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalReader")
            .field("topic", &self.topic)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Runs what may block on a thread that may be blocked.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    topic: &Arc<str>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let topic = Arc::clone(topic);
        Err(Error::Librdkafka { operation, topic, problem: error.to_string(), class: Class::Retriable })
    })
}
