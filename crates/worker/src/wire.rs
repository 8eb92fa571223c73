//! The calls of `WorkerSessionService`, in the domain's terms.
//!
//! The only module of this crate that touches generated messages; conversions are `mirrormesh-proto`'s. Knows nothing
//! about retries.

use std::time::Duration;

use mirrormesh_core::control::{GenerationRequest, InventoryChange};
use mirrormesh_core::flow::PreviewPage;
use mirrormesh_core::ids::{ClusterId, FlowId, TopicName, WorkerId};
use mirrormesh_core::paused::PausedFigures;
use mirrormesh_core::report::{Event, UnitReport};
use mirrormesh_core::unit::{Generation, PartitionGeneration, Role, Unit, WorkerAssignment};
use mirrormesh_proto::ConvertError;
use mirrormesh_proto::convert::session::{
    ClusterReport, EventsReport, GenerationBegin, InventoryReport, ProducerClaim, ProgressReport, Question,
    Registration, paused_answer, preview_answer, refused_topics,
};
use mirrormesh_proto::mesh::worker_session_service_client::WorkerSessionServiceClient;
use mirrormesh_proto::mesh::{
    BeginGenerationRequest, ClaimProducerRequest, RegisterRequest, ReportClusterRequest, ReportEventsRequest,
    ReportInventoryRequest, ReportProgressRequest, ReportProgressResponse, ServeQueriesRequest,
    ServeQueriesResponse, WatchAssignmentsRequest, WatchAssignmentsResponse,
};
use mirrormesh_runtime::grpc::{ChannelOptions, GrpcError};
use mirrormesh_runtime::trace_context::inject;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::link::Link;

/// A lease shorter than this could not be renewed in time: the coordinator's word is not taken for less.
const LEASE_MIN: Duration = Duration::from_secs(1);

/// Who registers.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) worker: WorkerId,
    pub(crate) role: Role,
    pub(crate) capacity: u32,
    pub(crate) version: String,
}

/// An open session, as the coordinator gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) session: u64,
    pub(crate) lease: Duration,
}

/// A topic that was not taken into the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedTopic {
    /// The source topic.
    pub topic: TopicName,
    /// Stable name of why.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// A channel to a coordinator's mesh address; it connects when it is used.
pub(crate) fn channel(address: &str) -> Result<Channel, GrpcError> {
    mirrormesh_runtime::grpc::channel(address, &ChannelOptions::default())
}

/// An answer that can't be read comes from a faulty peer; another one may be better.
fn unreadable(error: &ConvertError) -> Status {
    Status::internal(format!("the coordinator's answer can't be read: {error}"))
}

/// A call that carries the caller's span.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    inject(request.metadata_mut());
    request
}

/// Opens a session.
pub(crate) async fn register(
    mut client: WorkerSessionServiceClient<Channel>,
    identity: &Identity,
    capacity: u32,
) -> Result<Opened, Status> {
    let registration = Registration {
        worker: identity.worker.clone(),
        role: identity.role,
        capacity,
        version: identity.version.clone(),
    };
    let response = client.register(RegisterRequest::from(&registration)).await?.into_inner();
    let lease = Duration::from_millis(u64::from(response.lease_ms)).max(LEASE_MIN);
    Ok(Opened { session: response.session, lease })
}

/// Opens the stream of desired sets.
pub(crate) async fn watch_assignments(mut link: Link) -> Result<Streaming<WatchAssignmentsResponse>, Status> {
    let request = WatchAssignmentsRequest::from(&link.speaker);
    Ok(link.client.watch_assignments(request).await?.into_inner())
}

/// A desired set.
pub(crate) fn assignment(message: WatchAssignmentsResponse) -> Result<WorkerAssignment, ConvertError> {
    WorkerAssignment::try_from(message)
}

/// Opens the stream of reports.
pub(crate) async fn report_progress(
    mut link: Link,
    reports: ReceiverStream<ReportProgressRequest>,
) -> Result<Streaming<ReportProgressResponse>, Status> {
    Ok(link.client.report_progress(reports).await?.into_inner())
}

/// One report.
pub(crate) fn progress(
    link: &Link,
    sequence: u64,
    units: Vec<UnitReport>,
    released: Vec<(Unit, u64)>,
) -> ReportProgressRequest {
    (&ProgressReport { speaker: link.speaker.clone(), sequence, units, released }).into()
}

