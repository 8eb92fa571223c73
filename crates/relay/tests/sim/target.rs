//! The target partition: a broker's log with producer state, high watermark and log end apart.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mirrormesh_core::format::batch::{BatchHeader, HEADER_BYTES, RawBatch};
use mirrormesh_core::ids::TopicId;
use mirrormesh_relay::facts::Facts;

use crate::kinds::Stored;
use crate::record::{self, APPEND_TIME, CODEC, PACKED, Rec};

#[derive(Debug, Clone)]
pub struct Batch {
    pub header: BatchHeader,
    pub records: Vec<(i64, Rec)>,
    pub raw: RawBatch,
}

/// What the broker remembers of a producer.
#[derive(Debug, Clone)]
pub struct Producer {
    pub epoch: i16,
    /// First and last sequence, base offset; the newest five.
    pub batches: VecDeque<(i32, i32, i64)>,
    pub last_time: i64,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It stands at this offset now. `armed`: the broker knew the producer.
    New { base: i64, armed: bool },
    /// It stood there already.
    Old { base: i64 },
    /// Refused with this code.
    Refused(i16),
}

#[derive(Debug)]
pub struct Target {
    pub topic: TopicId,
    pub facts: Facts,
    /// Its `compression.type`.
    pub stored: Stored,
    /// The lowest `max.message.bytes` that it ever had.
    pub bytes_min: usize,
    pub log: Vec<Batch>,
    pub start: i64,
    pub end: i64,
    pub high_watermark: i64,
    pub leader_epoch: i32,
    /// Goes up with every restart of the leader: connections don't survive it.
    pub process: u32,
    pub producers: BTreeMap<i64, Producer>,
}

fn last_sequence(header: &BatchHeader) -> i32 {
    ((i64::from(header.base_sequence) + i64::from(header.last_offset_delta)) & 0x7fff_ffff) as i32
}

impl Target {
    pub fn new(topic: TopicId, facts: Facts, stored: Stored) -> Self {
        Self {
            topic,
            facts,
            stored,
            bytes_min: facts.target_bytes_max,
            log: Vec::new(),
            start: 0,
            end: 0,
            high_watermark: 0,
            leader_epoch: 0,
            process: 0,
            producers: BTreeMap::new(),
        }
    }

    /// A produce request with one batch, checked as Kafka does (docs/kafka-behaviour.md).
    pub fn append(&mut self, header: &[u8; HEADER_BYTES], body: &Bytes, now: i64) -> Appended {
        let Some(parsed) = BatchHeader::parse(header) else { return Appended::Refused(2) };
        let raw = record::seal(parsed, body);
        if raw.header.crc != parsed.crc {
            return Appended::Refused(2);
        }
        if raw.bytes.len() > self.facts.target_bytes_max {
            return Appended::Refused(10);
        }
        if parsed.base_offset != 0 || !parsed.is_dense() || parsed.is_control() || parsed.is_transactional() {
            return Appended::Refused(87);
        }
        let Some(records) = record::decode(&raw) else { return Appended::Refused(87) };
        if records.iter().enumerate().any(|(i, (offset, _))| i as i64 != *offset) {
            return Appended::Refused(87);
        }
        if let Some((first, last)) = self.facts.timestamps(now as u64)
            && records.iter().any(|(_, r)| r.time != -1 && (r.time < first || r.time > last))
        {
            return Appended::Refused(32);
        }
        // Judged again as it is stored (`UnifiedLog.append`: the size may have changed), before its sequence is.
        let stored = self.stored_as(parsed, &records, now);
        if stored.bytes.len() > self.facts.target_bytes_max {
            return Appended::Refused(10);
        }
        let armed = self.producers.contains_key(&parsed.producer_id);
        if parsed.producer_id >= 0
            && let Some(decided) = self.check_producer(&parsed)
        {
            return decided;
        }
        let base = self.place(parsed, &records, now);
        Appended::New { base, armed }
    }

