//! How far behind a mirror is, and when it will have caught up.
//!
//! Owns the one way in which lag is worked out: API, metrics and planning of people show the same numbers since they
//! all ask here. Knows nothing about where figures come from; time is an argument.

use crate::report::PartitionFigures;

/// A mirror is caught up while its oldest waiting record is younger than this. Workers report once a second, and a
/// record may need a second to be fetched, appended and acknowledged.
pub const CAUGHT_UP_SECONDS: f64 = 2.0;
/// A mirror that has fewer records left than it copies in this time keeps up with its source: the remaining records are
/// in flight.
const IN_STEP_SECONDS: f64 = 5.0;
/// Gains below this many records per second are none: averages never come to rest.
const GAIN_MIN: f64 = 0.001;

/// How far behind one partition, or a sum of them, is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lag {
    /// Records on the source that are not on the target, those of open transactions included.
    pub records: i64,
    /// Bytes of them; `None` if not known. Exact for what was fetched, estimated for the rest.
    pub bytes: Option<i64>,
    /// Age of the oldest of them that can be read; 0 when there is none, `None` if not known.
    pub seconds: Option<f64>,
}

impl Lag {
    /// Nothing is left.
    pub const NONE: Self = Self { records: 0, bytes: Some(0), seconds: Some(0.0) };

    /// `None` where the end of the source partition is not known, or was seen too long ago.
    pub fn of(figures: &PartitionFigures, now_ms: u64) -> Option<Self> {
        let end = figures.source_end_offset.filter(|_| figures.stale_since_ms.is_none())?;
        let records = end.saturating_sub(figures.source_offset).max(0);
        let readable = end.saturating_sub(figures.held_records.max(0));
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let age = |ms: i64| seconds(now.saturating_sub(ms).max(0));
        Some(Self {
            records,
            bytes: if records == 0 { Some(0) } else { figures.lag_bytes },
            seconds: if figures.source_offset >= readable {
                Some(0.0)
            } else {
                figures.oldest_pending_ms.map(age)
            },
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "ages are far below 2^53 ms")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

/// A sum of lags: records and bytes add up, the age is that of the oldest record.
///
/// A part without a measurement is left out of the sum and counted beside it. One partition that can't be measured must
/// not hide the lag of all others.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LagSum {
    unmeasured: usize,
    sum: Option<Lag>,
}

impl LagSum {
    /// Adds a part.
    pub fn add(&mut self, part: Option<Lag>) {
        let Some(part) = part else {
            self.unmeasured += 1;
            return;
        };
        self.sum = Some(self.sum.map_or(part, |sum| Lag {
            records: sum.records.saturating_add(part.records),
            bytes: either(sum.bytes, part.bytes, i64::saturating_add),
            seconds: either(sum.seconds, part.seconds, f64::max),
        }));
    }

    /// The sum of the measured parts; `None` if no part was measured.
    pub fn total(&self) -> Option<Lag> {
        self.sum
    }

    /// How many parts were not measured.
    pub fn unmeasured(&self) -> usize {
        self.unmeasured
    }
}

/// Both values together, or the one that is known.
fn either<T>(a: Option<T>, b: Option<T>, both: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(both(a, b)),
        (a, b) => a.or(b),
    }
}

/// Source offsets per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// By which the mirror moves on.
    pub mirrored: f64,
    /// By which the source grows.
    pub produced: f64,
}

/// When the lag will be gone if everything goes on as it does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outlook {
    /// Not known.
    Unknown,
    /// No readable record waits longer than [`CAUGHT_UP_SECONDS`].
    CaughtUp,
    /// In this many seconds.
    CatchingUp(f64),
    /// Never.
    FallingBehind,
}

impl Outlook {
    /// The outlook of a partition that nobody mirrors now: stopped or paused.
    pub fn at_rest(lag: Lag) -> Self {
        if lag.records <= 0 { Self::CaughtUp } else { Self::FallingBehind }
    }

    /// The outlook of a partition that is mirrored at this pace; a pace of `None` is not known yet.
    pub fn of(lag: Lag, pace: Option<Pace>) -> Self {
        if lag.records <= 0 || lag.seconds.is_some_and(|seconds| seconds < CAUGHT_UP_SECONDS) {
            return Self::CaughtUp;
        }
        let Some(Pace { mirrored, produced }) = pace else { return Self::Unknown };
        let left = to_f64(lag.records);
        let gain = mirrored - produced;
        if left <= mirrored * IN_STEP_SECONDS {
            // Where both are equally fast, the gain is noise around 0, and what is left is on its way.
            Self::CatchingUp(left / mirrored.max(gain))
        } else if gain > GAIN_MIN {
            Self::CatchingUp(left / gain)
        } else {
            Self::FallingBehind
        }
    }

