//! Compaction on both sides under a running flow: gaps, tombstones that come and go, delete horizons.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Isolation, Record};
use mirrormesh_proto::v1::flow_partition::Delivery;
use mirrormesh_testkit::broker::batch::DELETE_HORIZON;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::{Topic, create_topics};

use crate::disk;
use crate::rig::{PATIENCE, Rig, metric, now_ms, unique};

/// Keys that were written, and taken back before the flow began: the first half of these records, and the second.
const GONE: usize = 1_000;
/// More than fits into a segment, which holds 300 of them.
const NUDGE: usize = 400;
const STEP: usize = 4_000;
/// Each in turn: what the cleaner rewrites is packed by Java.
const CODECS: [&str; 5] = ["lz4", "snappy", "gzip", "zstd", "none"];

/// A cleaner that runs all the time.
fn cleaning(name: &str) -> ClusterSpec {
    ClusterSpec::new(name)
        .property("log.cleaner.backoff.ms", "100")
        .property("log.cleaner.min.cleanable.ratio", "0.001")
}

fn compacted(delete_retention_ms: &'static str) -> [(&'static str, &'static str); 6] {
    [
        ("cleanup.policy", "compact"),
        ("segment.ms", "300"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "500"),
        ("delete.retention.ms", delete_retention_ms),
    ]
}

/// What is written, by number, a millisecond apart: every tenth key is written only once; the others are few, and are
/// taken back now and then.
struct Story {
    began_ms: i64,
    written: usize,
}

impl Story {
    fn record(&self, n: usize) -> Record {
        let (key, taken_back) = match n {
            ..GONE => (format!("gone {}", n % (GONE / 2)), n >= GONE / 2),
            _ if n.is_multiple_of(10) => (format!("once {n}"), false),
            _ => (format!("key {}", (n * 7_919) % 97), n % 7 == 3),
        };
        Record {
            timestamp: rdkafka::Timestamp::CreateTime(self.began_ms + i64::try_from(n).unwrap_or(0)),
            key: Some(key.into_bytes()),
            value: (!taken_back).then(|| format!("{n:08} {}", "x".repeat(50)).into_bytes()),
            headers: vec![("n".to_owned(), Some(n.to_string().into_bytes())), ("null".to_owned(), None)],
        }
    }

    /// The next numbers.
    fn more(&mut self, records: usize) -> Range<usize> {
        let from = self.written;
        self.written += records;
        from..self.written
    }

    async fn write(&mut self, bootstrap: &str, topic: &str, records: usize) -> Result<()> {
        let records = self.more(records).map(|n| self.record(n)).collect();
        self.send(bootstrap, topic, records).await
    }

    async fn send(&self, bootstrap: &str, topic: &str, records: Vec<Record>) -> Result<()> {
        let codec = CODECS.get(self.written / NUDGE % CODECS.len()).copied().unwrap_or("none");
        let settings = [("linger.ms", "5"), ("batch.num.messages", "50"), ("compression.codec", codec)];
        probe::send_records(bootstrap, &settings, (topic, 0), records).await
    }
}

fn number(record: &Record) -> Result<usize> {
    let header = record.headers.iter().find(|(key, _)| key == "n").and_then(|(_, value)| value.as_deref());
    Ok(std::str::from_utf8(header.context("a record that nobody wrote")?)?.parse()?)
}

