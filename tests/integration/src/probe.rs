//! Looks at and prods a Kafka cluster with rdkafka: an independent view, apart from the product's own client.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mirrormesh_kafka::Client;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::{Offset, Timestamp, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(10);

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("allow.auto.create.topics", "false");
    config
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("interrupted")?
}

fn reader(bootstrap: &str, isolation: Isolation) -> Result<BaseConsumer> {
    let level = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    Ok(consumer_config(bootstrap, "probe").set("isolation.level", level).create()?)
}

fn consumer(bootstrap: &str, group: &str) -> Result<BaseConsumer> {
    Ok(consumer_config(bootstrap, group).create()?)
}

fn consumer_config(bootstrap: &str, group: &str) -> ClientConfig {
    let mut config = client(bootstrap);
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.message.max.bytes", "50000000")
        .set("fetch.max.bytes", "100000000")
        .set("receive.message.max.bytes", "120000000");
    config
}

/// First and end offset of each partition; empty while the topic does not exist.
fn watermarks(consumer: &BaseConsumer, topic: &str) -> Result<Vec<(i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let partitions = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
    let mut numbers: Vec<i32> = partitions
        .into_iter()
        .flat_map(rdkafka::metadata::MetadataTopic::partitions)
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|partition| ends(consumer, topic, partition)).collect()
}

/// First and end offset of a partition that the cluster has. A client that is new does not always know its leader at
/// once.
fn ends(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64)> {
    let deadline = std::time::Instant::now() + TIMEOUT;
    loop {
        match consumer.fetch_watermarks(topic, partition, TIMEOUT) {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition))
                if std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            ends => return Ok(ends?),
        }
    }
}

/// Names of all topics, those of MirrorMaker 2 and of the mesh included. Without `__consumer_offsets`: a broker makes it for
/// any client that has a group, so for the readers of the tests too.
pub async fn topics(bootstrap: &str) -> Result<std::collections::BTreeSet<String>> {
    let bootstrap = bootstrap.to_owned();
    blocking(move || {
        let metadata = consumer(&bootstrap, "probe")?.fetch_metadata(None, TIMEOUT)?;
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        Ok(names.filter(|name| name != "__consumer_offsets").collect())
    })
    .await
}

/// End offset of each partition.
pub async fn end_offsets(bootstrap: &str, topic: &str) -> Result<Vec<i64>> {
    Ok(offsets(bootstrap, topic).await?.into_iter().map(|(_, end)| end).collect())
}

/// First and end offset of each partition.
pub async fn offsets(bootstrap: &str, topic: &str) -> Result<Vec<(i64, i64)>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || watermarks(&consumer(&bootstrap, "probe")?, &topic)).await
}

/// Offsets that topics hold, summed; exact counts where there are no markers and no compaction.
pub async fn count(bootstrap: &str, topics: &[&str]) -> Result<u64> {
    let (bootstrap, topics) =
        (bootstrap.to_owned(), topics.iter().map(|&t| t.to_owned()).collect::<Vec<_>>());
    blocking(move || {
        let consumer = consumer(&bootstrap, "probe")?;
        let mut sum = 0;
        for topic in &topics {
            sum += watermarks(&consumer, topic)?.into_iter().map(|(start, end)| end - start).sum::<i64>();
        }
        Ok(u64::try_from(sum)?)
    })
    .await
}

/// Node id of a partition's leader (-1: none) and those of its replicas in sync, as the cluster tells now.
pub async fn leadership(bootstrap: &str, topic: &str, partition: i32) -> Result<(i32, Vec<i32>)> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || {
        let metadata = consumer(&bootstrap, "probe")?.fetch_metadata(Some(&topic), TIMEOUT)?;
        let mut partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
        let found = partitions.find(|p| p.id() == partition).context("no such partition")?;
        let mut in_sync = found.isr().to_vec();
        in_sync.sort_unstable();
        Ok((found.leader(), in_sync))
    })
    .await
}

/// Raises a topic's number of partitions.
pub async fn grow(bootstrap: &str, topic: &str, partitions: usize) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    for grown in
        admin.create_partitions([&NewPartitions::new(topic, partitions)], &AdminOptions::new()).await?
    {
        if let Err((name, code)) = grown {
            bail!("cannot grow {name}: {code}");
        }
    }
    Ok(())
}

