//! The worker's session with the leading coordinator.
//!
//! Owns finding the leader, registering, and keeping the streams of a session open. Losing all of it stops no unit
//! (static stability, design 5): units go on with what they have, and this task goes on looking.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_kafka::Backoff;
use mirrormesh_proto::convert::session::Speaker;
use mirrormesh_proto::mesh::WatchAssignmentsResponse;
use mirrormesh_proto::mesh::worker_session_service_client::WorkerSessionServiceClient;
use mirrormesh_runtime::complaint::Complaint;
use mirrormesh_runtime::http::CheckHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::assignments::Assignments;
use crate::error::{Verdict, judge};
use crate::link::{Link, LinkSlot, coordinator_pause};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::queries;
use crate::unit::QueryHandler;
use crate::wire::{self, Identity, Opened};

/// Registering and opening a stream must be answered in this time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// A session that held this long was a good one: the next attempt comes quickly.
const GOOD_AFTER: Duration = Duration::from_secs(2);
/// Redirects followed in a row without a pause; coordinators that disagree would send us in circles.
const REDIRECTS_MAX: u32 = 3;
/// Largest set of assignments taken, in bytes: 20,000 units with long names fit several times.
const SET_BYTES_MAX: usize = 64 << 20;

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
    /// Cancelled once a coordinator knows that.
    pub(crate) left: CancellationToken,
    pub(crate) channels: BTreeMap<String, Channel>,
    pub(crate) opened: Option<Opened>,
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

/// The search for the leading coordinator.
struct Search {
    candidates: Candidates,
    pause: Backoff,
    /// Redirects followed since the last pause.
    redirects: u32,
    /// What keeps a session from being opened.
    complaint: Complaint,
}

impl Session {
    /// Keeps a session until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut search = Search {
            candidates: Candidates::new(std::mem::take(&mut self.coordinators)),
            pause: coordinator_pause(),
            redirects: 0,
            complaint: Complaint::default(),
        };
        loop {
            let address = search.candidates.next();
            let begin = Instant::now();
            let attended = stop.run_until_cancelled(Box::pin(self.attend(&address))).await;
            self.link.set(None);
            self.metrics.session(false);
            let Some(end) = attended else { return };
            if begin.elapsed() >= GOOD_AFTER {
                search.pause.reset();
                search.complaint.passed();
                search.candidates.prefer(address.clone());
            }
            if let Some(problem) = self.judge(end, &address, &mut search) {
                self.lost(&address, &problem, &mut search);
                stop.run_until_cancelled(search.pause.wait()).await;
                search.redirects = 0;
            }
        }
    }

    /// Draws the consequences of an end. Returns what is wrong if the next attempt is not to be made at once.
    fn judge(&mut self, end: End, address: &str, search: &mut Search) -> Option<String> {
        let status = match end {
            End::Status(status) => status,
            End::Refused => Status::aborted("the session is not known any more"),
            End::Left(opened) => {
                self.opened = Some(opened);
                search.candidates.prefer(address.to_owned());
                return None;
            }
        };
        match judge(&status) {
            Verdict::Redirect(leader) => {
                tracing::debug!(%address, %leader, "redirected to the leading coordinator");
                search.candidates.prefer(leader);
                search.redirects += 1;
                (search.redirects > REDIRECTS_MAX).then(|| "coordinators don't agree who leads".to_owned())
            }
            Verdict::SessionGone | Verdict::Refused(_) => {
                tracing::info!(%address, %status, "the session is not known any more: it is opened anew");
                self.opened = None;
                search.candidates.prefer(address.to_owned());
                Some(status.message().to_owned())
            }
            Verdict::Retry => Some(status.message().to_owned()),
        }
    }

    fn lost(&self, address: &str, problem: &str, search: &mut Search) {
        self.health.set_failing(format!("no session with a coordinator: {problem}"));
        // One reason, whatever the text: addresses are tried in turn.
        if search.complaint.failed("NO_SESSION", Instant::now().into_std()) {
            tracing::warn!(%address, problem, "no session with a coordinator: units go on with what they have");
        } else {
            tracing::debug!(%address, problem, "no session with this coordinator");
        }
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
        let opened = if let Some(opened) = self.opened {
            opened
        } else {
            let opened = self.register(&client).await?;
            self.assignments.new_session();
            tracing::info!(%address, session = opened.session, lease_ms = opened.lease.as_millis(), "session opened");
            *self.opened.insert(opened)
        };
        let speaker = Speaker { worker: self.identity.worker.clone(), session: opened.session };
        let link = Link { client, speaker };
        let stream = bounded(wire::watch_assignments(link.clone())).await?;
        Ok((link, opened, stream))
    }

    /// Registers; without capacity once the worker is leaving.
    async fn register(&self, client: &WorkerSessionServiceClient<Channel>) -> Result<Opened, Status> {
        let leaving = self.leaving.is_cancelled();
        let capacity = if leaving { 0 } else { self.identity.capacity };
        let opened = bounded(wire::register(client.clone(), &self.identity, capacity)).await?;
        if leaving {
            self.left.cancel();
        }
        Ok(opened)
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
        if !self.left.is_cancelled() {
            match self.register(&link.client).await {
                Ok(opened) => return opened,
                Err(status) => tracing::warn!(
                    %status,
                    "could not say that this worker leaves: units may come back to it until its lease is over"
                ),
            }
        }
        std::future::pending().await
    }

    /// A client of one address; channels connect when they are used, and are kept.
    fn client(&mut self, address: &str) -> Result<WorkerSessionServiceClient<Channel>, Status> {
        if !self.channels.contains_key(address) {
            let channel = wire::channel(address)
                .map_err(|error| Status::unavailable(format!("address {address}: {error}")))?;
            self.channels.insert(address.to_owned(), channel);
        }
        let channel = self.channels.get(address).cloned();
        let channel = channel.ok_or_else(|| Status::internal("the channel is gone"))?;
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
