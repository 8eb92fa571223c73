//! A target that forgets producers after three seconds: idle flows, records without timestamps, and retention that took
//! what would tell how far the flow was.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_kafka::{Client, ClientConfig};
use mirrormesh_testkit::kafka::ClusterSpec;
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::shared::Pair;
use mirrormesh_testkit::topics::create_topic;
use tokio::sync::OnceCell;

use crate::rig::{PATIENCE, Rig, now_ms, random_bytes, unique};

/// The pair of all tests here. Its source looks often for what retention no longer covers.
pub(crate) async fn pair() -> Result<&'static Pair> {
    static PAIR: OnceCell<Pair> = OnceCell::const_new();
    let source = ClusterSpec::new("source").property("log.retention.check.interval.ms", "300");
    let target = ClusterSpec::new("target")
        .property("producer.id.expiration.ms", "3000")
        .property("producer.id.expiration.check.interval.ms", "200");
    PAIR.get_or_try_init(|| Pair::start(source, target)).await
}

pub(crate) async fn rig(sources: u32) -> Result<Rig> {
    let pair = pair().await?;
    Rig::between(&pair.source, &pair.target, MeshSpec { sources, ..MeshSpec::default() }).await
}

/// Records that are told apart, a few KB each: they go to the target in the batches in which they came.
fn records(numbers: std::ops::Range<usize>, timestamp_ms: i64) -> Vec<Plain> {
    let record = |n: usize| Plain {
        key: Some(format!("key {n}").into_bytes()),
        value: Some(random_bytes(1_000 + n)),
        timestamp_ms,
    };
    numbers.map(record).collect()
}

/// Waits until the target's leader remembers nothing of who writes the partition for the flow.
pub(crate) async fn forgotten(rig: &mut Rig, topic: &str) -> Result<()> {
    let ours = rig.generation(topic, 0).await?.producer_id.context("no producer id")?;
    let client = Client::new(ClientConfig::new([rig.target.clone()], "test"))?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let known = client.describe_producers(topic, 0).await?;
        if known.iter().all(|producer| producer.producer_id != ours) {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{ours} was never forgotten: {known:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn says(rig: &mut Rig, topic: &str, reason: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let partition = rig.partition(topic, 0).await?;
        if partition.delivery_reason == reason {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "never {reason}: {partition:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_flow_that_was_forgotten_goes_on_exactly() -> Result<()> {
    let mut rig = rig(2).await?;
    let topic = unique("idle");
    create_topic(&rig.source, &topic, 1).await?;
    rig.mirror(&[&topic]).await?;
    let mut sent = 0;
    for killed in [false, true, true, false] {
        let settings = [("batch.num.messages", "5")];
        probe::send(&rig.source, &settings, &topic, records(sent..sent + 100, now_ms())).await?;
        sent += 100;
        rig.arrived(&[&topic], sent as u64).await?;
        rig.equal(&[&topic], sent as u64).await?;
        forgotten(&mut rig, &topic).await?;
        says(&mut rig, &topic, "TARGET_MAY_FORGET").await?;
        if killed {
            let owner = rig.owner(&topic, 0).await?;
            rig.mesh.signal_worker(&owner, Signal::Kill)?;
            rig.mesh.start_worker(&owner)?;
        }
    }
    probe::send(&rig.source, &[], &topic, records(sent..sent + 100, now_ms())).await?;
    rig.arrived(&[&topic], sent as u64 + 100).await?;
    rig.equal(&[&topic], sent as u64 + 100).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_timestamps_arrive_exactly() -> Result<()> {
    let mut rig = rig(2).await?;
    let topic = unique("timeless");
    create_topic(&rig.source, &topic, 1).await?;
    let settings = [("batch.num.messages", "5"), ("compression.codec", "lz4")];
    let timeless = probe::send(&rig.source, &settings, &topic, records(0..1_000, -1));
    timeless.await?;
    let found = probe::read(&rig.source, &topic).await?;
    ensure!(found.len() == 1_000 && found.iter().all(|r| r.timestamp_ms == -1), "the source set timestamps");
    rig.mirror(&[&topic]).await?;
    for records in [200, 500] {
        rig.arrived(&[&topic], records).await?;
        let owner = rig.owner(&topic, 0).await?;
        rig.mesh.signal_worker(&owner, Signal::Kill)?;
        rig.mesh.start_worker(&owner)?;
    }
    rig.arrived(&[&topic], 1_000).await?;
    forgotten(&mut rig, &topic).await?;
    says(&mut rig, &topic, "TARGET_MAY_FORGET").await?;
    // Those with and without stand in one batch.
    let mut mixed = records(1_000..1_100, -1);
    mixed.iter_mut().step_by(3).for_each(|record| record.timestamp_ms = now_ms());
    probe::send(&rig.source, &[("linger.ms", "50")], &topic, mixed).await?;
    rig.arrived(&[&topic], 1_100).await?;
    rig.equal(&[&topic], 1_100).await
}
