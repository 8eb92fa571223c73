//! What a service plugs in: how a unit is run, and what it is given.
//!
//! Owns the contract between the supervisor and a service's units; knows nothing about any kind of unit.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use mirrormesh_core::flow::{PreviewPage, PreviewQuestion};
use mirrormesh_core::ids::FlowId;
use mirrormesh_core::paused::{PausedFigures, PausedSet};
use mirrormesh_core::unit::{AssignedFlow, AssignedUnit, ClusterSpec, Unit};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::coordinator::CoordinatorHandle;
use crate::lease::Lease;
use crate::report::ReportHandle;

/// What a service runs for a unit.
pub trait UnitFactory: Send + Sync + 'static {
    /// Makes the unit's task; the supervisor spawns and owns it. It runs until `context.stop` is cancelled, then drains
    /// (answers in flight, the final position) and returns: only then the unit is reported as released. A task that
    /// returns without having been asked to, or that panics, is started again with a growing delay.
    fn start(&self, unit: Unit, context: UnitContext) -> BoxFuture<'static, ()>;

    /// Who answers the coordinator's questions; nobody by default.
    fn queries(&self) -> Option<Arc<dyn QueryHandler>> {
        None
    }
}

/// Answers the coordinator's questions; an error is one line for a person. Each service answers those of its role.
pub trait QueryHandler: Send + Sync + 'static {
    /// How far behind are partitions that nobody runs, since they are paused? What can't be looked at is left out. Nothing
    /// may be written for it.
    fn paused(&self, set: PausedSet) -> BoxFuture<'_, Result<PausedFigures, String>> {
        Box::pin(async move {
            Err(format!("partitions of flows/{} are not looked at by this kind of worker", set.flow))
        })
    }

    /// What does a flow do, or would do, with the topics of its source? Nothing may be written for it.
    fn preview(&self, question: PreviewQuestion) -> BoxFuture<'_, Result<PreviewPage, String>> {
        Box::pin(async move {
            let source = question.spec.source;
            Err(format!("topics of clusters/{source} are not looked at by this kind of worker"))
        })
    }
}

/// A flow with the clusters that it names, as the newest assignment has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowView {
    /// The flow's id.
    pub id: FlowId,
    /// Its specification and producer identity.
    pub flow: AssignedFlow,
    /// The cluster to copy from.
    pub source: ClusterSpec,
    /// The cluster to copy to.
    pub target: ClusterSpec,
}

/// What a unit gets to run with.
#[derive(Clone)]
pub struct UnitContext {
    /// Number of the assignment and, for a partition unit, what was found out about it.
    pub assigned: AssignedUnit,
    /// The flow's id.
    pub flow_id: FlowId,
    /// The flow as it was when the unit was started.
    pub flow: AssignedFlow,
    /// The cluster to copy from.
    pub source: ClusterSpec,
    /// The cluster to copy to.
    pub target: ClusterSpec,
    /// Cancelled when the unit is to drain and return.
    pub stop: CancellationToken,
    /// Where the unit says what it is doing.
    pub report: ReportHandle,
    /// How the unit talks to the coordinator; its calls end when the unit is to stop.
    pub coordinator: CoordinatorHandle,
    /// The newest form of the flow. A change that a unit can't follow restarts it (`restart::needs_restart`); all
    /// others only show here.
    pub flow_changes: watch::Receiver<Arc<FlowView>>,
    /// The newest form of the assignment, while its number stays: a partition's generation may be a newer one than the
    /// unit began with. A unit that finds itself outdated returns, and is started anew with it.
    pub assigned_changes: watch::Receiver<AssignedUnit>,
    /// The trace of the change of the flow that the unit was started for, as W3C `traceparent`.
    pub trace: Option<String>,
    /// Whether the worker's lease holds: a unit that runs at-least-once only must stop writing when it does not.
    pub lease: Lease,
}

impl fmt::Debug for UnitContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitContext")
            .field("flow_id", &self.flow_id)
            .field("assigned", &self.assigned)
            .finish_non_exhaustive()
    }
}
