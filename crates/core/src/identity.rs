//! Which Kafka cluster is meant: the id that a cluster had at first contact, and what differs from it.
//!
//! Owns the names and texts of what is wrong with a cluster's identity. The id is Kafka's own (`cluster.id`); the mesh
//! keeps it in the replicated state and every connection is compared with it (`mirrormesh-kafka`).

use crate::ids::ClusterId;
use crate::unit::ClusterSpec;

/// Both clusters of a flow are one Kafka cluster.
pub const SOURCE_IS_TARGET: &str = "SOURCE_IS_TARGET";
/// A cluster has another id than at first contact.
pub const CLUSTER_CHANGED: &str = "CLUSTER_CHANGED";
/// Longest id that is taken, in bytes. Kafka's own have 22.
pub const KAFKA_CLUSTER_ID_BYTES_MAX: usize = 255;

/// Whether an id can be one of Kafka's: some characters, none of them a blank or control character.
pub fn is_kafka_cluster_id(id: &str) -> bool {
    (1..=KAFKA_CLUSTER_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What is known of the two clusters of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sides {
    /// The mesh does not know the id of one of them yet: nothing may be written.
    Unknown,
    /// They are two clusters.
    Distinct,
    /// They are one cluster: what is wrong and what to do.
    Same(String),
}

/// Compares the two clusters of a flow by the ids that the mesh knows.
pub fn compare(source: (&ClusterId, &ClusterSpec), target: (&ClusterId, &ClusterSpec)) -> Sides {
    match (&source.1.kafka_cluster_id, &target.1.kafka_cluster_id) {
        (Some(one), Some(other)) if one == other => Sides::Same(format!(
            "clusters/{} and clusters/{} are one Kafka cluster (its id is {one}): nothing is mirrored, since every record \
             would come back; give one of them the bootstrap_servers of another cluster, and set its kafka_cluster_id to \
             an empty text with UpdateCluster, or delete the flow",
            source.0, target.0
        )),
        (Some(_), Some(_)) => Sides::Distinct,
        _ => Sides::Unknown,
    }
}

/// What is wrong when a broker of another cluster answers, with the command that accepts that one. `cluster` is what the
/// mesh calls the expected one, for instance `clusters/uk`.
pub fn changed(cluster: &str, expected: &str, found: &str) -> String {
    format!(
        "{cluster} is another Kafka cluster now: its id is {found}, it was {expected}. Nothing is read from it or written \
         to it. Let bootstrap_servers name the old one, or accept the new one: grpcurl -plaintext -d \
         '{{\"cluster\":{{\"name\":\"{cluster}\",\"kafka_cluster_id\":\"{found}\"}},\
         \"update_mask\":{{\"paths\":[\"kafka_cluster_id\"]}}}}' localhost:7400 \
         mirrormesh.v1.ClusterService/UpdateCluster"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn compared(source: Option<&str>, target: Option<&str>) -> Sides {
        let (uk, hq) = (ClusterId::new("uk").unwrap(), ClusterId::new("hq").unwrap());
        let spec = |id: Option<&str>| ClusterSpec {
            bootstrap_servers: Vec::new(),
            properties: BTreeMap::new(),
            kafka_cluster_id: id.map(str::to_owned),
        };
        compare((&uk, &spec(source)), (&hq, &spec(target)))
    }

    #[test]
    fn one_cluster_under_two_names_is_seen() {
        assert_eq!(compared(Some("a"), Some("b")), Sides::Distinct);
        for unknown in [compared(None, Some("a")), compared(Some("a"), None), compared(None, None)] {
            assert_eq!(unknown, Sides::Unknown, "two unknown ids are not equal ids");
        }
        let Sides::Same(message) = compared(Some("4L6g3nShT-eM"), Some("4L6g3nShT-eM")) else { panic!() };
        for part in ["clusters/uk", "clusters/hq", "4L6g3nShT-eM", "UpdateCluster"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn command_in_the_message_can_be_pasted() {
        let message = changed("clusters/uk", "old-id", "new-id");
        let command = r#"grpcurl -plaintext -d '{"cluster":{"name":"clusters/uk","kafka_cluster_id":"new-id"},"update_mask":{"paths":["kafka_cluster_id"]}}' localhost:7400 mirrormesh.v1.ClusterService/UpdateCluster"#;
        assert!(message.ends_with(command), "{message}");
        assert!(message.contains("it was old-id"), "{message}");
        // Reports keep 500 characters.
        let kafka_id = "MkU3OEVBNTcwNTJENDM2Qk";
        assert!(changed("clusters/production-eu-west-1", kafka_id, kafka_id).len() <= 500);
    }

    #[test]
    fn ids_are_printable() {
        assert!(is_kafka_cluster_id("MkU3OEVBNTcwNTJENDM2Qk") && is_kafka_cluster_id("my.cluster"));
        for bad in ["", "a b", "a\n", "é", &"x".repeat(256)] {
            assert!(!is_kafka_cluster_id(bad), "{bad:?}");
        }
    }
}
