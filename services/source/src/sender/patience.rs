//! How long a broker may take to acknowledge a request, and when to find out whether a silent broker still works.
//!
//! The broker's time-out has to come before ours: its error 7 names the partition that is slow, and the other partitions
//! of the request keep their answers. So the time-out is short while a broker acknowledges quickly, and grows where all
//! acknowledgements are slow. Pure arithmetic: the caller passes the time in. Must not know what a request holds.

use std::time::{Duration, Instant};

/// The shortest time-out that a broker gets for a request.
const TIMEOUT_MIN: Duration = Duration::from_secs(3);
/// The longest.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// The time-out is so many times the slowest acknowledgement of the last minute.
const TIMES_SLOWEST: u32 = 4;
/// An answer is overdue after so many times the slowest acknowledgement of the last minute, and not before this time.
const OVERDUE_TIMES_SLOWEST: u32 = 2;
pub(super) const OVERDUE_MIN: Duration = Duration::from_millis(500);
/// Acknowledgements are remembered in steps of this length, six of them at least: a minute.
const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 7;
/// After so long without an answer on a connection, its broker is probed. If the broker answers the probe, it is probed
/// again after as long.
const SILENCE: Duration = Duration::from_secs(2);
/// A probe is answered within this time, or the connection is given up: at most 5 s after the last answer.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How quickly a broker acknowledges.
#[derive(Debug)]
pub(super) struct Patience {
    /// The slowest acknowledgement of each step, newest last.
    slowest: [Duration; STEPS],
    /// When the newest step began.
    since: Instant,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { slowest: [Duration::ZERO; STEPS], since: now }
    }

    /// A partition is about to come that the broker was slow with. It gets the longest time-out for a minute: a second
    /// recovery would not make its replicas quicker.
    pub(super) fn expect_slow(&mut self, now: Instant) {
        self.acknowledged(TIMEOUT_MAX / TIMES_SLOWEST, now);
    }

    /// A request with this many partitions was answered after `took`, of which `late` got error 7. If some partitions
    /// are late, the answer says nothing about the others: the broker answers them together. If all of several are late,
    /// the broker as a whole is slow, and acknowledgements take at least as long.
    pub(super) fn answered(&mut self, took: Duration, late: usize, partitions: usize, now: Instant) {
        if late == 0 || (late == partitions && partitions > 1) {
            self.acknowledged(took, now);
        }
    }

    fn acknowledged(&mut self, took: Duration, now: Instant) {
        self.step(now);
        if let Some(newest) = self.slowest.last_mut() {
            *newest = took.max(*newest);
        }
    }

    /// How long the broker may wait for its replicas.
    pub(super) fn timeout(&mut self, now: Instant) -> Duration {
        self.slowest(now).saturating_mul(TIMES_SLOWEST).clamp(TIMEOUT_MIN, TIMEOUT_MAX)
    }

    /// A silence of this length is unusual.
    pub(super) fn overdue(&mut self, now: Instant) -> Duration {
        self.slowest(now).saturating_mul(OVERDUE_TIMES_SLOWEST).max(OVERDUE_MIN)
    }

    fn slowest(&mut self, now: Instant) -> Duration {
        self.step(now);
        self.slowest.iter().max().copied().unwrap_or_default()
    }

    /// Forgets the steps that are more than a minute old.
    fn step(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < STEP {
            return;
        }
        let steps = elapsed.as_nanos() / STEP.as_nanos();
        for _ in 0..steps.min(STEPS as u128) {
            self.slowest.rotate_left(1);
            if let Some(newest) = self.slowest.last_mut() {
                *newest = Duration::ZERO;
            }
        }
        self.since = if steps > STEPS as u128 {
            now
        } else {
            self.since + STEP * u32::try_from(steps).unwrap_or(u32::MAX)
        };
    }
}

