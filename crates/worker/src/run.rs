//! A whole worker: session, supervisor and events put together, and ended in order.
//!
//! Owns the wiring and the order of shutdown; decides nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::unit::Role;
use mirrormesh_runtime::service::ServiceContext;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::assignments::Assignments;
use crate::config::{WorkerSettings, role_name};
use crate::coordinator::CoordinatorHandle;
use crate::error::Error;
use crate::events::EventQueue;
use crate::lease::LeaseClock;
use crate::link;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::release::Releases;
use crate::report::Reports;
use crate::session::Session;
use crate::supervisor::{Patience, Supervisor, Surroundings};
use crate::unit::UnitFactory;
use crate::wire::Identity;

/// How long saying goodbye may take before units are drained all the same.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the last releases and events may take to arrive once all units have ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the background tasks may take to see that it is over.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// Runs a worker until the context's shutdown: keeps a session with the leading coordinator and runs what it assigns
/// through `factory`. Then all units drain, are reported as released, and it returns, within 10 s.
pub async fn run_worker(
    role: Role,
    settings: &WorkerSettings,
    factory: Arc<dyn UnitFactory>,
    context: &ServiceContext,
) -> Result<(), Error> {
    settings.validate()?;
    let worker = settings.id(role)?;
    let metrics = Metrics::new(&context.telemetry.meter("mirrormesh.worker"), role);
    tracing::info!(%worker, role = role_name(role), capacity = settings.capacity, "worker starts");

    let (slot, events) = (link::slot(), Arc::new(EventQueue::new(metrics.clone())));
    let (reports, releases, clock) = (Reports::default(), Releases::default(), LeaseClock::new());
    let assignments = Assignments::new();
    let links = slot.links();
    let supervisor = Supervisor::new(Surroundings {
        factory: Arc::clone(&factory),
        coordinator: CoordinatorHandle::new(links.clone(), Arc::clone(&events)),
        reports: reports.clone(),
        releases: releases.clone(),
        lease: clock.lease(),
        metrics: metrics.clone(),
        patience: Patience::default(),
    });
    let desired = assignments.subscribe();
    let (leaving, left) = (CancellationToken::new(), CancellationToken::new());
    let session = Session {
        identity: Identity {
            worker,
            role,
            capacity: settings.capacity,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        coordinators: settings.coordinators.clone(),
        link: slot,
        assignments,
        progress: Progress { reports, releases: releases.clone(), clock },
        queries: factory.queries(),
        health: context.health.check(format!("{}-session", role_name(role))),
        metrics,
        leaving: leaving.clone(),
        left: left.clone(),
        channels: BTreeMap::new(),
        opened: None,
    };

    let stop = CancellationToken::new();
    let mut background = JoinSet::new();
    background.spawn(session.run(stop.clone()));
    let (sending, sending_stop) = (Arc::clone(&events), stop.clone());
    background.spawn(async move { sending.send(&links, &sending_stop).await });

    let units_stop = CancellationToken::new();
    let leave = async {
        context.shutdown.cancelled().await;
        tracing::info!("worker stops: its units drain");
        leaving.cancel();
        // Without a session nobody can be told: the units need not wait for that.
        timeout(LEAVE_TIMEOUT, left.cancelled()).await.ok();
        units_stop.cancel();
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(supervisor.run(desired, units_stop.clone()), leave) } => {}
        Some(ended) = background.join_next() => {
            let problem = ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
            return Err(Error::Ended { problem });
        }
    }
    let flushed = timeout(FLUSH_TIMEOUT, async { tokio::join!(releases.settled(), events.emptied()) }).await;
    if flushed.is_err() {
        let (releases, events) = (releases.unacknowledged().len(), events.waiting());
        tracing::warn!(releases, events, "worker ends before the coordinator acknowledged everything");
    }
    stop.cancel();
    timeout(END_TIMEOUT, async { while background.join_next().await.is_some() {} }).await.ok();
    tracing::info!("worker has stopped");
    Ok(())
}
