//! The heartbeat service: writes MirrorMaker 2's heartbeats.
//!
//! Owns the unit `heartbeat(flow)`: once per interval a record that names source and target is written to
//! `heartbeats` on the target, so that whoever mirrors the target on, or asks `MirrorClient` for the clusters upstream
//! of it, sees that the flow lives. It talks to the source only where the mesh does not know the source's cluster id yet.
//!
//! Must not know: how records are mirrored, where units come from, Raft.

mod beat;
mod factory;
mod metrics;

use std::sync::Arc;

use mirrormesh_core::unit::Role;
use mirrormesh_runtime::service::ServiceContext;
use mirrormesh_worker::run_worker;

pub use mirrormesh_worker::{Error, WorkerSettings};

/// Runs the service until the context's shutdown.
pub async fn run(settings: WorkerSettings, context: ServiceContext) -> Result<(), Error> {
    let metrics = metrics::Metrics::new(&context.telemetry.meter("mirrormesh.heartbeat"));
    run_worker(Role::Heartbeat, &settings, Arc::new(factory::HeartbeatUnits::new(metrics)), &context).await
}
