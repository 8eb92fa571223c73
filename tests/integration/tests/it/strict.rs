//! Strict delivery: a backfill older than the target remembers, with a marker before each batch.

use std::time::Duration;

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Isolation};
use mirrormesh_proto::v1;
use mirrormesh_proto::v1::flow_partition::Delivery;
use mirrormesh_testkit::broker::batch::CONTROL;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;

use crate::disk;
use crate::rig::{FIVE_A_BATCH, PATIENCE, Rig, identity, large, metric, unique};

const HOUR_MS: i64 = 3_600_000;

/// Waits until the target's log is so long, markers included; says where it ended.
async fn grown(rig: &Rig, topic: &str, end: i64) -> Result<i64> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let ends = probe::end_offsets(&rig.target, topic).await.unwrap_or_default();
        if let Some(now) = ends.first().filter(|now| **now >= end) {
            return Ok(*now);
        }
        ensure!(tokio::time::Instant::now() < deadline, "{ends:?}, not {end}\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_backfill_is_exact_under_a_target_that_forgets() -> Result<()> {
    const RECORDS: usize = 3_000;
    let forgetful = ClusterSpec::new("target")
        .property("producer.id.expiration.ms", "3000")
        .property("producer.id.expiration.check.interval.ms", "200");
    let (source, target) =
        tokio::try_join!(Cluster::start(ClusterSpec::new("source")), Cluster::start(forgetful))?;
    let mut rig = Rig::between(&source, &target, MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("strict");
    create_topic(&rig.source, &topic, 1).await?;
    probe::send(&rig.source, &FIVE_A_BATCH, &topic, large(0..RECORDS, HOUR_MS)).await?;
    let mut flow = identity(&[&topic]);
    flow.records = Some(v1::RecordOptions { strict_delivery: true, ..flow.records.unwrap_or_default() });
    rig.api.create_flow(&rig.flow.clone(), flow).await?;

    // Small batches are not put together to larger ones than this: the backfill takes long enough to be interrupted.
    grown(&rig, &topic, 0).await?;
    probe::set_topic(&rig.target, &topic, &[("max.message.bytes", "8000")]).await?;

    // Killed in the middle, twice.
    for part in [300, 1_500] {
        grown(&rig, &topic, part).await?;
        let owner = rig.owner(&topic, 0).await?;
        rig.mesh.signal_worker(&owner, Signal::Kill)?;
        rig.mesh.start_worker(&owner)?;
        let after = probe::end_offsets(&rig.target, &topic).await?;
        ensure!(after.iter().all(|end| *end < 3_000), "it was done before the worker was killed: {after:?}");
    }
    rig.caught_up(1).await?;
    rig.delivered(&topic, Delivery::ExactlyOnce, "EACH_BATCH_MARKED").await?;
    rig.equal(&[&topic], RECORDS as u64).await?;
    let owner = rig.owner(&topic, 0).await?;
    let counted = metric(&rig, &owner, "mirrormesh_markers", &rig.flow).await?;
    ensure!(counted > 0.0, "no marker was counted by {owner}");

    // Each batch has a marker before it, and readers of committed records see every record once.
    let batches = disk::batches(&target, &topic, 0).await?;
    let markers = batches.iter().filter(|batch| batch.header.has(CONTROL)).count();
    let unmarked = batches.windows(2).filter(|two| two.iter().all(|b| !b.header.has(CONTROL))).count();
    ensure!(unmarked == 0 && markers >= RECORDS / 5, "{unmarked} batches without marker, {markers} markers");
    let committed = probe::records(&rig.target, &topic, 0, Isolation::Committed).await?;
    ensure!(committed.len() == RECORDS, "{} records are committed", committed.len());
    println!("{markers} markers, {counted} counted by the last owner");

    // Without it the flow goes on in a new generation, which writes none and says what holds now.
    let before = rig.generation(&topic, 0).await?;
    rig.set_records(v1::RecordOptions::default()).await?;
    let end = grown(&rig, &topic, 0).await?;
    probe::send(&rig.source, &FIVE_A_BATCH, &topic, large(RECORDS..RECORDS + 100, HOUR_MS)).await?;
    grown(&rig, &topic, end + 100).await?;
    rig.caught_up(1).await?;
    rig.delivered(&topic, Delivery::DetectedOnly, "TARGET_MAY_FORGET").await?;
    rig.equal(&[&topic], RECORDS as u64 + 100).await?;
    let after = rig.generation(&topic, 0).await?;
    ensure!(after.epoch > before.epoch, "{before:?}, then {after:?}");
    let batches = disk::batches(&target, &topic, 0).await?;
    let last = batches.iter().rposition(|batch| batch.header.has(CONTROL)).unwrap_or_default();
    let behind: i32 = batches.iter().skip(last + 1).map(|batch| batch.header.count).sum();
    ensure!(behind >= 95, "markers go on: {behind} records behind the last one");
    Ok(())
}
