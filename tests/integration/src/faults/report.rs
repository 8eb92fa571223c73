//! What came out: a table for people, JSON for machines, and the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mirrormesh_testkit::checker::{Comparison, Repeats};
use serde_json::{Value, json};

use super::plan::{Kind, LEASE};

/// Records flow again this long after a worker died at the latest: its lease, and what finding the place takes.
pub const TAKEOVER_BAR: Duration = Duration::from_secs(LEASE.as_secs() + 2);

const SECONDS_PER_DAY: f64 = 86_400.0;

/// How many faults of a kind were injected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// While records flowed where it hit: these count.
    pub struck: u32,
    /// While none did.
    pub idle: u32,
}

/// How long one partition had no records after its worker was killed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takeover {
    /// What was done to the worker.
    pub kind: Kind,
    /// The partition.
    pub partition: i32,
    /// From the signal until records of it arrived again.
    pub time: Duration,
    /// Whether all brokers ran and were in step when it began; else their absence may be part of the time.
    pub calm: bool,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// What decided all choices.
    pub seed: u64,
    /// How many faults had to strike.
    pub faults_wanted: u32,
    /// How many records had to be produced.
    pub records_wanted: u64,
    /// How much older than the clock the records' timestamps were; zero: about an hour.
    pub record_age: Duration,
    /// How many ranges of target offsets the flow announced as holding records twice or out of order.
    pub announced_ranges: usize,
    /// How many target offsets these ranges have together.
    pub announced_offsets: i64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, Count>,
    /// One for each partition of each worker that was hit.
    pub takeovers: Vec<Takeover>,
    /// How long the API did not answer after each kill of the leading coordinator.
    pub api_gaps: Vec<Duration>,
    /// The longest time without records in any partition around each kill of the leading coordinator.
    pub leader_silences: Vec<Duration>,
    /// Batches on their way, at each cut that waited for ten or more.
    pub cut_batches: Vec<u64>,
    /// Records that the source acknowledged.
    pub produced: u64,
    /// What differs between the clusters; none if it could not be found out.
    pub comparison: Option<Comparison>,
    /// What the source holds twice; counted only where it holds more than it acknowledged.
    pub repeats: Repeats,
    /// What did not go as it should, though no record need be wrong.
    pub problems: Vec<String>,
    /// From the first record to the last one on the target.
    pub load_time: Duration,
    /// How long comparing took.
    pub check_time: Duration,
    /// Everything together.
    pub whole_time: Duration,
}

impl Report {
    /// Notes a fault.
    pub fn count(&mut self, kind: Kind, struck: bool) {
        let count = self.faults.entry(kind).or_default();
        if struck {
            count.struck += 1;
        } else {
            count.idle += 1;
        }
    }

    /// A fault that was counted as struck turned out not to be what it should have been.
    pub(super) fn recount_as_idle(&mut self, kind: Kind) {
        let count = self.faults.entry(kind).or_default();
        count.struck = count.struck.saturating_sub(1);
        count.idle += 1;
    }

    /// Faults of all kinds that struck.
    pub fn struck(&self) -> u32 {
        self.faults.values().map(|count| count.struck).sum()
    }

    /// Faults of all kinds that did not.
    pub fn idle(&self) -> u32 {
        self.faults.values().map(|count| count.idle).sum()
    }

    /// No record is wrong, and there were as many records and faults as demanded.
    pub fn passed(&self) -> bool {
        self.struck() >= self.faults_wanted
            && self.produced >= self.records_wanted
            && self.records_are_right()
    }

    /// All that the source acknowledged was compared, and both sides are equal. The source may hold more only by what
    /// its own producer appended twice when a broker died: that is the source's content, and is on the target as well.
    fn records_are_right(&self) -> bool {
        let expected = self.produced + self.repeats.repeated;
        self.comparison.as_ref().is_some_and(|c| c.is_equal() && c.totals.matched == expected)
    }

