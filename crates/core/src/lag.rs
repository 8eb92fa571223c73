//! How far behind a mirror is, and when it will have caught up.
//!
//! Owns the one way in which lag is worked out: API, metrics and planning of people show the same numbers since they
//! all ask here. Knows nothing about where figures come from; time is an argument.

use crate::report::PartitionFigures;

/// A mirror that has less left than it copies in this time is in step with its source: what is left is what is on its
/// way just now.
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

/// A sum of lags: records and bytes add up, the age is that of the oldest. What is not known of one part is not known
/// of the sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LagSum {
    parts: usize,
    sum: Option<Lag>,
}

impl Default for LagSum {
    fn default() -> Self {
        Self { parts: 0, sum: Some(Lag::NONE) }
    }
}

impl LagSum {
    /// Adds a part.
    pub fn add(&mut self, part: Option<Lag>) {
        self.parts += 1;
        let older = |a: f64, b: f64| a.max(b);
        self.sum = self.sum.zip(part).map(|(sum, part)| Lag {
            records: sum.records.saturating_add(part.records),
            bytes: sum.bytes.zip(part.bytes).map(|(a, b)| a.saturating_add(b)),
            seconds: sum.seconds.zip(part.seconds).map(|(a, b)| older(a, b)),
        });
    }

    /// The sum; `None` if a part is not known, or there is none.
    pub fn total(&self) -> Option<Lag> {
        self.sum.filter(|_| self.parts > 0)
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
    /// There is none.
    CaughtUp,
    /// In this many seconds.
    CatchingUp(f64),
    /// Never.
    FallingBehind,
}

impl Outlook {
    /// Of so many records, at this pace; `None` if that is not known.
    pub fn of(records: i64, pace: Option<Pace>) -> Self {
        if records <= 0 {
            return Self::CaughtUp;
        }
        let Some(Pace { mirrored, produced }) = pace else { return Self::Unknown };
        let left = to_f64(records);
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
    fn a_sum_is_known_if_all_its_parts_are() {
        assert_eq!(LagSum::default().total(), None);
        let sum = |parts: &[Option<Lag>]| {
            let mut sum = LagSum::default();
            for part in parts {
                sum.add(*part);
            }
            sum.total()
        };
        let part = |records, bytes, seconds| Some(Lag { records, bytes, seconds });
        let both = sum(&[part(3, Some(10), Some(7.0)), part(4, Some(20), Some(2.0))]);
        assert_eq!(both, part(7, Some(30), Some(7.0)));
        assert_eq!(sum(&[part(3, None, Some(7.0)), part(4, Some(20), None)]), part(7, None, None));
        assert_eq!(sum(&[part(3, Some(1), Some(7.0)), None]), None);
    }

    #[test]
    fn never_and_unknown_and_a_number_are_told_apart() {
        let pace = |mirrored, produced| Some(Pace { mirrored, produced });
        assert_eq!(Outlook::of(0, None), Outlook::CaughtUp);
        assert_eq!(Outlook::of(10, None), Outlook::Unknown);
        assert_eq!(Outlook::of(1_000, pace(150.0, 50.0)), Outlook::CatchingUp(10.0));
        assert_eq!(Outlook::of(1_000, pace(50.0, 150.0)), Outlook::FallingBehind);
        assert_eq!(Outlook::of(1_000, pace(0.0, 0.0)), Outlook::FallingBehind, "nothing moves");
        assert_eq!(Outlook::of(100, pace(100.0, 101.0)), Outlook::CatchingUp(1.0), "in step");
        assert_eq!(Outlook::of(100, pace(100.0, 0.0)), Outlook::CatchingUp(1.0));
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
