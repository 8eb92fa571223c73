//! What workers and coordinators say to each other, as domain values.
//!
//! Owns the meaning of each message of `WorkerSessionService`, as far as it needs one; the order of calls is the
//! business of both ends. A message that does not convert comes from a faulty or much newer peer: the first fault is
//! enough.

mod assignment;
mod preview;
mod progress;
mod questions;

use mirrormesh_core::control::{GenerationRequest, InventoryChange};
use mirrormesh_core::ids::{ClusterId, FlowId, TopicName, WorkerId};
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::{Generation, PartitionGeneration, Role};

pub use self::preview::{preview_answer, preview_page};
pub use self::progress::ProgressReport;
pub use self::questions::{Question, paused_answer, paused_figures};
use super::parts::{each, id, ids, inner, role, texts};
use crate::error::ConvertError;
use crate::{mesh, store};

/// Longest version text that is taken, in bytes: it goes into the Raft log.
const VERSION_BYTES_MAX: usize = 128;

/// A worker in one of its sessions: who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Speaker {
    /// The worker.
    pub worker: WorkerId,
    /// Its session.
    pub session: u64,
}

impl Speaker {
    pub(super) fn new(worker_id: &str, session: u64) -> Result<Self, ConvertError> {
        Ok(Self { worker: id(worker_id, "worker_id")?, session })
    }
}

impl TryFrom<&mesh::ServeQueriesRequest> for Speaker {
    type Error = ConvertError;

    fn try_from(answer: &mesh::ServeQueriesRequest) -> Result<Self, ConvertError> {
        Self::new(&answer.worker_id, answer.session)
    }
}

impl From<&Speaker> for mesh::WatchAssignmentsRequest {
    fn from(speaker: &Speaker) -> Self {
        Self { worker_id: speaker.worker.to_string(), session: speaker.session }
    }
}

impl TryFrom<mesh::WatchAssignmentsRequest> for Speaker {
    type Error = ConvertError;

    fn try_from(request: mesh::WatchAssignmentsRequest) -> Result<Self, ConvertError> {
        Self::new(&request.worker_id, request.session)
    }
}

/// A worker that makes itself known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The worker.
    pub worker: WorkerId,
    /// What it can run.
    pub role: Role,
    /// How many units it takes at most; more than `i32::MAX` is sent as that.
    pub capacity: u32,
    /// Its version, at most 128 bytes.
    pub version: String,
}

impl From<&Registration> for mesh::RegisterRequest {
    fn from(registration: &Registration) -> Self {
        Self {
            worker_id: registration.worker.to_string(),
            role: store::Role::from(registration.role).into(),
            capacity: i32::try_from(registration.capacity).unwrap_or(i32::MAX),
            version: registration.version.clone(),
        }
    }
}

impl TryFrom<mesh::RegisterRequest> for Registration {
    type Error = ConvertError;

    fn try_from(request: mesh::RegisterRequest) -> Result<Self, ConvertError> {
        if request.version.len() > VERSION_BYTES_MAX {
            let problem = format!("must have at most {VERSION_BYTES_MAX} bytes");
            return Err(ConvertError::new("version", problem));
        }
        Ok(Self {
            worker: id(&request.worker_id, "worker_id")?,
            role: role(request.role, "role")?,
            capacity: u32::try_from(request.capacity).map_err(|_| {
                ConvertError::new("capacity", format!("{} is not a number of units", request.capacity))
            })?,
            version: request.version,
        })
    }
}

/// A producer identity that a worker offers for a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerClaim {
    /// Who offers it.
    pub speaker: Speaker,
    /// The flow.
    pub flow: FlowId,
    /// What the target gave out.
    pub generation: Generation,
}

impl From<&ProducerClaim> for mesh::ClaimProducerRequest {
    fn from(claim: &ProducerClaim) -> Self {
        Self {
            worker_id: claim.speaker.worker.to_string(),
            session: claim.speaker.session,
            flow_id: claim.flow.to_string(),
            generation: Some((&claim.generation).into()),
        }
    }
}

impl TryFrom<mesh::ClaimProducerRequest> for ProducerClaim {
    type Error = ConvertError;

    fn try_from(request: mesh::ClaimProducerRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            speaker: Speaker::new(&request.worker_id, request.session)?,
            flow: id(&request.flow_id, "flow_id")?,
            generation: inner(request.generation, "generation")?,
        })
    }
}

impl From<&Generation> for mesh::ClaimProducerResponse {
    fn from(generation: &Generation) -> Self {
        Self { generation: Some(generation.into()) }
    }
}

impl TryFrom<mesh::ClaimProducerResponse> for Generation {
    type Error = ConvertError;

    fn try_from(response: mesh::ClaimProducerResponse) -> Result<Self, ConvertError> {
        inner(response.generation, "generation")
    }
}

/// Kafka's id of a cluster, as a worker found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterReport {
    /// Who found it.
    pub speaker: Speaker,
    /// The cluster's id in the mesh.
    pub cluster: ClusterId,
    /// Kafka's id of it.
    pub kafka_cluster_id: String,
}

