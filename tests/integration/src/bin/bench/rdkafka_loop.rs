//! The usual way to copy a topic by hand: consume with rdkafka, produce with rdkafka.

use std::time::Duration;

use anyhow::Result;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::bare;

/// What to copy.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) copy: bare::CopyArgs,
    /// Its producer's batch size.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) batch_bytes: usize,
    /// Its producer's codec.
    #[arg(long, default_value = "none")]
    pub(crate) codec: String,
}

/// Copies, and waits to be killed so that its memory can be read.
pub(crate) fn run(args: &Args) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &args.copy.source)
        .set("group.id", "bench-loop")
        .set("enable.auto.commit", "false")
        .set("fetch.message.max.bytes", "1048576")
        // Without these it rests for a second whenever 100,000 small records wait.
        .set("queued.min.messages", "1000000")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &args.copy.target)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("batch.size", args.batch_bytes.to_string())
        .set("compression.type", &args.codec)
        .set("linger.ms", "5")
        .set("queue.buffering.max.kbytes", "262144")
        .set("queue.buffering.max.messages", "1000000")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..args.copy.partitions {
        assignment.add_partition_offset(&args.copy.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut copied = 0;
    while copied < args.copy.records {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&args.copy.target_topic).partition(message.partition());
        record.key = message.key();
        record.payload = message.payload();
        record.timestamp = message.timestamp().to_millis();
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    producer.poll(Duration::from_millis(5));
                    record = again;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        copied += 1;
        if copied % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_mins(2))?;
    loop {
        std::thread::park();
    }
}