/// Deletes the records of a partition before an offset, as retention would.
pub async fn delete_records(bootstrap: &str, topic: &str, partition: i32, before: i64) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, Offset::Offset(before))?;
    admin.delete_records(&offsets, &AdminOptions::new()).await?;
    Ok(())
}

/// Commits an offset for a group.
pub async fn commit(bootstrap: &str, group: &str, topic: &str, partition: i32, offset: i64) -> Result<()> {
    let (bootstrap, group, topic) = (bootstrap.to_owned(), group.to_owned(), topic.to_owned());
    blocking(move || {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
        Ok(consumer(&bootstrap, &group)?.commit(&offsets, CommitMode::Sync)?)
    })
    .await
}

/// Produces records with the present time, one after the other.
pub async fn produce(bootstrap: &str, topic: &str, records: usize) -> Result<()> {
    let producer: FutureProducer = client(bootstrap).set("linger.ms", "0").create()?;
    for n in 0..records {
        let value = format!("record {n}");
        let record: FutureRecord<'_, (), String> = FutureRecord::to(topic).payload(&value);
        producer.send(record, TIMEOUT).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// Sends records to partition 0 in order, with a producer that is set up like this, and waits until all are there.
pub async fn send(
    bootstrap: &str,
    settings: &[(&str, &str)],
    topic: &str,
    records: Vec<Plain>,
) -> Result<()> {
    send_to(bootstrap, settings, (topic, 0), records).await
}

/// As [`send`], to any partition.
pub async fn send_to(
    bootstrap: &str,
    settings: &[(&str, &str)],
    place: (&str, i32),
    records: Vec<Plain>,
) -> Result<()> {
    send_records(bootstrap, settings, place, records.into_iter().map(Record::from).collect()).await
}

/// As [`send_to`], with headers.
pub async fn send_records(
    bootstrap: &str,
    settings: &[(&str, &str)],
    (topic, partition): (&str, i32),
    records: Vec<Record>,
) -> Result<()> {
    let mut config = client(bootstrap);
    config.set("enable.idempotence", "true");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    let producer: FutureProducer = config.create()?;
    let mut sent = Vec::with_capacity(records.len());
    for record in &records {
        let timestamp = record.timestamp.to_millis().unwrap_or(-1);
        let mut message: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic).partition(partition).timestamp(timestamp);
        message.key = record.key.as_deref();
        message.payload = record.value.as_deref();
        message.headers = (!record.headers.is_empty()).then(|| headers(&record.headers));
        loop {
            match producer.send_result(message) {
                Ok(delivery) => break sent.push(delivery),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    message = refused;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    for delivery in sent {
        delivery.await?.map_err(|(error, _)| error)?;
    }
    Ok(())
}

fn headers(all: &[(String, Option<Vec<u8>>)]) -> OwnedHeaders {
    let empty = OwnedHeaders::new_with_capacity(all.len());
    all.iter().fold(empty, |headers, (key, value)| headers.insert(Header { key, value: value.as_ref() }))
}

/// A transaction that is left open.
#[allow(missing_debug_implementations, reason = "the producer has none")]
pub struct OpenTransaction(FutureProducer);

impl OpenTransaction {
    /// Aborts it.
    pub async fn abort(self) -> Result<()> {
        blocking(move || Ok(self.0.abort_transaction(TIMEOUT)?)).await
    }
}

/// Begins a transaction with so many records in partition 0 and leaves it open.
pub async fn open_transaction(bootstrap: &str, topic: &str, records: usize) -> Result<OpenTransaction> {
    let id = format!("open-{topic}");
    let producer: FutureProducer =
        client(bootstrap).set("transactional.id", &id).set("transaction.timeout.ms", "600000").create()?;
    let starting = producer.clone();
    blocking(move || {
        starting.init_transactions(TIMEOUT)?;
        Ok(starting.begin_transaction()?)
    })
    .await?;
    for n in 0..records {
        let value = format!("open {n}");
        let record: FutureRecord<'_, (), String> = FutureRecord::to(topic).partition(0).payload(&value);
        producer.send(record, TIMEOUT).await.map_err(|(error, _)| error)?;
    }
    Ok(OpenTransaction(producer))
}

/// Deletes a topic and waits until it is gone. Where a mesh mirrors to it, another one of that name may stand there by
/// then, and before anybody could see the place empty: the id tells.
pub async fn delete_topic(bootstrap: &str, topic: &str) -> Result<()> {
    // rdkafka does not tell ids of topics.
    let product = Client::new(mirrormesh_kafka::ClientConfig::new([bootstrap], "probe"))?;
    let id = async || anyhow::Ok(product.topics(Some(&[topic])).await?.first().map(|found| found.topic_id));
    let before = id().await?;
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    for deleted in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
        if let Err((name, code)) = deleted {
            bail!("cannot delete {name}: {code}");
        }
    }
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while id().await? == before {
        if tokio::time::Instant::now() > deadline {
            bail!("{topic} is still there");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Sets settings of a topic; those that it had are gone.
pub async fn set_topic(bootstrap: &str, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap).create()?;
    let mut altered = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (name, value) in settings {
        altered = altered.set(name, value);
    }
    for result in admin.alter_configs(&[altered], &AdminOptions::new()).await? {
        if let Err((resource, code)) = result {
            bail!("cannot set {resource:?}: {code}");
        }
    }
    Ok(())
}

/// A record as it lies in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Timestamp in ms.
    pub timestamp_ms: i64,
}

/// A record as it lies in a partition, with everything but its offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was made or appended.
    pub timestamp: Timestamp,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl From<Plain> for Record {
    fn from(plain: Plain) -> Self {
        let Plain { key, value, timestamp_ms } = plain;
        let timestamp = match timestamp_ms {
            -1 => Timestamp::NotAvailable,
            ms => Timestamp::CreateTime(ms),
        };
        Self { timestamp, key, value, headers: Vec::new() }
    }
}

/// Whose records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions, and those of none.
    Committed,
    /// All.
    Uncommitted,
}

/// All records of partition 0 as of now; none while the topic does not exist.
pub async fn read(bootstrap: &str, topic: &str) -> Result<Vec<Plain>> {
    read_from(bootstrap, topic, 0).await
}

/// As [`read`], of any partition.
pub async fn read_from(bootstrap: &str, topic: &str, partition: i32) -> Result<Vec<Plain>> {
    let plain = |(_, record): (i64, Record)| Plain {
        key: record.key,
        value: record.value,
        timestamp_ms: record.timestamp.to_millis().unwrap_or(-1),
    };
    let records = records(bootstrap, topic, partition, Isolation::Committed).await?;
    Ok(records.into_iter().map(plain).collect())
}

/// As [`read`], with headers, and with the records of open and aborted transactions too.
pub async fn read_whole(bootstrap: &str, topic: &str) -> Result<Vec<Record>> {
    let records = records(bootstrap, topic, 0, Isolation::Uncommitted).await?;
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// All records of a partition as of now with their offsets; none while the topic does not exist.
pub async fn records(
    bootstrap: &str,
    topic: &str,
    partition: i32,
    isolation: Isolation,
) -> Result<Vec<(i64, Record)>> {
    let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = reader(&bootstrap, isolation)?;
        let index = usize::try_from(partition)?;
        let Some((start, end)) = watermarks(&consumer, &topic)?.into_iter().nth(index) else {
            return Ok(Vec::new());
        };
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&topic, partition, Offset::Offset(start))?;
        consumer.assign(&assignment)?;
        let (mut records, mut next) = (Vec::new(), start);
        while next < end {
            let message = match consumer.poll(TIMEOUT).context("nothing more came")? {
                Ok(message) => message,
                // Behind the last record only markers follow, or what compaction emptied.
                Err(KafkaError::PartitionEOF(_)) => break,
                Err(error) => return Err(error.into()),
            };
            next = message.offset() + 1;
            let headers = message.headers().map_or_else(Vec::new, |headers| {
                headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
            });
            let record = Record {
                timestamp: message.timestamp(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers,
            };
            records.push((message.offset(), record));
        }
        Ok(records)
    })
    .await
}
