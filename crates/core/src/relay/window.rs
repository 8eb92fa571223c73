//! The send window of one partition: sequences, what is in flight, what an answer means (exactly-once.md 2, 3, 7).
//!
//! Invariants: a batch is sent only at the next sequence; one batch is in flight until the first answer after a start,
//! a resync, idleness, or while the target may have forgotten us; after any failure nothing is sent until every due
//! answer is in and the place is found anew; the acknowledged place moves only over an unbroken row of appends.

use std::collections::VecDeque;

use super::answer::{Answer, Verdict, judge};
use super::journal::Mirrored;
use super::position::LastBatch;
use super::sequence_of;
use crate::format::batch::BatchHeader;
use crate::translate::Segment;

/// The target forgets a producer this long after the timestamp of its last batch (`producer.id.expiration.ms`).
const EXPIRATION_MS: i64 = 24 * 3_600_000;
/// Clocks differ, and an expiry check may come early: this long before the expiry nothing is taken for granted.
const EXPIRATION_MARGIN_MS: i64 = 30 * 60_000;
/// After this long without traffic the first batch goes alone.
const IDLE_MS: u64 = 60_000;

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
        Self { batches_max: 64, bytes_max: 8 << 20 }
    }
}

/// A place on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Records mirrored by this generation before it: n.
    pub count: i64,
    /// Next source offset.
    pub source: i64,
    /// Next target offset.
    pub target: i64,
}

#[derive(Debug, Clone)]
struct Pending {
    id: u64,
    /// Place after the batch.
    after: Place,
    first_source: i64,
    records: i32,
    bytes: u64,
    last: LastBatch,
    leader_epoch: i32,
}

/// What came of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The place moved.
    Mirrored(Mirrored),
    /// The pipeline broke here; drain, then do what the verdict says.
    Failed(Verdict),
    /// Nothing to do: the pipeline was broken already.
    Drained,
}

/// The window.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    sole_writer: bool,
    open: bool,
    failed: bool,
    next_id: u64,
    /// Place after everything that was sent.
    sent: Place,
    /// Place after everything that was acknowledged.
    acked: Place,
    in_flight: VecDeque<Pending>,
    bytes: u64,
    last_ack_ms: Option<u64>,
    last_max_timestamp: Option<i64>,
}

impl Window {
    /// Begins at a settled place.
    pub fn new(place: Place, sole_writer: bool, limits: Limits) -> Self {
        Self {
            limits,
            sole_writer,
            open: false,
            failed: false,
            next_id: 0,
            sent: place,
            acked: place,
            in_flight: VecDeque::new(),
            bytes: 0,
            last_ack_ms: None,
            last_max_timestamp: None,
        }
    }

    /// Sequence of the next batch.
    pub fn next_sequence(&self) -> i32 {
        sequence_of(self.sent.count)
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

    /// The target surely remembers this producer: its last batch is young enough.
    pub fn is_armed(&self, now_ms: u64) -> bool {
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        self.last_max_timestamp.is_some_and(|t| t > now.saturating_sub(EXPIRATION_MS - EXPIRATION_MARGIN_MS))
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
            && self.is_armed(now_ms)
            && self.in_flight.len() < self.limits.batches_max
            && self.bytes.saturating_add(bytes) <= self.limits.bytes_max
    }

    /// Takes note of a batch that is sent now; returns its number, which the answer carries.
    pub fn sent(&mut self, header: &BatchHeader, first_source: i64, bytes: u64, body_crc: u32) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let records =
            i32::try_from(header.next_offset() - first_source).unwrap_or(header.count).min(header.count);
        self.sent = Place {
            count: self.sent.count + i64::from(records),
            source: header.next_offset(),
            target: self.sent.target + i64::from(records),
        };
        self.bytes = self.bytes.saturating_add(bytes);
        let last = LastBatch {
            count: records,
            base_timestamp: header.base_timestamp,
            max_timestamp: header.max_timestamp,
            body_crc,
        };
        self.in_flight.push_back(Pending {
            id,
            after: self.sent,
            first_source,
            records,
            bytes,
            last,
            leader_epoch: header.leader_epoch,
        });
        id
    }

    /// Takes note of source offsets that are left out on purpose. Returns whether the acknowledged place moved.
    pub fn passed(&mut self, next_source: i64) -> bool {
        if next_source <= self.sent.source {
            return false;
        }
        self.sent.source = next_source;
        if let Some(last) = self.in_flight.back_mut() {
            last.after.source = next_source;
            return false;
        }
        self.acked.source = next_source;
        true
    }

