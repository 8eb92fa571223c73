//! Markers: what arms the target before an append that it would otherwise take from a producer that it has forgotten.
//!
//! An ABORT marker of our own producer id and epoch ends no transaction, since there is none. It takes one offset, leaves
//! the sequences as they are and sets the producer's time to the present (seen on 3.9 and 4.3: docs/kafka-behaviour.md).
//! Where the producer was forgotten, it is known again without sequences: only sequence 0 is taken then, so that an append
//! that goes on is refused instead of taken unseen.

use super::super::answer::{Answer, judge_marker};
use super::{Outcome, Window};

impl Window {
    /// Must a marker go before the next batch? Only when nothing is on its way: what is in flight becomes the last batch.
    pub fn wants_marker(&self, now_ms: u64) -> bool {
        self.is_empty() && !self.failed && !self.is_armed(now_ms)
    }

    /// Behind a batch with this highest timestamp the target remembers its producer.
    pub fn leaves_armed(&self, max_timestamp: i64, now_ms: u64) -> bool {
        self.facts.target_append_time || self.is_young(max_timestamp, now_ms)
    }

    /// The target's log ends here if nobody else appends and nothing is in flight.
    pub fn expected_target(&self) -> i64 {
        self.sent.target
    }

    /// Takes note of a marker that is sent now; returns its number, which the answer carries.
    pub fn mark(&mut self, now_ms: u64) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.marking = Some((id, now_ms));
        id
    }

    pub(super) fn marker_answered(&mut self, answer: &Answer) -> Outcome {
        let sent_ms = self.marking.take().map(|(_, sent_ms)| sent_ms);
        if self.failed {
            return Outcome::Drained;
        }
        if *answer != Answer::Marked {
            // It may stand there all the same: where the log ends has to be looked at.
            self.failed = true;
            return Outcome::Failed(judge_marker(answer, self.acked.source));
        }
        self.marked_ms = sent_ms;
        // Where it stands the answer does not tell: another owner may have appended before it. The next append's base
        // offset will, so the acknowledged place stays where it is until then.
        self.sent.target += 1;
        Outcome::Marked
    }
}
