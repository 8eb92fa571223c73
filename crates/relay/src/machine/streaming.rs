//! Streaming from a settled place: fetched batches in, appends out, answers back, positions written down.

use mirrormesh_core::format::batch::Stamp;

use super::change::Change;
use super::exact::Exact;
use super::outgoing::{Outgoing, Ready};
use super::refusal::{skipped, too_large};
use super::stream::{After, Held};
use super::told::To;
use super::{Action, Append, Ask, Codecs, LastBatch, OversizedPolicy, Phase, Relay, SourcePage, Step};
use crate::page::{self, Reading};
use crate::path::Conditions;
use crate::reader::unreadable;
use crate::rebuild::Oversized;
use crate::window::Sending;

/// What a step of streaming came to.
pub(super) enum Next {
    Action(Box<Action>),
    Idle,
    Changed,
}

pub(super) fn act(action: Action) -> Next {
    Next::Action(Box::new(action))
}

impl Relay {
    /// One step of streaming.
    pub(super) fn stream(&mut self, now_ms: u64, codecs: &dyn Codecs) -> Next {
        let stopping = self.stopping;
        let Phase::Streaming(stream) = &mut self.phase else { return Next::Changed };
        if stopping {
            stream.break_off(After::Release);
        }
        if stream.after.is_some() {
            return self.drain(now_ms);
        }
        let start = self.setup.detail.begun.start;
        if !stream.fetching {
            stream.fetching = true;
            let offset = stream.window.next_source();
            let last_epoch = stream.last.map_or(-1, |(_, epoch)| epoch);
            return act(Action::Fetch { offset, read_committed: !start.read_uncommitted, last_epoch });
        }
        // One question at a time.
        if let Some(held) = stream.held.as_mut().filter(|held| !held.asked && !self.cut_asked) {
            held.asked = true;
            let ask = Ask::Origins(held.unknown.clone());
            return act(self.ask(To::Origins, ask));
        }
        if stream.handover && self.setup.rules.differ_from(start) && stream.caught_up() {
            stream.break_off(After::Begin);
            return Next::Changed;
        }
        if let Some(next) = self.send(now_ms, codecs) {
            return next;
        }
        if self.wants_cut(now_ms) {
            return act(self.ask(To::Cut, Ask::Locate(Step::TargetEnds)));
        }
        self.write_if_due(now_ms)
    }

    /// Nothing new; what is in flight gets its answers, and what was acknowledged is written down.
    fn drain(&mut self, now_ms: u64) -> Next {
        let Phase::Streaming(stream) = &mut self.phase else { return Next::Changed };
        stream.queue.clear();
        stream.held = None;
        if stream.fetching {
            stream.fetching = false;
            return act(Action::StopFetching);
        }
        if !stream.window.is_empty() || stream.writing.is_some() || self.cut_asked {
            return Next::Idle;
        }
        if stream.journal.is_dirty() && !stream.unwritten {
            return self.write(now_ms);
        }
        self.after_draining();
        Next::Changed
    }

