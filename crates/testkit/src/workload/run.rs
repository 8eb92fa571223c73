//! Producing a workload: one thread and one librdkafka producer per topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, config::FromClientConfigAndContext as _};

use super::record::{Made, Maker};
use super::{TopicPlan, Transactions, Workload};
use crate::topics::unique_name;

/// Records that wait in a producer.
const QUEUE_RECORDS_MAX: u32 = 200_000;
/// Bytes that wait in a producer, in KiB.
const QUEUE_KIBIBYTES_MAX: u32 = 128 * 1024;
/// How long a full queue is waited for before it is tried again.
const QUEUE_STEP: Duration = Duration::from_millis(1);
/// How long one call of a transaction may take, faults included.
const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(1);

/// How far a run is; all topics together.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
    first_error: Mutex<Option<String>>,
}

impl Progress {
    /// Records handed to the producers.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Records that brokers have acknowledged; those of transactions that are aborted later included.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn fail(&self, reason: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_error.lock().get_or_insert(reason);
    }

    fn check(&self) -> Result<()> {
        match self.first_error.lock().as_ref() {
            None => Ok(()),
            Some(reason) => {
                bail!("{} records were not delivered: {reason}", self.failed.load(Ordering::Relaxed))
            }
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Records that a reader of committed records sees, by topic and partition.
    pub committed: BTreeMap<(String, i32), u64>,
    /// Records of aborted transactions.
    pub aborted: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// Committed records of all topics.
    pub fn records(&self) -> u64 {
        self.committed.values().sum()
    }
}

/// A workload that is being produced. Dropping it stops the threads and waits for them.
#[derive(Debug)]
pub struct Run {
    progress: Arc<Progress>,
    started: Instant,
    threads: Vec<JoinHandle<Result<Report>>>,
}

impl Workload {
    /// Starts the threads.
    pub fn start(&self, bootstrap: &str) -> Result<Run> {
        let progress = Arc::new(Progress::default());
        let mut run = Run { progress: Arc::clone(&progress), started: Instant::now(), threads: Vec::new() };
        for plan in &self.topics {
            let task = Task::new(self, plan, bootstrap, Arc::clone(&progress))?;
            let thread = std::thread::Builder::new()
                .name(format!("workload {}", plan.name))
                .spawn(move || task.run())
                .context("cannot start a workload thread")?;
            run.threads.push(thread);
        }
        Ok(run)
    }

    /// Produces all of it. An error if any record was not delivered.
    pub async fn produce(&self, bootstrap: &str) -> Result<Report> {
        self.start(bootstrap)?.finish().await
    }
}

impl Run {
    /// How far it is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Whether all of it was handed over and every thread has ended.
    pub fn is_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends it early: the records sent so far are still delivered.
    pub fn stop(&self) {
        self.progress.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the end. An error if any record was not delivered.
    pub async fn finish(mut self) -> Result<Report> {
        let threads = std::mem::take(&mut self.threads);
        let started = self.started;
        let progress = Arc::clone(&self.progress);
        tokio::task::spawn_blocking(move || {
            let mut whole = Report::default();
            for thread in threads {
                let part = thread.join().map_err(|_| anyhow!("a workload thread panicked"))??;
                for (partition, count) in part.committed {
                    *whole.committed.entry(partition).or_default() += count;
                }
                whole.aborted += part.aborted;
            }
            progress.check()?;
            whole.elapsed = started.elapsed();
            Ok(whole)
        })
        .await
        .context("waiting for a workload was interrupted")?
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            if !matches!(thread.join(), Ok(Ok(_))) {
                tracing::warn!("a workload that nobody waited for failed");
            }
        }
    }
}

/// Counts acknowledged records by partition.
struct Delivery {
    progress: Arc<Progress>,
    partitions: Vec<AtomicU64>,
}

impl ClientContext for Delivery {}

impl ProducerContext for Delivery {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                let index = usize::try_from(message.partition()).ok();
                if let Some(count) = index.and_then(|index| self.partitions.get(index)) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Records of an aborted transaction are purged on purpose.
            Err((
                KafkaError::MessageProduction(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight),
                _,
            )) => {}
            Err((error, message)) => {
                self.progress.fail(format!(
                    "{error} ({} partition {})",
                    message.topic(),
                    message.partition()
                ));
            }
        }
    }
}

/// One topic's production.
struct Task {
    plan: TopicPlan,
    maker: Maker,
    producer: ThreadedProducer<Delivery>,
    progress: Arc<Progress>,
    rate_max: Option<u64>,
    delivery_timeout: Duration,
}

