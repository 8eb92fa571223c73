//! The worker's session with the leading coordinator.
//!
//! Owns finding the leader, registering, and keeping the streams of a session open. Losing all of it stops no unit
//! (static stability, design 5): units go on with what they have, and this task goes on looking.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::ids::WorkerId;
use mirrormesh_core::unit::Role;
use mirrormesh_proto::convert::session::Speaker;
use mirrormesh_proto::mesh::WatchAssignmentsResponse;
use mirrormesh_proto::mesh::worker_session_service_client::WorkerSessionServiceClient;
use mirrormesh_runtime::http::CheckHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::assignments::Assignments;
use crate::error::{Verdict, judge};
use crate::link::{Link, LinkSlot};
use crate::metrics::Metrics;
use crate::pause::Pause;
use crate::progress::Progress;
use crate::queries;
use crate::unit::QueryHandler;
use crate::wire;

/// Registering and opening a stream must be answered in this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// A session that held this long was a good one: the next attempt comes quickly.
const GOOD_AFTER: Duration = Duration::from_secs(2);
/// Redirects followed in a row without a pause; coordinators that disagree would send us in circles.
const REDIRECTS_MAX: u32 = 3;
/// Largest set of assignments taken, in bytes: 20,000 units with long names fit several times.
const SET_BYTES_MAX: usize = 64 << 20;

/// Who registers.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) worker: WorkerId,
    pub(crate) role: Role,
    pub(crate) capacity: u32,
    pub(crate) version: String,
}

/// An open session, as the coordinator gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) session: u64,
    pub(crate) lease: Duration,
}

/// Everything that the session's task owns.
pub(crate) struct Session {
    pub(crate) identity: Identity,
    pub(crate) coordinators: Vec<String>,
    pub(crate) link: LinkSlot,
    pub(crate) assignments: Assignments,
    pub(crate) progress: Progress,
    pub(crate) queries: Option<Arc<dyn QueryHandler>>,
    pub(crate) health: CheckHandle,
    pub(crate) metrics: Metrics,
    /// Cancelled when the worker stops: it then registers without capacity, so that what it releases goes to others.
    pub(crate) leaving: CancellationToken,
    /// Cancelled once that was tried.
    pub(crate) left_tried: CancellationToken,
    pub(crate) channels: BTreeMap<String, Channel>,
    pub(crate) opened: Option<Opened>,
    /// It was registered without capacity.
    pub(crate) left: bool,
}

/// Why an attempt ended.
enum End {
    /// By a status.
    Status(Status),
    /// A call of a unit was told that the session is not known.
    Refused,
    /// The worker is leaving and was registered without capacity.
    Left(Opened),
}