    /// The batch as it stands in the log.
    fn stored_as(&self, mut header: BatchHeader, records: &[(i64, Rec)], now: i64) -> RawBatch {
        header.leader_epoch = self.leader_epoch;
        if self.facts.target_append_time {
            header.attributes |= APPEND_TIME;
            header.max_timestamp = now;
        }
        match self.stored {
            Stored::AsSent => {}
            Stored::Plain => header.attributes &= !CODEC,
            Stored::Packed => header.attributes |= PACKED,
        }
        record::encode(header, records)
    }

    fn check_producer(&self, header: &BatchHeader) -> Option<Appended> {
        let known = self.producers.get(&header.producer_id)?;
        let (first, last) = (header.base_sequence, last_sequence(header));
        if known.epoch == header.producer_epoch
            && let Some((_, _, base)) = known.batches.iter().find(|(f, l, _)| (*f, *l) == (first, last))
        {
            return Some(Appended::Old { base: *base });
        }
        if header.producer_epoch < known.epoch {
            return Some(Appended::Refused(47));
        }
        if header.producer_epoch > known.epoch {
            return (first != 0).then_some(Appended::Refused(45));
        }
        let newest = known.batches.back().map_or(-1, |b| b.1);
        let next = if newest == i32::MAX { 0 } else { newest + 1 };
        (first != next).then_some(Appended::Refused(45))
    }

    fn place(&mut self, mut header: BatchHeader, records: &[(i64, Rec)], now: i64) -> i64 {
        let base = self.end;
        header.base_offset = base;
        let records: Vec<_> = records.iter().map(|(delta, rec)| (base + delta, *rec)).collect();
        let raw = self.stored_as(header, &records, now);
        let header = raw.header;
        self.end = header.next_offset();
        Self::remember(&mut self.producers, &header);
        self.log.push(Batch { header, records, raw });
        base
    }

    fn remember(producers: &mut BTreeMap<i64, Producer>, header: &BatchHeader) {
        if header.producer_id < 0 {
            return;
        }
        let fresh = || Producer { epoch: header.producer_epoch, batches: VecDeque::new(), last_time: -1 };
        let known = producers.entry(header.producer_id).or_insert_with(fresh);
        if known.epoch != header.producer_epoch {
            *known = fresh();
        }
        known.last_time = header.max_timestamp;
        known.batches.push_back((header.base_sequence, last_sequence(header), header.base_offset));
        if known.batches.len() > 5 {
            known.batches.pop_front();
        }
    }

    /// Offsets of the records that the cleaner left, and of those that retention may have taken.
    pub fn offsets(&self) -> std::collections::BTreeSet<i64> {
        let records = self.log.iter().flat_map(|b| &b.records).map(|(offset, _)| *offset);
        records.chain(0..self.start).collect()
    }

    /// Another writer's batch.
    pub fn foreign(&mut self, producer: i64, count: i64, now: i64) {
        let mut header = record::header(0);
        header.producer_id = producer;
        header.producer_epoch = if producer < 0 { -1 } else { 0 };
        let seen = self.producers.get(&producer).and_then(|p| p.batches.back()).map_or(0, |b| b.1 + 1);
        header.base_sequence = if producer < 0 { -1 } else { seen };
        header.last_offset_delta = count as i32 - 1;
        let rec = Rec { uid: u64::MAX, key: 9_999, time: now, size: 8 };
        let records: Vec<_> = (0..count).map(|i| (i, rec)).collect();
        self.place(header, &records, now);
    }

    /// The check that runs every `producer.id.expiration.check.interval.ms`: drops the state of producers whose last batch
    /// is too old by its highest timestamp, or by the broker's time where it sets that. Nothing else drops state by age
    /// while a broker runs, and the next append brings it back (`ProducerStateManager.removeExpiredProducers`).
    pub fn expire(&mut self, now: i64) -> bool {
        let before = self.producers.len();
        let expiration = self.facts.target_expiration_ms;
        self.producers.retain(|_, p| now.saturating_sub(p.last_time) < expiration);
        self.producers.len() != before
    }

