//! The session that is open now, for everybody who calls the coordinator.
//!
//! Owns the hand-over between the session's owner, who opens and closes it, and its users.

use std::future::Future;
use std::time::Duration;

use mirrormesh_kafka::Backoff;
use mirrormesh_proto::convert::session::Speaker;
use mirrormesh_proto::mesh::worker_session_service_client::WorkerSessionServiceClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::error::{CoordinatorError, Verdict, judge};

/// A unary call gives up after this long and is tried again.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Before a coordinator is asked again after a failure: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pauses between attempts to reach a coordinator, so that workers that lost the same one don't come back together.
pub(crate) fn coordinator_pause() -> Backoff {
    Backoff::new(PAUSE_MIN, PAUSE_MAX)
}

/// An open session.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) client: WorkerSessionServiceClient<Channel>,
    pub(crate) speaker: Speaker,
}

/// Where users find the open session; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    current: watch::Receiver<Option<Link>>,
    refused: watch::Sender<u64>,
}

/// The owner's side.
#[derive(Debug)]
pub(crate) struct LinkSlot {
    current: watch::Sender<Option<Link>>,
    /// The last session that a call was told is not known; sessions count from 1.
    refused: watch::Sender<u64>,
}

/// Both sides, without a session.
pub(crate) fn slot() -> LinkSlot {
    LinkSlot { current: watch::Sender::new(None), refused: watch::Sender::new(0) }
}

impl LinkSlot {
    /// A user's side.
    pub(crate) fn links(&self) -> Links {
        Links { current: self.current.subscribe(), refused: self.refused.clone() }
    }

    /// The session that is open from now on, or that none is.
    pub(crate) fn set(&self, link: Option<Link>) {
        self.current.send_replace(link);
    }

    /// Returns when a user was told that this session is not known.
    pub(crate) async fn refused(&self, session: u64) {
        let mut refused = self.refused.subscribe();
        // Can't fail: the sender is ours.
        refused.wait_for(|refused| *refused == session).await.ok();
    }
}

impl Links {
    /// Makes a call in the open session, and again over lost sessions and changed leaders, until it succeeds, is
    /// refused, or `stop` is cancelled.
    pub(crate) async fn call<T, F>(
        &self,
        stop: &CancellationToken,
        what: &'static str,
        call: impl Fn(Link) -> F,
    ) -> Result<T, CoordinatorError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        stop.run_until_cancelled(self.retry(what, call)).await.unwrap_or(Err(CoordinatorError::Cancelled))
    }

    async fn retry<T, F>(&self, what: &'static str, call: impl Fn(Link) -> F) -> Result<T, CoordinatorError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut current = self.current.clone();
        let mut pause = coordinator_pause();
        loop {
            let link = open(&mut current).await?;
            let session = link.speaker.session;
            let status = match tokio::time::timeout(CALL_TIMEOUT, call(link)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            tracing::debug!(%status, "{what} did not succeed");
            match judge(&status) {
                Verdict::Refused(error) => return Err(error),
                Verdict::SessionGone => drop(self.refused.send_replace(session)),
                Verdict::Redirect(_) | Verdict::Retry => {}
            }
            pause.wait().await;
        }
    }
}

/// Waits for a session.
async fn open(current: &mut watch::Receiver<Option<Link>>) -> Result<Link, CoordinatorError> {
    let link = current.wait_for(Option::is_some).await.map_err(|_| CoordinatorError::Cancelled)?;
    link.clone().ok_or(CoordinatorError::Cancelled)
}
