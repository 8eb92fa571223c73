//! What of a fetch is to be mirrored: transactions, markers, the place to begin.
//!
//! The rules are those of Kafka's own consumer (`CompletedFetch`), on whole batches. The set of
//! aborted producers belongs to one fetch and is never carried over.

use std::collections::BTreeSet;

use mirrormesh_core::format::batch::{ControlKind, RawBatch, control_kind};
use mirrormesh_core::stop::{Stop, StopReason};

/// An aborted transaction as a fetch names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Mirror its records from this source offset on.
    Mirror(i64),
    /// Leave it out: a marker, an aborted batch, an empty one, or one that lies before the place.
    Skip(Skip),
}

/// Why a batch is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// A control batch.
    Control,
    /// Part of an aborted transaction.
    Aborted,
    /// Compaction left no record in it.
    Empty,
    /// It ends before the place to go on from: a fetch may begin with such a batch.
    Before,
    /// A flow mirrored it to the source.
    Loop,
}

/// Judges the batches of one fetch, in order.
#[derive(Debug)]
pub struct FetchReader {
    read_committed: bool,
    /// Not yet reached, ordered by first offset.
    aborted: Vec<Aborted>,
    reached: usize,
    open: BTreeSet<i64>,
}

impl FetchReader {
    /// For one fetch. `aborted` as the response lists it, in any order.
    pub fn new(read_committed: bool, mut aborted: Vec<Aborted>) -> Self {
        aborted.sort_by_key(|transaction| transaction.first_offset);
        Self { read_committed, aborted, reached: 0, open: BTreeSet::new() }
    }

    /// Judges the next batch. `place` is the next source offset to mirror.
    pub fn judge(&mut self, batch: &RawBatch, place: i64) -> Judgement {
        let header = &batch.header;
        let aborted = self.read_committed && self.is_aborted(batch);
        if header.next_offset() <= place {
            return Judgement::Skip(Skip::Before);
        }
        if header.is_control() {
            return Judgement::Skip(Skip::Control);
        }
        if aborted {
            return Judgement::Skip(Skip::Aborted);
        }
        if header.count == 0 {
            return Judgement::Skip(Skip::Empty);
        }
        Judgement::Mirror(place.max(header.base_offset))
    }

    fn is_aborted(&mut self, batch: &RawBatch) -> bool {
        let header = &batch.header;
        while let Some(next) =
            self.aborted.get(self.reached).filter(|a| a.first_offset <= header.last_offset())
        {
            self.open.insert(next.producer_id);
            self.reached += 1;
        }
        if header.is_control() {
            if control_kind(batch) == ControlKind::Abort {
                self.open.remove(&header.producer_id);
            }
            return false;
        }
        header.is_transactional() && self.open.contains(&header.producer_id)
    }
}

impl Skip {
    /// Stable name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Aborted => "aborted",
            Self::Empty => "empty",
            Self::Before => "before",
            Self::Loop => "loop",
        }
    }
}

/// The stop for a batch that can't be read.
pub fn unreadable(offset: i64, problem: &str) -> Stop {
    Stop::new(
        StopReason::BatchCorrupt,
        format!("{problem}: check the source broker's disk and network, then pause and resume the flow"),
    )
    .at(offset, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::format::batch::BatchHeader;
    use mirrormesh_core::format::batch::split;
    use mirrormesh_core::format::samples::{header, make};

    fn batch(base: i64, count: i32, producer: i64, attributes: i16, body: &[u8]) -> RawBatch {
        let header = BatchHeader { producer_id: producer, attributes, ..header(base, count) };
        split(make(header, body)).next().unwrap().unwrap()
    }

    fn data(base: i64, count: i32, producer: i64) -> RawBatch {
        batch(base, count, producer, 0x10, b"")
    }

    fn mirrored(reader: &mut FetchReader, batch: &RawBatch) -> bool {
        matches!(reader.judge(batch, 0), Judgement::Mirror(_))
    }

    fn marker(base: i64, producer: i64, commit: u8) -> RawBatch {
        batch(base, 1, producer, 0x30, &[0x16, 0, 0, 0, 8, 0, 0, 0, commit, 0x0c])
    }

    #[test]
    fn aborted_batches_are_dropped_up_to_their_marker_only() {
        let aborted =
            vec![Aborted { producer_id: 7, first_offset: 2 }, Aborted { producer_id: 8, first_offset: 9 }];
        let mut reader = FetchReader::new(true, aborted);
        assert!(mirrored(&mut reader, &data(0, 2, 7)), "an earlier transaction of 7");
        assert_eq!(reader.judge(&data(2, 3, 7), 0), Judgement::Skip(Skip::Aborted));
        assert!(mirrored(&mut reader, &data(5, 2, 9)), "another producer");
        assert!(mirrored(&mut reader, &batch(7, 1, 7, 0, b"")), "7, not transactional");
        assert_eq!(reader.judge(&marker(8, 7, 0), 0), Judgement::Skip(Skip::Control));
        assert!(mirrored(&mut reader, &data(9, 1, 7)), "the next transaction of 7");
        assert_eq!(reader.judge(&data(10, 1, 8), 0), Judgement::Skip(Skip::Aborted));
    }

    #[test]
    fn uncommitted_reading_drops_only_markers() {
        let mut reader = FetchReader::new(false, vec![Aborted { producer_id: 7, first_offset: 0 }]);
        assert!(mirrored(&mut reader, &data(0, 2, 7)));
        assert_eq!(reader.judge(&marker(2, 7, 0), 0), Judgement::Skip(Skip::Control));
    }

    #[test]
    fn a_join_happens_up_to_the_last_offset() {
        let mut reader = FetchReader::new(true, vec![Aborted { producer_id: 7, first_offset: 4 }]);
        assert_eq!(reader.judge(&data(2, 3, 7), 0), Judgement::Skip(Skip::Aborted), "offset 4 is its last");
    }

    #[test]
    fn place_gaps_and_empty_batches() {
        let mut reader = FetchReader::new(true, Vec::new());
        assert_eq!(reader.judge(&data(0, 5, 1), 5), Judgement::Skip(Skip::Before));
        assert_eq!(reader.judge(&data(0, 5, 1), 3), Judgement::Mirror(3));
        let gappy = BatchHeader { count: 2, ..header(10, 5) };
        let gappy = split(make(gappy, b"")).next().unwrap().unwrap();
        assert_eq!(reader.judge(&gappy, 0), Judgement::Mirror(10), "what is left of it counts");
        let empty = BatchHeader { count: 0, ..header(20, 5) };
        let empty = split(make(empty, b"")).next().unwrap().unwrap();
        assert_eq!(reader.judge(&empty, 0), Judgement::Skip(Skip::Empty));
    }
}
