//! What the throttles of flows are shared by among workers: soft state of one leadership.
//!
//! Owns when it is looked at; what partitions weigh is core's. A new leader knows nothing yet, so all weigh the same
//! until it does. Nothing here enters the Raft log.

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::throttle::Weights;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Lead;
use crate::raft::RaftHandle;

/// How often it is looked who waits: each change of a share is a set that is sent to the workers.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs as long as this coordinator leads.
pub(super) async fn run(raft: RaftHandle, lead: Arc<Lead>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look(&raft, &lead);
    }
}

fn look(raft: &RaftHandle, lead: &Lead) {
    let before: Arc<Weights> = Arc::clone(&lead.weights.borrow());
    let now = lead.progress.throttle_weights(&raft.newest(), &before, Instant::now());
    if now != *before {
        tracing::debug!("throttles are shared anew");
        lead.weights.send_replace(Arc::new(now));
    }
}
