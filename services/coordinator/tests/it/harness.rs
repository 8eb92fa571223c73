//! Starts, stops and kills coordinators.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mirrormesh_coordinator::{Bound, Error, Settings, run};
use mirrormesh_proto::mesh::worker_session_service_client::WorkerSessionServiceClient;
use mirrormesh_proto::v1;
use mirrormesh_proto::v1::cluster_service_client::ClusterServiceClient;
use mirrormesh_proto::v1::flow_service_client::FlowServiceClient;
use mirrormesh_proto::v1::mesh_service_client::MeshServiceClient;
use mirrormesh_proto::v1::worker_service_client::WorkerServiceClient;
use mirrormesh_runtime::http::Health;
use mirrormesh_runtime::service::ServiceContext;
use mirrormesh_runtime::shutdown::Shutdown;
use mirrormesh_runtime::telemetry::{Telemetry, TelemetrySettings};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

/// A coordinator in a runtime of its own: killing the runtime is as near to `kill -9` as one process gets.
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) bound: Bound,
    pub(crate) health: Health,
    shutdown: Shutdown,
    runtime: Option<tokio::runtime::Runtime>,
    running: JoinHandle<Result<(), Error>>,
}

impl Node {
    pub(crate) async fn start(settings: Settings) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (telemetry, _, _) = Telemetry::assemble(&TelemetrySettings {
            service_name: "test".into(),
            log: mirrormesh_runtime::telemetry::LogSettings { filter: "off".into(), ..Default::default() },
            ..TelemetrySettings::default()
        })
        .unwrap();
        let (shutdown, health) = (Shutdown::new(), Health::new());
        let context = ServiceContext {
            shutdown: shutdown.clone(),
            health: health.clone(),
            telemetry,
            metrics_address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let (told, bound) = oneshot::channel();
        let copy = settings.clone();
        let mut running = runtime.spawn(run(copy, context, move |bound| told.send(bound).unwrap()));
        let bound = tokio::select! {
            bound = bound => bound.unwrap(),
            ended = &mut running => panic!("the coordinator ended: {:?}", ended.unwrap()),
        };
        Self { settings, bound, health, shutdown, runtime: Some(runtime), running }
    }

    /// Ends it at once: no goodbye, no flush.
    pub(crate) fn kill(mut self) -> Settings {
        self.runtime.take().unwrap().shutdown_background();
        self.settings.clone()
    }

    /// Ends it in good order.
    pub(crate) async fn stop(mut self) -> Settings {
        self.shutdown.trigger();
        (&mut self.running).await.unwrap().unwrap();
        self.settings.clone()
    }

    pub(crate) fn channel(&self) -> Channel {
        connect(self.bound.api)
    }

    pub(crate) fn clusters(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel())
    }

    pub(crate) fn flows(&self) -> FlowServiceClient<Channel> {
        FlowServiceClient::new(self.channel())
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel())
    }

    pub(crate) fn mesh(&self) -> MeshServiceClient<Channel> {
        MeshServiceClient::new(self.channel())
    }

    pub(crate) fn sessions(&self) -> WorkerSessionServiceClient<Channel> {
        WorkerSessionServiceClient::new(connect(self.bound.mesh))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn connect(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// Settings of a coordinator that listens on free ports.
pub(crate) fn settings(id: u64, directory: &TempDir) -> Settings {
    Settings {
        node_id: id,
        data_dir: directory.path().join(id.to_string()),
        api_listen: "127.0.0.1:0".into(),
        mesh_listen: "127.0.0.1:0".into(),
        ..Settings::default()
    }
}

/// A coordinator alone, which leads.
pub(crate) async fn single(directory: &TempDir) -> Node {
    let node = Node::start(settings(1, directory)).await;
    leader(&[&node]).await;
    node
}

/// Settings of a mesh: its members must know each other's ports before they listen.
pub(crate) fn mesh_settings(directory: &TempDir, count: u64) -> Vec<Settings> {
    // All are held until all are known, so none is given out twice.
    let held: Vec<_> = (0..2 * count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let address = |index: u64| held[usize::try_from(index).unwrap()].local_addr().unwrap().to_string();
    let members: Vec<String> =
        (0..count).map(|i| format!("{}={}/{}", i + 1, address(2 * i), address(2 * i + 1))).collect();
    (0..count)
        .map(|i| Settings {
            mesh_listen: address(2 * i),
            api_listen: address(2 * i + 1),
            initial_members: members.clone(),
            ..settings(i + 1, directory)
        })
        .collect()
}

pub(crate) async fn mesh(directory: &TempDir, count: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for settings in mesh_settings(directory, count) {
        nodes.push(Node::start(settings).await);
    }
    nodes
}

/// Asks again until there is an answer, for at most `limit`.
pub(crate) async fn until<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The answer, which must come soon: a test that waits for ever says nothing.
pub(crate) async fn soon<T>(what: &str, answer: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// The id of the leader that all of the nodes agree on.
pub(crate) async fn leader(nodes: &[&Node]) -> u64 {
    until("one leader", Duration::from_secs(15), || async {
        let mut leaders = Vec::new();
        for node in nodes {
            let answer = node.mesh().get_mesh(v1::GetMeshRequest {}).await;
            leaders.push(answer.ok()?.into_inner().leader_id);
        }
        leaders.windows(2).all(|pair| pair[0] == pair[1]).then_some(*leaders.first()?).filter(|id| *id > 0)
    })
    .await
}

pub(crate) fn cluster_request(id: &str, port: u16) -> v1::CreateClusterRequest {
    let cluster =
        v1::Cluster { bootstrap_servers: vec![format!("localhost:{port}")], ..v1::Cluster::default() };
    v1::CreateClusterRequest { cluster_id: id.into(), cluster: Some(cluster), ..Default::default() }
}

pub(crate) fn flow_request(id: &str) -> v1::CreateFlowRequest {
    let flow = v1::Flow { source: "clusters/uk".into(), target: "clusters/hq".into(), ..v1::Flow::default() };
    v1::CreateFlowRequest { flow_id: id.into(), flow: Some(flow), ..Default::default() }
}

/// Makes the clusters `uk` and `hq` and a flow between them.
pub(crate) async fn make_flow(node: &Node, id: &str) -> v1::Flow {
    node.clusters().create_cluster(cluster_request("uk", 9092)).await.unwrap();
    node.clusters().create_cluster(cluster_request("hq", 9192)).await.unwrap();
    node.flows().create_flow(flow_request(id)).await.unwrap().into_inner()
}

/// The stable reason of a status.
pub(crate) fn reason(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
