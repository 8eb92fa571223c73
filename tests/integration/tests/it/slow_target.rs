//! Targets that are slow, or stand still: a late acknowledgement is no lost answer, and memory stays bounded.
//!
//! Node ids are those of the brokers plus one.

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::{MeshSpec, probe};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::{Topic, create_topic, create_topics};
use mirrormesh_testkit::workload::{Codec, TopicPlan};
use tokio::time::{Duration, Instant, sleep};

use crate::faults::{ENDLESS, RATE};
use crate::rig::{PATIENCE, Rig, metric, plan, produce, unique};

const PARTITIONS: usize = 4;
/// How long the cluster takes to notice that a broker stands still: several produce time-outs.
const NOTICED_MS: &str = "15000";

/// How often pipelines broke for this reason.
async fn recoveries(rig: &Rig, reason: &str) -> Result<f64> {
    metric(rig, "source-1", "mirrormesh_resyncs", &format!("reason=\"{reason}\"")).await
}

/// Waits until the target has all that the source has of a topic by now. Records go on to come meanwhile.
async fn keeps_up(rig: &Rig, topic: &str) -> Result<()> {
    let wanted = probe::end_offsets(&rig.source, topic).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let target = probe::end_offsets(&rig.target, topic).await?;
        if target.iter().zip(&wanted).all(|(target, wanted)| target >= wanted) {
            return Ok(());
        }
        let late = Instant::now() >= deadline;
        ensure!(!late, "{topic} is held up: {wanted:?}, {target:?}\n{}", rig.mesh.log_tails());
        sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a node counts as in sync in any partition.
async fn in_sync(rig: &Rig, topic: &str, node: i32) -> Result<bool> {
    for number in 0..i32::try_from(PARTITIONS)? {
        if probe::leadership(&rig.target, topic, number).await?.1.contains(&node) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_follower_slows_only_its_own_partitions() -> Result<()> {
    let spec = ClusterSpec::new("target").brokers(3).heap_mb(300);
    let target = Cluster::start(spec.property("broker.session.timeout.ms", NOTICED_MS)).await?;
    let mut rig = Rig::between(&shared_pair().await?.source, &target, MeshSpec::default()).await?;
    let (held, apart) = (unique("held"), unique("apart"));
    let topics = [held.as_str(), apart.as_str()];
    for topic in topics {
        create_topic(&rig.source, topic, i32::try_from(PARTITIONS)?).await?;
    }
    // Nodes 1 and 2 lead everything. Only the first topic has replicas on node 3.
    let everywhere = Topic::on(&held, &[&[1, 2, 3], &[2, 1, 3], &[1, 3, 2], &[2, 3, 1]]);
    let elsewhere = Topic::on(&apart, &[&[1, 2], &[2, 1], &[1, 2], &[2, 1]]);
    create_topics(&rig.target, &[everywhere, elsewhere]).await?;
    let plans = topics.map(|topic| plan(topic, i32::try_from(PARTITIONS).unwrap_or(0), ENDLESS, Codec::Lz4));
    let running = produce(&rig.source, plans.into(), Some(RATE)).await?;
    rig.mirror(&topics).await?;
    rig.arrived(&topics, 8_000).await?;
    let lost_before = recoveries(&rig, "ANSWER_LOST").await?;

    target.pause(2)?;
    let began = Instant::now();
    let mut rounds = 0;
    while in_sync(&rig, &held, 3).await? {
        ensure!(began.elapsed() < PATIENCE, "node 3 stays in sync though it stands still");
        keeps_up(&rig, &apart).await?;
        rounds += 1;
        sleep(Duration::from_millis(200)).await;
    }
    // The last round may have waited for node 3 to be left out. Those before it did not, however slow this machine is.
    ensure!(rounds > 1, "the other topic got on {rounds} times only while node 3 was waited for");
    keeps_up(&rig, &held).await?;
    let lost = recoveries(&rig, "ANSWER_LOST").await? - lost_before;
    ensure!(lost < 0.5, "{lost} answers lost, though every leader works\n{}", rig.mesh.log_tails());

    target.resume(2)?;
    ensure!(!running.is_done(), "the workload ended before the fault: it struck nothing");
    running.stop();
    let produced = running.finish().await?.records();
    rig.arrived(&topics, produced).await?;
    rig.caught_up(2 * i64::try_from(PARTITIONS)?).await?;
    rig.equal(&topics, produced).await
}

/// Bytes that the first source worker has in memory.
fn resident_bytes(rig: &Rig) -> Result<u64> {
    let pid = rig.mesh.worker_pid("source-1").context("source-1 does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1_024)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_target_leaves_memory_within_the_budget() -> Result<()> {
    // The default of `memory_bytes`, and what a process may take besides.
    const ALLOWED: u64 = (64 + 100) << 20;
    let target = Cluster::start(ClusterSpec::new("target")).await?;
    let mut rig = Rig::between(&shared_pair().await?.source, &target, MeshSpec::default()).await?;
    let topic = unique("stalled");
    let full = TopicPlan::new(&topic, 200, 300_000).codec(Codec::None).value_bytes(1_000);
    let produced = produce(&rig.source, vec![full], None).await?.finish().await?.records();
    rig.mirror(&[&topic]).await?;
    rig.arrived(&[&topic], 5_000).await?;
    target.pause(0)?;
    let stalled_until = Instant::now() + Duration::from_secs(20);
    let mut most = 0;
    while Instant::now() < stalled_until {
        most = most.max(resident_bytes(&rig)?);
        sleep(Duration::from_millis(100)).await;
    }
    target.resume(0)?;
    {
        let topics = [topic.as_str()];
        let arrived = rig.arrived(&topics, produced);
        tokio::pin!(arrived);
        loop {
            tokio::select! {
                done = &mut arrived => break done?,
                () = sleep(Duration::from_millis(100)) => most = most.max(resident_bytes(&rig)?),
            }
        }
    }
    ensure!(most <= ALLOWED, "{} MiB in memory, {} MiB allowed", most >> 20, ALLOWED >> 20);
    rig.caught_up(200).await?;
    rig.equal(&[&topic], produced).await
}
