//! Finding a place by content, where counting can't be trusted: on a compacted source records go from under the relay,
//! on a compacted target mirrored ones do.
//!
//! Both sides are what is left of one row of records, in the same order. The place is behind the last source record that
//! the target has, and before the first one that it lacks although it has a later one: an old owner's late append may have
//! left that out. A record missing on the source is no mismatch.

use std::collections::BTreeMap;

use mirrormesh_core::translate::Segment;

use super::rebuild::RecordId;

/// Records of the target that are looked for at most: the newest ones.
pub const RECORDS_MAX: usize = 100_000;

/// What a record is known by; timestamps are left out where the target sets its own.
type Content = (i64, u64);

/// Compares.
#[derive(Debug)]
pub struct Aligner {
    use_timestamps: bool,
    /// Nothing is left out before the first of `target`.
    whole: bool,
    /// The target's records, oldest first.
    target: Vec<(Content, i64)>,
    /// Where each content stands in `target`, ascending.
    places: BTreeMap<Content, Vec<usize>>,
    /// The first one of `target` that was not found yet.
    next: usize,
    /// Source offset behind the last record found.
    found: Option<i64>,
    segments: Vec<Segment>,
    /// The first source record that was not found.
    missing: Option<i64>,
    hole: Option<Hole>,
    /// Target offsets, from and to, of what lies between records that were found and was not.
    skipped: Option<(i64, i64)>,
}

/// A record that the target lacks although it has a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// Source offset of the record.
    pub source: i64,
    /// Target offset behind the last record before it that was found; `None` if there is none.
    pub target: Option<i64>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Aligned {
    /// Source offset to go on from; `None` if nothing was found.
    pub place: Option<i64>,
    /// Where the records before it are.
    pub segments: Vec<Segment>,
    /// What stands on the target from here on is to be mirrored again.
    pub hole: Option<Hole>,
    /// Target offsets, from and to, among which some are of records that were not found, though later ones were.
    pub skipped: Option<(i64, i64)>,
}

impl Aligner {
    /// Looks for the records of the target, oldest first. `whole`: the source is read from where they begin.
    pub fn new(target: &[RecordId], use_timestamps: bool, whole: bool) -> Self {
        let skip = target.len().saturating_sub(RECORDS_MAX);
        let content = |r: &RecordId| (if use_timestamps { r.timestamp } else { 0 }, r.content);
        let target: Vec<_> = target.iter().skip(skip).map(|r| (content(r), r.offset)).collect();
        let mut places: BTreeMap<Content, Vec<usize>> = BTreeMap::new();
        for (index, (content, _)) in target.iter().enumerate() {
            places.entry(*content).or_default().push(index);
        }
        let whole = whole && skip == 0;
        Self {
            use_timestamps,
            whole,
            target,
            places,
            next: 0,
            found: None,
            segments: Vec::new(),
            missing: None,
            hole: None,
            skipped: None,
        }
    }

    /// Takes the next record of the source that the relay would mirror; says whether the target has it.
    pub fn source(&mut self, record: &RecordId) -> bool {
        let content = (if self.use_timestamps { record.timestamp } else { 0 }, record.content);
        let index = self.places.get(&content).and_then(|places| {
            let at = places.partition_point(|place| *place < self.next);
            places.get(at).copied()
        });
        let Some((index, (_, offset))) = index.and_then(|index| Some((index, *self.target.get(index)?)))
        else {
            if self.whole || self.next > 0 {
                self.missing.get_or_insert(record.offset);
            }
            return false;
        };
        if let Some((_, from)) = self.target.get(self.next).filter(|_| index > self.next) {
            self.skipped = Some((self.skipped.map_or(*from, |(first, _)| first), offset));
        }
        self.next = index + 1;
        if self.hole.is_none() {
            let target = self.segments.last().map(|segment| segment.target + 1);
            self.hole = self.missing.map(|source| Hole { source, target });
        }
        if self.hole.is_none() {
            self.found = Some(record.offset + 1);
            self.segments.push(Segment { source: record.offset, target: offset, count: 1 });
        }
        true
    }

