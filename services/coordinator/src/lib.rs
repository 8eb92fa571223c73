//! The coordinator of a mirrormesh: keeps all decisions in a Raft log, plans which worker runs what, serves the
//! public API and the sessions of the workers.
//!
//! Must not know: Kafka. Wiring only; the parts are `raft` (the one door to the replicated state), `leader` (what runs
//! only while leading), `hub` and `queries` (towards workers), `service` (handlers), `forward` (calls on a coordinator
//! that does not lead).

mod config;
mod error;
mod forward;
mod hub;
mod leader;
mod metrics;
mod queries;
mod raft;
mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_proto::mesh::raft_service_server::RaftServiceServer;
use mirrormesh_proto::mesh::worker_session_service_server::WorkerSessionServiceServer;
use mirrormesh_proto::v1::cluster_service_server::ClusterServiceServer;
use mirrormesh_proto::v1::flow_service_server::FlowServiceServer;
use mirrormesh_proto::v1::mesh_service_server::MeshServiceServer;
use mirrormesh_proto::v1::worker_service_server::WorkerServiceServer;
use mirrormesh_proto::{ERROR_DETAIL_DESCRIPTORS, MESH_DESCRIPTORS, PUBLIC_DESCRIPTORS};
use mirrormesh_runtime::grpc::{GrpcServer, MESSAGE_BYTES_MAX, ServerLimits, with_standard_services};
use mirrormesh_runtime::http::CheckHandle;
use mirrormesh_runtime::service::ServiceContext;
use mirrormesh_runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use config::Settings;
pub use error::Error;

use leader::Lead;
use metrics::Metrics;
use raft::{HANDOVER_MAX, Node, PeerService, RAFT_MESSAGE_BYTES_MAX, RaftHandle, RunningRaft, StartPlan};
use service::{Clusters, Context, Flows, MeshMembers, Sessions, Workers};

/// Largest report of a worker: the first one of a stream holds all its units.
const REPORT_BYTES_MAX: usize = 16 << 20;
/// Largest set of assignments: 20,000 units with long names fit several times.
const SET_BYTES_MAX: usize = 64 << 20;
/// Services of the public API, for health.
const API_SERVICES: [&str; 4] = [
    ClusterServiceServer::<Clusters>::NAME,
    FlowServiceServer::<Flows>::NAME,
    WorkerServiceServer::<Workers>::NAME,
    MeshServiceServer::<MeshMembers>::NAME,
];
/// How long the servers and Raft may take to stop, each.
const STOP_MAX: Duration = Duration::from_secs(6);

/// Where a coordinator listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Public API.
    pub api: SocketAddr,
    /// Coordinators and workers.
    pub mesh: SocketAddr,
    /// Metrics and health.
    pub metrics: SocketAddr,
}

/// Runs a coordinator until the context's shutdown. `bound` is told the addresses once both listeners accept.
pub async fn run(
    settings: Settings,
    context: ServiceContext,
    bound: impl FnOnce(Bound) + Send,
) -> Result<(), Error> {
    let members = settings.check()?;
    let api =
        GrpcServer::bind("api", &settings.api_listen, ServerLimits::default(), &[PUBLIC_DESCRIPTORS]).await?;
    let mesh =
        GrpcServer::bind("mesh", &settings.mesh_listen, ServerLimits::mesh(), &[MESH_DESCRIPTORS]).await?;
    let at = Bound { api: api.local_addr(), mesh: mesh.local_addr(), metrics: context.metrics_address };
    let node = settings.own_node(members.get(&settings.node_id), at.mesh, at.api);

    let meter = context.telemetry.meter("mirrormesh-coordinator");
    let metrics = Metrics::new(&meter);
    // Each member must form the same mesh, so the list is taken as it is; who leads announces its own addresses.
    let mut initial_members = members;
    if initial_members.is_empty() && !settings.join {
        initial_members.insert(settings.node_id, node.clone());
    }
    let plan = StartPlan {
        own: settings.node_id,
        data_dir: settings.data_dir.clone(),
        initial_members,
        proposals: metrics.proposals.clone(),
    };
    let raft = raft::start(plan).await?;
    let (slot, leads) = watch::channel(None);
    metrics::observe(&meter, &raft.handle, &leads);
    tracing::info!("listening api={} mesh={} metrics={}", at.api, at.mesh, at.metrics);
    bound(at);
    let coordinator = Coordinator { raft, slot, leads, node, metrics, context };
    coordinator.serve(api, mesh).await
}

/// A coordinator whose parts are made.
struct Coordinator {
    raft: RunningRaft,
    slot: watch::Sender<Option<Arc<Lead>>>,
    leads: watch::Receiver<Option<Arc<Lead>>>,
    node: Node,
    metrics: Metrics,
    context: ServiceContext,
}

