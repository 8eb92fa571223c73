//! When a failure that goes on is worth a line in the log.
//!
//! Pure: time is an argument. A failure that passes within seconds is none of the operator's business, and one that
//! lasts is said once, not with every attempt.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A failure must last this long before it is logged: healthy starts and elections pass faster.
pub const LASTING: Duration = Duration::from_secs(3);
/// At most one line of a kind in this time.
const LINE_EVERY: Duration = Duration::from_mins(1);

/// A failure that is tried again and again: it is worth one line for each reason, once it lasts.
#[derive(Debug, Clone, Default)]
pub struct Complaint {
    failing: Option<Failing>,
}

#[derive(Debug, Clone)]
struct Failing {
    reason: String,
    since: Instant,
    said: bool,
}

impl Complaint {
    /// It failed for this reason. Returns whether that is to be logged now.
    pub fn failed(&mut self, reason: &str, now: Instant) -> bool {
        match &mut self.failing {
            Some(failing) if failing.reason == reason => {
                let lasts = now.saturating_duration_since(failing.since) >= LASTING;
                lasts && !std::mem::replace(&mut failing.said, true)
            }
            failing => {
                *failing = Some(Failing { reason: reason.to_owned(), since: now, said: false });
                false
            }
        }
    }

    /// It works. Returns whether a failure was logged before, so that its end is worth a line too.
    pub fn passed(&mut self) -> bool {
        self.failing.take().is_some_and(|failing| failing.said)
    }
}

/// Lets one line pass per minute.
#[derive(Debug, Default)]
pub struct OncePerMinute(Mutex<Option<Instant>>);

impl OncePerMinute {
    /// No line has passed yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether the line may be logged at this time.
    pub fn may_log(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= LINE_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_failure_is_logged_once_per_reason() {
        let (mut complaint, begin) = (Complaint::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(!complaint.failed("A", begin) && !complaint.failed("A", at(2)));
        assert!(complaint.failed("A", at(3)));
        assert!(!complaint.failed("A", at(300)), "said already");
        assert!(!complaint.failed("B", at(301)));
        assert!(complaint.failed("B", at(304)), "another reason");
        assert!(complaint.passed() && !complaint.passed());
    }

    #[test]
    fn a_failure_that_passes_at_once_is_not_logged() {
        let (mut complaint, begin) = (Complaint::default(), Instant::now());
        for second in 0..100 {
            assert!(!complaint.failed("A", begin + Duration::from_secs(second)));
            assert!(!complaint.passed());
        }
    }

    #[test]
    fn one_line_passes_per_minute() {
        let (line, begin) = (OncePerMinute::default(), Instant::now());
        let logged = (0..180).filter(|second| line.may_log(begin + Duration::from_secs(*second))).count();
        assert_eq!(logged, 3);
    }
}
