//! A coordinator for tests: keeps the contract of `WorkerSessionService`, and does what the test tells it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::ClusterId;
use mirrormesh_core::unit::Unit;
use mirrormesh_proto::mesh::worker_session_service_server::{
    WorkerSessionService, WorkerSessionServiceServer,
};
use mirrormesh_proto::mesh::{
    AssignedCluster, AssignedFlow, AssignedUnit, BeginGenerationRequest, BeginGenerationResponse,
    ClaimProducerRequest, ClaimProducerResponse, RegisterRequest, RegisterResponse, ReportClusterRequest,
    ReportClusterResponse, ReportEventsRequest, ReportEventsResponse, ReportInventoryRequest,
    ReportInventoryResponse, ReportProgressRequest, ReportProgressResponse, ServeQueriesRequest,
    ServeQueriesResponse, WatchAssignmentsRequest, WatchAssignmentsResponse,
};
use mirrormesh_proto::store;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the coordinator was told, and what it is to answer.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) registered: Vec<RegisterRequest>,
    pub(crate) reports: Vec<ReportProgressRequest>,
    pub(crate) inventories: Vec<ReportInventoryRequest>,
    pub(crate) events: Vec<store::Event>,
    pub(crate) answers: Vec<ServeQueriesRequest>,
    /// Open sessions by worker.
    pub(crate) sessions: BTreeMap<String, u64>,
    pub(crate) next_session: u64,
    pub(crate) producer: Option<store::Generation>,
    pub(crate) begun: Vec<store::BeginGeneration>,
    /// New generations are refused for this reason.
    pub(crate) generation_refused: Option<&'static str>,
    /// The address to send workers to; this coordinator does not lead then.
    pub(crate) leader: Option<String>,
    /// Event reports fail with this code while it is set.
    pub(crate) events_fail: Option<Code>,
    /// Reports that hold an event of this time are refused.
    pub(crate) event_refused: Option<u64>,
    /// Answers inventory reports as outdated.
    pub(crate) inventory_outdated: bool,
    queries: Option<mpsc::Sender<Result<ServeQueriesResponse, Status>>>,
}

impl Told {
    /// Units that were reported as released, in order.
    pub(crate) fn released(&self) -> Vec<(String, u64)> {
        let units = self.reports.iter().flat_map(|report| &report.released);
        units.map(|released| (unit_name(released.unit.as_ref()), released.number)).collect()
    }

    /// The newest report of a unit.
    pub(crate) fn report_of(&self, unit: &str) -> Option<(i32, String)> {
        let units = self.reports.iter().rev().flat_map(|report| &report.units);
        let mut found = units.filter(|report| unit_name(report.unit.as_ref()) == unit);
        found.next().map(|report| (report.state, report.reason.clone()))
    }
}

fn unit_name(unit: Option<&store::Unit>) -> String {
    unit.and_then(|unit| Unit::try_from(unit.clone()).ok()).map_or_else(String::new, |unit| unit.to_string())
}

#[derive(Clone)]
struct Service {
    told: Arc<Mutex<Told>>,
    desired: watch::Sender<WatchAssignmentsResponse>,
    changed: watch::Sender<()>,
}

