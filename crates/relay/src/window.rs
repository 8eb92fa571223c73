//! The send window of one partition: sequences, what is in flight, what an answer means.
//!
//! Invariants: a batch is sent only at the next sequence; one batch is in flight until the first answer after a start,
//! a recovery or idleness, and while the target may have dropped the producer state and others write there too; after any
//! failure nothing is sent until every due answer is in and the position is recovered; the acknowledged place moves only
//! over an unbroken row of appends.

use std::collections::VecDeque;

use super::answer::{Answer, Refused, Verdict, judge};
use super::facts::Facts;
use super::in_flight::Pending;
pub use super::in_flight::{Place, Sending};
use super::journal::Mirrored;
use super::sequence_of;

/// Clocks differ, and an expiry check may come early: this part of the expiration time is not relied on.
const EXPIRATION_MARGIN: i64 = 48;
/// After this long without traffic the first batch goes alone.
const IDLE_MS: u64 = 60_000;

/// An owner that was replaced is gone after so long: its lease and its requests have ended.
pub(super) const WATCH_MS: u64 = 120_000;

/// Bytes of one partition that wait to leave, at most but for one batch: more only leave the processor's caches before they
/// are sent, and take memory.
const WAITING_BYTES_MAX: u64 = 1 << 20;

/// An append was there already.
pub(super) const DUPLICATE: &str = "DUPLICATE_ANSWER";
/// An append stands elsewhere than it should if nobody else appended.
pub(super) const UNEXPECTED: &str = "OFFSET_UNEXPECTED";

/// Limits of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Batches in flight at most.
    pub batches_max: usize,
    /// Bytes in flight at most; one larger batch may go alone.
    pub bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batches_max: 256, bytes_max: 8 << 20 }
    }
}

/// A batch that the target refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedBatch {
    /// Source offset of its first record.
    pub first: i64,
    /// Its records.
    pub records: usize,
    /// Source offset behind it.
    pub next_source: i64,
}

/// What came of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The place moved.
    Mirrored(Mirrored),
    /// The pipeline broke here; drain, then do what the verdict says.
    Failed(Verdict),
    /// An append was acknowledged, but not whose it is: drain, then look what stands there.
    Untold,
    /// Nothing to do: the pipeline was broken already.
    Drained,
}

/// The window.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    facts: Facts,
    sole_writer: bool,
    /// The place was found behind an append of one's own that was looked at: nobody else was there meanwhile.
    looked_at: bool,
    open: bool,
    failed: bool,
    next_id: u64,
    /// Place after everything that was sent.
    sent: Place,
    /// Place after everything that was acknowledged.
    acked: Place,
    in_flight: VecDeque<Pending>,
    /// The highest timestamps of those in flight, without those that a later one is older than: the first is the oldest.
    oldest: VecDeque<i64>,
    bytes: u64,
    /// Bytes of those in flight that have not left this process.
    waiting: u64,
    last_ack_ms: Option<u64>,
    last_max_timestamp: Option<i64>,
    /// Until then it is looked at who else appends: nothing fences owners under another producer id of the flow.
    watched_until_ms: u64,
    /// When an append was there already: another owner of the generation may append too.
    shared_ms: Option<u64>,
    zombies: Option<Zombies>,
    unexpected: Option<Unexpected>,
    /// The first batch that was refused.
    refused: Option<RefusedBatch>,
}

/// An append that stands behind what others appended, where it was not sure that it was one.
#[derive(Debug, Clone, Copy)]
pub struct Unexpected {
    /// n behind it.
    count: i64,
    max_timestamp: i64,
    ack_ms: u64,
}

/// Batches of this owner that have no answer and may still arrive.
#[derive(Debug, Clone, Copy)]
pub struct Zombies {
    /// The highest timestamp of the oldest one.
    oldest_ms: i64,
    /// By then they have arrived, or never will.
    until_ms: u64,
}

