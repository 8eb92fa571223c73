//! The `server.properties` of a node.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::jars::KafkaVersion;

use super::node::Node;
use super::spec::ClusterSpec;

/// Properties by name.
pub(super) type Properties = BTreeMap<String, String>;

/// All properties of one node: ours, overridden by the spec's.
pub(super) fn server(
    spec: &ClusterSpec,
    nodes: &[Node],
    index: usize,
    directory: &Path,
) -> Result<Properties> {
    let node = nodes.get(index).with_context(|| format!("there is no node {index}"))?;
    let voters: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(other, node)| format!("{}@{}", other + 1, node.controller_address()))
        .collect();
    let mut properties = common(spec.version, nodes.len());
    let mut set = |name: &str, value: String| properties.insert(name.to_owned(), value);
    set("node.id", (index + 1).to_string());
    set("log.dirs", directory.join("data").display().to_string());
    set("controller.quorum.voters", voters.join(","));
    let mut listeners = vec![
        format!("DIRECT://{}", node.direct_address()),
        format!("CONTROLLER://{}", node.controller_address()),
    ];
    let mut advertised = vec![format!("DIRECT://{}", node.direct_address())];
    if let Some((behind, proxy)) = node.proxied_addresses() {
        listeners.push(format!("PROXIED://{behind}"));
        advertised.push(format!("PROXIED://{proxy}"));
    }
    set("listeners", listeners.join(","));
    set("advertised.listeners", advertised.join(","));
    set("inter.broker.listener.name", "DIRECT".to_owned());
    set("controller.listener.names", "CONTROLLER".to_owned());
    set(
        "listener.security.protocol.map",
        "DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
    );
    properties.extend(spec.properties.clone());
    Ok(properties)
}

/// What does not depend on the node.
fn common(version: KafkaVersion, brokers: usize) -> Properties {
    let replicas = brokers.min(3).to_string();
    let in_sync = if brokers >= 3 { "2" } else { "1" };
    // A killed broker may come back only when its old session is over. A lone one has nobody to be mistaken by.
    let (session_ms, heartbeat_ms) = if brokers >= 3 { ("6000", "1000") } else { ("3000", "500") };
    let mut pairs = vec![
        ("process.roles", "broker,controller"),
        ("auto.create.topics.enable", "false"),
        ("log.retention.ms", "-1"),
        ("offsets.topic.num.partitions", "4"),
        ("offsets.topic.replication.factor", &replicas),
        ("transaction.state.log.num.partitions", "4"),
        ("transaction.state.log.replication.factor", &replicas),
        ("transaction.state.log.min.isr", in_sync),
        ("group.initial.rebalance.delay.ms", "0"),
        ("broker.session.timeout.ms", session_ms),
        ("broker.heartbeat.interval.ms", heartbeat_ms),
        // The default takes 128 MiB of heap for a cleaner that has little to clean.
        ("log.cleaner.dedupe.buffer.size", "16777216"),
        ("num.network.threads", "2"),
        ("num.io.threads", "4"),
    ];
    if version == KafkaVersion::V4_3 {
        pairs.extend([
            ("share.coordinator.state.topic.num.partitions", "4"),
            ("share.coordinator.state.topic.replication.factor", &replicas),
            ("share.coordinator.state.topic.min.isr", in_sync),
        ]);
    }
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The text of a properties file.
pub(super) fn render(properties: &Properties) -> String {
    let lines: Vec<_> =
        properties.iter().map(|(name, value)| format!("{name}={}\n", value.replace('\\', "\\\\"))).collect();
    lines.concat()
}
