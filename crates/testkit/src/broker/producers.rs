//! What a partition remembers of idempotent and transactional producers (`ProducerStateManager`).
//!
//! Owns the last batches of each producer id, its epoch and its open transaction, and the check of an append against
//! them. Must not know logs or time: both are given.

use std::collections::{BTreeMap, VecDeque};

use super::batch::{BatchHeader, TRANSACTIONAL, sequence_after};
use super::code;

/// So many batches are remembered for the recognition of duplicates.
const BATCHES_KEPT: usize = 5;

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remembered {
    first_sequence: i32,
    last_sequence: i32,
    first_offset: i64,
    last_offset: i64,
    timestamp: i64,
}

/// What is known of one producer id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerState {
    /// Its epoch.
    pub epoch: i16,
    /// The epoch of the coordinator that wrote its last marker, -1 if none did.
    pub coordinator_epoch: i32,
    /// Highest timestamp of its last batch, or the time of its last marker: what expiry looks at.
    pub last_timestamp: i64,
    /// First offset of its open transaction.
    pub transaction_start: Option<i64>,
    batches: VecDeque<Remembered>,
}

impl ProducerState {
    /// Sequence of its last record; -1 if none of this epoch is remembered.
    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(-1, |batch| batch.last_sequence)
    }

    /// Offset of its last record; -1 if none of this epoch is remembered.
    pub fn last_offset(&self) -> i64 {
        self.batches.back().map_or(-1, |batch| batch.last_offset)
    }
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It continues where it must.
    Append,
    /// It is there already.
    Duplicate { offset: i64, timestamp: i64 },
    /// Kafka's code for its refusal.
    Refused(i16),
}

/// All producers of a partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Producers {
    states: BTreeMap<i64, ProducerState>,
}

impl Producers {
    pub(super) fn states(&self) -> &BTreeMap<i64, ProducerState> {
        &self.states
    }

    pub(super) fn forget(&mut self, producer_id: i64) -> bool {
        self.states.remove(&producer_id).is_some()
    }

    /// Duplicates are looked for first, then the epoch, then the sequence, as in `UnifiedLog` and
    /// `ProducerAppendInfo`.
    pub(super) fn check(&self, batch: &BatchHeader) -> Verdict {
        if !batch.has_producer() {
            return Verdict::Append;
        }
        // Whatever epoch and sequence it has, a producer that is not known may begin.
        let Some(state) = self.states.get(&batch.producer_id) else { return Verdict::Append };
        let (first, last) = (batch.base_sequence, batch.last_sequence());
        if state.epoch == batch.producer_epoch {
            let same = state.batches.iter().find(|b| b.first_sequence == first && b.last_sequence == last);
            if let Some(same) = same {
                return Verdict::Duplicate { offset: same.first_offset, timestamp: same.timestamp };
            }
        }
        if batch.producer_epoch < state.epoch {
            return Verdict::Refused(code::INVALID_PRODUCER_EPOCH);
        }
        let expected =
            if batch.producer_epoch > state.epoch { 0 } else { sequence_after(state.last_sequence(), 1) };
        if first == expected { Verdict::Append } else { Verdict::Refused(code::OUT_OF_ORDER_SEQUENCE_NUMBER) }
    }

    /// Learns of a batch of records that stands in the log.
    pub(super) fn appended(&mut self, batch: &BatchHeader) {
        if !batch.has_producer() {
            return;
        }
        let state = self.entry(batch.producer_id, batch.producer_epoch);
        state.last_timestamp = batch.max_timestamp;
        if state.batches.len() == BATCHES_KEPT {
            state.batches.pop_front();
        }
        state.batches.push_back(Remembered {
            first_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            first_offset: batch.base_offset,
            last_offset: batch.last_offset(),
            timestamp: batch.max_timestamp,
        });
        if batch.has(TRANSACTIONAL) && state.transaction_start.is_none() {
            state.transaction_start = Some(batch.base_offset);
        }
    }

    /// Whether a marker may be written.
    pub(super) fn check_marker(
        &self,
        producer_id: i64,
        epoch: i16,
        coordinator_epoch: i32,
    ) -> Result<(), i16> {
        match self.states.get(&producer_id) {
            Some(state) if epoch < state.epoch => Err(code::INVALID_PRODUCER_EPOCH),
            Some(state) if coordinator_epoch < state.coordinator_epoch => {
                Err(code::TRANSACTION_COORDINATOR_FENCED)
            }
            _ => Ok(()),
        }
    }

    /// Learns of a marker; the first offset of the transaction that it ends, if it ends one.
    pub(super) fn marked(&mut self, marker: &BatchHeader, coordinator_epoch: i32) -> Option<i64> {
        let state = self.entry(marker.producer_id, marker.producer_epoch);
        state.coordinator_epoch = coordinator_epoch;
        state.last_timestamp = marker.max_timestamp;
        state.transaction_start.take()
    }

    /// A new epoch begins without remembered batches.
    fn entry(&mut self, producer_id: i64, epoch: i16) -> &mut ProducerState {
        let fresh = ProducerState {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: -1,
            transaction_start: None,
            batches: VecDeque::new(),
        };
        let state = self.states.entry(producer_id).or_insert(fresh);
        if state.epoch != epoch {
            state.epoch = epoch;
            state.batches.clear();
        }
        state
    }

    /// Forgets who has been silent for too long by the timestamps of the records, and has no open transaction.
    pub(super) fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.states.retain(|_, state| {
            state.transaction_start.is_some() || now_ms.saturating_sub(state.last_timestamp) < expiration_ms
        });
    }

    /// A snapshot, which a restarted broker reads, holds one batch of each producer.
    pub(super) fn restart(&mut self) {
        for state in self.states.values_mut() {
            let older = state.batches.len().saturating_sub(1);
            state.batches.drain(..older);
        }
    }

    /// First offset that no transaction has decided.
    pub(super) fn first_open_transaction(&self) -> Option<i64> {
        self.states.values().filter_map(|state| state.transaction_start).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, sequence: i32, count: i32, offset: i64) -> BatchHeader {
        BatchHeader {
            producer_id: 1,
            producer_epoch: epoch,
            base_sequence: sequence,
            base_offset: offset,
            ..BatchHeader::plain(count, 1000)
        }
    }

    fn with(batches: &[BatchHeader]) -> Producers {
        let mut producers = Producers::default();
        for batch in batches {
            assert_eq!(producers.check(batch), Verdict::Append, "{batch:?}");
            producers.appended(batch);
        }
        producers
    }

    #[test]
    fn five_batches_are_remembered() {
        let batches: Vec<_> = (0..6).map(|n| batch(0, n * 10, 10, i64::from(n) * 10)).collect();
        let producers = with(&batches);
        assert_eq!(producers.check(&batches[0]), Verdict::Refused(45));
        for (index, batch) in batches.iter().enumerate().skip(1) {
            let offset = i64::try_from(index).unwrap() * 10;
            assert_eq!(producers.check(batch), Verdict::Duplicate { offset, timestamp: 1000 });
        }
    }

    #[test]
    fn expiry_goes_by_the_last_batch_and_spares_open_transactions() {
        let mut producers = with(&[batch(0, 0, 1, 0)]);
        producers.expire(1999, 1000);
        assert_eq!(producers.states().len(), 1);
        producers.expire(2000, 1000);
        assert!(producers.states().is_empty());
        let mut open = with(&[BatchHeader { attributes: TRANSACTIONAL, ..batch(0, 0, 1, 0) }]);
        open.expire(1_000_000, 1000);
        assert_eq!(open.first_open_transaction(), Some(0));
    }
}