    fn after_draining(&mut self) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        let Some(mut after) = stream.after.take() else { return };
        if stream.unwritten && matches!(after, After::Begin | After::Skip(..) | After::Ends) {
            // Nobody looks behind the start of a generation: what was mirrored before it has to be written down.
            let message = "the positions topic can't be written to; trying again".to_owned();
            after = After::Wait { reason: "POSITION_NOT_WRITTEN".to_owned(), message };
        }
        self.journal = stream.journal.clone();
        self.shared_ms = stream.window.shared_ms();
        self.zombies = stream.window.zombies();
        self.unexpected = stream.window.unexpected();
        self.inherited = Some(stream.inherited);
        let place = stream.window.acked();
        let change = || Change::at(place, stream.journal.clone(), stream.last);
        match after {
            After::Release => self.phase = Phase::Released { said: false },
            After::Stop(stop) => self.phase = Phase::Stopped { stop, said: false },
            After::Wait { reason, message } => self.wait(&reason, &message),
            After::Locate { reason, leader_moved } => {
                self.figures.resyncs += 1;
                self.pending.push_back(Action::Broken { reason, leader_moved });
                self.phase = Phase::Facts { asked: false };
            }
            After::Begin => self.phase = Phase::Beginning { change: change(), asked: false },
            After::Ends => {
                self.phase = Phase::Ends { change: change(), ends: None, same: false, asked: false }
            }
            After::Skip(oversized, epoch) => {
                let mut change = change();
                change.last.get_or_insert_default().1 = epoch;
                change.journal.read(epoch, change.source);
                change.source = oversized.offset + 1;
                change.notices.push(skipped(oversized, self.facts.target_bytes_max));
                self.phase = Phase::Beginning { change, asked: false };
            }
        }
    }

    /// Sends the next batch if the window allows; `None` if there is nothing to do.
    fn send(&mut self, now_ms: u64, codecs: &dyn Codecs) -> Option<Next> {
        let Phase::Streaming(stream) = &mut self.phase else { return Some(Next::Changed) };
        if stream.handover && !stream.window.is_empty() {
            return None;
        }
        let alone_is_safe = stream.window.stays_armed(now_ms) && stream.facts.content_fixed();
        if !self.leased && !alone_is_safe {
            return None;
        }
        let timestamps = self.setup.rules.timestamps;
        let conditions = Conditions { facts: self.facts, timestamps, sizes: self.sizes, now_ms };
        self.economy.in_flight(stream.window.in_flight());
        let ready = stream.queue.pop(&conditions, self.clamp, &mut self.economy, codecs)?;
        match ready {
            Ready::Passed(next, epoch, skip) => {
                let from = stream.window.acked().source;
                if stream.window.passed(next, epoch) {
                    stream.last.get_or_insert_default().1 = epoch;
                    stream.journal.read(epoch, from);
                    stream.journal.passed(now_ms);
                    self.figures.source_offset = stream.window.acked().source;
                }
                let told = skip.filter(|skip| *skip != super::Skip::Before);
                Some(told.map_or(Next::Changed, |skip| act(Action::Skipped(skip))))
            }
            Ready::Stop(stop) => {
                stream.break_off(After::Stop(stop));
                Some(Next::Changed)
            }
            Ready::Oversized(oversized, epoch) => {
                stream.break_off(match self.setup.rules.on_oversized {
                    OversizedPolicy::StopPartition => {
                        After::Stop(too_large(oversized, self.facts.target_bytes_max))
                    }
                    OversizedPolicy::Skip => After::Skip(oversized, epoch),
                });
                Some(Next::Changed)
            }
            Ready::Send(outgoing) if self.sizes.is_too_large(outgoing.run.first) => {
                // It stands alone in its batch; the target judges what it stores, which may be larger.
                let bytes = outgoing.batch.bytes.len();
                let oversized = Oversized { offset: outgoing.run.first, bytes };
                stream.queue.put_back(Ready::Oversized(oversized, outgoing.leader_epoch));
                Some(Next::Changed)
            }
            Ready::Send(outgoing) if stream.parts_at(outgoing.leader_epoch, now_ms) => {
                stream.queue.put_back(Ready::Send(outgoing));
                stream.part();
                Some(Next::Changed)
            }
            Ready::Send(outgoing) => self.offer(outgoing, now_ms),
        }
    }

    /// Sends a batch if it may go now; else it waits.
    fn offer(&mut self, outgoing: Outgoing, now_ms: u64) -> Option<Next> {
        let Phase::Streaming(stream) = &mut self.phase else { return Some(Next::Changed) };
        let bytes = u64::try_from(outgoing.batch.bytes.len()).unwrap_or(u64::MAX);
        if self.setup.rules.require_exactly_once {
            match stream.exact(&outgoing, &self.setup, self.looked_for_exact, now_ms) {
                Exact::Goes => {}
                Exact::Waits => {
                    stream.queue.put_back(Ready::Send(outgoing));
                    return None;
                }
                Exact::LooksFirst => {
                    self.looked_for_exact = true;
                    return Some(Next::Changed);
                }
            }
        }
        let remembered = stream.window.leaves_armed(outgoing.batch.header.max_timestamp, now_ms);
        // Without a lease it would bring the target to forget the flow, under whoever owns the partition by now.
        if (self.leased || remembered) && stream.window.may_send(bytes, now_ms) {
            return Some(self.append(outgoing, bytes, now_ms));
        }
        stream.queue.put_back(Ready::Send(outgoing));
        None
    }

    fn append(&mut self, outgoing: Outgoing, bytes: u64, now_ms: u64) -> Next {
        let generation = self.setup.detail.begun.generation;
        let Phase::Streaming(stream) = &mut self.phase else { return Next::Changed };
        let Outgoing { batch, run, more, next_source, leader_epoch, path } = outgoing;
        let stamp = Stamp {
            producer_id: generation.producer_id,
            producer_epoch: generation.epoch,
            base_sequence: stream.window.next_sequence(),
        };
        let stamped = if self.check { batch.stamp_checked(stamp) } else { batch.stamp(stamp) };
        let stamped = match stamped {
            Ok(stamped) => stamped,
            Err(error) => {
                stream.break_off(After::Stop(unreadable(run.first, &error.to_string())));
                return Next::Changed;
            }
        };
        stream.inherited.appends(leader_epoch, now_ms);
        self.behind.sent(batch.header.max_timestamp);
        let last = LastBatch {
            count: batch.header.count,
            base_timestamp: batch.header.base_timestamp,
            max_timestamp: batch.header.max_timestamp,
            body_crc: stamped.body_crc,
        };
        let id = stream.window.sent(Sending { run, more, next_source, bytes, last, leader_epoch });
        act(Action::Append(Append { id, batch: stamped, path }))
    }

    /// Brings records that were fetched.
    pub fn fetched(&mut self, chunk: SourcePage, codecs: &dyn Codecs) {
        let reading = Reading::from(self.setup.detail.begun.start);
        let Phase::Streaming(stream) = &mut self.phase else { return };
        if stream.after.is_some() {
            return;
        }
        let place = stream.window.next_source();
        let items = match page::read(&chunk, reading, place, &self.origins, codecs) {
            Ok(items) => items,
            Err(unknown) => {
                stream.held = Some(Held { page: chunk, unknown, asked: false });
                return;
            }
        };
        stream.end_offset = chunk.end_offset;
        stream.high_watermark = chunk.high_watermark;
        let log_start = chunk.log_start;
        self.behind.fetched((stream.end_offset, stream.high_watermark));
        self.behind.read(place, &items);
        stream.queue.fill(items);
        if log_start >= 0 {
            self.figures.source_start_offset = Some(log_start);
            let end = stream.high_watermark;
            self.watch_retention(log_start, end);
        }
    }

    /// It is known where the batches of a held page come from.
    pub(super) fn classified(&mut self, codecs: &dyn Codecs) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        if let Some(held) = stream.held.take() {
            self.fetched(held.page, codecs);
        }
    }

    /// The source does not have the offset that was fetched.
    pub fn out_of_range(&mut self) {
        if let Phase::Streaming(stream) = &mut self.phase {
            stream.fetching = false;
            stream.break_off(After::Ends);
        }
    }

    /// Fetching ended: a stable name, and what is wrong.
    pub fn source_failed(&mut self, reason: &str, message: &str) {
        if let Phase::Streaming(stream) = &mut self.phase {
            stream.fetching = false;
            let (reason, message) = (reason.to_owned(), message.to_owned());
            stream.break_off(After::Wait { reason, message });
        }
    }
}