    /// The log ends here now, and producer state is loaded anew: a snapshot of all before `snapshot`, and the batches
    /// behind it (`ProducerStateManager.truncateAndReload`).
    pub fn truncate(&mut self, at: i64, snapshot: i64, now: i64) {
        self.log.retain(|b| b.header.base_offset < at);
        self.end = at;
        // As `UnifiedLog.truncateTo` does it, a log start behind the new end moves back to it.
        self.start = self.start.min(at);
        self.high_watermark = self.high_watermark.min(at);
        self.reload(snapshot, true, now);
    }

    /// Loads producer state from a snapshot and from the batches behind it. A snapshot holds the last batch of each
    /// producer, and what is too old is left out of it. `keeps`: the snapshot also knows producers of which no batch is
    /// retained.
    pub fn reload(&mut self, snapshot: i64, keeps: bool, now: i64) {
        let known = std::mem::take(&mut self.producers);
        let gone = |p: &Producer| keeps && p.batches.back().is_some_and(|(_, _, base)| *base < self.start);
        let mut loaded: BTreeMap<_, _> = known.into_iter().filter(|(_, p)| gone(p)).collect();
        let split = self.log.partition_point(|b| b.header.base_offset < snapshot);
        for batch in &self.log[..split] {
            Self::remember(&mut loaded, &batch.header);
        }
        for producer in loaded.values_mut() {
            let last = producer.batches.pop_back();
            producer.batches = last.into_iter().collect();
        }
        self.producers = loaded;
        self.expire(now);
        for batch in &self.log[split..] {
            Self::remember(&mut self.producers, &batch.header);
        }
    }

    /// Deletes whole batches before this offset.
    pub fn retain(&mut self, start: i64) {
        let start = start.clamp(self.start, self.high_watermark.max(self.start));
        self.log.retain(|b| b.header.last_offset() >= start);
        self.start = start;
    }

    /// The cleaner, on everything before `upto`; the last batch of a producer stays, if need be without records.
    pub fn compact(&mut self, upto: i64) {
        let upto = upto.min(self.high_watermark);
        let mut newest: BTreeMap<u32, i64> = BTreeMap::new();
        let mut lasts: BTreeMap<i64, i64> = BTreeMap::new();
        for batch in &self.log {
            lasts.insert(batch.header.producer_id, batch.header.base_offset);
            if batch.header.last_offset() < upto {
                for (offset, rec) in &batch.records {
                    newest.insert(rec.key, *offset);
                }
            }
        }
        self.log.retain_mut(|batch| {
            if batch.header.last_offset() >= upto {
                return true;
            }
            let before = batch.records.len();
            batch.records.retain(|(offset, rec)| newest.get(&rec.key) == Some(offset));
            if batch.records.is_empty()
                && lasts.get(&batch.header.producer_id) != Some(&batch.header.base_offset)
            {
                return false;
            }
            if batch.records.len() != before {
                batch.raw = record::encode(batch.header, &batch.records);
                batch.header = batch.raw.header;
            }
            true
        });
    }

    /// Records from the batch on that holds this offset, as far as they are replicated.
    pub fn read(&self, offset: i64, bytes_max: usize) -> Bytes {
        let from = self.log.partition_point(|b| b.header.last_offset() < offset);
        let mut records = Vec::new();
        for batch in self.log[from..].iter().take_while(|b| b.header.next_offset() <= self.high_watermark) {
            if !records.is_empty() && records.len() + batch.raw.bytes.len() > bytes_max {
                break;
            }
            records.extend_from_slice(&batch.raw.bytes);
        }
        Bytes::from(records)
    }

    /// Deleted and made again under the same name.
    pub fn recreate(&mut self, topic: TopicId) {
        // What the old topic refused was too large for it.
        let (bytes_min, leader_epoch, process) = (self.bytes_min, self.leader_epoch, self.process);
        *self = Self { bytes_min, leader_epoch, process, ..Self::new(topic, self.facts, self.stored) };
    }
}
