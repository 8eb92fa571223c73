//! Writing records to internal topics.
//!
//! Polls by itself instead of using `FutureProducer`: its thread waits 100 ms at a time and spins through the last
//! millisecond of each, which is most of what a worker with nothing to do would cost.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::util::Timeout;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::context::Quiet;
use super::{base_config, failed};
use crate::config::ClientConfig;
use crate::error::{Class, Error, Result};

/// Long enough to send what a task hands over at once in one batch, too short to matter.
const LINGER_MS: &str = "5";
/// How long the thread waits at a time; what comes meanwhile is handled when it comes. The thread ends this late.
const POLL: Duration = Duration::from_secs(2);
/// Pause while librdkafka's queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(50);

type Told = oneshot::Sender<std::result::Result<i64, KafkaError>>;

/// Tells each record's sender what became of it.
impl ProducerContext for Quiet {
    type DeliveryOpaque = Box<Told>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Box<Told>) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        // Who sent it may have given up.
        let _gone = told.send(outcome);
    }
}

/// The producer with the thread that polls it.
struct Polled {
    producer: Arc<BaseProducer<Quiet>>,
    stop: Arc<AtomicBool>,
}

impl Polled {
    fn start(producer: BaseProducer<Quiet>) -> std::io::Result<Self> {
        let polled = Self { producer: Arc::new(producer), stop: Arc::default() };
        let (producer, stop) = (Arc::clone(&polled.producer), Arc::clone(&polled.stop));
        std::thread::Builder::new().name("internal-topics".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                producer.poll(POLL);
            }
        })?;
        Ok(polled)
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A producer with acks=all, idempotent where the cluster allows it. Clones share it.
#[derive(Clone)]
pub struct InternalProducer {
    inner: Arc<Inner>,
}

struct Inner {
    native: rdkafka::ClientConfig,
    // Lock: held for one look or one assignment.
    polled: Mutex<Arc<Polled>>,
    timeout: Duration,
}

impl InternalProducer {
    /// A producer; it connects on its own. Make it early: librdkafka asks for a producer id as soon as it is made, and
    /// if no connection stands at that instant, only again after half a second. The first record waits for that.
    ///
    /// With `idempotent` nothing is doubled; a cluster that gives out no producer ids takes nothing then. Without, a record
    /// may be there twice after a lost answer; none overtakes another, since one request is on its way at a time.
    ///
    /// # Errors
    /// [`Error::Config`] for settings of ours, [`Error::Librdkafka`] for properties that librdkafka does not know.
    pub fn new(config: &ClientConfig, idempotent: bool) -> Result<Self> {
        config.validate()?;
        let mut native = base_config(config);
        native.set("linger.ms", LINGER_MS);
        native.set("acks", "all");
        native.set("enable.idempotence", idempotent.to_string());
        if !idempotent {
            native.set("max.in.flight.requests.per.connection", "1");
        }
        native.set("delivery.timeout.ms", config.limits.admin_timeout.as_millis().to_string());
        native.set("request.timeout.ms", config.limits.request_timeout.as_millis().to_string());
        let polled = Mutex::new(Arc::new(make(&native)?));
        Ok(Self { inner: Arc::new(Inner { native, polled, timeout: config.limits.admin_timeout }) })
    }

    fn polled(&self) -> Arc<Polled> {
        Arc::clone(&self.inner.polled.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What failed; a producer that failed for good is replaced, or it would never send anything again: one that was
    /// refused a producer id once stays so, though the cluster may give one by now.
    fn failed_with(&self, polled: &Arc<Polled>, topic: &str, error: &KafkaError) -> Error {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            let mut present = self.inner.polled.lock().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&present, polled) {
                match make(&self.inner.native) {
                    Ok(next) => *present = Arc::new(next),
                    Err(error) => tracing::warn!(%error, "a producer that failed for good is not replaced"),
                }
            }
        }
        failed("append to", &topic.into(), error)
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
        let (told, outcome) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(topic, Box::new(told))
            .partition(partition)
            .key(key)
            .timestamp(timestamp_ms);
        if let Some(value) = value {
            record = record.payload(value);
        }
        let polled = self.polled();
        if let Err(error) = self.enqueue(&polled, record).await {
            return Err(self.failed_with(&polled, topic, &error));
        }
        match outcome.await {
            Ok(Ok(offset)) => Ok(offset),
            Ok(Err(error)) => Err(self.failed_with(&polled, topic, &error)),
            Err(closed) => Err(unusual("append to", closed)),
        }
    }

    /// The queue is full only while nothing gets through.
    async fn enqueue(
        &self,
        polled: &Polled,
        record: BaseRecord<'_, [u8], [u8], Box<Told>>,
    ) -> std::result::Result<(), KafkaError> {
        let deadline = Instant::now() + self.inner.timeout;
        let mut record = Some(record);
        while let Some(next) = record.take() {
            match polled.producer.send(next) {
                Ok(()) => {}
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    record = Some(back);
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                Err((error, _)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until everything handed over so far is appended or has failed.
    pub async fn flush(&self) -> Result<()> {
        let (polled, timeout) = (self.polled(), self.inner.timeout);
        // It blocks its thread.
        match tokio::task::spawn_blocking(move || polled.producer.flush(Timeout::After(timeout))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed("flush", &internal_topics(), &error)),
            Err(error) => Err(unusual("flush", error)),
        }
    }
}

fn make(native: &rdkafka::ClientConfig) -> Result<Polled> {
    let producer = BaseProducer::from_config_and_context(native, Quiet)
        .map_err(|error| failed("make a producer for", &internal_topics(), &error))?;
    Polled::start(producer).map_err(|error| unusual("start a thread for", error))
}

fn internal_topics() -> Arc<str> {
    "internal topics".into()
}

fn unusual(operation: &'static str, problem: impl fmt::Display) -> Error {
    let (topic, problem) = (internal_topics(), problem.to_string());
    Error::Librdkafka { operation, topic, problem, class: Class::Retriable }
}

impl fmt::Debug for InternalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalProducer").finish_non_exhaustive()
    }
}
