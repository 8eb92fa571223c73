//! Run-length map from source to target offsets.
//!
//! Invariants: segments are in order, don't overlap on either side and are never empty; the end lies behind the last
//! segment on both sides. Properties (operators E2): I5 a translation never lies behind the first target record whose
//! source offset is at or behind the one asked for; I6 it is exactly there when that record is mirrored; I7 it never
//! goes back when the offset asked for does not.

/// A run in which the difference between source and target offset stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First source offset.
    pub source: i64,
    /// Target offset of that record.
    pub target: i64,
    /// Records in the run.
    pub count: i64,
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
        let (source_end, target_end) =
            (self.source.saturating_add(self.count), self.target.saturating_add(self.count));
        if next.count <= 0 {
            return Join::Known;
        }
        let alike = next.target.checked_sub(next.source) == self.target.checked_sub(self.source);
        if alike && (self.source..=source_end).contains(&next.source) {
            let further = next.source.saturating_add(next.count) - source_end;
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
    /// From stored segments of any number of owners and the end of a position. Segments that break the order are left
    /// out: what a record in a topic says is foreign data.
    pub fn new(segments: impl IntoIterator<Item = Segment>, end: Option<(i64, i64)>) -> Self {
        let mut segments: Vec<_> = segments.into_iter().collect();
        segments.sort_by_key(|segment| (segment.target, segment.source));
        let mut map = Self::default();
        for segment in segments {
            map.extend(segment);
        }
        if let Some((source, target)) = end {
            map.advance(source, target);
        }
        map
    }

    /// Adds mirrored records; runs that continue are joined. Returns whether a new segment began.
    pub fn extend(&mut self, segment: Segment) -> bool {
        if segment.count <= 0 {
            return false;
        }
        let source_end = segment.source.saturating_add(segment.count);
        let target_end = segment.target.saturating_add(segment.count);
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
        while let Some(last) = self.segments.last_mut().filter(|last| last.source + last.count > source) {
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
            && source < segment.source + segment.count
        {
            return Translation::At(segment.target + (source - segment.source));
        }
        if let Some(next) = self.segments.get(after) {
            let first = after == 0 && source < next.source;
            return if first { Translation::TooOld(next.target) } else { Translation::At(next.target) };
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seg(source: i64, target: i64, count: i64) -> Segment {
        Segment { source, target, count }
    }

    #[test]
    fn translates_within_between_before_and_behind() {
        // 10..19 → 0..9, marker at 20, 21..25 → 10..14, markers at 26 and 27.
        let map = OffsetMap::new([seg(10, 0, 10), seg(21, 10, 5)], Some((28, 15)));
        assert_eq!(map.translate(9), Translation::TooOld(0));
        assert_eq!(map.translate(10), Translation::At(0));
        assert_eq!(map.translate(19), Translation::At(9));
        assert_eq!(map.translate(20), Translation::At(10));
        assert_eq!(map.translate(21), Translation::At(10));
        assert_eq!(map.translate(26), Translation::At(15));
        assert_eq!(map.translate(28), Translation::At(15));
        assert_eq!(map.translate(29), Translation::NotYet);
        assert_eq!(OffsetMap::default().translate(0), Translation::NotYet);
        assert_eq!(OffsetMap::new([], Some((5, 7))).translate(5), Translation::At(7));
    }

    #[test]
    fn runs_are_joined_and_disorder_is_left_out() {
        let mut map = OffsetMap::default();
        assert!(map.extend(seg(0, 0, 5)));
        assert!(!map.extend(seg(5, 5, 5)));
        assert!(!map.extend(seg(3, 3, 5)), "known already");
        assert!(!map.extend(seg(8, 8, 3)), "reaches further");
        assert!(!map.extend(seg(3, 4, 5)), "nonsense");
        assert!(!map.extend(seg(20, 20, 0)), "empty");
        assert_eq!(map.segments(), &[seg(0, 0, 11)]);
    }

    #[test]
    fn owners_overlap_and_histories_go_back() {
        let map = OffsetMap::new([seg(80, 80, 40), seg(0, 0, 100)], None);
        assert_eq!(map.segments(), &[seg(0, 0, 120)], "a replay reaches further than what was known");
        // The source lost offsets from 60 on; 60 to 69 are others now.
        let map = OffsetMap::new([seg(0, 0, 60), seg(62, 60, 8), seg(60, 68, 10)], None);
        assert_eq!(map.segments(), &[seg(0, 0, 60), seg(60, 68, 10)]);
        assert_eq!(map.translate(64), Translation::At(72));
        assert_eq!(map.translate(71), Translation::NotYet);
    }

    proptest! {
        /// I5, I6, I7 against a model that lists every record.
        #[test]
        fn translation_is_exact_and_monotone(runs in prop::collection::vec((0_i64..4, 1_i64..6), 1..12)) {
            let (mut source, mut target) = (3, 11);
            let mut map = OffsetMap::new([], Some((source, target)));
            let mut records = Vec::new();
            for (hole, count) in runs {
                source += hole;
                map.extend(seg(source, target, count));
                for i in 0..count { records.push((source + i, target + i)); }
                source += count;
                target += count;
            }
            let mut previous = i64::MIN;
            for asked in records[0].0..=source {
                let exact = records.iter().find(|(s, _)| *s >= asked).map_or(target, |(_, t)| *t);
                prop_assert_eq!(map.translate(asked), Translation::At(exact));
                prop_assert!(exact >= previous);
                previous = exact;
            }
            prop_assert_eq!(map.translate(source + 1), Translation::NotYet);
        }
    }
}
