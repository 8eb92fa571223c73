//! Starts and stops units so that what runs becomes what is desired.
//!
//! Owns the tasks of all units. Invariants: a unit runs at most once; it is reported as released only when its task
//! has ended by itself, or when an aborted one can't have anything on the way any more; a failing unit never disturbs
//! another. Knows nothing about sessions: without a coordinator the last known set stays in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::ids::FlowId;
use mirrormesh_core::reconcile::{self, Step};
use mirrormesh_core::report::UnitState;
use mirrormesh_core::unit::{AssignedUnit, Unit, WorkerAssignment};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::coordinator::CoordinatorHandle;
use crate::lease::Lease;
use crate::metrics::Metrics;
use crate::release::Releases;
use crate::report::{ReportHandle, Reports};
use crate::restart::{backoff, needs_restart};
use crate::unit::{FlowView, UnitContext, UnitFactory};

/// A unit that ran this long before it failed is taken as healthy: its next delay is the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// A unit that starts so long after the newest desired set does not follow from a change in it.
const TRACE_KEPT: Duration = Duration::from_mins(1);

/// How long the supervisor waits for units that end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A unit that was asked to stop may drain this long; then its task is aborted.
    pub(crate) drain: Duration,
    /// An aborted unit is held back this long before it counts as released: longer than the lease and than any
    /// request that it may have left on the way.
    pub(crate) quarantine: Duration,
    /// The same as `drain`, when the whole worker stops.
    pub(crate) shutdown: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(10),
            quarantine: Duration::from_secs(10),
            shutdown: Duration::from_secs(8),
        }
    }
}

/// What the supervisor gives to units and says about them.
pub(crate) struct Surroundings {
    pub(crate) factory: Arc<dyn UnitFactory>,
    pub(crate) coordinator: CoordinatorHandle,
    pub(crate) reports: Reports,
    pub(crate) releases: Releases,
    pub(crate) lease: Lease,
    pub(crate) metrics: Metrics,
    pub(crate) patience: Patience,
}

/// What a unit that the supervisor has is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its task runs.
    Active,
    /// Its task was asked to stop.
    Draining,
    /// Its task was aborted, or panicked while it drained: something may still be on the way.
    Quarantined,
    /// It failed and is to be started again.
    Waiting,
}

/// How many times in a row a unit failed, and how it failed last.
type Failures = (u32, String);

struct Running {
    assigned: AssignedUnit,
    /// The same with what changed since.
    newest: watch::Sender<AssignedUnit>,
    /// The flow as the unit knew it at its start.
    view: Arc<FlowView>,
    report: ReportHandle,
    stop: CancellationToken,
    /// Its task, until it has ended.
    task: Option<AbortHandle>,
    phase: Phase,
    /// When the phase is to be looked at again.
    due: Option<Instant>,
    started: Instant,
    failures: u32,
    /// How it failed last; empty if it did not.
    failure: String,
}

pub(crate) struct Supervisor {
    around: Surroundings,
    desired: Arc<WorkerAssignment>,
    /// When the desired set came.
    followed: Instant,
    running: BTreeMap<Unit, Running>,
    flows: BTreeMap<FlowId, watch::Sender<Arc<FlowView>>>,
    tasks: JoinSet<()>,
    task_units: HashMap<Id, Unit>,
    due: BTreeSet<(Instant, Unit)>,
}

impl Supervisor {
    pub(crate) fn new(around: Surroundings) -> Self {
        Self {
            around,
            desired: Arc::default(),
            followed: Instant::now(),
            running: BTreeMap::new(),
            flows: BTreeMap::new(),
            tasks: JoinSet::new(),
            task_units: HashMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Follows the desired set until `stop`, then drains everything.
    pub(crate) async fn run(
        mut self,
        mut desired: watch::Receiver<Arc<WorkerAssignment>>,
        stop: CancellationToken,
    ) {
        loop {
            let due = self.due.first().map(|(due, _)| *due);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = sleep_until(due) => self.look_at_due(),
                changed = desired.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let newest = Arc::clone(&desired.borrow_and_update());
                    self.follow(newest);
                }
            }
            self.around.metrics.units(self.running.len());
        }
        self.drain_all().await;
    }

    /// Takes a new desired set.
    fn follow(&mut self, desired: Arc<WorkerAssignment>) {
        (self.desired, self.followed) = (desired, Instant::now());
        self.update_flows();
        let present = self.running.iter().map(|(unit, r)| (unit.clone(), r.assigned.clone())).collect();
        for step in reconcile::diff(&self.desired.units, &present) {
            match step {
                Step::Stop(unit) => self.stop(&unit),
                Step::Start(unit, assigned) => self.start(unit, assigned, Failures::default()),
            }
        }
        for (unit, running) in &self.running {
            let newest = self.desired.units.get(unit).filter(|d| d.number == running.assigned.number);
            if let Some(newest) = newest {
                running.newest.send_if_modified(|known| {
                    let changed = known != newest;
                    known.clone_from(newest);
                    changed
                });
            }
        }
        let flows = &self.flows;
        let outdated = |unit: &Unit, running: &Running| {
            running.phase == Phase::Active
                && flows
                    .get(unit.flow())
                    .is_some_and(|newest| needs_restart(unit, &running.view, &newest.borrow()))
        };
        let restart: Vec<Unit> =
            self.running.iter().filter(|(unit, r)| outdated(unit, r)).map(|(unit, _)| unit.clone()).collect();
        for unit in restart {
            tracing::info!(%unit, "restarting: its flow changed in a way that it can't follow");
            self.stop(&unit);
        }
    }