/// The coordinator; stops when it is dropped.
pub(crate) struct Fake {
    service: Service,
    pub(crate) address: SocketAddr,
    server: Option<Runtime>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service {
            told: Arc::default(),
            desired: watch::Sender::new(WatchAssignmentsResponse::default()),
            changed: watch::Sender::new(()),
        };
        let mut fake = Self { service, address, server: None };
        fake.serve(listener.into_std().unwrap());
        fake
    }

    /// Serves in a runtime of its own: only with that all connections end when the test wants it.
    fn serve(&mut self, listener: std::net::TcpListener) {
        let service = WorkerSessionServiceServer::new(self.service.clone());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let serving = tonic::transport::Server::builder().add_service(service);
            serving.serve_with_incoming(incoming).await.unwrap();
        });
        self.server = Some(runtime);
    }

    /// All connections end; what it was told stays.
    pub(crate) async fn stop(&mut self) {
        let server = self.server.take().unwrap();
        tokio::task::spawn_blocking(move || server.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
    }

    /// It is there again, at the same address.
    pub(crate) async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener.into_std().unwrap());
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.service.told.lock().unwrap()
    }

    /// Sets what the worker is to run: units with numbers, all of one flow.
    pub(crate) fn desire(&self, revision: u64, units: &[(&Unit, u64)]) {
        let spec = FlowSpec::new(ClusterId::new("uk").unwrap(), ClusterId::new("hq").unwrap());
        let cluster = |id: &str| AssignedCluster {
            cluster_id: id.to_owned(),
            spec: Some(store::ClusterSpec {
                bootstrap_servers: vec!["127.0.0.1:1".to_owned()],
                ..store::ClusterSpec::default()
            }),
        };
        let units = units.iter().map(|(unit, number)| AssignedUnit {
            unit: Some(store::Unit::from(*unit)),
            number: *number,
            partition: None,
        });
        self.service.desired.send_replace(WatchAssignmentsResponse {
            revision,
            clusters: vec![cluster("uk"), cluster("hq")],
            flows: vec![AssignedFlow {
                flow_id: "f".to_owned(),
                spec: Some(store::FlowSpec::from(&spec)),
                generation: None,
                mesh_id: "m".to_owned(),
                ..AssignedFlow::default()
            }],
            units: units.collect(),
            traces: BTreeMap::default(),
        });
    }

    /// Asks the worker something, once it has opened its stream of questions.
    pub(crate) async fn asked(&self, question: ServeQueriesResponse) {
        let sender = self.until("a stream of questions", |told| told.queries.clone()).await;
        sender.send(Ok(question)).await.unwrap();
    }

    /// Waits until what it was told is as the test wants it.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&Told) -> Option<T>) -> T {
        let mut changed = self.service.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = look(&self.told()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("{what} did not happen in time"))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "mirrormesh", std::collections::HashMap::new());
    Status::with_error_details(code, "as the test wants it", details)
}

impl Service {
    /// Changes what it was told, if it leads.
    fn tell<T>(&self, change: impl FnOnce(&mut Told) -> Result<T, Status>) -> Result<T, Status> {
        let mut told = self.told.lock().unwrap();
        if let Some(leader) = &told.leader {
            let mut status = Status::unavailable("not the leader");
            status.metadata_mut().insert("mirrormesh-leader", leader.parse().unwrap());
            return Err(status);
        }
        let outcome = change(&mut told);
        drop(told);
        self.changed.send_replace(());
        outcome
    }
}

fn check(told: &Told, worker: &str, session: u64) -> Result<(), Status> {
    match told.sessions.get(worker) {
        Some(known) if *known == session => Ok(()),
        _ => Err(refusal(Code::Aborted, "SESSION_OUTDATED")),
    }
}

