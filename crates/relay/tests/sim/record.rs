//! Records and batches with right headers and CRCs around a record encoding of our own, and the codecs that read it.

use bytes::Bytes;
use mirrormesh_core::format::batch::{BatchHeader, HEADER_BYTES, RawBatch};
use mirrormesh_core::format::samples::make;
use mirrormesh_relay::rebuild::{
    Codecs, Oversized, Piece, RebuildError, RebuildPlan, Rebuilt, RecordId, Run,
};

/// The bits of the codec; any codec leaves out the padding of records.
pub const CODEC: i16 = 0x07;
/// A codec.
pub const PACKED: i16 = 0x01;
pub const APPEND_TIME: i16 = 0x08;
pub const TRANSACTIONAL: i16 = 0x10;
pub const CONTROL: i16 = 0x20;

/// A record. Its number is unique in a run and grows with the source's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rec {
    pub uid: u64,
    pub key: u32,
    pub time: i64,
    pub size: u32,
}

const RECORD_BYTES: usize = 28;

impl Rec {
    pub fn bytes(&self) -> usize {
        RECORD_BYTES + self.size as usize
    }

    /// Bytes of a batch without a codec that holds it alone.
    pub fn alone(&self) -> usize {
        HEADER_BYTES + self.bytes()
    }
}

/// What the CRC covers of the header and what it does not.
pub fn header(base: i64) -> BatchHeader {
    BatchHeader {
        base_offset: base,
        leader_epoch: 0,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: -1,
        max_timestamp: -1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        count: 0,
    }
}

/// A batch of these bytes; the CRC is made.
pub fn seal(mut header: BatchHeader, body: &[u8]) -> RawBatch {
    let bytes = make(header, body);
    header.crc = u32::from_be_bytes(bytes[17..21].try_into().unwrap());
    RawBatch { header, bytes }
}

/// Records with their offsets into a batch. Timestamps of the header come from the records unless the broker set one.
pub fn encode(mut header: BatchHeader, records: &[(i64, Rec)]) -> RawBatch {
    let mut body = Vec::new();
    for (offset, rec) in records {
        body.extend_from_slice(&((offset - header.base_offset) as u32).to_be_bytes());
        body.extend_from_slice(&rec.time.to_be_bytes());
        body.extend_from_slice(&rec.uid.to_be_bytes());
        body.extend_from_slice(&rec.key.to_be_bytes());
        body.extend_from_slice(&rec.size.to_be_bytes());
        if header.attributes & CODEC == 0 {
            body.resize(body.len() + rec.size as usize, rec.uid as u8);
        }
    }
    header.count = records.len() as i32;
    if let Some((_, first)) = records.first() {
        header.base_timestamp = first.time;
        if header.attributes & APPEND_TIME == 0 {
            header.max_timestamp = records.iter().map(|(_, r)| r.time).max().unwrap();
        }
    }
    seal(header, &body)
}

/// Records with their offsets; `None` if they contradict the header or themselves.
pub fn decode(batch: &RawBatch) -> Option<Vec<(i64, Rec)>> {
    let mut rest = batch.bytes.get(HEADER_BYTES..)?;
    let mut records = Vec::with_capacity(batch.header.count as usize);
    while !rest.is_empty() {
        let take = |at: usize, n: usize| rest.get(at..at + n);
        let delta = u32::from_be_bytes(take(0, 4)?.try_into().ok()?);
        let time = i64::from_be_bytes(take(4, 8)?.try_into().ok()?);
        let uid = u64::from_be_bytes(take(12, 8)?.try_into().ok()?);
        let key = u32::from_be_bytes(take(20, 4)?.try_into().ok()?);
        let size = u32::from_be_bytes(take(24, 4)?.try_into().ok()?);
        let padding = if batch.header.attributes & CODEC == 0 { size as usize } else { 0 };
        let end = RECORD_BYTES + padding;
        if rest.get(RECORD_BYTES..end)?.iter().any(|b| *b != uid as u8) {
            return None;
        }
        records.push((batch.header.base_offset + i64::from(delta), Rec { uid, key, time, size }));
        rest = &rest[end..];
    }
    (records.len() == batch.header.count as usize).then_some(records)
}

fn mix(rec: &Rec) -> u64 {
    (rec.uid << 20) ^ (u64::from(rec.key) << 8) ^ u64::from(rec.size)
}

