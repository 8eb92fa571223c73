//! A client writes to the same partition of the target as a flow does, while the flow's owner is killed: the records of
//! both stand there once and in their order.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain, Record};
use mirrormesh_proto::v1;
use mirrormesh_proto::v1::flow_partition::Delivery;
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;
use mirrormesh_testkit::workload::{Codec, Run};

use crate::forgetful;
use crate::rig::{PATIENCE, Rig, exactly, identity, now_ms, plan, produce, unique};

/// More than is ever produced; the producer is stopped when another owner goes on.
const ENDLESS: u64 = 10_000_000;
/// Records a second.
const RATE: u64 = 1_000;
/// How the client's keys begin, and no others.
const CLIENT: &str = "client ";
const HOUR_MS: i64 = 3_600_000;

/// Records of the client, of the present.
fn of_client(numbers: Range<usize>) -> Vec<Record> {
    let record = |n: usize| {
        let (key, value) = (format!("{CLIENT}{n}").into_bytes(), n.to_string().into_bytes());
        Record::from(Plain { key: Some(key), value: Some(value), timestamp_ms: now_ms() })
    };
    numbers.map(record).collect()
}

fn is_of_client(record: &Record) -> bool {
    record.key.as_deref().is_some_and(|key| key.starts_with(CLIENT.as_bytes()))
}

/// Writes so many more of the client's records, each in a batch of its own.
async fn write(target: &str, topic: &str, written: &mut Vec<Record>, more: usize) -> Result<()> {
    let records = of_client(written.len()..written.len() + more);
    let one_each = [("batch.num.messages", "1"), ("linger.ms", "0")];
    probe::send_records(target, &one_each, (topic, 0), records.clone()).await?;
    written.extend(records);
    Ok(())
}

/// Waits until everything before this source offset is mirrored.
async fn mirrored_to(rig: &mut Rig, topic: &str, offset: i64) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = rig.partition(topic, 0).await;
        match found {
            Ok(found) if found.source_offset >= Some(offset) => return Ok(()),
            other => {
                let late = tokio::time::Instant::now() >= deadline;
                ensure!(!late, "not mirrored to {offset}: {other:#?}\n{}", rig.mesh.log_tails());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until records are mirrored that come a second or so after the source's last one of now.
async fn goes_on(rig: &mut Rig, topic: &str) -> Result<()> {
    let ends = probe::end_offsets(&rig.source, topic).await?;
    let end = ends.first().copied().context("no partition")?;
    mirrored_to(rig, topic, end + i64::try_from(RATE)?).await
}

/// Kills the owner under load, and ends the load when another one goes on; says how many records the source holds then,
/// all of which are mirrored.
async fn kill_under_load(rig: &mut Rig, topic: &str, load: Run) -> Result<i64> {
    mirrored_to(rig, topic, 1).await?;
    goes_on(rig, topic).await?;
    let owner = rig.owner(topic, 0).await?;
    rig.mesh.signal_worker(&owner, Signal::Kill)?;
    goes_on(rig, topic).await?;
    let next = rig.owner(topic, 0).await?;
    ensure!(next != owner && !load.is_done(), "{next} goes on after {owner}");
    load.stop();
    let records = i64::try_from(load.finish().await?.records())?;
    mirrored_to(rig, topic, records).await?;
    Ok(records)
}

/// The flow's records are an hour old, and status shows this in the end.
async fn both_are_there_once(mut rig: Rig, delivery: Delivery, reason: &str) -> Result<()> {
    let topic = unique("other-writers");
    let target = rig.target.clone();
    create_topic(&target, &topic, 1).await?;
    let load = produce(&rig.source, vec![plan(&topic, 1, ENDLESS, Codec::Lz4)], Some(RATE)).await?;
    let flow = v1::Flow { shared_target: true, ..identity(&[&topic]) };
    rig.api.create_flow(&rig.flow.clone(), flow).await?;

    let over = AtomicBool::new(false);
    let mirroring = async {
        let mirrored = kill_under_load(&mut rig, &topic, load).await;
        over.store(true, Ordering::Relaxed);
        mirrored
    };
    let writing = async {
        let mut written = Vec::new();
        while !over.load(Ordering::Relaxed) {
            write(&target, &topic, &mut written, 20).await?;
        }
        anyhow::Ok(written)
    };
    let (mirrored, written) = tokio::join!(mirroring, writing);
    let (records, mut written) = (mirrored?, written?);

    // What the flow appends next stands elsewhere than it would alone.
    write(&target, &topic, &mut written, 1).await?;
    let last = Plain { key: None, value: Some(b"the last one".to_vec()), timestamp_ms: now_ms() - HOUR_MS };
    probe::send(&rig.source, &[], &topic, vec![last]).await?;
    mirrored_to(&mut rig, &topic, records + 1).await?;
    rig.delivered(&topic, delivery, reason).await?;

    let all = probe::read_whole(&target, &topic).await?;
    let switches = all.windows(2).filter(|two| is_of_client(&two[0]) != is_of_client(&two[1])).count();
    let (clients, mirrored): (Vec<_>, Vec<_>) = all.into_iter().partition(is_of_client);
    println!("{} mirrored, {} of the client, {switches} switches", mirrored.len(), clients.len());
    ensure!(switches >= 8, "they came one after the other: {switches} switches");
    exactly(&clients, &written).context("the client's")?;
    exactly(&mirrored, &probe::read_whole(&rig.source, &topic).await?).context("the flow's")?;
    ensure!(i64::try_from(mirrored.len())? == records + 1, "the source holds others than were produced");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_beside_a_flow_doubles_loses_and_changes_nothing() -> Result<()> {
    let rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    // Sequences count only the flow's own records, and the target remembers them.
    both_are_there_once(rig, Delivery::ExactlyOnce, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_beside_a_flow_that_the_target_forgets_is_shown() -> Result<()> {
    let rig = forgetful::rig(2).await?;
    both_are_there_once(rig, Delivery::DetectedOnly, "OTHER_WRITERS").await
}
