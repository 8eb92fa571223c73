//! The checkpoint service: translates committed offsets and writes MirrorMaker 2's checkpoints.
//!
//! Owns the units `groups(flow)` and `group(flow, group)`. It reads groups on the source and positions on the target,
//! and writes `{source}.checkpoints.internal` on the target. It commits nothing to any group.
//!
//! Must not know: how records are mirrored, where units come from, Raft.

mod discovery;
mod factory;
mod group;
mod groups;
mod maps;
mod metrics;
mod positions;
mod rounds;
mod shared;
mod written;

use std::sync::Arc;

use mirrormesh_core::unit::Role;
use mirrormesh_runtime::service::ServiceContext;
use mirrormesh_worker::run_worker;

pub use mirrormesh_worker::{Error, WorkerSettings};

/// Runs the service until the context's shutdown.
pub async fn run(settings: WorkerSettings, context: ServiceContext) -> Result<(), Error> {
    let metrics = metrics::Metrics::new(&context.telemetry.meter("mirrormesh.checkpoint"));
    run_worker(Role::Checkpoint, &settings, Arc::new(factory::CheckpointUnits::new(metrics)), &context).await
}
