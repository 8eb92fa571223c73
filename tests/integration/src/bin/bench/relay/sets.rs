//! The data sets, in the two forms of the bench, and which rows each of them is for.

use std::time::Duration;

use super::rig::Delay;
use super::row::Row;
use crate::load::{DataSet, Fill};

/// The partitions of an ordinary set.
const PARTITIONS: i32 = 4;
const ALL_IN_ONE: u32 = 1_000_000;
/// By default brokers retain producer state for a day after the newest timestamp of its records.
const BACKFILL_AGE: Duration = Duration::from_hours(72);
/// The name of all sets with three replicas.
pub(crate) const RF3_FAMILY: &str = "rf3";
/// The set whose records are old.
pub(crate) const BACKFILL: &str = "backfill";
/// The sets with three replicas: name, title, partitions, bytes of a batch.
const RF3: [(&str, &str, i32, usize); 6] = [
    ("rf3-1-16k", "RF 3, 1 KB records, 1 partition, 16 KiB batches", 1, 16_384),
    ("rf3-1-64k", "RF 3, 1 KB records, 1 partition, 64 KiB batches", 1, 65_536),
    ("rf3-12-16k", "RF 3, 1 KB records, 12 partitions, 16 KiB batches", 12, 16_384),
    ("rf3-12-64k", "RF 3, 1 KB records, 12 partitions, 64 KiB batches", 12, 65_536),
    ("rf3-200-16k", "RF 3, 1 KB records, 200 partitions, 16 KiB batches", 200, 16_384),
    ("rf3-200-64k", "RF 3, 1 KB records, 200 partitions, 64 KiB batches", 200, 65_536),
];

/// A data set and how it is used.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// The name of the sets that it belongs to; mostly its own.
    pub(crate) family: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    pub(crate) data: DataSet,
    pub(crate) delay: Delay,
    /// Whether the target has three brokers and three replicas.
    pub(crate) replicated: bool,
    /// Whether the quick form leaves it out, if it is not asked for by name.
    pub(crate) long: bool,
    /// MirrorMaker 2 is stopped this long after its first record, and what it had copied by then counts.
    pub(crate) mm2_stretch: Option<Duration>,
    /// Each with its number of runs.
    pub(crate) rows: Vec<(Row, usize)>,
}

impl Set {
    /// The data that these rows read.
    pub(crate) fn sources(&self, rows: &[Row]) -> Vec<DataSet> {
        let new = rows.contains(&Row::SourceNew).then(|| self.data.new_records());
        let old = rows.iter().any(|row| *row != Row::SourceNew).then(|| self.data.clone());
        old.into_iter().chain(new).collect()
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Whether this is the full form.
    pub(crate) full: bool,
    /// Runs of each row, if said.
    pub(crate) runs: Option<usize>,
    /// Megabytes of the sets of 1 KB records, if said; the other sets in proportion.
    pub(crate) megabytes: Option<u64>,
}

impl Scale {
    fn records(self, quick: u64, full: u64) -> u64 {
        let usual = if self.full { full } else { quick };
        let megabytes = if self.full { FULL_MEGABYTES } else { QUICK_MEGABYTES };
        (usual.saturating_mul(self.megabytes.unwrap_or(megabytes)) / megabytes).max(1)
    }

