//! Finding a place by content, where counting can't be trusted: on a compacted source records go from under the relay,
//! on a compacted target mirrored ones do (exactly-once.md 4.5).
//!
//! Both sides are what is left of one row of records, in the same order. The place is behind the last source record that
//! the target has. A record missing on one side is no mismatch.

use std::collections::BTreeMap;

use super::rebuild::RecordId;
use crate::translate::Segment;

/// Records of the target that are looked for at most: the newest ones.
pub const RECORDS_MAX: usize = 100_000;

/// What a record is known by; timestamps are left out where the target sets its own.
type Content = (i64, u64);

/// Compares.
#[derive(Debug)]
pub struct Aligner {
    use_timestamps: bool,
    /// The target's records, oldest first.
    target: Vec<(Content, i64)>,
    /// Where each content stands in `target`, ascending.
    places: BTreeMap<Content, Vec<usize>>,
    /// The first one of `target` that was not found yet.
    next: usize,
    /// Source offset behind the last record found.
    found: Option<i64>,
    segments: Vec<Segment>,
}

impl Aligner {
    /// Looks for the records of the target, oldest first.
    pub fn new(target: &[RecordId], use_timestamps: bool) -> Self {
        let skip = target.len().saturating_sub(RECORDS_MAX);
        let content = |r: &RecordId| (if use_timestamps { r.timestamp } else { 0 }, r.content);
        let target: Vec<_> = target.iter().skip(skip).map(|r| (content(r), r.offset)).collect();
        let mut places: BTreeMap<Content, Vec<usize>> = BTreeMap::new();
        for (index, (content, _)) in target.iter().enumerate() {
            places.entry(*content).or_default().push(index);
        }
        Self { use_timestamps, target, places, next: 0, found: None, segments: Vec::new() }
    }

    /// Takes the next record of the source that the relay would mirror; says whether the target has it.
    pub fn source(&mut self, record: &RecordId) -> bool {
        let content = (if self.use_timestamps { record.timestamp } else { 0 }, record.content);
        let Some(places) = self.places.get(&content) else { return false };
        let at = places.partition_point(|place| *place < self.next);
        let Some(&index) = places.get(at) else { return false };
        self.next = index + 1;
        self.found = Some(record.offset + 1);
        if let Some((_, offset)) = self.target.get(index) {
            self.segments.push(Segment { source: record.offset, target: *offset, count: 1 });
        }
        true
    }

    /// The target's last record was found: nothing behind it can be on the target.
    pub fn is_complete(&self) -> bool {
        self.next == self.target.len()
    }

    /// Source offset behind the last record found, and the pairs that were found.
    pub fn into_place(self) -> (Option<i64>, Vec<Segment>) {
        (self.found, self.segments)
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
        let mut aligner = Aligner::new(&ids(target), true);
        for record in ids(source) {
            if aligner.is_complete() {
                break;
            }
            aligner.source(&record);
        }
        aligner.into_place().0
    }

    #[test]
    fn records_missing_on_either_side_are_no_mismatch() {
        assert_eq!(place(&[(0, 1), (1, 2), (2, 3)], &[(10, 1), (12, 2), (15, 3), (16, 4)]), Some(16));
        assert_eq!(
            place(&[(0, 1), (1, 2), (2, 3)], &[(12, 2), (16, 4)]),
            Some(13),
            "3 is gone on the source"
        );
        assert_eq!(place(&[(0, 1), (2, 3)], &[(10, 1), (12, 2), (15, 3), (16, 4)]), Some(16));
        assert_eq!(place(&[(0, 7)], &[(10, 1)]), None);
        assert_eq!(place(&[(0, 1), (1, 1)], &[(10, 1), (11, 1), (12, 1)]), Some(12), "equal records count");
    }

    proptest! {
        /// Whatever each side lost, the place is never before a record that both still have, and never behind one that
        /// was not mirrored.
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
            prop_assert_eq!(found, both);
            let unmirrored = source.iter().find(|r| r.0 > row[mirrored - 1].0).map(|r| r.0);
            if let (Some(found), Some(unmirrored)) = (found, unmirrored) { prop_assert!(found <= unmirrored); }
        }
    }
}
