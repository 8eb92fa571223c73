//! Records older than the target retains the state of producers: pipelined with doubles detected, or held where the flow
//! requires exactly once.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe;
use mirrormesh_proto::v1;
use mirrormesh_proto::v1::flow_partition::{Delivery, State};
use mirrormesh_testkit::jars::{self, KafkaVersion};
use mirrormesh_testkit::java::Program;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;

use crate::rig::{FIVE_A_BATCH, PATIENCE, Rig, identity, large, unique};
use crate::{disk, forgetful};

const HOUR_MS: i64 = 3_600_000;
const CONFIG_COMMAND: &str = "kafka.admin.ConfigCommand";

/// Waits until the partition says this reason; returns what it says.
async fn says(rig: &mut Rig, topic: &str, reason: &str) -> Result<String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let said = rig.partition(topic, 0).await.map(|partition| (partition.state(), partition.reason));
        match said {
            Ok((State::Backoff, said)) if said.starts_with(reason) => return Ok(said),
            said => ensure!(tokio::time::Instant::now() < deadline, "{said:?}, not {reason}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_backfill_is_exact_under_killed_owners() -> Result<()> {
    const RECORDS: usize = 6_000;
    let mut rig = forgetful::rig(2).await?;
    let topic = unique("backfill");
    create_topic(&rig.source, &topic, 1).await?;
    probe::send(&rig.source, &FIVE_A_BATCH, &topic, large(0..RECORDS, 72 * HOUR_MS)).await?;
    // A slow start, so that the backfill can be interrupted.
    let mut flow = identity(&[&topic]);
    let throttle = v1::Throttle { records_per_second: Some(1_500), ..v1::Throttle::default() };
    flow.records = Some(v1::RecordOptions { throttle: Some(throttle), ..flow.records.unwrap_or_default() });
    rig.api.create_flow(&rig.flow.clone(), flow).await?;
    for part in [500, 2_500] {
        rig.arrived(&[&topic], part).await?;
        let owner = rig.owner(&topic, 0).await?;
        rig.mesh.signal_worker(&owner, Signal::Kill)?;
        rig.mesh.start_worker(&owner)?;
        let there = probe::end_offsets(&rig.target, &topic).await?;
        ensure!(there.iter().all(|end| *end < 6_000), "it was done before the worker was killed: {there:?}");
    }
    rig.arrived(&[&topic], RECORDS as u64).await?;
    rig.delivered(&topic, Delivery::DetectedOnly, "TARGET_MAY_FORGET").await?;
    rig.equal(&[&topic], RECORDS as u64).await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_records_wait_where_exactly_once_is_required() -> Result<()> {
    const RECORDS: usize = 500;
    let spec = ClusterSpec::new("target").property("producer.id.expiration.check.interval.ms", "200");
    let target = Cluster::start(spec).await?;
    let source = &mirrormesh_testkit::shared::shared_pair().await?.source;
    let mut rig = Rig::between(source, &target, MeshSpec::default()).await?;
    let (old, ancient, young) = (unique("old"), unique("ancient"), unique("young"));
    for (topic, age_hours) in [(&old, 72), (&ancient, 25 * 24), (&young, 0)] {
        create_topic(&rig.source, topic, 1).await?;
        probe::set_topic(&rig.source, topic, &[("retention.ms", "-1")]).await?;
        probe::send(&rig.source, &FIVE_A_BATCH, topic, large(0..RECORDS, age_hours * HOUR_MS)).await?;
    }
    let mut flow = identity(&[&old, &ancient, &young]);
    flow.records = Some(v1::RecordOptions { require_exactly_once: true, ..flow.records.unwrap_or_default() });
    rig.api.create_flow(&rig.flow.clone(), flow).await?;

    rig.arrived(&[&young], RECORDS as u64).await?;
    rig.delivered(&young, Delivery::ExactlyOnce, "").await?;
    let hopeless = says(&mut rig, &ancient, "EXACTLY_ONCE_IMPOSSIBLE").await?;
    ensure!(hopeless.contains("no setting of the target helps"), "{hopeless}");
    let waits = says(&mut rig, &old, "EXACTLY_ONCE_IMPOSSIBLE").await?;
    ensure!(probe::end_offsets(&rig.target, &old).await? == [0], "nothing is sent");
    let conditions = rig.api.flow(&rig.flow.clone()).await?.conditions;
    ensure!(
        conditions.iter().filter(|c| c.reason == "EXACTLY_ONCE_IMPOSSIBLE").count() == 2,
        "{conditions:?}"
    );
    probe::set_topic(&rig.target, &old, &[("retention.ms", "-1")]).await?;

    // What the condition prints is run as it stands there.
    let line = waits.split("kafka-configs.sh ").nth(1).context("no command is printed")?;
    let words = line.split(' ').take_while(|word| *word != "or").map(str::to_owned);
    let set = Program::new(&jars::ensure(KafkaVersion::V4_3)?, CONFIG_COMMAND).args(words);
    set.run_ok(b"", Duration::from_mins(1)).await?;
    rig.arrived(&[&old], RECORDS as u64).await?;
    rig.delivered(&old, Delivery::ExactlyOnce, "").await?;
    rig.equal(&[&old, &young], 2 * RECORDS as u64).await?;
    ensure!(probe::end_offsets(&rig.target, &ancient).await? == [0], "that one waits on");
    ensure!(disk::batches(&target, &ancient, 0).await?.is_empty(), "no control batch is written either");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_topics_wait_where_exactly_once_is_required() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("compacted");
    create_topic(&rig.source, &topic, 1).await?;
    probe::set_topic(&rig.source, &topic, &[("cleanup.policy", "compact")]).await?;
    probe::send(&rig.source, &FIVE_A_BATCH, &topic, large(0..100, 0)).await?;
    let mut flow = identity(&[&topic]);
    flow.records = Some(v1::RecordOptions { require_exactly_once: true, ..flow.records.unwrap_or_default() });
    rig.api.create_flow(&rig.flow.clone(), flow).await?;
    let waits = says(&mut rig, &topic, "CONTENT_NOT_FIXED").await?;
    ensure!(waits.contains("records.require_exactly_once"), "{waits}");
    ensure!(probe::end_offsets(&rig.target, &topic).await? == [0], "nothing is sent");
    rig.set_records(v1::RecordOptions::default()).await?;
    rig.arrived(&[&topic], 100).await?;
    rig.equal(&[&topic], 100).await
}
