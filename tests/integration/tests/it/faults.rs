//! Faults under load: processes killed and paused, brokers restarted, connections cut. Every record is checked.
//!
//! A fault counts only if records flowed when it struck.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::proxy::Proxy;
use mirrormesh_testkit::topics::create_topic;
use mirrormesh_testkit::workload::{Codec, Run, Workload};

use crate::rig::{PATIENCE, Rig, metric, plan, produce, unique};

pub(crate) const RATE: u64 = 4_000;
/// More than any fault takes; the workload is stopped when the last one is over.
pub(crate) const ENDLESS: u64 = 10_000_000;

async fn pair(proxied_target: bool) -> Result<(Cluster, Cluster)> {
    let target = ClusterSpec { proxied: proxied_target, ..ClusterSpec::new("target") };
    tokio::try_join!(Cluster::start(ClusterSpec::new("source")), Cluster::start(target))
}

/// Waits until so many records of the topic arrived, while more are still to come.
pub(crate) async fn under_load(rig: &Rig, topic: &str, records: u64, running: &Run) -> Result<()> {
    rig.arrived(&[topic], records).await?;
    ensure!(!running.is_done(), "the workload ended before the fault: it struck nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_paused_workers_lose_and_double_nothing() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("workers");
    let running = produce(&rig.source, vec![plan(&topic, 6, ENDLESS, Codec::Lz4)], Some(RATE)).await?;
    rig.mirror(&[&topic]).await?;

    under_load(&rig, &topic, 4_000, &running).await?;
    rig.mesh.signal_worker("source-1", Signal::Kill)?;
    under_load(&rig, &topic, 20_000, &running).await?;
    rig.mesh.start_worker("source-1")?;
    under_load(&rig, &topic, 30_000, &running).await?;

    // Longer than the lease: its partitions go to the other worker, then it wakes up with batches in its hands.
    rig.mesh.signal_worker("source-2", Signal::Stop)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    under_load(&rig, &topic, 45_000, &running).await?;
    rig.mesh.signal_worker("source-2", Signal::Cont)?;
    under_load(&rig, &topic, 55_000, &running).await?;

    running.stop();
    let produced = running.finish().await?.records();
    rig.arrived(&[&topic], produced).await?;
    rig.caught_up(6).await?;
    rig.equal(&[&topic], produced).await
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_brokers_lose_and_double_nothing() -> Result<()> {
    let (source, target) = pair(false).await?;
    let mut rig = Rig::between(&source, &target, MeshSpec::default()).await?;
    let topic = unique("brokers");
    let running = produce(&rig.source, vec![plan(&topic, 4, ENDLESS, Codec::Zstd)], Some(RATE)).await?;
    rig.mirror(&[&topic]).await?;

    under_load(&rig, &topic, 4_000, &running).await?;
    target.kill(0)?;
    target.start_broker(0)?;
    target.wait_ready(PATIENCE).await?;
    under_load(&rig, &topic, 15_000, &running).await?;
    source.kill(0)?;
    source.start_broker(0)?;
    source.wait_ready(PATIENCE).await?;
    under_load(&rig, &topic, 30_000, &running).await?;
    target.stop(0).await?;
    target.start_broker(0)?;
    target.wait_ready(PATIENCE).await?;
    under_load(&rig, &topic, 40_000, &running).await?;

    running.stop();
    let produced = running.finish().await?.records();
    rig.arrived(&[&topic], produced).await?;
    rig.caught_up(4).await?;
    rig.equal(&[&topic], produced).await
}

/// 60,000 records in batches that are too large to be put together, and small enough for many to be in flight.
async fn small_batches(bootstrap: &str, topic: &str) -> Result<u64> {
    create_topic(bootstrap, topic, 1).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let workload = Workload::new(64).batch_bytes(6_000).topic(plan(topic, 1, 60_000, Codec::None));
    let report = workload.first_timestamp_ms(i64::try_from(now)? - 3_600_000).produce(bootstrap).await?;
    Ok(report.records())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_pipeline_of_64_batches_is_found_again() -> Result<()> {
    let (source, target) = pair(true).await?;
    let mut rig = Rig::between(&source, &target, MeshSpec::default()).await?;
    rig.target = target.direct_bootstrap();
    let topic = unique("cut");
    // Small batches in store, and a long way to the target: the window fills.
    let produced = small_batches(&rig.source, &topic).await?;
    target.proxies().for_each(|proxy| proxy.delay(Duration::from_millis(150)));
    rig.mirror(&[&topic]).await?;
    let mut cuts = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while cuts < 3 {
        ensure!(tokio::time::Instant::now() < deadline, "64 batches were never in flight; {cuts} cuts");
        if metric(&rig, "source-1", "mirrormesh_batches_in_flight", "").await? >= 64.0 {
            target.proxies().for_each(Proxy::cut);
            cuts += 1;
            let before = metric(&rig, "source-1", "mirrormesh_resyncs", "").await?;
            while metric(&rig, "source-1", "mirrormesh_resyncs", "").await?
                <= before.max(f64::from(cuts) - 1.0)
            {
                ensure!(tokio::time::Instant::now() < deadline, "no resync after a cut");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    target.proxies().for_each(|proxy| proxy.delay(Duration::ZERO));
    rig.arrived(&[&topic], produced).await?;
    rig.caught_up(1).await?;
    rig.equal(&[&topic], produced).await
}