impl Window {
    /// Begins at a settled place.
    pub fn new(place: Place, sole_writer: bool, facts: Facts, limits: Limits) -> Self {
        Self {
            limits,
            facts,
            sole_writer,
            looked_at: false,
            open: false,
            failed: false,
            next_id: 0,
            sent: place,
            acked: place,
            in_flight: VecDeque::new(),
            oldest: VecDeque::new(),
            bytes: 0,
            waiting: 0,
            last_ack_ms: None,
            last_max_timestamp: None,
            watched_until_ms: 0,
            shared_ms: None,
            zombies: None,
            unexpected: None,
            refused: None,
        }
    }

    /// The place was found behind an append of one's own, as [`Outcome::Untold`] wants it.
    pub fn looked_at(&mut self) {
        self.looked_at = true;
    }

    /// When it was last seen that another owner of the generation may append too.
    pub fn shared_ms(&self) -> Option<u64> {
        self.shared_ms
    }

    /// It was seen before this window that another owner may append too.
    pub fn share(&mut self, seen_ms: Option<u64>) {
        self.shared_ms = seen_ms;
    }

    /// What may still arrive of this owner's appends, those before this window included.
    pub fn zombies(&self) -> Option<Zombies> {
        self.zombies
    }

    /// Appends of this owner before this window may still arrive.
    pub fn expect(&mut self, zombies: Option<Zombies>) {
        self.zombies = zombies;
    }

    /// So many bytes of what is in flight have not left this process.
    pub fn waiting(&mut self, bytes: u64) {
        self.waiting = bytes;
    }

    /// The batch whose append failed first.
    pub fn refused(&self) -> Option<RefusedBatch> {
        self.refused
    }

    /// The append that is looked at for where it stands.
    pub fn unexpected(&self) -> Option<Unexpected> {
        self.unexpected
    }

    /// It was looked at what stands before such an append. Where it is the generation's last one, it is what the target
    /// remembers: others between it and the next one are not looked at again.
    pub fn settle(&mut self, looked_at: Unexpected) {
        if looked_at.count == self.acked.count {
            self.last_max_timestamp = Some(looked_at.max_timestamp);
            self.last_ack_ms = Some(looked_at.ack_ms);
        }
    }

    /// The producer id is a new one, and owners under the last one may still append.
    pub fn watch(&mut self, now_ms: u64) {
        self.watched_until_ms = now_ms.saturating_add(WATCH_MS);
    }

    /// Sequence of the next batch.
    pub fn next_sequence(&self) -> i32 {
        sequence_of(self.sent.count)
    }

    /// Nothing was sent yet.
    pub fn is_untouched(&self) -> bool {
        self.next_id == 0
    }

    /// n behind everything that was sent.
    pub fn sent_count(&self) -> i64 {
        self.sent.count
    }

    /// Next source offset to send.
    pub fn next_source(&self) -> i64 {
        self.sent.source
    }

    /// The acknowledged place.
    pub fn acked(&self) -> Place {
        self.acked
    }

    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Batches in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The pipeline broke; once empty, find the place anew.
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// Nobody else appends to the target partition, as far as can be seen.
    pub fn is_sole_writer(&self) -> bool {
        self.sole_writer
    }