    /// Takes an answer. Answers of one partition come in the order of sending.
    pub fn answer(&mut self, id: u64, answer: &Answer, now_ms: u64) -> Outcome {
        let Some(pending) = self.in_flight.front().filter(|p| p.id == id).cloned() else {
            // Out of order: this can only be a fault of the shell; nothing may be concluded from it.
            self.failed = true;
            self.in_flight.retain(|p| p.id != id);
            return Outcome::Failed(judge(&Answer::Lost, self.acked.source, self.sent.source));
        };
        self.in_flight.pop_front();
        self.bytes = self.bytes.saturating_sub(pending.bytes);
        if self.failed {
            return Outcome::Drained;
        }
        let Answer::Appended { base_offset } = *answer else {
            self.failed = true;
            return Outcome::Failed(judge(answer, pending.first_source, pending.after.source));
        };
        let expected = pending.after.target - i64::from(pending.records);
        if base_offset != expected && !self.shift(base_offset, expected) {
            self.failed = true;
            return Outcome::Failed(Verdict::Resync {
                sequence_refused: false,
                leader_moved: false,
                back_off: false,
                reason: "OFFSET_UNEXPECTED",
            });
        }
        self.acked = Place {
            count: pending.after.count,
            source: pending.after.source,
            target: base_offset + i64::from(pending.records),
        };
        self.open = true;
        self.last_ack_ms = Some(now_ms);
        self.last_max_timestamp = Some(pending.last.max_timestamp);
        Outcome::Mirrored(Mirrored {
            segment: Segment {
                source: pending.first_source,
                target: base_offset,
                count: i64::from(pending.records),
            },
            bytes: pending.bytes,
            last: pending.last,
            source_leader_epoch: pending.leader_epoch,
        })
    }

    /// Other writers append between our batches: what is expected moves up by as much. As the sole writer nothing may
    /// move, and nothing ever moves down.
    fn shift(&mut self, base_offset: i64, expected: i64) -> bool {
        if self.sole_writer || base_offset < expected {
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
mod tests {
    use super::*;
    use crate::format::batch::tests::header;

    const NOW: u64 = 1_800_000_000_000;
    const NOW_MS: i64 = 1_800_000_000_000;

    fn window(sole: bool) -> Window {
        Window::new(Place { count: 10, source: 20, target: 30 }, sole, Limits::default())
    }

    fn send(w: &mut Window, base: i64, count: i32) -> u64 {
        let mut h = header(base, count);
        h.max_timestamp = NOW_MS;
        w.sent(&h, base, 100, 1)
    }

    fn appended(base_offset: i64) -> Answer {
        Answer::Appended { base_offset }
    }

    #[test]
    fn one_in_flight_until_the_first_ack_then_many() {
        let mut w = window(true);
        assert_eq!(w.next_sequence(), 10);
        assert!(w.may_send(1, NOW));
        let a = send(&mut w, 20, 5);
        assert!(!w.may_send(1, NOW), "not before the first ack");
        assert!(matches!(w.answer(a, &appended(30), NOW), Outcome::Mirrored(_)));
        assert_eq!(w.acked(), Place { count: 15, source: 25, target: 35 });
        for i in 0..64 {
            assert!(w.may_send(1, NOW));
            send(&mut w, 25 + i, 1);
        }
        assert!(!w.may_send(1, NOW), "64 in flight");
    }

    #[test]
    fn old_timestamps_and_idleness_close_the_window() {
        let mut w = window(true);
        let mut h = header(20, 1);
        h.max_timestamp = NOW_MS - EXPIRATION_MS;
        let a = w.sent(&h, 20, 100, 1);
        w.answer(a, &appended(30), NOW);
        assert!(!w.is_armed(NOW));
        send(&mut w, 21, 1);
        assert!(!w.may_send(1, NOW), "the target may have forgotten us");

        let mut w = window(true);
        let a = send(&mut w, 20, 1);
        w.answer(a, &appended(30), NOW);
        send(&mut w, 21, 1);
        assert!(w.may_send(1, NOW + IDLE_MS - 1) && !w.may_send(1, NOW + IDLE_MS));
    }

    #[test]
    fn a_failure_stops_everything_and_later_acks_do_not_move_the_place() {
        let mut w = window(true);
        let a = send(&mut w, 20, 5);
        w.answer(a, &appended(30), NOW);
        let (b, c) = (send(&mut w, 25, 5), send(&mut w, 30, 5));
        assert!(matches!(w.answer(b, &Answer::Lost, NOW), Outcome::Failed(Verdict::Resync { .. })));
        assert!(!w.may_send(1, NOW) && !w.is_empty());
        assert_eq!(w.answer(c, &appended(40), NOW), Outcome::Drained);
        assert!(w.is_empty() && w.is_failed());
        assert_eq!(w.acked().source, 25);
    }

    #[test]
    fn an_unexpected_offset_is_a_failure_unless_others_write() {
        let mut w = window(true);
        let a = send(&mut w, 20, 5);
        assert!(matches!(w.answer(a, &appended(31), NOW), Outcome::Failed(_)));
        let mut w = window(false);
        let a = send(&mut w, 20, 5);
        assert!(matches!(w.answer(a, &appended(33), NOW), Outcome::Mirrored(m) if m.segment.target == 33));
        let b = send(&mut w, 25, 1);
        assert!(matches!(w.answer(b, &appended(37), NOW), Outcome::Failed(_)), "never down");
    }

    #[test]
    fn passed_offsets_wait_for_what_is_in_flight() {
        let mut w = window(true);
        assert!(w.passed(22));
        let a = send(&mut w, 22, 3);
        assert!(!w.passed(26));
        assert_eq!(w.acked().source, 22);
        w.answer(a, &appended(30), NOW);
        assert_eq!(w.acked(), Place { count: 13, source: 26, target: 33 });
    }
}
