//! At least once: a generation without a producer id, where the target gives out none and the flow goes on all the same.
//!
//! Generations are numbered through the Raft log as ever, so that positions are told apart, but the target refuses nobody.
//! What is left: one batch is in flight, and none without a lease, so an owner that was replaced sends nothing new. What
//! it, or a connection that was given up, had sent arrives within [`Limits::strays_ms`](crate::relay::window::Limits) or
//! never: so long nothing is sent after a start or a lost answer, and then the place is found anew. It is found by content
//! (`resync/unnumbered.rs`); where the target holds more than was written down, a generation begins there. An owner that
//! finds a place with no strays on their way asks the target for a producer id once: with one, the flow is exactly once
//! from the next generation on.

use super::change::of_target;
use super::inherited::Inherited;
use super::stream::Stream;
use super::{Phase, Relay};
use crate::unit::Generation;

/// The target gives out no producer ids.
pub const TARGET_NOT_IDEMPOTENT: &str = "TARGET_NOT_IDEMPOTENT";

/// What is said of target offsets that may hold records twice, without a producer id.
pub(super) const UNNUMBERED: &str = "may hold records twice, or come to: the target gives out no producer ids, so it can't \
                                     tell which records it has already (records.at_least_once), and these could not be \
                                     matched with the source one by one";
const BETWEEN: &str = "were appended by somebody else: by an owner of this flow that was replaced, and then records stand \
                       there twice, since the target gives out no producer ids (records.at_least_once), or by another \
                       producer; let nobody else write there, or set shared_target on the flow";

impl<T: Clone> Relay<T> {
    pub(super) fn is_numbered(&self) -> bool {
        self.setup.detail.begun.generation.is_numbered()
    }

    /// Is the target to be asked for a producer id, at a place that was found? Without the option until there is one.
    pub(super) fn asks_id(&self, now_ms: u64) -> bool {
        let asked = self.id_refused && self.setup.rules.at_least_once;
        !self.is_numbered() && !asked && !self.strays_may_come(now_ms)
    }

    /// Does a generation begin at the place that was found? Where nobody is fenced by it, no append hands over.
    pub(super) fn renews(&self) -> bool {
        let begun = self.setup.detail.begun;
        !self.is_numbered() && (self.setup.rules.differ_from(begun.start) || begun.generation.is_last())
    }

    /// The target gave no producer id; does the flow go on without one?
    pub(super) fn goes_on_without(&self, reason: &str) -> bool {
        reason == TARGET_NOT_IDEMPOTENT && !self.is_numbered() && self.setup.rules.at_least_once
    }

    /// Without a producer id nothing is sent from a place that a stray may move, nor without the option.
    pub(super) fn mind_strays(&self, stream: &mut Stream<T>, now_ms: u64) {
        if !self.is_numbered() {
            stream.window.set_unnumbered();
            stream.in_doubt = self.strays_may_come(now_ms) || !self.setup.rules.at_least_once;
            // A generation fences nobody: who had the partition before is waited for.
            stream.inherited = Inherited::FROM_NOBODY;
        }
    }

    /// Says which target offsets others appended before the last append, where nobody else should.
    pub(super) fn tell_of_between(&mut self) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        let between = stream.window.take_between().filter(|_| self.setup.rules.sole_writer);
        if let Some((from, to)) = between {
            let message = format!("the target's offsets {from} to {to} {BETWEEN}");
            self.notice(of_target("RECORDS_DOUBLED", message, (from, to)));
        }
    }
}

impl Generation {
    /// What to offer in the place of a producer id when the epochs have run out.
    pub(super) fn next_number(self) -> Option<i64> {
        (!self.is_numbered() && self.is_last()).then(|| self.producer_id.saturating_sub(1))
    }
}
