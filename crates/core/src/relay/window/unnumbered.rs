//! Without a producer id: the target takes whatever comes and remembers nobody, so an answer is all that tells.
//!
//! One batch is in flight, always: nothing is sent behind an append whose outcome is not known. An answer tells that the
//! batch stands where it says, this time; what stands before it since the last one is not this owner's.

use super::{Outcome, Pending, Place, UNEXPECTED, Window};

impl Window {
    /// The generation has no producer id.
    pub fn set_unnumbered(&mut self) {
        self.unnumbered = true;
    }

    /// The generation has no producer id.
    pub fn is_unnumbered(&self) -> bool {
        self.unnumbered
    }

    /// Target offsets of what stands before the last append and is not this owner's.
    pub fn take_between(&mut self) -> Option<(i64, i64)> {
        self.between.take()
    }

    pub(super) fn unnumbered_answered(&mut self, pending: Pending, base_offset: i64, now_ms: u64) -> Outcome {
        let expected = pending.after.target - pending.records();
        if base_offset < expected {
            // The target lost what was acknowledged before.
            return self.fail(UNEXPECTED);
        }
        self.between = (base_offset > expected).then_some((expected, base_offset));
        self.acked = Place { target: base_offset + pending.records(), ..pending.after };
        self.sent.target = self.acked.target;
        self.last_ack_ms = Some(now_ms);
        self.last_max_timestamp = Some(pending.sending.last.max_timestamp);
        Outcome::Mirrored(pending.mirrored(base_offset))
    }
}
