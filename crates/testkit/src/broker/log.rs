//! One partition's log: batches, its two ends, the high watermark, leader epochs and transactions.
//!
//! Owns what is true of the log whoever leads it. Invariant: `log_start <= high_watermark <= log_end`, and the
//! producers' states are what the log's batches say, but for what has expired.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::batch::{Batch, BatchHeader, CONTROL, TRANSACTIONAL};
use super::producers::Producers;
use super::records::{self, Lengths, Record};

/// A transaction that was aborted, as a fetch tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    /// Its producer id.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of its marker.
    pub last_offset: i64,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// Readers drop its records.
    Abort,
    /// Readers take its records.
    Commit,
}

/// The log.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    pub(super) batches: VecDeque<Batch>,
    pub(super) log_start: i64,
    pub(super) log_end: i64,
    pub(super) high_watermark: i64,
    /// Epochs and where they begin.
    pub(super) epochs: Vec<(i32, i64)>,
    pub(super) producers: Producers,
    /// In the order of their markers.
    pub(super) aborted: Vec<Aborted>,
    /// First offset and marker of decided transactions.
    decided: Vec<(i64, i64)>,
}

impl Log {
    /// A leader takes over: what it appends belongs to this epoch.
    pub(super) fn begin_epoch(&mut self, epoch: i32) {
        // An epoch without a record leaves no trace.
        self.epochs.retain(|(_, start)| *start < self.log_end);
        self.epochs.push((epoch, self.log_end));
    }

    /// Appends a batch that has been checked; its base offset.
    pub(super) fn append(&mut self, batch: &Batch, leader_epoch: i32) -> i64 {
        let batch = batch.at(self.log_end, leader_epoch);
        let base_offset = self.log_end;
        self.producers.appended(&batch.header);
        self.log_end = batch.header.next_offset();
        self.batches.push_back(batch);
        base_offset
    }

    /// Appends a marker; its offset.
    pub(super) fn append_marker(
        &mut self,
        producer: (i64, i16),
        marker: Marker,
        coordinator_epoch: i32,
        now_ms: i64,
        leader_epoch: i32,
    ) -> i64 {
        let (producer_id, producer_epoch) = producer;
        let mut key = BytesMut::new();
        key.put_i16(0);
        key.put_i16(i16::from(marker == Marker::Commit));
        let mut value = BytesMut::new();
        value.put_i16(0);
        value.put_i32(coordinator_epoch);
        let header = BatchHeader {
            attributes: TRANSACTIONAL | CONTROL,
            producer_id,
            producer_epoch,
            ..BatchHeader::plain(1, now_ms)
        };
        let batch = Batch::sealed(header, &records::encode(&[Record::new(key.freeze(), value.freeze())]))
            .at(self.log_end, leader_epoch);
        let offset = self.log_end;
        self.learn_marker(&batch.header, marker, coordinator_epoch);
        self.log_end += 1;
        self.batches.push_back(batch);
        offset
    }

    fn learn_marker(&mut self, header: &BatchHeader, marker: Marker, coordinator_epoch: i32) {
        let Some(first_offset) = self.producers.marked(header, coordinator_epoch) else { return };
        self.decided.push((first_offset, header.base_offset));
        if marker == Marker::Abort {
            let (producer_id, last_offset) = (header.producer_id, header.base_offset);
            self.aborted.push(Aborted { producer_id, first_offset, last_offset });
        }
    }

    /// Before it everything is decided and replicated.
    pub(super) fn last_stable_offset(&self) -> i64 {
        let undecided = self.producers.first_open_transaction();
        // A marker that is not replicated yet decides nothing.
        let not_yet = self.decided.iter().filter(|(_, marker)| *marker >= self.high_watermark);
        let first = not_yet.map(|(first, _)| *first).chain(undecided).min();
        first.map_or(self.high_watermark, |first| first.min(self.high_watermark))
    }

    /// Whole batches from the one that holds `from`, up to the offset `to`; cut to `bytes_max` like Kafka, which may
    /// tear the last one. `whole_first` gives the first batch however large it is.
    pub(super) fn read(&self, from: i64, to: i64, bytes_max: usize, whole_first: bool) -> Bytes {
        let wanted =
            self.batches.iter().filter(|b| b.header.last_offset() >= from && b.header.base_offset < to);
        let mut out = BytesMut::new();
        for batch in wanted {
            let room = bytes_max.saturating_sub(out.len());
            if batch.bytes.len() <= room || (out.is_empty() && whole_first) {
                out.extend_from_slice(&batch.bytes);
                continue;
            }
            if !out.is_empty() {
                out.extend_from_slice(batch.bytes.get(..room).unwrap_or_default());
            }
            break;
        }
        out.freeze()
    }

    /// Aborted transactions that touch the offsets `from..to`.
    pub(super) fn aborted_in(&self, from: i64, to: i64) -> Vec<Aborted> {
        let touching = |a: &&Aborted| a.last_offset >= from && a.first_offset < to;
        self.aborted.iter().filter(touching).copied().collect()
    }

