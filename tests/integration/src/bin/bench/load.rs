//! Makes the data, once for all rows: random bytes, so that nothing compresses by accident.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

/// A data set.
#[derive(Debug, Clone)]
pub(crate) struct DataSet {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    pub(crate) records: u64,
    pub(crate) value_bytes: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) codec: &'static str,
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

/// Creates a topic.
pub(crate) async fn create_topic(bootstrap: &str, topic: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for created in admin.create_topics([&new], &AdminOptions::new()).await? {
        created.map_err(|(name, code)| anyhow::anyhow!("creating {name}: {code}"))?;
    }
    Ok(())
}

/// Produces the whole data set with acks=all.
pub(crate) fn produce(bootstrap: &str, set: &DataSet, seed: u64) -> Result<()> {
    let producer: BaseProducer = client(bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("batch.size", set.batch_bytes.to_string())
        .set("batch.num.messages", "1000000")
        .set("linger.ms", "50")
        .set("compression.type", set.codec)
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "2000000")
        .create()?;
    let pool = random_bytes(set.value_bytes + (1 << 20), seed);
    for n in 0..set.records {
        let start = usize::try_from(n.wrapping_mul(7_919) % (1 << 20)).unwrap_or(0);
        let value = pool.get(start..start + set.value_bytes).context("the pool is too small")?;
        let partition = i32::try_from(n % u64::try_from(set.partitions)?)?;
        let mut record: BaseRecord<'_, (), [u8]> =
            BaseRecord::to(&set.topic).payload(value).partition(partition);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    producer.poll(Duration::from_millis(10));
                    record = again;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if n % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_mins(2))?;
    Ok(())
}

fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

/// Records in a topic, by its end offsets; 0 while it does not exist.
pub(crate) fn count(consumer: &BaseConsumer, topic: &str, partitions: i32) -> u64 {
    (0..partitions)
        .filter_map(|p| consumer.fetch_watermarks(topic, p, Duration::from_secs(5)).ok())
        .map(|(low, high)| u64::try_from(high - low).unwrap_or(0))
        .sum()
}

/// A client for [`count`].
pub(crate) fn counter(bootstrap: &str) -> Result<BaseConsumer> {
    let mut config = client(bootstrap);
    config.set("group.id", "bench-counter").set("allow.auto.create.topics", "false");
    Ok(config.create()?)
}
