//! Batches of the source that contradict themselves behind a right checksum: whatever it is that lies, the partition
//! says why nothing more of it comes, behind everything before it; nothing else stops, and nothing of the batch reaches
//! the target.
//!
//! Who notices decides the reason. What the relay reads of a batch it says itself; what it passes on unread, the target
//! refuses; and where the source's broker can't go on reading its own log, nobody knows but that it fails.

use std::fs;

use anyhow::{Context as _, Error, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_proto::v1::flow_partition::State;
use mirrormesh_testkit::broker::batch::{Batch, BatchHeader, HEADER_BYTES};
use mirrormesh_testkit::broker::codec::Codec;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::{Topic, create_topic, create_topics};

use crate::bad_input::{batch_with, segment};
use crate::flow_control::partition;
use crate::rig::{PATIENCE, Rig, event_of, now_ms, unique};

const RECORDS: u32 = 300;
/// A record in the batch that lies, neither among the first nor among the last: a broker that starts reads the headers
/// of what is behind the last entry of the segment's index, and would not start with a length there that can't be.
const WITHIN: i64 = 150;
/// Behind the last one.
const END: i64 = RECORDS as i64;

type Settings = [(&'static str, &'static str); 2];
/// A hundred records a batch: the relay passes such a batch on unread.
const LARGE: Settings = [("batch.num.messages", "100"), ("linger.ms", "500")];
/// One record a batch: the relay reads such batches to put them together.
const SMALL: Settings = [("batch.num.messages", "1"), ("linger.ms", "0")];
/// Batches of up to so many bytes may be put together.
const SMALL_BYTES_MAX: usize = 32 << 10;
/// What the target takes of the topic with the bomb: more than any other batch has, less than the bomb.
const TARGET_BYTES_MAX: &str = "100000";
/// What the bomb unfolds to: more than the relay unfolds of any batch (256 MiB).
const BOMB_MIB: usize = 300;

/// The relay found it.
const CORRUPT: &str = "BATCH_CORRUPT";
/// The target found it.
const REFUSED: &str = "TARGET_REFUSED";
/// The source's broker fails on it: something that may pass, so the partition waits and tries again.
const FAILS: &str = "SOURCE_ERROR";

/// What lies.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// The format is one that nobody knows. The checksum does not cover it.
    Format,
    /// The codec is one that nobody knows.
    Codec,
    /// There are said to be so many records more than there are.
    Count(i32),
    /// The length of the first record.
    RecordLength,
    /// The length of the batch. The checksum does not cover it.
    Length(i32),
    /// The size: a small batch behind all others unfolds to a large one.
    Bomb,
}

#[derive(Debug)]
struct Case {
    topic: String,
    settings: Settings,
    lie: Lie,
    /// An offset in the batch that lies.
    offset: i64,
    /// What the partition says.
    reason: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |word: &str, settings, lie, offset, reason| Case {
        topic: unique(word),
        settings,
        lie,
        offset,
        reason,
    };
    vec![
        // Headers are read of every batch (core/format/batch.rs, `Entries`).
        case("format", LARGE, Lie::Format, WITHIN, CORRUPT),
        case("more", LARGE, Lie::Count(1), WITHIN, CORRUPT),
        // Brokers want 14 bytes of length, which is what the oldest format has: they serve this one.
        case("length", LARGE, Lie::Length(40), WITHIN, CORRUPT),
        // Fewer records than offsets are what compaction leaves: such a batch is read, to be packed without gaps.
        case("fewer", LARGE, Lie::Count(-1), WITHIN, CORRUPT),
        // Passed on unread. Brokers answer -1 to the codec, which may be another trouble: it is tried nine times.
        case("codec", LARGE, Lie::Codec, WITHIN, REFUSED),
        // They answer 87 to the length of a record, which can't be anything else.
        case("record", LARGE, Lie::RecordLength, WITHIN, REFUSED),
        case("small-codec", SMALL, Lie::Codec, WITHIN, CORRUPT),
        case("small-record", SMALL, Lie::RecordLength, WITHIN, CORRUPT),
        // The broker that is to read from here answers 2. It is the first batch, so that every fetch begins with it: as
        // part of what another fetch brings, it would be served.
        case("unreadable", LARGE, Lie::Length(10), 0, FAILS),
        // Larger than the target takes, so it is to be unfolded and split.
        case("bomb", SMALL, Lie::Bomb, END, CORRUPT),
    ]
}

/// Of a size that a hundred of them are no small batch, and each alone is one at any price of reading it.
fn records() -> Vec<Plain> {
    let now = now_ms();
    let record = |n: u32| Plain {
        key: Some(format!("key {n}").into_bytes()),
        value: Some(format!("value of {n} {}", "x".repeat(350 + n as usize % 50)).into_bytes()),
        timestamp_ms: now + i64::from(n),
    };
    (0..RECORDS).map(record).collect()
}

/// The batch with the lie in it, of as many bytes; the checksum is right again.
fn with_lie(batch: &[u8], lie: Lie) -> Result<Vec<u8>> {
    let mut header = BatchHeader::parse(batch).context("no whole header")?;
    let mut body = batch[HEADER_BYTES..].to_vec();
    match lie {
        Lie::Format => header.magic = 7,
        Lie::Codec => header.attributes |= 6,
        Lie::Count(more) => header.count += more,
        // Four more or four fewer: the number's lowest bit is its sign.
        Lie::RecordLength => body[0] ^= 8,
        Lie::Length(_) | Lie::Bomb => {}
    }
    let mut bytes = Batch::sealed(header, &body).bytes.to_vec();
    if let Lie::Length(length) = lie {
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
    }
    Ok(bytes)
}

