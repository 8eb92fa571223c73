//! A target that takes nothing for minutes while its flow's input goes on: memory stays bounded, the other flow keeps
//! its rate, and the stalled one catches up by itself. Takes about 3 GB of disk for each minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec, Compiler};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::ours::{Ours, identity};
use super::results::Values;
use super::rig::Rig;
use crate::load::{self, Counter};
use crate::measure::usage;

/// The name of this measurement.
pub(crate) const NAME: &str = "stall";
const PARTITIONS: i32 = 4;
const VALUE_BYTES: usize = 1_000;
/// Both flows get so much, all the time.
const RECORDS_PER_SECOND: u64 = 10_000;
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long both flows run before the stall: what the other flow's rate is compared with.
const BEFORE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(500);
/// To catch up takes this times the length of the stall at most.
const CATCH_UP_FACTOR: u32 = 2;
const CATCH_UP_MORE: Duration = Duration::from_mins(1);
const TICK: Duration = Duration::from_millis(2);

/// A steady producer for one topic.
struct Input {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Input {
    fn start(bootstrap: &str, topic: &str) -> Self {
        let (sent, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (bootstrap, topic) = (bootstrap.to_owned(), topic.to_owned());
        let (counted, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || produce(&bootstrap, &topic, &counted, &stopped));
        Self { sent, stop, thread: Some(thread) }
    }

    /// Ends it and says how many records it sent.
    fn end(&mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("a producer panicked"))??;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn produce(bootstrap: &str, topic: &str, sent: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let producer: BaseProducer = load::client(bootstrap)
        .set("acks", "all")
        .set("linger.ms", "20")
        .set("enable.idempotence", "true")
        .create()?;
    let value = load::pool(load::Fill::Random, VALUE_BYTES, 11);
    let (began, mut number) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_micros())? * RECORDS_PER_SECOND / 1_000_000;
        while number < due {
            let partition = i32::try_from(number % u64::try_from(PARTITIONS)?)?;
            load::send(&producer, BaseRecord::to(topic).payload(value.as_slice()).partition(partition))?;
            number += 1;
        }
        sent.store(number, Ordering::Relaxed);
        producer.poll(Duration::ZERO);
        std::thread::sleep(TICK);
    }
    producer.flush(Duration::from_mins(1))?;
    Ok(())
}

/// What is looked at all the time.
struct View {
    pid: u32,
    stalled: Counter,
    other: Counter,
    resident_bytes: u64,
}

impl View {
    /// Looks for so long; returns how many records a second the other flow mirrored.
    fn watch(&mut self, length: Duration) -> Result<f64> {
        let (began, before) = (Instant::now(), self.other.count()?);
        while began.elapsed() < length {
            std::thread::sleep(STEP);
            self.resident_bytes = self.resident_bytes.max(usage(self.pid)?.resident_bytes);
        }
        let count = self.other.count()? - before;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }

    fn wait(&mut self, what: &str, limit: Duration, done: impl Fn(&mut Self) -> Result<bool>) -> Result<f64> {
        let began = Instant::now();
        while !done(self)? {
            if began.elapsed() > limit {
                let stalled = self.stalled.count()?;
                bail!("{what}: not within {limit:?}; the stalled target holds {stalled} records");
            }
            self.resident_bytes = self.resident_bytes.max(usage(self.pid)?.resident_bytes);
            std::thread::sleep(STEP);
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// One run, with a third cluster for the other flow.
pub(crate) async fn run(rig: &Rig, length: Duration) -> Result<Values> {
    let spec = ClusterSpec::new("other").heap_mb(512).compiler(Compiler::Full);
    let other = Cluster::start(spec).await?;
    let (serial, route) = (rig.serial(), rig.blockable());
    let topics = [format!("stalled-{serial}"), format!("other-{serial}")];
    for topic in &topics {
        load::create_topic(&route.source, topic, PARTITIONS).await?;
    }
    let [stalled_topic, other_topic] = &topics;
    let mut ours = Ours::start(rig, serial, &route).await?;
    ours.api.create_cluster("other", &other.bootstrap()).await?;
    ours.flow("stalled", stalled_topic, identity()).await?;
    ours.flow_to("other", "other", other_topic, identity()).await?;
    let mut view = View {
        pid: ours.pid,
        stalled: Counter::new(&rig.target.direct_bootstrap(), stalled_topic, PARTITIONS)?,
        other: Counter::new(&other.direct_bootstrap(), other_topic, PARTITIONS)?,
        resident_bytes: 0,
    };
    let mut inputs = [Input::start(&route.source, stalled_topic), Input::start(&route.source, other_topic)];
    let outcome = measure(rig, &mut view, &mut inputs, length);
    for proxy in rig.target.proxies() {
        proxy.unblock();
    }
    let values = ours.explain(outcome)?;
    ours.end()?;
    load::delete_topics(&route.source, &[stalled_topic, other_topic]).await?;
    load::delete_topics(&rig.target.direct_bootstrap(), &[stalled_topic]).await?;
    Ok(values)
}

fn measure(rig: &Rig, view: &mut View, inputs: &mut [Input; 2], length: Duration) -> Result<Values> {
    // What waited while the flows began must not count as their rate.
    let close = |sent: &AtomicU64, count: u64| {
        count > 0 && sent.load(Ordering::Relaxed).saturating_sub(count) < RECORDS_PER_SECOND
    };
    view.wait("both flows close to their input", START_LIMIT, |view| {
        let [stalled, other] = &*inputs;
        Ok(close(&stalled.sent, view.stalled.count()?) && close(&other.sent, view.other.count()?))
    })?;
    let rate_before = view.watch(BEFORE)?;
    let resident_before = view.resident_bytes;
    for proxy in rig.target.proxies() {
        proxy.block();
    }
    let rate_during = view.watch(length)?;
    let held = view.stalled.count()?;
    for proxy in rig.target.proxies() {
        proxy.unblock();
    }
    let [stalled, other] = inputs;
    let due = stalled.sent.load(Ordering::Relaxed);
    let waited = due.checked_sub(held).context("the stalled target holds more than was sent")?;
    // The input goes on meanwhile: what was sent until now has to arrive.
    let limit = length * CATCH_UP_FACTOR + CATCH_UP_MORE;
    let seconds = view.wait("catching up", limit, |view| Ok(view.stalled.count()? >= due))?;
    let (all, all_other) = (stalled.end()?, other.end()?);
    view.wait("the last records", CATCH_UP_MORE, |view| {
        Ok(view.stalled.count()? == all && view.other.count()? == all_other)
    })?;
    Ok(Values::from([
        ("stalled_s", length.as_secs_f64()),
        ("waited_records", waited as f64),
        ("resident_before_mb", resident_before as f64 / 1e6),
        ("resident_max_mb", view.resident_bytes as f64 / 1e6),
        ("other_rate_before", rate_before),
        ("other_rate_during", rate_during),
        ("other_rate_ratio", rate_during / rate_before),
        ("catch_up_s", seconds),
    ]))
}
