//! Run-length map from source to target offsets.
//!
//! Invariants: segments are in order, don't overlap on either side and are never empty; the end lies behind the last
//! segment on both sides. Properties (operators E2): I5 a translation never lies behind the first target record whose
//! source offset is at or behind the one asked for, where records stand twice: behind the last copy of any such record, so
//! that a consumer which goes on there skips nothing; I6 it is exactly there when that record is mirrored; I7 it never
//! goes back when the offset asked for does not. Behind a coarse place I6 is given up: what is not known closer is
//! translated to the place, which is earlier.

use std::collections::BTreeMap;

/// A run in which the difference between source and target offset stays the same; or, without records, a coarse place:
/// what lies between it and the next run stands behind it, and is not known closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First source offset.
    pub source: i64,
    /// Target offset of that record.
    pub target: i64,
    /// Records in the run; 0 for a coarse place.
    pub count: i64,
}

impl Segment {
    /// Source offset behind its last record.
    pub fn source_end(&self) -> i64 {
        self.source.saturating_add(self.count)
    }

    /// Target offset behind its last record.
    pub fn target_end(&self) -> i64 {
        self.target.saturating_add(self.count)
    }
}

impl Segment {
    /// What is left of it behind its first records.
    fn behind(self, records: i64) -> Self {
        let Self { source, target, count } = self;
        Self {
            source: source.saturating_add(records),
            target: target.saturating_add(records),
            count: count.saturating_sub(records),
        }
    }
}

/// How a run stands to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// It continues it and was joined to it.
    Joined,
    /// It stands behind it, with a hole on either side.
    Apart,
    /// It stands behind it on the target, but not on the source: the source lost records and uses their offsets again, or
    /// they were mirrored a second time. It replaces what is known from its source offset on.
    Back,
    /// It is empty or lies within the other: it is known already, or foreign nonsense.
    Known,
}

impl Segment {
    /// Joins a run that continues this one, or reaches further than it; says how it stands to this one otherwise.
    pub fn join(&mut self, next: Self) -> Join {
        let (source_end, target_end) = (self.source_end(), self.target_end());
        if next.count <= 0 {
            return Join::Known;
        }
        let alike =
            self.count > 0 && next.target.checked_sub(next.source) == self.target.checked_sub(self.source);
        if alike && (self.source..=source_end).contains(&next.source) {
            let further = next.source_end() - source_end;
            if further <= 0 {
                return Join::Known;
            }
            self.count = self.count.saturating_add(further);
            return Join::Joined;
        }
        match (next.source >= source_end, next.target >= target_end) {
            (true, true) => Join::Apart,
            (false, true) => Join::Back,
            (_, false) => Join::Known,
        }
    }
}

/// Runs in the order of the target, none of which overlap there: of two the later owner's counts, and of one owner's the
/// later one. A coarse place of which a later owner knows the beginning is moved behind that, with no source offset.
fn apart(runs: impl IntoIterator<Item = (u64, Segment)>) -> Vec<(u64, Segment)> {
    let mut runs: Vec<_> = runs.into_iter().filter(|(_, run)| run.count >= 0).enumerate().collect();
    runs.sort_by_key(|(index, (owner, _))| std::cmp::Reverse((*owner, *index)));
    // Target offsets of which something is said: first one, and the one behind the last.
    let mut said: BTreeMap<i64, i64> = BTreeMap::new();
    let mut left = Vec::with_capacity(runs.len());
    for (_, (owner, run)) in runs {
        let end = run.target_end();
        if run.count == 0 {
            // Where a later owner knows better, coarse is what follows.
            let covers = said.range(..=run.target).next_back().map_or(i64::MIN, |(_, to)| *to);
            let rest = Segment { source: i64::MIN, target: covers, count: 0 };
            left.push((owner, if covers > run.target { rest } else { run }));
            continue;
        }
        let (mut from, mut begin, mut stop) = (run.target, run.target, end);
        let before = said.range(..=from).next_back().filter(|(_, to)| **to >= from).map(|(at, _)| *at);
        let around: Vec<_> = said.range(before.unwrap_or(from)..=end).map(|(at, to)| (*at, *to)).collect();
        for (at, to) in around {
            said.remove(&at);
            (begin, stop) = (begin.min(at), stop.max(to));
            if at > from {
                let rest = run.behind(from - run.target);
                left.push((owner, Segment { count: at - from, ..rest }));
            }
            from = from.max(to);
        }
        if from < end {
            left.push((owner, run.behind(from - run.target)));
        }
        said.insert(begin, stop);
    }
    left.sort_by_key(|(_, run)| (run.target, run.count));
    left
}

