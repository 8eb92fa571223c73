//! One connection to one broker, pipelined.
//!
//! Owns the handle that others share: it encodes requests, queues them in call order for the tasks of `link`
//! and says when the connection has ended.
//!
//! Invariant: once anything goes wrong (a late answer, a wrong correlation id, an oversized frame, a broken socket) the
//! connection ends, and every unanswered request learns that its outcome is unknown. A connection never skips an answer.
//!
//! Must not know what requests mean.

use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{MetadataRequest, RequestHeader};
use kafka_protocol::protocol::{Encodable as _, StrBytes, VersionRange};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::answer::{self, Answer, Decode};
use super::api::Api;
use super::link::{self, Awaited, End, Queued};
use super::transport::{self, Transport};
use super::versions::{self, Negotiated, Versions};
use crate::client::METADATA_VERSIONS;
use crate::config::{ExpectedCluster, Limits};
use crate::error::{Error, Result};
use crate::memory::Share;

/// A handle to a connection; clones share it. It closes when the last handle and the last [`Answer`] are gone.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Arc<str>,
    client_id: StrBytes,
    limits: Limits,
    versions: OnceLock<Versions>,
    correlation: AtomicI32,
    /// Unbounded by type; the slots bound it.
    queue: mpsc::UnboundedSender<Queued>,
    end: Arc<End>,
    tasks: [AbortHandle; 2],
}

