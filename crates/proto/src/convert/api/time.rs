//! Points in time and durations, which the domain counts in ms.

use std::ops::RangeInclusive;

use crate::error::Faults;

/// Last second that a protobuf timestamp may name: the end of the year 9999.
const SECONDS_MAX: i64 = 253_402_300_799;
/// Longest duration that protobuf allows, some 10,000 years.
pub(super) const DURATION_MAX_MS: u64 = 315_576_000_000_000;
const MS_PER_SECOND: i64 = 1_000;
const NANOS_PER_MS: i32 = 1_000_000;
const NANOS_MAX: i32 = 999_999_999;

/// A point in time from ms since 1970; far beyond the year 9999 it is the last one that can be written.
pub fn timestamp(ms: u64) -> prost_types::Timestamp {
    timestamp_from(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// The same for ms that may lie before 1970.
pub(super) fn timestamp_from(ms: i64) -> prost_types::Timestamp {
    let seconds = ms.div_euclid(MS_PER_SECOND);
    if seconds > SECONDS_MAX {
        return prost_types::Timestamp { seconds: SECONDS_MAX, nanos: NANOS_MAX };
    }
    let ms_rest = i32::try_from(ms.rem_euclid(MS_PER_SECOND)).unwrap_or(0);
    prost_types::Timestamp { seconds, nanos: ms_rest * NANOS_PER_MS }
}

/// The first ms since 1970 that is not before the point in time.
pub(super) fn timestamp_ms(at: &prost_types::Timestamp, field: &str, faults: &mut Faults) -> Option<i64> {
    if !(0..=SECONDS_MAX).contains(&at.seconds) || !(0..=NANOS_MAX).contains(&at.nanos) {
        faults.push(field, "is not a time from 1970-01-01T00:00:00Z to the end of 9999");
        return None;
    }
    // Records carry whole ms, so rounding up loses none that is at or after the time and adds none before it.
    let rest = i64::from(at.nanos).div_euclid(NANOS_PER_MS.into());
    let partial = i64::from(at.nanos % NANOS_PER_MS != 0);
    Some(at.seconds * MS_PER_SECOND + rest + partial)
}

/// What an interval may be, in ms.
pub(super) struct Interval {
    pub(super) default_ms: u64,
    pub(super) allowed_ms: RangeInclusive<u64>,
}

impl Interval {
    /// An interval in whole ms; the default if absent.
    pub(super) fn read(
        &self,
        duration: Option<&prost_types::Duration>,
        field: &str,
        faults: &mut Faults,
    ) -> u64 {
        let Some(duration) = duration else { return self.default_ms };
        match whole_ms(duration) {
            Some(ms) if self.allowed_ms.contains(&ms) => return ms,
            Some(_) => {
                let (min, max) = (text(*self.allowed_ms.start()), text(*self.allowed_ms.end()));
                faults.push(field, format!("must be between {min} and {max}"));
            }
            None => faults.push(field, "must be a number of whole milliseconds, and not negative"),
        }
        self.default_ms
    }
}

fn whole_ms(duration: &prost_types::Duration) -> Option<u64> {
    if !(0..=NANOS_MAX).contains(&duration.nanos) || duration.nanos % NANOS_PER_MS != 0 {
        return None;
    }
    let seconds = u64::try_from(duration.seconds).ok()?;
    let rest = u64::try_from(duration.nanos / NANOS_PER_MS).ok()?;
    Some(seconds.saturating_mul(MS_PER_SECOND.unsigned_abs()).saturating_add(rest))
}

fn text(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{} s", ms / 1_000) } else { format!("{ms} ms") }
}

/// A duration from ms.
pub(super) fn duration(ms: u64) -> prost_types::Duration {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    let rest = i32::try_from(ms % 1_000).unwrap_or(0);
    prost_types::Duration { seconds, nanos: rest * NANOS_PER_MS }
}
