//! Record batches, format 2: decoding into records and encoding from them, for the few that cannot pass untouched.
//!
//! Owns the record layout (KIP-98) and the header fields. kafka-protocol's own decoder is not used: it keeps record
//! headers in a map, so that a repeated key is lost, wants their keys to be UTF-8, takes memory for as many records and
//! headers as a batch claims, and decompresses without a limit.
//!
//! Must not know why a batch is decoded. The bytes are foreign: every count and length is checked before it is used.

pub(crate) mod codec;
mod codecs;
mod content;
mod legacy;
mod raw;
mod rebuild;
mod record;

use bytes::Bytes;
use mirrormesh_core::format::crc32c;

pub use codec::Codec;
pub use codecs::RecordCodecs;
pub use record::Record;

use crate::error::{Error, Result};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Offset and length, which the length does not count.
const LOG_OVERHEAD: usize = 12;
/// Where the CRC's range begins: at the attributes.
const CRC_START: usize = 21;
const MAGIC: i8 = 2;

const LOG_APPEND_TIME: i16 = 0x08;
const CONTROL: i16 = 0x20;

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

/// A batch whose checksum is right, decompressed.
struct Opened {
    header: Header,
    body: Bytes,
    count: usize,
    base: record::Base,
}

impl Opened {
    /// `limit` bounds the bytes that its records take when decompressed.
    fn open(batch: &Bytes, limit: usize) -> Result<Self> {
        let header = Header::read(batch)?;
        let fail = |problem: String| Error::Batch { base_offset: header.base_offset, problem };
        let codec = Codec::of(header.attributes).map_err(fail)?;
        let count =
            usize::try_from(header.count).map_err(|_| fail(format!("it says {} records", header.count)))?;
        let body = codec::decompress(codec, batch.slice(HEADER_BYTES..), limit).map_err(fail)?;
        let base = record::Base {
            offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            timestamp: header.base_timestamp,
            append_time: (header.attributes & LOG_APPEND_TIME != 0).then_some(header.max_timestamp),
        };
        Ok(Self { header, body, count, base })
    }

    fn views(&self) -> std::result::Result<record::Views<'_>, String> {
        record::Views::new(&self.body, self.count, &self.base)
    }

    fn fail(&self, problem: String) -> Error {
        Error::Batch { base_offset: self.header.base_offset, problem }
    }
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
    let opened = Opened::open(batch, limit)?;
    record::decode_all(&opened.body, opened.count, &opened.base).map_err(|problem| opened.fail(problem))
}

/// Encodes records as one batch that a broker takes from a producer: base offset 0, offsets renumbered without gaps,
/// timestamps kept, neither transactional nor control.
///
/// # Errors
/// [`Error::Batch`] if there are none, or more or larger ones than a batch can hold.
pub fn encode_records(records: &[Record], codec: Codec, producer: Producer) -> Result<Bytes> {
    let base_offset = records.first().map_or(-1, |record| record.offset);
    encode_with(records, codec, producer, 0, |index, _| i32::try_from(index).ok())
        .map_err(|problem| Error::Batch { base_offset, problem })
}

/// Encodes records as one batch with the given base offset; `delta` gives each record's place by its index and offset.
fn encode_with(
    records: &[Record],
    codec: Codec,
    producer: Producer,
    base_offset: i64,
    delta: impl Fn(usize, i64) -> Option<i32>,
) -> std::result::Result<Bytes, String> {
    let first = records.first().ok_or("there are no records for it")?;
    let base_timestamp = first.timestamp;
    let mut frame = Frame {
        base_offset,
        codec,
        last_offset_delta: 0,
        base_timestamp,
        max_timestamp: base_timestamp,
        producer,
        count: i32::try_from(records.len()).map_err(|_| "it has too many records")?,
    };
    let (mut plain, mut content) = (vec![0; HEADER_BYTES], Vec::new());
    for (index, record) in records.iter().enumerate() {
        content.clear();
        record::put_content(&mut content, record)?;
        let offset_delta = delta(index, record.offset).ok_or("its offsets are too far apart")?;
        let timestamp_delta =
            record.timestamp.checked_sub(base_timestamp).ok_or("timestamps are too far apart")?;
        record::put_framed(&mut plain, timestamp_delta, offset_delta, &content)?;
        frame.last_offset_delta = offset_delta;
        frame.max_timestamp = frame.max_timestamp.max(record.timestamp);
    }
    frame.close(plain)
}

/// What is written around encoded records.
struct Frame {
    base_offset: i64,
    codec: Codec,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: Producer,
    count: i32,
}

impl Frame {
    /// Makes a batch of plain records behind room for the header. Without a codec they are not copied.
    fn close(&self, plain: Vec<u8>) -> std::result::Result<Bytes, String> {
        if self.codec == Codec::None {
            return self.seal(plain);
        }
        let body = self.compress(&plain)?;
        let mut batch = Vec::with_capacity(HEADER_BYTES + body.len());
        batch.resize(HEADER_BYTES, 0);
        batch.extend_from_slice(&body);
        self.seal(batch)
    }

    /// Compresses the records behind the room for the header.
    fn compress(&self, plain: &[u8]) -> std::result::Result<Vec<u8>, String> {
        codec::compress(self.codec, plain.get(HEADER_BYTES..).unwrap_or_default())
    }

    /// Writes the header into its room.
    fn seal(&self, mut batch: Vec<u8>) -> std::result::Result<Bytes, String> {
        let length = batch.len().checked_sub(LOG_OVERHEAD).and_then(|length| i32::try_from(length).ok());
        let length = length.ok_or("it is too large")?;
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = batch.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(0, &self.base_offset.to_be_bytes());
        put(8, &length.to_be_bytes());
        put(12, &(-1_i32).to_be_bytes());
        put(16, &MAGIC.to_be_bytes());
        put(21, &self.codec.attributes().to_be_bytes());
        put(23, &self.last_offset_delta.to_be_bytes());
        put(27, &self.base_timestamp.to_be_bytes());
        put(35, &self.max_timestamp.to_be_bytes());
        put(43, &self.producer.producer_id.to_be_bytes());
        put(51, &self.producer.epoch.to_be_bytes());
        put(53, &self.producer.base_sequence.to_be_bytes());
        put(57, &self.count.to_be_bytes());
        let crc = crc32c(batch.get(CRC_START..).unwrap_or_default());
        if let Some(place) = batch.get_mut(CRC_START - 4..CRC_START) {
            place.copy_from_slice(&crc.to_be_bytes());
        }
        Ok(batch.into())
    }
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
        let actual = crc32c(batch.get(CRC_START..).unwrap_or_default());
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
