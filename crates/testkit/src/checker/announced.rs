//! Target records whose offsets a mirror announced: copies that may stand there twice or out of order. Pure.
//!
//! Owns the judgement over these records; must not know the order of any others. Without them, the rest of the target
//! must be in order and hold nothing twice. They count for a source record that the rest does not have, so an
//! announcement never hides a loss.

use std::collections::HashMap;
use std::ops::Range;

/// The announced ranges of one partition and what stands in them.
#[derive(Debug, Default)]
pub(super) struct Announced {
    ranges: Vec<Range<i64>>,
    /// How many records of each digest stand there and are no source record's only copy.
    spare: HashMap<u64, u64>,
    /// Those of them that no source record has equalled yet: their number, and the offset of the first.
    unknown: HashMap<u64, (u64, i64)>,
}

impl Announced {
    pub(super) fn new(ranges: Vec<Range<i64>>) -> Self {
        Self { ranges, ..Self::default() }
    }

    /// Whether a target offset was announced.
    pub(super) fn holds(&self, offset: i64) -> bool {
        self.ranges.iter().any(|range| range.contains(&offset))
    }

    /// Takes a record at an announced offset; `known`: a source record equals it.
    pub(super) fn push(&mut self, digest: u64, offset: i64, known: bool) {
        *self.spare.entry(digest).or_default() += 1;
        if !known {
            self.unknown.entry(digest).or_insert((0, offset)).0 += 1;
        }
    }

    /// A source record with this digest was read.
    pub(super) fn seen(&mut self, digest: u64) {
        if !self.unknown.is_empty() {
            self.unknown.remove(&digest);
        }
    }

    /// Whether a source record that has no other counterpart stands at an announced offset.
    pub(super) fn take(&mut self, digest: u64) -> bool {
        let Some(count) = self.spare.get_mut(&digest).filter(|count| **count > 0) else { return false };
        *count -= 1;
        true
    }

    /// At the end: how many records equal a source record and are left over, and the others with their first offset.
    pub(super) fn finish(&self) -> (u64, Vec<(u64, i64)>) {
        let unknown: Vec<(u64, i64)> = self.unknown.values().copied().collect();
        let foreign: u64 = unknown.iter().map(|(count, _)| count).sum();
        (self.spare.values().sum::<u64>() - foreign, unknown)
    }
}
