//! Message formats 0 and 1, from before Kafka 0.11: read, and made into batches of format 2.
//!
//! Owns their layout (KIP-31, KIP-32): an entry is a record, or a wrapper whose value is a compressed series of entries.
//! Nothing writes these formats any more. Must not know why they are read; the bytes are foreign.

use bytes::{Buf as _, Bytes};
use mirrormesh_core::format::batch::RawBatch;

use super::codec::{self, Codec};
use super::{Producer, Record, encode_with, raw};
use crate::error::{Error, Result};

const LOG_APPEND_TIME: i8 = 0x08;
const NO_TIMESTAMP: i64 = -1;

/// An entry, its checksum checked.
struct Entry {
    offset: i64,
    magic: i8,
    attributes: i8,
    timestamp: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
}

/// Makes a batch of one entry; `limit` bounds what a wrapper holds when decompressed.
pub(super) fn modernise(old: &Bytes, limit: usize) -> Result<RawBatch> {
    let offset = old.first_chunk().map_or(-1, |bytes| i64::from_be_bytes(*bytes));
    batch(old.clone(), limit).map_err(|problem| Error::Batch { base_offset: offset, problem })
}

fn batch(mut bytes: Bytes, limit: usize) -> std::result::Result<RawBatch, String> {
    let entry = Entry::read(&mut bytes)?;
    if !bytes.is_empty() {
        return Err(format!("{} bytes follow it", bytes.len()));
    }
    let codec = entry.codec()?;
    let records = if codec == Codec::None { vec![entry.record()] } else { unwrap(&entry, codec, limit)? };
    let base = records.first().map_or(-1, |record| record.offset);
    let delta = |_, offset: i64| i32::try_from(offset.checked_sub(base)?).ok();
    raw::raw(encode_with(&records, codec, Producer::NONE, base, delta)?)
}

/// The records of a wrapper, with their offsets in the log.
fn unwrap(wrapper: &Entry, codec: Codec, limit: usize) -> std::result::Result<Vec<Record>, String> {
    let body = wrapper.value.clone().ok_or("it is compressed, but has no value")?;
    let body = match codec {
        Codec::Lz4 if wrapper.magic == 0 => codec::mend_lz4_header(&body),
        _ => body,
    };
    let mut body = codec::decompress(codec, body, limit)?;
    let mut records = Vec::new();
    while !body.is_empty() {
        let entry = Entry::read(&mut body).map_err(|problem| format!("a record inside: {problem}"))?;
        if entry.magic != wrapper.magic {
            return Err(format!("a record of format {} is in a wrapper of {}", entry.magic, wrapper.magic));
        }
        if entry.codec()? != Codec::None {
            return Err("a compressed record is in a compressed one".to_owned());
        }
        let mut record = entry.record();
        if wrapper.magic == 1 && wrapper.attributes & LOG_APPEND_TIME != 0 {
            record.timestamp = wrapper.timestamp;
        }
        records.push(record);
    }
    place(&mut records, wrapper)?;
    Ok(records)
}

/// Gives records of a wrapper their offsets in the log. Those of format 1 count from an unsaid start such that the last
/// has the wrapper's offset; those of format 0 are right as they are.
fn place(records: &mut [Record], wrapper: &Entry) -> std::result::Result<(), String> {
    let last = records.last().ok_or("it is compressed, but holds no records")?.offset;
    if wrapper.magic == 1 {
        let start = wrapper.offset.checked_sub(last).ok_or("an offset is too large")?;
        for record in &mut *records {
            record.offset = record.offset.checked_add(start).ok_or("an offset is too large")?;
        }
    }
    if records.iter().any(|record| record.offset < 0)
        || !records.is_sorted_by(|one, next| one.offset < next.offset)
    {
        return Err("the offsets of its records do not ascend".to_owned());
    }
    Ok(())
}

impl Entry {
    fn read(bytes: &mut Bytes) -> std::result::Result<Self, String> {
        let short = |_| "it is cut off".to_owned();
        let offset = bytes.try_get_i64().map_err(short)?;
        let size = bytes.try_get_i32().map_err(short)?;
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= bytes.len()) else {
            return Err(format!("it says {size} bytes, {} are left", bytes.len()));
        };
        let mut rest = bytes.split_to(size);
        let stored = rest.try_get_u32().map_err(short)?;
        let mut crc = flate2::Crc::new();
        crc.update(&rest);
        if crc.sum() != stored {
            return Err(format!(
                "it is damaged: its checksum is {stored:08x}, its content has {:08x}",
                crc.sum()
            ));
        }
        let magic = rest.try_get_i8().map_err(short)?;
        let attributes = rest.try_get_i8().map_err(short)?;
        let timestamp = match magic {
            0 => NO_TIMESTAMP,
            1 => rest.try_get_i64().map_err(short)?,
            _ => return Err(format!("its format is {magic}, where 0 or 1 was to be")),
        };
        let key = field(&mut rest)?;
        let value = field(&mut rest)?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow its value", rest.len()));
        }
        Ok(Self { offset, magic, attributes, timestamp, key, value })
    }

    fn codec(&self) -> std::result::Result<Codec, String> {
        match Codec::of(self.attributes.into())? {
            Codec::Zstd => Err(format!("format {} has no zstd", self.magic)),
            codec => Ok(codec),
        }
    }

    fn record(self) -> Record {
        let Self { offset, timestamp, key, value, .. } = self;
        Record { offset, timestamp, key, value, headers: Vec::new() }
    }
}

fn field(bytes: &mut Bytes) -> std::result::Result<Option<Bytes>, String> {
    match bytes.try_get_i32().map_err(|_| "it ends in a field's length")? {
        -1 => Ok(None),
        length => match usize::try_from(length).ok().filter(|length| *length <= bytes.len()) {
            Some(length) => Ok(Some(bytes.split_to(length))),
            None => Err(format!("a field says {length} bytes, {} are left", bytes.len())),
        },
    }
}
