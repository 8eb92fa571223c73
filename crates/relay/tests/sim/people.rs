//! The mesh and the people that run it: what they do when a partition stopped, and the end of all faults.

use mirrormesh_core::flow::{LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_core::stop::StopReason;

use crate::check::{Checker, LIVENESS, NO_DUP, TOO_LARGE};
use crate::knobs::Fault;
use crate::parts::Event;
use crate::source::State;
use crate::world::{START_MS, World};

impl World {
    /// A person reads why a partition stopped, and does what the message says.
    pub fn operate(&mut self, o: usize) {
        let Some(stop) = self.owners[o].stopped.clone() else { return };
        if self.raft.owner != o {
            return;
        }
        let did = |fault| self.happened.contains(&fault);
        let lost = self.checker.target_lost;
        let rules = &mut self.raft.rules;
        let justified = match stop.reason {
            StopReason::RetentionOverrun | StopReason::SourceTruncated | StopReason::SourceDiverged => {
                rules.on_loss = LossPolicy::Continue;
                did(Fault::SourceRetain) || did(Fault::SourceTruncate)
            }
            StopReason::RecordTooLarge => {
                rules.on_oversized = OversizedPolicy::Skip;
                Checker::is_too_large(&self.source, stop.from_offset, self.target.bytes_min)
            }
            StopReason::TimestampRefused => {
                rules.timestamps = TimestampPolicy::Clamp;
                true
            }
            StopReason::SourceRecreated => {
                self.ended = Some("source re-created");
                did(Fault::SourceRecreate)
            }
            StopReason::TargetRecreated => {
                self.ended = Some("target re-created");
                did(Fault::TargetRecreate)
            }
            StopReason::TargetTruncated => {
                self.ended = Some("target truncated");
                lost
            }
            StopReason::PositionUnknown => {
                self.ended = Some("position unknown");
                // Where others may write, nothing tells what was the flow's.
                did(Fault::TargetRetain) && (did(Fault::Foreign) || !rules.sole_writer) || lost
            }
            StopReason::PositionMismatch => {
                let searched =
                    std::mem::replace(&mut rules.on_loss, LossPolicy::Continue) == LossPolicy::Continue;
                !searched && (did(Fault::SourceTruncate) || lost)
            }
            // A worker that was replaced; the owner's own assignment says more soon.
            StopReason::Fenced => self.owners[o].relay.generation() != self.raft.detail.begun,
            _ => false,
        };
        if !justified {
            let name = if stop.reason == StopReason::RecordTooLarge { TOO_LARGE } else { LIVENESS };
            return self.checker.fail(name, format!("owner {o} stopped without need: {stop:?}"));
        }
        if self.ended.is_none() {
            self.at(0, Event::Assign);
        }
    }

    /// Faults end, open transactions too: now everything has to arrive.
    pub fn heal(&mut self) {
        self.healing = true;
        self.say(|| "HEAL".to_owned());
        self.not_enough_until = 0;
        self.stalled_until = 0;
        self.writes_fail_until = 0;
        self.slow_until = 0;
        if std::mem::take(&mut self.raft.rules.require_exactly_once) {
            self.once_so_far();
            let o = self.raft.owner;
            self.at(0, Event::Stop(o));
        }
        for pid in self.source.open_transactions() {
            self.source.finish(pid, true, self.now as i64);
        }
        // So that the last one before it is not the last thing that anybody looks at.
        self.one_more();
        if self.happened.contains(&Fault::TargetRecreate) {
            // Where nothing is left to be appended, only the mesh finds that the topic is another one.
            self.at(3_000, Event::LookAtTopics);
        }
        let (epoch, end) = (self.target.leader_epoch, self.target.end);
        self.at(1, Event::Replicated(epoch, end));
    }

    /// A flow that requires exactly once has mirrored nothing twice, as long as neither side lost what it had. Raising the
    /// epoch has a window, in which a replaced owner's append is not fenced yet.
    fn once_so_far(&mut self) {
        let checker = &mut self.checker;
        let kept = !checker.target_lost && !checker.source_cut && !checker.foreign;
        let kept = kept && checker.generations.len() == 1;
        if kept && !self.happened.contains(&Fault::TargetRetain) && checker.doubles > 0 {
            let message = format!("{} records stand twice though exactly once is required", checker.doubles);
            checker.fail(NO_DUP, message);
        }
    }

    /// One more record comes into the source that is to be mirrored.
    pub fn one_more(&mut self) {
        self.source.append(&[(1, self.now as i64, 8)], None, self.now as i64);
        if self.source.infos.last().is_some_and(|info| info.state == State::Mirrored) {
            self.source.append(&[(1, self.now as i64, 8)], None, self.now as i64);
        }
        self.source.high_watermark = self.source.end;
    }

    /// The present owner has nothing left to do.
    pub fn is_healed(&mut self) -> bool {
        let o = self.raft.owner;
        let Some(owner) = self.owners.get_mut(o) else { return false };
        if !owner.alive || owner.stopped.is_some() || owner.released || owner.relay.is_busy() {
            return false;
        }
        // What an owner that was replaced brought is written down by the present one, once it has read it too.
        let read = owner.fetching.as_ref().is_some_and(|f| f.offset >= self.source.stable());
        read && self.checker.is_complete(&self.source)
    }

    pub fn elapsed(&self) -> u64 {
        self.now - START_MS
    }
}
