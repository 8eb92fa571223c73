//! The data sets, in the two forms of the bench, and which rows each of them is for.

use std::time::Duration;

use super::row::Row;
use crate::load::{DataSet, Fill};

/// The partitions of an ordinary set.
const PARTITIONS: i32 = 4;
const ALL_IN_ONE: u32 = 1_000_000;

/// A data set and how it is used.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    pub(crate) data: DataSet,
    /// Each way on each leg.
    pub(crate) delay: Duration,
    /// Each with its number of runs.
    pub(crate) rows: Vec<(Row, usize)>,
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
    let none = Duration::ZERO;
    let every = &Row::ALL[..];
    let mirrors = &[Row::Source, Row::Rdkafka, Row::RdkafkaSame, Row::Mm2, Row::Bare][..];
    let some = &[Row::Source, Row::Rdkafka, Row::Mm2][..];
    let set = |name, title, data, delay, rows, quick_mm2| Set {
        name,
        title,
        data,
        delay,
        rows: scale.rows(rows, quick_mm2),
    };
    let kilo = |name, codec, fill, records| data(name, records, 1_000, 65_536, ALL_IN_ONE, codec, fill);
    let half = Fill::Half;
    let whole = scale.records(300_000, 2_000_000);
    let compressed = scale.records(150_000, 2_000_000);
    let small =
        data("100b", scale.records(1_000_000, 10_000_000), 100, 16_384, ALL_IN_ONE, "none", Fill::Random);
    let tiny = data("one-record", scale.records(150_000, 1_000_000), 100, 16_384, 1, "none", Fill::Random);
    let mut far = kilo("far", "none", Fill::Random, scale.records(150_000, 1_000_000));
    far.partitions = 1;
    // The loop asks for the next megabyte only when it has the last: that takes it a minute in the full form. MirrorMaker 2
    // does not get to the end: it was seen at 0.15 MB/s.
    let across = if scale.full { &[Row::Source, Row::Rdkafka][..] } else { &[Row::Source][..] };
    vec![
        set(
            "1kb",
            "1 KB records, 64 KiB batches",
            kilo("1kb", "none", Fill::Random, whole),
            none,
            every,
            true,
        ),
        set("lz4", "1 KB records, lz4", kilo("lz4", "lz4", half, compressed), none, some, false),
        set("zstd", "1 KB records, zstd", kilo("zstd", "zstd", half, compressed), none, some, false),
        set("100b", "100 B records, 16 KiB batches", small, none, mirrors, true),
        set("one-record", "100 B records, one in a batch", tiny, none, some, false),
        set(
            "far",
            "one partition, 50 ms each way on each leg",
            far,
            Duration::from_millis(50),
            across,
            false,
        ),
    ]
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
    }
}
