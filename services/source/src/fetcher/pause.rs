//! How long a session rests between two fetches, so that a broker is not kept busy with looking.
//!
//! A broker goes through all partitions of a session for each of its fetches, and, while a fetch waits there, for each
//! append to any of them (`DelayedFetch.tryComplete`). Where partitions are many and bring little, that costs it far more
//! than their records do, and whoever produces to them waits behind it.

use std::time::Duration;

/// Rest for each partition of the session: several times what a broker takes to look at it.
const PER_PARTITION: Duration = Duration::from_micros(10);
/// Less than this is no rest: it would only be added to how late records come.
const REST_MIN: Duration = Duration::from_millis(2);
/// The longest rest, however many partitions there are.
const REST_MAX: Duration = Duration::from_millis(100);
/// A fetch that brings so many bytes was worth looking for.
const WORTHWHILE_BYTES: usize = 1 << 20;

/// The rest of a session of so many partitions, behind a fetch that brought so many bytes.
pub(super) fn rest(partitions: usize, brought_bytes: usize) -> Option<Duration> {
    if brought_bytes >= WORTHWHILE_BYTES {
        return None;
    }
    let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
    let rest = PER_PARTITION.saturating_mul(partitions).min(REST_MAX);
    (rest >= REST_MIN).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_partitions_that_bring_little_are_looked_at_less_often() {
        assert_eq!(rest(1, 0), None);
        assert_eq!(rest(199, 0), None);
        assert_eq!(rest(1_000, 100), Some(Duration::from_millis(10)));
        assert_eq!(rest(1_000, WORTHWHILE_BYTES), None);
        assert_eq!(rest(usize::MAX, 0), Some(REST_MAX));
    }
}