impl Task {
    fn new(workload: &Workload, plan: &TopicPlan, bootstrap: &str, progress: Arc<Progress>) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.codec", plan.codec.name())
            .set("linger.ms", workload.linger_ms.to_string())
            .set("batch.size", workload.batch_bytes.to_string())
            .set("batch.num.messages", "100000")
            .set("queue.buffering.max.messages", QUEUE_RECORDS_MAX.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KIBIBYTES_MAX.to_string())
            .set("message.max.bytes", "10485760")
            .set("reconnect.backoff.max.ms", "500");
        if plan.transactional.is_some() {
            config
                .set("transactional.id", unique_name("workload"))
                .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
        } else {
            config.set("message.timeout.ms", workload.delivery_timeout_ms.to_string());
        }
        let partitions = (0..plan.partitions).map(|_| AtomicU64::new(0)).collect();
        let context = Delivery { progress: Arc::clone(&progress), partitions };
        let producer = ThreadedProducer::from_config_and_context(&config, context)
            .with_context(|| format!("cannot make a producer for {}", plan.name))?;
        Ok(Self {
            maker: Maker::new(workload.seed, workload.first_timestamp_ms, plan),
            plan: plan.clone(),
            producer,
            progress,
            rate_max: workload.rate_max,
            delivery_timeout: Duration::from_millis(workload.delivery_timeout_ms.into()),
        })
    }

    fn run(self) -> Result<Report> {
        let result = match self.plan.transactional {
            None => self.run_plain(),
            Some(transactions) => self.run_transactions(transactions),
        };
        result.with_context(|| format!("producing to {}", self.plan.name))
    }

    fn run_plain(&self) -> Result<Report> {
        let mut made = Made::default();
        let started = Instant::now();
        for number in 0..self.plan.records {
            if self.stopped() {
                break;
            }
            self.pace(started, number);
            self.send(number, &mut made)?;
        }
        self.producer.flush(self.delivery_timeout).context("records were not acknowledged in time")?;
        let counts = self.producer.context().partitions.iter().map(|count| count.load(Ordering::Relaxed));
        Ok(self.report(counts, 0))
    }

    fn run_transactions(&self, transactions: Transactions) -> Result<Report> {
        self.init_transactions()?;
        let mut committed = vec![0_u64; self.producer.context().partitions.len()];
        let (mut made, mut next, mut aborted) = (Made::default(), 0, 0);
        let started = Instant::now();
        for transaction in 0.. {
            let end = self.plan.records.min(next + transactions.every.max(1));
            if next == end || self.stopped() {
                break;
            }
            let abort = self.maker.aborts(transaction);
            self.producer.begin_transaction().context("cannot begin a transaction")?;
            for number in next..end {
                self.pace(started, number);
                self.send(number, &mut made)?;
                let index = usize::try_from(made.partition).unwrap_or(0);
                if let Some(count) = committed.get_mut(index).filter(|_| !abort) {
                    *count += 1;
                }
            }
            if abort {
                // Flushed first: aborted records must be in the log, or there is nothing to skip.
                self.producer.flush(TRANSACTION_TIMEOUT).context("cannot flush before an abort")?;
                retry("abort a transaction", || self.producer.abort_transaction(TRANSACTION_TIMEOUT))?;
                aborted += end - next;
            } else {
                retry("commit a transaction", || self.producer.commit_transaction(TRANSACTION_TIMEOUT))?;
            }
            next = end;
        }
        Ok(self.report(committed.into_iter(), aborted))
    }

    /// The coordinator may still be loading its state just after a start.
    fn init_transactions(&self) -> Result<()> {
        retry("begin with transactions", || self.producer.init_transactions(TRANSACTION_TIMEOUT))
    }

    fn stopped(&self) -> bool {
        self.progress.stop.load(Ordering::Relaxed) || self.progress.failed.load(Ordering::Relaxed) > 0
    }

    fn pace(&self, started: Instant, number: u64) {
        let Some(rate) = self.rate_max else { return };
        let due = started + Duration::from_nanos(number.saturating_mul(1_000_000_000) / rate.max(1));
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }

    fn send(&self, number: u64, made: &mut Made) -> Result<()> {
        self.maker.make(number, made);
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&self.plan.name).partition(made.partition).timestamp(made.timestamp_ms);
        record.key = made.key();
        record.payload = made.value();
        if !made.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(made.headers.len());
            record.headers = Some(made.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_ref() })
            }));
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(QUEUE_STEP);
                }
                Err((error, _)) => return Err(error).with_context(|| format!("cannot send record {number}")),
            }
        }
        self.progress.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn report(&self, counts: impl Iterator<Item = u64>, aborted: u64) -> Report {
        let committed =
            (0..).zip(counts).map(|(partition, count)| ((self.plan.name.clone(), partition), count));
        Report { committed: committed.collect(), aborted, elapsed: Duration::ZERO }
    }
}

/// Calls that librdkafka says may be repeated are repeated until the timeout is over.
fn retry(what: &str, call: impl Fn() -> Result<(), KafkaError>) -> Result<()> {
    let deadline = Instant::now() + TRANSACTION_TIMEOUT;
    loop {
        match call() {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                std::thread::sleep(QUEUE_STEP);
            }
            Err(error) => return Err(error).with_context(|| format!("cannot {what}")),
        }
    }
}
