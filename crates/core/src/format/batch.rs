//! Kafka's record batch, version 2: its 61 header bytes, read and rewritten without touching the records.
//!
//! Layout and CRC range as in `org.apache.kafka.common.record.DefaultRecordBatch`. Decoding records is not done here.
//! The bytes come from another machine: every length is checked before it is used.

use bytes::Bytes;

use super::crc::{Shift, crc32c};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes of offset and length, which the length itself does not count.
pub(super) const LOG_OVERHEAD: usize = 12;
/// The fewest bytes that an entry of format 0 has: offset, length, CRC, format, attributes, two null lengths.
const OLD_HEADER_BYTES: usize = LOG_OVERHEAD + 14;
/// Where the CRC's range begins: at the attributes.
pub(super) const CRC_START: usize = 21;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// Why bytes are not a batch that can be relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Format 0 or 1, from before Kafka 0.11.
    #[error("batch at offset {offset} has the old format {magic}")]
    OldFormat {
        /// Its base offset.
        offset: i64,
        /// The format.
        magic: i8,
    },
    /// A format that nobody knows.
    #[error("batch at offset {offset} has the unknown format {magic}")]
    UnknownFormat {
        /// Its base offset.
        offset: i64,
        /// The format.
        magic: i8,
    },
    /// A length field that can't be true.
    #[error("batch at offset {offset} says it has {length} bytes")]
    BadLength {
        /// Its base offset.
        offset: i64,
        /// The length field.
        length: i32,
    },
    /// The checksum does not fit the content.
    #[error("batch at offset {offset} is damaged: its CRC is {stored:08x}, its content has {actual:08x}")]
    Corrupt {
        /// Its base offset.
        offset: i64,
        /// In the header.
        stored: u32,
        /// Of the content.
        actual: u32,
    },
    /// Counts that contradict each other.
    #[error(
        "batch at offset {offset} says {count} records up to delta {last_offset_delta}, which is not what it holds"
    )]
    BadCount {
        /// Its base offset.
        offset: i64,
        /// The record count.
        count: i32,
        /// The last offset delta.
        last_offset_delta: i32,
    },
}

impl BatchError {
    /// Base offset of the batch at fault.
    pub fn offset(&self) -> i64 {
        match *self {
            Self::OldFormat { offset, .. }
            | Self::UnknownFormat { offset, .. }
            | Self::BadLength { offset, .. }
            | Self::Corrupt { offset, .. }
            | Self::BadCount { offset, .. } => offset,
        }
    }
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Leader epoch under which it was appended.
    pub leader_epoch: i32,
    /// CRC-32C from the attributes to the end.
    pub crc: u32,
    /// Codec, timestamp type and flags.
    pub attributes: i16,
    /// Offset of the last record less the base offset.
    pub last_offset_delta: i32,
    /// Timestamp that deltas count from.
    pub base_timestamp: i64,
    /// Highest timestamp.
    pub max_timestamp: i64,
    /// Producer id; -1 for none.
    pub producer_id: i64,
    /// Producer epoch; -1 for none.
    pub producer_epoch: i16,
    /// Sequence of the first record; -1 for none.
    pub base_sequence: i32,
    /// Records in it.
    pub count: i32,
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl BatchHeader {
    /// Reads a header from the first [`HEADER_BYTES`] bytes; `None` if there are fewer. The format byte and the
    /// length are [`split`]'s business.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            base_offset: i64::from_be_bytes(bytes_at(bytes, 0)?),
            leader_epoch: i32::from_be_bytes(bytes_at(bytes, 12)?),
            crc: u32::from_be_bytes(bytes_at(bytes, 17)?),
            attributes: i16::from_be_bytes(bytes_at(bytes, 21)?),
            last_offset_delta: i32::from_be_bytes(bytes_at(bytes, 23)?),
            base_timestamp: i64::from_be_bytes(bytes_at(bytes, 27)?),
            max_timestamp: i64::from_be_bytes(bytes_at(bytes, 35)?),
            producer_id: i64::from_be_bytes(bytes_at(bytes, 43)?),
            producer_epoch: i16::from_be_bytes(bytes_at(bytes, 51)?),
            base_sequence: i32::from_be_bytes(bytes_at(bytes, 53)?),
            count: i32::from_be_bytes(bytes_at(bytes, 57)?),
        })
    }

    /// Offset of the last record, or of the last place that the batch takes after compaction.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset behind the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Holds a transaction marker or another control record.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Timestamps were set by the broker.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Number of the codec; 0 for none.
    pub fn codec(&self) -> i16 {
        self.attributes & CODEC_MASK
    }

    /// Every offset from first to last has a record: what a broker demands of a produced batch.
    pub fn is_dense(&self) -> bool {
        self.count > 0 && i64::from(self.count) == i64::from(self.last_offset_delta) + 1
    }
}

