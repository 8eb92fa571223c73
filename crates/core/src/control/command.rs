//! Commands: every change of the replicated state, and what it answers.

use std::fmt;

use super::error::Reject;
use super::state::{ClusterRecord, FlowRecord, SeenTopic, TopicEntry};
use crate::flow::FlowSpec;
use crate::ids::{ClusterId, FlowId, GroupId, TopicName, WorkerId};
use crate::plan::PlanStep;
use crate::report::Event;
use crate::unit::{ClusterSpec, Generation, PartitionGeneration, PartitionStart, Role, Unit};

/// How a write by a user is guarded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteGuard {
    /// Makes a repeat return without a second effect (AIP-155); empty for none.
    pub request_id: String,
    /// Hash of what the request was: the same id for something else is refused.
    pub fingerprint: u64,
    /// The resource's revision must be this (AIP-154); `None` is any.
    pub expected_revision: Option<u64>,
}

/// A command with the leader's clock, the only time that `apply` knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Proposed at, ms since 1970.
    pub at_ms: u64,
    /// Which change.
    pub kind: CommandKind,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.name())
    }
}

/// What a topology or groups unit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InventoryChange {
    /// New or grown topics.
    pub topics: Vec<TopicEntry>,
    /// Source topics that are not to be mirrored any more.
    pub removed_topics: Vec<TopicName>,
    /// New groups.
    pub groups: Vec<GroupId>,
    /// Groups that are gone.
    pub removed_groups: Vec<GroupId>,
    /// Source topics that are there, of a flow that does not begin at the earliest records.
    pub seen: Vec<SeenTopic>,
    /// With these, everything that is there was reported.
    pub seen_all: bool,
}

/// Every change there is.
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time is on its way; a flow's specification is the largest"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandKind {
    /// Creates (`create`) or changes a cluster.
    PutCluster {
        /// Its id.
        id: ClusterId,
        /// Its new values.
        spec: ClusterSpec,
        /// It must not exist; otherwise it must.
        create: bool,
        /// How the write is guarded.
        guard: WriteGuard,
    },
    /// Reports Kafka's id of a cluster; the first one stays until a user changes it.
    ReportCluster {
        /// The cluster's id in the mesh.
        id: ClusterId,
        /// Kafka's id of it.
        kafka_cluster_id: String,
    },
    /// Deletes a cluster that no flow uses.
    DeleteCluster {
        /// Its id.
        id: ClusterId,
        /// How the write is guarded.
        guard: WriteGuard,
    },
    /// Creates (`create`) or changes a flow.
    PutFlow {
        /// Its id.
        id: FlowId,
        /// Its new values.
        spec: FlowSpec,
        /// It must not exist; otherwise it must.
        create: bool,
        /// Forget where a deleted flow of the same id was.
        start_over: bool,
        /// How the write is guarded.
        guard: WriteGuard,
    },
    /// Deletes a flow; what is needed to go on later is kept.
    DeleteFlow {
        /// Its id.
        id: FlowId,
        /// How the write is guarded.
        guard: WriteGuard,
    },
    /// Pauses or resumes a flow.
    SetPaused {
        /// Its id.
        id: FlowId,
        /// Pause, otherwise resume.
        paused: bool,
        /// How the write is guarded.
        guard: WriteGuard,
    },
    /// Pauses or resumes a topic of a flow, in whole or in part.
    SetTopicPaused {
        /// The flow.
        id: FlowId,
        /// The source topic.
        topic: TopicName,
        /// These partitions; none means the whole topic.
        partitions: Vec<i32>,
        /// Pause, otherwise resume.
        paused: bool,
        /// How the write is guarded.
        guard: WriteGuard,
    },
    /// Offers a producer id; the first one wins.
    ClaimProducer {
        /// The flow.
        flow: FlowId,
        /// What the target gave out.
        generation: Generation,
    },
    /// Gives the mesh its id; the first one stays.
    NameMesh {
        /// A random id.
        mesh_id: String,
    },
    /// Begins a new generation of one partition: content before it and behind it is counted apart. The next epoch, or
    /// the offered producer id where epochs have run out.
    BeginGeneration(GenerationRequest),
    /// Changes a flow's inventory.
    PutInventory {
        /// The flow.
        flow: FlowId,
        /// Assignment number of the reporting unit; refused if it is not the present one.
        number: u64,
        /// What was found.
        change: InventoryChange,
    },
    /// A worker opens a session; an earlier one of the same worker ends, its units stay.
    RegisterWorker {
        /// The worker.
        worker: WorkerId,
        /// What it can run.
        role: Role,
        /// How many units it takes.
        capacity: u32,
        /// Its version.
        version: String,
    },
    /// A worker's lease is over: its units become free.
    ExpireWorker {
        /// The worker.
        worker: WorkerId,
        /// The session that ended; another one is left alone.
        session: u64,
    },
    /// A worker is to give its units away.
    DrainWorker {
        /// The worker.
        worker: WorkerId,
    },
    /// Carries out a plan; steps that no longer fit are left out.
    ApplyPlan {
        /// The steps.
        steps: Vec<PlanStep>,
    },
    /// A worker let units go.
    ReleaseUnits {
        /// The worker.
        worker: WorkerId,
        /// The units with the numbers of the assignments that ended.
        units: Vec<(Unit, u64)>,
    },
    /// Keeps events.
    RecordEvents {
        /// The events, oldest first.
        events: Vec<Event>,
    },
}

