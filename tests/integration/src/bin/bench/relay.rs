//! `bench relay`: the source service beside everything else that copies topics, on the same brokers with the same data.
//!
//! Each row is a process of its own. Rows take turns (A, B, C, A, B, C, …) and the medians are compared. Only the
//! stretch from the first record seen on the target to the last counts; the start is a figure of its own.

mod bars;
mod cost;
mod drip;
mod first;
mod franz;
mod idle;
mod latency;
mod mm2;
mod ours;
mod plot;
mod report;
mod results;
mod rig;
mod row;
mod sets;
mod stall;
mod stream;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{load, target_directory};
use results::Results;
use rig::Rig;
use row::Row;
use sets::{Scale, Set};
use stall::Point;

const SEED: u64 = 42;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The short form, which is the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The long form: more data, MirrorMaker 2 everywhere, three runs of everything.
    #[arg(long)]
    full: bool,
    /// Only these: 1kb, 1kb-16k, lz4, zstd, 100b, one-record, far, first, latency; and what only the full form has:
    /// backfill (old records over a long way), rf3 (three brokers with three replicas; one of its sets is named for
    /// example rf3-12-64k), idle, cost (how cost grows with partitions and flows) and stall (a target that takes nothing
    /// for minutes).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these rows.
    #[arg(long, value_delimiter = ',', value_enum)]
    rows: Vec<Row>,
    /// Runs of each row.
    #[arg(long)]
    runs: Option<usize>,
    /// Megabytes of 1 KB records; the other data sets in proportion.
    #[arg(long)]
    megabytes: Option<u64>,
    /// Idle partitions. To make ten thousand on each side takes minutes.
    #[arg(long)]
    idle_partitions: Option<i32>,
    /// How long the target stalls, in minutes; each takes about 3 GB of disk.
    #[arg(long, default_value_t = 10.0)]
    stall_minutes: f64,
    /// Active partitions of the stalled flow; one stall each.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Point::ALL)]
    stall_partitions: Vec<Point>,
    /// The most partitions when cost grows.
    #[arg(long, default_value_t = 10_000)]
    cost_partitions: i32,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            quick: false,
            full: false,
            only: Vec::new(),
            rows: Vec::new(),
            runs: None,
            megabytes: None,
            idle_partitions: None,
            stall_minutes: 10.0,
            stall_partitions: Point::ALL.to_vec(),
            cost_partitions: 10_000,
        }
    }
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// For what takes too long for the quick form, if it is not asked for by name.
    fn wants_long(&self, name: &str) -> bool {
        self.wants(name) && (self.full || !self.only.is_empty())
    }

    fn wants_set(&self, set: &Set) -> bool {
        let wants = |name| if set.long { self.wants_long(name) } else { self.wants(name) };
        wants(set.name) || wants(set.family)
    }

    fn wants_row(&self, row: Row) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }

    fn runs_of(&self, row: Row) -> usize {
        let usual = if row == Row::Mm2 && !self.full { 1 } else { 3 };
        self.runs.unwrap_or(usual)
    }
}

/// Measures, prints tables and writes JSON. An error if a bar is not met or a row failed.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let scale = Scale { full: args.full, runs: args.runs, megabytes: args.megabytes };
    let sets: Vec<Set> = sets::all(scale).into_iter().filter(|set| args.wants_set(set)).collect();
    let special = [first::NAME, latency::NAME, idle::NAME, cost::NAME, stall::NAME];
    let known =
        |only: &str| special.contains(&only) || sets.iter().any(|set| [set.name, set.family].contains(&only));
    if let Some(unknown) = args.only.iter().find(|only| !known(only)) {
        bail!("--only {unknown}: no such data set; see --help");
    }
    println!("{}", report::heading(args.full));
    let began = Instant::now();
    let bench = target_directory()?.join("bench");
    let _alone = alone(&bench)?;
    let rig = Rig::start(bench.join("relay")).await?;
    let mut results = Results::default();
    for set in sets.iter().filter(|set| !set.replicated) {
        measure_set(&rig, args, set, &mut results).await?;
        report::table(&results, set);
    }
    measure_replicated(&rig, args, &sets, &mut results).await?;
    measure_special(&rig, args, &mut results).await?;
    let growth =
        if args.wants_long(cost::NAME) { grow(&rig, args, &mut results).await? } else { json!(null) };
    let good = report::verdicts(&results);
    report::write(&bench.join("relay.json"), args.full, &results, &json!({ "seed": SEED, "cost": growth }))?;
    println!("took {:.0} s", began.elapsed().as_secs_f64());
    if !good {
        bail!("not every bar is met");
    }
    Ok(())
}

