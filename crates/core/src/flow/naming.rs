//! Replication policies: how topics are named, and what a name tells.
//!
//! The rules are MirrorMaker 2's (`ReplicationPolicy`, `MirrorSourceConnector`).

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::ClusterId;

/// How topics are named on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// `{source}{separator}{topic}` (`DefaultReplicationPolicy`).
    Prefix {
        /// Between alias and topic.
        separator: String,
    },
    /// The same name (`IdentityReplicationPolicy`); heartbeat topics get the prefix all the same.
    Identity,
    /// By a map; unnamed topics keep their names.
    Rename(BTreeMap<String, String>),
}

const HEARTBEATS: &str = "heartbeats";

impl Naming {
    pub(crate) fn separator(&self) -> &str {
        match self {
            Self::Prefix { separator } => separator,
            Self::Identity | Self::Rename(_) => ".",
        }
    }

    /// Alias in front of a remote topic's name, and the rest; `None` for a local topic, and where names don't say where a
    /// topic came from.
    pub(super) fn split<'a>(&self, topic: &'a str) -> Option<(&'a str, &'a str)> {
        match self {
            Self::Prefix { separator } => {
                topic.split_once(separator.as_str()).filter(|(_, rest)| !rest.is_empty())
            }
            Self::Identity | Self::Rename(_) => None,
        }
    }
}

/// Never copied (`isInternalTopic`): Kafka's own, MirrorMaker 2's and ours.
pub fn is_internal_topic(topic: &str, separator: &str) -> bool {
    topic.starts_with("__")
        || topic.starts_with('.')
        || topic.ends_with("-internal")
        || topic.ends_with(".internal")
        || topic.ends_with(&format!("{separator}internal"))
}

/// The topic holds heartbeats of some cluster (`isHeartbeatsTopic`): its name is `heartbeats`, with nothing before it but
/// ids of these clusters. Any other name that ends so is an ordinary topic's, unlike in MirrorMaker 2.
pub(crate) fn is_heartbeats(clusters: &BTreeSet<ClusterId>, separator: &str, topic: &str) -> bool {
    let mut rest = topic;
    while let Some((_, upstream)) = heartbeat_hop(clusters, separator, rest) {
        rest = upstream;
    }
    rest == HEARTBEATS
}

/// The id of a cluster in front of a name, and the rest. The longest id counts: one may begin with another.
pub(super) fn heartbeat_hop<'c, 'a>(
    clusters: &'c BTreeSet<ClusterId>,
    separator: &str,
    topic: &'a str,
) -> Option<(&'c ClusterId, &'a str)> {
    let rest = |id: &ClusterId| topic.strip_prefix(id.as_str())?.strip_prefix(separator);
    clusters.iter().rev().find_map(|id| Some((id, rest(id)?)))
}
