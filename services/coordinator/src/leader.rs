//! What runs only while this coordinator leads: planning, leases, and the soft state of one leadership.
//!
//! Owns beginning and end of a leadership as the rest of the process sees it. A leadership holds only as long as it
//! can be proven to a quorum: a leader that was cut off stops answering workers, so they look for the new one.
//! Nothing here decides by itself: each loop reads a state, asks core, proposes.

mod lease_loop;
mod leases;
mod paused;
mod placement;
mod plan_loop;
mod progress;
mod rates;
mod shares;

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::throttle::Weights;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::queries::Queries;
use crate::raft::{Leadership, Node, RaftHandle};
use leases::Leases;
use paused::Paused;

pub(crate) use leases::LEASE;
pub(crate) use paused::{Look, Looks};
pub(crate) use placement::{Placement, Refusals, Waiting};
pub(crate) use progress::{Progress, THROTTLED, Tracked};

/// How often the leadership is proven to a quorum.
const PROOF_EVERY: Duration = Duration::from_millis(500);
/// Between attempts to begin, while no quorum answers.
const RETRY: Duration = Duration::from_millis(100);

/// One leadership with its soft state.
#[derive(Debug)]
pub(crate) struct Lead {
    /// When it began.
    pub(crate) begun: Instant,
    /// Cancelled when it is over.
    pub(crate) ended: CancellationToken,
    /// Leases of workers.
    pub(crate) leases: Leases,
    /// Reports of units.
    pub(crate) progress: Progress,
    /// How far behind paused partitions are.
    pub(crate) paused: Paused,
    /// What the last plan left without a worker.
    pub(crate) placement: Placement,
    /// Topics that were refused.
    pub(crate) refusals: Refusals,
    /// Workers that answer questions.
    pub(crate) queries: Queries,
    /// What throttles are shared by.
    pub(crate) weights: watch::Sender<Arc<Weights>>,
}

impl Lead {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            ended: CancellationToken::new(),
            leases: Leases::default(),
            progress: Progress::default(),
            paused: Paused::default(),
            placement: Placement::default(),
            refusals: Refusals::default(),
            queries: Queries::default(),
            weights: watch::Sender::default(),
        }
    }
}

/// Ends a leadership, however the task that held it ended.
struct Held<'a> {
    lead: Arc<Lead>,
    slot: &'a watch::Sender<Option<Arc<Lead>>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.slot.send_replace(None);
        self.lead.ended.cancel();
    }
}

/// Publishes leaderships of this coordinator in `slot`, and runs the loops while one holds, until `stop`. `node` is
/// how this coordinator is reached now.
pub(crate) async fn run(
    raft: RaftHandle,
    slot: watch::Sender<Option<Arc<Lead>>>,
    node: Node,
    stop: CancellationToken,
) {
    let mut leadership = raft.watch_leadership();
    loop {
        let begun = async {
            let now = leadership.wait_for(|now| now.is_self).await.ok()?.clone();
            // Everything that earlier leaders acknowledged is applied once this returns.
            if let Err(error) = raft.read().await {
                tracing::debug!(%error, "leadership is not proven yet");
                sleep(RETRY).await;
                return Some(None);
            }
            Some(Some(now))
        };
        let now = match stop.run_until_cancelled(begun).await {
            None | Some(None) => return,
            Some(Some(None)) => continue,
            Some(Some(Some(now))) => now,
        };
        let lead = Arc::new(Lead::new());
        tracing::info!(term = now.term, "leading");
        slot.send_replace(Some(Arc::clone(&lead)));
        let held = Held { lead: Arc::clone(&lead), slot: &slot };
        let reason = tokio::select! {
            () = stop.cancelled() => "stopping",
            reason = hold(&raft, &lead, &now, &node) => reason,
        };
        drop(held);
        tracing::info!(term = now.term, lasted_s = lead.begun.elapsed().as_secs(), reason, "leading no more");
    }
}

/// Runs the loops of one leadership; returns why it is over.
async fn hold(raft: &RaftHandle, lead: &Arc<Lead>, begun: &Leadership, node: &Node) -> &'static str {
    let mut loops = JoinSet::new();
    loops.spawn(plan_loop::run(raft.clone(), Arc::clone(lead)));
    loops.spawn(paused::run(raft.clone(), Arc::clone(lead)));
    loops.spawn(shares::run(raft.clone(), Arc::clone(lead)));
    loops.spawn(lease_loop::run(raft.clone(), Arc::clone(lead)));
    loops.spawn(announce(raft.clone(), begun.clone(), node.clone()));
    let mut leadership = raft.watch_leadership();
    let ended = leadership.wait_for(|now| !now.is_self || now.term != begun.term);
    tokio::select! {
        _ = ended => "another coordinator leads",
        () = unproven(raft) => "no quorum answers",
        () = failed(&mut loops) => "one of its tasks failed",
    }
}

/// Returns when the leadership can't be proven any more.
async fn unproven(raft: &RaftHandle) {
    loop {
        sleep(PROOF_EVERY).await;
        if let Err(error) = raft.read().await {
            tracing::warn!(%error, "the leadership can't be proven");
            return;
        }
    }
}

/// Returns when a loop panicked.
async fn failed(loops: &mut JoinSet<()>) {
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of the leadership failed");
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// The members know a coordinator by the addresses that it had when it was added; a leader that moved says so.
async fn announce(raft: RaftHandle, leadership: Leadership, node: Node) {
    let known = leadership.leader.map(|(_, node)| node);
    if known.as_ref() == Some(&node) {
        return;
    }
    tracing::info!(mesh = node.mesh_address, api = node.api_address, "announcing new addresses");
    if let Err(error) = raft.set_own_node(node).await {
        tracing::warn!(%error, "the new addresses could not be announced");
    }
}
