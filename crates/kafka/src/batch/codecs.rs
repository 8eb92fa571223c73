//! Record contents for the relay: the shell's side of [`mirrormesh_relay::rebuild`].
//!
//! Owns the meeting of the core's contract with the decoders here. Must not know when the relay wants which.

use std::time::Instant;

use bytes::Bytes;
use mirrormesh_core::format::batch::RawBatch;
use mirrormesh_relay::rebuild::{Codecs, RebuildError, RebuildPlan, Rebuilt, RecordId};

use super::{Opened, content, legacy, rebuild};
use crate::error::{Error, Result};

/// Decodes and encodes records with a limit on what they take.
///
/// One batch is open at a time. `limit` bounds the bytes that its records take when decompressed; beside them are, at
/// most, as many bytes that wait for a piece, and the pieces themselves.
#[derive(Debug, Clone, Copy)]
pub struct RecordCodecs {
    limit: usize,
}

impl RecordCodecs {
    /// With a limit on the decompressed records of one batch, bytes.
    pub const fn new(limit: usize) -> Self {
        Self { limit }
    }

    fn records(self, batch: &RawBatch) -> Result<Vec<RecordId>> {
        let opened = Opened::open(&batch.bytes, self.limit)?;
        let views = opened.views().map_err(|problem| opened.fail(problem))?;
        let mut records = Vec::with_capacity(opened.count);
        for view in views {
            let view = view.map_err(|problem| opened.fail(problem))?;
            records.push(RecordId {
                offset: view.offset,
                timestamp: view.timestamp,
                content: content::hash(&view),
            });
        }
        Ok(records)
    }
}

impl Codecs for RecordCodecs {
    /// A timestamp of -1, which means none, is not clamped: brokers take it whatever their range. Control batches are
    /// refused: as data they would be forged records.
    fn rebuild(
        &self,
        batches: &[RawBatch],
        plan: &RebuildPlan,
    ) -> std::result::Result<Rebuilt, RebuildError> {
        let began = Instant::now();
        let rebuilt = rebuild::rebuild(batches, plan, self.limit).map_err(refusal)?;
        let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        Ok(Rebuilt { took_ns, ..rebuilt })
    }

    fn identify(&self, batch: &RawBatch) -> std::result::Result<Vec<RecordId>, RebuildError> {
        self.records(batch).map_err(refusal)
    }

    /// The batch has the entry's codec. Message format 0 has no timestamps: its records have -1.
    fn modernise(&self, old: &Bytes) -> std::result::Result<RawBatch, RebuildError> {
        legacy::modernise(old, self.limit).map_err(refusal)
    }
}

fn refusal(error: Error) -> RebuildError {
    match error {
        Error::Batch { base_offset, problem } => RebuildError { offset: base_offset, problem },
        other => RebuildError { offset: -1, problem: other.to_string() },
    }
}