/// As a record's numbers are written that are not negative.
fn varint(number: usize) -> Vec<u8> {
    let (mut zigzag, mut bytes) = (number << 1, Vec::new());
    let seven = |zigzag: usize| zigzag.to_le_bytes()[0] & 0x7f;
    while zigzag >= 0x80 {
        bytes.push(seven(zigzag) | 0x80);
        zigzag >>= 7;
    }
    bytes.push(seven(zigzag));
    bytes
}

/// A batch of one record, its value all zeros. A gzip stream may have many members: so nobody unfolds it to make it.
fn bomb(before: &BatchHeader) -> Result<Batch> {
    let packed = |plain: &[u8]| Codec::Gzip.compress(plain).map_err(Error::msg);
    let value_bytes = BOMB_MIB << 20;
    // Attributes, two deltas, no key; behind the value, no headers.
    let mut fields = vec![0_u8, 0, 0, 1];
    fields.extend(varint(value_bytes));
    let mut record = varint(fields.len() + value_bytes + 1);
    record.extend(fields);
    let mut body = packed(&record)?.to_vec();
    body.extend(packed(&vec![0; 1 << 20])?.repeat(BOMB_MIB));
    body.extend(packed(&[0])?);
    let header = BatchHeader {
        base_offset: before.next_offset(),
        leader_epoch: before.leader_epoch,
        attributes: Codec::Gzip.number(),
        ..BatchHeader::plain(1, before.max_timestamp)
    };
    Ok(Batch::sealed(header, &body))
}

/// Puts the lie into partition 0, while its broker is down. Says where the batch that lies begins.
fn damage(source: &Cluster, case: &Case) -> Result<i64> {
    let path = segment(source, &case.topic, 0);
    let mut bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    let base = if matches!(case.lie, Lie::Bomb) {
        let (at, ..) = batch_with(&bytes, case.offset - 1)?;
        let bomb = bomb(&BatchHeader::parse(&bytes[at..]).context("no whole header")?)?;
        bytes.extend_from_slice(&bomb.bytes);
        bomb.header.base_offset
    } else {
        let (at, end, base) = batch_with(&bytes, case.offset)?;
        let is_read = end - at <= SMALL_BYTES_MAX;
        ensure!(is_read == (case.settings == SMALL), "the batch of {base} has {} bytes: {case:?}", end - at);
        let lying = with_lie(&bytes[at..end], case.lie)?;
        bytes[at..end].copy_from_slice(&lying);
        base
    };
    fs::write(&path, bytes)?;
    Ok(base)
}

/// Partition 0 says why it does not go on; the target has what is before the batch, all of partition 1, and no more.
async fn stands(rig: &mut Rig, case: &Case, base: i64, sent: &[Plain]) -> Result<()> {
    let Case { topic, reason, .. } = case;
    let state = if *reason == FAILS { State::Backoff } else { State::Stopped };
    if state == State::Stopped {
        let told = event_of(rig, reason, topic).await?;
        ensure!(told.from_offset == Some(base), "the batch of {base} lies: {told:?}");
    }
    // While it waits it tries again, and is something else meanwhile.
    let shown = partition(rig, topic, 0, reason, |p| p.state() == state).await?;
    ensure!(shown.reason.starts_with(reason) && shown.source_offset == Some(base), "{base}: {shown:?}");
    let before = &sent[..usize::try_from(base)?];
    rig.arrived(&[topic], before.len() as u64 + u64::from(RECORDS)).await?;
    ensure!(probe::read(&rig.target, topic).await? == before, "not what is before {base}");
    ensure!(probe::read_from(&rig.target, topic, 1).await? == sent, "partition 1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_contradict_themselves_stop_their_partition() -> Result<()> {
    let source = Cluster::start(ClusterSpec::new("source").heap_mb(300)).await?;
    let mut rig = Rig::between(&source, &shared_pair().await?.target, MeshSpec::default()).await?;
    let (cases, intact, sent) = (cases(), unique("intact"), records());
    let mut topics: Vec<&str> = Vec::new();
    for (topic, settings) in cases.iter().map(|c| (&*c.topic, c.settings)).chain([(&*intact, LARGE)]) {
        create_topic(&rig.source, topic, 2).await?;
        for partition in 0..2 {
            probe::send_to(&rig.source, &settings, (topic, partition), sent.clone()).await?;
        }
        topics.push(topic);
    }
    for case in cases.iter().filter(|case| matches!(case.lie, Lie::Bomb)) {
        let narrow = Topic::new(&case.topic, 2).setting("max.message.bytes", TARGET_BYTES_MAX);
        create_topics(&rig.target, &[narrow]).await?;
    }
    source.stop(0).await?;
    let bases = cases.iter().map(|case| damage(&source, case)).collect::<Result<Vec<_>>>()?;
    source.start_broker(0)?;
    source.wait_ready(PATIENCE).await?;
    rig.mirror(&topics).await?;

    for (case, base) in cases.iter().zip(&bases) {
        stands(&mut rig, case, *base, &sent).await.with_context(|| format!("{case:?}"))?;
    }
    rig.arrived(&[&intact], 2 * u64::from(RECORDS)).await?;
    for partition in 0..2 {
        ensure!(probe::read_from(&rig.target, &intact, partition).await? == sent, "{partition} of {intact}");
    }
    // Of those that were looked at first, nothing more came meanwhile.
    let before: i64 = bases.iter().sum();
    let all = u64::try_from(before)? + u64::try_from(topics.len() + 1)? * u64::from(RECORDS);
    let count = probe::count(&rig.target, &topics).await?;
    ensure!(count == all, "{count} records on the target, {all} may be there");
    Ok(())
}
