//! What a broker checks of a produced batch, in Kafka's order, and what it changes (`ProduceRequest.validateRecords`,
//! `UnifiedLog.analyzeAndValidateRecords`, `LogValidator`).
//!
//! Owns the checks that need no more than the batch and the topic's settings. Producers are checked elsewhere.

use bytes::Bytes;

use super::batch::{self, Batch, BatchHeader, CONTROL, LOG_APPEND_TIME, TRANSACTIONAL};
use super::code;
use super::codec::Codec;
use super::records::{self, Lengths, Record, Unreadable};

/// Zstandard came with this version of the request.
const ZSTD_FROM_VERSION: i16 = 7;
const NO_TIMESTAMP: i64 = -1;

/// The topic's settings that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) message_bytes_max: usize,
    pub(super) segment_bytes: usize,
    pub(super) compacted: bool,
    pub(super) log_append_time: bool,
    pub(super) before_ms_max: i64,
    pub(super) after_ms_max: i64,
    /// None: as the producer did.
    pub(super) codec: Option<Codec>,
}

/// Why a batch is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: i16,
    pub(super) message: String,
    /// Indices of the records at fault.
    pub(super) records: Vec<i32>,
}

impl Refusal {
    pub(super) fn new(code: i16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), records: Vec::new() }
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code::INVALID_RECORD, message))
}

/// The one batch of a partition in a request of this version.
pub(super) fn request(version: i16, bytes: Option<&Bytes>) -> Result<Batch, Refusal> {
    let bytes = bytes.cloned().unwrap_or_default();
    let batches = batch::split(bytes)
        .map_err(|batch::NoBatch| Refusal::new(code::CORRUPT_MESSAGE, "the bytes are no batch"))?;
    let mut batches = batches.into_iter();
    let Some(first) = batches.next() else { return invalid("there must be at least one batch") };
    if first.header.magic != 2 {
        return invalid("only format 2 may be produced");
    }
    if version < ZSTD_FROM_VERSION && first.header.codec() == Codec::Zstd.number() {
        return Err(Refusal::new(code::UNSUPPORTED_COMPRESSION_TYPE, "zstd needs version 7"));
    }
    if batches.next().is_some() {
        return invalid("there must be exactly one batch");
    }
    Ok(first)
}

/// Checks the batch and makes it what the log shall hold, still at offset 0.
pub(super) fn batch(batch: &Batch, rules: &Rules, now_ms: i64) -> Result<Batch, Refusal> {
    let header = &batch.header;
    if header.base_offset != 0 {
        return invalid(format!("the base offset should be 0, but it is {}", header.base_offset));
    }
    if batch.bytes.len() > rules.message_bytes_max {
        return Err(too_large(batch.bytes.len(), rules.message_bytes_max));
    }
    if !batch.is_intact() {
        return Err(Refusal::new(code::CORRUPT_MESSAGE, "the CRC does not fit"));
    }
    check_header(header)?;
    let Some(codec) = Codec::of(header.codec()) else {
        return Err(Refusal::new(code::UNKNOWN_SERVER_ERROR, "unknown codec"));
    };
    let plain = codec
        .decompress(batch.body())
        .map_err(|problem| Refusal::new(code::UNKNOWN_SERVER_ERROR, problem))?;
    let records = read(plain, header.count, codec)?;
    check_records(header, &records, rules, now_ms)?;
    let kept = settle(batch, codec, &records, rules, now_ms)?;
    if kept.bytes.len() > rules.message_bytes_max {
        return Err(too_large(kept.bytes.len(), rules.message_bytes_max));
    }
    if kept.bytes.len() > rules.segment_bytes {
        return Err(Refusal::new(code::RECORD_LIST_TOO_LARGE, "larger than a segment"));
    }
    Ok(kept)
}

/// Kafka reads records strictly where it reads all of them, and by their fields where it only skips through.
fn read(plain: Bytes, count: i32, codec: Codec) -> Result<Vec<Record>, Refusal> {
    let lengths = if codec == Codec::None { Lengths::Checked } else { Lengths::Ignored };
    records::parse(plain, count, lengths).map_err(|problem| match (problem, lengths) {
        (Unreadable::Number, Lengths::Checked) => {
            Refusal::new(code::UNKNOWN_SERVER_ERROR, "a number in a record is too long")
        }
        _ => Refusal::new(code::INVALID_RECORD, "the records cannot be read"),
    })
}

