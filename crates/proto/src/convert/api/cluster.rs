//! Clusters.

use std::net::Ipv6Addr;

use mirrormesh_core::control::ClusterRecord;
use mirrormesh_core::ids::ClusterId;
use mirrormesh_core::unit::ClusterSpec;
use prost_types::FieldMask;

use super::{etag, properties, timestamp};
use crate::error::{Faults, Violations};
use crate::v1;

/// First contact points of one cluster at most.
const SERVERS_MAX: usize = 100;
/// Longest host name (RFC 1035), in characters.
const HOST_CHARS_MAX: usize = 253;
/// Fields that users can't write, which a mask may name without effect (AIP-203), and the etag, which is a condition.
const NOT_WRITTEN: [&str; 4] = ["name", "create_time", "update_time", "etag"];

/// The specification in a cluster, or `None` with its faults added; fields are named `cluster.…`. `name` and output
/// fields are ignored.
pub fn cluster_spec(cluster: &v1::Cluster, faults: &mut Faults) -> Option<ClusterSpec> {
    let mut found = Faults::new();
    check_servers(&cluster.bootstrap_servers, &mut found);
    properties::check(&cluster.properties, "cluster.properties", &mut found);
    faults.keep(found.finish())?;
    Some(ClusterSpec {
        bootstrap_servers: cluster.bootstrap_servers.clone(),
        properties: cluster.properties.clone(),
    })
}

/// The specification after an update (AIP-134): the fields that the mask names, all of them if it names none or `*`.
/// An unknown path is a fault of `update_mask`.
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
    let all = ["*".to_owned()];
    let paths = mask.map(|mask| mask.paths.as_slice()).filter(|paths| !paths.is_empty()).unwrap_or(&all);
    for path in paths {
        match path.as_str() {
            "*" => update.clone_into(&mut merged),
            "bootstrap_servers" => merged.bootstrap_servers.clone_from(&update.bootstrap_servers),
            "properties" => merged.properties.clone_from(&update.properties),
            path if NOT_WRITTEN.contains(&path) => {}
            path => faults.push("update_mask", unknown_path(path, "cluster")),
        }
    }
    let spec = cluster_spec(&merged, &mut faults);
    faults.finish_with(spec)
}

/// What is said about a path that is not known.
pub(super) fn unknown_path(path: &str, of: &str) -> String {
    let shown: String = path.chars().take(128).collect();
    format!("{shown:?} is not a field of a {of} that can be changed")
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
