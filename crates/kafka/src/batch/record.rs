//! One record inside a batch (format 2).
//!
//! Owns the variable-length layout: every number zigzag-coded, -1 for null. Must not know compression.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The fewest bytes a record can have: length, attributes, two deltas, two null lengths, no headers.
const RECORD_BYTES_MIN: usize = 7;
/// The fewest bytes a header can have: an empty key and no value.
const HEADER_BYTES_MIN: usize = 2;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in ms, -1 if it has none.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers in order. Keys may repeat, and nobody forces them to be UTF-8.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// What the batch says that the records are relative to.
pub(crate) struct Base {
    pub(crate) offset: i64,
    pub(crate) last_offset_delta: i32,
    pub(crate) timestamp: i64,
    /// The time of all records, if the broker set it.
    pub(crate) append_time: Option<i64>,
}

/// Decodes `count` records that fill `body`.
pub(crate) fn decode_all(mut body: Bytes, count: usize, base: &Base) -> Result<Vec<Record>, String> {
    if count > body.len() / RECORD_BYTES_MIN {
        return Err(format!("it says {count} records, but there are only {} bytes of them", body.len()));
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let length = length(&mut body)?;
        let record = take(&mut body, length)?;
        records.push(decode(record, base)?);
    }
    if body.is_empty() { Ok(records) } else { Err(format!("{} bytes follow its last record", body.len())) }
}

fn decode(mut bytes: Bytes, base: &Base) -> Result<Record, String> {
    let attributes = take(&mut bytes, 1)?;
    if attributes.as_ref() != [0] {
        return Err("a record has attributes, of which none are defined".to_owned());
    }
    let timestamp_delta = varlong(&mut bytes)?;
    let offset_delta = varint(&mut bytes)?;
    if offset_delta < 0 || offset_delta > base.last_offset_delta {
        return Err(format!("a record's offset delta {offset_delta} lies outside the batch"));
    }
    let timestamp = base.timestamp.checked_add(timestamp_delta).ok_or("a timestamp is too large")?;
    let offset = base.offset.checked_add(i64::from(offset_delta)).ok_or("an offset is too large")?;
    let key = nullable(&mut bytes)?;
    let value = nullable(&mut bytes)?;
    let count = length(&mut bytes)?;
    if count > bytes.len() / HEADER_BYTES_MIN {
        return Err(format!(
            "a record says {count} headers, but there are only {} bytes of them",
            bytes.len()
        ));
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let key_length = length(&mut bytes)?;
        headers.push((take(&mut bytes, key_length)?, nullable(&mut bytes)?));
    }
    if !bytes.is_empty() {
        return Err(format!("{} bytes follow a record's last header", bytes.len()));
    }
    Ok(Record { offset, timestamp: base.append_time.unwrap_or(timestamp), key, value, headers })
}

/// Writes a record at the given offset delta.
pub(crate) fn encode(
    out: &mut BytesMut,
    record: &Record,
    offset_delta: i32,
    base_timestamp: i64,
) -> Result<(), String> {
    let timestamp_delta =
        record.timestamp.checked_sub(base_timestamp).ok_or("timestamps are too far apart")?;
    let mut bytes = BytesMut::new();
    bytes.put_i8(0);
    put_varlong(&mut bytes, timestamp_delta);
    put_varlong(&mut bytes, i64::from(offset_delta));
    put_nullable(&mut bytes, record.key.as_ref())?;
    put_nullable(&mut bytes, record.value.as_ref())?;
    put_length(&mut bytes, record.headers.len())?;
    for (key, value) in &record.headers {
        put_nullable(&mut bytes, Some(key))?;
        put_nullable(&mut bytes, value.as_ref())?;
    }
    put_length(out, bytes.len())?;
    out.put_slice(&bytes);
    Ok(())
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, String> {
    if length > bytes.len() {
        return Err(format!("a field of {length} bytes goes {} beyond its end", length - bytes.len()));
    }
    Ok(bytes.split_to(length))
}

fn nullable(bytes: &mut Bytes) -> Result<Option<Bytes>, String> {
    match varint(bytes)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| negative(length))?;
            take(bytes, length).map(Some)
        }
    }
}

fn length(bytes: &mut Bytes) -> Result<usize, String> {
    let length = varint(bytes)?;
    usize::try_from(length).map_err(|_| negative(length))
}

fn negative(length: i32) -> String {
    format!("a length is {length}")
}

fn varint(bytes: &mut Bytes) -> Result<i32, String> {
    i32::try_from(varlong(bytes)?).map_err(|_| "a number is too large".to_owned())
}

/// Zigzag: the lowest bit is the sign. At most ten bytes.
fn varlong(bytes: &mut Bytes) -> Result<i64, String> {
    let mut zigzag = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().map_err(|_| "a number goes beyond its end")?;
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()));
        }
    }
    Err("a number has more than ten bytes".to_owned())
}

fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.put_u8((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.put_u8((zigzag & 0x7f) as u8);
}

fn put_length(out: &mut BytesMut, length: usize) -> Result<(), String> {
    let length = i32::try_from(length).map_err(|_| "a field is too large")?;
    put_varlong(out, i64::from(length));
    Ok(())
}

fn put_nullable(out: &mut BytesMut, bytes: Option<&Bytes>) -> Result<(), String> {
    let Some(bytes) = bytes else {
        put_varlong(out, -1);
        return Ok(());
    };
    put_length(out, bytes.len())?;
    out.put_slice(bytes);
    Ok(())
}