async fn held(bootstrap: &str, topic: &str) -> Result<Vec<Record>> {
    let records = probe::records(bootstrap, topic, 0, Isolation::Uncommitted).await?;
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

async fn end(bootstrap: &str, topic: &str) -> Result<usize> {
    let ends = probe::end_offsets(bootstrap, topic).await?;
    Ok(usize::try_from(ends.first().copied().context("no partition")?)?)
}

/// Writes on until the source holds none of the keys that were taken back first, nor their tombstones.
async fn cleaned_source(rig: &Rig, topic: &str, story: &mut Story) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let held = held(&rig.source, topic).await?;
        let gone = |record: &Record| record.key.as_deref().is_some_and(|key| key.starts_with(b"gone"));
        let left = held.iter().filter(|record| gone(record)).count();
        if left == 0 {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "the source was never cleaned: {left} are left");
        story.write(&rig.source, topic, NUDGE).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Writes on until the target's cleaner took something away.
async fn cleaned_target(rig: &Rig, topic: &str, story: &mut Story) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        // In this order: what arrives meanwhile must not count as taken away.
        let end = end(&rig.target, topic).await?;
        let held = held(&rig.target, topic).await?.len();
        if held < end {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "the target was never cleaned: it holds all {end}");
        story.write(&rig.source, topic, NUDGE).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Kills the owner while records flow, and waits until the next one goes on.
async fn kill_under_load(rig: &mut Rig, topic: &str, story: &mut Story) -> Result<()> {
    let owner = rig.owner(topic, 0).await?;
    let before = end(&rig.target, topic).await?;
    let (source, numbers) = (rig.source.clone(), story.more(STEP));
    let records = numbers.map(|n| story.record(n)).collect();
    let sending = story.send(&source, topic, records);
    let killing = async {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while end(&rig.target, topic).await? == before {
            ensure!(tokio::time::Instant::now() < deadline, "nothing arrives");
        }
        rig.mesh.signal_worker(&owner, Signal::Kill)
    };
    let (sent, killed) = tokio::join!(sending, killing);
    sent?;
    killed?;
    rig.mesh.start_worker(&owner)?;
    all_arrived(rig, topic, story).await
}

/// Waits until the newest record is on the target: no cleaner takes what no newer one stands behind.
async fn all_arrived(rig: &Rig, topic: &str, story: &Story) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let newest = held(&rig.target, topic).await?.last().map(number).transpose()?;
        if newest == story.written.checked_sub(1) {
            return Ok(());
        }
        let late = tokio::time::Instant::now() >= deadline;
        ensure!(!late, "{newest:?} is the newest of {}\n{}", story.written, rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Each record on the target is one that was written, whole, once and in its order; and for each key the newest one is
/// there: a tombstone only until the target's cleaner took it, with what it took back.
async fn same_state(rig: &Rig, topic: &str, story: &Story) -> Result<usize> {
    let target = held(&rig.target, topic).await?;
    let (mut newest, mut last) = (BTreeMap::new(), None);
    for record in &target {
        let n = number(record)?;
        ensure!(last < Some(n), "{n} stands behind {last:?}");
        let wanted = story.record(n);
        ensure!(*record == wanted, "{record:?} was {wanted:?}");
        last = Some(n);
        newest.insert(record.key.clone(), n);
    }
    let wanted: BTreeMap<_, _> = (GONE..story.written).map(|n| (story.record(n).key, n)).collect();
    let strange = newest.keys().find(|key| !wanted.contains_key(*key));
    ensure!(strange.is_none(), "{strange:?} was taken back before the flow began");
    for (key, n) in wanted {
        let found = newest.get(&key).copied();
        let taken_back = story.record(n).value.is_none() && found.is_none();
        ensure!(taken_back || found == Some(n), "the newest of {key:?} is {found:?}, not {n}");
    }
    Ok(target.len())
}

async fn horizons(cluster: &Cluster, topic: &str) -> Result<usize> {
    let batches = disk::batches(cluster, topic, 0).await?;
    Ok(batches.iter().filter(|batch| batch.header.has(DELETE_HORIZON) && batch.header.count > 0).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_under_the_reader_loses_and_doubles_nothing() -> Result<()> {
    let (source, target) =
        tokio::try_join!(Cluster::start(cleaning("source")), Cluster::start(cleaning("target")))?;
    let mut rig = Rig::between(&source, &target, MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("compacted");
    for bootstrap in [&rig.source, &rig.target] {
        let settings = compacted("100");
        let made = settings.iter().fold(Topic::new(&topic, 1), |made, (k, v)| made.setting(*k, *v));
        create_topics(bootstrap, &[made]).await?;
    }
    let mut story = Story { began_ms: now_ms() - 3_600_000, written: 0 };
    let bootstrap = rig.source.clone();
    story.write(&bootstrap, &topic, 2 * STEP).await?;
    cleaned_source(&rig, &topic, &mut story).await?;
    // From now on a tombstone stays on the source: who reads late must not miss it.
    probe::set_topic(&rig.source, &topic, &compacted("600000")).await?;
    story.write(&bootstrap, &topic, STEP).await?;

    rig.mirror(&[&topic]).await?;
    all_arrived(&rig, &topic, &story).await?;
    rig.delivered(&topic, Delivery::DetectedOnly, "CONTENT_NOT_FIXED").await?;
    let mut rebuilt = 0.0;
    for worker in ["source-1", "source-2"] {
        rebuilt += metric(&rig, worker, "mirrormesh_batches_total{", "path=\"gaps\"").await?;
    }
    ensure!(rebuilt > 0.0, "no batch had gaps");
    let mut killed = 0;
    for _ in 0..3 {
        cleaned_target(&rig, &topic, &mut story).await?;
        kill_under_load(&mut rig, &topic, &mut story).await?;
        killed += 1;
        same_state(&rig, &topic, &story).await?;
        rig.delivered(&topic, Delivery::DetectedOnly, "CONTENT_NOT_FIXED").await?;
    }
    let left = same_state(&rig, &topic, &story).await?;
    let (arrived, horizons) = (end(&rig.target, &topic).await?, horizons(&source, &topic).await?);
    println!(
        "{} written, {arrived} arrived, {left} left on the target, {horizons} batches with a delete horizon on the \
         source, {rebuilt} batches with gaps, {killed} owners killed",
        story.written
    );
    ensure!(left < arrived && horizons > 0);
    let generation = rig.generation(&topic, 0).await?;
    ensure!(generation.epoch >= Some(killed), "each owner fences the one before: {generation:?}");
    Ok(())
}
