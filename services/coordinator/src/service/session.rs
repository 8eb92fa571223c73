//! `mirrormesh.mesh.v1.WorkerSessionService`: the sessions of workers, on the leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use mirrormesh_core::control::{CommandKind, Reply};
use mirrormesh_core::ids::WorkerId;
use mirrormesh_proto::convert::session::{
    ClusterReport, EventsReport, GenerationBegin, InventoryReport, ProducerClaim, ProgressReport,
    Registration, Speaker, inventory_response,
};
use mirrormesh_proto::mesh::worker_session_service_server::WorkerSessionService;
use mirrormesh_proto::mesh::{
    BeginGenerationRequest, BeginGenerationResponse, ClaimProducerRequest, ClaimProducerResponse,
    RegisterRequest, RegisterResponse, ReportClusterRequest, ReportClusterResponse, ReportEventsRequest,
    ReportEventsResponse, ReportInventoryRequest, ReportInventoryResponse, ReportProgressRequest,
    ReportProgressResponse, ServeQueriesRequest, ServeQueriesResponse, WatchAssignmentsRequest,
    WatchAssignmentsResponse,
};
use mirrormesh_runtime::clock::now_ms;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, status};
use crate::hub::{assignments, check_session};
use crate::leader::{LEASE, Lead};
use crate::queries::{Answers, Connection};
use crate::raft::RaftHandle;

/// Events in one report; a worker sends further ones in the next.
const EVENTS_MAX: usize = 1_000;

/// The service.
#[derive(Debug)]
pub(crate) struct Sessions {
    context: Context,
    connections: AtomicU64,
}

impl Sessions {
    /// The service over `context`.
    pub(crate) fn new(context: Context) -> Self {
        Self { context, connections: AtomicU64::new(0) }
    }

    /// The leadership that a speaker's call is served in, if the session is the present one.
    async fn attend(&self, speaker: &Speaker) -> Result<Arc<Lead>, Status> {
        let lead = self.context.lead().await?;
        check_session(&self.context.raft.newest(), speaker)?;
        Ok(lead)
    }
}

