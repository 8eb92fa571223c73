//! A steady stream of numbered records, read on both sides in one process: for each record the two moments of arrival
//! are compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::drip;
use super::results::Values;
use super::rig::Route;
use crate::load;

/// Bytes of a record's value.
pub(crate) const VALUE_BYTES: usize = 1_000;
/// Kafka's own default since version 4.
const LINGER_MS: &str = "5";
/// The producer wakes up this often.
const TICK: Duration = Duration::from_millis(1);
/// Readers read so many partitions at most, evenly spaced: with thousands they would be what is measured.
const READ_PARTITIONS_MAX: usize = 16;

/// Who produces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// librdkafka's producer.
    Rdkafka,
    /// For thousands of partitions, see `drip`.
    Drip,
}

/// One partition on both sides.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) topic: String,
    pub(crate) target_topic: String,
    pub(crate) partition: i32,
}

/// All partitions of some topics, given as source topic, target topic and number of partitions.
pub(crate) fn spots(topics: &[(String, String, i32)]) -> Vec<Spot> {
    let of = |(topic, target_topic, count): &(String, String, i32)| {
        let (topic, target_topic) = (topic.clone(), target_topic.clone());
        (0..*count).map(move |partition| Spot {
            topic: topic.clone(),
            target_topic: target_topic.clone(),
            partition,
        })
    };
    topics.iter().flat_map(of).collect()
}

/// When each record was read, in nanoseconds since the stream began; 0 if it was not.
struct Arrivals {
    began: Instant,
    /// The highest number so far.
    newest: AtomicU64,
    at: Vec<AtomicU64>,
}