    /// In the quick form MirrorMaker 2 runs once: its start takes most of the time.
    fn rows(self, rows: &[Row], quick_mm2: bool) -> Vec<(Row, usize)> {
        let runs = |row: Row| match (self.full, row, self.runs) {
            (_, _, Some(runs)) => Some(runs),
            (false, Row::Mm2, None) => quick_mm2.then_some(1),
            _ => Some(3),
        };
        rows.iter().filter_map(|&row| runs(row).map(|runs| (row, runs))).collect()
    }
}

const QUICK_MEGABYTES: u64 = 300;
const FULL_MEGABYTES: u64 = 2_000;

/// All data sets.
pub(crate) fn all(scale: Scale) -> Vec<Set> {
    let mut sets = plain(scale);
    sets.push(far(scale));
    sets.push(backfill(scale));
    sets.extend(replicated(scale));
    sets
}

/// A set on one broker without delay, in both forms of the bench.
fn set(name: &'static str, title: &'static str, data: DataSet, rows: Vec<(Row, usize)>) -> Set {
    let (family, delay) = (name, Delay::default());
    Set { name, family, title, data, delay, replicated: false, long: false, mm2_stretch: None, rows }
}

/// The sets at full speed.
fn plain(scale: Scale) -> Vec<Set> {
    let loops = [Row::Source, Row::Rdkafka, Row::RdkafkaSame, Row::Franz, Row::FranzSame];
    let every = [&loops[..], &[Row::Mm2, Row::Bare, Row::Floor]].concat();
    let mirrors = [&loops[..], &[Row::Mm2, Row::Bare]].concat();
    let strongest = [Row::Source, Row::Rdkafka, Row::Franz, Row::FranzSame, Row::Mm2];
    let some = [Row::Source, Row::Rdkafka, Row::Mm2];
    let half = Fill::Half;
    let whole = scale.records(300_000, 2_000_000);
    let compressed = scale.records(150_000, 2_000_000);
    let mut batches_16k = kilo("1kb-16k", "none", Fill::Random, whole);
    batches_16k.batch_bytes = 16_384;
    let small =
        data("100b", scale.records(1_000_000, 10_000_000), 100, 16_384, ALL_IN_ONE, "none", Fill::Random);
    let tiny = data("one-record", scale.records(150_000, 1_000_000), 100, 16_384, 1, "none", Fill::Random);
    vec![
        set(
            "1kb",
            "1 KB records, 64 KiB batches",
            kilo("1kb", "none", Fill::Random, whole),
            scale.rows(&every, true),
        ),
        set("1kb-16k", "1 KB records, 16 KiB batches", batches_16k, scale.rows(&loops, false)),
        set("lz4", "1 KB records, lz4", kilo("lz4", "lz4", half, compressed), scale.rows(&strongest, false)),
        set("zstd", "1 KB records, zstd", kilo("zstd", "zstd", half, compressed), scale.rows(&some, false)),
        set("100b", "100 B records, 16 KiB batches", small, scale.rows(&mirrors, true)),
        set("one-record", "100 B records, one in a batch", tiny, scale.rows(&some, false)),
    ]
}

fn far(scale: Scale) -> Set {
    let mut far = kilo("far", "none", Fill::Random, scale.records(150_000, 1_000_000));
    far.partitions = 1;
    // The loop asks for the next megabyte only when it has the last: that takes it a minute in the full form. MirrorMaker 2
    // does not get to the end: it was seen at 0.15 MB/s.
    let across = if scale.full { &[Row::Source, Row::Rdkafka][..] } else { &[Row::Source][..] };
    let away = Duration::from_millis(50);
    Set {
        delay: Delay { source: away, target: away },
        ..set("far", "one partition, 50 ms each way on each leg", far, scale.rows(across, false))
    }
}

/// Records that are older than brokers retain producer state for, over a long way to the target.
fn backfill(scale: Scale) -> Set {
    let mut old = kilo(BACKFILL, "none", Fill::Random, scale.records(300_000, 1_000_000));
    old.partitions = 1;
    old.age = BACKFILL_AGE;
    let rows = [Row::Source, Row::SourceNew, Row::Rdkafka, Row::RdkafkaSame, Row::Mm2];
    let title = "one partition, 3 days old, 64 KiB batches, 25 ms each way to the target";
    Set {
        delay: Delay { source: Duration::ZERO, target: Duration::from_millis(25) },
        long: true,
        mm2_stretch: Some(Duration::from_secs(if scale.full { 180 } else { 60 })),
        ..set(BACKFILL, title, old, scale.rows(&rows, true))
    }
}

fn replicated(scale: Scale) -> impl Iterator<Item = Set> {
    RF3.into_iter().map(move |(name, title, partitions, batch_bytes)| {
        // Looking at 200 partitions takes a part of a second: the stretch must be long beside it.
        let quick = if partitions < 200 { 200_000 } else { 400_000 };
        let mut data = kilo(name, "none", Fill::Random, scale.records(quick, 1_000_000));
        data.partitions = partitions;
        data.batch_bytes = batch_bytes;
        let rows = scale.rows(&[Row::Source, Row::Rdkafka, Row::RdkafkaSame], false);
        Set { family: RF3_FAMILY, replicated: true, long: true, ..set(name, title, data, rows) }
    })
}

/// 1 KB records in batches of 64 KiB.
fn kilo(name: &str, codec: &'static str, fill: Fill, records: u64) -> DataSet {
    data(name, records, 1_000, 65_536, ALL_IN_ONE, codec, fill)
}

fn data(
    name: &str,
    records: u64,
    value_bytes: usize,
    batch_bytes: usize,
    batch_records: u32,
    codec: &'static str,
    fill: Fill,
) -> DataSet {
    DataSet {
        topic: format!("data-{name}"),
        partitions: PARTITIONS,
        records,
        value_bytes,
        batch_bytes,
        batch_records,
        codec,
        fill,
        age: Duration::ZERO,
    }
}
