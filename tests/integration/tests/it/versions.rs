//! Kafka 3.9 on one side and 4.3 on the other, both ways: formats, topics made again, restarts; and records in the
//! formats of before Kafka 0.11, as brokers of both serve them.

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_testkit::jars::KafkaVersion;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::create_topic;
use mirrormesh_testkit::workload::Codec;

use crate::bad_input::segment;
use crate::faults::{ENDLESS, RATE, under_load};
use crate::rig::{PATIENCE, Rig, metric, plan, produce, unique};
use crate::{loss, topics};

async fn start(name: &str, version: KafkaVersion) -> Result<Cluster> {
    Cluster::start(ClusterSpec::new(name).version(version).heap_mb(300)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_kafka_3_9_to_4_3() -> Result<()> {
    let old = start("source", KafkaVersion::V3_9).await?;
    let mut rig = Rig::between(&old, &shared_pair().await?.target, MeshSpec::default()).await?;
    mirrors(&mut rig, &old, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn from_kafka_4_3_to_3_9() -> Result<()> {
    let old = start("target", KafkaVersion::V3_9).await?;
    let mut rig = Rig::between(&shared_pair().await?.source, &old, MeshSpec::default()).await?;
    mirrors(&mut rig, &old, true).await
}

/// What the relay does between two of the same version, it does between these two.
async fn mirrors(rig: &mut Rig, old: &Cluster, by_name: bool) -> Result<()> {
    topics::every_codec(rig).await?;
    loss::source_again(rig).await?;
    loss::target_again(rig, by_name).await?;
    restarts(rig, old).await
}

/// The broker is killed and stopped while records flow.
async fn restarts(rig: &mut Rig, old: &Cluster) -> Result<()> {
    rig.flow = unique("flow");
    let topic = unique("brokers");
    let running = produce(&rig.source, vec![plan(&topic, 4, ENDLESS, Codec::Zstd)], Some(RATE)).await?;
    rig.mirror(&[&topic]).await?;
    under_load(rig, &topic, 4_000, &running).await?;
    old.kill(0)?;
    old.start_broker(0)?;
    old.wait_ready(PATIENCE).await?;
    under_load(rig, &topic, 15_000, &running).await?;
    old.stop(0).await?;
    old.start_broker(0)?;
    old.wait_ready(PATIENCE).await?;
    under_load(rig, &topic, 25_000, &running).await?;
    running.stop();
    let produced = running.finish().await?.records();
    rig.arrived(&[&topic], produced).await?;
    rig.caught_up(4).await?;
    rig.equal(&[&topic], produced).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_old_formats_arrive_from_kafka_3_9() -> Result<()> {
    old_formats(KafkaVersion::V3_9).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_old_formats_arrive_from_kafka_4_3() -> Result<()> {
    old_formats(KafkaVersion::V4_3).await
}

/// What a topic holds on the broker's disk, and what is to arrive.
struct Old {
    topic: String,
    segment: Vec<u8>,
    wanted: Vec<Plain>,
}

/// Puts segments of old formats in the place of empty ones, as they lie on the disks of clusters that were upgraded.
async fn old_formats(version: KafkaVersion) -> Result<()> {
    let source = start("source", version).await?;
    let mut rig = Rig::between(&source, &shared_pair().await?.target, MeshSpec::default()).await?;
    let mut all = samples()?;
    for format in [0, 1] {
        all.push(dense(&format!("v{format}-few"), format, 3));
        all.push(dense(&format!("v{format}-many"), format, 500));
    }
    for old in &all {
        create_topic(&rig.source, &old.topic, 1).await?;
    }
    source.stop(0).await?;
    for old in &all {
        let path = segment(&source, &old.topic, 0);
        let empty = std::fs::read(&path).with_context(|| path.display().to_string())?;
        ensure!(empty.is_empty(), "{} is not what it was taken for", path.display());
        std::fs::write(&path, &old.segment)?;
    }
    source.start_broker(0)?;
    source.wait_ready(PATIENCE).await?;

    let topics: Vec<&str> = all.iter().map(|old| old.topic.as_str()).collect();
    rig.mirror(&topics).await?;
    rig.arrived(&topics, all.iter().map(|old| old.wanted.len() as u64).sum()).await?;
    rig.caught_up(i64::try_from(all.len())?).await?;
    for old in &all {
        let found = probe::read(&rig.target, &old.topic).await?;
        ensure!(found == old.wanted, "{}: {found:?}", old.topic);
    }
    for path in ["old_format", "coalesced", "gaps"] {
        let label = format!("path=\"{path}\"");
        ensure!(metric(&rig, "source-1", "mirrormesh_batches_total{", &label).await? > 0.0, "{path}");
    }
    Ok(())
}

/// Segments as kafka-clients 3.9 wrote them, compressed and not, with gaps between offsets.
fn samples() -> Result<Vec<Old>> {
    let mut all = Vec::new();
    for name in [
        "v0-none",
        "v0-gzip",
        "v0-snappy",
        "v0-lz4",
        "v1-none",
        "v1-gzip",
        "v1-snappy",
        "v1-lz4",
        "v1-none-append",
        "v1-gzip-append",
        "v1-snappy-append",
        "v1-lz4-append",
    ] {
        let file = format!("{}/../../crates/kafka/testdata/batches/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let segment = std::fs::read(&file).with_context(|| format!("{name}.bin"))?;
        all.push(Old { topic: unique(name), segment, wanted: in_sample(name) });
    }
    Ok(all)
}

/// The records of a sample, as its README tells.
fn in_sample(name: &str) -> Vec<Plain> {
    let large: Vec<u8> = (0..100_000_u32).map(|i| u8::try_from(i / 1_000).unwrap_or(0)).collect();
    let last = if name.contains("none") { b"last".to_vec() } else { large };
    let records = [
        (1_500_000_000_000, Some(b"key".to_vec()), Some(b"value".to_vec())),
        (1_500_000_000_500, Some(b"gone".to_vec()), None),
        (-1, None, Some(Vec::new())),
        (1_400_000_000_000, Some(Vec::new()), Some(last)),
    ];
    let time = |time| match name {
        _ if name.starts_with("v0") => -1,
        _ if name.ends_with("append") => 1_600_000_000_000,
        _ => time,
    };
    let records = records.into_iter();
    records.map(|(at, key, value)| Plain { key, value, timestamp_ms: time(at) }).collect()
}

/// Messages one after the other, with no offset left out.
fn dense(word: &str, format: u8, count: i64) -> Old {
    let mut old = Old { topic: unique(word), segment: Vec::new(), wanted: Vec::new() };
    for offset in 0..count {
        let record = Plain {
            key: Some(format!("key {offset}").into_bytes()),
            value: Some(format!("value of {offset}").into_bytes()),
            timestamp_ms: if format == 0 { -1 } else { 1_450_000_000_000 + offset },
        };
        old.segment.extend(offset.to_be_bytes());
        old.segment.extend(message(format, &record));
        old.wanted.push(record);
    }
    old
}

/// Size, checksum, format, attributes, from format 1 on the timestamp, key and value.
fn message(format: u8, record: &Plain) -> Vec<u8> {
    let mut body = vec![format, 0];
    if format > 0 {
        body.extend(record.timestamp_ms.to_be_bytes());
    }
    for field in [&record.key, &record.value] {
        let bytes = field.as_deref().unwrap_or_default();
        body.extend(i32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
        body.extend(bytes);
    }
    let size = i32::try_from(body.len() + 4).unwrap_or(0).to_be_bytes();
    [&size[..], &crc32(&body).to_be_bytes(), &body].concat()
}

/// The checksum of Ethernet and gzip, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}
