//! The source service: finds topics, keeps target topics in step, relays records.
//!
//! Carries out what core decides. Must not know: the coordinator's protocol (the worker crate's business) and how
//! bytes travel to a broker (the kafka crate's).

mod codecs;
mod config;
mod costs;
mod ends;
mod factory;
mod facts;
mod fetcher;
mod internal;
mod lag_board;
mod link;
mod memory;
mod metrics;
mod partition;
mod paused;
mod positions;
mod preview;
mod registry;
mod sender;
mod throttle;
mod topology;

use std::sync::Arc;

use mirrormesh_core::unit::Role;
use mirrormesh_runtime::service::ServiceContext;
use mirrormesh_worker::{Error, run_worker};

pub use config::Settings;

/// Runs the service until the context's shutdown.
pub async fn run(settings: Settings, context: ServiceContext) -> Result<(), Error> {
    settings.validate()?;
    let metrics =
        metrics::Metrics::new(&context.telemetry.meter("mirrormesh.source"), settings.partition_metrics);
    let worker = settings.worker.clone();
    run_worker(Role::Source, &worker, Arc::new(factory::SourceUnits::new(settings, metrics)), &context).await
}