/// Codecs of the encoding above.
#[derive(Debug)]
pub struct Fake;

impl Fake {
    fn records(batch: &RawBatch) -> Result<Vec<(i64, Rec)>, RebuildError> {
        let mut records = decode(batch).ok_or_else(|| RebuildError {
            offset: batch.header.base_offset,
            problem: "not a batch of the simulation".to_owned(),
        })?;
        if batch.header.is_log_append_time() {
            for (_, rec) in &mut records {
                rec.time = batch.header.max_timestamp;
            }
        }
        Ok(records)
    }
}

/// A piece that is being put together.
struct Growing {
    records: Vec<(i64, Rec)>,
    /// Without a codec.
    plain: usize,
    codec: i16,
}

impl Growing {
    fn sent(&self, rec: &Rec) -> usize {
        let padding = if self.codec == 0 { rec.size as usize } else { 0 };
        RECORD_BYTES + padding
    }

    fn bytes(&self) -> usize {
        HEADER_BYTES + self.records.iter().map(|(_, rec)| self.sent(rec)).sum::<usize>()
    }

    fn takes(&self, rec: &Rec, plan: &RebuildPlan) -> bool {
        self.records.is_empty()
            || self.bytes() + self.sent(rec) <= plan.bytes_max
                && self.plain + rec.bytes() <= plan.plain_bytes_max
                && self.records.len() < plan.records_max
    }

    fn push(&mut self, offset: i64, rec: Rec) {
        self.plain += rec.bytes();
        self.records.push((offset, rec));
    }

    /// The piece, if there is one; nothing is left.
    fn take(&mut self, next_source: Option<i64>) -> Option<Piece> {
        let records = std::mem::take(&mut self.records);
        self.plain = HEADER_BYTES;
        let next_source = next_source.or_else(|| records.last().map(|(offset, _)| offset + 1))?;
        let mut runs: Vec<Run> = Vec::new();
        for (offset, _) in &records {
            match runs.last_mut() {
                Some(run) if run.first + run.count == *offset => run.count += 1,
                _ => runs.push(Run { first: *offset, count: 1 }),
            }
        }
        let dense: Vec<_> = records.iter().enumerate().map(|(i, (_, rec))| (i as i64, *rec)).collect();
        let mut header = header(0);
        header.attributes = self.codec;
        header.last_offset_delta = dense.len() as i32 - 1;
        (!dense.is_empty()).then(|| Piece { batch: encode(header, &dense), runs, next_source })
    }
}

impl Codecs for Fake {
    fn rebuild(&self, batches: &[RawBatch], plan: &RebuildPlan) -> Result<Rebuilt, RebuildError> {
        let mut rebuilt = Rebuilt::default();
        // The codec stays, unless batches of several are put together.
        let packed = batches.iter().all(|batch| batch.header.attributes & CODEC != 0);
        let codec = if packed { PACKED } else { 0 };
        let mut growing = Growing { records: Vec::new(), plain: HEADER_BYTES, codec };
        let last = batches.last().map_or(0, |b| b.header.next_offset());
        for batch in batches {
            for (offset, mut rec) in Self::records(batch)? {
                if offset < plan.from {
                    continue;
                }
                if let Some((first, last)) = plan.clamp {
                    rec.time = rec.time.clamp(first, last);
                }
                let alone = HEADER_BYTES + growing.sent(&rec);
                if alone > plan.bytes_max {
                    rebuilt.pieces.extend(growing.take(None));
                    rebuilt.oversized = Some(Oversized { offset, bytes: alone });
                    return Ok(rebuilt);
                }
                if !growing.takes(&rec, plan) {
                    rebuilt.pieces.extend(growing.take(None));
                }
                growing.push(offset, rec);
            }
        }
        rebuilt.pieces.extend(growing.take(Some(last)));
        Ok(rebuilt)
    }

    fn identify(&self, batch: &RawBatch) -> Result<Vec<RecordId>, RebuildError> {
        let records = Self::records(batch)?;
        Ok(records
            .iter()
            .map(|(offset, rec)| RecordId { offset: *offset, timestamp: rec.time, content: mix(rec) })
            .collect())
    }

    fn modernise(&self, _: &Bytes) -> Result<RawBatch, RebuildError> {
        Err(RebuildError { offset: 0, problem: "old formats are not simulated".to_owned() })
    }
}
