//! Codecs for tests: a record is 12 bytes, its offset delta and its content.

use bytes::Bytes;
use mirrormesh_core::format::batch::{BatchHeader, HEADER_BYTES, RawBatch, Stamp, split};
use mirrormesh_core::format::samples::{header, make};

use super::rebuild::{Codecs, Oversized, Piece, RebuildError, RebuildPlan, Rebuilt, RecordId, Run};

/// Makes a batch whose records have these source offsets; the content of a record is `seed` + its offset.
pub(crate) fn batch_of(offsets: &[i64], shape: BatchHeader, seed: u64) -> RawBatch {
    let mut body = Vec::new();
    for offset in offsets {
        body.extend_from_slice(&i32::try_from(offset - shape.base_offset).unwrap().to_be_bytes());
        body.extend_from_slice(&(seed + u64::try_from(*offset).unwrap()).to_be_bytes());
    }
    let count = i32::try_from(offsets.len()).unwrap();
    split(make(BatchHeader { count, ..shape }, &body)).next().unwrap().unwrap()
}

/// A dense batch of the source: content is the offset.
pub(crate) fn dense(base: i64, count: i32) -> RawBatch {
    let offsets: Vec<i64> = (base..base + i64::from(count)).collect();
    batch_of(&offsets, header(base, count), 0)
}

/// Several batches as a fetch has them.
pub(crate) fn joined(batches: &[RawBatch]) -> Bytes {
    Bytes::from(batches.iter().flat_map(|b| b.bytes.to_vec()).collect::<Vec<_>>())
}

/// The codecs.
pub(crate) struct Fake;

fn content(record: &[u8]) -> u64 {
    u64::from_be_bytes(record[4..12].try_into().unwrap())
}

impl Codecs for Fake {
    fn rebuild(&self, batches: &[RawBatch], plan: &RebuildPlan) -> Result<Rebuilt, RebuildError> {
        let (mut rebuilt, last) = (Rebuilt::default(), batches.last().unwrap().header);
        let stamp = Stamp { producer_id: 0, producer_epoch: 0, base_sequence: 0 };
        for batch in batches {
            batch.stamp_checked(stamp)?;
        }
        let records: Vec<RecordId> = batches
            .iter()
            .flat_map(|b| self.identify(b).unwrap())
            .filter(|r| r.offset >= plan.from)
            .collect();
        let fits = (plan.bytes_max.saturating_sub(HEADER_BYTES) / 12).min(plan.records_max);
        if fits == 0 && !records.is_empty() {
            rebuilt.oversized = Some(Oversized { offset: records[0].offset, bytes: HEADER_BYTES + 12 });
            return Ok(rebuilt);
        }
        for (index, chunk) in records.chunks(fits.max(1)).enumerate() {
            let mut body = Vec::new();
            for (delta, record) in chunk.iter().enumerate() {
                body.extend_from_slice(&i32::try_from(delta).unwrap().to_be_bytes());
                body.extend_from_slice(&record.content.to_be_bytes());
            }
            let shape = header(0, i32::try_from(chunk.len()).unwrap());
            let is_last = (index + 1) * fits >= records.len();
            rebuilt.pieces.push(Piece {
                batch: split(make(shape, &body)).next().unwrap().unwrap(),
                runs: chunk.iter().map(|r| Run { first: r.offset, count: 1 }).collect(),
                next_source: if is_last { last.next_offset() } else { chunk.last().unwrap().offset + 1 },
            });
        }
        Ok(rebuilt)
    }

    fn identify(&self, batch: &RawBatch) -> Result<Vec<RecordId>, RebuildError> {
        let base = batch.header.base_offset;
        let body = &batch.bytes[HEADER_BYTES..];
        let of = |r: &[u8]| RecordId {
            offset: base + i64::from(i32::from_be_bytes(r[..4].try_into().unwrap())),
            timestamp: 1,
            content: content(r),
        };
        Ok(body.chunks(12).map(of).collect())
    }

    fn modernise(&self, _: &Bytes) -> Result<RawBatch, RebuildError> {
        Err(RebuildError { offset: 0, problem: "not in this test".to_owned() })
    }
}
