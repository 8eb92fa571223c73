//! The faults row: many faults under load, every record compared, takeovers timed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use mirrormesh_integration::faults::{self, Options};

use crate::target_directory;

/// Faults come about this often, so that the records last as long as the faults do.
const SECONDS_PER_FAULT: u64 = 12;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Records to produce at least; more if the faults take longer.
    #[arg(long, default_value_t = 20_000_000)]
    records: u64,
    /// Faults that must strike while records flow.
    #[arg(long, default_value_t = 100)]
    faults: u32,
    /// Decides faults and records; a fresh one if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// Brokers of each cluster, 1 or 3.
    #[arg(long, default_value_t = 3)]
    brokers: usize,
    /// Source workers.
    #[arg(long, default_value_t = 3)]
    workers: u32,
    /// Records per second while faults are injected; by the numbers of records and faults if not given.
    #[arg(long)]
    rate: Option<u64>,
    /// How many days older than the clock the records' timestamps are. From one day on the target may forget who wrote:
    /// records may then be doubled or out of order at the target offsets that the flow announced.
    #[arg(long, default_value_t = 0)]
    record_age_days: u32,
    /// How often the target's brokers look for expired producer state, in seconds; Kafka's default (600) if not given.
    #[arg(long)]
    expiration_check_seconds: Option<u64>,
}

const DAY: Duration = Duration::from_hours(24);

/// Runs it, prints a table and writes JSON. An error if a record is wrong or too few faults struck.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let seed = args.seed.map_or_else(fresh_seed, Ok)?;
    let pace = args.records / (u64::from(args.faults.max(1)) * SECONDS_PER_FAULT);
    let bench = target_directory()?.join("bench");
    let options = Options {
        seed,
        records: args.records,
        faults: args.faults,
        partitions: args.partitions,
        brokers: args.brokers,
        workers: args.workers,
        rate: args.rate.unwrap_or_else(|| pace.max(1_000)),
        record_age: DAY * args.record_age_days,
        expiration_check: args.expiration_check_seconds.map(Duration::from_secs),
        folder: bench.join("faults"),
        say: |text| println!("{text}"),
    };
    let age = args.record_age_days;
    println!("{} records, {age} days old, {} faults, seed {seed}", args.records, args.faults);
    let report = faults::run(&options).await.with_context(|| format!("seed {seed}"))?;
    let json = bench.join("faults.json");
    std::fs::write(&json, format!("{:#}\n", report.json()))
        .with_context(|| format!("writing {}", json.display()))?;
    println!("{report}");
    println!("{}", json.display());
    if !report.passed() {
        bail!("seed {seed}: records are wrong or missing, or too few faults struck");
    }
    Ok(())
}

fn fresh_seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(u64::try_from(now.as_micros() % 1_000_000_000)?)
}