    /// Target offset of the first record that was not found behind the last one that was.
    pub fn next_wanted(&self) -> Option<i64> {
        self.target.get(self.next).map(|(_, offset)| *offset)
    }

    /// The target's last record was found: nothing behind it can be on the target.
    pub fn is_complete(&self) -> bool {
        self.next == self.target.len()
    }

    /// What was found.
    pub fn into_place(self) -> Aligned {
        let place = self.hole.map(|hole| hole.source).or(self.found);
        Aligned { place, segments: self.segments, hole: self.hole, skipped: self.skipped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(row: &[(i64, u64)]) -> Vec<RecordId> {
        row.iter().map(|&(offset, content)| RecordId { offset, timestamp: 1, content }).collect()
    }

    fn place(target: &[(i64, u64)], source: &[(i64, u64)]) -> Option<i64> {
        let mut aligner = Aligner::new(&ids(target), true, true);
        for record in ids(source) {
            if aligner.is_complete() {
                break;
            }
            aligner.source(&record);
        }
        aligner.into_place().place
    }

    #[test]
    fn records_missing_on_either_side_are_no_mismatch() {
        assert_eq!(place(&[(0, 1), (1, 2), (2, 3)], &[(10, 1), (12, 2), (15, 3), (16, 4)]), Some(16));
        assert_eq!(
            place(&[(0, 1), (1, 2), (2, 3)], &[(12, 2), (16, 4)]),
            Some(13),
            "3 is gone on the source"
        );
        assert_eq!(place(&[(0, 7)], &[(10, 1)]), None);
        assert_eq!(place(&[(0, 1), (1, 1)], &[(10, 1), (11, 1), (12, 1)]), Some(12), "equal records count");
    }

    #[test]
    fn what_the_target_lacks_before_a_later_record_is_mirrored_with_what_follows_it() {
        let mut aligner = Aligner::new(&ids(&[(0, 1), (2, 3), (3, 4)]), true, true);
        for record in ids(&[(10, 1), (12, 2), (15, 3), (16, 4)]) {
            aligner.source(&record);
        }
        assert!(aligner.is_complete());
        let found = aligner.into_place();
        assert_eq!((found.place, found.hole), (Some(12), Some(Hole { source: 12, target: Some(1) })));
        assert_eq!(found.segments, [Segment { source: 10, target: 0, count: 1 }]);
        // Where not all that was mirrored is looked at, only what lies between two that were found is known to be lacking.
        let mut aligner = Aligner::new(&ids(&[(2, 3), (4, 5)]), true, false);
        for record in ids(&[(10, 1), (12, 2), (15, 3), (16, 4), (17, 5)]) {
            aligner.source(&record);
        }
        assert_eq!(aligner.into_place().place, Some(16));
    }

    proptest! {
        /// Whatever each side lost, the place is never behind a record that was not mirrored, and before one that both still
        /// have only if the target lacks one before that.
        #[test]
        fn the_place_is_behind_all_that_was_mirrored(
            mirrored in 1_usize..40, ahead in 0_usize..20,
            lost_source in prop::collection::vec(any::<bool>(), 60), lost_target in prop::collection::vec(any::<bool>(), 60),
        ) {
            let row: Vec<(i64, u64)> = (0..mirrored + ahead).map(|i| (i64::try_from(i).unwrap() * 2, i as u64)).collect();
            let target: Vec<_> = row.iter().take(mirrored).enumerate()
                .filter(|(i, _)| !lost_target[*i] || *i + 1 == mirrored).map(|(_, r)| *r).collect();
            let source: Vec<_> = row.iter().enumerate().filter(|(i, _)| !lost_source[*i]).map(|(_, r)| *r).collect();
            let found = place(&target, &source);
            let both = source.iter().filter(|r| target.contains(r)).map(|r| r.0 + 1).max();
            let lacking = source.iter().find(|r| !target.contains(r)).map(|r| r.0);
            let lacking = lacking.filter(|lacking| both.is_some_and(|both| *lacking < both));
            prop_assert_eq!(found, lacking.or(both));
        }
    }
}
