//! A source broker whose disk damaged records: the partition stops there, behind everything before it; nothing else
//! does, and nothing of it reaches the target.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_proto::v1::flow_partition::State;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::create_topic;

use crate::flow_control::partition;
use crate::rig::{PATIENCE, Rig, event_of, metric, now_ms, unique};

const RECORDS: usize = 500;
/// A record in the batch that is damaged.
const DAMAGED: i64 = 250;
/// What its value begins with.
const WORD: &[u8] = b"value of";

/// The segment of a partition that never had a second one, of a cluster with one broker.
pub(crate) fn segment(cluster: &Cluster, topic: &str, partition: i32) -> PathBuf {
    cluster.directory().join(format!("broker-0/data/{topic}-{partition}/00000000000000000000.log"))
}

fn records() -> Vec<Plain> {
    let now = now_ms();
    let record = |n: usize| Plain {
        key: Some(format!("key {n}").into_bytes()),
        value: Some([WORD, format!(" {n} {}", "x".repeat(n % 150)).as_bytes()].concat()),
        timestamp_ms: now + i64::try_from(n).unwrap_or(0),
    };
    (0..RECORDS).map(record).collect()
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    Ok(bytes.get(at..at + N).context("the segment is too short")?.try_into()?)
}

/// Where the batch with a record lies in a segment: its first byte, its end, and its first offset.
pub(crate) fn batch_with(bytes: &[u8], offset: i64) -> Result<(usize, usize, i64)> {
    let mut at = 0;
    loop {
        let base = i64::from_be_bytes(number(bytes, at)?);
        let end = at + 12 + usize::try_from(i32::from_be_bytes(number(bytes, at + 8)?))?;
        let last = base + i64::from(i32::from_be_bytes(number(bytes, at + 23)?));
        if (base..=last).contains(&offset) {
            return Ok((at, end, base));
        }
        at = end;
    }
}

/// Changes one byte of the batch with a record: in a value where it can be read, so that only the checksum tells.
/// Returns the first offset of the batch, and the segment as it was.
fn damage(path: &PathBuf, offset: i64) -> Result<(i64, Vec<u8>)> {
    let whole = fs::read(path).with_context(|| path.display().to_string())?;
    let (at, end, base) = batch_with(&whole, offset)?;
    let in_value = whole[at..end].windows(WORD.len()).rposition(|window| window == WORD);
    let byte = in_value.map_or_else(|| at.midpoint(end), |place| at + place);
    let mut damaged = whole.clone();
    damaged[byte] ^= 0x20;
    fs::write(path, damaged)?;
    Ok((base, whole))
}

struct Case {
    topic: String,
    settings: Vec<(&'static str, &'static str)>,
}

fn cases() -> Vec<Case> {
    let case = |word: &str, settings: &[(&'static str, &'static str)]| Case {
        topic: unique(word),
        settings: settings.to_vec(),
    };
    let hundred = ("batch.num.messages", "100");
    let one = ("batch.num.messages", "1");
    vec![
        case("damaged-large", &[hundred, ("linger.ms", "200")]),
        case("damaged-packed", &[hundred, ("linger.ms", "200"), ("compression.codec", "lz4")]),
        case("damaged-small", &[one, ("linger.ms", "0")]),
        case("damaged-small-packed", &[one, ("linger.ms", "0"), ("compression.codec", "gzip")]),
        case("intact", &[]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_stop_their_partition_and_go_on_when_they_are_mended() -> Result<()> {
    let source = Cluster::start(ClusterSpec::new("source").heap_mb(300)).await?;
    let mut rig = Rig::between(&source, &shared_pair().await?.target, MeshSpec::default()).await?;
    let (cases, sent) = (cases(), records());
    for case in &cases {
        create_topic(&rig.source, &case.topic, 2).await?;
        for partition in 0..2 {
            probe::send_to(&rig.source, &case.settings, (&case.topic, partition), sent.clone()).await?;
        }
    }
    source.stop(0).await?;
    let mut damages = Vec::new();
    for case in cases.iter().filter(|case| case.topic.starts_with("damaged")) {
        let path = segment(&source, &case.topic, 0);
        let (base, whole) = damage(&path, DAMAGED)?;
        damages.push((case.topic.clone(), base, path, whole));
    }
    source.start_broker(0)?;
    source.wait_ready(PATIENCE).await?;
    let topics: Vec<&str> = cases.iter().map(|case| case.topic.as_str()).collect();
    rig.mirror(&topics).await?;

    for (topic, base, ..) in &damages {
        let told = event_of(&mut rig, "BATCH_CORRUPT", topic).await?;
        ensure!(told.from_offset == Some(*base), "the batch of {base} is damaged: {told:?}");
        let shown = partition(&mut rig, topic, 0, "stopped", |p| p.state() == State::Stopped).await?;
        ensure!(shown.reason.starts_with("BATCH_CORRUPT"), "{shown:?}");
        rig.arrived(&[topic], u64::try_from(*base)? + RECORDS as u64).await?;
        let before = &sent[..usize::try_from(*base)?];
        ensure!(probe::read(&rig.target, topic).await? == before, "{topic}: not what is before {base}");
    }
    let (_, intact) = topics.split_last().map(|(last, rest)| (rest, *last)).context("topics")?;
    rig.arrived(&[intact], 2 * RECORDS as u64).await?;
    for topic in &topics {
        ensure!(probe::read_from(&rig.target, topic, 1).await? == sent, "partition 1 of {topic}");
    }
    for path in ["passthrough", "coalesced"] {
        let label = format!("path=\"{path}\"");
        ensure!(metric(&rig, "source-1", "mirrormesh_batches_total{", &label).await? > 0.0, "{path}");
    }

    source.stop(0).await?;
    for (_, _, path, whole) in &damages {
        fs::write(path, whole)?;
    }
    source.start_broker(0)?;
    source.wait_ready(PATIENCE).await?;
    rig.pause().await?;
    let id = rig.flow.clone();
    rig.api.resume_flow(&id).await?;
    rig.caught_up(10).await?;
    rig.equal(&topics, (10 * RECORDS) as u64).await
}