impl Coordinator {
    async fn serve(self, api: GrpcServer, mesh: GrpcServer) -> Result<(), Error> {
        let Self { raft, slot, leads, node, metrics, context } = self;
        let handle = raft.handle.clone();
        // Streams end first, then the servers, then what they stand on.
        let stopping = CancellationToken::new();
        let servers = Shutdown::new();
        let raft_stop = CancellationToken::new();
        let desk = Context { raft: handle.clone(), leads, stopping: stopping.clone() };

        let mut tasks = JoinSet::new();
        let (routes, services) = public_routes(&desk, metrics)?;
        tasks.spawn(named("api", api.serve(routes, servers.clone())));
        tasks.spawn(named("mesh", mesh.serve(mesh_routes(&desk), servers.clone())));
        tasks.spawn(named("leadership", raft.follow(raft_stop.clone())));
        let leading = leader::run(handle.clone(), slot, node, stopping.clone());
        tasks.spawn(named("leader", async move {
            leading.await;
            Ok::<(), Error>(())
        }));
        let check = context.health.check("raft");
        tasks.spawn(named("health", report_health(handle.clone(), check, services, stopping.clone())));

        let ended = tokio::select! {
            () = context.shutdown.cancelled() => Ok(()),
            ended = first_end(&mut tasks) => ended,
        };
        if ended.is_ok() {
            hand_over(&handle).await;
        }
        stopping.cancel();
        servers.trigger();
        raft_stop.cancel();
        let joined =
            tokio::time::timeout(STOP_MAX, async { while tasks.join_next().await.is_some() {} }).await;
        if joined.is_err() {
            tracing::warn!("some tasks did not end in time and are cut");
        }
        tasks.shutdown().await;
        let writer = raft.writer;
        let close = async {
            handle.shutdown().await;
            drop(handle);
            drop(desk);
            // What reads the log ends by itself once Raft is down; the last one to go closes the file.
            drop(tokio::task::spawn_blocking(|| writer.join()).await);
        };
        if tokio::time::timeout(STOP_MAX, close).await.is_err() {
            tracing::warn!("the Raft log was not closed in time; what was acknowledged is on the disk");
        }
        ended
    }
}

/// The end of a task with its name.
async fn named<E: Into<Error>>(
    name: &'static str,
    task: impl Future<Output = Result<(), E>> + Send,
) -> (&'static str, Result<(), Error>) {
    (name, task.await.map_err(Into::into))
}

/// Waits for the first task that ends, which none should before the coordinator stops.
async fn first_end(tasks: &mut JoinSet<(&'static str, Result<(), Error>)>) -> Result<(), Error> {
    match tasks.join_next().await {
        Some(Ok((_, Err(error)))) => Err(error),
        Some(Ok((task, Ok(())))) => Err(Error::Task { task, problem: "it ended by itself".to_owned() }),
        Some(Err(error)) => Err(Error::Task { task: "coordinator", problem: error.to_string() }),
        None => Err(Error::Task { task: "coordinator", problem: "there is none".to_owned() }),
    }
}

/// A leader that stops hands over, so that nobody has to wait for its lease.
async fn hand_over(raft: &RaftHandle) {
    if !raft.leadership().is_self {
        return;
    }
    let Some(successor) = raft.successor() else { return };
    match raft.transfer_leadership(successor, HANDOVER_MAX).await {
        Ok(()) => tracing::info!(successor, "leadership handed over"),
        Err(error) => tracing::warn!(successor, %error, "leadership could not be handed over"),
    }
}

/// Ready means: a leader is known, so calls are answered. The same goes for the services of the API.
async fn report_health(
    raft: RaftHandle,
    check: CheckHandle,
    services: HealthReporter,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut leadership = raft.watch_leadership();
    loop {
        let ready = leadership.borrow_and_update().leader.is_some();
        if ready {
            check.set_ok();
        } else {
            check.set_failing("no coordinator leads");
        }
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in API_SERVICES.into_iter().chain([""]) {
            services.set_service_status(service, status).await;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = leadership.changed() => if changed.is_err() {
                break;
            },
        }
    }
    check.set_failing("stopping");
    stop.cancelled().await;
    Ok(())
}

macro_rules! limited {
    ($server:expr) => {
        limited!($server, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX)
    };
    ($server:expr, $decode:expr, $encode:expr) => {
        $server.max_decoding_message_size($decode).max_encoding_message_size($encode)
    };
}

fn public_routes(desk: &Context, metrics: Metrics) -> Result<(Routes, HealthReporter), Error> {
    let forward = forward::Router::new(desk.raft.clone(), metrics, desk.stopping.clone());
    let routes = Routes::new(forward.wrap(limited!(ClusterServiceServer::new(Clusters(desk.clone())))))
        .add_service(forward.wrap(limited!(FlowServiceServer::new(Flows(desk.clone())))))
        .add_service(forward.wrap(limited!(WorkerServiceServer::new(Workers(desk.clone())))))
        .add_service(forward.wrap(limited!(MeshServiceServer::new(MeshMembers(desk.clone())))));
    Ok(with_standard_services(routes, &[PUBLIC_DESCRIPTORS, ERROR_DETAIL_DESCRIPTORS])?)
}

fn mesh_routes(desk: &Context) -> Routes {
    let peers = PeerService::new(desk.raft.clone());
    let sessions = Sessions::new(desk.clone());
    Routes::new(limited!(RaftServiceServer::new(peers), RAFT_MESSAGE_BYTES_MAX, RAFT_MESSAGE_BYTES_MAX))
        .add_service(limited!(WorkerSessionServiceServer::new(sessions), REPORT_BYTES_MAX, SET_BYTES_MAX))
}