/// The number of the report that is acknowledged.
pub(crate) fn acknowledged(response: ReportProgressResponse) -> u64 {
    response.sequence
}

/// Reports Kafka's id of a cluster; the one that the mesh keeps.
pub(crate) async fn report_cluster(
    mut link: Link,
    cluster: ClusterId,
    kafka_cluster_id: String,
) -> Result<String, Status> {
    let report = ClusterReport { speaker: link.speaker, cluster, kafka_cluster_id };
    let response = link.client.report_cluster(ReportClusterRequest::from(&report)).await?;
    Ok(response.into_inner().kafka_cluster_id)
}

/// Offers a producer identity; the winner.
pub(crate) async fn claim_producer(
    mut link: Link,
    flow: FlowId,
    generation: Generation,
) -> Result<Generation, Status> {
    let claim = ProducerClaim { speaker: link.speaker, flow, generation };
    let request = ClaimProducerRequest::from(&claim);
    let response = link.client.claim_producer(traced(request)).await?.into_inner();
    Generation::try_from(response).map_err(|error| unreadable(&error))
}

/// Begins a new generation of a partition; the one that is present then.
pub(crate) async fn begin_generation(
    mut link: Link,
    request: GenerationRequest,
) -> Result<PartitionGeneration, Status> {
    let begin = GenerationBegin { speaker: link.speaker, request };
    let response =
        link.client.begin_generation(traced(BeginGenerationRequest::from(&begin))).await?.into_inner();
    PartitionGeneration::try_from(response).map_err(|error| unreadable(&error))
}

/// Reports what was found; the topics that were not taken.
pub(crate) async fn report_inventory(
    mut link: Link,
    flow: FlowId,
    number: u64,
    change: InventoryChange,
) -> Result<Vec<RefusedTopic>, Status> {
    let report = InventoryReport { speaker: link.speaker, flow, number, change };
    let request = ReportInventoryRequest::from(&report);
    let response = link.client.report_inventory(traced(request)).await?.into_inner();
    let refused = refused_topics(response).map_err(|error| unreadable(&error))?;
    Ok(refused.into_iter().map(|(topic, reason, message)| RefusedTopic { topic, reason, message }).collect())
}

/// Reports events.
pub(crate) async fn report_events(mut link: Link, events: Vec<Event>) -> Result<(), Status> {
    let report = EventsReport { speaker: link.speaker, events };
    link.client.report_events(ReportEventsRequest::from(&report)).await.map(drop)
}

/// Opens the stream of questions.
pub(crate) async fn serve_queries(
    mut link: Link,
    answers: ReceiverStream<ServeQueriesRequest>,
) -> Result<Streaming<ServeQueriesResponse>, Status> {
    Ok(link.client.serve_queries(answers).await?.into_inner())
}

/// The first message of a stream of answers: it only names the session.
pub(crate) fn first_answer(link: &Link) -> ServeQueriesRequest {
    ServeQueriesRequest {
        worker_id: link.speaker.worker.to_string(),
        session: link.speaker.session,
        ..ServeQueriesRequest::default()
    }
}

/// A question with its id; what is wrong with one that can't be read.
pub(crate) fn question(message: ServeQueriesResponse) -> (u64, Result<Question, String>) {
    (message.query_id, Question::try_from(message).map_err(|error| error.to_string()))
}

/// What a question is answered with.
pub(crate) enum Answer {
    /// How far behind paused partitions are.
    Paused(PausedFigures),
    /// What a flow does with the topics of its source.
    Preview(PreviewPage),
}

/// An answer.
pub(crate) fn answer(link: &Link, query_id: u64, answer: Result<Answer, String>) -> ServeQueriesRequest {
    let empty = ServeQueriesRequest { query_id, ..first_answer(link) };
    match answer {
        Ok(Answer::Paused(figures)) => ServeQueriesRequest { paused: Some(paused_answer(&figures)), ..empty },
        Ok(Answer::Preview(page)) => ServeQueriesRequest { preview: Some(preview_answer(page)), ..empty },
        Err(error) => ServeQueriesRequest { error, ..empty },
    }
}
