//! What a test says about the fake cluster that it wants.

use std::collections::BTreeMap;

use crate::jars::KafkaVersion;

/// What to start. `FakeSpec::new("target")` is one node that plays Kafka 4.3.
#[derive(Debug, Clone)]
pub struct FakeSpec {
    pub(super) cluster_id: String,
    pub(super) nodes: i32,
    pub(super) version: KafkaVersion,
    pub(super) properties: BTreeMap<String, String>,
}

impl FakeSpec {
    /// One node of the newest Kafka.
    pub fn new(cluster_id: impl Into<String>) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            nodes: 1,
            version: KafkaVersion::default(),
            properties: BTreeMap::new(),
        }
    }

    /// Sets how many nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: i32) -> Self {
        self.nodes = nodes;
        self
    }

    /// Sets which Kafka it plays: the versions of requests that it takes, and where the two behave differently.
    #[must_use]
    pub fn version(mut self, version: KafkaVersion) -> Self {
        self.version = version;
        self
    }

    /// Sets a server property. Those that have an effect: defaults of topic settings (`message.max.bytes`, ...),
    /// `producer.id.expiration.ms`, `producer.id.expiration.check.interval.ms`,
    /// `transaction.partition.verification.enable`, `replica.lag.time.max.ms`, `socket.request.max.bytes`.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }
}
