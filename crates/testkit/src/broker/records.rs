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

/// Reads exactly `count` records; nothing may be left. The text says what is wrong.
pub fn parse(mut body: Bytes, count: i32) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    for index in 0..count {
        let record = one(&mut body).ok_or_else(|| format!("record {index} of {count} cannot be read"))?;
        records.push(record);
    }
    if !body.is_empty() {
        return Err(format!("{} bytes are left behind the last of {count} records", body.len()));
    }
    Ok(records)
}

fn one(body: &mut Bytes) -> Option<Record> {
    let length = usize::try_from(varint(body)?).ok()?;
    let mut rest = take(body, length)?;
    take(&mut rest, 1)?; // attributes: none is in use
    let record = Record {
        timestamp_delta: varint(&mut rest)?,
        offset_delta: i32::try_from(varint(&mut rest)?).ok()?,
        key: field(&mut rest)?,
        value: field(&mut rest)?,
        headers: headers(&mut rest)?,
    };
    rest.is_empty().then_some(record)
}

fn headers(rest: &mut Bytes) -> Option<Vec<(Bytes, Option<Bytes>)>> {
    let count = varint(rest)?;
    if count < 0 {
        return None;
    }
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = field(rest)??;
        headers.push((name, field(rest)?));
    }
    Some(headers)
}

/// A field with a length where -1 is null.
#[expect(clippy::option_option, reason = "unreadable and null are two things")]
fn field(rest: &mut Bytes) -> Option<Option<Bytes>> {
    let length = varint(rest)?;
    if length == -1 {
        return Some(None);
    }
    Some(Some(take(rest, usize::try_from(length).ok()?)?))
}

fn take(rest: &mut Bytes, count: usize) -> Option<Bytes> {
    (rest.len() >= count).then(|| rest.split_to(count))
}

fn varint(rest: &mut Bytes) -> Option<i64> {
    let mut raw = 0_u64;
    for shift in (0..70).step_by(7) {
        if rest.is_empty() {
            return None;
        }
        let byte = rest.get_u8();
        raw |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            let half = i64::try_from(raw >> 1).ok()?;
            return Some(if raw & 1 == 0 { half } else { -half - 1 });
        }
    }
    None
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
        assert_eq!(parse(body.clone(), 2).unwrap(), records);
        assert!(parse(body.clone(), 1).is_err());
        assert!(parse(body.clone(), 3).is_err());
        for cut in 0..body.len() {
            assert!(parse(body.slice(..cut), 2).is_err(), "{cut}");
        }
    }
}