    /// The epoch at or below `epoch`, and where it ended; -1 and -1 if that is not known.
    pub(super) fn epoch_end(&self, epoch: i32) -> (i32, i64) {
        let next = self.epochs.iter().find(|(other, _)| *other > epoch);
        let floor = self.epochs.iter().rev().find(|(other, _)| *other <= epoch);
        match (floor, next) {
            (Some((own, _)), None) if *own == epoch => (epoch, self.log_end),
            (_, None) => (-1, -1),
            (None, Some((_, start))) => (epoch, *start),
            (Some((own, _)), Some((_, start))) => (*own, *start),
        }
    }

    /// Epoch of the newest record at or before `offset`.
    pub(super) fn epoch_at(&self, offset: i64) -> i32 {
        self.epochs.iter().rev().find(|(_, start)| *start <= offset).map_or(-1, |(epoch, _)| *epoch)
    }

    /// First offset whose record's timestamp is at least `timestamp_ms`, with that timestamp.
    pub(super) fn offset_for_time(&self, timestamp_ms: i64, to: i64) -> Option<(i64, i64)> {
        let batches = self.batches.iter().filter(|b| b.header.max_timestamp >= timestamp_ms);
        for batch in batches.filter(|b| b.header.base_offset < to && b.header.last_offset() >= self.log_start)
        {
            for (offset, timestamp) in times(batch) {
                if timestamp >= timestamp_ms && offset >= self.log_start && offset < to {
                    return Some((offset, timestamp));
                }
            }
        }
        None
    }

    /// Retention or `DeleteRecords`: the log begins at `offset`. Producers are remembered (KIP-360).
    pub(super) fn advance_start(&mut self, offset: i64) {
        self.log_start = offset.clamp(self.log_start, self.log_end);
        let start = self.log_start;
        self.batches.retain(|batch| batch.header.last_offset() >= start);
        self.aborted.retain(|aborted| aborted.last_offset >= start);
        while let [_, (_, second), ..] = self.epochs.as_slice()
            && *second <= start
        {
            self.epochs.remove(0);
        }
        if let Some((_, first)) = self.epochs.first_mut() {
            *first = (*first).max(start);
        }
        self.high_watermark = self.high_watermark.max(start);
    }

    /// Cuts the log off at `offset`, which must be where a batch begins or the end; producers roll back with it.
    pub(super) fn truncate(&mut self, offset: i64) {
        self.batches.retain(|batch| batch.header.base_offset < offset);
        self.log_end = self.batches.back().map_or(offset.min(self.log_end), |b| b.header.next_offset());
        self.log_start = self.log_start.min(self.log_end);
        self.high_watermark = self.high_watermark.min(self.log_end);
        let end = self.log_end;
        self.epochs.retain(|(_, start)| *start < end);
        self.reload();
    }

    /// Producers as a restarted broker finds them: from what the log still holds, of each one the last batch only. Who
    /// has expired is not among them.
    pub(super) fn restart(&mut self, now_ms: i64, expiration_ms: i64) {
        self.reload();
        self.producers.restart();
        self.producers.expire(now_ms, expiration_ms);
    }

    fn reload(&mut self) {
        self.producers = Producers::default();
        self.aborted.clear();
        self.decided.clear();
        for batch in self.batches.clone() {
            if batch.header.has(CONTROL) {
                if let Some((marker, coordinator_epoch)) = read_marker(&batch) {
                    self.learn_marker(&batch.header, marker, coordinator_epoch);
                }
            } else {
                self.producers.appended(&batch.header);
            }
        }
    }
}

/// Offsets and timestamps of a batch's records; nothing of what can't be read.
fn times(batch: &Batch) -> Vec<(i64, i64)> {
    let header = &batch.header;
    if header.has(super::batch::LOG_APPEND_TIME) {
        return vec![(header.base_offset, header.max_timestamp)];
    }
    let records = read_records(batch);
    let place = |r: &Record| {
        (header.base_offset + i64::from(r.offset_delta), header.base_timestamp + r.timestamp_delta)
    };
    records.iter().map(place).collect()
}

/// The records of a batch that was checked when it was appended.
pub(super) fn read_records(batch: &Batch) -> Vec<Record> {
    let plain = super::codec::Codec::of(batch.header.codec()).map(|codec| codec.decompress(batch.body()));
    let Some(Ok(plain)) = plain else { return Vec::new() };
    let lengths = if batch.header.codec() == 0 { Lengths::Checked } else { Lengths::Ignored };
    records::parse(plain, batch.header.count, lengths).unwrap_or_default()
}

/// What a control batch says; nothing if it is empty.
fn read_marker(batch: &Batch) -> Option<(Marker, i32)> {
    use bytes::Buf as _;
    let record = read_records(batch).into_iter().next()?;
    let (mut key, mut value) = (record.key?, record.value?);
    if key.len() < 4 || value.len() < 6 {
        return None;
    }
    key.advance(2);
    value.advance(2);
    let marker = if key.get_i16() == 1 { Marker::Commit } else { Marker::Abort };
    Some((marker, value.get_i32()))
}
