//! What the relay wants of record contents: who decodes and encodes is the shell's business (its codecs), what is
//! wanted and what it means is decided here.
//!
//! Batches that can't pass as they are (compaction gaps, old formats, sizes, timestamps) are decoded and rebuilt into
//! [`Piece`]s: batches that a broker takes, each with the source offsets that it carries.

use bytes::Bytes;
use mirrormesh_core::format::batch::{BatchError, RawBatch};

/// Consecutive source offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First source offset.
    pub first: i64,
    /// How many.
    pub count: i64,
}

/// A record, known by its place and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordId {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp; with log-append time, the batch's.
    pub timestamp: i64,
    /// Hash of key, value and headers (not of the timestamp). Equal content, equal hash.
    pub content: u64,
}

/// How batches are to be rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildPlan {
    /// Records before this source offset are left out.
    pub from: i64,
    /// A piece has at most this many bytes, header included.
    pub bytes_max: usize,
    /// And at most this many without compression; a single record may have more.
    pub plain_bytes_max: usize,
    /// And at most this many records.
    pub records_max: usize,
    /// Timestamps are moved into this range (first and last allowed), ms; `None` keeps them.
    pub clamp: Option<(i64, i64)>,
}

impl RebuildPlan {
    /// All records as they are, in one piece.
    pub const ALL: Self = Self {
        from: 0,
        bytes_max: usize::MAX,
        plain_bytes_max: usize::MAX,
        records_max: usize::MAX,
        clamp: None,
    };
}

/// A rebuilt batch: format 2, base offset 0, dense, no producer, CRC right.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The batch.
    pub batch: RawBatch,
    /// Source offsets of its records, in order.
    pub runs: Vec<Run>,
    /// Source offset behind it: behind the source batch for the last piece, behind its last record for others.
    pub next_source: i64,
}

/// A record that is larger alone than a piece may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oversized {
    /// Its source offset.
    pub offset: i64,
    /// Size in bytes of a batch that holds it alone.
    pub bytes: usize,
}

/// What came of rebuilding.
#[derive(Debug, Clone, Default)]
pub struct Rebuilt {
    /// Pieces, in order. None if no record is left.
    pub pieces: Vec<Piece>,
    /// The first record that fits no piece: pieces end before it, and nothing behind it was looked at.
    pub oversized: Option<Oversized>,
    /// How long it took, ns, by the shell's clock; 0 where nobody measures.
    pub took_ns: u64,
}

/// Why a batch's records can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the batch at offset {offset} can't be read: {problem}")]
pub struct RebuildError {
    /// Base offset of the batch.
    pub offset: i64,
    /// What is wrong with it, for a person.
    pub problem: String,
}

impl From<BatchError> for RebuildError {
    fn from(error: BatchError) -> Self {
        Self { offset: error.offset(), problem: error.to_string() }
    }
}

/// Decodes and encodes records. Pure: the same arguments give the same records; memory is bounded whatever the bytes.
pub trait Codecs: Send + Sync {
    /// Rebuilds batches, in order, into as few pieces as fit the plan. All pieces have the codec of the first batch.
    /// With log-append time on the source, records keep the time that consumers see.
    fn rebuild(&self, batches: &[RawBatch], plan: &RebuildPlan) -> Result<Rebuilt, RebuildError>;

    /// The records of a batch, in order.
    fn identify(&self, batch: &RawBatch) -> Result<Vec<RecordId>, RebuildError>;

    /// Makes a format 2 batch of one entry of format 0 or 1 (a record, or a compressed wrapper with its records). The
    /// source offsets stay; they may have gaps.
    fn modernise(&self, old: &Bytes) -> Result<RawBatch, RebuildError>;
}