impl CommandKind {
    /// Stable name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PutCluster { .. } => "PutCluster",
            Self::ReportCluster { .. } => "ReportCluster",
            Self::DeleteCluster { .. } => "DeleteCluster",
            Self::PutFlow { .. } => "PutFlow",
            Self::DeleteFlow { .. } => "DeleteFlow",
            Self::SetPaused { .. } => "SetPaused",
            Self::SetTopicPaused { .. } => "SetTopicPaused",
            Self::ClaimProducer { .. } => "ClaimProducer",
            Self::NameMesh { .. } => "NameMesh",
            Self::BeginGeneration(_) => "BeginGeneration",
            Self::PutInventory { .. } => "PutInventory",
            Self::RegisterWorker { .. } => "RegisterWorker",
            Self::ExpireWorker { .. } => "ExpireWorker",
            Self::DrainWorker { .. } => "DrainWorker",
            Self::ApplyPlan { .. } => "ApplyPlan",
            Self::ReleaseUnits { .. } => "ReleaseUnits",
            Self::RecordEvents { .. } => "RecordEvents",
        }
    }
}

/// What a command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Carried out, nothing to say.
    Done,
    /// The cluster as it is now.
    Cluster(ClusterId, Box<ClusterRecord>),
    /// The flow as it is now.
    Flow(FlowId, Box<FlowRecord>),
    /// The identity that the flow uses.
    Generation(Generation),
    /// The present generation of the partition.
    PartitionGeneration(PartitionGeneration),
    /// Topics that were not taken: topic, stable reason, message.
    Inventory(Vec<(TopicName, &'static str, String)>),
    /// Number of the new session.
    Session(u64),
    /// Refused; nothing changed.
    Rejected(Reject),
}

/// What the owner of a partition asks for when content before a place and behind it is to be counted apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRequest {
    /// The flow.
    pub flow: FlowId,
    /// The source topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// Assignment number of the reporting unit; refused if it is not the present one.
    pub number: u64,
    /// The generation that ends. If the present one is its successor and begins at the same place, this is a repeat
    /// and answered as such; otherwise another one than the present is refused.
    pub after: Generation,
    /// A fresh producer id, needed when the epoch of `after` is the last one.
    pub offered: Option<i64>,
    /// Where the new one begins.
    pub start: PartitionStart,
    /// What happened: kept in the same step, so that nothing is skipped without its event.
    pub events: Vec<Event>,
}

impl GenerationRequest {
    /// The partition's unit.
    pub fn unit(&self) -> Unit {
        Unit::Partition(self.flow.clone(), self.topic.clone(), self.partition)
    }
}
