//! Turning the bytes of an answer into a response.
//!
//! Owns the way from a frame to a decoded message. A frame is checked against its message's shape before
//! kafka-protocol sees it (see [`super::shape`]).

use bytes::{Buf as _, Bytes};
use kafka_protocol::protocol::{Decodable as _, HeaderVersion as _};

use super::api::Api;
use super::shape;
use crate::error::{Error, Result};

/// Turns a frame into what the caller waits for.
pub(crate) type Decode<T> = Box<dyn FnOnce(Bytes) -> Result<T> + Send>;

/// Decodes a whole response frame, header included. The text says what is wrong with it.
pub(crate) fn decode<R: Api>(
    mut frame: Bytes,
    version: i16,
    heap_bytes_max: usize,
) -> Result<R::Response, String> {
    let header_version = R::Response::header_version(version);
    let header_bytes = shape::response_header_bytes(&frame, header_version).map_err(|e| e.to_string())?;
    frame.advance(header_bytes);
    let flexible = version >= R::FLEXIBLE_FROM;
    shape::check(&frame, R::SHAPE, version, flexible, heap_bytes_max).map_err(|e| e.to_string())?;
    R::Response::decode(&mut frame, version).map_err(|e| e.to_string())
}

/// As [`decode`], with the error naming broker and request.
pub(crate) fn decode_from<R: Api>(
    broker: &str,
    frame: Bytes,
    version: i16,
    heap_bytes_max: usize,
) -> Result<R::Response> {
    decode::<R>(frame, version, heap_bytes_max).map_err(|problem| malformed::<R>(broker, version, problem))
}

/// The error for an answer that can be decoded but says something impossible.
pub(crate) fn malformed<R: Api>(broker: &str, version: i16, problem: impl Into<String>) -> Error {
    Error::Malformed { broker: broker.into(), api: R::NAME, version, problem: problem.into() }
}

/// A throttle time as it stands in a response; a negative one is none.
pub(crate) fn throttle(throttle_time_ms: i32) -> std::time::Duration {
    std::time::Duration::from_millis(u64::try_from(throttle_time_ms).unwrap_or(0))
}
