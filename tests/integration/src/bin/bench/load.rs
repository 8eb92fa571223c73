//! Makes the data, once for all rows, and looks at topics with a client that is not ours.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mirrormesh_testkit::topics::Topic;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

/// Values begin anywhere in this many bytes, so that no two records of a batch are the same.
const POOL_BYTES: usize = 1 << 20;
/// Compressible values are cut into pieces of this size.
const PIECE_BYTES: usize = 32;
/// How many different pieces there are.
const PIECES: usize = 128;
/// Above this number of partitions the producer waits longer for full batches.
const MANY_PARTITIONS: i32 = 16;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A new topic takes writes after this time at most.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_STEP: Duration = Duration::from_millis(20);
/// What a broker answers about a partition that is being made.
const UNREADY: [RDKafkaErrorCode; 4] = [
    RDKafkaErrorCode::NotLeaderForPartition,
    RDKafkaErrorCode::LeaderNotAvailable,
    RDKafkaErrorCode::UnknownTopicOrPartition,
    RDKafkaErrorCode::UnknownPartition,
];

/// What values are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Random bytes: nothing compresses by accident.
    Random,
    /// One half random, the other from a small set of pieces: compresses to somewhat more than a half.
    Half,
}

/// A data set.
#[derive(Debug, Clone)]
pub(crate) struct DataSet {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    pub(crate) records: u64,
    pub(crate) value_bytes: usize,
    pub(crate) batch_bytes: usize,
    /// At most so many records in a batch.
    pub(crate) batch_records: u32,
    pub(crate) codec: &'static str,
    pub(crate) fill: Fill,
    /// How much older than the clock the records' timestamps are when they are produced.
    pub(crate) age: Duration,
}

impl DataSet {
    /// The same data with timestamps of now, in a topic of its own.
    pub(crate) fn new_records(&self) -> Self {
        Self { topic: format!("{}-new", self.topic), age: Duration::ZERO, ..self.clone() }
    }

    /// Bytes of all values.
    pub(crate) fn bytes(&self) -> u64 {
        self.records.saturating_mul(u64::try_from(self.value_bytes).unwrap_or(u64::MAX))
    }
}

/// A configuration that reaches a cluster.
pub(crate) fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("allow.auto.create.topics", "false");
    config
}

fn admin(bootstrap: &str) -> Result<(AdminClient<DefaultClientContext>, AdminOptions)> {
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_mins(1)));
    Ok((client(bootstrap).create()?, options.request_timeout(Some(Duration::from_mins(1)))))
}

/// Creates a topic with one replica and waits until its partitions can be written to.
pub(crate) async fn create_topic(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    create(bootstrap, &Topic::new(topic, partitions)).await
}

/// A topic from which retention deletes nothing, however old its records are.
pub(crate) fn keeps_all(topic: &str, partitions: i32) -> Topic {
    Topic::new(topic, partitions).setting("retention.ms", "-1")
}

/// Creates a topic and waits until its partitions can be written to.
pub(crate) async fn create(bootstrap: &str, topic: &Topic) -> Result<()> {
    let (admin, options) = admin(bootstrap)?;
    let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replicas));
    let new = topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    for created in admin.create_topics([&new], &options).await? {
        created.map_err(|(name, code)| anyhow::anyhow!("creating {name}: {code}"))?;
    }
    let mut counter = Counter::new(bootstrap, &topic.name, topic.partitions)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    while !counter.is_ready()? {
        let name = &topic.name;
        ensure!(Instant::now() < deadline, "{name} was made, but is not ready within {READY_TIMEOUT:?}");
        tokio::time::sleep(READY_STEP).await;
    }
    Ok(())
}

/// Deletes topics; those that are not there don't matter.
pub(crate) async fn delete_topics(bootstrap: &str, topics: &[&str]) -> Result<()> {
    let (admin, options) = admin(bootstrap)?;
    admin.delete_topics(topics, &options).await?;
    Ok(())
}