impl Session {
    /// Keeps a session until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut candidates = Candidates::new(std::mem::take(&mut self.coordinators));
        let mut pause = Pause::default();
        let mut redirects = 0;
        let mut failing = false;
        loop {
            let address = candidates.next();
            let begin = Instant::now();
            let Some(end) = stop.run_until_cancelled(self.attend(&address)).await else { break };
            self.link.set(None);
            self.metrics.session(false);
            if begin.elapsed() >= GOOD_AFTER {
                (pause, redirects, failing) = (Pause::default(), 0, false);
                candidates.prefer(address.clone());
            }
            let status = match end {
                End::Status(status) => status,
                End::Refused => {
                    self.opened = None;
                    candidates.prefer(address);
                    continue;
                }
                End::Left(opened) => {
                    self.opened = Some(opened);
                    self.left = true;
                    self.left_tried.cancel();
                    candidates.prefer(address);
                    continue;
                }
            };
            match judge(&status) {
                Verdict::Redirect(leader) => {
                    tracing::debug!(%address, %leader, "redirected to the leading coordinator");
                    candidates.prefer(leader);
                    redirects += 1;
                    if redirects <= REDIRECTS_MAX {
                        continue;
                    }
                }
                Verdict::SessionGone | Verdict::Refused(_) => {
                    tracing::info!(%address, %status, "the session is not known any more: registering anew");
                    self.opened = None;
                    candidates.prefer(address.clone());
                }
                Verdict::Retry => {}
            }
            self.health.set_failing(format!("no session with a coordinator: {}", status.message()));
            if std::mem::replace(&mut failing, true) {
                tracing::debug!(%address, %status, "no session with this coordinator");
            } else {
                tracing::warn!(%address, %status, "no session with a coordinator: units go on with what they have");
            }
            pause.next().await;
        }
        self.link.set(None);
        self.metrics.session(false);
    }

    /// Opens the session at one address, and keeps it until it ends.
    async fn attend(&mut self, address: &str) -> End {
        match self.open(address).await {
            Ok((link, opened, stream)) => self.keep(address, link, opened, stream).await,
            Err(status) => End::Status(status),
        }
    }

    async fn open(
        &mut self,
        address: &str,
    ) -> Result<(Link, Opened, Streaming<WatchAssignmentsResponse>), Status> {
        let client = self.client(address)?;
        let opened = match self.opened {
            Some(opened) => opened,
            None => {
                let capacity = if self.left { 0 } else { self.identity.capacity };
                let opened = bounded(wire::register(client.clone(), &self.identity, capacity)).await?;
                self.assignments.new_session();
                tracing::info!(%address, session = opened.session, lease = ?opened.lease, "session opened");
                *self.opened.insert(opened)
            }
        };
        let link = Link {
            client,
            speaker: Speaker { worker: self.identity.worker.clone(), session: opened.session },
        };
        let stream = bounded(wire::watch_assignments(link.clone())).await?;
        Ok((link, opened, stream))
    }

    async fn keep(
        &mut self,
        address: &str,
        link: Link,
        opened: Opened,
        stream: Streaming<WatchAssignmentsResponse>,
    ) -> End {
        self.link.set(Some(link.clone()));
        self.health.set_ok();
        self.metrics.session(true);
        tracing::debug!(%address, session = opened.session, "attached to the leading coordinator");
        tokio::select! {
            status = self.assignments.follow(stream) => End::Status(status),
            status = self.progress.run(link.clone(), opened.lease) => End::Status(status),
            () = queries::serve(link.clone(), self.queries.clone()) => End::Refused,
            () = self.link.refused(opened.session) => End::Refused,
            opened = self.leave(&link) => End::Left(opened),
        }
    }

    /// Registers without capacity once the worker is leaving. A coordinator that refuses leaves the session as it is.
    async fn leave(&self, link: &Link) -> Opened {
        self.leaving.cancelled().await;
        if !self.left {
            match bounded(wire::register(link.client.clone(), &self.identity, 0)).await {
                Ok(opened) => return opened,
                Err(status) => {
                    tracing::warn!(%status, "could not say that this worker leaves: units may come back to it until \
                        its lease is over");
                    self.left_tried.cancel();
                }
            }
        }
        std::future::pending().await
    }

    /// A client of one address; channels connect when they are used, and are kept.
    fn client(&mut self, address: &str) -> Result<WorkerSessionServiceClient<Channel>, Status> {
        let channel = match self.channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = wire::channel(address)
                    .map_err(|error| Status::unavailable(format!("address {address}: {error}")))?;
                self.channels.entry(address.to_owned()).or_insert(channel).clone()
            }
        };
        Ok(WorkerSessionServiceClient::new(channel).max_decoding_message_size(SET_BYTES_MAX))
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(OPEN_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// Whom to ask next: the preferred address once, then all in turn.
#[derive(Debug)]
struct Candidates {
    all: Vec<String>,
    next: usize,
    preferred: Option<String>,
}

impl Candidates {
    fn new(all: Vec<String>) -> Self {
        Self { all, next: 0, preferred: None }
    }

    fn next(&mut self) -> String {
        if let Some(preferred) = self.preferred.take() {
            return preferred;
        }
        let address = self.all.get(self.next % self.all.len().max(1)).cloned().unwrap_or_default();
        self.next = self.next.wrapping_add(1);
        address
    }

    fn prefer(&mut self, address: String) {
        self.preferred = Some(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_address_is_tried_once_then_all_in_turn() {
        let mut candidates = Candidates::new(vec!["a".into(), "b".into()]);
        let mut next = || candidates.next();
        assert_eq!([next(), next(), next()], ["a", "b", "a"]);
        candidates.prefer("leader".into());
        assert_eq!([candidates.next(), candidates.next(), candidates.next()], ["leader", "b", "a"]);
    }
}
