//! The relay row: the source service and an rdkafka loop over the same data.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mirrormesh_integration::{Mesh, MeshSpec};
use mirrormesh_proto::v1;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec, Compiler};
use mirrormesh_testkit::process::{Launch, Process};
use rdkafka::consumer::BaseConsumer;
use serde_json::json;

use crate::load::{self, DataSet};
use crate::measure::{Usage, usage};

const PARTITIONS: i32 = 4;
const LIMIT: Duration = Duration::from_mins(5);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Megabytes of record values.
    #[arg(long, default_value_t = 2_000)]
    megabytes: u64,
    /// Bytes of one value.
    #[arg(long, default_value_t = 1_000)]
    value_bytes: usize,
    /// Batch size of the producer that makes the data.
    #[arg(long, default_value_t = 65_536)]
    batch_bytes: usize,
    /// Runs of each; the medians are compared.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self { megabytes: 2_000, value_bytes: 1_000, batch_bytes: 65_536, runs: 3 }
    }
}

/// One run of one mirror.
#[derive(Debug, Clone, Copy)]
struct Row {
    seconds: f64,
    usage: Usage,
}

/// Measures, prints a table and a line of JSON.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let spec = |name: &str| ClusterSpec::new(name).heap_mb(1_024).compiler(Compiler::Full);
    let (source, target) = tokio::try_join!(Cluster::start(spec("source")), Cluster::start(spec("target")))?;
    let records = args.megabytes * 1_000_000 / u64::try_from(args.value_bytes)?;
    let set = DataSet {
        topic: "data".to_owned(),
        partitions: PARTITIONS,
        records,
        value_bytes: args.value_bytes,
        batch_bytes: args.batch_bytes,
        codec: "none",
    };
    let seed = 42;
    println!("{records} records of {} bytes into {PARTITIONS} partitions, seed {seed}", args.value_bytes);
    load::create_topic(&source.bootstrap(), &set.topic, PARTITIONS).await?;
    {
        let (bootstrap, set) = (source.bootstrap(), set.clone());
        tokio::task::spawn_blocking(move || load::produce(&bootstrap, &set, seed)).await??;
    }
    let (mut ours, mut loops) = (Vec::new(), Vec::new());
    for n in 0..args.runs {
        ours.push(measure_source(n, &source, &target, &set).await?);
        loops.push(measure_loop(n, &source, &target, &set).await?);
    }
    print(args, &median(ours), &median(loops));
    Ok(())
}

fn median(mut rows: Vec<Row>) -> Row {
    rows.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    rows.get(rows.len() / 2).copied().unwrap_or_else(|| Row { seconds: f64::NAN, usage: Usage::default() })
}

async fn measure_source(n: usize, source: &Cluster, target: &Cluster, set: &DataSet) -> Result<Row> {
    let folder = std::env::temp_dir().join(format!("mirrormesh-bench-{}-{n}", std::process::id()));
    let spec = MeshSpec { coordinators: 1, sources: 1, checkpoints: 0, heartbeats: 0 };
    let mesh = Mesh::start(&folder, &spec).await?;
    let Some(pid) = mesh.worker_pid("source-1") else { bail!("the source service did not start") };
    let mut api = mesh.api()?;
    api.create_cluster("source", &source.bootstrap()).await?;
    api.create_cluster("target", &target.bootstrap()).await?;
    let target_topic = format!("ours-{n}");
    let rename = v1::RenameNaming { topics: [(set.topic.clone(), target_topic.clone())].into() };
    let flow = v1::Flow {
        source: "clusters/source".to_owned(),
        target: "clusters/target".to_owned(),
        topics: Some(v1::TopicSelection { include: vec![set.topic.clone()], exclude: vec![] }),
        naming: Some(v1::Naming { policy: Some(v1::naming::Policy::Rename(rename)) }),
        ..v1::Flow::default()
    };
    let (before, began) = (usage(pid)?, Instant::now());
    api.create_flow(&format!("bench-{n}"), flow).await?;
    wait(&load::counter(&target.bootstrap())?, &target_topic, set, began)?;
    let row = Row { seconds: began.elapsed().as_secs_f64(), usage: usage(pid)?.since(before) };
    drop(mesh);
    std::fs::remove_dir_all(&folder)?;
    Ok(row)
}

async fn measure_loop(n: usize, source: &Cluster, target: &Cluster, set: &DataSet) -> Result<Row> {
    let target_topic = format!("loop-{n}");
    load::create_topic(&target.bootstrap(), &target_topic, PARTITIONS).await?;
    let log = std::env::temp_dir().join(format!("mirrormesh-bench-loop-{}.log", std::process::id()));
    let began = Instant::now();
    let process: Process = Launch::new(std::env::current_exe()?, log)
        .args(["rdkafka-loop", "--source", &source.bootstrap(), "--target", &target.bootstrap()])
        .args(["--topic", &set.topic, "--target-topic", &target_topic])
        .args(["--partitions", &PARTITIONS.to_string(), "--records", &set.records.to_string()])
        .spawn()?;
    wait(&load::counter(&target.bootstrap())?, &target_topic, set, began)?;
    Ok(Row { seconds: began.elapsed().as_secs_f64(), usage: usage(process.pid())? })
}

fn wait(counter: &BaseConsumer, topic: &str, set: &DataSet, began: Instant) -> Result<()> {
    loop {
        let count = load::count(counter, topic, set.partitions);
        if count == set.records {
            return Ok(());
        }
        if count > set.records {
            bail!("{topic} holds {count} records, but only {} were produced: some are doubled", set.records);
        }
        if began.elapsed() > LIMIT {
            bail!("{topic} holds {count} of {} records after {LIMIT:?}", set.records);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn print(args: &Args, ours: &Row, loops: &Row) {
    let gigabytes = args.megabytes as f64 / 1_000.0;
    let rate = |row: &Row| args.megabytes as f64 / row.seconds;
    let cost = |row: &Row| row.usage.cpu_s() / gigabytes;
    println!("{:<28} {:>9} {:>14} {:>12} {:>10}", "", "MB/s", "core-s per GB", "user part", "peak MB");
    for (name, row) in [("source service", ours), ("rdkafka loop (1 MB batches)", loops)] {
        println!(
            "{name:<28} {:>9.0} {:>14.2} {:>12.2} {:>10.0}",
            rate(row),
            cost(row),
            row.usage.user_s / gigabytes,
            row.usage.peak_bytes as f64 / 1e6
        );
    }
    println!(
        "ratios: throughput {:.2} x the loop, CPU per GB {:.2} x the loop, memory {:.2} x the loop",
        rate(ours) / rate(loops),
        cost(ours) / cost(loops),
        ours.usage.peak_bytes as f64 / loops.usage.peak_bytes as f64
    );
    let json = |row: &Row| {
        json!({
            "mb_per_s": rate(row), "core_s_per_gb": cost(row), "user_s": row.usage.user_s,
            "system_s": row.usage.system_s, "peak_bytes": row.usage.peak_bytes, "seconds": row.seconds,
        })
    };
    println!(
        "{}",
        json!({ "megabytes": args.megabytes, "runs": args.runs, "source": json(ours), "rdkafka_loop": json(loops) })
    );
}
