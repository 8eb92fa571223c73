//! Many faults of all kinds while records flow, and the proof that none was lost, doubled, changed or put out of order.
//!
//! Owns the whole course of a run, for the benchmark (`cargo xtask bench faults`) and in short for the tests. It judges
//! from outside: end offsets and records are read with an independent client, past the proxies that it cuts. A fault
//! counts only if records of the partitions that it hits arrived on the target within the second before it.

mod announced;
mod arrivals;
mod brokers;
mod plan;
mod report;
mod stage;
mod strike;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::checker::{self, TopicPair};
use mirrormesh_testkit::workload::Run;

pub use plan::{Fault, Kind, LEASE, Plan};
pub use report::{Count, Report, TAKEOVER_BAR, Takeover};
use stage::{Stage, TOPIC};

/// Nothing may stand still for longer.
const STALL: Duration = Duration::from_mins(2);
/// After so many faults in a row without records, none will come any more.
const IDLE_MAX: u32 = 5;
/// How often progress is looked at.
const STEP: Duration = Duration::from_millis(100);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides faults and records.
    pub seed: u64,
    /// Produce at least so many records; more if the faults take longer.
    pub records: u64,
    /// So many faults must strike.
    pub faults: u32,
    /// Partitions of the one topic.
    pub partitions: i32,
    /// Brokers of each cluster: 1 or 3.
    pub brokers: usize,
    /// Source workers.
    pub workers: u32,
    /// Records per second while faults are injected.
    pub rate: u64,
    /// How much older than the clock the records' timestamps are. Zero: about an hour, so that the target surely retains
    /// the producer state.
    ///
    /// Older than a day (`producer.id.expiration.ms`), the target may forget who wrote. Then records may be doubled or out
    /// of order at target offsets that the flow announced. None may be lost.
    pub record_age: Duration,
    /// How often the target's brokers look for expired producer state; Kafka's default (10 minutes) if not said.
    pub expiration_check: Option<Duration>,
    /// Where data and logs go; made if it is not there.
    pub folder: PathBuf,
    /// Takes a line about what happens.
    pub say: fn(&str),
}

/// Runs it all. An error means that the run could not be judged; wrong records are in the report.
pub async fn run(options: &Options) -> Result<Report> {
    let began = Instant::now();
    let mut report = Report {
        seed: options.seed,
        faults_wanted: options.faults,
        records_wanted: options.records,
        record_age: options.record_age,
        ..Report::default()
    };
    let mut stage = Stage::set_up(options).await?;
    let loading = Instant::now();
    let running = stage.produce(options)?;
    let injected = inject(&mut stage, options, &running, &mut report).await;
    injected.with_context(|| format!("seed {}\n{}", options.seed, stage.log_tails()))?;
    settle(&mut stage, options, running, &mut report).await?;
    report.load_time = loading.elapsed();
    let checks = checks(&mut stage, options, &mut report).await;
    stage.say("reading both clusters with an independent client");
    let checking = Instant::now();
    let clusters = stage.keep_clusters_only();
    let (source, target) = (clusters.source.direct_bootstrap(), clusters.target.direct_bootstrap());
    let pairs = [TopicPair::same(TOPIC)];
    report.comparison = Some(checker::compare(&source, &target, &pairs, &checks).await?);
    if report.has_unacknowledged() {
        report.repeats = checker::count_repeats(&source, TOPIC, &checks).await?;
    }
    report.check_time = checking.elapsed();
    report.whole_time = began.elapsed();
    if report.passed() {
        // After a failure the logs are wanted.
        let logs = clusters.logs.clone();
        std::fs::remove_dir_all(&logs).with_context(|| format!("removing {}", logs.display()))?;
    }
    Ok(report)
}

/// How records are compared: what the flow announced is allowed for old records only.
async fn checks(stage: &mut Stage, options: &Options, report: &mut Report) -> checker::Options {
    let announced = match stage.announced().await {
        Ok(announced) => announced,
        Err(error) => {
            report.problems.push(format!("it is not known what the flow announced: {error:#}"));
            return checker::Options::default();
        }
    };
    (report.announced_ranges, report.announced_offsets) = (announced.count(), announced.offsets());
    let allowed = if options.record_age.is_zero() { checker::Ranges::default() } else { announced.ranges };
    checker::Options { announced: allowed, ..checker::Options::default() }
}

/// Faults by the plan, until as many struck as demanded.
async fn inject(stage: &mut Stage, options: &Options, running: &Run, report: &mut Report) -> Result<()> {
    stage.wait_until_all_flow().await?;
    stage.say("records flow in every partition");
    // Some may not strike; a mesh in which most don't is not worth more time.
    let attempts = usize::try_from(options.faults)? * 2 + 5;
    let mut idle = 0;
    for fault in Plan::new(options.seed).take(attempts) {
        if report.struck() >= options.faults {
            break;
        }
        if running.is_done() {
            bail!("the workload ended before the faults: it failed, or the disk is full");
        }
        tokio::time::sleep(fault.pause).await;
        let struck = report.struck();
        stage.strike(&fault, report).await.with_context(|| format!("{fault:?}"))?;
        idle = if report.struck() > struck { 0 } else { idle + 1 };
        if idle >= IDLE_MAX {
            let word = stage.own_word().await;
            report.problems.push(format!("no records flow any more since {fault:?}; {word}"));
            break;
        }
    }
    stage.wait_for_brokers().await
}

/// Lets the rest be produced and mirrored.
async fn settle(stage: &mut Stage, options: &Options, running: Run, report: &mut Report) -> Result<()> {
    let mut last = (Instant::now(), 0);
    while running.progress().acknowledged() < options.records && !running.is_done() {
        let acknowledged = running.progress().acknowledged();
        if acknowledged > last.1 {
            last = (Instant::now(), acknowledged);
        }
        if last.0.elapsed() > STALL {
            bail!("the source acknowledges nothing for {STALL:?}, {acknowledged} records are produced");
        }
        tokio::time::sleep(STEP).await;
    }
    running.stop();
    report.produced = running.finish().await.context("the workload failed")?.records();
    stage.say(&format!("{} records are produced; waiting for the last ones", report.produced));
    let mut last = (Instant::now(), 0);
    loop {
        let arrived = stage.arrivals.total();
        if arrived >= report.produced {
            break;
        }
        if arrived > last.1 {
            last = (Instant::now(), arrived);
        }
        if last.0.elapsed() > STALL {
            let word = stage.own_word().await;
            let problem =
                format!("{arrived} of {} records arrived, then none for {STALL:?}; {word}", report.produced);
            stage.say(&problem);
            report.problems.push(problem);
            return Ok(());
        }
        tokio::time::sleep(STEP).await;
    }
    if let Err(error) = stage.wait_until_caught_up().await {
        report.problems.push(format!("all records arrived, but the flow does not say so: {error:#}"));
    }
    Ok(())
}