#[tonic::async_trait]
impl WorkerSessionService for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Answer<RegisterResponse> {
        let request = request.into_inner();
        self.tell(|told| {
            told.next_session += 1;
            told.sessions.insert(request.worker_id.clone(), told.next_session);
            told.registered.push(request);
            Ok(Response::new(RegisterResponse { session: told.next_session, lease_ms: 3_000 }))
        })
    }

    type WatchAssignmentsStream = Answers<WatchAssignmentsResponse>;

    async fn watch_assignments(
        &self,
        request: Request<WatchAssignmentsRequest>,
    ) -> Answer<Self::WatchAssignmentsStream> {
        let request = request.into_inner();
        self.tell(|told| check(told, &request.worker_id, request.session))?;
        let sets = tokio_stream::wrappers::WatchStream::new(self.desired.subscribe());
        Ok(Response::new(Box::pin(sets.map(Ok))))
    }

    type ReportProgressStream = Answers<ReportProgressResponse>;

    async fn report_progress(
        &self,
        request: Request<Streaming<ReportProgressRequest>>,
    ) -> Answer<Self::ReportProgressStream> {
        let service = self.clone();
        let acks = request.into_inner().map(move |report| {
            let report = report?;
            let sequence = report.sequence;
            service.tell(|told| {
                check(told, &report.worker_id, report.session)?;
                told.reports.push(report);
                Ok(ReportProgressResponse { sequence })
            })
        });
        Ok(Response::new(Box::pin(acks)))
    }

    async fn report_cluster(&self, request: Request<ReportClusterRequest>) -> Answer<ReportClusterResponse> {
        let kafka_cluster_id = request.into_inner().kafka_cluster_id;
        Ok(Response::new(ReportClusterResponse { kafka_cluster_id }))
    }

    async fn claim_producer(&self, request: Request<ClaimProducerRequest>) -> Answer<ClaimProducerResponse> {
        let request = request.into_inner();
        self.tell(|told| {
            check(told, &request.worker_id, request.session)?;
            let generation = *told.producer.get_or_insert(request.generation.unwrap());
            Ok(Response::new(ClaimProducerResponse { generation: Some(generation) }))
        })
    }

    async fn begin_generation(
        &self,
        request: Request<BeginGenerationRequest>,
    ) -> Answer<BeginGenerationResponse> {
        let request = request.into_inner();
        self.tell(|told| {
            check(told, &request.worker_id, request.session)?;
            let asked = request.begin.unwrap();
            if let Some(reason) = told.generation_refused {
                return Err(refusal(Code::Aborted, reason));
            }
            let after = asked.after.unwrap();
            let begun = store::PartitionGeneration {
                generation: Some(store::Generation { epoch: after.epoch + 1, ..after }),
                start: asked.start,
            };
            told.begun.push(asked);
            Ok(Response::new(BeginGenerationResponse { begun: Some(begun) }))
        })
    }

    async fn report_inventory(
        &self,
        request: Request<ReportInventoryRequest>,
    ) -> Answer<ReportInventoryResponse> {
        let request = request.into_inner();
        self.tell(|told| {
            check(told, &request.worker_id, request.session)?;
            if told.inventory_outdated {
                return Err(refusal(Code::Aborted, "ASSIGNMENT_OUTDATED"));
            }
            told.inventories.push(request);
            Ok(Response::new(ReportInventoryResponse::default()))
        })
    }

    async fn report_events(&self, request: Request<ReportEventsRequest>) -> Answer<ReportEventsResponse> {
        let request = request.into_inner();
        self.tell(|told| {
            check(told, &request.worker_id, request.session)?;
            if let Some(code) = told.events_fail {
                return Err(Status::new(code, "as the test wants it"));
            }
            if request.events.iter().any(|event| Some(event.time_ms) == told.event_refused) {
                return Err(refusal(Code::InvalidArgument, "FIELD_INVALID"));
            }
            told.events.extend(request.events);
            Ok(Response::new(ReportEventsResponse {}))
        })
    }

    type ServeQueriesStream = Answers<ServeQueriesResponse>;

    async fn serve_queries(
        &self,
        request: Request<Streaming<ServeQueriesRequest>>,
    ) -> Answer<Self::ServeQueriesStream> {
        let (sender, questions) = mpsc::channel(8);
        let (service, mut answers) = (self.clone(), request.into_inner());
        let first = answers.message().await?.ok_or_else(|| Status::invalid_argument("no first answer"))?;
        self.tell(|told| {
            check(told, &first.worker_id, first.session)?;
            told.queries = Some(sender);
            Ok(())
        })?;
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let kept = service.tell(|told| {
                    told.answers.push(answer);
                    Ok(())
                });
                if kept.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(questions))))
    }
}
