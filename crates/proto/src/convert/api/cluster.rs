//! Clusters.

use std::net::Ipv6Addr;

use mirrormesh_core::control::ClusterRecord;
use mirrormesh_core::identity::{KAFKA_CLUSTER_ID_BYTES_MAX, is_kafka_cluster_id};
use mirrormesh_core::ids::ClusterId;
use mirrormesh_core::unit::ClusterSpec;
use prost_types::FieldMask;

use super::{etag, mask, properties, timestamp};
use crate::error::{Faults, Violations};
use crate::v1;

/// First contact points of one cluster at most.
const SERVERS_MAX: usize = 100;
/// Longest host name (RFC 1035), in characters.
const HOST_CHARS_MAX: usize = 253;
/// The field that only a mask which names it can change.
const KAFKA_CLUSTER_ID: &str = "kafka_cluster_id";
/// Fields that the mesh sets (AIP-203).
const OUTPUT_ONLY: [&str; 2] = ["create_time", "update_time"];

/// The specification in a cluster, or `None` with its faults added; fields are named `cluster.…`. `name` and output
/// fields are ignored; so is `kafka_cluster_id`, which a worker reports at first contact.
pub fn cluster_spec(cluster: &v1::Cluster, faults: &mut Faults) -> Option<ClusterSpec> {
    let mut found = Faults::new();
    check_servers(&cluster.bootstrap_servers, &mut found);
    properties::check(&cluster.properties, "cluster.properties", &mut found);
    faults.keep(found.finish())?;
    Some(ClusterSpec {
        bootstrap_servers: cluster.bootstrap_servers.clone(),
        properties: cluster.properties.clone(),
        kafka_cluster_id: None,
    })
}

/// The specification after an update (AIP-134): the mask names the fields that change, `*` all of them. Without a mask
/// the fields that the update fills change. Paths that can't be used are faults of `update_mask`.
pub fn apply_cluster_mask(
    present: &ClusterSpec,
    update: &v1::Cluster,
    mask: Option<&FieldMask>,
) -> Result<ClusterSpec, Violations> {
    let mut faults = Faults::new();
    let mut merged = v1::Cluster {
        bootstrap_servers: present.bootstrap_servers.clone(),
        properties: present.properties.clone(),
        ..v1::Cluster::default()
    };
    let mut kafka_cluster_id = present.kafka_cluster_id.clone();
    let filled = filled(update);
    for path in mask::named(mask).unwrap_or(&filled) {
        match mask::snake_case(path).as_str() {
            "*" => update.clone_into(&mut merged),
            "bootstrap_servers" => merged.bootstrap_servers.clone_from(&update.bootstrap_servers),
            "properties" => merged.properties.clone_from(&update.properties),
            // Never by accident: only a mask that names it.
            KAFKA_CLUSTER_ID => kafka_cluster_id = accepted(&update.kafka_cluster_id, &mut faults),
            snake if mask::is_address(snake) => {}
            _ => faults.push("update_mask", mask::refusal(path, "cluster", &OUTPUT_ONLY)),
        }
    }
    let spec = cluster_spec(&merged, &mut faults).map(|spec| ClusterSpec { kafka_cluster_id, ..spec });
    faults.finish_with(spec)
}

/// The id that a user accepts; none is taken from the next contact.
fn accepted(id: &str, faults: &mut Faults) -> Option<String> {
    if id.is_empty() {
        return None;
    }
    if !is_kafka_cluster_id(id) {
        let shown: String = id.chars().take(KAFKA_CLUSTER_ID_BYTES_MAX).collect();
        faults.push(
            "cluster.kafka_cluster_id",
            format!(
                "{shown:?} is no cluster id of Kafka: give the one that the condition CLUSTER_CHANGED names, or an empty \
                 text to take the id of the next contact"
            ),
        );
    }
    Some(id.to_owned())
}

/// Paths of the fields that an update fills.
fn filled(update: &v1::Cluster) -> Vec<String> {
    let servers = (!update.bootstrap_servers.is_empty()).then_some("bootstrap_servers");
    let properties = (!update.properties.is_empty()).then_some("properties");
    servers.into_iter().chain(properties).map(str::to_owned).collect()
}

/// A cluster as users see it.
pub fn cluster_to_api(id: &ClusterId, record: &ClusterRecord) -> v1::Cluster {
    v1::Cluster {
        name: format!("clusters/{id}"),
        bootstrap_servers: record.spec.bootstrap_servers.clone(),
        properties: record.spec.properties.clone(),
        create_time: Some(timestamp(record.created_ms)),
        update_time: Some(timestamp(record.updated_ms)),
        etag: etag(record.revision),
        kafka_cluster_id: record.spec.kafka_cluster_id.clone().unwrap_or_default(),
    }
}

fn check_servers(servers: &[String], faults: &mut Faults) {
    const FIELD: &str = "cluster.bootstrap_servers";
    if servers.is_empty() {
        faults.push(FIELD, "is empty: give at least one `host:port`");
    }
    if servers.len() > SERVERS_MAX {
        faults.push(FIELD, format!("holds {} servers, at most {SERVERS_MAX} are allowed", servers.len()));
        return;
    }
    for (index, server) in servers.iter().enumerate() {
        if !is_host_and_port(server) {
            let shown: String = server.chars().take(HOST_CHARS_MAX).collect();
            faults.push(
                format!("{FIELD}[{index}]"),
                format!(
                    "{shown:?} is not `host:port` with a port from 1 to 65535 (IPv6 addresses in brackets)"
                ),
            );
        }
    }
}

fn is_host_and_port(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else { return false };
    let port_right =
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let host_right = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.len() <= HOST_CHARS_MAX
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    port_right && host_right
}
