//! `WatchAssignments`: each worker's whole desired set, from the applied state.
//!
//! Invariants: a set is sent only if it differs from the one before; the newest wins, so a slow reader holds at most
//! one back; revisions never fall. Nobody is sent sets of a session or a leadership that is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use mirrormesh_core::control::ControlState;
use mirrormesh_core::ids::FlowId;
use mirrormesh_core::throttle::Weights;
use mirrormesh_core::unit::WorkerAssignment;
use mirrormesh_proto::convert::session::Speaker;
use mirrormesh_proto::mesh::WatchAssignmentsResponse;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::leader::Lead;
use crate::raft::FlowTraces;
use crate::service::Context;
use crate::service::status;

/// Changes that come together make one set.
const GATHERING: Duration = Duration::from_millis(10);

/// Follows the set of one worker in one session and one leadership.
pub(crate) fn assignments(
    context: &Context,
    lead: Arc<Lead>,
    speaker: Speaker,
) -> impl Stream<Item = Result<WatchAssignmentsResponse, Status>> + Send + 'static {
    let feed = Feed {
        states: context.raft.watch_states(),
        weights: lead.weights.subscribe(),
        traces: context.raft.flow_traces(),
        stopping: context.stopping.clone(),
        lead,
        speaker,
        sent: None,
        ended: false,
    };
    futures::stream::unfold(feed, |mut feed| async move {
        if feed.ended {
            return None;
        }
        let message = feed.next().await;
        feed.ended = message.is_err();
        Some((message, feed))
    })
}

/// Is the speaker's session its present one?
pub(crate) fn check_session(state: &ControlState, speaker: &Speaker) -> Result<(), Status> {
    let present = state.workers.get(&speaker.worker).is_some_and(|worker| worker.session == speaker.session);
    if present { Ok(()) } else { Err(status::session_outdated(&speaker.worker, speaker.session)) }
}

#[derive(Debug)]
struct Feed {
    states: Receiver<Arc<ControlState>>,
    weights: Receiver<Arc<Weights>>,
    traces: FlowTraces,
    lead: Arc<Lead>,
    stopping: CancellationToken,
    speaker: Speaker,
    sent: Option<WorkerAssignment>,
    ended: bool,
}

impl Feed {
    async fn next(&mut self) -> Result<WatchAssignmentsResponse, Status> {
        loop {
            if self.lead.ended.is_cancelled() {
                return Err(status::leader_changed());
            }
            let state = Arc::clone(&self.states.borrow_and_update());
            check_session(&state, &self.speaker)?;
            let weights = Arc::clone(&self.weights.borrow_and_update());
            let mut next = state.assignment_of(&self.speaker.worker, &weights);
            let now = Instant::now();
            let trace = |flow: &FlowId| Some((flow.clone(), self.traces.of(flow, now)?));
            next.traces = next.flows.keys().filter_map(trace).collect();
            if !self.sent.as_ref().is_some_and(|sent| same_set(sent, &next)) {
                let message = WatchAssignmentsResponse::from(&next);
                self.sent = Some(next);
                return Ok(message);
            }
            self.changed().await?;
        }
    }

    async fn changed(&mut self) -> Result<(), Status> {
        tokio::select! {
            changed = self.states.changed() => changed.map_err(|_| status::stopping())?,
            changed = self.weights.changed() => changed.map_err(|_| status::leader_changed())?,
            () = self.lead.ended.cancelled() => return Err(status::leader_changed()),
            () = self.stopping.cancelled() => return Err(status::stopping()),
        }
        tokio::time::sleep(GATHERING).await;
        Ok(())
    }
}

/// Traces go with a change; they are none.
fn same_set(a: &WorkerAssignment, b: &WorkerAssignment) -> bool {
    a.units == b.units && a.flows == b.flows && a.clusters == b.clusters
}
