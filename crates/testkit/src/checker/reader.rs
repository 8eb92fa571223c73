//! Reading partitions, one after the other, with librdkafka's consumer.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::topics::unique_name;

/// One question to a broker; librdkafka repeats it on its own until then.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// Which records are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Those of committed transactions and those outside of transactions.
    Committed,
    /// All.
    Uncommitted,
}

/// A consumer that reads one partition at a time, up to a given end.
pub(super) struct Reader {
    side: &'static str,
    consumer: BaseConsumer,
    partition: (String, i32),
    /// The offset to stop before.
    end: i64,
    finished: bool,
    stall_timeout: Duration,
}

impl Reader {
    pub(super) fn connect(side: &'static str, bootstrap: &str, isolation: Isolation) -> Result<Self> {
        let level = match isolation {
            Isolation::Committed => "read_committed",
            Isolation::Uncommitted => "read_uncommitted",
        };
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            // librdkafka wants a group even where none is joined; nothing is ever committed.
            .set("group.id", unique_name("checker"))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("isolation.level", level)
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "50")
            .set("fetch.error.backoff.ms", "50")
            .set("max.partition.fetch.bytes", "4194304")
            .set("queued.max.messages.kbytes", "8192")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .with_context(|| format!("cannot make a consumer of the {side} cluster"))?;
        Ok(Self {
            side,
            consumer,
            partition: (String::new(), 0),
            end: 0,
            finished: true,
            stall_timeout: QUESTION_TIMEOUT,
        })
    }

    /// How many partitions a topic has; an error if it is not there.
    pub(super) fn partition_count(&self, topic: &str) -> Result<i32> {
        let metadata = self
            .consumer
            .fetch_metadata(Some(topic), QUESTION_TIMEOUT)
            .with_context(|| format!("the {} cluster does not tell about topic {topic}", self.side))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let count = found.filter(|found| found.error().is_none()).map_or(0, |found| found.partitions().len());
        if count == 0 {
            bail!("topic {topic} is not on the {} cluster", self.side);
        }
        i32::try_from(count).context("too many partitions")
    }

    /// Begins to read a partition. Without `start` and `end`: from its first record to its end as of now, which is the
    /// last stable offset where only committed records are seen.
    pub(super) fn open(
        &mut self,
        partition: &(String, i32),
        start: Option<&i64>,
        end: Option<&i64>,
        stall_timeout: Duration,
    ) -> Result<()> {
        self.partition = partition.clone();
        self.stall_timeout = stall_timeout;
        let (low, high) = self.watermarks()?;
        let start = start.copied().unwrap_or(low).max(low);
        self.end = end.copied().unwrap_or(high);
        if self.end > high {
            bail!("{} ends at {high}, before the wanted end {}", self.describe(), self.end);
        }
        self.finished = start >= self.end;
        if self.finished {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&partition.0, partition.1, Offset::Offset(start))
            .with_context(|| format!("cannot read {}", self.describe()))?;
        self.consumer.assign(&list).with_context(|| format!("cannot read {}", self.describe()))
    }

    /// Ends the reading of a partition.
    pub(super) fn close(&mut self) -> Result<()> {
        self.finished = true;
        self.consumer.unassign().with_context(|| format!("cannot stop reading {}", self.describe()))
    }

    /// The next record; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<BorrowedMessage<'_>>> {
        let deadline = Instant::now() + self.stall_timeout;
        while !self.finished {
            match self.consumer.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => {
                    // The last offsets may be control records, which nobody sees.
                    self.finished = message.offset() + 1 >= self.end;
                    return Ok((message.offset() < self.end).then_some(message));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    // Told when the end was reached; a leader that lags behind may tell it too early.
                    self.finished = partition == self.partition.1 && self.watermarks()?.1 >= self.end;
                }
                Some(Err(error)) if is_final(&error) => {
                    return Err(error).with_context(|| format!("cannot read {}", self.describe()));
                }
                Some(Err(error)) => tracing::debug!("reading {}: {error}", self.describe()),
                None => {}
            }
            if Instant::now() >= deadline {
                bail!(
                    "nothing arrives from {} for {:?}, wanted end {}",
                    self.describe(),
                    self.stall_timeout,
                    self.end
                );
            }
        }
        Ok(None)
    }

    /// First and end offset. Leaders move, and the first broker that is asked may be one that was a leader.
    fn watermarks(&self) -> Result<(i64, i64)> {
        let deadline = Instant::now() + QUESTION_TIMEOUT;
        loop {
            match self.consumer.fetch_watermarks(&self.partition.0, self.partition.1, QUESTION_TIMEOUT) {
                Err(error) if !is_final(&error) && Instant::now() < deadline => {
                    tracing::debug!("asking for the offsets of {}: {error}", self.describe());
                    std::thread::sleep(POLL_TIMEOUT);
                }
                answer => {
                    return answer
                        .with_context(|| format!("cannot ask for the offsets of {}", self.describe()));
                }
            }
        }
    }

    fn describe(&self) -> String {
        format!("{}-{} on the {} cluster", self.partition.0, self.partition.1, self.side)
    }
}

/// Connections come back, topics and offsets don't.
fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::TopicAuthorizationFailed
        )
    )
}
