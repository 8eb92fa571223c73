//! Topics of one name on several clusters: nothing goes back to where it came from, chains go on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain, Record};
use mirrormesh_proto::v1;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;

use crate::rig::{PATIENCE, Rig, exactly, identity, metric, now_ms, unique, with_headers};

/// So many records that name where they were produced, no two alike; every other one has a key.
pub(crate) fn from(side: &str, records: usize) -> Vec<Record> {
    let first_ms = now_ms() - 10_000;
    let record = |n: usize| Plain {
        key: n.is_multiple_of(2).then(|| format!("key {n} of {side}").into_bytes()),
        value: Some(format!("{side} {n}").into_bytes()),
        timestamp_ms: first_ms + i64::try_from(n).unwrap_or(0),
    };
    with_headers((0..records).map(record).collect())
}

fn between(source: &str, target: &str, topic: &str) -> v1::Flow {
    v1::Flow {
        source: format!("clusters/{source}"),
        target: format!("clusters/{target}"),
        ..identity(&[topic])
    }
}

/// Waits until a topic holds so many records.
async fn holds(rig: &Rig, bootstrap: &str, topic: &str, records: u64) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let count = probe::count(bootstrap, &[topic]).await.unwrap_or(0);
        if count >= records {
            return Ok(());
        }
        let late = tokio::time::Instant::now() > deadline;
        ensure!(!late, "{count} of {records} records of {topic} arrived\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each record of both sides stands there exactly once, whole, those of one side in their order, and nothing else.
fn each_once(found: &[Record], sides: [&[Record]; 2]) -> Result<()> {
    let mut due = sides;
    for (at, record) in found.iter().enumerate() {
        let side = due.iter().position(|side| side.first() == Some(record));
        let next = due.map(<[Record]>::first);
        let side = side.with_context(|| format!("number {at} is {record:?} where {next:?} were due"))?;
        due[side] = &due[side][1..];
    }
    let missing = due.map(<[Record]>::len);
    ensure!(missing == [0, 0], "{missing:?} of the last records are missing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_topic_is_mirrored_both_ways_exactly_once() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("both-ways");
    let (uk, hq) = (rig.source.clone(), rig.target.clone());
    create_topic(&uk, &topic, 1).await?;
    create_topic(&hq, &topic, 1).await?;
    let (of_uk, of_hq) = (from("uk", 1_100), from("hq", 1_100));
    // What was there before both flows goes over too, and not back.
    probe::send_records(&uk, &[], (&topic, 0), of_uk[..100].to_vec()).await?;
    probe::send_records(&hq, &[], (&topic, 0), of_hq[..100].to_vec()).await?;
    let there = rig.flow.clone();
    rig.api.create_flow(&there, between("uk", "hq", &topic)).await?;
    let back = unique("flow");
    rig.api.create_flow(&back, between("hq", "uk", &topic)).await?;
    for bootstrap in [&uk, &hq] {
        holds(&rig, bootstrap, &topic, 200).await?;
    }

    let owner = rig.owner(&topic, 0).await?;
    for wave in 1..11 {
        let numbers = wave * 100..(wave + 1) * 100;
        tokio::try_join!(
            probe::send_records(&uk, &[], (&topic, 0), of_uk[numbers.clone()].to_vec()),
            probe::send_records(&hq, &[], (&topic, 0), of_hq[numbers].to_vec()),
        )?;
        if wave == 4 {
            rig.mesh.signal_worker(&owner, Signal::Kill)?;
        }
        if wave == 7 {
            rig.mesh.start_worker(&owner)?;
        }
    }
    for bootstrap in [&uk, &hq] {
        holds(&rig, bootstrap, &topic, 2_200).await?;
    }
    for flow in [&there, &back] {
        rig.flow.clone_from(flow);
        rig.caught_up(1).await?;
    }
    for bootstrap in [&uk, &hq] {
        each_once(&probe::read_whole(bootstrap, &topic).await?, [&of_uk, &of_hq])?;
    }
    let mut skipped = 0.0;
    for worker in ["source-1", "source-2"] {
        skipped += metric(&rig, worker, "mirrormesh_skipped_batches", "reason=\"loop\"").await?;
    }
    ensure!(skipped > 0.0, "what was left out is counted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_forwards_unless_told_not_to_and_a_ring_is_refused() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let third = Cluster::start(ClusterSpec::new("third")).await?;
    let (uk, hq, us) = (rig.source.clone(), rig.target.clone(), third.bootstrap());
    rig.api.create_cluster("us", &us).await?;
    let (open, shut) = (unique("chain"), unique("no-chain"));
    let (of_uk, of_hq) = (from("uk", 60), from("hq", 50));
    for topic in [&open, &shut] {
        for bootstrap in [&uk, &hq] {
            create_topic(bootstrap, topic, 1).await?;
        }
        probe::send_records(&uk, &[], (topic, 0), of_uk[..50].to_vec()).await?;
        probe::send_records(&hq, &[], (topic, 0), of_hq.clone()).await?;
        let id = unique("flow");
        rig.api.create_flow(&id, between("uk", "hq", topic)).await?;
        holds(&rig, &hq, topic, 100).await?;
    }
    let forward = |forward_mirrored: bool| v1::RecordOptions {
        forward_mirrored: Some(forward_mirrored),
        heartbeat_topics: Some(false),
        ..v1::RecordOptions::default()
    };
    let id = unique("flow");
    rig.api.create_flow(&id, between("hq", "us", &open)).await?;
    holds(&rig, &us, &open, 100).await?;
    each_once(&probe::read_whole(&us, &open).await?, [&of_uk[..50], &of_hq])?;

    let quiet = v1::Flow { records: Some(forward(false)), ..between("hq", "us", &shut) };
    let id = rig.flow.clone();
    rig.api.create_flow(&id, quiet).await?;
    rig.caught_up(1).await?;
    exactly(&probe::read_whole(&us, &shut).await?, &of_hq)?;

    // Another rule is another generation: it counts from where the old one ended.
    let before = rig.generation(&shut, 0).await?;
    rig.set_records(forward(true)).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.generation(&shut, 0).await?.epoch <= before.epoch {
        ensure!(tokio::time::Instant::now() < deadline, "no new generation\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    probe::send_records(&uk, &[], (&shut, 0), of_uk[50..].to_vec()).await?;
    holds(&rig, &us, &shut, 60).await?;
    exactly(&probe::read_whole(&us, &shut).await?, &[&of_hq[..], &of_uk[50..]].concat())?;

    let closing = rig.api.create_flow(&unique("flow"), between("us", "uk", &open)).await;
    let refused = closing.expect_err("a ring of three");
    ensure!(refused.code() == tonic::Code::FailedPrecondition, "{refused:?}");
    ensure!(refused.message().contains("forward_mirrored"), "{refused:?}");
    Ok(())
}

/// Who starts every source worker anew: what was read of the registries is forgotten.
fn start_workers_again(rig: &mut Rig) -> Result<()> {
    let workers: Vec<String> =
        rig.mesh.worker_names().into_iter().filter(|name| name.starts_with("source")).collect();
    for worker in workers {
        rig.mesh.signal_worker(&worker, Signal::Kill)?;
        rig.mesh.start_worker(&worker)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_registry_stops_the_flows() -> Result<()> {
    const REGISTRY: &str = "mirrormesh-registry.internal";
    // Clusters of their own: other tests need the registry.
    let (source, target) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("source").heap_mb(300)),
        Cluster::start(ClusterSpec::new("target").heap_mb(300))
    )?;
    let mut rig = Rig::between(&source, &target, MeshSpec::default()).await?;
    let topic = unique("registry");
    let (uk, hq) = (rig.source.clone(), rig.target.clone());
    for bootstrap in [&uk, &hq] {
        create_topic(bootstrap, &topic, 1).await?;
    }
    let of_uk = from("uk", 60);
    let (there, back) = (rig.flow.clone(), unique("flow"));
    rig.api.create_flow(&there, between("uk", "hq", &topic)).await?;
    rig.api.create_flow(&back, between("hq", "uk", &topic)).await?;
    probe::send_records(&uk, &[], (&topic, 0), of_uk[..50].to_vec()).await?;
    holds(&rig, &hq, &topic, 50).await?;

    for id in [&there, &back] {
        rig.api.pause_flow(id).await?;
    }
    probe::delete_topic(&hq, REGISTRY).await?;
    start_workers_again(&mut rig)?;
    probe::send_records(&uk, &[], (&topic, 0), of_uk[50..].to_vec()).await?;
    for id in [&there, &back] {
        rig.api.resume_flow(id).await?;
        let missing = |flow: &v1::Flow| {
            let condition = flow.conditions.iter().find(|condition| condition.reason == "REGISTRY_MISSING");
            condition.is_some_and(|condition| condition.message.contains("kafka-topics.sh"))
        };
        rig.api.wait_for_flow(id, "the registry is missed", PATIENCE, missing).await?;
    }
    let counts = (probe::count(&uk, &[&topic]).await?, probe::count(&hq, &[&topic]).await?);
    ensure!(counts == (60, 50), "{counts:?}: nothing goes on, and nothing goes back");
    Ok(())
}
