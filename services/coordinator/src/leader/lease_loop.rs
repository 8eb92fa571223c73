//! Ends the sessions of workers that fell silent.

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::control::CommandKind;
use tokio::time::{Instant, sleep_until};

use super::Lead;
use crate::raft::RaftHandle;

/// After a proposal that failed.
const RETRY: Duration = Duration::from_millis(200);

/// Runs as long as this coordinator leads.
pub(super) async fn run(raft: RaftHandle, lead: Arc<Lead>) {
    let mut states = raft.watch_states();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let now = Instant::now();
        let (expired, mut next) = lead.leases.expired(state.workers.iter(), now);
        for (worker, session) in expired {
            tracing::warn!(%worker, session, "the worker's lease is over: its units become free");
            if let Err(error) = raft.propose(CommandKind::ExpireWorker { worker, session }).await {
                tracing::warn!(%error, "a lease could not be ended");
                next = Instant::now() + RETRY;
            }
        }
        tokio::select! {
            () = sleep_until(next) => {}
            // New workers get their lease from the moment they are seen.
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}
