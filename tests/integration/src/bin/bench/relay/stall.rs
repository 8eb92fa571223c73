//! A target that takes nothing for minutes while its flow's input goes on: memory stays bounded, the other flow keeps
//! its rate, and the stalled one catches up by itself. Takes about 3 GB of disk for each minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec, Compiler};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::idle;
use super::ours::{Ours, identity};
use super::results::Values;
use super::rig::Rig;
use crate::load::{self, Counter};
use crate::measure::usage;

/// The name of this measurement.
pub(crate) const NAME: &str = "stall";
/// Partitions of the other flow.
const OTHER_PARTITIONS: i32 = 4;
const VALUE_BYTES: usize = 1_000;
/// Both flows get so much, all the time.
const RECORDS_PER_SECOND: u64 = 10_000;
/// So many records go to one partition before the next one gets any: single records to 2,000 partitions are more batches
/// a second than one broker appends.
const RUN: u64 = 10;
const START_LIMIT: Duration = Duration::from_mins(5);
/// How long both flows run before the stall: what the other flow's rate is compared with.
const BEFORE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(500);
/// To catch up takes this times the length of the stall at most.
const CATCH_UP_FACTOR: u32 = 2;
const CATCH_UP_MORE: Duration = Duration::from_mins(1);
const TICK: Duration = Duration::from_millis(2);

/// How many partitions of the stalled flow get records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Point {
    /// 4 partitions.
    #[value(name = "4")]
    Few,
    /// 200 partitions.
    #[value(name = "200")]
    Many,
    /// 2,000 partitions.
    #[value(name = "2000")]
    Most,
}

impl Point {
    pub(crate) const ALL: [Self; 3] = [Self::Few, Self::Many, Self::Most];

    /// The name of its figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Few => NAME,
            Self::Many => "stall-200",
            Self::Most => "stall-2000",
        }
    }

    pub(crate) fn partitions(self) -> i32 {
        match self {
            Self::Few => 4,
            Self::Many => 200,
            Self::Most => 2_000,
        }
    }
}

