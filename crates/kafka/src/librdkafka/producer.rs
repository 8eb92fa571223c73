//! Writing records to internal topics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::util::Timeout;

use super::context::Quiet;
use super::{base_config, failed};
use crate::config::ClientConfig;
use crate::error::{Class, Error, Result};

/// Long enough to send what a task hands over at once in one batch, too short to matter.
const LINGER_MS: &str = "5";

/// An idempotent producer with acks=all. Clones share it.
#[derive(Clone)]
pub struct InternalProducer {
    producer: FutureProducer<Quiet>,
    timeout: Duration,
}

impl InternalProducer {
    /// A producer; it connects on its own. Make it early: librdkafka asks for a producer id as soon as it is made, and
    /// if no connection stands at that instant, only again after half a second. The first record waits for that.
    ///
    /// # Errors
    /// [`Error::Config`] for settings of ours, [`Error::Librdkafka`] for properties that librdkafka does not know.
    pub fn new(config: &ClientConfig) -> Result<Self> {
        config.validate()?;
        let mut native = base_config(config);
        native.set("linger.ms", LINGER_MS);
        native.set("acks", "all");
        native.set("enable.idempotence", "true");
        native.set("delivery.timeout.ms", config.limits.admin_timeout.as_millis().to_string());
        native.set("request.timeout.ms", config.limits.request_timeout.as_millis().to_string());
        let producer = native
            .create_with_context(Quiet)
            .map_err(|error| failed("make a producer for", &"internal topics".into(), &error))?;
        Ok(Self { producer, timeout: config.limits.admin_timeout })
    }

    /// Appends one record and returns its offset. No value is a tombstone. Timestamps are in ms.
    ///
    /// Records of one partition are appended in the order in which their futures are first polled.
    ///
    /// # Errors
    /// [`Error::Librdkafka`]; if it is retriable the record may have been appended.
    pub async fn send(
        &self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
        timestamp_ms: i64,
    ) -> Result<i64> {
        let mut record = FutureRecord::to(topic).partition(partition).key(key).timestamp(timestamp_ms);
        if let Some(value) = value {
            record = record.payload(value);
        }
        // The queue is full only while nothing gets through.
        match self.producer.send(record, Timeout::After(self.timeout)).await {
            Ok(delivery) => Ok(delivery.offset),
            Err((error, _)) => Err(failed("append to", &topic.into(), &error)),
        }
    }

    /// Waits until everything handed over so far is appended or has failed.
    pub async fn flush(&self) -> Result<()> {
        let producer = self.producer.clone();
        let timeout = self.timeout;
        let topic: Arc<str> = "internal topics".into();
        // It blocks its thread.
        match tokio::task::spawn_blocking(move || producer.flush(Timeout::After(timeout))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed("flush", &topic, &error)),
            Err(error) => Err(Error::Librdkafka {
                operation: "flush",
                topic,
                problem: error.to_string(),
                class: Class::Retriable,
            }),
        }
    }
}

impl fmt::Debug for InternalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalProducer").finish_non_exhaustive()
    }
}
