//! Sources and targets that change or forget: compaction with a running cleaner, backfills older than the target
//! remembers producers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::{Topic, create_topics};
use mirrormesh_testkit::workload::{Codec, Workload};

use crate::rig::{PATIENCE, Rig, now_ms, plan, random_bytes, unique};

/// A cleaner that runs all the time.
fn cleaning(name: &str) -> ClusterSpec {
    ClusterSpec::new(name)
        .property("log.cleaner.backoff.ms", "100")
        .property("log.cleaner.min.cleanable.ratio", "0.001")
}

fn compacted(name: &str) -> Topic {
    Topic::new(name, 1)
        .setting("cleanup.policy", "compact")
        .setting("segment.ms", "300")
        .setting("min.cleanable.dirty.ratio", "0.001")
        .setting("min.compaction.lag.ms", "0")
        .setting("max.compaction.lag.ms", "500")
        .setting("delete.retention.ms", "600000")
}

/// Numbered values over few keys.
fn updates(from: usize, to: usize) -> Vec<Plain> {
    let now = now_ms();
    let record = |n: usize| Plain {
        key: Some(format!("key {}", (n * 7_919) % 97).into_bytes()),
        value: Some(format!("{n:08} {}", "x".repeat(50)).into_bytes()),
        timestamp_ms: now,
    };
    (from..to).map(record).collect()
}

fn number(record: &Plain) -> Result<usize> {
    let value = record.value.as_deref().context("a tombstone that nobody wrote")?;
    Ok(std::str::from_utf8(value.get(..8).context("short")?)?.parse()?)
}

/// What is left on the target is a row of the produced records, each once and in order, with the same newest value for
/// each key.
async fn same_state(rig: &Rig, topic: &str, produced: usize) -> Result<usize> {
    let target = probe::read(&rig.target, topic).await?;
    let numbers: Vec<usize> = target.iter().map(number).collect::<Result<_>>()?;
    let disorder = numbers.iter().zip(numbers.iter().skip(1)).find(|(one, next)| one >= next);
    ensure!(disorder.is_none(), "records {disorder:?} stand in this order");
    let newest: BTreeMap<_, _> = target.into_iter().map(|r| (r.key, r.value)).collect();
    let wanted: BTreeMap<_, _> = updates(0, produced).into_iter().map(|r| (r.key, r.value)).collect();
    ensure!(newest == wanted, "{} keys on the target, {} were written", newest.len(), wanted.len());
    Ok(numbers.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_under_the_reader_loses_and_doubles_nothing() -> Result<()> {
    let (source, target) =
        tokio::try_join!(Cluster::start(cleaning("source")), Cluster::start(cleaning("target")))?;
    let mut rig = Rig::between(&source, &target, MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("compacted");
    create_topics(&rig.source, &[compacted(&topic)]).await?;
    create_topics(&rig.target, &[compacted(&topic)]).await?;
    let settings = [("linger.ms", "5"), ("batch.num.messages", "50"), ("compression.codec", "lz4")];
    let mut produced = 0;
    let step = 4_000;
    // Enough for the cleaner to have something to do before the flow begins.
    for _ in 0..3 {
        probe::send(&rig.source, &settings, &topic, updates(produced, produced + step)).await?;
        produced += step;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while probe::read(&rig.source, &topic).await?.len() >= produced {
        ensure!(tokio::time::Instant::now() < deadline, "the source was never cleaned");
        probe::send(&rig.source, &settings, &topic, updates(produced, produced + 10)).await?;
        produced += 10;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    rig.mirror(&[&topic]).await?;
    let mut killed = 0;
    for round in 0..6 {
        probe::send(&rig.source, &settings, &topic, updates(produced, produced + step)).await?;
        produced += step;
        if round % 2 == 1 {
            let owner = rig.owner(&topic, 0).await?;
            rig.mesh.signal_worker(&owner, Signal::Kill)?;
            rig.mesh.start_worker(&owner)?;
            killed += 1;
            let end = probe::end_offsets(&rig.target, &topic).await?.first().copied().unwrap_or(0);
            probe::send(&rig.source, &settings, &topic, updates(produced, produced + 100)).await?;
            produced += 100;
            while probe::end_offsets(&rig.target, &topic).await?.first().copied().unwrap_or(0) <= end {
                ensure!(tokio::time::Instant::now() < deadline, "nothing arrived after a kill");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    rig.caught_up(1).await?;
    let left = same_state(&rig, &topic, produced).await?;
    println!("{produced} produced, {left} left on the target, {killed} owners killed");
    let generation = rig.generation(&topic, 0).await?;
    ensure!(generation.epoch >= Some(killed), "each owner fences the one before: {generation:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_older_than_the_target_remembers_is_exact_and_says_so() -> Result<()> {
    let forgetful = ClusterSpec::new("target").property("producer.id.expiration.check.interval.ms", "200");
    let (source, target) =
        tokio::try_join!(Cluster::start(ClusterSpec::new("source")), Cluster::start(forgetful))?;
    let mut rig = Rig::between(&source, &target, MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("backfill");
    let month_ago = now_ms() - 30 * 86_400_000;
    mirrormesh_testkit::topics::create_topic(&rig.source, &topic, 2).await?;
    let workload = Workload::new(77).batch_bytes(3_000).topic(plan(&topic, 2, 40_000, Codec::Lz4));
    let produced = workload.first_timestamp_ms(month_ago).produce(&rig.source).await?.records();
    rig.mirror(&[&topic]).await?;
    let mut seen = false;
    for part in 1..4 {
        rig.arrived(&[&topic], produced * part / 5).await?;
        let partition = rig.partition(&topic, 0).await?;
        seen |= partition.delivery_reason == "TARGET_MAY_FORGET";
        let owner = rig.owner(&topic, 0).await?;
        rig.mesh.signal_worker(&owner, Signal::Kill)?;
        rig.mesh.start_worker(&owner)?;
    }
    rig.caught_up(2).await?;
    seen |= rig.partition(&topic, 0).await?.delivery_reason == "TARGET_MAY_FORGET";
    ensure!(seen, "the status never said that the target may forget");
    rig.equal(&[&topic], produced).await?;

    // Behind the backfill the flow is exactly once again.
    let fresh = Plain { key: None, value: Some(random_bytes(20)), timestamp_ms: now_ms() };
    probe::send(&rig.source, &[], &topic, vec![fresh; 20]).await?;
    rig.arrived(&[&topic], produced + 20).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let partition = rig.partition(&topic, 0).await?;
        if partition.delivery() == mirrormesh_proto::v1::flow_partition::Delivery::ExactlyOnce {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{partition:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
