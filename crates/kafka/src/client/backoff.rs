//! Waiting longer after each failure, with jitter so that many waiters do not come back together.

use std::time::Duration;

/// Doubling delays from `min` to `max`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The next delay: between half and all of the nominal one.
    pub(crate) fn delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = nominal.saturating_mul(2).min(self.max);
        nominal.mul_f64(rand::random_range(0.5..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(70));
        for nominal in [20, 40, 70, 70] {
            let delay = backoff.delay();
            let nominal = Duration::from_millis(nominal);
            assert!(nominal / 2 <= delay && delay <= nominal, "{delay:?} for {nominal:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(20));
    }
}