    /// Of two parts together: never if one of them never is, else the later one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::FallingBehind, _) | (_, Self::FallingBehind) => Self::FallingBehind,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::CatchingUp(a), Self::CatchingUp(b)) => Self::CatchingUp(a.max(b)),
            (Self::CatchingUp(a), Self::CaughtUp) | (Self::CaughtUp, Self::CatchingUp(a)) => {
                Self::CatchingUp(a)
            }
            (Self::CaughtUp, Self::CaughtUp) => Self::CaughtUp,
        }
    }

    /// Seconds until the lag is gone; `None` where that is not known or never.
    pub fn seconds(self) -> Option<f64> {
        match self {
            Self::CaughtUp => Some(0.0),
            Self::CatchingUp(seconds) => Some(seconds),
            Self::Unknown | Self::FallingBehind => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn to_f64(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> PartitionFigures {
        PartitionFigures {
            source_offset: 90,
            source_end_offset: Some(120),
            held_records: 20,
            lag_bytes: Some(3_000),
            oldest_pending_ms: Some(1_000),
            ..PartitionFigures::default()
        }
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let lag = Lag::of(&figures(), 3_500).unwrap();
        assert_eq!(lag, Lag { records: 30, bytes: Some(3_000), seconds: Some(2.5) });
        let stale = PartitionFigures { stale_since_ms: Some(3_000), ..figures() };
        assert_eq!(Lag::of(&stale, 3_500), None, "an old end is no end");
        let unseen = PartitionFigures { source_end_offset: None, ..figures() };
        assert_eq!(Lag::of(&unseen, 3_500), None);
        let vague = PartitionFigures { lag_bytes: None, oldest_pending_ms: None, ..figures() };
        assert_eq!(Lag::of(&vague, 3_500), Some(Lag { records: 30, bytes: None, seconds: None }));
    }

    #[test]
    fn what_an_open_transaction_holds_has_no_age_and_nothing_left_has_no_bytes() {
        let held = PartitionFigures { source_offset: 100, ..figures() };
        assert_eq!(Lag::of(&held, 3_500).unwrap().seconds, Some(0.0));
        let done = PartitionFigures { source_offset: 120, lag_bytes: None, ..figures() };
        assert_eq!(Lag::of(&done, 3_500), Some(Lag::NONE));
        let beyond = PartitionFigures { source_offset: 200, ..figures() };
        assert_eq!(Lag::of(&beyond, 3_500).unwrap().records, 0, "the end was read before the place");
    }

    #[test]
    fn unmeasured_parts_are_left_out_and_counted() {
        assert_eq!(LagSum::default().total(), None);
        let sum = |parts: &[Option<Lag>]| {
            let mut sum = LagSum::default();
            for part in parts {
                sum.add(*part);
            }
            (sum.total(), sum.unmeasured())
        };
        let part = |records, bytes, seconds| Some(Lag { records, bytes, seconds });
        let both = sum(&[part(3, Some(10), Some(7.0)), part(4, Some(20), Some(2.0))]);
        assert_eq!(both, (part(7, Some(30), Some(7.0)), 0));
        let vague = sum(&[part(3, None, Some(7.0)), part(4, Some(20), None)]);
        assert_eq!(vague, (part(7, Some(20), Some(7.0)), 0));
        assert_eq!(sum(&[None, part(3, Some(1), Some(7.0)), None]), (part(3, Some(1), Some(7.0)), 2));
        assert_eq!(sum(&[part(3, None, None), part(1, None, None)]), (part(4, None, None), 0));
        assert_eq!(sum(&[None]), (None, 1));
    }

    #[test]
    fn never_unknown_and_a_number_are_told_apart() {
        let pace = |mirrored, produced| Some(Pace { mirrored, produced });
        let old = |records| Lag { records, bytes: None, seconds: Some(60.0) };
        assert_eq!(Outlook::of(Lag::NONE, None), Outlook::CaughtUp);
        assert_eq!(Outlook::of(old(10), None), Outlook::Unknown);
        assert_eq!(Outlook::of(old(1_000), pace(150.0, 50.0)), Outlook::CatchingUp(10.0));
        assert_eq!(Outlook::of(old(1_000), pace(50.0, 150.0)), Outlook::FallingBehind);
        assert_eq!(Outlook::of(old(1_000), pace(0.0, 0.0)), Outlook::FallingBehind, "nothing moves");
        assert_eq!(Outlook::of(old(100), pace(100.0, 101.0)), Outlook::CatchingUp(1.0), "in step");
        assert_eq!(Outlook::of(old(100), pace(100.0, 0.0)), Outlook::CatchingUp(1.0));
    }

    #[test]
    fn young_waiting_records_are_caught_up_at_any_pace() {
        let waiting = |seconds| Lag { records: 6, bytes: None, seconds };
        let pace = |mirrored, produced| Some(Pace { mirrored, produced });
        for pace in [None, pace(60.0, 60.0), pace(0.0, 60.0)] {
            assert_eq!(Outlook::of(waiting(Some(1.9)), pace), Outlook::CaughtUp);
        }
        assert_eq!(Outlook::of(waiting(Some(2.0)), pace(0.0, 60.0)), Outlook::FallingBehind);
        assert_eq!(Outlook::of(waiting(None), pace(60.0, 60.0)), Outlook::CatchingUp(0.1), "age not known");
    }

    #[test]
    fn a_partition_at_rest_with_lag_falls_behind() {
        let waiting = Lag { records: 1, bytes: None, seconds: Some(0.1) };
        assert_eq!(Outlook::at_rest(waiting), Outlook::FallingBehind);
        assert_eq!(Outlook::at_rest(Lag::NONE), Outlook::CaughtUp);
    }

    #[test]
    fn the_worst_part_decides() {
        use Outlook::{CatchingUp, CaughtUp, FallingBehind, Unknown};
        assert_eq!(CatchingUp(3.0).and(CatchingUp(9.0)).and(CaughtUp), CatchingUp(9.0));
        assert_eq!(CatchingUp(3.0).and(Unknown), Unknown);
        assert_eq!(Unknown.and(FallingBehind).and(CatchingUp(1.0)), FallingBehind);
        assert_eq!(CaughtUp.and(CaughtUp).seconds(), Some(0.0));
        assert_eq!((FallingBehind.seconds(), Unknown.seconds()), (None, None));
    }
}
