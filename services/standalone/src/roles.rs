//! Runs the four roles side by side: the coordinator first, the workers once it listens. The coordinator stops last, so
//! that the workers can say what they released.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mirrormesh_runtime::service::ServiceContext;
use mirrormesh_runtime::shutdown::Shutdown;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::config::Settings;

/// The workers have this long to stop before the coordinator stops too.
const WORKERS_STOP: Duration = Duration::from_secs(7);

/// Runs until the context's shutdown, or until one role ends by itself: then all end.
pub(crate) async fn run(settings: Settings, context: ServiceContext) -> Result<()> {
    let (ready, bound) = oneshot::channel();
    let (mut coordinator, mut workers) = (JoinSet::new(), JoinSet::new());
    let last = Shutdown::new();
    let own = ServiceContext { shutdown: last.clone(), ..context.clone() };
    let tell = move |at: mirrormesh_coordinator::Bound| {
        // Nobody listens any more only if the process is ending.
        let _ending = ready.send(at.mesh);
    };
    coordinator.spawn(named("coordinator", mirrormesh_coordinator::run(settings.coordinator(), own, tell)));
    if let Ok(mesh) = bound.await {
        let mesh = mesh.to_string();
        let source = mirrormesh_source::run(settings.source(&mesh), context.clone());
        let checkpoint = mirrormesh_checkpoint::run(settings.worker("checkpoint", &mesh), context.clone());
        let heartbeat = mirrormesh_heartbeat::run(settings.worker("heartbeat", &mesh), context.clone());
        workers.spawn(named("source", source));
        workers.spawn(named("checkpoint", checkpoint));
        workers.spawn(named("heartbeat", heartbeat));
    }
    let overdue = async {
        context.shutdown.cancelled().await;
        tokio::time::sleep(WORKERS_STOP).await;
    };
    tokio::pin!(overdue);
    let mut outcome = Ok(());
    loop {
        let ended = tokio::select! {
            Some(ended) = workers.join_next() => ended,
            Some(ended) = coordinator.join_next() => ended,
            () = &mut overdue, if !last.is_triggered() => {
                last.trigger();
                continue;
            }
            else => return outcome,
        };
        context.shutdown.trigger();
        if workers.is_empty() {
            last.trigger();
        }
        if outcome.is_ok() {
            outcome = ended.context("a role panicked").and_then(|result: Result<()>| result);
        }
    }
}

async fn named<E>(role: &'static str, running: impl Future<Output = Result<(), E>>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    running.await.with_context(|| format!("the {role} role ended"))
}
