//! The judgement over one partition: two sequences of records in, counts and first differences out. Pure.
//!
//! Both sequences are read in step. While they are equal nothing is kept but a digest of each source record. From the
//! first difference on, records wait in a window for their counterpart, found by digest, the n-th of a kind for the
//! n-th of that kind (so records that are truly equal are told apart by their count). Then:
//!
//! - **matched**: source records whose counterpart was found.
//! - **reordered**: matched records that come after, on the target, one that comes later on the source.
//! - **duplicated**: target records left over that equal a source record (whose own counterpart was found).
//! - **different**: a source record and a target record left over between the same matched neighbours, which are
//!   taken to be the same record with something changed.
//! - **lost**: source records left over and not so paired.
//! - **extra**: target records left over that equal no source record and are not so paired.
//! - **announced**: target records at offsets where the mirror announced copies (see [`Matcher::announcing`]). Each one
//!   equals a source record, and is not that record's only copy.
//!
//! What is further out of place than the window holds counts as lost and as duplicated or extra; it is never called
//! equal.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::ops::Range;

use super::announced::Announced;
use super::record::{OwnedRecord, Record};

/// Default window in records: an entry takes about 200 bytes while it waits.
pub const WINDOW_RECORDS: usize = 1_000_000;
/// Differences that are described.
pub const DIFFERENCES_MAX: usize = 10;
/// Waiting records on each side that are kept whole, to say what differs.
const KEPT_RECORDS_MAX: usize = 64;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A source record is not on the target.
    Lost,
    /// A source record is on the target once more.
    Duplicated,
    /// A record comes after a later one.
    Reordered,
    /// A record was changed.
    Different,
    /// A target record that never was on the source.
    Extra,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub kind: Kind,
    /// Where on the source, if there is such a place.
    pub source_offset: Option<i64>,
    /// Where on the target, if there is such a place.
    pub target_offset: Option<i64>,
    /// What changed, for [`Kind::Different`] where the records were kept; else empty.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        if let Some(offset) = self.source_offset {
            write!(f, ", source offset {offset}")?;
        }
        if let Some(offset) = self.target_offset {
            write!(f, ", target offset {offset}")?;
        }
        if !self.what.is_empty() {
            write!(f, ": {}", self.what)?;
        }
        Ok(())
    }
}

/// What came out; see the module for the meaning of each count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Source records read.
    pub source_records: u64,
    /// Target records read.
    pub target_records: u64,
    /// Records found on both sides.
    pub matched: u64,
    /// Source records without counterpart.
    pub lost: u64,
    /// Target records that are there too often.
    pub duplicated: u64,
    /// Matched records out of order.
    pub reordered: u64,
    /// Records that were changed.
    pub different: u64,
    /// Target records that never were on the source.
    pub extra: u64,
    /// Copies at offsets where they were announced.
    pub announced: u64,
    /// The first differences, at most [`DIFFERENCES_MAX`].
    pub differences: Vec<Difference>,
}

impl Outcome {
    /// Whether both sides hold the same records in the same order, announced copies aside.
    pub fn is_equal(&self) -> bool {
        self.source_records == self.matched
            && self.target_records == self.matched + self.announced
            && self.reordered == 0
    }
}

/// A record whose neighbours before it are not settled yet. Its place in the sequence is the base plus its index.
#[derive(Debug)]
struct Entry {
    digest: u64,
    offset: i64,
    /// The place of the source record it was matched with (its own place, for a source record).
    matched: Option<u64>,
    /// Only for target records: equalled a source record when it was read.
    known: bool,
    kept: Option<Box<OwnedRecord>>,
}

/// One side's unsettled records, and those of them that wait, by digest.
#[derive(Debug, Default)]
struct Side {
    /// Place of the first entry.
    base: u64,
    entries: VecDeque<Entry>,
    waiting: HashMap<u64, VecDeque<u64>>,
    kept: usize,
    /// Source place of the last settled match.
    anchor: Option<u64>,
}

impl Side {
    fn push(&mut self, record: &Record<'_>, digest: u64, known: bool) -> u64 {
        let place = self.base + self.entries.len() as u64;
        let keep = self.kept < KEPT_RECORDS_MAX;
        self.kept += usize::from(keep);
        let kept = keep.then(|| Box::new(record.to_owned_record()));
        self.entries.push_back(Entry { digest, offset: record.offset, matched: None, known, kept });
        self.waiting.entry(digest).or_default().push_back(place);
        place
    }

    fn take_waiting(&mut self, digest: u64) -> Option<u64> {
        let places = self.waiting.get_mut(&digest)?;
        let place = places.pop_front();
        if places.is_empty() {
            self.waiting.remove(&digest);
        }
        place
    }

