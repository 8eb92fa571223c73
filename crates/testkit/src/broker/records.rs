//! The records inside of a batch: read strictly, as a broker does, and written.
//!
//! Owns the record layout of format 2. Must not know codecs or offsets.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// One record, relative to its batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Timestamp less the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset less the batch's base offset.
    pub offset_delta: i32,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Its value; none in a tombstone.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

impl Record {
    /// A record with key and value.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }
}

/// Why records can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// A number that goes on for too long.
    Number,
    /// Anything else: bytes missing, bytes left, lengths that can't be.
    Structure,
}

/// How a record's own length is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lengths {
    /// It must be right. So a broker reads records that are not compressed.
    Checked,
    /// It is read and not looked at. So a broker reads compressed records, of which it skips keys and values.
    Ignored,
}

/// Reads exactly `count` records; nothing may be left.
pub fn parse(mut body: Bytes, count: i32, lengths: Lengths) -> Result<Vec<Record>, Unreadable> {
    let mut records = Vec::new();
    for _ in 0..count {
        records.push(one(&mut body, lengths)?);
    }
    if body.is_empty() { Ok(records) } else { Err(Unreadable::Structure) }
}

fn one(body: &mut Bytes, lengths: Lengths) -> Result<Record, Unreadable> {
    let length = number(body)?;
    if lengths == Lengths::Ignored {
        return fields(body);
    }
    let mut own = take(body, size(length)?)?;
    let record = fields(&mut own)?;
    if own.is_empty() { Ok(record) } else { Err(Unreadable::Structure) }
}

fn fields(rest: &mut Bytes) -> Result<Record, Unreadable> {
    take(rest, 1)?; // attributes: none is in use
    Ok(Record {
        timestamp_delta: varint(rest, LONG_BYTES_MAX)?,
        offset_delta: i32::try_from(number(rest)?).map_err(|_| Unreadable::Number)?,
        key: field(rest)?,
        value: field(rest)?,
        headers: headers(rest)?,
    })
}

fn headers(rest: &mut Bytes) -> Result<Vec<(Bytes, Option<Bytes>)>, Unreadable> {
    let mut headers = Vec::new();
    for _ in 0..size(number(rest)?)? {
        let name = field(rest)?.ok_or(Unreadable::Structure)?;
        headers.push((name, field(rest)?));
    }
    Ok(headers)
}

/// A field with a length where -1 is null.
fn field(rest: &mut Bytes) -> Result<Option<Bytes>, Unreadable> {
    match number(rest)? {
        -1 => Ok(None),
        length => take(rest, size(length)?).map(Some),
    }
}

fn size(length: i64) -> Result<usize, Unreadable> {
    usize::try_from(length).map_err(|_| Unreadable::Structure)
}

fn take(rest: &mut Bytes, count: usize) -> Result<Bytes, Unreadable> {
    if rest.len() < count { Err(Unreadable::Structure) } else { Ok(rest.split_to(count)) }
}

/// A number of 32 bits has at most this many bytes.
const INT_BYTES_MAX: u32 = 5;
/// A number of 64 bits has at most this many bytes.
const LONG_BYTES_MAX: u32 = 10;

fn number(rest: &mut Bytes) -> Result<i64, Unreadable> {
    varint(rest, INT_BYTES_MAX)
}

fn varint(rest: &mut Bytes, bytes_max: u32) -> Result<i64, Unreadable> {
    let mut raw = 0_u64;
    for index in 0..bytes_max {
        if rest.is_empty() {
            return Err(Unreadable::Structure);
        }
        let byte = rest.get_u8();
        raw |= u64::from(byte & 0x7f) << (index * 7);
        if byte & 0x80 == 0 {
            let half = i64::try_from(raw >> 1).unwrap_or(i64::MAX);
            return Ok(if raw & 1 == 0 { half } else { -half - 1 });
        }
    }
    Err(Unreadable::Number)
}

/// Writes records one behind the other.
pub fn encode(records: &[Record]) -> Bytes {
    let mut out = BytesMut::new();
    for record in records {
        let mut inner = BytesMut::new();
        inner.put_u8(0);
        put_varint(&mut inner, record.timestamp_delta);
        put_varint(&mut inner, i64::from(record.offset_delta));
        put_field(&mut inner, record.key.as_ref());
        put_field(&mut inner, record.value.as_ref());
        put_varint(&mut inner, length(record.headers.len()));
        for (name, value) in &record.headers {
            put_field(&mut inner, Some(name));
            put_field(&mut inner, value.as_ref());
        }
        put_varint(&mut out, length(inner.len()));
        out.extend_from_slice(&inner);
    }
    out.freeze()
}

fn put_field(out: &mut BytesMut, field: Option<&Bytes>) {
    match field {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, length(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn put_varint(out: &mut BytesMut, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.put_u8(u8::try_from(raw & 0x7f).unwrap_or(0) | 0x80);
        raw >>= 7;
    }
    out.put_u8(u8::try_from(raw).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_and_nothing_may_be_left() {
        let mut records =
            vec![Record::new("k", "v"), Record { timestamp_delta: -70_000, ..Record::default() }];
        records[1].offset_delta = 1;
        records[1].headers = vec![("h".into(), None), ("i".into(), Some("x".into()))];
        let body = encode(&records);
        for lengths in [Lengths::Checked, Lengths::Ignored] {
            assert_eq!(parse(body.clone(), 2, lengths).unwrap(), records);
            assert_eq!(parse(body.clone(), 1, lengths), Err(Unreadable::Structure));
            assert_eq!(parse(body.clone(), 3, lengths), Err(Unreadable::Structure));
        }
        for cut in 0..body.len() {
            assert_eq!(parse(body.slice(..cut), 2, Lengths::Checked), Err(Unreadable::Structure), "{cut}");
        }
        assert_eq!(parse(Bytes::from_static(&[0xff; 40]), 2, Lengths::Checked), Err(Unreadable::Number));
        let mut lying = body.to_vec();
        lying[0] ^= 8;
        assert!(parse(lying.clone().into(), 2, Lengths::Checked).is_err());
        assert_eq!(parse(lying.into(), 2, Lengths::Ignored).unwrap(), records);
    }
}
