//! A target that gives out no producer ids: nothing is mirrored there, or at least once where the flow says so.
//!
//! Kafka always has them, so what its brokers say they can do is changed on the way (`Proxy::hide_api`).

use std::time::Duration;

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Record};
use mirrormesh_proto::v1;
use mirrormesh_proto::v1::flow_partition::Delivery;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;

use crate::rig::{FIVE_A_BATCH, PATIENCE, Rig, identity, large, unique, with_headers};

const INIT_PRODUCER_ID: i16 = 22;

/// Records that the flow's events count as doubled, or as what may be.
async fn counted(rig: &mut Rig) -> Result<i64> {
    let events = rig.api.flow_events(&rig.flow.clone()).await?.events;
    Ok(events.iter().filter(|e| e.reason == "RECORDS_DOUBLED").filter_map(|e| e.count).sum())
}

/// All are there, whole and in order, nothing else is, and no more of them are there twice than were counted. Says how
/// many are.
async fn complete(rig: &mut Rig, topic: &str, sent: &[Record]) -> Result<i64> {
    let there = probe::read_whole(&rig.target, topic).await?;
    // No two that were sent are alike: what is not the next one has to be one that stands there already.
    let mut seen = 0;
    for (at, record) in there.iter().enumerate() {
        let next = sent.get(seen);
        if next == Some(record) {
            seen += 1;
        } else {
            ensure!(sent[..seen].contains(record), "number {at} is {record:?} where {next:?} was due");
        }
    }
    ensure!(seen == sent.len(), "{seen} of {} records are there", sent.len());
    let doubled = i64::try_from(there.len() - seen)?;
    let counted = counted(rig).await?;
    ensure!(doubled <= counted, "{doubled} records are doubled, {counted} are counted");
    Ok(doubled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_producer_ids_is_mirrored_to_where_the_flow_says_so() -> Result<()> {
    const RECORDS: usize = 3_000;
    let (source, target) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("source")),
        Cluster::start(ClusterSpec::new("target").proxied())
    )?;
    target.proxies().for_each(|proxy| proxy.hide_api(Some(INIT_PRODUCER_ID)));
    target.proxies().for_each(mirrormesh_testkit::proxy::Proxy::cut);
    let mut rig = Rig::between(&source, &target, MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let (topic, all) = (unique("at-least-once"), with_headers(large(0..RECORDS + 100, 0)));
    create_topic(&rig.source, &topic, 1).await?;
    probe::send_records(&rig.source, &FIVE_A_BATCH, (&topic, 0), all[..RECORDS].to_vec()).await?;
    let mut flow = identity(&[&topic]);
    let options = flow.records.clone().unwrap_or_default();
    let at_least_once = v1::RecordOptions { at_least_once: true, ..options.clone() };
    flow.records = Some(options.clone());
    rig.api.create_flow(&rig.flow.clone(), flow).await?;

    // By itself it waits, and names the option.
    let id = rig.flow.clone();
    let says_why = |flow: &v1::Flow| {
        let why = flow.conditions.iter().find(|c| c.reason == "TARGET_NOT_IDEMPOTENT");
        why.is_some_and(|c| c.message.contains("records.at_least_once"))
    };
    rig.api.wait_for_flow(&id, "waiting", PATIENCE, says_why).await?;

    // Small batches are not put together to larger ones than this: it takes long enough to be interrupted.
    create_topic(&rig.target, &topic, 1).await?;
    probe::set_topic(&rig.target, &topic, &[("max.message.bytes", "8000")]).await?;
    target.proxies().for_each(|proxy| proxy.delay(Duration::from_millis(5)));
    rig.set_records(at_least_once).await?;
    rig.arrived(&[&topic], 300).await?;

    // Killed in the middle.
    let owner = rig.owner(&topic, 0).await?;
    rig.mesh.signal_worker(&owner, Signal::Kill)?;
    rig.mesh.start_worker(&owner)?;
    let there = probe::count(&rig.target, &[&topic]).await?;
    ensure!(there < RECORDS as u64, "it was done before the worker was killed");
    target.proxies().for_each(|proxy| proxy.delay(Duration::ZERO));
    rig.caught_up(1).await?;
    rig.delivered(&topic, Delivery::AtLeastOnce, "TARGET_NOT_IDEMPOTENT").await?;
    let doubled = complete(&mut rig, &topic, &all[..RECORDS]).await?;
    let generation = rig.generation(&topic, 0).await?;
    ensure!(generation.producer_id < Some(-1), "{generation:?}");
    println!("{there} records were there when the worker was killed; {doubled} are doubled");

    // Without the option it waits again.
    rig.set_records(options).await?;
    probe::send_records(&rig.source, &FIVE_A_BATCH, (&topic, 0), all[RECORDS..].to_vec()).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let partition = rig.partition(&topic, 0).await?;
        if partition.reason.starts_with("TARGET_NOT_IDEMPOTENT") {
            break;
        }
        ensure!(tokio::time::Instant::now() < deadline, "{partition:#?}\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    complete(&mut rig, &topic, &all[..RECORDS]).await?;

    // And goes on exactly once, where it was, when the target gives out ids.
    target.proxies().for_each(|proxy| proxy.hide_api(None));
    target.proxies().for_each(mirrormesh_testkit::proxy::Proxy::cut);
    rig.caught_up(1).await?;
    complete(&mut rig, &topic, &all).await?;
    let generation = rig.generation(&topic, 0).await?;
    ensure!(generation.producer_id >= Some(0), "{generation:?}");
    Ok(())
}
