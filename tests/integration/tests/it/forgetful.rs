//! A target that forgets producers after three seconds: idle flows, records without timestamps, and retention that took
//! what would tell how far the flow was.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_core::position::{Position, PositionKey, PositionValue};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Isolation, Plain};
use mirrormesh_kafka::{Client, ClientConfig};
use mirrormesh_proto::convert::position::{decode_key, decode_value, encode_key, encode_value};
use mirrormesh_proto::v1::flow_partition::Delivery;
use mirrormesh_testkit::broker::batch::BatchHeader;
use mirrormesh_testkit::kafka::ClusterSpec;
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::shared::Pair;
use mirrormesh_testkit::topics::create_topic;
use tokio::sync::OnceCell;

use crate::disk;
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
        forgotten(&mut rig, &topic).await?;
        if killed {
            let owner = rig.owner(&topic, 0).await?;
            rig.mesh.signal_worker(&owner, Signal::Kill)?;
            rig.mesh.start_worker(&owner)?;
        }
    }
    // Nothing wakes an idle partition: its status is at most a minute old.
    rig.delivered(&topic, Delivery::DetectedOnly, "TARGET_MAY_FORGET").await?;
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
    rig.delivered(&topic, Delivery::DetectedOnly, "TARGET_MAY_FORGET").await?;
    // Those with and without stand in one batch.
    let mut mixed = records(1_000..1_100, -1);
    mixed.iter_mut().step_by(3).for_each(|record| record.timestamp_ms = now_ms());
    probe::send(&rig.source, &[("linger.ms", "50")], &topic, mixed).await?;
    rig.arrived(&[&topic], 1_100).await?;
    rig.equal(&[&topic], 1_100).await
}

/// Makes the newest position of the flow say that its generation mirrored so many records.
async fn forge_count(rig: &Rig, count: i64) -> Result<()> {
    const POSITIONS: &str = "mirrormesh-positions.uk.internal";
    ensure!(
        probe::end_offsets(&rig.target, POSITIONS).await?.len() == 1,
        "{POSITIONS} has several partitions"
    );
    let mut newest: Option<(PositionKey, Position)> = None;
    for (_, record) in probe::records(&rig.target, POSITIONS, 0, Isolation::Committed).await? {
        let (Some(key), Some(value)) = (record.key, record.value) else { continue };
        let key = decode_key(&key)?;
        if key.flow.to_string() != rig.flow {
            continue;
        }
        if let PositionValue::Position(position) = decode_value(&key, &value)?
            && newest.as_ref().is_none_or(|(_, known)| known.count <= position.count)
        {
            newest = Some((key, position));
        }
    }
    let (key, mut position) = newest.context("no position of the flow")?;
    position.count = count;
    let value = encode_value(&PositionValue::Position(position));
    let forged = Plain { key: Some(encode_key(&key)), value: Some(value), timestamp_ms: now_ms() };
    probe::send(&rig.target, &[], POSITIONS, vec![forged]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_wrap_under_the_flow() -> Result<()> {
    const SEQUENCES: i64 = 1 << 31;
    const GONE: usize = 70;
    let mut rig = rig(2).await?;
    let topic = unique("wrap");
    create_topic(&rig.source, &topic, 1).await?;
    let source = rig.source.clone();
    // 7 in a batch, so that one straddles the wrap.
    let write = |numbers| {
        let settings = [("batch.num.messages", "7"), ("linger.ms", "50")];
        let (source, topic, records) = (source.clone(), topic.clone(), records(numbers, now_ms()));
        async move { probe::send(&source, &settings, &topic, records).await }
    };
    write(0..70).await?;
    rig.mirror(&[&topic]).await?;
    rig.arrived(&[&topic], 70).await?;
    rig.pause().await?;
    // Nothing is there that could tell better: neither who had the partition, nor what the target holds or remembers.
    for bootstrap in [&rig.source, &rig.target] {
        probe::delete_records(bootstrap, &topic, 0, i64::try_from(GONE)?).await?;
    }
    forgotten(&mut rig, &topic).await?;
    forge_count(&rig, SEQUENCES - 50).await?;
    let id = rig.flow.clone();
    rig.api.resume_flow(&id).await?;

    // One owner ends just before the wrap, the next one just behind it, and one more goes on.
    let mut sent = 70;
    for more in [42, 35, 140] {
        write(sent..sent + more).await?;
        sent += more;
        rig.arrived(&[&topic], (sent - GONE) as u64).await?;
        let owner = rig.owner(&topic, 0).await?;
        rig.mesh.signal_worker(&owner, Signal::Kill)?;
        rig.mesh.start_worker(&owner)?;
    }
    write(sent..sent + 70).await?;
    sent += 70;
    rig.arrived(&[&topic], (sent - GONE) as u64).await?;
    rig.equal(&[&topic], (sent - GONE) as u64).await?;

    let headers = disk::batches(&pair().await?.target, &topic, 0).await?;
    let mut headers = headers.iter().map(|batch| batch.header).skip_while(|header| header.base_offset < 70);
    let first = headers.next().context("no batch behind the forged position")?;
    ensure!(i64::from(first.base_sequence) == SEQUENCES - 50, "{first:?}");
    let straddles = |header: &BatchHeader| header.last_sequence() < header.base_sequence;
    let rest: Vec<_> = headers.collect();
    ensure!(rest.iter().filter(|header| straddles(header)).count() == 1, "{rest:#?}");
    ensure!(rest.last().is_some_and(|last| last.last_sequence() == 70 + 140 + 35 + 42 - 50 - 1), "{rest:#?}");
    Ok(())
}