    /// Bytes that were sent and have no answer.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Timestamp of the first record that was sent and has no answer.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.in_flight.front().map(|pending| pending.sending.last.base_timestamp)
    }

    /// The target surely remembers this producer, whatever is on its way: no other owner was seen whose old batch could
    /// bring it to forget, and none of those in flight can, nor one that was given up and may still arrive.
    pub fn stays_armed(&self, now_ms: u64) -> bool {
        let zombies =
            self.zombies.filter(|zombies| now_ms < zombies.until_ms).map(|zombies| zombies.oldest_ms);
        let oldest = self.oldest.front().copied().into_iter().chain(zombies).min();
        self.is_armed(now_ms)
            && !self.is_shared(now_ms)
            && (self.facts.target_append_time || oldest.is_none_or(|t| self.is_young(t, now_ms)))
    }

    /// A batch that the target accepts behind one that it refused shows: nobody else appends, so its base offset is not the
    /// expected one, and the batches before it tell which record is missing. That needs a target without our producer
    /// state. A broker drops the state of a producer by age only in a check that runs every
    /// `producer.id.expiration.check.interval.ms` (10 minutes by default), and each successful append brings the state back
    /// (seen on 3.9 and 4.3: docs/kafka-behaviour.md). So records of any age are pipelined here.
    fn shows_holes(&self, now_ms: u64) -> bool {
        self.sole_writer && !self.is_shared(now_ms) && !self.is_watched(now_ms)
    }

    /// Owners under another producer id of the flow may still append: nothing fences them.
    pub fn is_watched(&self, now_ms: u64) -> bool {
        now_ms < self.watched_until_ms
    }

    /// It was seen lately that another owner of the generation appends too.
    pub fn is_shared(&self, now_ms: u64) -> bool {
        self.shared_ms.is_some_and(|t| now_ms.saturating_sub(t) < IDLE_MS)
    }

    /// The target surely remembers this producer: its last batch is young enough.
    pub fn is_armed(&self, now_ms: u64) -> bool {
        let last = if self.facts.target_append_time {
            self.last_ack_ms.and_then(|t| i64::try_from(t).ok())
        } else {
            self.last_max_timestamp
        };
        last.is_some_and(|t| self.is_young(t, now_ms))
    }

    /// With a batch of this timestamp as the last one, the target surely remembers its producer.
    pub fn is_young(&self, timestamp: i64, now_ms: u64) -> bool {
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let expiration = self.facts.target_expiration_ms;
        timestamp > now.saturating_sub(expiration - expiration / EXPIRATION_MARGIN)
    }

    /// Behind a batch with this highest timestamp the target remembers its producer.
    pub fn leaves_armed(&self, max_timestamp: i64, now_ms: u64) -> bool {
        self.facts.target_append_time || self.is_young(max_timestamp, now_ms)
    }

    /// May a batch of this size go now?
    pub fn may_send(&self, bytes: u64, now_ms: u64) -> bool {
        if self.failed {
            return false;
        }
        if self.in_flight.is_empty() {
            return true;
        }
        let idle = self.last_ack_ms.is_none_or(|t| now_ms.saturating_sub(t) >= IDLE_MS);
        self.open
            && !idle
            && (self.stays_armed(now_ms) || self.shows_holes(now_ms))
            && self.waiting < WAITING_BYTES_MAX
            && self.in_flight.len() < self.limits.batches_max
            && self.bytes.saturating_add(bytes) <= self.limits.bytes_max
    }

    /// Takes note of a batch that is sent now; returns its number, which the answer carries.
    pub fn sent(&mut self, sending: Sending) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let records = i64::from(sending.last.count);
        self.sent = Place {
            count: self.sent.count + records,
            source: sending.next_source,
            target: self.sent.target + records,
        };
        self.bytes = self.bytes.saturating_add(sending.bytes);
        let timestamp = sending.last.max_timestamp;
        while self.oldest.pop_back_if(|t| *t > timestamp).is_some() {}
        self.oldest.push_back(timestamp);
        self.in_flight.push_back(Pending { id, after: self.sent, sending, passed: Vec::new() });
        id
    }

    /// Takes note of source offsets that are left out on purpose, and of the leader epoch there: a position's epoch must
    /// be that of its source offset. Returns whether the acknowledged place moved.
    pub fn passed(&mut self, next_source: i64, leader_epoch: i32) -> bool {
        if next_source <= self.sent.source {
            return false;
        }
        let from = std::mem::replace(&mut self.sent.source, next_source);
        if let Some(last) = self.in_flight.back_mut() {
            last.after.source = next_source;
            let before = last.passed.last().map_or(last.sending.leader_epoch, |(epoch, _)| *epoch);
            if before != leader_epoch {
                last.passed.push((leader_epoch, from));
            }
            return false;
        }
        self.acked.source = next_source;
        true
    }

    /// Takes an answer. Answers of one partition come in the order of sending.
    pub fn answer(&mut self, id: u64, answer: &Answer, now_ms: u64) -> Outcome {
        if self.in_flight.front().is_none_or(|p| p.id != id) {
            // Out of order: this can only be a fault of the shell; nothing may be concluded from it.
            self.failed = true;
            self.in_flight.retain(|p| p.id != id);
            return Outcome::Failed(judge(&Answer::Lost, self.acked.source, self.sent.source));
        }
        let oldest = self.oldest.front().copied();
        let Some(pending) = self.in_flight.pop_front() else { return Outcome::Drained };
        self.oldest.pop_front_if(|t| *t == pending.sending.last.max_timestamp);
        self.bytes = self.bytes.saturating_sub(pending.sending.bytes);
        if self.failed {
            return Outcome::Drained;
        }
        let Answer::Appended { base_offset, append_time } = *answer else {
            self.failed = true;
            self.gives_up(oldest.unwrap_or(i64::MIN), now_ms);
            self.refused = Some(RefusedBatch {
                first: pending.sending.run.first,
                records: usize::try_from(pending.sending.last.count).unwrap_or(0),
                next_source: pending.sending.next_source,
            });
            return Outcome::Failed(judge(answer, pending.sending.run.first, pending.sending.next_source));
        };
        if append_time && !self.facts.target_append_time {
            // It was there already: another owner of the generation appends too, or what was given up arrived late. What
            // was there need not be what was sent, since the source may have lost its end between the two: find
            // out by content.
            self.shared_ms = Some(now_ms);
            return self.fail(DUPLICATE);
        }
        if self.facts.target_append_time && !self.open && !self.looked_at {
            // Such a target does not tell a duplicate: see what stands there, and whether the log ends with it.
            self.failed = true;
            return Outcome::Untold;
        }
        let expected = pending.after.target - pending.records();
        if base_offset != expected {
            let sure = !self.is_watched(now_ms) && self.is_armed(now_ms) && !self.is_shared(now_ms);
            if !sure || !self.shift(base_offset, expected) {
                self.unexpected = Some(Unexpected {
                    count: pending.after.count,
                    max_timestamp: pending.sending.last.max_timestamp,
                    ack_ms: now_ms,
                });
                return self.fail(UNEXPECTED);
            }
        }
        self.acked = Place {
            count: pending.after.count,
            source: pending.after.source,
            target: base_offset + pending.records(),
        };
        self.open = true;
        self.last_ack_ms = Some(now_ms);
        self.last_max_timestamp = Some(pending.sending.last.max_timestamp);
        Outcome::Mirrored(pending.mirrored(base_offset))
    }

    /// Those in flight may arrive after they were given up.
    fn gives_up(&mut self, oldest_ms: i64, now_ms: u64) {
        let earlier = self.zombies.filter(|zombies| now_ms < zombies.until_ms);
        let oldest_ms = earlier.map_or(oldest_ms, |zombies| zombies.oldest_ms.min(oldest_ms));
        self.zombies = Some(Zombies { oldest_ms, until_ms: now_ms.saturating_add(WATCH_MS) });
    }

    fn fail(&mut self, reason: &'static str) -> Outcome {
        self.failed = true;
        Outcome::Failed(Verdict::Resync {
            refused: Refused::Nothing,
            leader_moved: false,
            back_off: false,
            reason,
        })
    }

    /// Other writers append between our batches: what is expected moves up by as much. As the sole writer nothing may
    /// move, and nothing ever moves down. Before the first append of a generation it may have been an older one, which
    /// nothing fenced until then: that is looked at. And so is what stands before an append that the target may have taken
    /// from a producer that it had forgotten: it may be another owner's, and this a repeat of it.
    fn shift(&mut self, base_offset: i64, expected: i64) -> bool {
        if self.sole_writer || base_offset < expected || self.acked.count == 0 {
            return false;
        }
        let by = base_offset - expected;
        for pending in &mut self.in_flight {
            pending.after.target += by;
        }
        self.sent.target += by;
        true
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
