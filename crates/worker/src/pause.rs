//! Jittered, growing pauses between attempts.

use std::time::Duration;

/// First pause at most.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(1);

/// A row of pauses: each at most twice as long as the one before, up to 1 s; how long exactly is drawn between half
/// and the whole, so that workers that lost the same coordinator don't come back in step.
#[derive(Debug, Clone)]
pub(crate) struct Pause {
    limit: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { limit: FIRST }
    }
}

impl Pause {
    /// Waits, and makes the next one longer.
    pub(crate) async fn next(&mut self) {
        let time = self.draw(rand::random_range(0.5..=1.0));
        tokio::time::sleep(time).await;
    }

    fn draw(&mut self, part: f64) -> Duration {
        let time = self.limit.mul_f64(part);
        self.limit = (self.limit * 2).min(LONGEST);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_second() {
        let mut pause = Pause::default();
        let drawn: Vec<u128> = (0..7).map(|_| pause.draw(1.0).as_millis()).collect();
        assert_eq!(drawn, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(Pause::default().draw(0.5).as_millis(), 25);
    }
}
