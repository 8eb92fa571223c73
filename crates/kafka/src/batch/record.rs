//! One record inside a batch (format 2).
//!
//! Owns the variable-length layout: every number zigzag-coded, -1 for null. Records are first read as views into the
//! batch's memory, so that what copies or compares them takes no memory. Must not know compression.

use bytes::Bytes;

/// The fewest bytes a record can have: length, attributes, two deltas, two null lengths, no headers.
const RECORD_BYTES_MIN: usize = 7;
/// The fewest bytes a header can have: an empty key and no value.
const HEADER_BYTES_MIN: usize = 2;
/// The most bytes that Kafka's readers take for a number of 32 bits.
const VARINT_BYTES_MAX: usize = 5;

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

/// A record in the memory of its batch, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
    /// Key, value and headers as the batch has them.
    pub(crate) content: &'a [u8],
}

/// The headers of a record; they were checked when it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        header(&mut self.rest).ok()
    }
}

/// Reads the records of a body one after the other. Stops at the first that is wrong, after saying so.
pub(crate) struct Views<'a> {
    rest: &'a [u8],
    left: usize,
    base: &'a Base,
}

impl<'a> Views<'a> {
    /// Of a body with `count` records that fill it.
    pub(crate) fn new(body: &'a [u8], count: usize, base: &'a Base) -> Result<Self, String> {
        if count > body.len() / RECORD_BYTES_MIN {
            return Err(format!("it says {count} records, but there are only {} bytes of them", body.len()));
        }
        Ok(Self { rest: body, left: count, base })
    }
}

impl<'a> Iterator for Views<'a> {
    type Item = Result<View<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let behind = std::mem::take(&mut self.rest).len();
            return (behind > 0).then(|| Err(format!("{behind} bytes follow its last record")));
        }
        self.left -= 1;
        let view = length(&mut self.rest)
            .and_then(|length| take(&mut self.rest, length))
            .and_then(|bytes| read(bytes, self.base));
        if view.is_err() {
            (self.rest, self.left) = (&[], 0);
        }
        Some(view)
    }
}

fn read<'a>(mut bytes: &'a [u8], base: &Base) -> Result<View<'a>, String> {
    if take(&mut bytes, 1)? != [0] {
        return Err("a record has attributes, of which none are defined".to_owned());
    }
    let timestamp_delta = varlong(&mut bytes)?;
    let offset_delta = varint(&mut bytes)?;
    if offset_delta < 0 || offset_delta > base.last_offset_delta {
        return Err(format!("a record's offset delta {offset_delta} lies outside the batch"));
    }
    let timestamp = base.timestamp.checked_add(timestamp_delta).ok_or("a timestamp is too large")?;
    let offset = base.offset.checked_add(i64::from(offset_delta)).ok_or("an offset is too large")?;
    let content = bytes;
    let key = nullable(&mut bytes)?;
    let value = nullable(&mut bytes)?;
    let count = length(&mut bytes)?;
    if count > bytes.len() / HEADER_BYTES_MIN {
        return Err(format!(
            "a record says {count} headers, but there are only {} bytes of them",
            bytes.len()
        ));
    }
    let headers = Headers { rest: bytes, count };
    for _ in 0..count {
        header(&mut bytes)?;
    }
    if !bytes.is_empty() {
        return Err(format!("{} bytes follow a record's last header", bytes.len()));
    }
    let timestamp = base.append_time.unwrap_or(timestamp);
    Ok(View { offset, timestamp, key, value, headers, content })
}

fn header<'a>(bytes: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), String> {
    let key_length = length(bytes)?;
    Ok((take(bytes, key_length)?, nullable(bytes)?))
}

/// Decodes `count` records that fill `body`.
pub(crate) fn decode_all(body: &Bytes, count: usize, base: &Base) -> Result<Vec<Record>, String> {
    let views = Views::new(body, count, base)?;
    let mut records = Vec::with_capacity(count);
    for view in views {
        let view = view?;
        records.push(Record {
            offset: view.offset,
            timestamp: view.timestamp,
            key: view.key.map(|key| body.slice_ref(key)),
            value: view.value.map(|value| body.slice_ref(value)),
            headers: view
                .headers
                .map(|(key, value)| (body.slice_ref(key), value.map(|value| body.slice_ref(value))))
                .collect(),
        });
    }
    Ok(records)
}

/// Writes key, value and headers of a record as a batch has them.
pub(crate) fn put_content(out: &mut Vec<u8>, record: &Record) -> Result<(), String> {
    put_nullable(out, record.key.as_ref())?;
    put_nullable(out, record.value.as_ref())?;
    put_length(out, record.headers.len())?;
    for (key, value) in &record.headers {
        put_nullable(out, Some(key))?;
        put_nullable(out, value.as_ref())?;
    }
    Ok(())
}

/// Bytes of a record with this content, its own length included.
pub(crate) fn framed_bytes(timestamp_delta: i64, offset_delta: i32, content: usize) -> usize {
    let inner = 1 + varlong_bytes(timestamp_delta) + varlong_bytes(offset_delta.into()) + content;
    let length = varlong_bytes(i64::try_from(inner).unwrap_or(i64::MAX));
    inner.saturating_add(length)
}

/// Writes a record around its content.
pub(crate) fn put_framed(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    content: &[u8],
) -> Result<(), String> {
    let inner = 1 + varlong_bytes(timestamp_delta) + varlong_bytes(offset_delta.into()) + content.len();
    put_length(out, inner)?;
    out.push(0);
    put_varlong(out, timestamp_delta);
    put_varlong(out, offset_delta.into());
    out.extend_from_slice(content);
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let Some((field, rest)) = bytes.split_at_checked(length) else {
        return Err(format!("a field of {length} bytes goes {} beyond its end", length - bytes.len()));
    };
    *bytes = rest;
    Ok(field)
}

fn nullable<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, String> {
    match varint(bytes)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| negative(length))?;
            take(bytes, length).map(Some)
        }
    }
}

fn length(bytes: &mut &[u8]) -> Result<usize, String> {
    let length = varint(bytes)?;
    usize::try_from(length).map_err(|_| negative(length))
}

fn negative(length: i32) -> String {
    format!("a length is {length}")
}

fn varint(bytes: &mut &[u8]) -> Result<i32, String> {
    let before = bytes.len();
    let value = varlong(bytes)?;
    if before - bytes.len() > VARINT_BYTES_MAX {
        return Err(format!("a number of 32 bits has more than {VARINT_BYTES_MAX} bytes"));
    }
    i32::try_from(value).map_err(|_| "a number is too large".to_owned())
}

/// Zigzag: the lowest bit is the sign. At most ten bytes.
#[inline]
fn varlong(bytes: &mut &[u8]) -> Result<i64, String> {
    let mut zigzag = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("a number goes beyond its end")?;
        *bytes = rest;
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()));
        }
    }
    Err("a number has more than ten bytes".to_owned())
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn varlong_bytes(value: i64) -> usize {
    // Seven bits in a byte; zero has one.
    (zigzag(value) | 1).ilog2() as usize / 7 + 1
}

fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = zigzag(value);
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push((zigzag & 0x7f) as u8);
}

fn put_length(out: &mut Vec<u8>, length: usize) -> Result<(), String> {
    let length = i32::try_from(length).map_err(|_| "a field is too large")?;
    put_varlong(out, i64::from(length));
    Ok(())
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&Bytes>) -> Result<(), String> {
    let Some(bytes) = bytes else {
        put_varlong(out, -1);
        return Ok(());
    };
    put_length(out, bytes.len())?;
    out.extend_from_slice(bytes);
    Ok(())
}
