//! How long a batch takes to be acknowledged at a broker that has more requests than it can answer at once.
//!
//! A broker answers one request of a connection at a time. While requests wait there, the time between two answers is
//! what the second request took; shared among its batches, it tells what a batch less would save. Must not know what the
//! time is used for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A measurement counts one part in so many.
const WEIGHT: u64 = 8;

/// A smoothed measurement. Written by one task, read by many.
#[derive(Debug, Default)]
pub(super) struct AckTime {
    ns: AtomicU64,
}

impl AckTime {
    /// A request with this many batches was answered. `took`: in this time, if it waited behind others; otherwise no
    /// time would be saved.
    pub(super) fn seen(&self, took: Option<Duration>, batches: usize) {
        let took = took.map_or(0, |took| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        let seen = took / u64::try_from(batches).unwrap_or(u64::MAX).max(1);
        let known = self.ns();
        self.ns.store(known - known / WEIGHT + seen / WEIGHT, Ordering::Relaxed);
    }

    /// Per batch; 0 if requests don't wait.
    pub(super) fn ns(&self) -> u64 {
        self.ns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_request_is_shared_by_its_batches() {
        let time = AckTime::default();
        for _ in 0..100 {
            time.seen(Some(Duration::from_millis(10)), 4);
        }
        assert!((2_400_000..=2_500_000).contains(&time.ns()), "{}", time.ns());
        for _ in 0..200 {
            time.seen(None, 4);
        }
        assert!(time.ns() < WEIGHT, "{}: nothing waits any more", time.ns());
    }
}
