//! How many requests may be in flight on a connection.
//!
//! Owns a limit that follows the round trip, as FAST TCP does (Wei, Jin, Low, Hegde 2006): about [`QUEUED`] requests
//! more than the way itself holds, whatever its length. Those keep the broker busy; further ones would only wait there,
//! each in a request of its own, instead of here, where batches of other partitions join them. Must not know what a
//! request holds.

use std::time::{Duration, Instant};

/// Requests that wait at the broker.
const QUEUED: u64 = 8;
/// Requests in flight at most, whatever the way.
const LIMIT_MAX: u64 = 256;
/// Requests in flight at first: on a long way the limit has not to grow from little.
const AT_FIRST: u64 = 64;
/// When for so long no round trip was nearly as short as the shortest, the way may have changed, or only the queue may
/// hide it: few requests are sent for one round trip, to see (as BBR does).
const BASE_FOR: Duration = Duration::from_secs(10);
/// Requests in flight then.
const FEW: u64 = 2;

/// The limit, and what it follows.
#[derive(Debug)]
pub(super) struct Pace {
    limit: u64,
    sent: u64,
    /// The limit was set when so many were sent: only a later one tells what it led to.
    judged: u64,
    /// The shortest round trip, taken for that of the way alone, and when one nearly as short was seen.
    base: Option<(Duration, Instant)>,
    /// Few are sent to see the way alone.
    looking: bool,
}

/// A request that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    number: u64,
    /// When it was sent.
    pub(super) at: Instant,
    /// Requests in flight with it.
    in_flight: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { limit: AT_FIRST, sent: 0, judged: 0, base: None, looking: false }
    }
}

impl Pace {
    /// Whether one more may be sent beside these.
    pub(super) fn allows(&self, in_flight: usize) -> bool {
        let limit = if self.looking { FEW } else { self.limit };
        u64::try_from(in_flight).is_ok_and(|in_flight| in_flight < limit)
    }

    /// One more is sent beside these.
    pub(super) fn sent(&mut self, in_flight: usize, now: Instant) -> Ticket {
        self.sent += 1;
        let in_flight = u64::try_from(in_flight).unwrap_or(u64::MAX).saturating_add(1);
        Ticket { number: self.sent, at: now, in_flight }
    }

    /// It was answered. Returns whether it waited at the broker for the answers to earlier requests: its round trip took
    /// twice as long as that of the way alone, or longer.
    pub(super) fn answered(&mut self, ticket: Ticket, now: Instant) -> bool {
        let trip = now.saturating_duration_since(ticket.at).max(Duration::from_micros(1));
        let base = self.base(trip, ticket.in_flight, now);
        if ticket.number > self.judged {
            self.judge(trip, base, ticket);
        }
        ticket.in_flight > 1 && trip >= base * 2
    }

    fn judge(&mut self, trip: Duration, base: Duration, ticket: Ticket) {
        self.judged = self.sent;
        let next = if trip <= base + base / 4 {
            self.limit * 2
        } else {
            let on_the_way = u128::from(self.limit) * base.as_nanos() / trip.as_nanos();
            (self.limit + u64::try_from(on_the_way).unwrap_or(LIMIT_MAX) + QUEUED).div_ceil(2)
        };
        // Where there was nothing more to send, a higher limit was not tried.
        let tried = ticket.in_flight >= self.limit;
        if next < self.limit || tried {
            self.limit = next.clamp(QUEUED, LIMIT_MAX);
        }
    }

    /// It was lost with its connection. Half as many requests may be in flight on the next one, however many were lost
    /// together; the next one may go another way, so the round trip is measured anew.
    pub(super) fn lost(&mut self, ticket: Ticket) {
        self.base = None;
        self.looking = false;
        if ticket.number > self.judged {
            self.judged = self.sent;
            self.limit = (self.limit / 2).max(QUEUED);
        }
    }

