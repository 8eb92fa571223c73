//! Runs the four roles side by side: the coordinator first, the workers once it listens.

use std::future::Future;

use anyhow::{Context as _, Result};
use mirrormesh_runtime::service::ServiceContext;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::config::Settings;

/// Runs until the context's shutdown, or until one role ends by itself: then all end.
pub(crate) async fn run(settings: Settings, context: ServiceContext) -> Result<()> {
    let (ready, bound) = oneshot::channel();
    let mut roles: JoinSet<Result<()>> = JoinSet::new();
    let coordinator = settings.coordinator();
    let own = context.clone();
    let tell = move |at: mirrormesh_coordinator::Bound| {
        // Nobody listens any more only if the process is ending.
        let _ending = ready.send(at.mesh);
    };
    roles.spawn(named("coordinator", mirrormesh_coordinator::run(coordinator, own, tell)));
    if let Ok(mesh) = bound.await {
        let mesh = mesh.to_string();
        let source = mirrormesh_source::run(settings.source(&mesh), context.clone());
        let checkpoint = mirrormesh_checkpoint::run(settings.worker("checkpoint", &mesh), context.clone());
        let heartbeat = mirrormesh_heartbeat::run(settings.worker("heartbeat", &mesh), context.clone());
        roles.spawn(named("source", source));
        roles.spawn(named("checkpoint", checkpoint));
        roles.spawn(named("heartbeat", heartbeat));
    }
    let mut outcome = Ok(());
    while let Some(ended) = roles.join_next().await {
        let ended = ended.context("a role panicked").and_then(|result| result);
        context.shutdown.trigger();
        if outcome.is_ok() {
            outcome = ended;
        }
    }
    outcome
}

async fn named<E>(role: &'static str, running: impl Future<Output = Result<(), E>>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    running.await.with_context(|| format!("the {role} role ended"))
}