/// One batch as it came off the socket.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// Its header.
    pub header: BatchHeader,
    /// All of its bytes, header included.
    pub bytes: Bytes,
}

/// One entry of the record bytes of a fetch.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A batch.
    Batch(RawBatch),
    /// A record of format 0 or 1, or a compressed wrapper of several: all of its bytes. Its offset is that of its last
    /// record.
    Old {
        /// Offset of its last record.
        offset: i64,
        /// Its format.
        magic: i8,
        /// All of its bytes.
        bytes: Bytes,
    },
}

impl Entry {
    /// Offset behind it.
    pub fn next_offset(&self) -> i64 {
        match self {
            Self::Batch(batch) => batch.header.next_offset(),
            Self::Old { offset, .. } => offset.saturating_add(1),
        }
    }
}

/// Splits the record bytes of a fetch into batches. A fetch may end in the middle of a batch: that part is left out,
/// as Kafka's consumer does. Stops at the first bad batch, after yielding the good ones before it.
#[derive(Debug)]
pub struct Entries {
    rest: Bytes,
}

/// Starts splitting, old formats included.
pub fn entries(records: Bytes) -> Entries {
    Entries { rest: records }
}

/// Starts splitting; old formats are errors.
pub fn split(records: Bytes) -> impl Iterator<Item = Result<RawBatch, BatchError>> {
    let mut entries = entries(records);
    std::iter::from_fn(move || {
        Some(match entries.next()? {
            Ok(Entry::Batch(batch)) => Ok(batch),
            Ok(Entry::Old { offset, magic, .. }) => {
                entries.rest.clear();
                Err(BatchError::OldFormat { offset, magic })
            }
            Err(error) => Err(error),
        })
    })
}

impl Entries {
    fn fail(&mut self, error: BatchError) -> Result<Entry, BatchError> {
        self.rest.clear();
        Err(error)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = i64::from_be_bytes(bytes_at(&self.rest, 0)?);
        let length = i32::from_be_bytes(bytes_at(&self.rest, 8)?);
        let magic = i8::from_be_bytes(bytes_at(&self.rest, 16)?);
        let shortest = match magic {
            2 => HEADER_BYTES,
            0 | 1 => OLD_HEADER_BYTES,
            _ => return Some(self.fail(BatchError::UnknownFormat { offset, magic })),
        };
        let total = usize::try_from(length).ok().and_then(|length| length.checked_add(LOG_OVERHEAD));
        let Some(total) = total.filter(|total| *total >= shortest) else {
            return Some(self.fail(BatchError::BadLength { offset, length }));
        };
        if total > self.rest.len() {
            self.rest.clear();
            return None;
        }
        let bytes = self.rest.split_to(total);
        if magic < 2 {
            return Some(Ok(Entry::Old { offset, magic, bytes }));
        }
        let header = BatchHeader::parse(&bytes)?;
        if header.count < 0
            || header.last_offset_delta < 0
            || header.count > header.last_offset_delta.saturating_add(1)
            // What a cleaner leaves of a batch without records is its header: these would be passed over.
            || (header.count == 0 && bytes.len() > HEADER_BYTES)
        {
            let BatchHeader { count, last_offset_delta, .. } = header;
            return Some(self.fail(BatchError::BadCount { offset, count, last_offset_delta }));
        }
        Some(Ok(Entry::Batch(RawBatch { header, bytes })))
    }
}

/// Identity that a batch is appended under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Producer id.
    pub producer_id: i64,
    /// Producer epoch.
    pub producer_epoch: i16,
    /// Sequence of the first record.
    pub base_sequence: i32,
}

impl Stamp {
    /// Of a producer without idempotence.
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
}

