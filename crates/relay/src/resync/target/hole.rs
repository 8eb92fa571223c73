//! Records that the target refused, while it accepted later ones of the same pipeline.
//!
//! The target has no state of a producer after it expired, and then accepts any sequence. The records from the missing one on
//! are mirrored again.

use crate::resync::Resync;

impl Resync {
    /// Whether a record of this generation was never appended before its batch at this target offset, which begins with
    /// record n. Retention takes only what was first in the log. Compaction takes records from anywhere, but not their
    /// offsets.
    pub(super) fn misses_before(&self, n: i64, offset: i64) -> bool {
        if self.ends.0 > self.base.target && self.scan.ours.is_empty() {
            // What retention took before the first batch is judged once all batches were read.
            return false;
        }
        let taken = offset - self.scan.end.max(self.base.target) - self.scan.between;
        n > self.count && (!self.premise.facts.target_compacted || taken < n - self.count)
    }

    /// The target accepted the batch at this offset while it had no state of the producer, although it had refused one before
    /// it. What is missing, and everything behind it, is mirrored again.
    pub(super) fn found_hole(&mut self, offset: i64) {
        if self.ends_again() || self.base_is_doubtful() {
            return;
        }
        let (log_start, log_end) = self.ends;
        if log_start > self.base.target && self.others_gone() {
            return;
        }
        // On a compacted target the missing record may be one that stood before those that the cleaner took.
        let from =
            if self.premise.facts.target_compacted { self.scan.end.max(self.base.target) } else { offset };
        self.hole = Some((from, log_end));
        // What an older generation brought before it is not counted.
        self.scan.out_of_place();
        self.settle(self.count);
    }

    /// Some record behind the base was never appended, and nothing tells which: all of them are mirrored again.
    pub(super) fn missing_behind_base(&mut self) {
        let (target, log_end) = (self.base.target, self.ends.1);
        self.forget_target();
        self.hole = Some((target, log_end));
        self.settle(self.base.count);
    }

    /// What stands behind a missing record is out of order, and leads to no place.
    pub(super) fn content_end(&self) -> i64 {
        self.hole.map_or(self.ends.1, |(from, _)| from)
    }
}
