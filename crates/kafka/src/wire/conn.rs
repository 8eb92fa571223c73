//! One connection to one broker, pipelined.
//!
//! Owns the handle that others share, and says when the connection has ended. `opening` makes it, `request` puts requests
//! into its queue.
//!
//! Invariant: once anything goes wrong (a late answer, a wrong correlation id, an oversized frame, a broken socket) the
//! connection ends, and every unanswered request learns that its outcome is unknown. A connection never skips an answer.
//!
//! Must not know what requests mean.

use std::fmt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use kafka_protocol::protocol::{StrBytes, VersionRange};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;

use super::api::Api;
use super::link::{End, Queued};
use super::versions::Versions;
use crate::config::Limits;
use crate::error::{Error, Result};

/// A handle to a connection; clones share it. It closes when the last handle and the last
/// [`Answer`](super::Answer) are gone.
#[derive(Clone)]
pub struct Connection {
    pub(super) inner: Arc<Inner>,
}

/// What its handles share.
pub(super) struct Inner {
    pub(super) broker: Arc<str>,
    pub(super) client_id: StrBytes,
    pub(super) limits: Limits,
    pub(super) versions: OnceLock<Versions>,
    pub(super) correlation: AtomicI32,
    /// Unbounded by type; the slots bound it.
    pub(super) queue: mpsc::UnboundedSender<Queued>,
    pub(super) end: Arc<End>,
    pub(super) tasks: [AbortHandle; 2],
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

    /// The error for a request that was not queued.
    pub(super) fn unsent(&self, api: &'static str) -> Error {
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
