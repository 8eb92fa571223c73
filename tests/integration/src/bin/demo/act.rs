//! What the demo does, in order.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use mirrormesh_integration::{Api, Mesh, MeshSpec, probe};
use mirrormesh_proto::v1;
use mirrormesh_testkit::checker::{self, Comparison, TopicPair};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::{Topic, create_topics};
use mirrormesh_testkit::workload::{Codec, Run, TopicPlan, Workload};

use crate::Args;
use crate::screen::{Screen, Shown};

const FLOW: &str = "uk-hq";
/// Nothing may take longer than this without progress.
const STALL: Duration = Duration::from_mins(1);

/// How it ended.
#[derive(Debug)]
pub(crate) struct Verdict {
    comparison: Comparison,
    produced: u64,
    lag: i64,
    kills: u32,
    seconds: f64,
    api_gap: Duration,
}

impl Verdict {
    /// Every record is there, once, in order, unchanged; both kills happened.
    pub(crate) fn passed(&self) -> bool {
        self.comparison.is_equal()
            && self.comparison.totals.matched == self.produced
            && self.lag == 0
            && self.kills == 2
            && self.produced > 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed() { "PASS" } else { "FAIL" };
        if !self.comparison.is_equal() {
            writeln!(f, "{}", self.comparison)?;
        }
        let c = &self.comparison.totals;
        write!(
            f,
            "demo: {word} records={} lost={} duplicated={} reordered={} lag={} different={} extra={} produced={} \
             kills={} api_gap_ms={} seconds={:.1}",
            c.matched,
            c.lost,
            c.duplicated,
            c.reordered,
            self.lag,
            c.different,
            c.extra,
            self.produced,
            self.kills,
            self.api_gap.as_millis(),
            self.seconds
        )
    }
}

fn topics(records: u64) -> Vec<TopicPlan> {
    let share = |percent: u64| records * percent / 100;
    let plan = |name, partitions, records, codec, bytes| {
        TopicPlan::new(name, partitions, records).codec(codec).value_bytes(bytes).mixed()
    };
    let mut plans = vec![
        plan("orders", 4, share(30), Codec::None, 200),
        plan("payments", 3, share(20), Codec::Lz4, 300),
        plan("clicks", 2, share(20), Codec::Zstd, 120),
        plan("audit", 1, share(10), Codec::Gzip, 400),
        plan("stock", 2, share(10), Codec::Snappy, 250),
    ];
    let rest = records - plans.iter().map(|p| p.records).sum::<u64>();
    plans.push(plan("ledger", 2, rest, Codec::Lz4, 150).transactions(500, 0.2));
    plans
}

/// Everything that runs.
struct Stage {
    folder: PathBuf,
    source: Cluster,
    target: Cluster,
    mesh: Mesh,
    api: Api,
}