/// Since when a connection with requests in flight has brought no answer.
#[derive(Debug)]
pub(super) struct Silence {
    /// The last answer, or when the first request went out after all others were answered.
    since: Instant,
    /// The last probe that the broker answered.
    probed: Instant,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, probed: now }
    }

    /// An answer came, or a request went out while none was in flight.
    pub(super) fn ended(&mut self, now: Instant) {
        self.since = now;
    }

    /// How long a broker has worked on the oldest request, which was sent at that time.
    pub(super) fn took(&self, sent: Instant, now: Instant) -> Duration {
        now.saturating_duration_since(sent.max(self.since))
    }

    /// The silence lasts longer than this.
    pub(super) fn is_longer_than(&self, time: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > time
    }

    /// It is to be found out whether the broker works.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since.max(self.probed)) >= SILENCE
    }

    /// The broker has answered a probe.
    pub(super) fn probed(&mut self, now: Instant) {
        self.probed = now;
    }

    /// No answer has come since then.
    pub(super) fn lasts_since(&self, then: Instant) -> bool {
        self.since <= then
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_time_out_follows_the_slowest_of_a_minute() {
        let begin = Instant::now();
        let mut patience = Patience::new(begin);
        assert_eq!(patience.timeout(begin), 3 * SECOND);
        patience.answered(SECOND / 2, 0, 5, begin);
        assert_eq!(patience.timeout(begin), 3 * SECOND, "quick");
        patience.answered(2 * SECOND, 0, 5, begin + SECOND);
        patience.answered(SECOND, 0, 5, begin + 15 * SECOND);
        assert_eq!(patience.timeout(begin + 15 * SECOND), 8 * SECOND);
        assert_eq!(patience.timeout(begin + 61 * SECOND), 8 * SECOND, "within a minute");
        assert_eq!(patience.timeout(begin + 71 * SECOND), 4 * SECOND, "the one of 15 s ago is left");
        assert_eq!(patience.timeout(begin + 85 * SECOND), 3 * SECOND);
        patience.answered(9 * SECOND, 0, 1, begin + 1_000 * SECOND);
        assert_eq!(patience.timeout(begin + 1_001 * SECOND), 30 * SECOND, "at most");
        assert_eq!(patience.timeout(begin + 9_999 * SECOND), 3 * SECOND, "long ago");
    }

    #[test]
    fn one_slow_partition_makes_no_slow_broker() {
        let now = Instant::now();
        let mut patience = Patience::new(now);
        patience.answered(3 * SECOND, 1, 1, now);
        patience.answered(3 * SECOND, 2, 9, now);
        assert_eq!(patience.timeout(now), 3 * SECOND);
        patience.answered(3 * SECOND, 9, 9, now);
        assert_eq!(patience.timeout(now), 12 * SECOND, "all of them were late");
        assert_eq!(patience.overdue(now), 6 * SECOND);
        assert_eq!(patience.overdue(now + 100 * SECOND), OVERDUE_MIN);
    }

    #[test]
    fn a_slow_partition_gets_time_for_a_minute() {
        let now = Instant::now();
        let mut patience = Patience::new(now);
        patience.expect_slow(now);
        assert_eq!(patience.timeout(now + 60 * SECOND), 30 * SECOND);
        assert_eq!(patience.timeout(now + 75 * SECOND), 3 * SECOND);
    }

    #[test]
    fn silence_is_probed_and_ends_with_an_answer() {
        let begin = Instant::now();
        let mut silence = Silence::new(begin);
        silence.ended(begin + SECOND);
        assert!(!silence.wants_probe(begin + 2 * SECOND));
        assert!(silence.wants_probe(begin + 3 * SECOND));
        silence.probed(begin + 4 * SECOND);
        assert!(!silence.wants_probe(begin + 5 * SECOND), "it works");
        assert!(silence.wants_probe(begin + 6 * SECOND), "and is asked again");
        assert!(silence.is_longer_than(SECOND, begin + 3 * SECOND));
        assert!(!silence.is_longer_than(2 * SECOND, begin + 3 * SECOND));
        assert!(silence.lasts_since(begin + 3 * SECOND) && !silence.lasts_since(begin));
        assert_eq!(silence.took(begin, begin + 3 * SECOND), 2 * SECOND, "from the answer before it");
        assert_eq!(silence.took(begin + 2 * SECOND, begin + 3 * SECOND), SECOND);
    }

    #[test]
    fn a_silent_broker_is_known_within_five_seconds() {
        // The task looks every 500 ms.
        assert!(SILENCE + Duration::from_millis(500) + PROBE_TIMEOUT <= 5 * SECOND);
    }
}
