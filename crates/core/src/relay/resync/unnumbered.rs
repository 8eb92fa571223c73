//! A generation without a producer id: no header on the target tells whose a batch is.
//!
//! Where nobody else writes there, what stands behind the base are appends of this generation that were not written down:
//! the records that the source has from the base on, in the same order, so they are looked for by content. That does not
//! say how many the generation has mirrored, and need not: the next one begins at the place. Where it can't be looked, it
//! is gone on from the base, and what stands behind it is said: nothing is lost, and that may come to be there twice.

use super::Resync;

/// What a batch carries that no idempotent producer wrote.
const NO_PRODUCER: i64 = -1;

impl Resync {
    pub(super) fn is_unnumbered(&self) -> bool {
        !self.generation.is_numbered()
    }

    /// The target goes on behind the base.
    pub(super) fn look_behind(&mut self) {
        let (log_start, log_end) = self.ends;
        self.contents.clear();
        if self.premise.sole_writer && log_start <= self.base.target {
            self.behind = Some(log_end - self.base.target);
        } else {
            self.unsure = Some((self.base.target, log_end));
        }
        self.settle(self.base.count);
    }

    /// A batch under this producer id may be the flow's.
    pub(super) fn may_be_ours(&self, producer_id: i64) -> bool {
        producer_id == self.generation.producer_id
            || self.producers.contains(&producer_id)
            || self.is_unnumbered() && producer_id == NO_PRODUCER
    }

    /// A record was read from the source; as many of them as stand behind the base at most are enough: later ones can't.
    pub(super) fn read_enough(&mut self) -> bool {
        let Some(most) = self.behind else { return false };
        self.read += 1;
        self.read >= most
    }
}