    /// Whether the source holds records that it acknowledged to nobody.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.comparison.as_ref().is_some_and(|c| c.totals.source_records > self.produced)
    }

    fn takeovers_of(&self, kinds: &[Kind], calm: bool) -> Times {
        let chosen = self.takeovers.iter().filter(|t| t.calm == calm && kinds.contains(&t.kind));
        Times::of(chosen.map(|takeover| takeover.time))
    }

    /// The rows of times: a name, the times, and the bar if there is one.
    fn times(&self) -> Vec<(&'static str, Times, Option<Duration>)> {
        let kills = [Kind::WorkerKill, Kind::WorkerRestart];
        let pauses = [Kind::WorkerPause];
        let bar = Some(TAKEOVER_BAR);
        vec![
            ("takeover_after_kill", self.takeovers_of(&kills, true), bar),
            ("takeover_after_pause", self.takeovers_of(&pauses, true), bar),
            ("takeover_after_kill_brokers_amiss", self.takeovers_of(&kills, false), None),
            ("takeover_after_pause_brokers_amiss", self.takeovers_of(&pauses, false), None),
            ("api_gap_after_leader_kill", Times::of(self.api_gaps.iter().copied()), None),
            ("silence_around_leader_kill", Times::of(self.leader_silences.iter().copied()), None),
        ]
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let faults: serde_json::Map<String, Value> = self
            .faults
            .iter()
            .map(|(kind, count)| {
                (kind.name().to_owned(), json!({ "struck": count.struck, "not_struck": count.idle }))
            })
            .collect();
        let times: serde_json::Map<String, Value> = self
            .times()
            .into_iter()
            .map(|(name, times, bar)| (format!("{name}_ms"), times.json(bar)))
            .collect();
        let totals = self.comparison.as_ref().map(|c| &c.totals);
        json!({
            "passed": self.passed(),
            "seed": self.seed,
            "faults": faults,
            "struck": self.struck(),
            "not_struck": self.idle(),
            "faults_wanted": self.faults_wanted,
            "records": totals.map(|t| t.matched),
            "records_wanted": self.records_wanted,
            "produced": self.produced,
            "repeated_on_source": self.repeats.repeated,
            "lost": totals.map(|t| t.lost),
            "duplicated": totals.map(|t| t.duplicated),
            "reordered": totals.map(|t| t.reordered),
            "different": totals.map(|t| t.different),
            "extra": totals.map(|t| t.extra),
            "record_age_seconds": self.record_age.as_secs(),
            "announced_ranges": self.announced_ranges,
            "announced_offsets": self.announced_offsets,
            "announced_copies": totals.map(|t| t.announced),
            "times": times,
            "batches_in_flight_at_cuts": self.cut_batches,
            "problems": self.problems,
            "load_seconds": self.load_time.as_secs_f64(),
            "check_seconds": self.check_time.as_secs_f64(),
            "seconds": self.whole_time.as_secs_f64(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<38} {:>8} {:>12}", "fault", "struck", "not struck")?;
        for (kind, count) in &self.faults {
            writeln!(f, "{:<38} {:>8} {:>12}", kind.name(), count.struck, count.idle)?;
        }
        writeln!(f, "{:<38} {:>8} {:>12}", "all", self.struck(), self.idle())?;
        writeln!(f)?;
        writeln!(f, "{:<38} {:>5} {:>8} {:>8} {:>8}   bar", "ms", "count", "min", "median", "max")?;
        for (name, times, bar) in self.times() {
            writeln!(f, "{name:<38} {times}   {}", times.verdict(bar))?;
        }
        writeln!(f)?;
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        match &self.comparison {
            Some(comparison) if !comparison.is_equal() => writeln!(f, "{comparison}")?,
            Some(_) => {}
            None => writeln!(f, "the clusters were not compared")?,
        }
        for place in &self.repeats.places {
            writeln!(f, "twice on the source, {place}")?;
        }
        let word = if self.passed() { "PASS" } else { "FAIL" };
        let totals = self.comparison.as_ref().map(|c| c.totals.clone()).unwrap_or_default();
        write!(
            f,
            "faults: {word} struck={} of {} records={} lost={} duplicated={} reordered={} different={} extra={} \
             announced_ranges={} announced_offsets={} announced_copies={} record_age_days={:.1} produced={} \
             repeated_on_source={} seed={} seconds={:.0} (load {:.0}, check {:.0})",
            self.struck(),
            self.faults_wanted,
            totals.matched,
            totals.lost,
            totals.duplicated,
            totals.reordered,
            totals.different,
            totals.extra,
            self.announced_ranges,
            self.announced_offsets,
            totals.announced,
            self.record_age.as_secs_f64() / SECONDS_PER_DAY,
            self.produced,
            self.repeats.repeated,
            self.seed,
            self.whole_time.as_secs_f64(),
            self.load_time.as_secs_f64(),
            self.check_time.as_secs_f64(),
        )
    }
}

/// Times in order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Times(Vec<Duration>);

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        Self(times)
    }

    fn min(&self) -> Option<Duration> {
        self.0.first().copied()
    }

    fn median(&self) -> Option<Duration> {
        self.0.get(self.0.len() / 2).copied()
    }

    fn max(&self) -> Option<Duration> {
        self.0.last().copied()
    }

    fn verdict(&self, bar: Option<Duration>) -> String {
        let Some(bar) = bar else { return String::new() };
        let late = self.0.iter().filter(|time| **time > bar).count();
        let word = match (self.0.len(), late) {
            (0, _) => "nothing measured".to_owned(),
            (_, 0) => "kept".to_owned(),
            (_, late) => format!("MISSED {late} times"),
        };
        format!("<= {} {word}", bar.as_millis())
    }

    fn json(&self, bar: Option<Duration>) -> Value {
        let ms = |time: Option<Duration>| time.map(millis);
        json!({
            "count": self.0.len(),
            "min": ms(self.min()),
            "median": ms(self.median()),
            "max": ms(self.max()),
            "bar": ms(bar),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), |t| t.as_millis().to_string());
        write!(f, "{:>5} {:>8} {:>8} {:>8}", self.0.len(), ms(self.min()), ms(self.median()), ms(self.max()))
    }
}