#[tonic::async_trait]
impl WorkerSessionService for Sessions {
    type WatchAssignmentsStream = BoxStream<'static, Result<WatchAssignmentsResponse, Status>>;
    type ReportProgressStream = BoxStream<'static, Result<ReportProgressResponse, Status>>;
    type ServeQueriesStream = BoxStream<'static, Result<ServeQueriesResponse, Status>>;

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let registration = Registration::try_from(request.into_inner())?;
        let lead = self.context.lead().await?;
        let worker = registration.worker.clone();
        let kind = CommandKind::RegisterWorker {
            worker: registration.worker,
            role: registration.role,
            capacity: registration.capacity,
            version: registration.version,
        };
        match self.context.write(kind).await? {
            Reply::Session(session) => {
                lead.leases.renew(&worker, session, Instant::now());
                tracing::info!(%worker, session, "worker registered");
                let lease_ms = u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX);
                Ok(Response::new(RegisterResponse { session, lease_ms }))
            }
            other => Err(status::unexpected(&other)),
        }
    }

    async fn watch_assignments(
        &self,
        request: Request<WatchAssignmentsRequest>,
    ) -> Result<Response<Self::WatchAssignmentsStream>, Status> {
        let speaker = Speaker::try_from(request.into_inner())?;
        let lead = self.attend(&speaker).await?;
        Ok(Response::new(assignments(&self.context, lead, speaker).boxed()))
    }

    async fn report_progress(
        &self,
        request: Request<Streaming<ReportProgressRequest>>,
    ) -> Result<Response<Self::ReportProgressStream>, Status> {
        let reports = Reports {
            raft: self.context.raft.clone(),
            stopping: self.context.stopping.clone(),
            lead: self.context.lead().await?,
            incoming: request.into_inner(),
        };
        let stream = futures::stream::unfold(Some(reports), |reports| async move {
            let mut reports = reports?;
            match reports.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(reports))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(stream.boxed()))
    }

    async fn report_cluster(
        &self,
        request: Request<ReportClusterRequest>,
    ) -> Result<Response<ReportClusterResponse>, Status> {
        let report = ClusterReport::try_from(request.into_inner())?;
        self.attend(&report.speaker).await?;
        // Many units meet a cluster at once: what is known needs no entry in the log.
        let state = self.context.raft.newest();
        let known =
            state.clusters.get(&report.cluster).and_then(|record| record.spec.kafka_cluster_id.clone());
        if let Some(kafka_cluster_id) = known {
            return Ok(Response::new(ReportClusterResponse { kafka_cluster_id }));
        }
        let kind =
            CommandKind::ReportCluster { id: report.cluster, kafka_cluster_id: report.kafka_cluster_id };
        match self.context.write(kind).await? {
            Reply::Cluster(_, record) => Ok(Response::new(ReportClusterResponse {
                kafka_cluster_id: record.spec.kafka_cluster_id.unwrap_or_default(),
            })),
            other => Err(status::unexpected(&other)),
        }
    }

    async fn claim_producer(
        &self,
        request: Request<ClaimProducerRequest>,
    ) -> Result<Response<ClaimProducerResponse>, Status> {
        let claim = ProducerClaim::try_from(request.into_inner())?;
        self.attend(&claim.speaker).await?;
        let kind = CommandKind::ClaimProducer { flow: claim.flow, generation: claim.generation };
        match self.context.write(kind).await? {
            Reply::Generation(generation) => Ok(Response::new(ClaimProducerResponse::from(&generation))),
            other => Err(status::unexpected(&other)),
        }
    }

    async fn begin_generation(
        &self,
        request: Request<BeginGenerationRequest>,
    ) -> Result<Response<BeginGenerationResponse>, Status> {
        let asked = GenerationBegin::try_from(request.into_inner())?;
        if asked.request.events.len() > EVENTS_MAX {
            return Err(Status::invalid_argument(format!("more than {EVENTS_MAX} events with a generation")));
        }
        self.attend(&asked.speaker).await?;
        match self.context.write(CommandKind::BeginGeneration(asked.request)).await? {
            Reply::PartitionGeneration(begun) => Ok(Response::new(BeginGenerationResponse::from(&begun))),
            other => Err(status::unexpected(&other)),
        }
    }

    async fn report_inventory(
        &self,
        request: Request<ReportInventoryRequest>,
    ) -> Result<Response<ReportInventoryResponse>, Status> {
        let report = InventoryReport::try_from(request.into_inner())?;
        let lead = self.attend(&report.speaker).await?;
        let named = report.change.topics.iter().map(|entry| &entry.topic);
        let topics: Vec<_> = named.chain(&report.change.removed_topics).cloned().collect();
        let (flow, number) = (report.flow.clone(), report.number);
        let kind = CommandKind::PutInventory { flow: report.flow, number, change: report.change };
        match self.context.write(kind).await? {
            Reply::Inventory(refused) => {
                lead.refusals.update((&flow, number), topics.iter(), &refused, now_ms());
                Ok(Response::new(inventory_response(&refused)))
            }
            other => Err(status::unexpected(&other)),
        }
    }

    async fn report_events(
        &self,
        request: Request<ReportEventsRequest>,
    ) -> Result<Response<ReportEventsResponse>, Status> {
        let report = EventsReport::try_from(request.into_inner())?;
        if report.events.len() > EVENTS_MAX {
            return Err(Status::invalid_argument(format!("more than {EVENTS_MAX} events in one report")));
        }
        self.attend(&report.speaker).await?;
        if !report.events.is_empty() {
            self.context.write(CommandKind::RecordEvents { events: report.events }).await?;
        }
        Ok(Response::new(ReportEventsResponse {}))
    }

    async fn serve_queries(
        &self,
        request: Request<Streaming<ServeQueriesRequest>>,
    ) -> Result<Response<Self::ServeQueriesStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream has no first message"))?;
        let speaker = Speaker::try_from(&first)?;
        let lead = self.attend(&speaker).await?;
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let connection = lead.queries.connect(&speaker.worker, number);
        let answers = connection.answers();
        let stopping = self.context.stopping.clone();
        let questions =
            Questions { lead, stopping, worker: speaker.worker, number, connection, answers, incoming };
        let stream = futures::stream::unfold(Some(questions), |questions| async move {
            let mut questions = questions?;
            match questions.next().await {
                Ok(Some(question)) => Some((Ok(question), Some(questions))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(stream.boxed()))
    }
}

/// A stream of reports.
struct Reports {
    raft: RaftHandle,
    lead: Arc<Lead>,
    stopping: CancellationToken,
    incoming: Streaming<ReportProgressRequest>,
}

impl Reports {
    /// Takes the next report; `None` when the worker ended the stream.
    async fn next(&mut self) -> Result<Option<ReportProgressResponse>, Status> {
        let report = tokio::select! {
            report = self.incoming.message() => report?,
            () = self.lead.ended.cancelled() => return Err(status::leader_changed()),
            () = self.stopping.cancelled() => return Err(status::stopping()),
        };
        let Some(report) = report else { return Ok(None) };
        let report = ProgressReport::try_from(report)?;
        let state = self.raft.newest();
        check_session(&state, &report.speaker)?;
        let (worker, sequence) = (report.speaker.worker, report.sequence);
        self.lead.leases.renew(&worker, report.speaker.session, Instant::now());
        self.lead.progress.update(&state, &worker, report.units, Instant::now(), now_ms());
        if !report.released.is_empty() {
            let kind = CommandKind::ReleaseUnits { worker, units: report.released };
            let reply = self.raft.propose(kind).await.map_err(|fault| status::raft(&fault))?;
            status::accepted(reply)?;
        }
        // Only now: what was released is acknowledged when it is in the log.
        Ok(Some(ReportProgressResponse { sequence }))
    }
}

/// A stream of questions.
struct Questions {
    lead: Arc<Lead>,
    stopping: CancellationToken,
    worker: WorkerId,
    number: u64,
    connection: Connection,
    answers: Answers,
    incoming: Streaming<ServeQueriesRequest>,
}

impl Questions {
    /// The next question; takes answers meanwhile. `None` when the worker ended the stream.
    async fn next(&mut self) -> Result<Option<ServeQueriesResponse>, Status> {
        loop {
            tokio::select! {
                question = self.connection.questions.recv() => {
                    // A newer stream of the same worker took over.
                    return Ok(question);
                }
                answer = self.incoming.message() => match answer? {
                    Some(answer) => self.answers.take(answer),
                    None => return Ok(None),
                },
                () = self.lead.ended.cancelled() => return Err(status::leader_changed()),
                () = self.stopping.cancelled() => return Err(status::stopping()),
            }
        }
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.lead.queries.disconnect(&self.worker, self.number);
    }
}
