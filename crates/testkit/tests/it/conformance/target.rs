//! What the cases run against: the fake, or real brokers that all cases of a version share.

use std::time::Duration;

use mirrormesh_testkit::broker::{FakeCluster, FakeSpec};
use mirrormesh_testkit::jars::KafkaVersion;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::wire::Wire;

/// The same settings for all of them.
const PROPERTIES: [(&str, &str); 7] = [
    ("producer.id.expiration.check.interval.ms", "1000"),
    // Transactional batches are written without a coordinator.
    ("transaction.partition.verification.enable", "false"),
    ("replica.lag.time.max.ms", "4000"),
    ("log.cleaner.backoff.ms", "100"),
    ("log.initial.task.delay.ms", "100"),
    ("log.retention.check.interval.ms", "500"),
    ("num.replica.fetchers", "1"),
];
const READY_TIMEOUT: Duration = Duration::from_secs(90);
const HEAP_MB: u32 = 384;

/// What plays Kafka, and which one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Fake(KafkaVersion),
    Real(KafkaVersion),
}

enum Backend {
    Fake(FakeCluster),
    Real(&'static Cluster),
}

/// A cluster under test. Nodes are counted from 1, as their ids.
pub(super) struct Target {
    pub(super) kafka: KafkaVersion,
    backend: Backend,
    nodes: i32,
    /// Held by the cases that stop and start nodes.
    _turn: Option<MutexGuard<'static, ()>>,
}

type Slot = OnceCell<Cluster>;

fn spec(version: KafkaVersion, brokers: usize) -> ClusterSpec {
    let name = format!("conformance-{}", version.number().replace('.', "-"));
    let spec = ClusterSpec::new(name).version(version).brokers(brokers).heap_mb(HEAP_MB);
    PROPERTIES.iter().fold(spec, |spec, (property, value)| spec.property(*property, *value))
}

async fn real(slot: &'static Slot, spec: ClusterSpec) -> &'static Cluster {
    slot.get_or_init(|| async { Cluster::start(spec).await.unwrap() }).await
}

impl Target {
    /// One node.
    pub(super) async fn solo(kind: Kind) -> Self {
        static NEW: Slot = Slot::const_new();
        static OLD: Slot = Slot::const_new();
        match kind {
            Kind::Fake(kafka) => Self::fake(kafka, 1).await,
            Kind::Real(kafka) => {
                let slot = if kafka == KafkaVersion::V4_3 { &NEW } else { &OLD };
                let backend = Backend::Real(real(slot, spec(kafka, 1)).await);
                Self { kafka, backend, nodes: 1, _turn: None }
            }
        }
    }

    /// One node that looks for expired producers every hour only, so never while a case runs.
    pub(super) async fn rarely_checked(kind: Kind) -> Self {
        static NEW: Slot = Slot::const_new();
        static OLD: Slot = Slot::const_new();
        const RARELY: (&str, &str) = ("producer.id.expiration.check.interval.ms", "3600000");
        match kind {
            Kind::Fake(kafka) => Self::fake_with(kafka, 1, &[RARELY]).await,
            Kind::Real(kafka) => {
                let slot = if kafka == KafkaVersion::V4_3 { &NEW } else { &OLD };
                let spec = spec(kafka, 1).property(RARELY.0, RARELY.1);
                Self { kafka, backend: Backend::Real(real(slot, spec).await), nodes: 1, _turn: None }
            }
        }
    }

    /// Three nodes, one case at a time.
    pub(super) async fn trio(kind: Kind) -> Self {
        static NEW: (Slot, Mutex<()>) = (Slot::const_new(), Mutex::const_new(()));
        static OLD: (Slot, Mutex<()>) = (Slot::const_new(), Mutex::const_new(()));
        match kind {
            Kind::Fake(kafka) => Self::fake(kafka, 3).await,
            Kind::Real(kafka) => {
                let (slot, turn) = if kafka == KafkaVersion::V4_3 { &NEW } else { &OLD };
                let turn = turn.lock().await;
                let cluster = real(slot, spec(kafka, 3)).await;
                // A case that failed may have left a node stopped or standing still.
                for broker in 0..3 {
                    match cluster.pid(broker) {
                        Some(_) => cluster.resume(broker).unwrap(),
                        None => cluster.start_broker(broker).unwrap(),
                    }
                }
                cluster.wait_ready(READY_TIMEOUT).await.unwrap();
                Self { kafka, backend: Backend::Real(cluster), nodes: 3, _turn: Some(turn) }
            }
        }
    }

    async fn fake(kafka: KafkaVersion, nodes: i32) -> Self {
        Self::fake_with(kafka, nodes, &[]).await
    }

    async fn fake_with(kafka: KafkaVersion, nodes: i32, more: &[(&str, &str)]) -> Self {
        let mut spec = FakeSpec::new("conformance").version(kafka).nodes(nodes);
        for (property, value) in PROPERTIES.iter().chain(more) {
            spec = spec.property(*property, *value);
        }
        let backend = Backend::Fake(FakeCluster::start(spec).await.unwrap());
        Self { kafka, backend, nodes, _turn: None }
    }

    pub(super) fn is_4_3(&self) -> bool {
        self.kafka == KafkaVersion::V4_3
    }

    /// The fake, for what only a broker's cleaner or timer does by itself.
    pub(super) fn as_fake(&self) -> Option<&FakeCluster> {
        match &self.backend {
            Backend::Fake(fake) => Some(fake),
            Backend::Real(_) => None,
        }
    }

    pub(super) fn bootstrap(&self) -> String {
        match &self.backend {
            Backend::Fake(fake) => fake.bootstrap(),
            Backend::Real(cluster) => cluster.bootstrap(),
        }
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = i32> + use<> {
        1..=self.nodes
    }

    pub(super) fn address(&self, node: i32) -> String {
        let all = self.bootstrap();
        all.split(',').nth(usize::try_from(node - 1).unwrap()).unwrap().to_owned()
    }

    pub(super) async fn wire(&self, node: i32) -> Wire {
        Wire::connect(&self.address(node)).await.unwrap()
    }

    /// SIGKILL.
    pub(super) fn kill(&self, node: i32) {
        match &self.backend {
            Backend::Fake(fake) => fake.kill_node(node).unwrap(),
            Backend::Real(cluster) => cluster.kill(index(node)).unwrap(),
        }
    }

    /// In order.
    pub(super) async fn stop(&self, node: i32) {
        match &self.backend {
            Backend::Fake(fake) => fake.stop_node(node).unwrap(),
            Backend::Real(cluster) => cluster.stop(index(node)).await.unwrap(),
        }
    }

    pub(super) async fn start(&self, node: i32) {
        match &self.backend {
            Backend::Fake(fake) => fake.start_node(node).await.unwrap(),
            Backend::Real(cluster) => cluster.start_broker(index(node)).unwrap(),
        }
    }

    /// Everything that runs answers and knows of each other.
    pub(super) async fn ready(&self) {
        if let Backend::Real(cluster) = &self.backend {
            cluster.wait_ready(READY_TIMEOUT).await.unwrap();
        }
    }

    pub(super) fn pause(&self, node: i32) {
        match &self.backend {
            Backend::Fake(fake) => fake.pause_node(node).unwrap(),
            Backend::Real(cluster) => cluster.pause(index(node)).unwrap(),
        }
    }

    pub(super) fn resume(&self, node: i32) {
        match &self.backend {
            Backend::Fake(fake) => fake.resume_node(node).unwrap(),
            Backend::Real(cluster) => cluster.resume(index(node)).unwrap(),
        }
    }
}

fn index(node: i32) -> usize {
    usize::try_from(node - 1).unwrap()
}
