//! Time: the only place of a process that asks for it.
//!
//! Owns the wall clock in milliseconds and a monotonic count since start. The pure crates get
//! both as plain numbers.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall clock: milliseconds since 1970-01-01 UTC; 0 where the clock is set before that.
///
/// It can jump either way. Use [`Clock::elapsed_ms`] for leases, timeouts and ages.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| whole_ms(since.as_millis()))
}

/// A monotonic clock that counts from its start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that stands at 0 now.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Milliseconds since [`Clock::start`]; never goes back. Follows tokio's paused time in tests
    /// no more than `Instant` does: not at all.
    pub fn elapsed_ms(&self) -> u64 {
        whole_ms(self.started.elapsed().as_millis())
    }
}

/// 585 million years fit; the cap keeps the conversion total.
fn whole_ms(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_in_milliseconds() {
        let now = now_ms();
        // Between 2020 and 2100: seconds or microseconds would fall outside.
        assert!((1_577_836_800_000..4_102_444_800_000).contains(&now), "{now}");
    }

    #[test]
    fn the_monotonic_clock_starts_at_zero_and_does_not_go_back() {
        let clock = Clock::start();
        let first = clock.elapsed_ms();
        assert!(first < 10_000, "{first}");
        assert!(clock.elapsed_ms() >= first);
    }
}
