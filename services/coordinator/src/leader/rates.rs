//! Rates from counters that are reported now and then.
//!
//! Pure: time is an argument. A rate is an average over the last [`WINDOW`]: it is 0 once nothing moved for that long.
//! A unit whose figures do not change reports nothing, so silence means that the counter stands still.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The time that a rate is an average over.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// Silence up to this is the usual distance of reports.
const USUAL_SILENCE: Duration = Duration::from_millis(1_500);
/// After a longer silence, the counter is taken to have moved within this time before the report.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Counts that are kept are this far apart: seven of them span the window.
const SPACING: Duration = Duration::from_secs(2);
/// Reports closer to each other than this say nothing about a rate.
const SPACING_MIN: Duration = Duration::from_millis(50);
/// A rate is settled once counts were seen for this long: before, the start of the counter dominates it.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// The rate of one counter, per second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate {
    /// Counts, oldest first; the newest one is always the last report.
    counts: VecDeque<(Instant, i64)>,
    /// When the counter was first seen.
    since: Option<Instant>,
}

impl Rate {
    /// The counter stood at `count`. A counter that went back began anew.
    pub(crate) fn observe(&mut self, now: Instant, count: i64) {
        let Some(&(at, before)) = self.counts.back() else { return self.begin(now, count) };
        let elapsed = now.saturating_duration_since(at);
        if elapsed < SPACING_MIN {
            return;
        }
        if count < before {
            return self.begin(now, count);
        }
        if elapsed > USUAL_SILENCE
            && let Some(moved) = now.checked_sub(REPORT_INTERVAL)
        {
            self.push(moved, before);
        }
        self.push(now, count);
        let horizon = now.checked_sub(WINDOW);
        // One count before the window stays: the count at its beginning lies between that one and the next.
        while self.counts.get(1).is_some_and(|(at, _)| horizon.is_some_and(|horizon| *at <= horizon)) {
            self.counts.pop_front();
        }
    }

    fn begin(&mut self, now: Instant, count: i64) {
        self.counts.clear();
        self.counts.push_back((now, count));
        self.since = Some(now);
    }

    /// Adds a count; it takes the place of the newest one while that is too near to the one before it.
    fn push(&mut self, now: Instant, count: i64) {
        let kept = self.counts.len();
        let newest = self.counts.back().map(|(at, _)| *at);
        let before = kept.checked_sub(2).and_then(|index| self.counts.get(index)).map(|(at, _)| *at);
        if before.zip(newest).is_some_and(|(before, newest)| newest.duration_since(before) < SPACING) {
            self.counts.pop_back();
        }
        self.counts.push_back((now, count));
    }

    /// There is a rate: two counts were seen, or nothing changed for a while since the first.
    pub(crate) fn is_known(&self, now: Instant) -> bool {
        self.counts.len() > 1 || self.is_settled(now)
    }

    /// The counter has been watched long enough to tell a standstill from a start.
    pub(crate) fn is_settled(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= SETTLED_AFTER)
    }

    /// The rate as of `now`; 0 until two counts are known.
    pub(crate) fn at(&self, now: Instant) -> f64 {
        let (Some(&(first, _)), Some(&(last, count))) = (self.counts.front(), self.counts.back()) else {
            return 0.0;
        };
        let silent_from = now.checked_sub(USUAL_SILENCE).unwrap_or(last);
        let end = last.max(silent_from);
        let begin = end.checked_sub(WINDOW).map_or(first, |begin| begin.max(first));
        let seconds = end.saturating_duration_since(begin).as_secs_f64();
        if seconds <= 0.0 { 0.0 } else { (to_f64(count) - self.count_at(begin)).max(0.0) / seconds }
    }

    /// The count at a time, between the two that were seen around it.
    fn count_at(&self, time: Instant) -> f64 {
        let mut before: Option<(Instant, i64)> = None;
        for &(at, count) in &self.counts {
            if at >= time {
                let Some((earlier, counted)) = before else { return to_f64(count) };
                let part =
                    time.duration_since(earlier).as_secs_f64() / at.duration_since(earlier).as_secs_f64();
                return to_f64(counted) + part * to_f64(count.saturating_sub(counted));
            }
            before = Some((at, count));
        }
        before.map_or(0.0, |(_, count)| to_f64(count))
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

    fn after(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    fn close(rate: f64, wanted: f64) -> bool {
        (rate - wanted).abs() < 1e-6
    }

    #[test]
    fn a_steady_counter_has_its_rate() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        assert!(rate.at(begin) == 0.0 && !rate.is_known(begin));
        rate.observe(begin, 0);
        assert!(!rate.is_known(after(begin, 1)) && rate.is_known(after(begin, 5)), "nothing moves");
        for second in 0..20 {
            rate.observe(after(begin, second), i64::try_from(second).unwrap() * 500);
            assert!(second == 0 || close(rate.at(after(begin, second)), 500.0), "second {second}");
        }
        assert!(close(rate.at(after(begin, 20)), 500.0), "one second is the usual distance");
        assert!(rate.counts.len() <= 8, "{} counts are kept", rate.counts.len());
    }

    #[test]
    fn a_rate_is_zero_ten_seconds_after_the_end_of_traffic() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        for second in 0..=30 {
            rate.observe(after(begin, second), i64::try_from(second).unwrap() * 34_373);
        }
        let half = rate.at(after(begin, 30) + USUAL_SILENCE + WINDOW / 2);
        assert!(close(half, 34_373.0 / 2.0), "{half}");
        assert!(rate.at(after(begin, 30) + USUAL_SILENCE + WINDOW) == 0.0);
        assert!(rate.at(after(begin, 300)) == 0.0);
    }

    #[test]
    fn a_burst_after_silence_counts_from_the_last_second() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        rate.observe(begin, 0);
        rate.observe(after(begin, 60), 1_000);
        assert!(close(rate.at(after(begin, 60)), 100.0), "1,000 in a window of 10 s");
    }

    #[test]
    fn a_counter_that_began_anew_has_no_rate_yet() {
        let begin = Instant::now();
        let mut rate = Rate::default();
        rate.observe(begin, 1_000);
        rate.observe(after(begin, 1), 2_000);
        rate.observe(after(begin, 2), 10);
        assert!(rate.at(after(begin, 2)) == 0.0);
        rate.observe(after(begin, 3), 20);
        assert!(close(rate.at(after(begin, 3)), 10.0));
        assert!(!rate.is_settled(after(begin, 6)) && rate.is_settled(after(begin, 7)));
    }
}