    /// Publishes the newest form of each flow to the units that run for it.
    fn update_flows(&mut self) {
        self.flows.retain(|id, _| self.desired.flows.contains_key(id));
        for (id, flow) in &self.desired.flows {
            let clusters = &self.desired.clusters;
            let (Some(source), Some(target)) =
                (clusters.get(&flow.spec.source), clusters.get(&flow.spec.target))
            else {
                tracing::error!(flow = %id, "the assignment names a cluster that it does not hold: flow left as it is");
                continue;
            };
            let view = FlowView {
                id: id.clone(),
                flow: flow.clone(),
                source: source.clone(),
                target: target.clone(),
            };
            match self.flows.get(id) {
                Some(sender) if **sender.borrow() == view => {}
                Some(sender) => drop(sender.send_replace(Arc::new(view))),
                None => drop(self.flows.insert(id.clone(), watch::Sender::new(Arc::new(view)))),
            }
        }
    }

    fn start(&mut self, unit: Unit, assigned: AssignedUnit, (failures, failure): Failures) {
        if self.around.releases.contains(&unit, assigned.number) {
            return;
        }
        let Some(changes) = self.flows.get(unit.flow()).map(watch::Sender::subscribe) else {
            tracing::error!(%unit, "the assignment does not hold the unit's flow: unit not started");
            return;
        };
        let view = Arc::clone(&changes.borrow());
        let stop = CancellationToken::new();
        let report = self.around.reports.open(&unit, assigned.number);
        let newest = watch::Sender::new(assigned.clone());
        let context = UnitContext {
            assigned: assigned.clone(),
            flow_id: view.id.clone(),
            flow: view.flow.clone(),
            source: view.source.clone(),
            target: view.target.clone(),
            stop: stop.clone(),
            report: report.clone(),
            coordinator: self.around.coordinator.until(stop.clone()),
            flow_changes: changes,
            assigned_changes: newest.subscribe(),
            trace: self.trace(unit.flow()),
            lease: self.around.lease.clone(),
        };
        let factory = Arc::clone(&self.around.factory);
        let name = unit.clone();
        // Made inside of the task: a factory that panics fails one unit, not the supervisor.
        let task = self.tasks.spawn(async move { factory.start(name, context).await });
        self.task_units.insert(task.id(), unit.clone());
        tracing::debug!(%unit, number = assigned.number, "unit started");
        let running = Running {
            assigned,
            newest,
            view,
            report,
            stop,
            task: Some(task),
            phase: Phase::Active,
            due: None,
            started: Instant::now(),
            failures,
            failure,
        };
        self.running.insert(unit, running);
    }

    /// The trace of a flow's last change, as long as what happens now may follow from it.
    fn trace(&self, flow: &FlowId) -> Option<String> {
        let fresh = self.followed.elapsed() < TRACE_KEPT;
        self.desired.traces.get(flow).filter(|_| fresh).cloned()
    }

    /// Asks a unit to drain; one that has no task is gone at once.
    fn stop(&mut self, unit: &Unit) {
        let Some(running) = self.running.get(unit) else { return };
        match running.phase {
            Phase::Active => {
                running.stop.cancel();
                self.enter(unit, Phase::Draining, self.around.patience.drain);
            }
            Phase::Waiting => self.gone(unit),
            Phase::Draining | Phase::Quarantined => {}
        }
    }

    /// Sets the phase and when it is to be looked at again.
    fn enter(&mut self, unit: &Unit, phase: Phase, time: Duration) {
        let Some(running) = self.running.get_mut(unit) else { return };
        if let Some(due) = running.due.take() {
            self.due.remove(&(due, unit.clone()));
        }
        let due = Instant::now() + time;
        running.phase = phase;
        running.due = Some(due);
        self.due.insert((due, unit.clone()));
    }

