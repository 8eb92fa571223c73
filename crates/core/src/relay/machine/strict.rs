//! Strict delivery: nothing is doubled either where the target may forget the flow.
//!
//! A target forgets a producer by the timestamps of its last batch, so behind a batch of old records any request of the
//! flow's is taken, whatever its sequence: a repeat that a dead connection still delivers, or one of an owner that was
//! replaced. A generation that is strict therefore goes in steps wherever the target is not known to remember it:
//!
//! 1. **A marker** of the own producer id and epoch, and its answer. From then on the producer's time is the present: it
//!    can't expire before the append, whatever the append's own timestamps say.
//! 2. **One append**, and its answer. An older epoch gets 47, everything but the next sequence 45. Where the target had
//!    forgotten the sequences before the marker came, the append gets 45 as well, and the generation ends: the next one
//!    begins at sequence 0, fenced by its own first marker.
//! 3. Again from 1, since the append's old timestamp is what counts now.
//!
//! The first marker of a generation fences the ones before. What an owner of theirs appended until then, behind the place that
//! was found, shows in the target's end: it is looked at before the first append.
//!
//! Between 2 and the next 1 the target may forget us, for one round trip. That harms only if a stray request arrives in
//! just that time: one whose sender does not wait for its answer any more. So no append that leaves the target unarmed, and
//! none behind one, is sent while strays may still be on their way ([`Limits::strays_ms`](crate::relay::window::Limits)
//! after an owner began, or after an answer was lost). When that time is over, the place is found anew, since a stray may
//! have arrived meanwhile; then the steps begin. Only in a generation that this owner began, which nobody else appends
//! under, records that are young enough to be remembered don't wait.
//!
//! Strays that come even later are kept out by the markers, but for three: one that comes in just that round trip; one with
//! sequence 0 behind a marker that came when the target had forgotten the sequences, until the next generation's marker; and
//! one of old records that is taken for the append behind it, if the target forgets them before that append comes.
//!
//! A marker takes an offset. Whether one stands where it is expected to, the base offset of the next append tells; one that
//! is not answered is looked for like an append. Offsets don't count records in a strict generation, nor behind one
//! ([`PartitionStart::may_hold_markers`](crate::unit::PartitionStart::may_hold_markers)).

use super::outgoing::{Outgoing, Ready};
use super::stream::{After, Next, Stream, act};
use super::{Action, Ask, Phase, Relay, Step};

/// Whether an older generation appended before the first marker of one that this owner began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fence {
    /// It is not known, and is looked at once the marker stands.
    Unseen,
    /// It was asked where the target ends.
    Asked,
    /// None did, or there is nothing to be fenced.
    Seen,
}

impl<T> Stream<T> {
    /// The target ends there, behind the marker that fences older generations.
    pub(super) fn fence_seen(&mut self, log_end: i64) {
        if self.fence != Fence::Asked {
            return;
        }
        self.fence = Fence::Seen;
        if log_end != self.window.expected_target() {
            self.break_off(After::Locate { reason: "FENCED_LATE", leader_moved: false });
        }
    }

    /// Where the target ends could not be told.
    pub(super) fn fence_unknown(&mut self, reason: &str, message: &str) {
        if self.fence == Fence::Asked {
            self.break_off(After::Wait { reason: reason.to_owned(), message: message.to_owned() });
        }
    }

    /// May a stray request do harm if this batch goes now?
    pub(super) fn must_wait(&self, outgoing: &Outgoing, strays: bool, now_ms: u64) -> bool {
        if !strays {
            // What was held back waits for the place to be found anew.
            return self.held_for_strays;
        }
        // Another owner that is alive still may append old records behind a marker of ours.
        let remembered = self.own_generation || self.window.is_armed(now_ms);
        !remembered || !self.window.leaves_armed(outgoing.batch.header.max_timestamp, now_ms)
    }

    /// Waits; once no stray can come any more, finds the place anew.
    pub(super) fn wait_for_strays(&mut self, strays: bool) -> Option<Next<T>> {
        self.held_for_strays = true;
        if strays {
            return None;
        }
        self.break_off(After::Locate { reason: "STRAYS_WAITED_OUT", leader_moved: false });
        Some(Next::Changed)
    }
}

impl<T: Clone> Relay<T> {
    /// Sends a batch if it may go now, or the marker that has to go before it; else it waits.
    pub(super) fn offer(&mut self, outgoing: Outgoing, now_ms: u64) -> Option<Next<T>> {
        let numbered = self.is_numbered();
        let strict = numbered && self.setup.detail.begun.start.strict;
        let strays = (strict || !numbered) && self.strays_may_come(now_ms);
        let Phase::Streaming(stream) = &mut self.phase else { return Some(Next::Changed) };
        let bytes = u64::try_from(outgoing.batch.bytes.len()).unwrap_or(u64::MAX);
        let next = if !self.leased && !stream.window.leaves_armed(outgoing.batch.header.max_timestamp, now_ms)
        {
            // It would bring the target to forget, under whoever owns the partition by now.
            None
        } else if strict && stream.must_wait(&outgoing, strays, now_ms) || stream.in_doubt {
            stream.wait_for_strays(strays)
        } else if strict && stream.window.wants_marker(now_ms) {
            Some(act(Action::Mark(stream.window.mark(now_ms))))
        } else if stream.fence != Fence::Seen && stream.window.is_empty() {
            let asks = stream.fence == Fence::Unseen && !stream.asks_origins() && !self.cut_asked;
            asks.then(|| {
                stream.fence = Fence::Asked;
                self.cut_asked = true;
                act(Action::Ask(Ask::Locate(Step::TargetEnds)))
            })
        } else if stream.window.may_send(bytes, now_ms) {
            return Some(self.append(outgoing, bytes, now_ms));
        } else {
            None
        };
        stream.queue.put_back(Ready::Send(outgoing));
        next
    }

    /// An owner before this one may have something on its way.
    pub(super) fn await_strays(&mut self, now_ms: u64) {
        if self.strays_until_ms.is_none() {
            self.expect_strays(now_ms);
        }
    }

    /// Something may be on its way that nobody waits for.
    pub(super) fn expect_strays(&mut self, now_ms: u64) {
        self.strays_until_ms = Some(now_ms.saturating_add(self.setup.limits.strays_ms));
    }

    pub(super) fn strays_may_come(&self, now_ms: u64) -> bool {
        self.strays_until_ms.is_none_or(|until| now_ms < until)
    }
}