impl Arrivals {
    fn note(&self, value: Option<&[u8]>) {
        let number = value.and_then(|v| v.first_chunk::<8>()).map(|bytes| u64::from_be_bytes(*bytes));
        let slot = number.and_then(|n| usize::try_from(n).ok()).and_then(|n| self.at.get(n));
        if let (Some(slot), Some(number)) = (slot, number) {
            self.newest.fetch_max(number, Ordering::Relaxed);
            let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            // The first time counts; at least once may bring it again.
            slot.compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }

    fn of(&self, number: u64) -> u64 {
        let slot = usize::try_from(number).ok().and_then(|n| self.at.get(n));
        slot.map_or(0, |at| at.load(Ordering::Relaxed))
    }
}

/// A running stream.
pub(crate) struct Stream {
    route: Route,
    spots: Vec<Spot>,
    /// Every so manieth spot is read.
    step: usize,
    sent: Arc<AtomicU64>,
    at_source: Arc<Arrivals>,
    at_target: Arc<Arrivals>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Stream {
    /// Begins to produce, and to read at the source; for `longest` at most.
    pub(crate) fn start(
        route: &Route,
        spots: Vec<Spot>,
        (load, rate): (Load, u64),
        longest: Duration,
    ) -> Result<Self> {
        let records = usize::try_from(rate * longest.as_secs())?;
        let began = Instant::now();
        let arrivals = || {
            let at = (0..records).map(|_| AtomicU64::new(0)).collect();
            Arc::new(Arrivals { began, newest: AtomicU64::new(0), at })
        };
        let mut stream = Self {
            route: route.clone(),
            step: spots.len().div_ceil(READ_PARTITIONS_MAX).max(1),
            spots,
            sent: Arc::default(),
            at_source: arrivals(),
            at_target: arrivals(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let source = stream.read_spots().map(|s| (s.topic.clone(), s.partition)).collect();
        stream.read(&route.source, source, Arc::clone(&stream.at_source));
        let (bootstrap, spots) = (route.source.clone(), stream.spots.clone());
        let (sent, stop) = (Arc::clone(&stream.sent), Arc::clone(&stream.stop));
        stream.threads.push(std::thread::spawn(move || match load {
            Load::Rdkafka => produce(&bootstrap, &spots, rate, &sent, &stop),
            Load::Drip => drip::produce(&bootstrap, &spots, rate, &sent, &stop),
        }));
        Ok(stream)
    }

    fn read_spots(&self) -> impl Iterator<Item = &Spot> {
        self.spots.iter().step_by(self.step)
    }

    fn read(&mut self, bootstrap: &str, from: Vec<(String, i32)>, arrivals: Arc<Arrivals>) {
        let (bootstrap, stop) = (bootstrap.to_owned(), Arc::clone(&self.stop));
        self.threads.push(std::thread::spawn(move || read(&bootstrap, &from, &arrivals, &stop)));
    }

    /// Begins to read at the target, where all topics must exist by now.
    pub(crate) fn read_target(&mut self) {
        let from = self.read_spots().map(|s| (s.target_topic.clone(), s.partition)).collect();
        let (bootstrap, arrivals) = (self.route.target.clone(), Arc::clone(&self.at_target));
        self.read(&bootstrap, from, arrivals);
    }

    /// How many records the target's reader is behind the producer.
    pub(crate) fn behind(&self) -> u64 {
        self.sent().saturating_sub(self.at_target.newest.load(Ordering::Relaxed))
    }

    /// Waits until what is on the target is no more than three seconds behind what is due: the load itself begins a
    /// second or two late.
    pub(crate) fn settle(&self, rate: u64, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let due = self.at_target.began.elapsed().as_secs() * rate;
            let late = due.saturating_sub(self.at_target.newest.load(Ordering::Relaxed));
            if late <= 3 * rate {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{late} records of {due} are late after {limit:?}, {} were sent", self.sent());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// How many records have been sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether a record goes to a partition that is read.
    fn is_read(&self, number: u64) -> bool {
        let spots = u64::try_from(self.spots.len()).unwrap_or(u64::MAX).max(1);
        usize::try_from(number % spots).is_ok_and(|index| index % self.step == 0)
    }

    /// Waits until all records of a range have been read on both sides, ends the stream and compares.
    pub(crate) fn finish(self, range: std::ops::Range<u64>, limit: Duration) -> Result<Values> {
        let deadline = Instant::now() + limit;
        let (source, target) = (&self.at_source, &self.at_target);
        let numbers: Vec<u64> = range.filter(|&n| self.is_read(n)).collect();
        loop {
            let missing = |side: &Arrivals| numbers.iter().filter(|&&n| side.of(n) == 0).count();
            let (up, down) = (missing(source), missing(target));
            if up == 0 && down == 0 {
                break;
            }
            if self.threads.iter().any(JoinHandle::is_finished) {
                self.end()?;
                bail!("one who produces or reads ended early");
            }
            if Instant::now() > deadline {
                let all = numbers.len();
                bail!(
                    "of {all} records {up} were not read at the source, {down} at the target within {limit:?}"
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let ms = |&n: &u64| (target.of(n) as f64 - source.of(n) as f64) / 1e6;
        let mut added: Vec<f64> = numbers.iter().map(ms).collect();
        added.sort_by(f64::total_cmp);
        self.end()?;
        summary(&added)
    }

    fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn summary(sorted: &[f64]) -> Result<Values> {
    let at = |permille: usize| {
        let index = sorted.len().saturating_sub(1) * permille / 1_000;
        sorted.get(index).copied().context("no record was measured")
    };
    Ok(Values::from([
        ("records", sorted.len() as f64),
        ("p50_ms", at(500)?),
        ("p99_ms", at(990)?),
        ("max_ms", at(1_000)?),
    ]))
}

/// Sends numbered records at the rate, a few each tick, to one partition after the other.
fn produce(bootstrap: &str, spots: &[Spot], rate: u64, sent: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let producer: BaseProducer = load::client(bootstrap)
        .set("acks", "all")
        .set("linger.ms", LINGER_MS)
        .set("enable.idempotence", "true")
        .create()?;
    let mut value = load::pool(load::Fill::Random, VALUE_BYTES, 7);
    let mut round = spots.iter().cycle();
    let began = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_micros())? * rate / 1_000_000;
        while number < due {
            let spot = round.next().context("no partitions to write to")?;
            value.get_mut(..8).context("a value is too short")?.copy_from_slice(&number.to_be_bytes());
            load::send(
                &producer,
                BaseRecord::to(&spot.topic).payload(value.as_slice()).partition(spot.partition),
            )?;
            number += 1;
        }
        sent.store(number, Ordering::Relaxed);
        producer.poll(Duration::ZERO);
        std::thread::sleep(TICK);
    }
    producer.flush(Duration::from_secs(10))?;
    Ok(())
}

/// Reads partitions from their beginning and notes when each record came.
fn read(bootstrap: &str, from: &[(String, i32)], arrivals: &Arrivals, stop: &AtomicBool) -> Result<()> {
    let consumer: BaseConsumer = load::client(bootstrap)
        .set("group.id", "bench-stream")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for (topic, partition) in from {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    while !stop.load(Ordering::Relaxed) {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            arrivals.note(message?.payload());
        }
    }
    Ok(())
}