    /// A task has ended: by itself, by a panic, or since it was aborted.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, failure) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(unit) = self.task_units.remove(&id) else { return };
        let Some(running) = self.running.get_mut(&unit) else { return };
        running.task = None;
        match (running.phase, failure) {
            (Phase::Active, failure) => self.failed(&unit, failure),
            // A unit that ended by itself has drained, however late.
            (_, None) => self.gone(&unit),
            (Phase::Draining, Some(error)) => {
                tracing::error!(%unit, %error, "unit failed while it drained: held back before it counts as released");
                running.report.set(
                    UnitState::Stopped,
                    "DRAIN_FAILED",
                    "the unit failed while it drained and is held back for the time of a lease",
                    None,
                );
                self.enter(&unit, Phase::Quarantined, self.around.patience.quarantine);
            }
            (Phase::Quarantined | Phase::Waiting, Some(_)) => {}
        }
    }

    /// A task ended that was not asked to.
    fn failed(&mut self, unit: &Unit, error: Option<JoinError>) {
        let Some(running) = self.running.get_mut(unit) else { return };
        let healthy = running.started.elapsed() >= HEALTHY_AFTER;
        running.failures = if healthy { 1 } else { running.failures.saturating_add(1) };
        let delay = backoff(running.failures);
        let what = error.map_or_else(|| "returned without having been asked to".to_owned(), panic_text);
        // A unit that fails in one way again and again is logged once.
        if running.failure == what {
            tracing::debug!(%unit, failures = running.failures, ?delay, "unit failed again: it {what}");
        } else {
            tracing::error!(%unit, delay_s = delay.as_secs(), "unit failed: it {what}; it is started again");
        }
        running.failure.clone_from(&what);
        running.report.set(
            UnitState::Backoff,
            "UNIT_FAILED",
            &format!("the unit {what}; it is started again in {} s", delay.as_secs()),
            None,
        );
        self.around.metrics.unit_failed();
        self.enter(unit, Phase::Waiting, delay);
    }

    /// Looks at everything whose time has come.
    fn look_at_due(&mut self) {
        let now = Instant::now();
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, unit)) = self.due.pop_first() else { return };
            let Some(running) = self.running.get_mut(&unit) else { continue };
            running.due = None;
            match running.phase {
                Phase::Active => {}
                Phase::Draining => self.abort(&unit),
                Phase::Quarantined if running.task.is_some() => {
                    tracing::error!(%unit, "an aborted unit still runs: it blocks its thread");
                    self.enter(&unit, Phase::Quarantined, self.around.patience.quarantine);
                }
                Phase::Quarantined => self.gone(&unit),
                Phase::Waiting => self.start_again(&unit),
            }
        }
    }

    fn abort(&mut self, unit: &Unit) {
        let Some(running) = self.running.get_mut(unit) else { return };
        let limit = self.around.patience.drain;
        tracing::warn!(%unit, ?limit, "unit did not drain in time: aborted, held back before it counts as released");
        if let Some(task) = &running.task {
            task.abort();
        }
        running.report.set(
            UnitState::Stopped,
            "DRAIN_TIMED_OUT",
            "the unit did not drain in time, was aborted and is held back for the time of a lease",
            None,
        );
        self.enter(unit, Phase::Quarantined, self.around.patience.quarantine);
    }

    fn start_again(&mut self, unit: &Unit) {
        let Some(running) = self.running.remove(unit) else { return };
        // The generation may have moved on since it started, which restarts nothing by itself: it goes on in the newest.
        let newest = self.desired.units.get(unit).filter(|newest| newest.number == running.assigned.number);
        let assigned = newest.cloned().unwrap_or(running.assigned);
        self.start(unit.clone(), assigned, (running.failures, running.failure));
    }

    /// Nothing of the unit runs any more. It is released, unless the same assignment is (again) desired: then it was
    /// stopped only to be started anew, and nobody was told that it is free.
    fn gone(&mut self, unit: &Unit) {
        let Some(running) = self.running.remove(unit) else { return };
        if let Some(due) = running.due {
            self.due.remove(&(due, unit.clone()));
        }
        let desired = self.desired.units.get(unit).cloned();
        let number = running.assigned.number;
        if desired.as_ref().is_none_or(|desired| desired.number != number) {
            self.around.reports.close(unit);
            self.around.releases.add(unit.clone(), number);
            tracing::debug!(%unit, number, "unit released");
        }
        if let Some(desired) = desired {
            self.start(unit.clone(), desired, Failures::default());
        }
    }

    /// Ends everything: what drains in time is released, the rest is aborted and left to the end of the lease.
    async fn drain_all(&mut self) {
        self.desired = Arc::default();
        let units: Vec<Unit> = self.running.keys().cloned().collect();
        for unit in &units {
            self.stop(unit);
        }
        let deadline = Instant::now() + self.around.patience.shutdown;
        while !self.tasks.is_empty() {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => self.ended(ended),
                Ok(None) => break,
                Err(_) => {
                    let left: Vec<String> = self.task_units.values().map(ToString::to_string).collect();
                    tracing::warn!(
                        units = left.len(),
                        first = left.first(),
                        "units did not drain before the end: aborted, they move when the lease is over"
                    );
                    self.tasks.abort_all();
                    break;
                }
            }
        }
    }
}

/// Waits for a point in time, or for ever.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What a panic said, in one line.
fn panic_text(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "was aborted".to_owned() };
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    format!("panicked: {}", text.lines().next().unwrap_or_default())
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
