//! Answers to appends: what becomes of the place, and what they tell of the target.

use super::stream::{After, UNTOLD};
use super::{Answer, Phase, Relay};
use crate::answer::Verdict;
use crate::journal::Mirrored;
use crate::widen;
use crate::window::{Outcome, UNEXPECTED};

impl Relay {
    /// Brings the answer to an append.
    pub fn answer(&mut self, id: u64, answer: &Answer, now_ms: u64) {
        if *answer == Answer::Lost {
            self.may_arrive_still(now_ms);
        }
        let Phase::Streaming(stream) = &mut self.phase else { return };
        let sent = stream.window.sent_count();
        match stream.window.answer(id, answer, now_ms) {
            Outcome::Untold => {
                // The place that is found tells what stands there, and n whether the log ends with it.
                self.untold = Some((sent, stream.handover));
                stream.break_off_failed(After::Locate { reason: UNTOLD, leader_moved: false });
            }
            Outcome::Mirrored(mirrored) => self.mirrored(&mirrored, now_ms),
            Outcome::Failed(verdict) => {
                if let (Verdict::Resync { reason: UNEXPECTED, .. }, Answer::Appended { base_offset, .. }) =
                    (&verdict, answer)
                {
                    self.others_before = self.others_before.max(*base_offset);
                    let acked = stream.window.acked().target;
                    self.stands_before(*base_offset, acked);
                }
                self.failed(verdict);
            }
            Outcome::Drained => {
                let acked = stream.window.acked().target;
                if let Answer::Appended { base_offset, append_time: false } = answer {
                    // The broker took this batch after those that it acknowledged, on the same connection or a later one.
                    self.stands_before(*base_offset, acked);
                }
            }
        }
    }

    /// Nobody waits any more for the answer to what was sent.
    fn may_arrive_still(&mut self, now_ms: u64) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        stream.inherited.strays_from(now_ms);
    }

    fn mirrored(&mut self, mirrored: &Mirrored, now_ms: u64) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        // What lies before the first record, if anything, may be of its epoch as well.
        stream.journal.read(mirrored.source_leader_epoch, self.figures.source_offset);
        let mut last_epoch = mirrored.source_leader_epoch;
        for (epoch, from) in &mirrored.passed {
            stream.journal.read(*epoch, *from);
            last_epoch = *epoch;
        }
        stream.journal.mirrored(mirrored, now_ms);
        stream.inherited.acknowledged();
        stream.last = Some((mirrored.last, last_epoch));
        self.attempts = 0;
        self.looked_for_exact = false;
        self.refusal = None;
        self.clamp = false;
        let acked = stream.window.acked();
        self.figures.source_offset = acked.source;
        self.figures.target_offset = acked.target;
        self.acked_target = acked.target;
        self.figures.records += mirrored.records();
        self.figures.bytes += i64::try_from(mirrored.bytes).unwrap_or(0);
        if stream.handover {
            stream.break_off(After::Begin);
        }
        self.tell_of_coarse();
    }

    /// What was appended last stands there, and this far everything was acknowledged: the target lost what lies between.
    /// Not where it sets its own times: a duplicate answer tells an old place there.
    fn stands_before(&mut self, base_offset: i64, acked: i64) {
        if base_offset < acked && !self.facts.target_append_time {
            widen(&mut self.target_cut, (base_offset, acked));
        }
    }
}