/// Two at once would measure each other. Held as long as the file is open.
fn alone(bench: &Path) -> Result<File> {
    std::fs::create_dir_all(bench).with_context(|| format!("creating {}", bench.display()))?;
    let path = bench.join("relay.lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    file.try_lock().with_context(|| format!("another bench runs: {} is locked", path.display()))?;
    Ok(file)
}

/// Makes the data and lets all rows run in turn.
async fn measure_set(rig: &Rig, args: &Args, set: &Set, results: &mut Results) -> Result<()> {
    let mut rows: Vec<_> = set.rows.iter().filter(|(row, _)| args.wants_row(*row)).collect();
    rows.retain(|(row, _)| {
        let missing = row.missing();
        if let Some(why) = &missing {
            results.not_run(set.name, *row, why);
        }
        missing.is_none()
    });
    let bootstrap = rig.source.direct_bootstrap();
    let sources = set.sources(&rows.iter().map(|(row, _)| *row).collect::<Vec<_>>());
    for data in &sources {
        load::create(&bootstrap, &load::keeps_all(&data.topic, data.partitions)).await?;
        let (bootstrap, data) = (bootstrap.clone(), data.clone());
        tokio::task::spawn_blocking(move || load::produce(&bootstrap, &data, SEED)).await??;
    }
    let rounds = rows.iter().map(|(_, runs)| *runs).max().unwrap_or(0);
    for round in 0..rounds {
        for (row, _) in rows.iter().filter(|(_, runs)| round < *runs) {
            let outcome = row::run(rig, *row, set).await;
            results.take(set.name, *row, outcome);
        }
    }
    let topics: Vec<&str> = sources.iter().map(|data| data.topic.as_str()).collect();
    load::delete_topics(&bootstrap, &topics).await
}

/// The sets whose target has three brokers, which run for them only.
async fn measure_replicated(rig: &Rig, args: &Args, sets: &[Set], results: &mut Results) -> Result<()> {
    let sets: Vec<&Set> = sets.iter().filter(|set| set.replicated).collect();
    if sets.is_empty() {
        return Ok(());
    }
    let rig = rig.replicated().await?;
    for set in sets {
        measure_set(&rig, args, set, results).await?;
        report::table(results, set);
    }
    Ok(())
}

async fn measure_special(rig: &Rig, args: &Args, results: &mut Results) -> Result<()> {
    if args.wants(first::NAME) && args.wants_row(Row::Source) {
        first::prepare(rig, SEED).await?;
        for _ in 0..args.runs_of(Row::Source) {
            results.take(first::NAME, Row::Source, first::run(rig).await);
        }
        report::special(results, first::NAME);
    }
    if args.wants(latency::NAME) {
        let measured = Duration::from_secs(if args.full { 30 } else { 8 });
        let plan = latency::Plan { records_per_second: 5_000, measured };
        // The quick form measures each once: a run takes half a minute.
        let rounds = if args.full { args.runs_of(Row::Source) } else { args.runs.unwrap_or(1) };
        for _ in 0..rounds {
            for row in [Row::Source, Row::Mm2, Row::Bare].into_iter().filter(|row| args.wants_row(*row)) {
                results.take(latency::NAME, row, latency::run(rig, row, plan).await);
            }
        }
        report::special(results, latency::NAME);
    }
    if args.wants_long(idle::NAME) && args.wants_row(Row::Source) {
        let partitions = args.idle_partitions.unwrap_or(10_000);
        let measured = Duration::from_secs(if args.full { 30 } else { 10 });
        results.take(idle::NAME, Row::Source, idle::run(rig, idle::Plan { partitions, measured }).await);
        report::special(results, idle::NAME);
    }
    if args.wants_long(stall::NAME) {
        let length = Duration::try_from_secs_f64(60.0 * args.stall_minutes).context("--stall-minutes")?;
        for &point in &args.stall_partitions {
            results.take(point.name(), Row::Source, stall::run(rig, point, length).await);
            report::special(results, point.name());
        }
    }
    Ok(())
}

/// Measures how cost grows, prints it and writes it to the documentation.
async fn grow(rig: &Rig, args: &Args, results: &mut Results) -> Result<Value> {
    let (mut measured, mut failed) = (Vec::new(), Vec::new());
    for point in cost::points(args.cost_partitions) {
        match cost::run(rig, point).await {
            Ok(values) => measured.push((point, values)),
            Err(error) => {
                failed.push(format!("{} partitions with {} flows", point.partitions, point.flows));
                results.fail(&format!("cost, {point:?}"), &error);
            }
        }
    }
    let mut about = cost::ABOUT.to_owned();
    if !failed.is_empty() {
        about = format!("{about} Failed, and not shown: {}.", failed.join(", "));
    }
    println!("\ncost: {about}\n{}", plot::table(&measured)?);
    plot::write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"), &measured, &about)?;
    Ok(json!(measured.into_iter().map(|(_, values)| values).collect::<Vec<_>>()))
}