/// An encoded request.
pub(crate) struct Outgoing {
    /// Kafka's name of it.
    pub(crate) api: &'static str,
    /// As it stands in the header.
    pub(crate) correlation: i32,
    /// The whole frame, length included.
    pub(crate) segments: Vec<Bytes>,
    /// How long it may stay unanswered.
    pub(crate) timeout: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end.now("all handles to it were dropped");
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Connection {
    /// Connects to `host:port` and agrees on versions, within `limits.connect_timeout`.
    ///
    /// # Errors
    /// [`Error::Connect`] and [`Error::ConnectTimeout`]; [`Error::Unsupported`] if the peer is too old.
    pub async fn connect(broker: &str, client_id: &str, limits: Limits) -> Result<Self> {
        Self::connect_within(broker, client_id, limits, None, None).await
    }

    /// As [`Connection::connect`]; what is read is charged to a share of a memory budget. A broker of another cluster than
    /// `expected` is refused: nothing else is sent to it.
    pub(crate) async fn connect_within(
        broker: &str,
        client_id: &str,
        limits: Limits,
        memory: Option<Share>,
        expected: Option<&ExpectedCluster>,
    ) -> Result<Self> {
        let broker: Arc<str> = broker.into();
        let opening = async {
            let transport = transport::open_plaintext(&broker)
                .await
                .map_err(|source| Error::Connect { broker: Arc::clone(&broker), source: Arc::new(source) })?;
            let connection = Self::start(Arc::clone(&broker), client_id, limits, transport, memory);
            connection.negotiate().await?;
            if let Some(expected) = expected {
                connection.check_cluster(expected).await?;
            }
            Ok(connection)
        };
        tokio::time::timeout(limits.connect_timeout, opening).await.unwrap_or_else(|_| {
            Err(Error::ConnectTimeout { broker: Arc::clone(&broker), timeout: limits.connect_timeout })
        })
    }

    fn start(
        broker: Arc<str>,
        client_id: &str,
        limits: Limits,
        transport: Transport,
        memory: Option<Share>,
    ) -> Self {
        let (queue, end, tasks) = link::start(&broker, &limits, transport, memory);
        let inner = Inner {
            broker,
            client_id: StrBytes::from_string(client_id.to_owned()),
            limits,
            versions: OnceLock::new(),
            correlation: AtomicI32::new(0),
            queue,
            end,
            tasks,
        };
        Self { inner: Arc::new(inner) }
    }

    async fn negotiate(&self) -> Result<()> {
        let mut version = versions::FIRST_TRY;
        loop {
            let heap_bytes_max = self.inner.limits.decoded_bytes_max();
            let broker = Arc::clone(&self.inner.broker);
            let decode = move |frame: Bytes| {
                versions::read(&frame, version, heap_bytes_max).map_err(|problem| {
                    answer::malformed::<kafka_protocol::messages::ApiVersionsRequest>(
                        &broker, version, problem,
                    )
                })
            };
            let outgoing = self.encode(&versions::request(), version, self.inner.limits.connect_timeout)?;
            let slot = self.slot(outgoing.api).await?;
            match self.submit(slot, outgoing, Box::new(decode))?.await? {
                Negotiated::Known(known) => {
                    self.inner.versions.get_or_init(|| known);
                    return Ok(());
                }
                // Strictly downwards, so this ends.
                Negotiated::AskAgain(lower) => version = lower,
                Negotiated::Refused(code) => {
                    let broker = Arc::clone(&self.inner.broker);
                    return Err(Error::Broker { broker, api: "ApiVersions", code, message: None });
                }
            }
        }
    }

    /// Asks which cluster the broker belongs to. Metadata without topics tells it in all versions that we use.
    async fn check_cluster(&self, expected: &ExpectedCluster) -> Result<()> {
        let request =
            MetadataRequest::default().with_topics(Some(Vec::new())).with_allow_auto_topic_creation(false);
        let timeout = self.inner.limits.connect_timeout;
        let response = self.call_within(&request, METADATA_VERSIONS, timeout).await?;
        let found = response.cluster_id.as_ref().map_or("unknown", |id| id.as_str());
        if found == &*expected.kafka_cluster_id {
            return Ok(());
        }
        Err(Error::ClusterChanged {
            broker: Arc::clone(&self.inner.broker),
            cluster: Arc::clone(&expected.name),
            expected: Arc::clone(&expected.kafka_cluster_id),
            found: found.into(),
        })
    }

    /// `host:port` of the broker.
    pub fn broker(&self) -> &str {
        &self.inner.broker
    }

    /// Whether the connection has ended. A request queued after that is not sent.
    pub fn is_closed(&self) -> bool {
        self.inner.end.token.is_cancelled()
    }

    /// Returns once the connection has ended, with the reason.
    ///
    /// What was sent before may still take effect at the broker.
    pub async fn closed(&self) -> Arc<str> {
        self.inner.end.token.cancelled().await;
        self.inner.end.reason()
    }

    /// Ends the connection. Every unanswered request gets [`Error::Disconnected`]: its outcome is unknown.
    pub fn close(&self) {
        self.close_because("we closed it");
    }

    /// As [`Connection::close`]; the errors of unanswered requests carry the reason.
    pub fn close_because(&self, reason: &str) {
        self.inner.end.now(reason);
    }

    /// Whether requests to produce and to fetch can name topics by id.
    pub fn knows_topic_ids(&self) -> bool {
        let versions = self.versions();
        versions.select(0, VersionRange { min: 13, max: i16::MAX }).is_some()
            && versions.select(1, VersionRange { min: 13, max: i16::MAX }).is_some()
    }

    /// Whether requests to fetch can name topics by id.
    pub fn fetches_by_topic_id(&self) -> bool {
        self.versions().select(1, VersionRange { min: 13, max: i16::MAX }).is_some()
    }

    pub(crate) fn end(&self) -> &Arc<End> {
        &self.inner.end
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.inner.client_id
    }

    /// What the broker takes; nothing until versions are agreed on.
    pub(crate) fn versions(&self) -> &Versions {
        static NONE: OnceLock<Versions> = OnceLock::new();
        self.inner.versions.get().unwrap_or_else(|| NONE.get_or_init(Versions::default))
    }

    /// The version to send a request with.
    pub(crate) fn version<R: Api>(&self, ours: VersionRange) -> Result<i16> {
        self.versions().require::<R>(self.broker(), ours)
    }

    pub(crate) fn next_correlation(&self) -> i32 {
        self.inner.correlation.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits, in turn, until one more request may be in flight.
    pub(crate) async fn slot(&self, api: &'static str) -> Result<OwnedSemaphorePermit> {
        let slots = Arc::clone(&self.inner.end.slots);
        slots.acquire_owned().await.map_err(|_| self.unsent(api))
    }

    /// As [`Connection::slot`], without waiting.
    pub(crate) fn try_slot(&self, api: &'static str) -> Result<OwnedSemaphorePermit> {
        let slots = Arc::clone(&self.inner.end.slots);
        slots.try_acquire_owned().map_err(|error| match error {
            tokio::sync::TryAcquireError::Closed => self.unsent(api),
            tokio::sync::TryAcquireError::NoPermits => Error::Overloaded {
                broker: Arc::clone(&self.inner.broker),
                api,
                in_flight_max: self.inner.limits.in_flight_max,
            },
        })
    }

    /// Queues a request. Requests go out in the order of these calls; nothing is awaited here.
    pub(crate) fn submit<T>(
        &self,
        slot: OwnedSemaphorePermit,
        outgoing: Outgoing,
        decode: Decode<T>,
    ) -> Result<Answer<T>> {
        let Outgoing { api, correlation, segments, timeout } = outgoing;
        let (sender, receiver) = oneshot::channel();
        let awaited = Awaited::new((api, correlation), timeout, sender, slot);
        if self.is_closed() || self.inner.queue.send(Queued { segments, awaited }).is_err() {
            return Err(self.unsent(api));
        }
        Ok(Answer::new(api, self.clone(), receiver, decode))
    }

    /// Encodes a request whose parts may be copied.
    pub(crate) fn encode<R: Api>(&self, request: &R, version: i16, timeout: Duration) -> Result<Outgoing> {
        let correlation = self.next_correlation();
        let frame = encode_frame(request, version, correlation, &self.inner.client_id)
            .map_err(|problem| Error::Request { api: R::NAME, problem })?;
        check_size(R::NAME, frame.len(), self.inner.limits.frame_bytes_max)?;
        Ok(Outgoing { api: R::NAME, correlation, segments: vec![frame], timeout })
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
        let decode = move |frame| answer::decode_from::<R>(&broker, frame, version, heap_bytes_max);
        self.submit(slot, outgoing, Box::new(decode))?.await
    }

    /// The error for a request that was not queued.
    fn unsent(&self, api: &'static str) -> Error {
        Error::Closed { broker: Arc::clone(&self.inner.broker), api, reason: self.inner.end.reason() }
    }

    /// The error for a request whose answer will not come.
    pub(crate) fn disconnected(&self, api: &'static str) -> Error {
        Error::Disconnected { broker: Arc::clone(&self.inner.broker), api, reason: self.inner.end.reason() }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("broker", &self.inner.broker)
            .field("closed", &self.inner.end.reason.get())
            .finish_non_exhaustive()
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
mod tests;
