//! Limits on how fast records are copied: token buckets with time as an argument.
//!
//! Owns the arithmetic: whoever takes something gets its place in the row at once, and may go on when everything before
//! it is paid for. So nobody overtakes, one piece larger than a second's worth passes too, and a limit that changes
//! counts at once for all that wait.

mod needs;

use std::num::NonZeroU64;

pub use needs::{FlowWeights, Need, TopicNeeds, Weight, Weights, weigh};

/// What a flow, or one of its topics, may copy. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttle {
    /// Bytes of record batches per second.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Records per second.
    pub records_per_second: Option<NonZeroU64>,
}

impl Throttle {
    /// No limit at all.
    pub const NONE: Self = Self { bytes_per_second: None, records_per_second: None };

    /// The part of it that is somebody's share. Never nothing: a limit of which somebody has no part would stop them for
    /// ever.
    #[must_use]
    pub fn shared(self, share: Share) -> Self {
        let part = |limit: NonZeroU64| {
            let whole = u128::from(limit.get()) * u128::from(share.part) / u128::from(share.of.max(1));
            NonZeroU64::new(u64::try_from(whole).unwrap_or(u64::MAX)).unwrap_or(NonZeroU64::MIN)
        };
        if share.of == 0 {
            return self;
        }
        Self {
            bytes_per_second: self.bytes_per_second.map(part),
            records_per_second: self.records_per_second.map(part),
        }
    }
}

/// A worker's part of a limit: the weights of its partitions, of those of all that are assigned. 0 of 0 is the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// The weights of its partitions.
    pub part: u32,
    /// The weights of all of them.
    pub of: u32,
}

impl Share {
    /// One more partition, which counts for so much.
    pub fn add(&mut self, weight: u32, is_own: bool) {
        self.of = self.of.saturating_add(weight);
        self.part = self.part.saturating_add(if is_own { weight } else { 0 });
    }
}

/// One limit: so many units per second, with at most a second's worth saved up.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    per_second: Option<NonZeroU64>,
    /// Units that were taken, ever.
    issued: u64,
    /// Thousandths of units that were allowed, ever.
    allowed: u128,
    at_ms: u64,
}

impl Bucket {
    fn advance(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let issued = u128::from(self.issued) * 1_000;
        self.allowed = match self.per_second {
            None => issued,
            Some(rate) => {
                let rate = u128::from(rate.get());
                (self.allowed + rate * u128::from(elapsed)).min(issued + rate * 1_000)
            }
        };
    }

    fn set(&mut self, per_second: Option<NonZeroU64>, now_ms: u64) {
        self.advance(now_ms);
        self.per_second = per_second;
        self.advance(now_ms);
    }

    /// Takes units, and returns the place in the row.
    fn issue(&mut self, units: u64, now_ms: u64) -> u64 {
        self.advance(now_ms);
        let place = self.issued;
        self.issued = self.issued.saturating_add(units);
        place
    }

    fn give_back(&mut self, units: u64) {
        self.allowed += u128::from(units) * 1_000;
    }

    /// How long until it is the turn of this place, in ms.
    fn wait_ms(&mut self, place: u64, now_ms: u64) -> u64 {
        self.advance(now_ms);
        let Some(rate) = self.per_second else { return 0 };
        let missing = (u128::from(place) * 1_000).saturating_sub(self.allowed);
        u64::try_from(missing.div_ceil(u128::from(rate.get()))).unwrap_or(u64::MAX)
    }
}

/// A place in the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    bytes: u64,
    records: u64,
    bytes_place: u64,
    records_place: u64,
}

/// The limits of one flow or topic, as they are used up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Buckets {
    bytes: Bucket,
    records: Bucket,
}

impl Buckets {
    /// Sets the limits; what waits goes on under them.
    pub fn set(&mut self, throttle: Throttle, now_ms: u64) {
        self.bytes.set(throttle.bytes_per_second, now_ms);
        self.records.set(throttle.records_per_second, now_ms);
    }

    /// Takes a piece.
    pub fn issue(&mut self, bytes: u64, records: u64, now_ms: u64) -> Ticket {
        Ticket {
            bytes,
            records,
            bytes_place: self.bytes.issue(bytes, now_ms),
            records_place: self.records.issue(records, now_ms),
        }
    }

