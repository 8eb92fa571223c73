//! What the services share in using Kafka: clients for a cluster's specification, internal topics, and how a failure
//! is reported.
//!
//! Owns MirrorMaker 2's rules for creating internal topics; knows nothing about what they hold.

use std::collections::BTreeMap;

use mirrormesh_core::identity::{self, CLUSTER_CHANGED};
use mirrormesh_core::unit::ClusterSpec;
use mirrormesh_kafka::admin::NewTopic;
use mirrormesh_kafka::{Client, ClientConfig, Error, ErrorCode, ExpectedCluster, Limits};

/// Replication factor of internal topics where the flow says nothing: this, or the number of brokers if that is less.
const REPLICATION_FACTOR: i16 = 3;

/// A failure as a unit reports it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// Stable name: `CLUSTER_UNREACHABLE`, `CLUSTER_SETTINGS`, or what Kafka calls the error.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with this stable name.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if let Some(Error::ClusterChanged { cluster, expected, found, .. }) = error.changed_cluster() {
            return Self::new(CLUSTER_CHANGED, identity::changed(cluster, expected, found));
        }
        let reason = match (error.code(), &error) {
            (Some(code), _) => code_name(code),
            (None, Error::Config { .. }) => "CLUSTER_SETTINGS".to_owned(),
            (None, Error::Unsupported { .. }) => "UNSUPPORTED_VERSION".to_owned(),
            (None, Error::Malformed { .. } | Error::Batch { .. }) => "MALFORMED_ANSWER".to_owned(),
            (None, Error::Request { .. }) => "INVALID_REQUEST".to_owned(),
            (None, Error::LogTruncated { .. }) => "LOG_TRUNCATED".to_owned(),
            (None, _) => "CLUSTER_UNREACHABLE".to_owned(),
        };
        Self { reason, message: error.to_string() }
    }
}

/// Kafka's name of a code, or its number where this version has no name for it.
fn code_name(code: ErrorCode) -> String {
    code.name().map_or_else(|| format!("KAFKA_ERROR_{}", code.0), str::to_owned)
}

/// How to reach a cluster, which messages call `name`. Where the mesh knows Kafka's id of it, no other cluster is taken.
///
/// A secret given by reference is refused by name: connections that need one (TLS, SASL) are not supported yet, and the
/// reference itself must never be sent as if it were the secret.
pub fn client_config(name: &str, cluster: &ClusterSpec, client_id: &str) -> Result<ClientConfig, Failure> {
    if let Some((key, _)) = cluster.properties.iter().find(|(_, value)| value.contains("${")) {
        let message = format!(
            "property {key} refers to a secret, which this version can't resolve: remove it from the cluster's properties"
        );
        return Err(Failure::new("CLUSTER_SETTINGS", message));
    }
    Ok(ClientConfig {
        bootstrap_servers: cluster.bootstrap_servers.clone(),
        client_id: client_id.to_owned(),
        properties: cluster.properties.clone(),
        limits: Limits::default(),
        expected: cluster
            .kafka_cluster_id
            .as_ref()
            .map(|id| ExpectedCluster { kafka_cluster_id: id.as_str().into(), name: name.into() }),
    })
}

/// Creates an internal topic if it is missing: one partition, compacted. One that exists is left as it is.
/// `replication_factor` is what the flow says; `None` is the smaller of 3 and the number of brokers.
pub async fn ensure_internal_topic(
    client: &Client,
    topic: &str,
    replication_factor: Option<i16>,
) -> Result<(), Failure> {
    if topic_exists(client, topic).await? {
        return Ok(());
    }
    let replication_factor = if let Some(factor) = replication_factor {
        factor
    } else {
        let brokers = client.cluster().await?.brokers.len();
        i16::try_from(brokers).unwrap_or(REPLICATION_FACTOR).clamp(1, REPLICATION_FACTOR)
    };
    let new = NewTopic {
        name: topic.into(),
        partitions: 1,
        replication_factor,
        configs: BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
    };
    for created in client.create_topics(vec![new]).await? {
        match created.error {
            ErrorCode::NONE => tracing::info!(topic, replication_factor, "internal topic created"),
            // Another unit was quicker.
            ErrorCode::TOPIC_ALREADY_EXISTS => {}
            error => {
                let why = created.message.as_deref().unwrap_or_default();
                let message = format!("internal topic {topic} can't be created: {error} {why}");
                return Err(Failure::new(code_name(error), message.trim_end()));
            }
        }
    }
    Ok(())
}

/// Does the topic exist on the cluster?
pub async fn topic_exists(client: &Client, topic: &str) -> Result<bool, Failure> {
    let described = client.topics(Some(&[topic])).await?;
    match described.first().map(|found| found.error) {
        Some(ErrorCode::NONE) => Ok(true),
        None | Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => Ok(false),
        Some(error) => {
            Err(Failure::new(code_name(error), format!("topic {topic} can't be described: {error}")))
        }
    }
}
