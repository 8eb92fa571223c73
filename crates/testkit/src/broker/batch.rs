//! A record batch as the log holds it: the 61 header bytes of format 2 and the bytes behind them.
//!
//! Owns layout, CRC and the rewriting of header fields. It is written apart from the product's own reader on purpose:
//! the two check each other. Must not know what makes a batch acceptable.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Bytes before the records.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the length field does not count.
const LENGTH_OVERHEAD: usize = 12;
/// The CRC covers everything from here.
const CRC_START: usize = 21;

/// Attribute bits.
pub const CODEC_MASK: i16 = 0x07;
/// Timestamps were set by the broker.
pub const LOG_APPEND_TIME: i16 = 0x08;
/// Part of a transaction.
pub const TRANSACTIONAL: i16 = 0x10;
/// Holds a control record.
pub const CONTROL: i16 = 0x20;
/// The base timestamp is a delete horizon.
pub const DELETE_HORIZON: i16 = 0x40;

/// The fields of a header, but for the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// Format; 2.
    pub magic: i8,
    /// CRC-32C of all that follows it.
    pub crc: u32,
    /// Codec, timestamp type and flags.
    pub attributes: i16,
    /// Last offset less base offset.
    pub last_offset_delta: i32,
    /// What the records' timestamps count from.
    pub base_timestamp: i64,
    /// Highest timestamp.
    pub max_timestamp: i64,
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Producer epoch, -1 for none.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 for none.
    pub base_sequence: i32,
    /// Records in it.
    pub count: i32,
}

impl BatchHeader {
    /// A header for `count` records at offset 0 that all bear `timestamp_ms`, of no producer.
    pub fn plain(count: i32, timestamp_ms: i64) -> Self {
        Self {
            base_offset: 0,
            leader_epoch: -1,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count.saturating_sub(1),
            base_timestamp: timestamp_ms,
            max_timestamp: timestamp_ms,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count,
        }
    }

    /// Reads it from the first bytes of a batch.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(..HEADER_BYTES)?;
        let base_offset = rest.get_i64();
        rest.advance(4); // length
        Some(Self {
            base_offset,
            leader_epoch: rest.get_i32(),
            magic: rest.get_i8(),
            crc: rest.get_u32(),
            attributes: rest.get_i16(),
            last_offset_delta: rest.get_i32(),
            base_timestamp: rest.get_i64(),
            max_timestamp: rest.get_i64(),
            producer_id: rest.get_i64(),
            producer_epoch: rest.get_i16(),
            base_sequence: rest.get_i32(),
            count: rest.get_i32(),
        })
    }

    /// The batch of this header and `body`, with the CRC that it says (see [`Batch::sealed`] for the right one).
    fn encode(&self, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len());
        out.put_i64(self.base_offset);
        out.put_i32(i32::try_from(HEADER_BYTES - LENGTH_OVERHEAD + body.len()).unwrap_or(i32::MAX));
        out.put_i32(self.leader_epoch);
        out.put_i8(self.magic);
        out.put_u32(self.crc);
        out.put_i16(self.attributes);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp);
        out.put_i64(self.max_timestamp);
        out.put_i64(self.producer_id);
        out.put_i16(self.producer_epoch);
        out.put_i32(self.base_sequence);
        out.put_i32(self.count);
        out.extend_from_slice(body);
        out
    }

    /// Offset of the last record, or of the last place that it takes.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset behind it.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Sequence of its last record; goes on at 0 after 2^31 - 1.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 { -1 } else { sequence_after(self.base_sequence, self.last_offset_delta) }
    }

    /// Number of its codec.
    pub fn codec(&self) -> i16 {
        self.attributes & CODEC_MASK
    }

    /// Whether an attribute bit is set.
    pub fn has(&self, bit: i16) -> bool {
        self.attributes & bit != 0
    }

    /// Whether a producer's state follows from it.
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }
}

/// The sequence `delta` records further on.
pub fn sequence_after(sequence: i32, delta: i32) -> i32 {
    let wide = (i64::from(sequence) + i64::from(delta)) & i64::from(i32::MAX);
    i32::try_from(wide).unwrap_or(0)
}

/// A batch: header and all of its bytes, which say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// All of its bytes, header included.
    pub bytes: Bytes,
}

/// Bytes that are no batch at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoBatch;

impl Batch {
    /// Header and body with the right CRC.
    pub fn sealed(mut header: BatchHeader, body: &[u8]) -> Self {
        header.crc = 0;
        let mut bytes = header.encode(body);
        header.crc = crc32c::crc32c(bytes.get(CRC_START..).unwrap_or_default());
        if let Some(place) = bytes.get_mut(17..CRC_START) {
            place.copy_from_slice(&header.crc.to_be_bytes());
        }
        Self { header, bytes: bytes.freeze() }
    }

    /// Everything behind the header.
    pub fn body(&self) -> Bytes {
        if self.bytes.len() < HEADER_BYTES { Bytes::new() } else { self.bytes.slice(HEADER_BYTES..) }
    }

    /// Whether content and CRC agree.
    pub fn is_intact(&self) -> bool {
        crc32c::crc32c(self.bytes.get(CRC_START..).unwrap_or_default()) == self.header.crc
    }

    /// The same at another offset and under another leader epoch. Both lie outside of the CRC.
    #[must_use]
    pub fn at(&self, base_offset: i64, leader_epoch: i32) -> Self {
        let mut bytes = BytesMut::from(self.bytes.as_ref());
        let mut put = |at: usize, value: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        put(0, &base_offset.to_be_bytes());
        put(12, &leader_epoch.to_be_bytes());
        Self { header: BatchHeader { base_offset, leader_epoch, ..self.header }, bytes: bytes.freeze() }
    }
}

/// Splits a produce request's or a fetch's bytes into batches. A part at the end that is too short for what it says is
/// left out, as in Kafka.
pub fn split(mut bytes: Bytes) -> Result<Vec<Batch>, NoBatch> {
    let mut batches = Vec::new();
    while let Some(mut head) = bytes.get(..LENGTH_OVERHEAD + 5) {
        head.advance(8);
        let length = usize::try_from(head.get_i32()).map_err(|_| NoBatch)?;
        head.advance(4);
        let magic = head.get_i8();
        // The smallest record of format 0 has 14 bytes behind its length.
        if length < 14 || !(0..=2).contains(&magic) {
            return Err(NoBatch);
        }
        let total = length + LENGTH_OVERHEAD;
        if bytes.len() < total {
            break;
        }
        let whole = bytes.split_to(total);
        let old = BatchHeader { magic, ..BatchHeader::plain(0, -1) };
        let header = if magic == 2 { BatchHeader::parse(&whole).ok_or(NoBatch)? } else { old };
        batches.push(Batch { header, bytes: whole });
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_batch_is_read_back() {
        let header = BatchHeader { producer_id: 7, base_sequence: 3, ..BatchHeader::plain(2, 1000) };
        let batch = Batch::sealed(header, b"some records");
        let mut twice = batch.bytes.to_vec();
        twice.extend_from_slice(&batch.at(40, 5).bytes);
        twice.extend_from_slice(&batch.bytes[..30]);
        let found = split(twice.into()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], batch);
        assert_eq!((found[1].header.base_offset, found[1].header.leader_epoch), (40, 5));
        assert!(found.iter().all(Batch::is_intact));
        let mut damaged = batch.bytes.to_vec();
        damaged[65] ^= 1;
        assert!(!split(damaged.into()).unwrap()[0].is_intact());
    }

    #[test]
    fn sequences_go_on_at_zero() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 4, 9), 4);
        assert_eq!(sequence_after(0, 5), 5);
    }
}
