//! How large a batch may be, as far as the target's refusals tell.
//!
//! A broker judges a batch twice: as it arrives, and as it stores it. Where the topic's `compression.type` is not the
//! batch's codec, the broker packs the records anew, and what it stores can be larger than what was sent (a zstd batch of
//! 10 KB is 5 MB on a topic with `uncompressed`). So after a refusal compressed batches are cut by their size without
//! compression; a batch that is refused even so is halved down to one record before anything is called too large.

use super::window::RefusedBatch;

/// What is known of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Batches are cut by their size without compression.
    plain: bool,
    /// Batches that begin before this source offset hold so many records at most.
    halved: Option<(i64, usize)>,
    /// The target refused this record, alone in its batch.
    alone: Option<i64>,
}

impl Sizes {
    /// The target refused a batch for its size.
    pub fn refused(&mut self, batch: RefusedBatch) {
        if !self.plain {
            self.plain = true;
        } else if batch.records <= 1 {
            self.alone = Some(batch.first);
        } else {
            self.halved = Some((batch.next_source, batch.records / 2));
        }
    }

    /// The target refused some batch for its size.
    pub fn has_refused(&self) -> bool {
        self.plain
    }

    /// The settings of the target are others than before, so what it refused tells nothing.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// The target refuses the record at this source offset even alone in a batch. Told once: after a loss another record may
    /// stand there.
    pub fn is_too_large(&mut self, offset: i64) -> bool {
        self.alone.take_if(|alone| *alone == offset).is_some()
    }

    /// Is a batch of this codec that begins there to be cut?
    pub fn cuts(&self, compressed: bool, base_offset: i64) -> bool {
        self.plain && compressed || self.records_max(base_offset) < usize::MAX
    }

    /// Bytes of a batch without compression at most, where the target takes so many.
    pub fn plain_bytes_max(&self, target_bytes_max: usize) -> usize {
        if self.plain { target_bytes_max } else { usize::MAX }
    }

    /// Records of a batch that begins there at most.
    pub fn records_max(&self, base_offset: i64) -> usize {
        self.halved.filter(|(before, _)| base_offset < *before).map_or(usize::MAX, |(_, records)| records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(first: i64, records: usize) -> RefusedBatch {
        RefusedBatch { first, records, next_source: first + i64::try_from(records).unwrap() }
    }

    #[test]
    fn a_refused_batch_is_cut_then_halved_to_one_record() {
        let mut sizes = Sizes::default();
        assert!(!sizes.cuts(true, 0));
        sizes.refused(refused(10, 100));
        assert!(sizes.cuts(true, 10) && !sizes.cuts(false, 10), "plain ones are as large as they are sent");
        assert_eq!((sizes.plain_bytes_max(1_000), sizes.records_max(10)), (1_000, usize::MAX));
        sizes.refused(refused(10, 100));
        assert_eq!(sizes.records_max(10), 50);
        assert!(sizes.cuts(false, 109) && !sizes.cuts(false, 110), "those behind are not halved");
        let mut records = 50;
        while records > 1 {
            sizes.refused(refused(10, records));
            records = sizes.records_max(10);
        }
        assert!(!sizes.is_too_large(10));
        sizes.refused(refused(10, 1));
        assert!(!sizes.is_too_large(11) && sizes.is_too_large(10) && !sizes.is_too_large(10), "once");
        sizes.forget();
        assert_eq!(sizes, Sizes::default());
    }

    #[test]
    fn a_single_record_is_tried_twice() {
        let mut sizes = Sizes::default();
        sizes.refused(refused(5, 1));
        assert!(!sizes.is_too_large(5), "the settings may have changed: they are read again");
        sizes.refused(refused(5, 1));
        assert!(sizes.is_too_large(5));
    }
}
