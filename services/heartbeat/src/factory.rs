//! Which unit is run how.

use futures::FutureExt;
use futures::future::BoxFuture;
use mirrormesh_core::report::UnitState;
use mirrormesh_core::unit::Unit;
use mirrormesh_worker::{UnitContext, UnitFactory};

use crate::beat;
use crate::metrics::Metrics;

/// Runs the units of the heartbeat role.
pub(crate) struct HeartbeatUnits {
    metrics: Metrics,
}

impl HeartbeatUnits {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics }
    }
}

impl UnitFactory for HeartbeatUnits {
    fn start(&self, unit: Unit, context: UnitContext) -> BoxFuture<'static, ()> {
        match unit {
            Unit::Heartbeat(_) => beat::run(context, self.metrics.clone()).boxed(),
            unit @ (Unit::Topology(_) | Unit::Partition(..) | Unit::Groups(_) | Unit::Group(..)) => {
                foreign(unit, context).boxed()
            }
        }
    }
}

/// A unit that no heartbeat worker should have got.
async fn foreign(unit: Unit, context: UnitContext) {
    tracing::error!(%unit, "the unit belongs to another role");
    context.report.set(
        UnitState::Stopped,
        "WRONG_ROLE",
        &format!("{unit} was given to a heartbeat worker, which can't run it"),
        None,
    );
    context.stop.cancelled().await;
}
