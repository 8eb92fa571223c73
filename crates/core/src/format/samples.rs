//! Batches for tests, of this crate and of those that depend on it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "for tests only")]

use bytes::Bytes;

use super::batch::{BatchHeader, CRC_START, HEADER_BYTES, LOG_OVERHEAD};
use super::crc::crc32c;

/// A batch with a right CRC; the body is whatever bytes are given.
pub fn make(header: BatchHeader, body: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&header.base_offset.to_be_bytes());
    bytes.extend_from_slice(&i32::try_from(HEADER_BYTES - LOG_OVERHEAD + body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&header.leader_epoch.to_be_bytes());
    bytes.push(2);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&header.attributes.to_be_bytes());
    bytes.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    bytes.extend_from_slice(&header.base_timestamp.to_be_bytes());
    bytes.extend_from_slice(&header.max_timestamp.to_be_bytes());
    bytes.extend_from_slice(&header.producer_id.to_be_bytes());
    bytes.extend_from_slice(&header.producer_epoch.to_be_bytes());
    bytes.extend_from_slice(&header.base_sequence.to_be_bytes());
    bytes.extend_from_slice(&header.count.to_be_bytes());
    bytes.extend_from_slice(body);
    let crc = crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

/// The header of a dense batch of so many records, as no producer with an id wrote it.
pub fn header(base_offset: i64, count: i32) -> BatchHeader {
    BatchHeader {
        base_offset,
        leader_epoch: 3,
        crc: 0,
        attributes: 0,
        last_offset_delta: count - 1,
        base_timestamp: 1_000,
        max_timestamp: 1_000 + i64::from(count),
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        count,
    }
}
