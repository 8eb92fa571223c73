//! The answer to a request: waiting for it, and turning its bytes into a response.
//!
//! Owns the way from a frame to a decoded message. A frame is checked against its message's shape before
//! kafka-protocol sees it (see [`super::shape`]).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use kafka_protocol::protocol::{Decodable as _, HeaderVersion as _};
use tokio::sync::oneshot;

use super::api::Api;
use super::conn::Connection;
use super::shape;
use crate::error::{Error, Result};

/// Turns a frame into what the caller waits for.
pub(crate) type Decode<T> = Box<dyn FnOnce(Bytes) -> Result<T> + Send>;

/// The answer to a request that has been queued.
///
/// Dropping it neither withdraws the request nor disturbs the ones behind it. It keeps its connection open.
///
/// # Errors
/// [`Error::Timeout`] and [`Error::Disconnected`]: the outcome is unknown.
#[must_use = "the request is on its way; its outcome is only known from the answer"]
pub struct Answer<T> {
    api: &'static str,
    connection: Connection,
    receiver: oneshot::Receiver<Result<Bytes>>,
    decode: Option<Decode<T>>,
}

impl<T> Answer<T> {
    pub(crate) fn new(
        api: &'static str,
        connection: Connection,
        receiver: oneshot::Receiver<Result<Bytes>>,
        decode: Decode<T>,
    ) -> Self {
        Self { api, connection, receiver, decode: Some(decode) }
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = match Pin::new(&mut self.receiver).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(received) => received,
        };
        let Ok(frame) = received else { return Poll::Ready(Err(self.connection.disconnected(self.api))) };
        let decode = self.decode.take();
        Poll::Ready(match (frame, decode) {
            (Ok(frame), Some(decode)) => decode(frame),
            (Err(error), _) => Err(error),
            // Polled after it was ready.
            (Ok(_), None) => Err(self.connection.disconnected(self.api)),
        })
    }
}

impl<T> fmt::Debug for Answer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("api", &self.api)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

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
