//! Partitions that nobody runs since they are paused, as the coordinator and the workers speak of them.

use crate::ids::{FlowId, TopicName};
use crate::report::PartitionFigures;
use crate::unit::{ClusterSpec, PartitionDetail};

/// Paused partitions of a flow, with all that is needed to look how far behind they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PausedSet {
    /// The flow.
    pub flow: FlowId,
    /// The cluster to copy from.
    pub source: ClusterSpec,
    /// The cluster to copy to.
    pub target: ClusterSpec,
    /// Topic on the target that holds the flow's positions.
    pub positions_topic: String,
    /// Revision of the flow: while it stays, nobody ran the partitions, so their places stay too.
    pub revision: u64,
    /// Source topic, partition, and what was found out about it.
    pub partitions: Vec<(TopicName, i32, PartitionDetail)>,
}

/// Figures of paused partitions, by source topic and partition.
pub type PausedFigures = Vec<(TopicName, i32, PartitionFigures)>;