#[cfg(test)]
mod tests {
    use mirrormesh_testkit::checker::matcher::Outcome;

    use super::*;

    fn comparison(matched: u64, lost: u64) -> Comparison {
        let (source_records, target_records) = (matched + lost, matched);
        let totals = Outcome { source_records, target_records, matched, lost, ..Outcome::default() };
        Comparison { partitions: Vec::new(), totals }
    }

    fn good() -> Report {
        let mut report = Report {
            faults_wanted: 2,
            records_wanted: 100,
            produced: 120,
            comparison: Some(comparison(120, 0)),
            ..Report::default()
        };
        report.count(Kind::WorkerKill, true);
        report.count(Kind::LeaderKill, true);
        report
    }

    #[test]
    fn it_passes_only_if_all_is_there() {
        assert!(good().passed());
        assert!(!Report { faults_wanted: 3, ..good() }.passed());
        assert!(!Report { records_wanted: 121, ..good() }.passed());
        assert!(!Report { produced: 121, ..good() }.passed());
        let more = Report { produced: 117, ..good() };
        assert!(more.has_unacknowledged() && !more.passed(), "{more}");
        let repeats = |repeated| Repeats { repeated, ..Repeats::default() };
        let explained = Report { repeats: repeats(3), ..more };
        assert!(explained.passed(), "{explained}");
        assert!(explained.to_string().contains("produced=117 repeated_on_source=3 "), "{explained}");
        assert!(!Report { repeats: repeats(2), ..explained }.passed());
        assert!(!Report { comparison: None, ..good() }.passed());
        assert!(!Report { comparison: Some(comparison(120, 1)), ..good() }.passed());
    }

    #[test]
    fn announced_copies_are_no_failure() {
        let mut announced = comparison(120, 0);
        announced.totals.target_records += 3;
        assert!(!Report { comparison: Some(announced.clone()), ..good() }.passed());
        announced.totals.announced = 3;
        assert!(Report { comparison: Some(announced.clone()), ..good() }.passed());
        announced.totals.reordered = 1;
        assert!(!Report { comparison: Some(announced), ..good() }.passed());
    }

    #[test]
    fn faults_without_records_do_not_count() {
        let mut report = Report { faults_wanted: 3, ..good() };
        report.count(Kind::WorkerKill, false);
        assert_eq!((report.struck(), report.idle()), (2, 1));
        assert!(!report.passed());
        report.count(Kind::WorkerKill, true);
        assert!(report.passed());
    }

    #[test]
    fn times_are_told_against_the_bar() {
        let seconds = |list: &[u64]| Times::of(list.iter().map(|s| Duration::from_secs(*s)));
        let times = seconds(&[4, 1, 6]);
        assert_eq!(
            (times.min(), times.median()),
            (Some(Duration::from_secs(1)), Some(Duration::from_secs(4)))
        );
        assert_eq!(times.verdict(Some(TAKEOVER_BAR)), "<= 5000 MISSED 1 times");
        assert_eq!(seconds(&[5]).verdict(Some(TAKEOVER_BAR)), "<= 5000 kept");
        assert_eq!(seconds(&[]).verdict(Some(TAKEOVER_BAR)), "<= 5000 nothing measured");
    }

    #[test]
    fn takeovers_without_a_broker_are_told_apart() {
        let mut report = good();
        for calm in [true, false, false] {
            let time = Duration::from_secs(4);
            report.takeovers.push(Takeover { kind: Kind::WorkerKill, partition: 0, time, calm });
        }
        let json = report.json();
        assert_eq!(json["times"]["takeover_after_kill_ms"]["count"], 1);
        assert_eq!(json["times"]["takeover_after_kill_brokers_amiss_ms"]["count"], 2);
    }
}
