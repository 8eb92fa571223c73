//! What a cluster's brokers say about each other: who leads, and who is in step.
//!
//! Owns an independent client past the proxies; must not know the mesh.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::kafka::Cluster;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::{Metadata, MetadataTopic};

/// One question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// A broker is back, and has copied what it missed, within this time.
const BACK_TIMEOUT: Duration = Duration::from_mins(3);
/// How often replicas are looked at.
const STEP: Duration = Duration::from_millis(300);

/// Looks at one cluster.
#[derive(Clone)]
pub(super) struct Brokers {
    cluster: Arc<Cluster>,
    client: Arc<BaseConsumer>,
}

/// How a broker is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// SIGKILL.
    Kill,
    /// SIGTERM: it hands its partitions over first.
    Stop,
}

impl Brokers {
    /// A client for this cluster.
    pub(super) fn new(cluster: Arc<Cluster>) -> Result<Self> {
        let client = ClientConfig::new()
            .set("bootstrap.servers", cluster.direct_bootstrap())
            .set("group.id", "brokers")
            .set("allow.auto.create.topics", "false")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .context("cannot make a client that looks at brokers")?;
        Ok(Self { cluster, client: Arc::new(client) })
    }

    /// The cluster.
    pub(super) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    async fn metadata<T: Send + 'static>(
        &self,
        topic: Option<&str>,
        read: impl FnOnce(&Metadata) -> T + Send + 'static,
    ) -> Result<T> {
        let (client, topic) = (Arc::clone(&self.client), topic.map(str::to_owned));
        tokio::task::spawn_blocking(move || {
            let metadata = client.fetch_metadata(topic.as_deref(), QUESTION_TIMEOUT)?;
            Ok(read(&metadata))
        })
        .await
        .context("interrupted")?
    }

    /// Partitions of a topic with the broker (counted from 0) that leads each; those without a leader are left out.
    pub(super) async fn leaders(&self, topic: &str) -> Result<Vec<(i32, usize)>> {
        let mut leaders: Vec<(i32, usize)> = self
            .metadata(Some(topic), |metadata| {
                let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
                partitions.filter_map(|p| Some((p.id(), broker_index(p.leader())?))).collect()
            })
            .await?;
        leaders.sort_unstable();
        Ok(leaders)
    }

    /// Whether every partition of every topic has a leader and all its replicas in step.
    async fn in_step(&self) -> Result<bool> {
        self.metadata(None, |metadata| {
            let mut partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
            partitions.all(|p| p.leader() >= 0 && p.isr().len() == p.replicas().len())
        })
        .await
    }

    /// Waits until no broker is missing anywhere.
    pub(super) async fn wait_in_step(&self) -> Result<()> {
        let deadline = Instant::now() + BACK_TIMEOUT;
        while !self.in_step().await.unwrap_or(false) {
            if Instant::now() > deadline {
                bail!("replicas of cluster {} are not in step after {BACK_TIMEOUT:?}", self.cluster.name());
            }
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }

    /// Ends a broker, starts it again after `hold`, and waits until it has all that it missed.
    pub(super) async fn restart(self, broker: usize, end: End, hold: Duration) -> Result<()> {
        match end {
            End::Kill => self.cluster.kill(broker)?,
            End::Stop => self.cluster.stop(broker).await?,
        }
        tokio::time::sleep(hold).await;
        self.cluster.start_broker(broker)?;
        self.cluster.wait_ready(BACK_TIMEOUT).await?;
        self.wait_in_step().await
    }
}

impl fmt::Debug for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brokers").field("cluster", &self.cluster.name()).finish_non_exhaustive()
    }
}

/// Kafka's node ids begin with 1.
fn broker_index(node_id: i32) -> Option<usize> {
    usize::try_from(node_id - 1).ok()
}
