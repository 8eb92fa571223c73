//! Whether the target still has what a position tells of: a log that lost its end may have got as many records again since.

use mirrormesh_core::format::batch::{BatchHeader, RawBatch};
use mirrormesh_core::stop::StopReason;

use super::{Purpose, Resync, Step, is_ours};
use crate::{SEQUENCES, sequence_of};

impl Resync {
    /// What stands before the position has to be looked at: the log ends there, or is known to have lost its end, and may
    /// have got as many records again since.
    pub(super) fn wants_anchor(&self) -> bool {
        let counted = self.position.as_ref().is_some_and(|position| position.count > 0);
        let doubtful = self.ends.1 == self.base.target || self.truncated.is_some() && counted;
        doubtful && self.anchored != Some(self.base.target)
    }

    /// A record is missing behind the base. The target may also have lost its end before the base, and taken later records
    /// since, so the batch before the base is read once. True if it is to be read now.
    pub(super) fn base_is_doubtful(&mut self) -> bool {
        let at = self.base.target;
        if self.anchored == Some(at) || self.ends.0 >= at {
            return false;
        }
        self.forget_target();
        self.read_target(Purpose::Anchor, at - 1);
        true
    }

    pub(super) fn anchor_read(&mut self, batches: &[RawBatch]) {
        let at = self.base.target;
        self.anchored = Some(at);
        let batch = batches.iter().find(|b| b.header.base_offset < at && b.header.next_offset() >= at);
        match batch.map(|batch| batch.header) {
            // A cleaner took it.
            None => self.find_count(),
            Some(header) if is_ours(self.generation, &header) && !header.is_control() => {
                if self.continues(&header) {
                    self.last.batch = batch.cloned();
                    self.find_count();
                } else {
                    self.distrust();
                }
            }
            // Once it is known to have lost something, what is to be believed has to stand there.
            _ if self.truncated.is_some() && self.base.count > 0 => self.distrust(),
            Some(header) if !self.premise.sole_writer && !self.may_be_ours(header.producer_id) => {
                self.scan.foreign = header.count > 0;
                if self.may_be_cut() {
                    self.step = Step::Producer;
                } else {
                    self.find_count();
                }
            }
            _ => self.find_count(),
        }
    }

    /// A batch of ours that begins before the base has the sequences that the base tells of.
    pub(super) fn continues(&self, header: &BatchHeader) -> bool {
        let before = self.base.target - header.base_offset;
        (i64::from(header.base_sequence) + before).rem_euclid(SEQUENCES)
            == i64::from(sequence_of(self.base.count))
    }

    /// Where the position says that ours end, other ones of ours stand: the target lost its end, and has got more since.
    /// The next older position that is not contradicted tells where to count from.
    pub(super) fn distrust(&mut self) {
        let told = self.base.target;
        // A position of count 0 is the start itself.
        if self.base.count == 0 {
            return self.cut_below_start();
        }
        self.known.retain(|position| position.target_offset < told);
        if self.take_position(self.ends.1) {
            self.cut(self.base.target, told);
            self.forget_target();
            self.find_count();
        }
    }

    /// The target lost records from before the generation began: no position of this generation tells of those.
    pub(super) fn cut_below_start(&mut self) {
        let message = format!(
            "the target partition lost records before {}, where the mirror began, and holds later ones in their place: records \
             are lost on the target; delete the flow and create it with start_over",
            self.base.target
        );
        self.stop(StopReason::TargetTruncated, message);
    }

    /// Only others' batches stand behind the position: the target may have lost ours before it, and theirs made the log as
    /// long as it was.
    pub(super) fn may_be_cut(&self) -> bool {
        let others = self.scan.foreign && !self.scan.has_older() && self.scan.doubled.is_none();
        others && self.position.as_ref().is_some_and(|position| position.count > 0)
    }

    /// The target remembers an earlier batch of this generation as its last one: what the position tells of is not in its
    /// history any more. The next older position that is tells where to count from.
    pub(super) fn cut_behind(&mut self, last: i32) {
        let told = self.base;
        let missing = (told.count - 1 - i64::from(last)).rem_euclid(SEQUENCES);
        let count = told.count - missing;
        if count < 0 {
            // It is a later one. Behind the position only a cleaner can have taken its batch; before it none can be.
            if self.premise.facts.target_compacted {
                self.settle(told.count);
            } else {
                self.distrust();
            }
            return;
        }
        self.known.retain(|position| position.count <= count);
        if !self.take_position(self.ends.1) {
            return;
        }
        let kept = self.base.target + (count - self.base.count).max(0);
        self.cut(kept.min(told.target), told.target);
        self.forget_target();
        self.find_count();
    }
}
