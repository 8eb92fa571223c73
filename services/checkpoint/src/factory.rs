//! Which unit is run how, and who answers the coordinator's questions.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use mirrormesh_core::report::UnitState;
use mirrormesh_core::unit::Unit;
use mirrormesh_worker::{UnitContext, UnitFactory};

use crate::metrics::Metrics;
use crate::shared::Registry;
use crate::{group, groups};

/// Runs the units of the checkpoint role.
pub(crate) struct CheckpointUnits {
    registry: Arc<Registry>,
    metrics: Metrics,
}

impl CheckpointUnits {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { registry: Arc::default(), metrics }
    }
}

impl UnitFactory for CheckpointUnits {
    fn start(&self, unit: Unit, context: UnitContext) -> BoxFuture<'static, ()> {
        let registry = Arc::clone(&self.registry);
        match unit {
            Unit::Groups(_) => async move {
                if Box::pin(registry.clusters_pass(&context)).await {
                    groups::run(context, registry).await;
                }
            }
            .boxed(),
            Unit::Group(_, id) => {
                let metrics = self.metrics.clone();
                async move {
                    if Box::pin(registry.clusters_pass(&context)).await {
                        group::run(id, context, registry, metrics).await;
                    }
                }
                .boxed()
            }
            unit @ (Unit::Topology(_) | Unit::Partition(..) | Unit::Heartbeat(_)) => {
                foreign(unit, context).boxed()
            }
        }
    }
}

/// A unit that no checkpoint worker should have got.
async fn foreign(unit: Unit, context: UnitContext) {
    tracing::error!(%unit, "the unit belongs to another role");
    context.report.set(
        UnitState::Stopped,
        "WRONG_ROLE",
        &format!("{unit} was given to a checkpoint worker, which can't run it"),
        None,
    );
    context.stop.cancelled().await;
}