/// A steady producer for the partitions of some topics.
struct Input {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Input {
    fn start(bootstrap: &str, topics: &[(String, i32)]) -> Self {
        let (sent, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (bootstrap, topics) = (bootstrap.to_owned(), topics.to_vec());
        let (counted, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || produce(&bootstrap, &topics, &counted, &stopped));
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

fn produce(bootstrap: &str, topics: &[(String, i32)], sent: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let spots: Vec<(&str, i32)> = topics
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(|partition| (topic.as_str(), partition)))
        .collect();
    let spot_count = u64::try_from(spots.len())?.max(1);
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
            let spot = usize::try_from(number / RUN % spot_count)?;
            let (topic, partition) = *spots.get(spot).context("no partitions to write to")?;
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
    stalled: Vec<Counter>,
    other: Counter,
}

impl View {
    /// The most resident memory that the service ever had. An error if it has ended.
    fn peak_bytes(&self) -> Result<u64> {
        Ok(usage(self.pid)?.peak_bytes)
    }

    /// Records on the stalled target.
    fn stalled(&mut self) -> Result<u64> {
        self.stalled.iter_mut().map(Counter::count).sum()
    }

    /// Looks for so long; returns how many records a second the other flow mirrored.
    fn watch(&mut self, length: Duration) -> Result<f64> {
        let (began, before) = (Instant::now(), self.other.count()?);
        while began.elapsed() < length {
            std::thread::sleep(STEP);
            self.peak_bytes()?;
        }
        let count = self.other.count()? - before;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }

    fn wait(&mut self, what: &str, limit: Duration, done: impl Fn(&mut Self) -> Result<bool>) -> Result<f64> {
        let began = Instant::now();
        while !done(self)? {
            if began.elapsed() > limit {
                let stalled = self.stalled()?;
                bail!("{what}: not within {limit:?}; the stalled target holds {stalled} records");
            }
            self.peak_bytes()?;
            std::thread::sleep(STEP);
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// One run, with a third cluster for the other flow.
pub(crate) async fn run(rig: &Rig, point: Point, length: Duration) -> Result<Values> {
    let spec = ClusterSpec::new("other").heap_mb(512).compiler(Compiler::Full);
    let other = Cluster::start(spec).await?;
    let (serial, route) = (rig.serial(), rig.blockable());
    let (prefix, other_topic) = (format!("stalled{serial}"), format!("other-{serial}"));
    let topics = idle::topics(&prefix, point.partitions());
    idle::create(rig, &topics).await?;
    load::create_topic(&route.source, &other_topic, OTHER_PARTITIONS).await?;
    let mut ours = Ours::start(rig, serial, &route).await?;
    ours.api.create_cluster("other", &other.bootstrap()).await?;
    ours.flow("stalled", &format!("{prefix}-.*"), identity()).await?;
    ours.flow_to("other", "other", &other_topic, identity()).await?;
    let target = rig.target.direct_bootstrap();
    let stalled = topics.iter().map(|(topic, count)| Counter::new(&target, topic, *count));
    let mut view = View {
        pid: ours.pid,
        stalled: stalled.collect::<Result<_>>()?,
        other: Counter::new(&other.direct_bootstrap(), &other_topic, OTHER_PARTITIONS)?,
    };
    let mut inputs = [
        Input::start(&route.source, &topics),
        Input::start(&route.source, &[(other_topic.clone(), OTHER_PARTITIONS)]),
    ];
    let outcome = measure(rig, &mut view, &mut inputs, length);
    for proxy in rig.target.proxies() {
        proxy.unblock();
    }
    let mut values = ours.explain(outcome)?;
    values.insert("partitions", f64::from(point.partitions()));
    ours.end()?;
    let mut names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
    load::delete_topics(&target, &names).await?;
    names.push(&other_topic);
    load::delete_topics(&route.source, &names).await?;
    Ok(values)
}

fn measure(rig: &Rig, view: &mut View, inputs: &mut [Input; 2], length: Duration) -> Result<Values> {
    // What waited while the flows began must not count as their rate.
    let close = |sent: u64, count: u64| count > 0 && sent.saturating_sub(count) < RECORDS_PER_SECOND;
    view.wait("both flows close to their input", START_LIMIT, |view| {
        // Read before the count, which takes seconds where there are many partitions.
        let [stalled, other] = inputs.each_ref().map(|input| input.sent.load(Ordering::Relaxed));
        Ok(close(stalled, view.stalled()?) && close(other, view.other.count()?))
    })?;
    let rate_before = view.watch(BEFORE)?;
    let resident_before = view.peak_bytes()?;
    for proxy in rig.target.proxies() {
        proxy.block();
    }
    let rate_during = view.watch(length)?;
    let held = view.stalled()?;
    for proxy in rig.target.proxies() {
        proxy.unblock();
    }
    let [stalled, other] = inputs;
    let due = stalled.sent.load(Ordering::Relaxed);
    let waited = due.checked_sub(held).context("the stalled target holds more than was sent")?;
    // The input goes on meanwhile: what was sent until now has to arrive.
    let limit = length * CATCH_UP_FACTOR + CATCH_UP_MORE;
    let seconds = view.wait("catching up", limit, |view| Ok(view.stalled()? >= due))?;
    let (all, all_other) = (stalled.end()?, other.end()?);
    view.wait("the last records", CATCH_UP_MORE, |view| {
        Ok(view.stalled()? == all && view.other.count()? == all_other)
    })?;
    Ok(Values::from([
        ("stalled_s", length.as_secs_f64()),
        ("waited_records", waited as f64),
        ("resident_before_mb", resident_before as f64 / 1e6),
        ("resident_max_mb", view.peak_bytes()? as f64 / 1e6),
        ("other_rate_before", rate_before),
        ("other_rate_during", rate_during),
        ("other_rate_ratio", rate_during / rate_before),
        ("catch_up_s", seconds),
    ]))
}
