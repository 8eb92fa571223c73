//! What the target's leader retains of our producer, where retention took the headers that would tell n.

use crate::resync::{Remembered, Resync, Step};
use crate::{SEQUENCES, count_at, sequence_of};

impl Resync {
    /// Answers [`Step::Producer`]: epoch and last sequence that the target's leader remembers of our producer id;
    /// `None` if it remembers nothing or can't tell.
    pub fn producer(&mut self, remembered: Option<(i16, i32)>) {
        // What it remembers is of now, and the ends are of before: they have to be the same still.
        self.remembered = Some(Remembered(remembered));
        self.step = Step::TargetEnds;
    }

    /// The log did not grow meanwhile.
    pub(in crate::resync) fn judge_remembered(&mut self, remembered: Option<(i16, i32)>) {
        let (log_start, log_end) = self.ends;
        let appended = log_end - self.base.target;
        if log_start <= self.base.target && self.may_be_cut() {
            match remembered {
                Some((epoch, last))
                    if epoch == self.generation.epoch
                        && last >= 0
                        && last != sequence_of(self.base.count - 1) =>
                {
                    self.cut_behind(last);
                }
                _ => self.settle(self.base.count),
            }
            return;
        }
        match remembered {
            Some((epoch, _)) if epoch > self.generation.epoch => self.fenced(),
            Some((epoch, _)) if epoch < self.generation.epoch => {
                // The last one there is an older owner's late append, and how many are is not known: of this generation
                // there may be none.
                self.scan.foreign = true;
                self.unsure = Some((self.base.target, log_end));
                self.settle(self.base.count);
            }
            Some((epoch, last)) if epoch == self.generation.epoch && last >= 0 => {
                let count = count_at(self.base.count, i64::from(last)) + 1;
                if count - self.base.count > SEQUENCES / 2 && last != sequence_of(self.base.count - 1) {
                    // It goes back: the target took some again, since it had forgotten us, and n is not known any more.
                    self.unsure = Some((self.base.target, log_end));
                    self.settle(self.base.count);
                } else if count - self.base.count <= appended {
                    // What else was there may have been markers.
                    self.scan.foreign |= count - self.base.count < appended && !self.holds_markers();
                    if self.scan.foreign && self.premise.sole_writer {
                        // Nobody but owners of ours can have brought the rest. The last one may be a repeat that the target
                        // took while it had forgotten us: n may be higher.
                        self.unsure = Some((self.base.target, log_end));
                    }
                    self.settle(count);
                } else if last == sequence_of(self.base.count - 1) {
                    // Its last one is the position's last one: what came behind is no record of ours.
                    self.scan.foreign = !self.holds_markers();
                    self.settle(self.base.count);
                } else if self.offsets_count() {
                    self.missing_behind_base();
                } else {
                    self.unknown(log_start);
                }
            }
            // As the only writer, offsets count our records, where the target never forgets us by their timestamps: otherwise
            // a batch may be missing in between. Not where it was seen that somebody else's stand there too, nor before the
            // first append of a generation is known: until then owners of an older one may have brought them.
            _ if self.offsets_count()
                && self.premise.facts.target_append_time
                && !self.scan.foreign
                && (self.base.count > 0 || self.is_first())
                && self.premise.others_before <= self.base.target =>
            {
                self.assumed = true;
                self.settle(self.base.count + appended);
            }
            // By them a record that was never mirrored would be passed over: what was there is mirrored again.
            _ if self.premise.sole_writer && !self.holds_markers() && !self.scan.foreign => {
                self.unsure = Some((self.base.target, log_end));
                self.settle(self.base.count);
            }
            _ => self.unknown(log_start),
        }
    }
}
