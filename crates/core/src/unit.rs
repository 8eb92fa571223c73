//! Units: what is assigned to workers.
//!
//! Owns their identity and who may run them; knows nothing about how they run.

use std::fmt;

use crate::flow::FlowSpec;
use crate::ids::{ClusterId, FlowId, GroupId, TopicId, TopicName, WorkerId};
use crate::throttle::Share;
use std::collections::{BTreeMap, BTreeSet};

/// What a worker process can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Topology and partition units.
    Source,
    /// Groups and group units.
    Checkpoint,
    /// Heartbeat units.
    Heartbeat,
}

/// Something that is assigned to one worker at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Finds topics and keeps target topics in step.
    Topology(FlowId),
    /// Finds groups.
    Groups(FlowId),
    /// Writes heartbeats.
    Heartbeat(FlowId),
    /// Translates one group.
    Group(FlowId, GroupId),
    /// Copies one source partition.
    Partition(FlowId, TopicName, i32),
}

impl Unit {
    /// The flow it belongs to.
    pub fn flow(&self) -> &FlowId {
        match self {
            Self::Topology(flow)
            | Self::Groups(flow)
            | Self::Heartbeat(flow)
            | Self::Group(flow, _)
            | Self::Partition(flow, _, _) => flow,
        }
    }

    /// Who may run it.
    pub fn role(&self) -> Role {
        match self {
            Self::Topology(_) | Self::Partition(..) => Role::Source,
            Self::Groups(_) | Self::Group(..) => Role::Checkpoint,
            Self::Heartbeat(_) => Role::Heartbeat,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topology(flow) => write!(f, "topology({flow})"),
            Self::Groups(flow) => write!(f, "groups({flow})"),
            Self::Heartbeat(flow) => write!(f, "heartbeat({flow})"),
            Self::Group(flow, group) => write!(f, "group({flow}, {group})"),
            Self::Partition(flow, topic, partition) => write!(f, "partition({flow}, {topic}/{partition})"),
        }
    }
}

/// A flow's producer identity on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation {
    /// Producer id.
    pub producer_id: i64,
    /// Producer epoch.
    pub epoch: i16,
}

impl Generation {
    /// The target gave out the producer id. Earlier versions stored negative numbers for targets that give out none:
    /// batches under those can't be mirrored exactly once.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// No epoch of the same producer follows this one.
    pub fn is_last(&self) -> bool {
        self.epoch == i16::MAX
    }
}

/// How to reach a Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterSpec {
    /// First contact points, `host:port`.
    pub bootstrap_servers: Vec<String>,
    /// Further settings under Kafka's property names; secrets by reference only.
    pub properties: BTreeMap<String, String>,
    /// Kafka's id of the cluster, as it was at first contact. `None` until a worker has reported it.
    pub kafka_cluster_id: Option<String>,
}

/// Where a generation of a partition begins, and under which rules. Decided once, by the Raft log, so that every worker
/// counts alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionStart {
    /// First source offset to copy.
    pub source_offset: i64,
    /// End of the target partition at that time.
    pub target_offset: i64,
    /// Aborted and open transactional records count too. What counts can't change within a generation: a flow that
    /// reads otherwise now begins a new one, from the place that was found under these rules.
    pub read_uncommitted: bool,
    /// What any flow mirrored to the source is left out; otherwise only what came from the target.
    pub skip_mirrored: bool,
    /// Another mesh began this generation: its place is found under it, and then a new one begins, before anything is
    /// appended for longer than a hand-over takes. The highest number that an assignment had there, as far as is known:
    /// what is written from now on has higher ones.
    pub adopted: Option<u64>,
    /// Leader epoch that reached to the place on the source, if it is known: that the source lost its end since, and has
    /// other records before the place, is seen by it.
    pub source_leader_epoch: Option<i32>,
    /// Markers may stand behind this start: an earlier version wrote one before each batch (`records.strict_delivery`).
    /// Markers take offsets, so here target offsets don't count records.
    pub marked: bool,
}

/// A generation of one partition: what [`crate::control::CommandKind::BeginGeneration`] gave out, or the flow's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionGeneration {
    /// The producer identity.
    pub generation: Generation,
    /// Where it begins.
    pub start: PartitionStart,
}

/// What a partition unit needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDetail {
    /// Topic on the target.
    pub target_topic: TopicName,
    /// Topic id on the source.
    pub source_topic_id: TopicId,
    /// Topic id on the target.
    pub target_topic_id: TopicId,
    /// The present generation of the partition.
    pub begun: PartitionGeneration,
}

/// One unit as a worker gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedUnit {
    /// Number of the assignment; a later one of the same unit has a higher number.
    pub number: u64,
    /// For partition units only.
    pub partition: Option<PartitionDetail>,
}

/// One flow as a worker gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedFlow {
    /// What to copy and how.
    pub spec: FlowSpec,
    /// The producer identity; absent until one was claimed.
    pub generation: Option<Generation>,
    /// What tells this mesh from others; empty until it was fixed.
    pub mesh_id: String,
    /// Ids of all clusters of the mesh: they tell heartbeat topics from others.
    pub clusters: BTreeSet<ClusterId>,
    /// The worker's part of the flow's throttles.
    pub shares: ThrottleShares,
}

/// A worker's part of a flow's throttles: by what its partitions need. Where there is no throttle, nothing is said, so
/// that what others get does not concern it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ThrottleShares {
    /// Of the flow's.
    pub flow: Share,
    /// Of those of single topics.
    pub topics: BTreeMap<TopicName, Share>,
}

/// A worker's whole desired set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerAssignment {
    /// Revision of the state that it was made from.
    pub revision: u64,
    /// Clusters that the flows name.
    pub clusters: BTreeMap<ClusterId, ClusterSpec>,
    /// Flows that the units belong to.
    pub flows: BTreeMap<FlowId, AssignedFlow>,
    /// Units to run, all of them.
    pub units: BTreeMap<Unit, AssignedUnit>,
    /// The trace that each flow's last change belongs to, as W3C `traceparent`: soft state that nothing is decided by.
    pub traces: BTreeMap<FlowId, String>,
}

/// A worker with what the mesh knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// What it can run.
    pub role: Role,
    /// How many units it takes.
    pub capacity: u32,
    /// Its version.
    pub version: String,
    /// Its present session.
    pub session: u64,
    /// It gives its units away and gets none.
    pub draining: bool,
    /// Registered, ms since 1970.
    pub registered_ms: u64,
}

/// Who runs a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The worker.
    pub worker: WorkerId,
    /// Number of the assignment.
    pub number: u64,
    /// The worker was asked to let go.
    pub releasing: bool,
}