    /// The round trip of the way alone, with this one.
    fn base(&mut self, trip: Duration, in_flight: u64, now: Instant) -> Duration {
        let (base, seen) = self.base.unwrap_or((trip, now));
        if trip <= base || (self.looking && in_flight <= FEW) {
            self.looking = false;
            self.base = Some((trip, now));
            return trip;
        }
        if trip <= base + base / 8 {
            self.base = Some((base, now));
        } else if now.saturating_duration_since(seen) >= BASE_FOR {
            self.looking = true;
        }
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A broker that is `way` away and takes `service` for each request, one after the other. Sends as much as is allowed
    /// for some seconds of `clock`; returns requests per second and the limit at the end.
    fn run(
        pace: &mut Pace,
        clock: &mut Instant,
        way: Duration,
        service: Duration,
        seconds: u64,
    ) -> (f64, u64) {
        let begin = *clock;
        let (mut now, mut free_at, mut answered) = (begin, begin, 0_u32);
        let mut in_flight: VecDeque<(Ticket, Instant)> = VecDeque::new();
        while now < begin + Duration::from_secs(seconds) {
            while pace.allows(in_flight.len()) {
                let ticket = pace.sent(in_flight.len(), now);
                free_at = free_at.max(now + way / 2) + service;
                in_flight.push_back((ticket, free_at + way / 2));
            }
            let (ticket, at) = in_flight.pop_front().unwrap();
            now = now.max(at);
            pace.answered(ticket, now);
            answered += 1;
        }
        *clock = in_flight.back().map_or(now, |(_, at)| *at);
        (f64::from(answered) / f64::from(u32::try_from(seconds).unwrap()), pace.limit)
    }

    #[test]
    fn near_a_few_requests_keep_the_broker_busy_and_far_many_do() {
        let (mut clock, millisecond) = (Instant::now(), Duration::from_millis(1));
        let mut pace = Pace::default();
        let (rate, limit) = run(&mut pace, &mut clock, millisecond / 5, millisecond, 5);
        assert!(rate > 990.0 && limit <= 2 * QUEUED, "near: {rate} {limit}");
        let mut pace = Pace::default();
        let (rate, limit) = run(&mut pace, &mut clock, 100 * millisecond, millisecond, 5);
        assert!(rate > 900.0 && limit > 100, "far: {rate} {limit}");
        let (rate, limit) = run(&mut pace, &mut clock, millisecond / 5, millisecond, 15);
        assert!(rate > 990.0 && limit <= 2 * QUEUED, "near again: {rate} {limit}");
        run(&mut pace, &mut clock, 100 * millisecond, millisecond, 15);
        let (rate, limit) = run(&mut pace, &mut clock, 100 * millisecond, millisecond, 15);
        assert!(rate > 800.0 && limit > 100, "far again, which only a look shows: {rate} {limit}");
    }

    #[test]
    fn the_limit_has_limits() {
        let (mut clock, mut pace) = (Instant::now(), Pace::default());
        let (_, limit) = run(&mut pace, &mut clock, Duration::from_secs(1), Duration::from_micros(10), 20);
        assert_eq!(limit, LIMIT_MAX);
        let (rate, limit) =
            run(&mut pace, &mut clock, Duration::from_micros(1), Duration::from_millis(50), 60);
        assert!((QUEUED..=2 * QUEUED).contains(&limit), "{limit}");
        assert!(rate > 19.0, "{rate}: always busy");
    }

    #[test]
    fn requests_that_wait_at_the_broker_are_told_apart() {
        let (mut pace, begin, ms) = (Pace::default(), Instant::now(), Duration::from_millis(1));
        let alone = pace.sent(0, begin);
        assert!(!pace.answered(alone, begin + 10 * ms));
        let together: Vec<Ticket> = (0..3).map(|in_flight| pace.sent(in_flight, begin)).collect();
        let waited: Vec<bool> =
            (1..).zip(together).map(|(turn, ticket)| pace.answered(ticket, begin + turn * 10 * ms)).collect();
        assert_eq!(waited, [false, true, true]);
    }

    #[test]
    fn a_lost_connection_halves_the_limit_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..2 {
            let lost: Vec<Ticket> = (0..10).map(|in_flight| pace.sent(in_flight, now)).collect();
            for ticket in lost {
                pace.lost(ticket);
            }
        }
        assert_eq!(pace.limit, AT_FIRST / 4);
        for _ in 0..10 {
            let ticket = pace.sent(0, now);
            pace.lost(ticket);
        }
        assert_eq!(pace.limit, QUEUED);
    }

    #[test]
    fn what_was_not_tried_does_not_raise_it() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            let ticket = pace.sent(0, now);
            now += Duration::from_millis(10);
            assert!(!pace.answered(ticket, now), "nothing was before it");
        }
        assert_eq!(pace.limit, AT_FIRST);
    }
}