    fn set_matched(&mut self, place: u64, source_place: u64) {
        let index = usize::try_from(place - self.base).ok();
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            entry.matched = Some(source_place);
            self.kept -= usize::from(entry.kept.take().is_some());
        }
    }

    /// The first entry, if it is matched or if more than `window` wait.
    fn pop_settled(&mut self, window: usize) -> Option<Entry> {
        let forced = self.entries.len() > window;
        let entry = self.entries.pop_front_if(|entry| forced || entry.matched.is_some())?;
        if entry.matched.is_none() {
            self.take_waiting(entry.digest);
            self.kept -= usize::from(entry.kept.is_some());
        }
        self.base += 1;
        Some(entry)
    }
}

/// Digests of the last source records.
#[derive(Debug, Default)]
struct History {
    limit: usize,
    digests: VecDeque<u64>,
    /// How often each is there; built when it is first asked for, since sound data never asks.
    counts: Option<HashMap<u64, u32>>,
}

impl History {
    fn push(&mut self, digest: u64) {
        if self.digests.len() >= self.limit
            && let Some(old) = self.digests.pop_front()
            && let Some(counts) = &mut self.counts
            && let Some(count) = counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                counts.remove(&old);
            }
        }
        self.digests.push_back(digest);
        if let Some(counts) = &mut self.counts {
            *counts.entry(digest).or_default() += 1;
        }
    }

    fn contains(&mut self, digest: u64) -> bool {
        let digests = &self.digests;
        let counts = self.counts.get_or_insert_with(|| {
            let mut counts = HashMap::with_capacity(digests.len());
            for digest in digests {
                *counts.entry(*digest).or_default() += 1;
            }
            counts
        });
        counts.contains_key(&digest)
    }
}

/// Left-over records between the same matched neighbours.
#[derive(Debug, Default)]
struct Gap {
    source: u64,
    target: u64,
    source_first: VecDeque<(i64, Option<Box<OwnedRecord>>)>,
    target_first: VecDeque<(i64, Option<Box<OwnedRecord>>)>,
}

/// Compares two sequences as they are read.
#[derive(Debug)]
pub struct Matcher {
    window: usize,
    source: Side,
    target: Side,
    history: History,
    /// The latest source place that was found on the target.
    latest: Option<u64>,
    gaps: BTreeMap<Option<u64>, Gap>,
    announced: Announced,
    outcome: Outcome,
}

impl Matcher {
    /// With a window of so many records on each side.
    pub fn new(window: usize) -> Self {
        Self {
            window,
            source: Side::default(),
            target: Side::default(),
            history: History { limit: window.saturating_mul(2).max(1), ..History::default() },
            latest: None,
            gaps: BTreeMap::new(),
            announced: Announced::default(),
            outcome: Outcome::default(),
        }
    }

    /// Sets the target offsets at which records may stand twice or out of order. The rest of the target is judged as if
    /// these records were not there. A source record that only stands among them is matched.
    #[must_use]
    pub fn announcing(mut self, ranges: Vec<Range<i64>>) -> Self {
        self.announced = Announced::new(ranges);
        self
    }

    /// Takes a target record if its offset was announced. Such a record must not be given to [`Self::push`].
    pub fn take_announced(&mut self, record: &Record<'_>) -> bool {
        if !self.announced.holds(record.offset) {
            return false;
        }
        self.outcome.target_records += 1;
        let digest = record.digest();
        let known = self.history.contains(digest);
        self.announced.push(digest, record.offset, known);
        true
    }

    /// Takes the next record of each side; `None` for a side that is at its end.
    pub fn push(&mut self, source: Option<&Record<'_>>, target: Option<&Record<'_>>) {
        if let (Some(up), Some(down)) = (source, target)
            && self.source.entries.is_empty()
            && self.target.entries.is_empty()
            && up.same(down)
        {
            self.push_equal(up);
            return;
        }
        if let Some(record) = source {
            self.push_source(record);
        }
        if let Some(record) = target {
            self.push_target(record);
        }
        self.settle(self.window);
    }

    /// The common case: nothing waits and both are the same.
    fn push_equal(&mut self, record: &Record<'_>) {
        let digest = record.digest();
        self.history.push(digest);
        self.announced.seen(digest);
        let place = self.source.base;
        self.source.base += 1;
        self.target.base += 1;
        self.source.anchor = Some(place);
        self.target.anchor = Some(place);
        self.latest = Some(place);
        self.outcome.source_records += 1;
        self.outcome.target_records += 1;
        self.outcome.matched += 1;
    }

