//! The source partition: a log that grows while the relay reads it, with transactions, compaction, retention,
//! truncation and re-creation.

use std::collections::BTreeMap;

use bytes::Bytes;
use mirrormesh_core::epochs::EpochEnd;
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::registry::Origin;
use mirrormesh_relay::page::SourcePage;
use mirrormesh_relay::reader::Aborted;

use crate::record::{self, APPEND_TIME, CONTROL, PACKED, Rec, TRANSACTIONAL};
use crate::returns::Other;

/// What became of a record's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Plain,
    Open,
    Committed,
    Aborted,
    /// A flow from the target appended it: it must not go back.
    Mirrored,
}

/// Producer id of a flow from the target.
const FLOW: i64 = 700;

/// Where a record went from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    Compacted,
    Retained,
    Truncated,
}

/// What is known of every record that was ever in the source.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    pub rec: Rec,
    pub topic: TopicId,
    pub offset: i64,
    pub state: State,
    /// As consumers see it.
    pub time: i64,
    pub gone: Option<Gone>,
    /// It was committed once: a truncation that took the marker came later.
    pub shown: bool,
    /// What the coordinator decided about its transaction; a marker that was lost is written again alike.
    pub decided: Option<bool>,
}

#[derive(Debug, Clone)]
pub struct Batch {
    pub base: i64,
    pub last: i64,
    pub pid: i64,
    pub txn: bool,
    pub control: bool,
    pub records: Vec<(i64, Rec)>,
    pub raw: mirrormesh_core::format::batch::RawBatch,
}

#[derive(Debug)]
pub struct Source {
    pub topic: TopicId,
    pub log: Vec<Batch>,
    pub start: i64,
    pub end: i64,
    pub high_watermark: i64,
    pub epoch: i32,
    pub history: Vec<(i32, i64)>,
    open: BTreeMap<i64, i64>,
    aborted: Vec<(i64, i64, i64)>,
    /// By number.
    pub infos: Vec<Info>,
    pub append_time: bool,
    /// A flow from the target writes here too.
    pub loops: bool,
    /// Batches that are packed, of a hundred.
    pub packed: u64,
    /// What another replica has.
    pub other: Option<Other>,
}

impl Source {
    pub fn new(topic: TopicId, append_time: bool, first: i64) -> Self {
        Self {
            topic,
            log: Vec::new(),
            start: first,
            end: first,
            high_watermark: first,
            epoch: 0,
            history: vec![(0, 0)],
            open: BTreeMap::new(),
            aborted: Vec::new(),
            infos: Vec::new(),
            append_time,
            loops: false,
            packed: 0,
            other: None,
        }
    }

