//! Pauses that grow while something keeps failing.
//!
//! Each pause is nominally twice the one before, up to a limit. A random part on top keeps many waiters from coming back
//! together.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Growing pauses for one row of attempts.
#[derive(Debug)]
pub struct Backoff {
    shape: ExponentialBuilder,
    pauses: ExponentialBackoff,
    max: Duration,
}

impl Backoff {
    /// Pauses of nominally `min`, twice `min`, and so on up to `max`. Each is up to twice as long, but for `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        let shape = shape(min, max).with_jitter();
        Self { shape, pauses: shape.build(), max }
    }

    /// The next pause.
    pub fn delay(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.max).min(self.max)
    }

    /// Waits for the next pause.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }

    /// The next pause is the first one again.
    pub fn reset(&mut self) {
        self.pauses = self.shape.build();
    }
}

/// The pause after so many failures in a row, without a random part: `min` after the first one.
pub fn pause_after(failures: u32, min: Duration, max: Duration) -> Duration {
    // Pauses have reached the limit long before.
    let failures = usize::try_from(failures.clamp(1, 64)).unwrap_or(64);
    shape(min, max).build().nth(failures - 1).unwrap_or(max)
}

fn shape(min: Duration, max: Duration) -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(min).with_max_delay(max).with_factor(2.0).without_max_times()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(70));
        for nominal in [20, 40, 70, 70] {
            let (pause, nominal) = (backoff.delay(), Duration::from_millis(nominal));
            let most = (nominal * 2).min(Duration::from_millis(70));
            assert!(nominal <= pause && pause <= most, "{pause:?} for {nominal:?}");
        }
        backoff.reset();
        assert!(backoff.delay() <= Duration::from_millis(40));
    }

    #[test]
    fn pauses_follow_the_number_of_failures() {
        let after =
            |failures| pause_after(failures, Duration::from_secs(1), Duration::from_mins(1)).as_secs();
        assert_eq!([0, 1, 2, 3, 6, 7, 8, u32::MAX].map(after), [1, 1, 2, 4, 32, 60, 60, 60]);
    }
}