pub(crate) async fn run(args: &Args) -> Result<Verdict> {
    let mut screen = Screen::new();
    let began = Instant::now();
    let mut stage = set_up(&screen).await?;
    let plans = topics(args.records);
    let names: Vec<&str> = plans.iter().map(|p| p.name.as_str()).collect();
    let topics: Vec<Topic> = plans.iter().map(|p| Topic::new(&p.name, p.partitions)).collect();
    create_topics(&stage.source.bootstrap(), &topics).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let workload = plans.iter().cloned().fold(Workload::new(args.seed), Workload::topic);
    let workload = workload.first_timestamp_ms(i64::try_from(now)? - 3_600_000);
    make_flow(&mut stage, &screen).await?;
    screen.say(&format!(
        "producing {} records (seed {}) into {} topics while the flow runs",
        args.records,
        args.seed,
        plans.len()
    ));
    let running = workload.start(&stage.source.bootstrap())?;
    let pairs: Vec<TopicPair> = names.iter().map(|&name| TopicPair::same(name)).collect();

    let (kills, api_gap) = follow(&mut stage, &mut screen, &running, &names, args.records).await?;
    let produced = running.finish().await.context("the producer failed")?.records();
    let settled = stage
        .api
        .wait_for_flow(FLOW, "lag 0", STALL, |flow| {
            flow.progress
                .as_ref()
                .is_some_and(|p| p.lag_records == Some(0) && p.partitions == p.partitions_running)
        })
        .await?;
    let lag = settled.progress.and_then(|p| p.lag_records).unwrap_or(-1);
    screen.say("all records are there and the lag is 0; reading both clusters with an independent client");
    let comparison = checker::compare(
        &stage.source.bootstrap(),
        &stage.target.bootstrap(),
        &pairs,
        &checker::Options::default(),
    )
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    let verdict = Verdict { comparison, produced, lag, kills, seconds, api_gap };
    if args.keep {
        println!("{verdict}");
        keep(&stage, &screen).await?;
    }
    let folder = stage.folder.clone();
    drop(stage);
    if verdict.passed() {
        // After a failure the logs are wanted.
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(verdict)
}

/// Shows the progress until everything is produced, and kills half-way. Returns how many were killed and how long the
/// API did not answer then.
async fn follow(
    stage: &mut Stage,
    screen: &mut Screen,
    running: &Run,
    names: &[&str],
    total: u64,
) -> Result<(u32, Duration)> {
    let mut kills = 0;
    let mut api_gap = Duration::ZERO;
    let mut last_progress = (Instant::now(), 0);
    loop {
        // Fresh topics may have no leader for a moment: then the count stays as it was.
        let mirrored = probe::count(&stage.target.bootstrap(), names).await.unwrap_or(last_progress.1);
        let flow = stage.api.flow(FLOW).await.ok();
        let progress = flow.and_then(|f| f.progress);
        screen.show(Shown {
            mirrored,
            total,
            bytes_per_second: progress.as_ref().map_or(0.0, |p| p.bytes_per_second),
            lag: progress.as_ref().and_then(|p| p.lag_records),
        });
        if kills == 0 && mirrored * 2 >= total {
            api_gap = kill_two(stage, screen).await?;
            kills = 2;
        }
        if mirrored > last_progress.1 {
            last_progress = (Instant::now(), mirrored);
        }
        if running.is_done() && kills > 0 {
            break;
        }
        if last_progress.0.elapsed() > STALL {
            bail!("no progress for {STALL:?} at {mirrored} of {total}\n{}", stage.mesh.log_tails());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok((kills, api_gap))
}

async fn set_up(screen: &Screen) -> Result<Stage> {
    screen.say("starting two Kafka clusters");
    let (source, target) =
        tokio::try_join!(Cluster::start(ClusterSpec::new("uk")), Cluster::start(ClusterSpec::new("hq")))?;
    screen.say(&format!("uk is {}, hq is {}", source.bootstrap(), target.bootstrap()));
    let folder: PathBuf = std::env::temp_dir().join(format!("mirrormesh-demo-{}", std::process::id()));
    let spec = MeshSpec { coordinators: 3, sources: 2, checkpoints: 1, heartbeats: 1 };
    let mesh = Mesh::start(&folder, &spec).await?;
    let api = mesh.api()?;
    screen.say(&format!("3 coordinators and 4 workers run; logs are in {}", folder.display()));
    Ok(Stage { folder, source, target, mesh, api })
}

async fn make_flow(stage: &mut Stage, screen: &Screen) -> Result<()> {
    stage.api.create_cluster("uk", &stage.source.bootstrap()).await?;
    stage.api.create_cluster("hq", &stage.target.bootstrap()).await?;
    let flow = v1::Flow {
        source: "clusters/uk".to_owned(),
        target: "clusters/hq".to_owned(),
        naming: Some(v1::Naming { policy: Some(v1::naming::Policy::Identity(v1::IdentityNaming {})) }),
        ..v1::Flow::default()
    };
    stage.api.create_flow(FLOW, flow).await?;
    screen.say("flow uk-hq is made");
    Ok(())
}

/// Kills a source worker and the leading coordinator with SIGKILL; returns how long the API did not answer.
async fn kill_two(stage: &mut Stage, screen: &Screen) -> Result<Duration> {
    let leader = stage.api.mesh().await.context("who leads?")?.leader_id;
    stage.mesh.signal_worker("source-1", Signal::Kill)?;
    stage.mesh.signal_coordinator(leader, Signal::Kill)?;
    let killed = Instant::now();
    screen.say(&format!("killed source-1 and the leading coordinator {leader} with SIGKILL"));
    while stage.api.flow(FLOW).await.is_err() {
        if killed.elapsed() > STALL {
            bail!("the API did not answer again within {STALL:?}\n{}", stage.mesh.log_tails());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gap = killed.elapsed();
    screen.say(&format!("the API answers again after {} ms", gap.as_millis()));
    Ok(gap)
}

/// Prints how to go on, and stays until interrupted: what runs is never left without an owner.
async fn keep(stage: &Stage, screen: &Screen) -> Result<()> {
    let api = stage.mesh.addresses().iter().map(|a| a.api.clone()).collect::<Vec<_>>();
    let address = api.last().cloned().unwrap_or_default();
    screen.say("everything is left running until you press ctrl-c; go on with:");
    println!("  grpcurl -plaintext {address} list");
    println!(
        "  grpcurl -plaintext -d '{{\"name\":\"flows/uk-hq\"}}' {address} mirrormesh.v1.FlowService/GetFlow"
    );
    println!(
        "  grpcurl -plaintext -d '{{\"name\":\"flows/uk-hq\"}}' {address} mirrormesh.v1.FlowService/WatchFlow"
    );
    println!(
        "  grpcurl -plaintext -d '{{\"name\":\"flows/uk-hq\"}}' {address} mirrormesh.v1.FlowService/PauseFlow"
    );
    println!("  grpcurl -plaintext {address} mirrormesh.v1.WorkerService/ListWorkers");
    println!("  grpcurl -plaintext {address} mirrormesh.v1.MeshService/GetMesh");
    println!("  uk is {}, hq is {}", stage.source.bootstrap(), stage.target.bootstrap());
    println!("  all coordinators: {}", api.join(", "));
    tokio::signal::ctrl_c().await.context("waiting for ctrl-c")
}