impl From<&ClusterReport> for mesh::ReportClusterRequest {
    fn from(report: &ClusterReport) -> Self {
        Self {
            worker_id: report.speaker.worker.to_string(),
            session: report.speaker.session,
            cluster_id: report.cluster.to_string(),
            kafka_cluster_id: report.kafka_cluster_id.clone(),
        }
    }
}

impl TryFrom<mesh::ReportClusterRequest> for ClusterReport {
    type Error = ConvertError;

    fn try_from(request: mesh::ReportClusterRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            speaker: Speaker::new(&request.worker_id, request.session)?,
            cluster: id(&request.cluster_id, "cluster_id")?,
            kafka_cluster_id: request.kafka_cluster_id,
        })
    }
}

/// A new generation of a partition that a worker asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationBegin {
    /// Who asks.
    pub speaker: Speaker,
    /// What is asked for.
    pub request: GenerationRequest,
}

impl From<&GenerationBegin> for mesh::BeginGenerationRequest {
    fn from(begin: &GenerationBegin) -> Self {
        Self {
            worker_id: begin.speaker.worker.to_string(),
            session: begin.speaker.session,
            begin: Some((&begin.request).into()),
        }
    }
}

impl TryFrom<mesh::BeginGenerationRequest> for GenerationBegin {
    type Error = ConvertError;

    fn try_from(request: mesh::BeginGenerationRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            speaker: Speaker::new(&request.worker_id, request.session)?,
            request: inner(request.begin, "begin")?,
        })
    }
}

impl From<&PartitionGeneration> for mesh::BeginGenerationResponse {
    fn from(begun: &PartitionGeneration) -> Self {
        Self { begun: Some(begun.into()) }
    }
}

impl TryFrom<mesh::BeginGenerationResponse> for PartitionGeneration {
    type Error = ConvertError;

    fn try_from(response: mesh::BeginGenerationResponse) -> Result<Self, ConvertError> {
        inner(response.begun, "begun")
    }
}

/// What a topology or groups unit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryReport {
    /// Who found it.
    pub speaker: Speaker,
    /// The flow.
    pub flow: FlowId,
    /// Number of the assignment of the unit that reports.
    pub number: u64,
    /// What was found.
    pub change: InventoryChange,
}

impl From<&InventoryReport> for mesh::ReportInventoryRequest {
    fn from(report: &InventoryReport) -> Self {
        Self {
            worker_id: report.speaker.worker.to_string(),
            session: report.speaker.session,
            flow_id: report.flow.to_string(),
            number: report.number,
            topics: report.change.topics.iter().map(Into::into).collect(),
            removed_topics: texts(&report.change.removed_topics),
            groups: texts(&report.change.groups),
            removed_groups: texts(&report.change.removed_groups),
            seen: report.change.seen.iter().map(Into::into).collect(),
            seen_all: report.change.seen_all,
        }
    }
}

impl TryFrom<mesh::ReportInventoryRequest> for InventoryReport {
    type Error = ConvertError;

    fn try_from(request: mesh::ReportInventoryRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            speaker: Speaker::new(&request.worker_id, request.session)?,
            flow: id(&request.flow_id, "flow_id")?,
            number: request.number,
            change: InventoryChange {
                topics: each(request.topics, "topics", TryInto::try_into)?,
                removed_topics: ids(request.removed_topics, "removed_topics")?,
                groups: ids(request.groups, "groups")?,
                removed_groups: ids(request.removed_groups, "removed_groups")?,
                seen: each(request.seen, "seen", TryInto::try_into)?,
                seen_all: request.seen_all,
            },
        })
    }
}

/// A topic that was not taken into the inventory: the topic, a stable name of why, what is wrong and what to do.
pub type RefusedTopic = (TopicName, String, String);

/// The answer to a report of topics. `refused` is what `control::Reply::Inventory` holds.
pub fn inventory_response<R: AsRef<str>>(
    refused: &[(TopicName, R, String)],
) -> mesh::ReportInventoryResponse {
    let refused = refused.iter().map(|(topic, reason, message)| mesh::RefusedTopic {
        topic: topic.to_string(),
        reason: reason.as_ref().to_owned(),
        message: message.clone(),
    });
    mesh::ReportInventoryResponse { refused: refused.collect() }
}

/// The topics that were not taken.
pub fn refused_topics(response: mesh::ReportInventoryResponse) -> Result<Vec<RefusedTopic>, ConvertError> {
    each(response.refused, "refused", |refused| {
        Ok((id(&refused.topic, "topic")?, refused.reason, refused.message))
    })
}

/// Events worth keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsReport {
    /// Who saw them.
    pub speaker: Speaker,
    /// The events, oldest first.
    pub events: Vec<Event>,
}

impl From<&EventsReport> for mesh::ReportEventsRequest {
    fn from(report: &EventsReport) -> Self {
        Self {
            worker_id: report.speaker.worker.to_string(),
            session: report.speaker.session,
            events: report.events.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<mesh::ReportEventsRequest> for EventsReport {
    type Error = ConvertError;

    fn try_from(request: mesh::ReportEventsRequest) -> Result<Self, ConvertError> {
        Ok(Self {
            speaker: Speaker::new(&request.worker_id, request.session)?,
            events: each(request.events, "events", TryInto::try_into)?,
        })
    }
}