fn too_large(bytes: usize, bytes_max: usize) -> Refusal {
    Refusal::new(
        code::MESSAGE_TOO_LARGE,
        format!("the batch has {bytes} bytes, max.message.bytes is {bytes_max}"),
    )
}

fn check_header(header: &BatchHeader) -> Result<(), Refusal> {
    if header.last_offset_delta < 0 || header.count <= 0 || header.count != header.last_offset_delta + 1 {
        return invalid(format!(
            "inconsistent batch offset range: last offset delta {}, {} records",
            header.last_offset_delta, header.count
        ));
    }
    if header.has(CONTROL) {
        return invalid("clients may not write control records");
    }
    if header.has_producer() && header.base_sequence < 0 {
        return invalid(format!("invalid sequence {}", header.base_sequence));
    }
    Ok(())
}

fn check_records(
    header: &BatchHeader,
    records: &[Record],
    rules: &Rules,
    now_ms: i64,
) -> Result<(), Refusal> {
    let (mut wrong, mut code) = (Vec::new(), code::INVALID_RECORD);
    for (index, record) in (0..).zip(records) {
        if rules.compacted && record.key.is_none() {
            wrong.push(index);
        } else if bad_timestamp(header, record, rules, now_ms) {
            code = code::INVALID_TIMESTAMP;
            wrong.push(index);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Refusal { code, message: "one or more records have been rejected".to_owned(), records: wrong })
}

fn bad_timestamp(header: &BatchHeader, record: &Record, rules: &Rules, now_ms: i64) -> bool {
    let timestamp = timestamp_of(header, record);
    if !rules.log_append_time && timestamp != NO_TIMESTAMP {
        return timestamp.saturating_sub(now_ms) > rules.after_ms_max
            || now_ms.saturating_sub(timestamp) > rules.before_ms_max;
    }
    header.has(LOG_APPEND_TIME)
}

/// With the log-append-time bit all records bear the batch's highest timestamp.
fn timestamp_of(header: &BatchHeader, record: &Record) -> i64 {
    if header.has(LOG_APPEND_TIME) {
        header.max_timestamp
    } else {
        header.base_timestamp.saturating_add(record.timestamp_delta)
    }
}

/// Timestamps, codec and inner offsets as the log wants them; as little is changed as Kafka changes.
fn settle(
    batch: &Batch,
    codec: Codec,
    records: &[Record],
    rules: &Rules,
    now_ms: i64,
) -> Result<Batch, Refusal> {
    let target = rules.codec.unwrap_or(codec);
    let in_order = (0..).zip(records).all(|(offset, record)| record.offset_delta == offset);
    if target == codec && codec != Codec::None && !in_order {
        // It would have to be built anew, but the broker has skipped keys and values: it fails over that.
        return Err(Refusal::new(code::UNKNOWN_SERVER_ERROR, "inner offsets are not 0, 1, 2, ..."));
    }
    let mut header = batch.header;
    header.attributes &= !LOG_APPEND_TIME;
    if rules.log_append_time {
        header.attributes |= LOG_APPEND_TIME;
        header.max_timestamp = now_ms;
    } else {
        let highest = records.iter().map(|record| timestamp_of(&batch.header, record)).max();
        header.max_timestamp = highest.unwrap_or(NO_TIMESTAMP);
    }
    if target == codec {
        if header == batch.header {
            return Ok(batch.clone());
        }
        return Ok(Batch::sealed(header, &batch.body()));
    }
    rebuild(header, &batch.header, target, records)
}

fn rebuild(
    mut header: BatchHeader,
    old: &BatchHeader,
    target: Codec,
    records: &[Record],
) -> Result<Batch, Refusal> {
    header.attributes = (header.attributes & (LOG_APPEND_TIME | TRANSACTIONAL)) | target.number();
    let base = records.first().map_or(NO_TIMESTAMP, |first| timestamp_of(old, first));
    header.base_timestamp = base;
    let written: Vec<_> = (0..)
        .zip(records)
        .map(|(offset_delta, record)| Record {
            offset_delta,
            timestamp_delta: timestamp_of(old, record) - base,
            ..record.clone()
        })
        .collect();
    let body = target
        .compress(&records::encode(&written))
        .map_err(|problem| Refusal::new(code::UNKNOWN_SERVER_ERROR, problem))?;
    Ok(Batch::sealed(header, &body))
}
