//! Which Kafka clusters a flow's two sides are, before a unit writes to either.
//!
//! Owns the first contact: an id that the mesh does not know is asked for and reported, and the unit waits until it is
//! started again with the id that the mesh keeps. From then on each connection compares it (`mirrormesh-kafka`).

use std::time::Duration;

use mirrormesh_core::identity::{self, CLUSTER_CHANGED, SOURCE_IS_TARGET, Sides};
use mirrormesh_core::ids::ClusterId;
use mirrormesh_core::report::UnitState;
use mirrormesh_core::unit::ClusterSpec;
use mirrormesh_kafka::{Backoff, Client};
use tokio::sync::OnceCell;

use crate::error::CoordinatorError;
use crate::kafka::{Failure, client_config};
use crate::unit::UnitContext;

/// Pause before a cluster that did not answer is asked again, growing to the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A unit whose ids were reported is started again with them in less than this time, while a coordinator leads.
const RESTARTED_WITHIN: Duration = Duration::from_secs(10);

/// The check of one flow's clusters, shared by the units of a worker: each id is reported once, however many they are.
#[derive(Debug, Default)]
pub struct ClusterCheck(OnceCell<()>);

impl ClusterCheck {
    /// Waits until the mesh knows both clusters of a unit's flow and they are two. `false` if the unit is to stop first,
    /// which it also is when the ids become known: a change of a cluster starts its units again.
    ///
    /// What is wrong stands in the unit's report: `SOURCE_IS_TARGET`, or why a cluster could not be asked.
    pub async fn pass(&self, context: &UnitContext) -> bool {
        let spec = &context.flow.spec;
        let (source, target) = ((&spec.source, &context.source), (&spec.target, &context.target));
        match identity::compare(source, target) {
            Sides::Distinct => return true,
            Sides::Same(message) => {
                context.report.set(UnitState::Stopped, SOURCE_IS_TARGET, &message, None);
                tracing::warn!(flow = %context.flow_id, message, "source and target are one cluster");
            }
            Sides::Unknown => return self.introduce(context).await,
        }
        context.stop.cancelled().await;
        false
    }

    /// Reports the ids that the mesh does not know, until the unit is to stop.
    async fn introduce(&self, context: &UnitContext) -> bool {
        let mut retry = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut reported = false;
        loop {
            let reporting = async {
                // Somebody may have forgotten the ids again since the other units reported them.
                if reported {
                    report(context).await
                } else {
                    self.0.get_or_try_init(|| report(context)).await.copied()
                }
            };
            let pause = match context.stop.run_until_cancelled(reporting).await {
                None => return false,
                Some(Ok(())) => {
                    reported = true;
                    RESTARTED_WITHIN
                }
                Some(Err(failure)) => {
                    if context.report.backoff(&failure) {
                        tracing::warn!(flow = %context.flow_id, %failure, "a cluster's id is not known yet");
                    }
                    retry.delay()
                }
            };
            if context.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return false;
            }
        }
    }
}

async fn report(context: &UnitContext) -> Result<(), Failure> {
    let spec = &context.flow.spec;
    let source = contact(context, &spec.source, &context.source).await;
    // A source that is down keeps nobody from learning the target's id.
    contact(context, &spec.target, &context.target).await.and(source)
}

/// Asks a cluster for its id and reports it, unless the mesh knows it.
async fn contact(context: &UnitContext, name: &ClusterId, spec: &ClusterSpec) -> Result<(), Failure> {
    if spec.kafka_cluster_id.is_some() {
        return Ok(());
    }
    let client_id = format!("mirrormesh-identity-{}", context.flow_id);
    let client = Client::new(client_config(&cluster_name(name), spec, &client_id)?)?;
    let found = cluster_id(&client).await?;
    let kept = context.coordinator.report_cluster(name, &found).await.map_err(refused)?;
    if kept == found {
        tracing::info!(cluster = %name, kafka_cluster_id = found, "first contact with a cluster");
        return Ok(());
    }
    Err(Failure::new(CLUSTER_CHANGED, identity::changed(&cluster_name(name), &kept, &found)))
}

/// What messages call a cluster of the mesh.
pub fn cluster_name(id: &ClusterId) -> String {
    format!("clusters/{id}")
}

/// Kafka's id of a cluster.
pub async fn cluster_id(client: &Client) -> Result<String, Failure> {
    client.cluster_id().await?.ok_or_else(|| {
        let message = "the brokers tell no cluster id, without which it can't be known what came from where: they must \
                       run Kafka 0.10.1 or later";
        Failure::new("CLUSTER_ID_UNKNOWN", message)
    })
}

fn refused(error: CoordinatorError) -> Failure {
    let message = error.to_string();
    match error {
        CoordinatorError::Outdated { reason, .. } | CoordinatorError::Refused { reason, .. } => {
            Failure::new(reason, message)
        }
        CoordinatorError::Cancelled => Failure::new("STOPPING", message),
    }
}
