//! Topics of one name on several clusters: nothing goes back to where it came from, chains go on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_proto::v1;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;

use crate::rig::{PATIENCE, Rig, identity, metric, now_ms, unique};

/// Records that name where they were produced.
pub(crate) fn from(side: &str, numbers: std::ops::Range<usize>) -> Vec<Plain> {
    let record =
        |n| Plain { key: None, value: Some(format!("{side} {n}").into_bytes()), timestamp_ms: now_ms() };
    numbers.map(record).collect()
}

pub(crate) fn texts(records: Vec<Plain>) -> Vec<String> {
    records.into_iter().map(|r| String::from_utf8_lossy(&r.value.unwrap_or_default()).into_owned()).collect()
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

/// Each of the wanted records stands there exactly once, those of one side in their order, and nothing else.
pub(crate) fn each_once(found: &[String], wanted: &BTreeMap<&str, usize>) -> Result<()> {
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    for text in found {
        let (side, number) = text.split_once(' ').unwrap_or_default();
        let expected = next.entry(side).or_default();
        ensure!(number == expected.to_string(), "{text} where {side} {expected} was due");
        *expected += 1;
    }
    ensure!(next == *wanted, "{next:?}, wanted {wanted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_topic_is_mirrored_both_ways_exactly_once() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("both-ways");
    let (uk, hq) = (rig.source.clone(), rig.target.clone());
    create_topic(&uk, &topic, 1).await?;
    create_topic(&hq, &topic, 1).await?;
    // What was there before both flows goes over too, and not back.
    probe::send(&uk, &[], &topic, from("uk", 0..100)).await?;
    probe::send(&hq, &[], &topic, from("hq", 0..100)).await?;
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
        let sent = tokio::join!(
            probe::send(&uk, &[], &topic, from("uk", numbers.clone())),
            probe::send(&hq, &[], &topic, from("hq", numbers)),
        );
        (sent.0?, sent.1?);
        if wave == 4 {
            rig.mesh.signal_worker(&owner, Signal::Kill)?;
        }
        if wave == 7 {
            rig.mesh.start_worker(&owner)?;
        }
    }
    let wanted = BTreeMap::from([("hq", 1_100), ("uk", 1_100)]);
    for bootstrap in [&uk, &hq] {
        holds(&rig, bootstrap, &topic, 2_200).await?;
    }
    for flow in [&there, &back] {
        rig.flow.clone_from(flow);
        rig.caught_up(1).await?;
    }
    for bootstrap in [&uk, &hq] {
        each_once(&texts(probe::read(bootstrap, &topic).await?), &wanted)?;
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
    for topic in [&open, &shut] {
        for bootstrap in [&uk, &hq] {
            create_topic(bootstrap, topic, 1).await?;
        }
        probe::send(&uk, &[], topic, from("uk", 0..50)).await?;
        probe::send(&hq, &[], topic, from("hq", 0..50)).await?;
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
    each_once(&texts(probe::read(&us, &open).await?), &BTreeMap::from([("hq", 50), ("uk", 50)]))?;

    let quiet = v1::Flow { records: Some(forward(false)), ..between("hq", "us", &shut) };
    let id = rig.flow.clone();
    rig.api.create_flow(&id, quiet).await?;
    rig.caught_up(1).await?;
    each_once(&texts(probe::read(&us, &shut).await?), &BTreeMap::from([("hq", 50)]))?;

    // Another rule is another generation: it counts from where the old one ended.
    let before = rig.generation(&shut, 0).await?;
    rig.set_records(forward(true)).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.generation(&shut, 0).await?.epoch <= before.epoch {
        ensure!(tokio::time::Instant::now() < deadline, "no new generation\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    probe::send(&uk, &[], &shut, from("uk", 50..60)).await?;
    holds(&rig, &us, &shut, 60).await?;
    let mut wanted = texts(from("hq", 0..50));
    wanted.extend(texts(from("uk", 50..60)));
    ensure!(texts(probe::read(&us, &shut).await?) == wanted);

    let ring = rig.api.create_flow(&unique("flow"), between("us", "uk", &open)).await;
    let refused = ring.expect_err("a ring of three");
    ensure!(refused.code() == tonic::Code::FailedPrecondition, "{refused:?}");
    ensure!(refused.message().contains("forward_mirrored"), "{refused:?}");
    Ok(())
}