/// Where a source offset is on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// Behind what is mirrored: ask again later.
    NotYet,
    /// Before the first record that the flow knows of; the earliest known place is given.
    TooOld(i64),
    /// There.
    At(i64),
}

/// The map of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OffsetMap {
    segments: Vec<Segment>,
    /// Next source and target offset: everything before is mirrored or was never to be.
    end: Option<(i64, i64)>,
}

impl OffsetMap {
    /// From what any number of owners wrote, each one's runs in the order in which it wrote them, and the end of a position.
    /// A later owner has the higher number; what it says of a target offset counts, since an earlier one may not know that
    /// the target lost its end.
    ///
    /// A stream that goes back on the source goes on from there, so that its run replaces what is known from there on. An
    /// owner that was replaced does not: what it brought once more is left out where it stands behind a later owner's
    /// records, since those go on as if it were not there.
    pub fn new(runs: impl IntoIterator<Item = (u64, Segment)>, end: Option<(i64, i64)>) -> Self {
        let mut map = Self::default();
        let mut latest = 0;
        for (owner, run) in apart(runs) {
            let replaced = owner < latest;
            latest = latest.max(owner);
            if run.count == 0 {
                map.place_coarse(run, replaced);
            } else {
                map.extend(if replaced { map.unknown_of(run) } else { run });
            }
        }
        if let Some((source, target)) = end {
            map.advance(source, target);
        }
        map
    }

    /// What of a run lies behind everything known on the source; it may be empty.
    fn unknown_of(&self, run: Segment) -> Segment {
        let known = match self.segments.last() {
            Some(coarse) if coarse.count == 0 => i64::MAX,
            last => last.map_or(i64::MIN, Segment::source_end),
        };
        let skip = known.saturating_sub(run.source).clamp(0, run.count.max(0));
        run.behind(skip)
    }

    /// Adds a coarse place; `replaced`: of an owner that a later one has records before.
    fn place_coarse(&mut self, mut place: Segment, replaced: bool) {
        let known = self.segments.last().map_or(i64::MIN, Segment::source_end);
        if place.source < known {
            if replaced || place.source == i64::MIN {
                place.source = known;
            } else {
                self.cut(place.source);
                self.end = None;
            }
        }
        self.segments.push(place);
        self.advance(place.source, place.target);
    }

    /// Adds mirrored records; runs that continue are joined. Returns whether a new segment began.
    pub fn extend(&mut self, segment: Segment) -> bool {
        if segment.count <= 0 {
            return false;
        }
        let (source_end, target_end) = (segment.source_end(), segment.target_end());
        match self.segments.last_mut().map(|last| last.join(segment)) {
            Some(Join::Known) => return false,
            Some(Join::Joined) => {
                self.advance(source_end, target_end);
                return false;
            }
            Some(Join::Back) => {
                self.cut(segment.source);
                self.end = None;
            }
            Some(Join::Apart) | None => {}
        }
        self.segments.push(segment);
        self.advance(source_end, target_end);
        true
    }

    /// Forgets everything from this source offset on.
    fn cut(&mut self, source: i64) {
        while let Some(last) = self.segments.last_mut().filter(|last| last.source_end() > source) {
            last.count = source - last.source;
            if last.count <= 0 {
                self.segments.pop();
            }
        }
    }

    /// Says that everything before `source` is mirrored or was not to be, with the target's next offset.
    pub fn advance(&mut self, source: i64, target: i64) {
        let (known_source, known_target) = self.end.unwrap_or((i64::MIN, i64::MIN));
        self.end = Some((known_source.max(source), known_target.max(target)));
    }

    /// Translates. An offset between two runs (a transaction marker, an aborted record) belongs to the next mirrored
    /// record.
    pub fn translate(&self, source: i64) -> Translation {
        let after = self.segments.partition_point(|segment| segment.source <= source);
        let within = after.checked_sub(1).and_then(|index| self.segments.get(index));
        if let Some(segment) = within
            && source < segment.source_end()
        {
            return Translation::At(segment.target + (source - segment.source));
        }
        if let Some(next) = self.segments.get(after) {
            return match within {
                None => Translation::TooOld(next.target),
                Some(coarse) if coarse.count == 0 => Translation::At(coarse.target),
                Some(_) => Translation::At(next.target),
            };
        }
        match self.end {
            Some((end_source, end_target)) if source <= end_source => Translation::At(end_target),
            _ => Translation::NotYet,
        }
    }

    /// The runs.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Next source and target offset.
    pub fn end(&self) -> Option<(i64, i64)> {
        self.end
    }
}

#[cfg(test)]
#[path = "offset_map_tests.rs"]
mod tests;