    /// How long until the piece may be used, in ms; 0 is now.
    pub fn wait_ms(&mut self, ticket: &Ticket, now_ms: u64) -> u64 {
        let bytes = self.bytes.wait_ms(ticket.bytes_place, now_ms);
        bytes.max(self.records.wait_ms(ticket.records_place, now_ms))
    }

    /// The piece is not used after all: those behind it come earlier.
    pub fn give_back(&mut self, ticket: &Ticket) {
        self.bytes.give_back(ticket.bytes);
        self.records.give_back(ticket.records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(limit: u64) -> Throttle {
        Throttle { bytes_per_second: NonZeroU64::new(limit), records_per_second: None }
    }

    #[test]
    fn pieces_go_in_order_at_the_rate_and_a_large_one_passes_alone() {
        let mut buckets = Buckets::default();
        buckets.set(bytes(1_000), 0);
        let large = buckets.issue(5_000, 1, 0);
        assert_eq!(buckets.wait_ms(&large, 0), 0, "nothing is owed");
        let second = buckets.issue(1_000, 1, 0);
        let third = buckets.issue(1_000, 1, 0);
        assert_eq!((buckets.wait_ms(&second, 0), buckets.wait_ms(&third, 0)), (5_000, 6_000));
        assert_eq!(buckets.wait_ms(&second, 4_999), 1);
        assert_eq!((buckets.wait_ms(&second, 5_000), buckets.wait_ms(&third, 5_000)), (0, 1_000));
    }

    #[test]
    fn at_most_a_second_is_saved_up() {
        let mut buckets = Buckets::default();
        buckets.set(bytes(1_000), 0);
        let now = 60_000;
        let saved = buckets.issue(1_000, 0, now);
        let next = buckets.issue(1_000, 0, now);
        let late = buckets.issue(1, 0, now);
        let waits = [saved, next, late].map(|ticket| buckets.wait_ms(&ticket, now));
        assert_eq!(waits, [0, 0, 1_000], "one second's worth in advance, and one on account");
    }

    #[test]
    fn a_changed_limit_counts_for_what_waits() {
        let mut buckets = Buckets::default();
        buckets.set(bytes(10), 0);
        buckets.issue(10_000, 0, 0);
        let waiting = buckets.issue(1, 0, 0);
        assert_eq!(buckets.wait_ms(&waiting, 0), 1_000_000);
        buckets.set(bytes(10_000), 0);
        assert_eq!(buckets.wait_ms(&waiting, 0), 1_000);
        buckets.set(Throttle::NONE, 0);
        assert_eq!(buckets.wait_ms(&waiting, 0), 0);
        buckets.set(bytes(10), 5);
        let fresh = buckets.issue(1, 0, 5);
        assert_eq!(buckets.wait_ms(&fresh, 5), 0, "without a limit nothing was owed");
    }

    #[test]
    fn the_stricter_limit_holds_and_what_is_given_back_is_free() {
        let mut buckets = Buckets::default();
        let both = Throttle {
            bytes_per_second: NonZeroU64::new(1_000_000),
            records_per_second: NonZeroU64::new(10),
        };
        buckets.set(both, 0);
        let first = buckets.issue(1_000, 100, 0);
        let second = buckets.issue(1_000, 100, 0);
        assert_eq!(buckets.wait_ms(&second, 0), 10_000);
        buckets.give_back(&first);
        assert_eq!(buckets.wait_ms(&second, 0), 0);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_twice() {
        let mut buckets = Buckets::default();
        buckets.set(bytes(1_000), 10_000);
        buckets.issue(10_000, 0, 10_000);
        let waiting = buckets.issue(1, 0, 10_000);
        assert_eq!(buckets.wait_ms(&waiting, 9_000), 10_000);
        assert_eq!(buckets.wait_ms(&waiting, 15_000), 5_000);
    }

    #[test]
    fn shares_add_up_to_the_limit_and_none_is_nothing() {
        let share = |part, of| bytes(1_000).shared(Share { part, of }).bytes_per_second.unwrap().get();
        assert_eq!((share(1, 3), share(2, 3)), (333, 666));
        assert_eq!((share(0, 3), share(3, 3)), (1, 1_000));
        assert_eq!(bytes(1_000).shared(Share::default()), bytes(1_000), "the whole");
    }
}