    fn push_source(&mut self, record: &Record<'_>) {
        self.outcome.source_records += 1;
        let digest = record.digest();
        self.history.push(digest);
        self.announced.seen(digest);
        let counterpart = self.target.take_waiting(digest);
        let place = self.source.push(record, digest, true);
        if let Some(target_place) = counterpart {
            self.source.take_waiting(digest);
            self.set_matched(place, target_place);
        }
    }

    fn push_target(&mut self, record: &Record<'_>) {
        self.outcome.target_records += 1;
        let digest = record.digest();
        let counterpart = self.source.take_waiting(digest);
        let known = counterpart.is_some() || self.history.contains(digest);
        let place = self.target.push(record, digest, known);
        if let Some(source_place) = counterpart {
            self.target.take_waiting(digest);
            self.set_matched(source_place, place);
        }
    }

    fn set_matched(&mut self, source_place: u64, target_place: u64) {
        self.source.set_matched(source_place, source_place);
        self.target.set_matched(target_place, source_place);
        self.outcome.matched += 1;
    }

    /// Judges the records before which nothing waits, and those that waited too long.
    fn settle(&mut self, window: usize) {
        while let Some(entry) = self.source.pop_settled(window) {
            if let Some(place) = entry.matched {
                self.source.anchor = Some(place);
                continue;
            }
            if self.announced.take(entry.digest) {
                self.outcome.matched += 1;
                continue;
            }
            let gap = self.gaps.entry(self.source.anchor).or_default();
            gap.source += 1;
            if gap.source_first.len() < DIFFERENCES_MAX {
                gap.source_first.push_back((entry.offset, entry.kept));
            }
        }
        while let Some(entry) = self.target.pop_settled(window) {
            match entry.matched {
                Some(place) => self.settle_match(place, entry.offset),
                None => self.settle_left_over(entry),
            }
        }
    }

    fn settle_match(&mut self, place: u64, target_offset: i64) {
        self.target.anchor = Some(place);
        if self.latest.is_some_and(|latest| latest > place) {
            self.outcome.reordered += 1;
            self.note(Kind::Reordered, None, Some(target_offset), String::new());
        } else {
            self.latest = Some(place);
        }
    }

    fn settle_left_over(&mut self, entry: Entry) {
        if entry.known || self.history.contains(entry.digest) {
            self.outcome.duplicated += 1;
            self.note(Kind::Duplicated, None, Some(entry.offset), String::new());
            return;
        }
        let gap = self.gaps.entry(self.target.anchor).or_default();
        gap.target += 1;
        if gap.target_first.len() < DIFFERENCES_MAX {
            gap.target_first.push_back((entry.offset, entry.kept));
        }
    }

    /// Both sequences are at their end: judges the rest.
    pub fn finish(mut self) -> Outcome {
        self.settle(0);
        for (_, mut gap) in std::mem::take(&mut self.gaps) {
            let different = gap.source.min(gap.target);
            self.outcome.different += different;
            self.outcome.lost += gap.source - different;
            self.outcome.extra += gap.target - different;
            self.note_gap(&mut gap, different);
        }
        let (copies, foreign) = self.announced.finish();
        self.outcome.announced = copies;
        for (count, offset) in foreign {
            self.outcome.extra += count;
            self.note(Kind::Extra, None, Some(offset), String::new());
        }
        self.outcome
    }

    fn note_gap(&mut self, gap: &mut Gap, different: u64) {
        for _ in 0..different {
            let (Some(up), Some(down)) = (gap.source_first.pop_front(), gap.target_first.pop_front()) else {
                break;
            };
            let what = match (&up.1, &down.1) {
                (Some(was), Some(is)) => was.view().difference(&is.view()).unwrap_or_default(),
                _ => String::new(),
            };
            self.note(Kind::Different, Some(up.0), Some(down.0), what);
        }
        // With more than the described number of changed records the rest of the examples says nothing new.
        if gap.source > different {
            for (offset, _) in std::mem::take(&mut gap.source_first) {
                self.note(Kind::Lost, Some(offset), None, String::new());
            }
        }
        if gap.target > different {
            for (offset, _) in std::mem::take(&mut gap.target_first) {
                self.note(Kind::Extra, None, Some(offset), String::new());
            }
        }
    }

    fn note(&mut self, kind: Kind, source_offset: Option<i64>, target_offset: Option<i64>, what: String) {
        if self.outcome.differences.len() < DIFFERENCES_MAX {
            self.outcome.differences.push(Difference { kind, source_offset, target_offset, what });
        }
    }
}
