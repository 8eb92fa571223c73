//! Requests: encoding them, and putting them into the queue of a connection in call order.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Encodable as _, StrBytes, VersionRange};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::answer::Answer;
use super::api::Api;
use super::conn::Connection;
use super::decode::{self, Decode};
use super::link::{Awaited, Queued};
use crate::error::{Error, Result};

/// An encoded request.
pub(crate) struct EncodedRequest {
    /// Kafka's name of it.
    pub(crate) api: &'static str,
    /// As it stands in the header.
    pub(crate) correlation: i32,
    /// The whole frame, length included.
    pub(crate) segments: Vec<Bytes>,
    /// How long it may stay unanswered.
    pub(crate) timeout: Duration,
}

impl Connection {
    /// Queues a request. Requests go out in the order of these calls; nothing is awaited here.
    pub(crate) fn submit<T>(
        &self,
        slot: OwnedSemaphorePermit,
        outgoing: EncodedRequest,
        decode: Decode<T>,
    ) -> Result<Answer<T>> {
        let EncodedRequest { api, correlation, segments, timeout } = outgoing;
        let (sender, receiver) = oneshot::channel();
        let awaited = Awaited::new((api, correlation), timeout, sender, slot);
        if self.is_closed() || self.inner.queue.send(Queued { segments, awaited }).is_err() {
            return Err(self.unsent(api));
        }
        Ok(Answer::new(api, self.clone(), receiver, decode))
    }

    /// Encodes a request whose parts may be copied.
    pub(crate) fn encode<R: Api>(
        &self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<EncodedRequest> {
        let correlation = self.next_correlation();
        let frame = encode_frame(request, version, correlation, &self.inner.client_id)
            .map_err(|problem| Error::Request { api: R::NAME, problem })?;
        check_size(R::NAME, frame.len(), self.inner.limits.frame_bytes_max)?;
        Ok(EncodedRequest { api: R::NAME, correlation, segments: vec![frame], timeout })
    }

    /// Sends a request with the highest common version within `ours` and waits for its answer.
    pub(crate) async fn call_within<R: Api>(
        &self,
        request: &R,
        ours: VersionRange,
        timeout: Duration,
    ) -> Result<R::Response> {
        let version = self.version::<R>(ours)?;
        let slot = self.slot(R::NAME).await?;
        let outgoing = self.encode(request, version, timeout)?;
        let heap_bytes_max = self.inner.limits.decoded_bytes_max();
        let broker = Arc::clone(&self.inner.broker);
        let decode = move |frame| decode::decode_from::<R>(&broker, frame, version, heap_bytes_max);
        self.submit(slot, outgoing, Box::new(decode))?.await
    }
}

/// A whole request frame, length included.
pub(crate) fn encode_frame<R: Api>(
    request: &R,
    version: i16,
    correlation: i32,
    client_id: &StrBytes,
) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(client_id.clone()));
    let mut frame = BytesMut::with_capacity(256);
    frame.put_i32(0);
    header.encode(&mut frame, R::header_version(version)).map_err(|e| e.to_string())?;
    request.encode(&mut frame, version).map_err(|e| e.to_string())?;
    let length = i32::try_from(frame.len() - 4).map_err(|e| e.to_string())?;
    if let Some(place) = frame.first_chunk_mut::<4>() {
        *place = length.to_be_bytes();
    }
    Ok(frame.freeze())
}

/// A broker ends the connection of whoever sends too much: better not to send it.
pub(crate) fn check_size(api: &'static str, bytes: usize, bytes_max: usize) -> Result<()> {
    if bytes <= bytes_max {
        return Ok(());
    }
    Err(Error::Request { api, problem: format!("it has {bytes} bytes, at most {bytes_max} are allowed") })
}

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
