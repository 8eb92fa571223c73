//! Topics: found, created, grown, followed; records of every kind; where mirroring begins.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Isolation};
use mirrormesh_proto::v1;
use mirrormesh_testkit::topics::create_topic;
use mirrormesh_testkit::workload::{Codec, TopicPlan};

use crate::rig::{PATIENCE, Rig, event, identity, plan, produce, unique};

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_and_transactions_arrive_unchanged() -> Result<()> {
    every_codec(&mut Rig::shared(MeshSpec::default()).await?).await
}

/// Batches of every codec, and of committed and aborted transactions, in a flow of their own.
pub(crate) async fn every_codec(rig: &mut Rig) -> Result<()> {
    rig.flow = unique("flow");
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let names: Vec<String> =
        codecs.iter().map(|codec| unique(&format!("{codec:?}").to_lowercase())).collect();
    let ledger = unique("ledger");
    let mut plans: Vec<TopicPlan> =
        names.iter().zip(codecs).map(|(name, codec)| plan(name, 2, 3_000, codec)).collect();
    plans.push(plan(&ledger, 2, 5_000, Codec::Lz4).transactions(50, 0.3));
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push(&ledger);
    let running = produce(&rig.source, plans, None).await?;
    rig.mirror(&all).await?;
    let committed = running.finish().await?.records();
    rig.caught_up(12).await?;
    rig.equal(&all, committed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn new_topics_and_partitions_are_followed() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (early, late) = (unique("early"), unique("late"));
    let running = produce(&rig.source, vec![plan(&early, 1, 100, Codec::None)], None).await?;
    let mut produced = running.finish().await?.records();
    rig.mirror(&[&early, &late]).await?;
    rig.caught_up(1).await?;

    let running = produce(&rig.source, vec![plan(&late, 2, 500, Codec::None)], None).await?;
    produced += running.finish().await?.records();
    probe::grow(&rig.source, &early, 3).await?;
    rig.caught_up(5).await?;
    ensure!(probe::end_offsets(&rig.target, &late).await?.len() == 2);
    ensure!(probe::end_offsets(&rig.target, &early).await?.len() == 3);
    rig.equal(&[&early, &late], produced).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mirroring_begins_where_it_was_asked_to() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("begin");
    create_topic(&rig.source, &topic, 1).await?;
    probe::produce(&rig.source, &topic, 1_000).await?;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let middle = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    probe::produce(&rig.source, &topic, 300).await?;

    let by_time = v1::Start { at: Some(v1::start::At::Timestamp(middle.into())) };
    let flow = v1::Flow { start: Some(by_time), ..identity(&[&topic]) };
    let id = rig.flow.clone();
    rig.api.create_flow(&id, flow).await?;
    rig.arrived(&[&topic], 300).await?;
    rig.caught_up(1).await?;
    let held = probe::count(&rig.target, &[&topic]).await?;
    ensure!(held == 300, "{held} records on the target, 300 are younger than the timestamp");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_made_again_goes_on_where_it_was() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("again");
    let mut produced = produce(&rig.source, vec![plan(&topic, 2, 2_000, Codec::None)], None)
        .await?
        .finish()
        .await?
        .records();
    rig.mirror(&[&topic]).await?;
    rig.caught_up(2).await?;
    let id = rig.flow.clone();
    rig.api.pause_flow(&id).await?;
    rig.api.wait_for_flow(&id, "paused", PATIENCE, |flow| flow.state() == v1::flow::State::Paused).await?;
    rig.api.delete_flow(&id).await?;
    produced += produce(&rig.source, vec![plan(&topic, 2, 1_000, Codec::None)], None)
        .await?
        .finish()
        .await?
        .records();
    rig.mirror(&[&topic]).await?;
    rig.caught_up(2).await?;
    rig.equal(&[&topic], produced).await
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_outran_the_flow_stops_the_partition_with_its_offsets() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("overrun");
    produce(&rig.source, vec![plan(&topic, 2, 1_000, Codec::None)], None).await?.finish().await?.records();
    rig.mirror(&[&topic]).await?;
    rig.caught_up(2).await?;
    let id = rig.flow.clone();
    rig.api.pause_flow(&id).await?;
    rig.api.wait_for_flow(&id, "paused", PATIENCE, |flow| flow.state() == v1::flow::State::Paused).await?;
    let ends = probe::end_offsets(&rig.source, &topic).await?;
    produce(&rig.source, vec![plan(&topic, 2, 1_000, Codec::None)], None).await?.finish().await?.records();
    let behind = probe::end_offsets(&rig.source, &topic).await?;
    let log_start = behind[0] - 3;
    let mut wanted = probe::records(&rig.source, &topic, 0, Isolation::Committed).await?;
    wanted.truncate(usize::try_from(ends[0])?);
    probe::delete_records(&rig.source, &topic, 0, log_start).await?;
    rig.api.resume_flow(&id).await?;
    let flow = rig
        .api
        .wait_for_flow(&id, "degraded", PATIENCE, |flow| {
            flow.conditions.iter().any(|c| c.reason == "RETENTION_OVERRUN")
        })
        .await?;
    ensure!(flow.state() == v1::flow::State::Degraded);
    let condition = flow.conditions.iter().find(|c| c.reason == "RETENTION_OVERRUN");
    ensure!(condition.is_some_and(|c| c.subject == format!("{topic}/0")), "{:?}", flow.conditions);
    let event = event(&mut rig, "RETENTION_OVERRUN").await?;
    let (from, to) = (ends[0], log_start);
    ensure!((event.from_offset, event.to_offset) == (Some(from), Some(to)), "{event:?}");
    ensure!(event.count == Some(to - from), "{event:?}");

    // Nothing of the partition goes on; the other one does.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while probe::end_offsets(&rig.target, &topic).await?.get(1) != behind.get(1) {
        ensure!(tokio::time::Instant::now() < deadline, "partition 1 stands still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let held = probe::records(&rig.target, &topic, 0, Isolation::Uncommitted).await?;
    ensure!(held == wanted, "{} records, {} were mirrored before", held.len(), wanted.len());
    let wanted = probe::records(&rig.source, &topic, 1, Isolation::Committed).await?;
    ensure!(probe::records(&rig.target, &topic, 1, Isolation::Uncommitted).await? == wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn start_latest_holds_however_often_creation_fails() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (topic, later) = (unique("latest"), unique("latest-later"));
    create_topic(&rig.source, &topic, 1).await?;
    probe::produce(&rig.source, &topic, 1_000).await?;
    let mut flow = identity(&[&topic, &later]);
    flow.start = Some(v1::Start { at: Some(v1::start::At::Latest(v1::Latest {})) });
    // One broker can't hold three replicas.
    flow.topic_creation = Some(v1::TopicCreation { replication_factor: 3, ..Default::default() });
    let id = rig.flow.clone();
    rig.api.create_flow(&id, flow).await?;
    let refused = |flow: &v1::Flow| flow.conditions.iter().any(|c| c.reason == "TOPIC_NOT_CREATED");
    rig.api.wait_for_flow(&id, "the creation fails", PATIENCE, refused).await?;
    // Another owner of the topology goes on with the same topics.
    rig.pause().await?;
    rig.api.resume_flow(&id).await?;
    rig.api.wait_for_flow(&id, "the creation fails again", PATIENCE, refused).await?;
    let creation = v1::TopicCreation { replication_factor: 1, ..Default::default() };
    let name = format!("flows/{id}");
    let change = v1::Flow { name, topic_creation: Some(creation), ..v1::Flow::default() };
    rig.api.update_flow(change, &["topic_creation.replication_factor"]).await?;
    let owned = |flow: &v1::Flow| flow.progress.as_ref().is_some_and(|p| p.partitions_running == 1);
    rig.api.wait_for_flow(&id, "the partition runs", PATIENCE, owned).await?;
    probe::produce(&rig.source, &topic, 10).await?;
    rig.arrived(&[&topic], 10).await?;
    // A topic that appears later is mirrored from its first record.
    create_topic(&rig.source, &later, 1).await?;
    probe::produce(&rig.source, &later, 20).await?;
    rig.arrived(&[&later], 20).await?;
    rig.caught_up(2).await?;
    ensure!(probe::end_offsets(&rig.target, &topic).await? == [10], "none of the first thousand");
    Ok(())
}