/// A batch made ready to append: a new header before the same records.
#[derive(Debug, Clone)]
pub struct StampedBatch {
    /// New header.
    pub header: [u8; HEADER_BYTES],
    /// The records, the same memory as before.
    pub body: Bytes,
    /// CRC-32C of the body alone, to recognise the batch later.
    pub body_crc: u32,
}

/// CRC-32C of the bytes behind the header.
pub fn body_crc(batch: &Bytes) -> u32 {
    crc32c(batch.get(HEADER_BYTES..).unwrap_or_default())
}

impl RawBatch {
    /// Makes a header for the target: base offset 0, transactional, log-append-time and
    /// delete-horizon bits clear, our identity, a new CRC. The records are not read: what is wrong with them before is
    /// wrong with them after, and the target checks the CRC of everything that it appends.
    pub fn stamp(&self, stamp: Stamp) -> Result<StampedBatch, BatchError> {
        let (old, body) = self.parts()?;
        let shift = Shift::over(body.len());
        let body_crc = shift.tail(crc_behind(&old), self.header.crc);
        Ok(self.stamped(stamp, old, body, (shift, body_crc)))
    }

    /// As [`RawBatch::stamp`], and checks the records against their CRC: what the target found wrong with them.
    pub fn stamp_checked(&self, stamp: Stamp) -> Result<StampedBatch, BatchError> {
        let (old, body) = self.parts()?;
        let shift = Shift::over(body.len());
        let body_crc = crc32c(&body);
        let actual = shift.join(crc_behind(&old), body_crc);
        if actual != self.header.crc {
            let offset = self.header.base_offset;
            return Err(BatchError::Corrupt { offset, stored: self.header.crc, actual });
        }
        Ok(self.stamped(stamp, old, body, (shift, body_crc)))
    }

    fn parts(&self) -> Result<([u8; HEADER_BYTES], Bytes), BatchError> {
        match bytes_at::<HEADER_BYTES>(&self.bytes, 0) {
            Some(header) if self.bytes.len() >= HEADER_BYTES => {
                Ok((header, self.bytes.slice(HEADER_BYTES..)))
            }
            _ => Err(BatchError::BadLength {
                offset: self.header.base_offset,
                length: i32::try_from(self.bytes.len()).unwrap_or(i32::MAX),
            }),
        }
    }

    fn stamped(
        &self,
        stamp: Stamp,
        mut header: [u8; HEADER_BYTES],
        body: Bytes,
        (shift, body_crc): (Shift, u32),
    ) -> StampedBatch {
        let attributes = self.header.attributes & !(TRANSACTIONAL | LOG_APPEND_TIME | DELETE_HORIZON);
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = header.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(0, &0_i64.to_be_bytes());
        put(12, &(-1_i32).to_be_bytes());
        put(21, &attributes.to_be_bytes());
        put(43, &stamp.producer_id.to_be_bytes());
        put(51, &stamp.producer_epoch.to_be_bytes());
        put(53, &stamp.base_sequence.to_be_bytes());
        let crc = shift.join(crc_behind(&header), body_crc);
        if let Some(place) = header.get_mut(17..21) {
            place.copy_from_slice(&crc.to_be_bytes());
        }
        StampedBatch { header, body, body_crc }
    }
}

/// CRC-32C of what of a header the CRC covers.
fn crc_behind(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c(header.get(CRC_START..).unwrap_or_default())
}

/// What a control batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlKind {
    /// The transaction was aborted.
    Abort,
    /// The transaction was committed.
    Commit,
    /// Something else, or nothing: a compacted control batch may be empty.
    Other,
}

/// Reads the control record of a control batch (`ControlRecordType`: key is version, then type, 16 bits each).
pub fn control_kind(batch: &RawBatch) -> ControlKind {
    let parse = || -> Option<i16> {
        let mut rest = batch.bytes.get(HEADER_BYTES..)?;
        varint(&mut rest)?; // length
        rest = rest.get(1..)?; // attributes
        varint(&mut rest)?; // timestamp delta
        varint(&mut rest)?; // offset delta
        varint(&mut rest)?; // key length
        Some(i16::from_be_bytes(bytes_at(rest, 2)?))
    };
    match parse() {
        Some(0) => ControlKind::Abort,
        Some(1) => ControlKind::Commit,
        _ => ControlKind::Other,
    }
}

/// Skips one zigzag varint and returns its raw value.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (first, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