/// Produces the whole data set with acks=all.
pub(crate) fn produce(bootstrap: &str, set: &DataSet, seed: u64) -> Result<()> {
    // Batches of one record each are sent without the bound on requests in flight that idempotence has.
    let idempotent = set.batch_records > 1;
    // Batches of many partitions fill up slowly.
    let linger_ms = if set.partitions > MANY_PARTITIONS { 1_000 } else { 50 };
    let producer: BaseProducer = client(bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", if idempotent { "true" } else { "false" })
        .set("retries", if idempotent { "2147483647" } else { "0" })
        .set("batch.size", set.batch_bytes.to_string())
        .set("batch.num.messages", set.batch_records.to_string())
        .set("linger.ms", linger_ms.to_string())
        .set("compression.type", set.codec)
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "2000000")
        .create()?;
    let pool = pool(set.fill, set.value_bytes + POOL_BYTES, seed);
    let partitions = u64::try_from(set.partitions)?;
    for n in 0..set.records {
        let start = usize::try_from(n.wrapping_mul(7_919) % (POOL_BYTES as u64)).unwrap_or(0);
        let value = pool.get(start..start + set.value_bytes).context("the pool is too small")?;
        let mut record = BaseRecord::to(&set.topic).payload(value).partition(i32::try_from(n % partitions)?);
        if !set.age.is_zero() {
            record = record.timestamp(before_now_ms(set.age)?);
        }
        send(&producer, record)?;
        if n % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_mins(2))?;
    Ok(())
}

/// The time that was so long ago, in milliseconds since 1970.
fn before_now_ms(age: Duration) -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(i64::try_from(now.saturating_sub(age).as_millis())?)
}

/// Sends a record, waiting while the producer's queue is full.
pub(crate) fn send(producer: &BaseProducer, record: BaseRecord<'_, (), [u8]>) -> Result<()> {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                producer.poll(Duration::from_millis(10));
                record = again;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Bytes that values are cut from.
pub(crate) fn pool(fill: Fill, bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    let mut random = |count: usize| (0..count).map(|_| next().to_be_bytes()[0]).collect::<Vec<u8>>();
    if fill == Fill::Random {
        return random(bytes);
    }
    let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| random(PIECE_BYTES)).collect();
    let mut made = Vec::with_capacity(bytes + PIECE_BYTES);
    while made.len() < bytes {
        let choice = random(2);
        match choice.as_slice() {
            [kind, piece] if kind % 2 == 0 => {
                made.extend(pieces.get(usize::from(*piece) % PIECES).into_iter().flatten());
            }
            _ => made.extend(random(PIECE_BYTES)),
        }
    }
    made.truncate(bytes);
    made
}

/// Looks at a topic through end offsets.
pub(crate) struct Counter {
    consumer: BaseConsumer,
    topic: String,
    partitions: i32,
    there: bool,
}

impl Counter {
    /// A view of a topic that may not exist yet.
    pub(crate) fn new(bootstrap: &str, topic: &str, partitions: i32) -> Result<Self> {
        let consumer = client(bootstrap).set("group.id", "bench-counter").create()?;
        Ok(Self { consumer, topic: topic.to_owned(), partitions, there: false })
    }

    /// Records in it, by its offsets; 0 while it does not exist.
    pub(crate) fn count(&mut self) -> Result<u64> {
        Ok(self.counts()?.into_iter().sum())
    }

    /// Records in each partition; empty while the topic does not exist.
    pub(crate) fn counts(&mut self) -> Result<Vec<u64>> {
        if !self.is_there()? {
            return Ok(Vec::new());
        }
        let mut counts = Vec::new();
        for partition in 0..self.partitions {
            match self.held(partition)? {
                Some(count) => counts.push(count),
                None => return Ok(Vec::new()),
            }
        }
        Ok(counts)
    }

    /// Whether it exists. A question about the offsets of an absent topic would wait for it.
    fn is_there(&mut self) -> Result<bool> {
        if self.there {
            return Ok(true);
        }
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ASK_TIMEOUT)?;
        let found = metadata.topics().iter().find(|t| t.name() == self.topic && t.error().is_none());
        let led = found.map_or(0, |t| t.partitions().iter().filter(|p| p.leader() >= 0).count());
        self.there = led >= usize::try_from(self.partitions)?;
        Ok(self.there)
    }

    /// Whether the first and the last partition can be asked.
    fn is_ready(&mut self) -> Result<bool> {
        Ok(self.is_there()? && self.held(0)?.is_some() && self.held(self.partitions - 1)?.is_some())
    }

    /// Records in one partition; nothing while its leader does not know yet that it is.
    fn held(&self, partition: i32) -> Result<Option<u64>> {
        match self.consumer.fetch_watermarks(&self.topic, partition, ASK_TIMEOUT) {
            Ok((low, high)) => Ok(Some(u64::try_from(high - low)?)),
            Err(KafkaError::MetadataFetch(code)) if UNREADY.contains(&code) => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("asking for the end of {}-{partition}", self.topic))
            }
        }
    }
}
