//! Record batches, format 2: decoding into records and encoding from them, for the few that cannot pass untouched.
//!
//! Owns the record layout (KIP-98) and the header fields. kafka-protocol's own decoder is not used: it keeps record
//! headers in a map, so that a repeated key is lost, wants their keys to be UTF-8, takes memory for as many records and
//! headers as a batch claims, and decompresses without a limit.
//!
//! Must not know why a batch is decoded. The bytes are foreign: every count and length is checked before it is used.

pub(crate) mod codec;
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::indexing_slicing)]
mod rebuild_interim;
mod record;
pub use rebuild_interim::RecordCodecs;

use bytes::{BufMut as _, Bytes, BytesMut};

pub use codec::Codec;
pub use record::Record;

use crate::error::{Error, Result};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Offset and length, which the length does not count.
const LOG_OVERHEAD: usize = 12;
/// Where the CRC's range begins: at the attributes.
const CRC_START: usize = 21;
const MAGIC: i8 = 2;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;

/// Who appends a batch; -1 in each field for a producer without idempotence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The producer id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The sequence of the first record.
    pub base_sequence: i32,
}

impl Producer {
    /// A producer without idempotence.
    pub const NONE: Self = Self { producer_id: -1, epoch: -1, base_sequence: -1 };
}

/// The header fields that decoding needs.
struct Header {
    base_offset: i64,
    attributes: i16,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
}

/// Decodes exactly one batch.
///
/// `limit` bounds the bytes that its records take when decompressed. The decoded form takes memory beside them, at most
/// 16 times as much (records without key and value have seven bytes each).
///
/// With `LogAppendTime` every record has the batch's time, as for any consumer. Control records are returned like others.
///
/// # Errors
/// [`Error::Batch`].
pub fn decode_records(batch: &Bytes, limit: usize) -> Result<Vec<Record>> {
    let header = Header::read(batch)?;
    let fail = |problem: String| Error::Batch { base_offset: header.base_offset, problem };
    let Some(codec) = Codec::from_attributes(header.attributes & CODEC_MASK) else {
        return Err(fail(format!("its codec {} is unknown", header.attributes & CODEC_MASK)));
    };
    let count =
        usize::try_from(header.count).map_err(|_| fail(format!("it says {} records", header.count)))?;
    let body = codec::decompress(codec, batch.slice(HEADER_BYTES..), limit).map_err(fail)?;
    let base = record::Base {
        offset: header.base_offset,
        last_offset_delta: header.last_offset_delta,
        timestamp: header.base_timestamp,
        append_time: (header.attributes & LOG_APPEND_TIME != 0).then_some(header.max_timestamp),
    };
    record::decode_all(body, count, &base).map_err(fail)
}

/// Encodes records as one batch that a broker takes from a producer: base offset 0, offsets renumbered without gaps,
/// timestamps kept, neither transactional nor control.
///
/// # Errors
/// [`Error::Batch`] if there are none, or more or larger ones than a batch can hold.
pub fn encode_records(records: &[Record], codec: Codec, producer: Producer) -> Result<Bytes> {
    let base_offset = records.first().map_or(-1, |record| record.offset);
    let fail = |problem: String| Error::Batch { base_offset, problem };
    let Some(first) = records.first() else { return Err(fail("there are no records for it".to_owned())) };
    let count = i32::try_from(records.len()).map_err(|_| fail("it has too many records".to_owned()))?;
    let max_timestamp = records.iter().map(|record| record.timestamp).max().unwrap_or(first.timestamp);

    let mut plain = BytesMut::new();
    for (delta, record) in (0..count).zip(records) {
        record::encode(&mut plain, record, delta, first.timestamp).map_err(fail)?;
    }
    let body = codec::compress(codec, plain).map_err(fail)?;
    let length = i32::try_from(HEADER_BYTES - LOG_OVERHEAD + body.len())
        .map_err(|_| fail("it is too large".to_owned()))?;

    let mut batch = BytesMut::with_capacity(HEADER_BYTES + body.len());
    batch.put_i64(0);
    batch.put_i32(length);
    batch.put_i32(-1);
    batch.put_i8(MAGIC);
    batch.put_u32(0);
    batch.put_i16(codec.attributes());
    batch.put_i32(count - 1);
    batch.put_i64(first.timestamp);
    batch.put_i64(max_timestamp);
    batch.put_i64(producer.producer_id);
    batch.put_i16(producer.epoch);
    batch.put_i32(producer.base_sequence);
    batch.put_i32(count);
    batch.put_slice(&body);
    let crc = crc32c::crc32c(batch.get(CRC_START..).unwrap_or_default());
    if let Some(place) = batch.get_mut(CRC_START - 4..CRC_START) {
        place.copy_from_slice(&crc.to_be_bytes());
    }
    Ok(batch.freeze())
}

impl Header {
    /// Reads and checks the header of a batch that fills its buffer.
    fn read(batch: &[u8]) -> Result<Self> {
        let base_offset = batch.first_chunk().map_or(-1, |bytes| i64::from_be_bytes(*bytes));
        let fail = |problem: String| Error::Batch { base_offset, problem };
        if batch.len() < HEADER_BYTES {
            return Err(fail(format!("it has {} bytes, fewer than its header", batch.len())));
        }
        let length = i32::from_be_bytes(at(batch, 8));
        if usize::try_from(length).ok().and_then(|length| length.checked_add(LOG_OVERHEAD))
            != Some(batch.len())
        {
            return Err(fail(format!(
                "it says {length} bytes, there are {} to be counted",
                batch.len() - LOG_OVERHEAD
            )));
        }
        let [magic] = at(batch, 16);
        if i8::from_be_bytes([magic]) != MAGIC {
            return Err(fail(format!("its format is {magic}, only {MAGIC} is known")));
        }
        let stored = u32::from_be_bytes(at(batch, 17));
        let actual = crc32c::crc32c(batch.get(CRC_START..).unwrap_or_default());
        if stored != actual {
            return Err(fail(format!(
                "it is damaged: its checksum is {stored:08x}, its content has {actual:08x}"
            )));
        }
        Ok(Self {
            base_offset,
            attributes: i16::from_be_bytes(at(batch, 21)),
            last_offset_delta: i32::from_be_bytes(at(batch, 23)),
            base_timestamp: i64::from_be_bytes(at(batch, 27)),
            max_timestamp: i64::from_be_bytes(at(batch, 35)),
            count: i32::from_be_bytes(at(batch, 57)),
        })
    }
}

/// A field of a buffer that is known to be long enough.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests;