    pub fn stable(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.end).min(self.high_watermark)
    }

    pub fn open_transactions(&self) -> Vec<i64> {
        self.open.keys().copied().collect()
    }

    fn push(
        &mut self,
        pid: i64,
        attributes: i16,
        records: Vec<(i64, Rec)>,
        last: i64,
        body: Option<&[u8]>,
        now: i64,
    ) {
        let mut header = record::header(self.end);
        header.leader_epoch = self.epoch;
        header.attributes = attributes;
        header.producer_id = pid;
        header.producer_epoch = if pid < 0 { -1 } else { 0 };
        header.last_offset_delta = (last - self.end) as i32;
        if attributes & APPEND_TIME != 0 {
            header.max_timestamp = now;
        }
        let raw = match body {
            Some(body) => {
                header.count = 1;
                header.base_timestamp = now;
                header.max_timestamp = now;
                record::seal(header, body)
            }
            None => record::encode(header, &records),
        };
        let (base, control, txn) = (self.end, attributes & CONTROL != 0, attributes & TRANSACTIONAL != 0);
        self.log.push(Batch { base, last, pid, txn, control, records, raw });
        self.end = last + 1;
    }

    /// Appends records; `transaction`: the producer of an open transaction, which begins here if it was not open.
    pub fn append(&mut self, records: &[(u32, i64, u32)], transaction: Option<i64>, now: i64) {
        let mut placed = Vec::new();
        let mirrored = self.loops && transaction.is_none() && self.infos.len() % 4 == 1;
        for (i, (key, time, size)) in records.iter().enumerate() {
            let offset = self.end + i as i64;
            let rec = Rec { uid: self.infos.len() as u64, key: *key, time: *time, size: *size };
            let state = match transaction {
                Some(_) => State::Open,
                None if mirrored => State::Mirrored,
                None => State::Plain,
            };
            let seen = if self.append_time { now } else { *time };
            self.infos.push(Info {
                rec,
                topic: self.topic,
                offset,
                state,
                time: seen,
                gone: None,
                shown: transaction.is_none(),
                decided: None,
            });
            placed.push((offset, rec));
        }
        let mut attributes = if self.append_time { APPEND_TIME } else { 0 };
        if self.infos.len() as u64 * 37 % 100 < self.packed {
            attributes |= PACKED;
        }
        if let Some(pid) = transaction {
            attributes |= TRANSACTIONAL;
            self.open.entry(pid).or_insert(self.end);
        }
        let last = self.end + records.len() as i64 - 1;
        let pid = transaction.unwrap_or(if mirrored { FLOW } else { -1 });
        self.push(pid, attributes, placed, last, None, now);
    }

    /// Ends a transaction.
    pub fn finish(&mut self, pid: i64, commit: bool, now: i64) {
        let Some(first) = self.open.remove(&pid) else { return };
        let mut ours = self.log.iter().filter(|b| b.txn && !b.control && b.pid == pid && b.base >= first);
        let known =
            ours.find_map(|b| b.records.first()).and_then(|(_, rec)| self.infos[rec.uid as usize].decided);
        let commit = known.unwrap_or(commit);
        let marker = self.end;
        let body = [0x16, 0, 0, 0, 8, 0, 0, 0, u8::from(commit), 0x0c];
        self.push(pid, TRANSACTIONAL | CONTROL, Vec::new(), marker, Some(&body), now);
        let state = if commit { State::Committed } else { State::Aborted };
        for batch in self.log.iter().filter(|b| b.txn && !b.control && b.pid == pid && b.base >= first) {
            for (_, rec) in &batch.records {
                let info = &mut self.infos[rec.uid as usize];
                info.state = state;
                info.shown |= commit;
                info.decided = Some(commit);
            }
        }
        if !commit {
            self.aborted.push((pid, first, marker));
        }
    }

    /// A fetch; `None` if the offset is out of range.
    pub fn fetch(&self, offset: i64, committed: bool, bytes_max: usize) -> Option<SourcePage> {
        if offset < self.start || offset > self.end {
            return None;
        }
        let end = if committed { self.stable() } else { self.high_watermark };
        let from = self.log.partition_point(|b| b.last < offset);
        let mut records = Vec::new();
        let mut upper = offset;
        for batch in self.log[from..].iter().take_while(|b| b.last < end) {
            if !records.is_empty() && records.len() + batch.raw.bytes.len() > bytes_max {
                // Brokers cut in the middle of a batch.
                records.extend_from_slice(&batch.raw.bytes[..batch.raw.bytes.len() / 2]);
                break;
            }
            records.extend_from_slice(&batch.raw.bytes);
            upper = batch.last + 1;
        }
        let begin = self.log.get(from).map_or(offset, |b| b.base.min(offset));
        let aborted =
            self.aborted.iter().filter(|(_, first, last)| committed && *last >= begin && *first < upper);
        Some(SourcePage {
            records: Bytes::from(records),
            aborted: aborted
                .map(|(producer_id, first_offset, _)| Aborted {
                    producer_id: *producer_id,
                    first_offset: *first_offset,
                })
                .collect(),
            end_offset: end,
            high_watermark: self.high_watermark,
            log_start: self.start,
        })
    }

    /// Where an epoch ends (`OffsetForLeaderEpoch`).
    pub fn epoch_end(&self, epoch: i32) -> Option<EpochEnd> {
        if epoch > self.epoch {
            return None;
        }
        let floor = self.history.iter().rev().find(|(e, _)| *e <= epoch).map_or(epoch, |(e, _)| *e);
        let higher = self.history.iter().find(|(e, _)| *e > epoch);
        let offset = higher.map_or(self.end, |(_, start)| *start);
        Some(EpochEnd { epoch: floor, offset, leader: self.epoch })
    }

    /// Records of this epoch are not what stands before this offset.
    pub fn parts_before(&self, epoch: i32, offset: i64) -> bool {
        let parts = |end: EpochEnd| end.offset < offset || end.epoch < epoch;
        epoch >= 0 && self.epoch_end(epoch).is_some_and(parts)
    }

    pub fn forget(infos: &mut [Info], batch: &Batch, gone: Gone) {
        for (_, rec) in &batch.records {
            infos[rec.uid as usize].gone = Some(gone);
        }
    }

    /// Deletes everything before this offset.
    pub fn retain(&mut self, start: i64) {
        let start = start.clamp(self.start, self.high_watermark.max(self.start));
        self.start = start;
        // What lies inside a batch stays in it, but a fetch from before the start is refused.
        let keep = self.log.partition_point(|b| b.last < start);
        for batch in self.log.drain(..keep) {
            Self::forget(&mut self.infos, &batch, Gone::Retained);
        }
        if let Some(batch) = self.log.first() {
            for (_, rec) in batch.records.iter().filter(|(offset, _)| *offset < start) {
                self.infos[rec.uid as usize].gone = Some(Gone::Retained);
            }
        }
        self.start = start;
        self.aborted.retain(|(_, _, last)| *last >= start);
    }

    /// An unclean election: the new leader lacks everything from this offset (moved to a batch's begin) on.
    pub fn truncate(&mut self, at: i64) {
        self.keep_other();
        let keep = self.log.partition_point(|b| b.last < at);
        let end = self.log.get(keep).map_or(self.end, |b| b.base).max(self.start);
        let cut = self.log.split_off(keep);
        for batch in &cut {
            Self::forget(&mut self.infos, batch, Gone::Truncated);
        }
        self.end = end;
        self.high_watermark = self.high_watermark.min(end);
        // Markers that went make their transactions open again; the producers end them anew.
        let undone: Vec<_> = cut.iter().filter(|b| b.control).map(|b| b.pid).collect();
        self.aborted.retain(|(_, _, last)| *last < end);
        self.open.retain(|_, first| *first < end);
        for pid in undone {
            let first = self.first_unfinished(pid);
            if let Some(first) = first {
                self.open.insert(pid, first);
            }
        }
        self.elect();
    }

    /// Restored from an older copy, which lacks everything from this offset on: no leader epoch tells of it.
    pub fn restore(&mut self, at: i64) {
        let (epoch, history) = (self.epoch, self.history.clone());
        self.truncate(at);
        (self.epoch, self.history) = (epoch, history);
    }

    fn first_unfinished(&mut self, pid: i64) -> Option<i64> {
        let after = self.log.iter().rposition(|b| b.control && b.pid == pid).map_or(0, |i| i + 1);
        let mut first = None;
        for batch in self.log[after..].iter().filter(|b| b.pid == pid && b.txn) {
            first = first.or(Some(batch.base));
            for (_, rec) in &batch.records {
                self.infos[rec.uid as usize].state = State::Open;
            }
        }
        first
    }

    /// A new leader.
    pub fn elect(&mut self) {
        self.epoch += 1;
        self.history.retain(|(_, start)| *start < self.end);
        self.history.push((self.epoch, self.end));
    }

    /// The cleaner: of each key only the newest record before `upto` stays, and nothing aborted.
    pub fn compact(&mut self, upto: i64, keep_empty: bool) {
        let upto = upto.min(self.stable());
        let mut newest: BTreeMap<u32, i64> = BTreeMap::new();
        for batch in self.log.iter().filter(|b| b.last < upto) {
            for (offset, rec) in &batch.records {
                if self.infos[rec.uid as usize].state != State::Aborted {
                    newest.insert(rec.key, *offset);
                }
            }
        }
        // An abort marker goes once nothing of its transaction is left; then nobody is told of it any more.
        if !keep_empty {
            let gone: Vec<i64> =
                self.aborted.iter().map(|(_, _, marker)| *marker).filter(|m| *m < upto).collect();
            self.log.retain(|b| !(b.control && gone.contains(&b.base)));
            self.aborted.retain(|(_, _, marker)| *marker >= upto);
        }
        let infos = &mut self.infos;
        let mut log = Vec::new();
        for mut batch in std::mem::take(&mut self.log) {
            if batch.last >= upto || batch.control {
                log.push(batch);
                continue;
            }
            let before = batch.records.len();
            batch.records.retain(|(offset, rec)| {
                let info = &mut infos[rec.uid as usize];
                let keep = info.state != State::Aborted && newest.get(&rec.key) == Some(offset);
                if !keep && info.gone.is_none() {
                    info.gone = Some(Gone::Compacted);
                }
                keep
            });
            if batch.records.is_empty() && !keep_empty {
                continue;
            }
            if batch.records.len() != before {
                batch.raw = record::encode(batch.raw.header, &batch.records);
            }
            log.push(batch);
        }
        self.log = log;
    }

    /// Deleted and made again under the same name.
    pub fn recreate(&mut self, topic: TopicId) {
        for batch in std::mem::take(&mut self.log) {
            Self::forget(&mut self.infos, &batch, Gone::Truncated);
        }
        let infos = std::mem::take(&mut self.infos);
        *self =
            Self { infos, loops: self.loops, packed: self.packed, ..Self::new(topic, self.append_time, 0) };
    }
}

/// What the registry says of a producer id.
pub fn origin(producer_id: i64) -> Origin {
    if producer_id != FLOW {
        return Origin::Client;
    }
    Origin::Flow { from_target: true, first_offset: Some(0) }
}
