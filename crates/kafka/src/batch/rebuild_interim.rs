//! Interim.
use bytes::Bytes;
use mirrormesh_core::format::batch::{RawBatch, split};
use mirrormesh_core::relay::rebuild::{
    Codecs, Oversized, Piece, RebuildError, RebuildPlan, Rebuilt, RecordId, Run,
};

use super::{Codec, Producer, Record, decode_records, encode_records};

/// Codecs.
#[derive(Debug, Clone, Copy)]
pub struct RecordCodecs {
    limit: usize,
}

impl RecordCodecs {
    /// With a limit.
    pub const fn new(limit: usize) -> Self {
        Self { limit }
    }

    fn decode(&self, batch: &RawBatch) -> Result<Vec<Record>, RebuildError> {
        decode_records(&batch.bytes, self.limit)
            .map_err(|e| RebuildError { offset: batch.header.base_offset, problem: e.to_string() })
    }

    fn pack(records: &[Record], codec: Codec, max: usize, out: &mut Rebuilt) -> Result<(), RebuildError> {
        if records.is_empty() || out.oversized.is_some() {
            return Ok(());
        }
        let fail = |problem: String| RebuildError { offset: records[0].offset, problem };
        let bytes = encode_records(records, codec, Producer::NONE).map_err(|e| fail(e.to_string()))?;
        if bytes.len() > max {
            if records.len() == 1 {
                out.oversized = Some(Oversized { offset: records[0].offset, bytes: bytes.len() });
                return Ok(());
            }
            let (a, b) = records.split_at(records.len() / 2);
            Self::pack(a, codec, max, out)?;
            return Self::pack(b, codec, max, out);
        }
        let mut runs: Vec<Run> = Vec::new();
        for r in records {
            match runs.last_mut() {
                Some(run) if run.first + run.count == r.offset => run.count += 1,
                _ => runs.push(Run { first: r.offset, count: 1 }),
            }
        }
        let batch = split(bytes).next().ok_or_else(|| fail("empty".into()))?.map_err(RebuildError::from)?;
        let next_source = records.last().map_or(0, |r| r.offset + 1);
        out.pieces.push(Piece { batch, runs, next_source });
        Ok(())
    }
}

impl Codecs for RecordCodecs {
    fn rebuild(&self, batches: &[RawBatch], plan: &RebuildPlan) -> Result<Rebuilt, RebuildError> {
        let mut out = Rebuilt::default();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { return Ok(out) };
        let codec = Codec::from_attributes(first.header.codec()).unwrap_or(Codec::None);
        let mut records = Vec::new();
        for b in batches {
            records.extend(self.decode(b)?);
        }
        records.retain(|r| r.offset >= plan.from);
        if let Some((lo, hi)) = plan.clamp {
            for r in &mut records {
                r.timestamp = r.timestamp.clamp(lo, hi);
            }
        }
        Self::pack(&records, codec, plan.bytes_max, &mut out)?;
        if out.oversized.is_none()
            && let Some(p) = out.pieces.last_mut()
        {
            p.next_source = last.header.next_offset();
        }
        Ok(out)
    }

    fn identify(&self, batch: &RawBatch) -> Result<Vec<RecordId>, RebuildError> {
        Ok(self
            .decode(batch)?
            .iter()
            .map(|r| {
                let text = format!("{:?}{:?}{:?}", r.key, r.value, r.headers);
                let content = u64::from(crc32c::crc32c(text.as_bytes()));
                RecordId { offset: r.offset, timestamp: r.timestamp, content }
            })
            .collect())
    }

    fn modernise(&self, _: &Bytes) -> Result<RawBatch, RebuildError> {
        Err(RebuildError { offset: 0, problem: "not yet".into() })
    }
}
