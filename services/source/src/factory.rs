//! Which task runs which unit, and what they share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use mirrormesh_core::flow::{PreviewPage, PreviewQuestion};
use mirrormesh_core::paused::{PausedFigures, PausedSet};
use mirrormesh_core::report::UnitState;
use mirrormesh_core::unit::Unit;
use mirrormesh_kafka::memory::Budget;
use mirrormesh_worker::{Failure, QueryHandler, UnitContext, UnitFactory};
use parking_lot::Mutex;

use crate::config::Settings;
use crate::link::{FlowLink, LinkKey};
use crate::metrics::Metrics;
use crate::partition::PartitionUnit;
use crate::paused::Onlookers;
use crate::preview::preview;
use crate::registry::Registries;
use crate::topology;

/// Starts the units of the source service.
#[derive(Debug)]
pub(crate) struct SourceUnits {
    settings: Settings,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    // Lock: held only to look up or insert.
    links: Mutex<HashMap<LinkKey, Weak<FlowLink>>>,
    registries: Arc<Registries>,
    answers: Arc<Answers>,
}

/// Answers the coordinator's questions.
#[derive(Debug)]
struct Answers {
    onlookers: Onlookers,
    registries: Arc<Registries>,
}

impl QueryHandler for Answers {
    fn paused(&self, set: PausedSet) -> BoxFuture<'_, Result<PausedFigures, String>> {
        Box::pin(async move { self.onlookers.paused(set).await.map_err(|failure| failure.to_string()) })
    }

    fn preview(&self, question: PreviewQuestion) -> BoxFuture<'_, Result<PreviewPage, String>> {
        Box::pin(
            async move { preview(question, &self.registries).await.map_err(|failure| failure.to_string()) },
        )
    }
}

impl SourceUnits {
    pub(crate) fn new(settings: Settings, metrics: Metrics) -> Self {
        let metrics = Arc::new(metrics);
        let registries = Arc::<Registries>::default();
        let onlookers = Onlookers::new(Arc::clone(&metrics));
        Self {
            answers: Arc::new(Answers { onlookers, registries: Arc::clone(&registries) }),
            budget: Budget::new(usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX)),
            settings,
            metrics,
            links: Mutex::new(HashMap::new()),
            registries,
        }
    }

    fn link(&self, context: &UnitContext) -> Result<Arc<FlowLink>, Failure> {
        let key = (context.flow_id.clone(), context.source.clone(), context.target.clone());
        let mut links = self.links.lock();
        links.retain(|_, link| link.strong_count() > 0);
        if let Some(link) = links.get(&key).and_then(Weak::upgrade) {
            link.throttles.follow(context.flow_changes.clone());
            return Ok(link);
        }
        let link = Arc::new(FlowLink::new(
            &context.flow_id,
            (&context.flow, context.flow_changes.clone()),
            (&context.source, &context.target),
            &self.settings,
            &self.budget,
            &self.metrics,
            &self.registries,
        )?);
        links.insert(key, Arc::downgrade(&link));
        Ok(link)
    }
}

impl UnitFactory for SourceUnits {
    fn start(&self, unit: Unit, context: UnitContext) -> BoxFuture<'static, ()> {
        let link = match self.link(&context) {
            Ok(link) => link,
            Err(failure) => {
                // Nothing to be done until the cluster's settings change, which restarts the unit.
                context.report.set(UnitState::Stopped, &failure.reason, &failure.message, None);
                return Box::pin(async move { context.stop.cancelled().await });
            }
        };
        match unit {
            Unit::Topology(_) => Box::pin(async move {
                if link.clusters.pass(&context).await {
                    topology::run(context, link).await;
                }
            }),
            Unit::Partition(_, topic, partition) => Box::pin(async move {
                if !Box::pin(link.clusters.pass(&context)).await {
                    return;
                }
                let stop = context.stop.clone();
                match PartitionUnit::new(context, link, topic, partition) {
                    Some(unit) => unit.run().await,
                    None => stop.cancelled().await,
                }
            }),
            Unit::Groups(_) | Unit::Group(..) | Unit::Heartbeat(_) => {
                tracing::error!(%unit, "a source worker was given a unit of another role");
                Box::pin(async move { context.stop.cancelled().await })
            }
        }
    }

    fn queries(&self) -> Option<Arc<dyn QueryHandler>> {
        Some(Arc::clone(&self.answers) as Arc<dyn QueryHandler>)
    }
}
