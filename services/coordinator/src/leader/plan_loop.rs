//! Keeps the assignment in step with what should run: read the state, solve, propose the difference.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::control::{CommandKind, ControlState};
use mirrormesh_core::plan::{Plan, PlanStep, solve, steps};
use mirrormesh_core::unit::Unit;
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_runtime::trace_context::follow;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::Instrument as _;
use uuid::Uuid;

use super::Lead;
use crate::raft::RaftHandle;

/// Changes that come together are planned together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often measured weights are looked at: moving a unit costs a handover.
const WEIGHTS_EVERY: Duration = Duration::from_secs(30);
/// Steps in one command: an entry of the log stays small.
const STEPS_MAX: usize = 1_000;
/// After a proposal that failed.
const RETRY: Duration = Duration::from_millis(200);

/// Runs as long as this coordinator leads.
pub(super) async fn run(raft: RaftHandle, lead: Arc<Lead>) {
    let mut states = raft.watch_states();
    // What runs without a name claims nothing.
    while states.borrow_and_update().mesh_id.is_empty() {
        let mesh_id = Uuid::new_v4().simple().to_string();
        if let Err(error) = raft.propose(CommandKind::NameMesh { mesh_id }).await {
            tracing::warn!(%error, "the mesh could not be given an id");
            sleep(RETRY).await;
        }
    }
    let mut weights = BTreeMap::new();
    let mut weights_due = Instant::now() + WEIGHTS_EVERY;
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        lead.progress.forget_outdated(&state);
        lead.refusals.forget_outdated(&state);
        let span = tracing::info_span!("plan", revision = state.revision, steps = tracing::field::Empty);
        if let Some(trace) = raft.last_trace() {
            follow(&span, &trace);
        }
        let done = plan(&raft, &lead, state, &weights).instrument(span).await;
        let again = if done { weights_due } else { Instant::now() + RETRY };
        tokio::select! {
            changed = states.changed() => {
                if changed.is_err() {
                    return;
                }
                sleep(DEBOUNCE).await;
            }
            () = sleep_until(again) => {}
        }
        if Instant::now() >= weights_due {
            weights = lead.progress.weights(Instant::now());
            weights_due = Instant::now() + WEIGHTS_EVERY;
        }
    }
}

/// Plans once; `false` if that has to be repeated.
async fn plan(
    raft: &RaftHandle,
    lead: &Lead,
    state: Arc<ControlState>,
    weights: &BTreeMap<Unit, u64>,
) -> bool {
    let weights = weights.clone();
    // With many units this takes a while: not on a thread that serves calls.
    let solved = tokio::task::spawn_blocking(move || decide(&state, &weights)).await;
    let (plan, steps) = match solved {
        Ok(solved) => solved,
        Err(error) => {
            tracing::error!(%error, "planning failed");
            return false;
        }
    };
    lead.placement.update(plan.placed.len(), &plan.unplaced, Instant::now(), now_ms());
    if steps.is_empty() {
        return true;
    }
    tracing::Span::current().record("steps", steps.len());
    let count =
        |assign: bool| steps.iter().filter(|step| matches!(step, PlanStep::Assign(..)) == assign).count();
    tracing::info!(assign = count(true), release = count(false), waiting = plan.unplaced.len(), "new plan");
    for part in steps.chunks(STEPS_MAX) {
        if let Err(error) = raft.propose(CommandKind::ApplyPlan { steps: part.to_vec() }).await {
            tracing::warn!(%error, "a plan could not be carried out");
            return false;
        }
    }
    true
}

fn decide(state: &ControlState, weights: &BTreeMap<Unit, u64>) -> (Plan, Vec<PlanStep>) {
    let problem = state.problem(|unit| weights.get(unit).copied().unwrap_or(1));
    let plan = solve(&problem, &state.present());
    let steps = steps(&plan, &state.owners);
    (plan, steps)
}
