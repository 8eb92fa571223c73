//! Rates from counters that are reported now and then.
//!
//! Pure: time is an argument. A unit whose figures do not change reports nothing, so silence lowers a rate.

use std::time::Duration;

use tokio::time::Instant;

/// Time constant of the exponential average.
const SMOOTHING: Duration = Duration::from_secs(5);
/// Silence up to this is the usual distance of reports.
const USUAL_SILENCE: Duration = Duration::from_millis(1_500);
/// Reports closer to each other than this say nothing about a rate.
const SPACING_MIN: Duration = Duration::from_millis(50);

/// The rate of one counter, per second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rate {
    per_second: Option<f64>,
    last: Option<(Instant, i64)>,
}

impl Rate {
    /// The counter stood at `count`. A counter that went back began anew.
    pub(crate) fn observe(&mut self, now: Instant, count: i64) {
        let Some((at, before)) = self.last else {
            self.last = Some((now, count));
            return;
        };
        let elapsed = now.saturating_duration_since(at);
        if elapsed < SPACING_MIN {
            return;
        }
        self.last = Some((now, count));
        if count < before {
            self.per_second = None;
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let present = to_f64(count.saturating_sub(before)) / seconds;
        let weight = 1.0 - (-seconds / SMOOTHING.as_secs_f64()).exp();
        self.per_second = Some(self.per_second.map_or(present, |rate| rate + weight * (present - rate)));
    }

    /// There is a rate: two counts were seen, or nothing changed for a while since the first.
    pub(crate) fn is_known(&self, now: Instant) -> bool {
        let quiet = |(at, _)| now.saturating_duration_since(at) >= SMOOTHING;
        self.per_second.is_some() || self.last.is_some_and(quiet)
    }

    /// The rate as of `now`; 0 until two counts are known.
    pub(crate) fn at(&self, now: Instant) -> f64 {
        let (Some(rate), Some((at, _))) = (self.per_second, self.last) else { return 0.0 };
        let silence = now.saturating_duration_since(at).saturating_sub(USUAL_SILENCE);
        let decayed = rate * (-silence.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
        if decayed < 0.001 { 0.0 } else { decayed }
    }
}

/// Counts are far below 2^53, where this begins to round.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn to_f64(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_its_rate_and_silence_lowers_it() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut rate = Rate::default();
        assert!(rate.at(begin) == 0.0 && !rate.is_known(begin));
        rate.observe(begin, 0);
        assert!(!rate.is_known(at(1)) && rate.is_known(at(5)), "nothing moves");
        for second in 0..20 {
            rate.observe(at(second), i64::try_from(second).unwrap() * 500);
        }
        assert!((rate.at(at(19)) - 500.0).abs() < 1e-6, "{}", rate.at(at(19)));
        assert!((rate.at(at(20)) - 500.0).abs() < 1e-6, "one second is the usual distance");
        assert!(rate.at(at(30)) < 100.0);
        assert!(rate.at(at(300)) == 0.0);
    }

    #[test]
    fn a_counter_that_began_anew_has_no_rate_yet() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        rate.observe(begin, 1_000);
        rate.observe(begin + Duration::from_secs(1), 2_000);
        rate.observe(begin + Duration::from_secs(2), 10);
        assert!(rate.at(begin + Duration::from_secs(2)) == 0.0);
        rate.observe(begin + Duration::from_secs(3), 20);
        assert!((rate.at(begin + Duration::from_secs(3)) - 10.0).abs() < 1e-6);
    }
}
