//! The answer to a request, and waiting for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::conn::Connection;
use super::decode::Decode;
use crate::error::Result;

/// The answer to a request that has been queued.
///
/// Dropping it neither withdraws the request nor disturbs the ones behind it. It keeps its connection open.
///
/// # Errors
/// [`Error::Timeout`](crate::Error::Timeout) and [`Error::Disconnected`](crate::Error::Disconnected): the outcome is
/// unknown.
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
