//! What of a record must be the same on both sides: all of it but the offset. Pure.

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// When a record was made or appended, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timestamp {
    /// It has none.
    None,
    /// The producer said so (`CreateTime`).
    Created(i64),
    /// The broker said so (`LogAppendTime`).
    Appended(i64),
}

/// A record that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset; not compared.
    pub offset: i64,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its key; `None` is null, which differs from empty.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is null, which differs from empty.
    pub value: Option<&'a [u8]>,
    /// Its headers in order.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// A record that is kept.
#[derive(Debug, Clone)]
pub(super) struct OwnedRecord {
    offset: i64,
    timestamp: Timestamp,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Looks at a message of librdkafka.
pub(super) fn view<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    let timestamp = match message.timestamp() {
        rdkafka::Timestamp::NotAvailable => Timestamp::None,
        rdkafka::Timestamp::CreateTime(ms) => Timestamp::Created(ms),
        rdkafka::Timestamp::LogAppendTime(ms) => Timestamp::Appended(ms),
    };
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        (0..headers.count())
            .filter_map(|index| headers.try_get(index))
            .map(|header| (header.key, header.value))
            .collect()
    });
    Record { offset: message.offset(), timestamp, key: message.key(), value: message.payload(), headers }
}

impl Record<'_> {
    /// Whether everything but the offset is the same.
    pub fn same(&self, other: &Self) -> bool {
        self.timestamp == other.timestamp
            && self.key == other.key
            && self.value == other.value
            && self.headers == other.headers
    }

    /// 64 bits of everything but the offset.
    pub fn digest(&self) -> u64 {
        let (kind, ms) = match self.timestamp {
            Timestamp::None => (0, 0),
            Timestamp::Created(ms) => (1, ms),
            Timestamp::Appended(ms) => (2, ms),
        };
        let mut digest = fold(kind, ms.cast_unsigned());
        digest = fold(digest, part(self.key));
        digest = fold(digest, part(self.value));
        for (key, value) in &self.headers {
            digest = fold(digest, part(Some(key.as_bytes())));
            digest = fold(digest, part(*value));
        }
        digest
    }

    /// The first thing that differs, in words.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.key != other.key {
            return Some(format!("key {} became {}", show(self.key), show(other.key)));
        }
        if self.value != other.value {
            return Some(format!("value {} became {}", show(self.value), show(other.value)));
        }
        if self.headers != other.headers {
            return Some(format!("headers {} became {}", show_headers(self), show_headers(other)));
        }
        (self.timestamp != other.timestamp)
            .then(|| format!("timestamp {:?} became {:?}", self.timestamp, other.timestamp))
    }

    pub(super) fn to_owned_record(&self) -> OwnedRecord {
        OwnedRecord {
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.map(<[u8]>::to_vec),
            value: self.value.map(<[u8]>::to_vec),
            headers: self
                .headers
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }
}

impl OwnedRecord {
    pub(super) fn view(&self) -> Record<'_> {
        Record {
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: self.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect(),
        }
    }
}

/// Null, empty and full parts all differ. The checksum is the fastest thing at hand, also in an unoptimised build.
fn part(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(u64::MAX, |bytes| {
        (u64::from(crc32c::crc32c(bytes)) << 32) | (bytes.len() as u64 & 0xffff_ffff)
    })
}

/// Depends on the order of what is folded in.
fn fold(digest: u64, part: u64) -> u64 {
    let mut z = digest.rotate_left(23) ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    z ^ (z >> 29)
}

/// Bytes of a part that are shown.
const SHOWN_BYTES: usize = 40;

fn show(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else { return "null".to_owned() };
    let shown: String =
        bytes.iter().take(SHOWN_BYTES).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
    let more = if bytes.len() > SHOWN_BYTES { "…" } else { "" };
    format!("\"{shown}\"{more} ({} bytes)", bytes.len())
}

fn show_headers(record: &Record<'_>) -> String {
    let shown: Vec<_> = record.headers.iter().map(|(key, value)| format!("{key}={}", show(*value))).collect();
    format!("[{}]", shown.join(", "))
}
