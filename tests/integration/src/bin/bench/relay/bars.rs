//! The bars: what the figures have to reach, each by itself.

use serde_json::{Value, json};

use super::results::Results;
use super::row::Row;
use super::sets::{BACKFILL, RF3_FAMILY};
use super::stall::Point;
use super::{first, idle, latency};

/// From this share of coalesced batches on a data set counts as one where coalescing ran.
const COALESCED_PERCENT_MIN: f64 = 50.0;

/// The sets that are judged against franz-go, the client library with the least CPU.
const FRANZ_SETS: [&str; 4] = ["1kb", "1kb-16k", "lz4", "100b"];

/// The default budget of 64 MiB and 100 MB.
const STALL_MB_MAX: f64 = 167.1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    AtMost,
    AtLeast,
}

/// One bar with what was measured.
#[derive(Debug)]
pub(crate) struct Bar {
    what: String,
    measured: f64,
    side: Side,
    limit: f64,
    unit: &'static str,
}

impl Bar {
    /// Whether it is met.
    pub(crate) fn passes(&self) -> bool {
        match self.side {
            Side::AtMost => self.measured <= self.limit,
            Side::AtLeast => self.measured >= self.limit,
        }
    }

    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let sign = if self.side == Side::AtMost { "<=" } else { ">=" };
        let verdict = if self.passes() { "PASS" } else { "FAIL" };
        let limit = format!("{sign} {:.3} {}", self.limit, self.unit);
        format!("{verdict}  {:<66} {:>9.3}  {limit}", self.what, self.measured)
    }

    /// For the file.
    pub(crate) fn json(&self) -> Value {
        json!({
            "bar": self.what, "measured": self.measured, "limit": self.limit, "unit": self.unit,
            "at": if self.side == Side::AtMost { "most" } else { "least" }, "pass": self.passes(),
        })
    }
}

struct Bars<'a> {
    results: &'a Results,
    bars: Vec<Bar>,
}

/// Every bar for which there are figures.
pub(crate) fn all(results: &Results) -> Vec<Bar> {
    let mut bars = Bars { results, bars: Vec::new() };
    for &set in results.sets() {
        bars.set(set);
    }
    bars.special();
    bars.bars
}

impl Bars<'_> {
    fn ours(&self, set: &'static str, name: &str) -> Option<f64> {
        self.results.median(set, Row::Source, name)
    }

    fn push(&mut self, what: String, measured: Option<f64>, side: Side, limit: f64, unit: &'static str) {
        if let Some(measured) = measured {
            self.bars.push(Bar { what, measured, side, limit, unit });
        }
    }

    /// Ours divided by another row's.
    fn ratio(&mut self, set: &'static str, name: &'static str, other: Row, side: Side, limit: f64) {
        let ours = self.ours(set, name);
        let ratio = ours.zip(self.results.median(set, other, name)).map(|(ours, theirs)| ours / theirs);
        let noun = if name == "mb_per_s" { "throughput" } else { "CPU per GB" };
        self.push(format!("{set}: {noun} against {}", other.title()), ratio, side, limit, "x");
    }

    fn set(&mut self, set: &'static str) {
        let coalesced = self.ours(set, "coalesced_percent").is_some_and(|p| p >= COALESCED_PERCENT_MIN);
        if set == "1kb" {
            self.ratio(set, "core_s_per_gb", Row::Mm2, Side::AtMost, 1.0 / 12.0);
            if !coalesced {
                self.ratio(set, "core_s_per_gb", Row::Rdkafka, Side::AtMost, 1.0 / 3.0);
                self.ratio(set, "core_s_per_gb", Row::Bare, Side::AtMost, 1.2);
            }
            self.ratio(set, "mb_per_s", Row::Mm2, Side::AtLeast, 3.0);
        }
        if set == "100b" {
            self.ratio(set, "mb_per_s", Row::Mm2, Side::AtLeast, 5.0);
        }
        if FRANZ_SETS.contains(&set) {
            for row in [Row::Franz, Row::FranzSame] {
                self.ratio(set, "mb_per_s", row, Side::AtLeast, 1.0);
                self.ratio(set, "core_s_per_gb", row, Side::AtMost, 0.6);
            }
        }
        if set.starts_with(RF3_FAMILY) {
            self.replicated(set, coalesced);
        } else if coalesced {
            self.ratio(set, "core_s_per_gb", Row::Rdkafka, Side::AtMost, 0.5);
            self.ratio(set, "mb_per_s", Row::Rdkafka, Side::AtLeast, 1.0);
        } else {
            self.ratio(set, "mb_per_s", Row::RdkafkaSame, Side::AtLeast, 1.0);
        }
        if set == BACKFILL {
            self.ratio(set, "mb_per_s", Row::SourceNew, Side::AtLeast, 0.8);
        }
        if set == "far" {
            let rate = self.ours(set, "mb_per_s");
            let what = "far: one partition, 100 ms round trip on each leg".to_owned();
            self.push(what, rate, Side::AtLeast, 50.0, "MB/s");
        }
        if set != idle::NAME {
            let peak = self.ours(set, "peak_mb");
            self.push(format!("{set}: memory at full speed"), peak, Side::AtMost, 150.0, "MB");
        }
    }

    /// Three replicas on three brokers, without any fault.
    fn replicated(&mut self, set: &'static str, coalesced: bool) {
        self.ratio(set, "mb_per_s", Row::RdkafkaSame, Side::AtLeast, 1.0);
        if coalesced {
            self.ratio(set, "mb_per_s", Row::Rdkafka, Side::AtLeast, 1.0);
        }
        // Of any run: a median would hide it.
        let lost = self.results.highest(set, Row::Source, "answers_lost");
        self.push(format!("{set}: lost answers without a fault"), lost, Side::AtMost, 0.0, "answers");
    }

    fn stalled(&mut self, point: Point) {
        let (set, what) = (point.name(), format!("a stalled target, {} partitions", point.partitions()));
        let most = self.ours(set, "resident_max_mb");
        self.push(format!("{what}: memory (budget + 100 MB)"), most, Side::AtMost, STALL_MB_MAX, "MB");
        let kept = self.ours(set, "other_rate_ratio");
        self.push(format!("{what}: the other flow's rate"), kept, Side::AtLeast, 0.9, "x");
    }

    fn special(&mut self) {
        let idle_set = idle::NAME;
        let count = self.ours(idle_set, "partitions").unwrap_or(0.0);
        let resident = self.ours(idle_set, "resident_mb");
        self.push(format!("{count} idle partitions: memory"), resident, Side::AtMost, 300.0, "MB");
        let cpu = self.ours(idle_set, "cpu_percent");
        self.push(format!("{count} idle partitions: CPU"), cpu, Side::AtMost, 2.0, "% of a core");
        let seconds = self.ours(first::NAME, "to_first_s");
        self.push("from exec to the first mirrored record".to_owned(), seconds, Side::AtMost, 1.0, "s");
        let p50 = self.ours(latency::NAME, "p50_ms");
        self.push("added latency: median".to_owned(), p50, Side::AtMost, 2.0, "ms");
        let theirs = self.results.median(latency::NAME, Row::Mm2, "p99_ms");
        let p99 = self.ours(latency::NAME, "p99_ms").zip(theirs).map(|(ours, theirs)| ours / theirs);
        let what = "added latency: 99th percentile against MirrorMaker 2".to_owned();
        self.push(what, p99, Side::AtMost, 1.0 / 3.0, "x");
        for point in Point::ALL {
            self.stalled(point);
        }
    }
}
