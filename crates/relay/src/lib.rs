//! The relay of one partition: what to fetch, what to append, how far it is, and what is wrong.
//!
//! Owns the append contract: every decision is made here, without IO. [`machine`] puts the parts
//! together and says what to do; the source service only carries it out. [`resync`] finds the place to go on from
//! ([`align`]: by content, where counting can't be trusted), [`page`] and [`reader`] say what of a fetch is to be
//! mirrored, [`path`] which way a batch goes, [`economy`] whether small ones are put together, [`rebuild`] what is wanted
//! of codecs, [`window`] what may be sent and what an answer means ([`answer`]), [`journal`] when and what to write to the
//! positions topic, [`loss`] what is gone, [`origins`] which batches a mesh mirrored, [`chunks`] what of the segments may go,
//! [`paused`] how far behind a partition is that nobody runs.
//!
//! Must not know: the control plane, IO, clocks, randomness, async, serialisation frameworks, Kafka clients.

pub mod align;
pub mod answer;
pub mod chunks;
pub mod economy;
mod error_code;
pub mod facts;
mod in_flight;
pub mod journal;
pub mod loss;
pub mod machine;
pub mod origins;
pub mod page;
pub mod path;
pub mod paused;
pub mod reader;
pub mod rebuild;
pub mod resync;
pub mod sizes;
#[cfg(test)]
mod testing;
pub mod window;

/// Sequences wrap here (Kafka's `DefaultRecordBatch.incrementSequence`).
const SEQUENCES: i64 = 1 << 31;

/// The sequence of the n-th record of a generation.
pub fn sequence_of(n: i64) -> i32 {
    i32::try_from(n.rem_euclid(SEQUENCES)).unwrap_or(0)
}

/// Makes a range of offsets reach over this one too.
fn widen(range: &mut Option<(i64, i64)>, (from, to): (i64, i64)) {
    *range = Some(range.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
}

/// The record count that `sequence` stands for, at or behind `from`: the smallest n ≥ `from` with that sequence.
pub fn count_at(from: i64, sequence: i64) -> i64 {
    from + (sequence - from).rem_euclid(SEQUENCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_and_are_read_back() {
        assert_eq!(sequence_of(0), 0);
        assert_eq!(sequence_of((1 << 31) - 1), i32::MAX);
        assert_eq!(sequence_of(1 << 31), 0);
        assert_eq!(count_at(100, 100), 100);
        assert_eq!(count_at(100, 150), 150);
        assert_eq!(count_at((1 << 31) - 5, 3), (1 << 31) + 3);
        assert_eq!(count_at((5 << 31) + 7, 7), (5 << 31) + 7);
    }
}
