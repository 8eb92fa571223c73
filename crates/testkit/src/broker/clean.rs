//! Compaction, as Kafka's cleaner does it to a log (`Cleaner.cleanInto`, `MemoryRecords.filterTo`).
//!
//! Owns which records go. What stays keeps its offset; a batch keeps its range of offsets and its sequences; the last
//! batch of a producer stays even if it is empty.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::{Batch, CONTROL, LOG_APPEND_TIME};
use super::codec::Codec;
use super::log::{Log, read_records};
use super::records::{self, Record};

impl Log {
    /// Removes every record below `to` that a newer record below `to` with the same key replaces. Tombstones and
    /// markers stay: they are too young to go.
    pub(super) fn compact(&mut self, to: i64) {
        let to = to.min(self.last_stable_offset());
        let newest = self.newest_by_key(to);
        let last_of_producer: BTreeMap<i64, i64> = self
            .batches
            .iter()
            .filter(|batch| batch.header.has_producer() && !batch.header.has(CONTROL))
            .map(|batch| (batch.header.producer_id, batch.header.base_offset))
            .collect();
        let mut kept = std::collections::VecDeque::new();
        for batch in std::mem::take(&mut self.batches) {
            if batch.header.base_offset >= to || batch.header.has(CONTROL) {
                kept.push_back(batch);
                continue;
            }
            let header = &batch.header;
            let records = if self.is_aborted(&batch) { Vec::new() } else { read_records(&batch) };
            let stays = |record: &Record| {
                let offset = header.base_offset + i64::from(record.offset_delta);
                record.key.as_ref().is_some_and(|key| newest.get(key) == Some(&offset))
            };
            let staying: Vec<_> = records.into_iter().filter(stays).collect();
            let is_last = last_of_producer.get(&header.producer_id) == Some(&header.base_offset);
            if usize::try_from(header.count) == Ok(staying.len()) && !staying.is_empty() {
                kept.push_back(batch);
            } else if !staying.is_empty() || is_last {
                kept.push_back(filtered(&batch, &staying));
            }
        }
        self.batches = kept;
    }

    fn newest_by_key(&self, to: i64) -> BTreeMap<Bytes, i64> {
        let mut newest = BTreeMap::new();
        let data = self.batches.iter().filter(|b| !b.header.has(CONTROL) && b.header.base_offset < to);
        for batch in data.filter(|batch| !self.is_aborted(batch)) {
            for record in read_records(batch) {
                if let Some(key) = record.key {
                    newest.insert(key, batch.header.base_offset + i64::from(record.offset_delta));
                }
            }
        }
        newest
    }

    fn is_aborted(&self, batch: &Batch) -> bool {
        let header = &batch.header;
        header.has(super::batch::TRANSACTIONAL)
            && self.aborted.iter().any(|aborted| {
                aborted.producer_id == header.producer_id
                    && (aborted.first_offset..aborted.last_offset).contains(&header.base_offset)
            })
    }
}

/// The batch with fewer records. Its highest timestamp is that of what stays.
fn filtered(batch: &Batch, staying: &[Record]) -> Batch {
    let mut header = batch.header;
    let Ok(count) = i32::try_from(staying.len()) else { return batch.clone() };
    header.count = count;
    let codec = if count == 0 { Codec::None } else { Codec::of(header.codec()).unwrap_or(Codec::None) };
    header.attributes = (header.attributes & !super::batch::CODEC_MASK) | codec.number();
    let highest = staying.iter().map(|record| header.base_timestamp + record.timestamp_delta).max();
    if !header.has(LOG_APPEND_TIME) {
        header.max_timestamp = highest.unwrap_or(header.max_timestamp);
    }
    match codec.compress(&records::encode(staying)) {
        Ok(body) => Batch::sealed(header, &body),
        Err(_) => batch.clone(),
    }
}
