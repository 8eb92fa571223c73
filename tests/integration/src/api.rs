//! The public API as a client sees it: several coordinators, any of which serves any call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_proto::v1;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// One call may take so long.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that goes on with the next coordinator when one does not answer.
#[derive(Debug, Clone)]
pub struct Api {
    channels: Vec<Channel>,
    next: usize,
}

/// The coordinator did not answer, or can't now: another may. A request that was sent may have had its effect, so writes
/// carry a request id. A connection that broke in the middle shows as an unknown error with the transport as source.
///
/// The end of the client's own patience is among them: tonic says CANCELLED for it, other clients
/// `DEADLINE_EXCEEDED`.
pub fn passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
        || (status.code() == Code::Unknown && std::error::Error::source(status).is_some())
}

macro_rules! call {
    ($self:ident, $client:path, $method:ident, $request:expr) => {{
        let mut last = Status::unavailable("no coordinator is known");
        for _ in 0..$self.channels.len() {
            let Some(channel) = $self.channels.get($self.next).cloned() else { break };
            let mut request = tonic::Request::new($request.clone());
            request.set_timeout(CALL_TIMEOUT);
            match <$client>::new(channel).$method(request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if passing(&status) => {
                    last = status;
                    $self.next = ($self.next + 1) % $self.channels.len();
                }
                Err(status) => return Err(status),
            }
        }
        Err(last)
    }};
}

/// One for each logical request, the same for its retries.
fn request_id() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

impl Api {
    /// Connects to nothing yet. Addresses are `host:port`.
    pub fn new(addresses: &[String]) -> Result<Self> {
        let channel = |address: &String| -> Result<Channel> {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .with_context(|| format!("{address} is not an address"))?;
            Ok(endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy())
        };
        Ok(Self { channels: addresses.iter().map(channel).collect::<Result<_>>()?, next: 0 })
    }

    /// Creates a cluster. `bootstrap` is `host:port`, or several with commas between.
    pub async fn create_cluster(&mut self, id: &str, bootstrap: &str) -> Result<v1::Cluster, Status> {
        let bootstrap_servers = bootstrap.split(',').map(str::to_owned).collect();
        let cluster = v1::Cluster { bootstrap_servers, ..v1::Cluster::default() };
        let request = v1::CreateClusterRequest {
            cluster_id: id.to_owned(),
            cluster: Some(cluster),
            request_id: request_id(),
            ..v1::CreateClusterRequest::default()
        };
        call!(self, v1::cluster_service_client::ClusterServiceClient<Channel>, create_cluster, request)
    }

    /// Reads a cluster.
    pub async fn cluster(&mut self, id: &str) -> Result<v1::Cluster, Status> {
        let request = v1::GetClusterRequest { name: format!("clusters/{id}") };
        call!(self, v1::cluster_service_client::ClusterServiceClient<Channel>, get_cluster, request)
    }

    /// Changes fields of a cluster; `paths` as in an update mask.
    pub async fn update_cluster(
        &mut self,
        cluster: v1::Cluster,
        paths: &[&str],
    ) -> Result<v1::Cluster, Status> {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        let request = v1::UpdateClusterRequest {
            cluster: Some(cluster),
            update_mask: Some(prost_types::FieldMask { paths }),
            request_id: request_id(),
            ..v1::UpdateClusterRequest::default()
        };
        call!(self, v1::cluster_service_client::ClusterServiceClient<Channel>, update_cluster, request)
    }

    /// Creates a flow.
    pub async fn create_flow(&mut self, id: &str, flow: v1::Flow) -> Result<v1::Flow, Status> {
        let request = v1::CreateFlowRequest {
            flow_id: id.to_owned(),
            flow: Some(flow),
            request_id: request_id(),
            ..v1::CreateFlowRequest::default()
        };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, create_flow, request)
    }

    /// Changes fields of a flow; `paths` as in an update mask.
    pub async fn update_flow(&mut self, flow: v1::Flow, paths: &[&str]) -> Result<v1::Flow, Status> {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        let request = v1::UpdateFlowRequest {
            flow: Some(flow),
            update_mask: Some(prost_types::FieldMask { paths }),
            request_id: request_id(),
            ..v1::UpdateFlowRequest::default()
        };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, update_flow, request)
    }

    /// Reads a flow.
    pub async fn flow(&mut self, id: &str) -> Result<v1::Flow, Status> {
        let request = v1::GetFlowRequest { name: format!("flows/{id}") };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, get_flow, request)
    }

    /// Pauses a flow.
    pub async fn pause_flow(&mut self, id: &str) -> Result<v1::Flow, Status> {
        let request = v1::PauseFlowRequest { name: format!("flows/{id}"), ..v1::PauseFlowRequest::default() };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, pause_flow, request)
    }

    /// Resumes a flow.
    pub async fn resume_flow(&mut self, id: &str) -> Result<v1::Flow, Status> {
        let request =
            v1::ResumeFlowRequest { name: format!("flows/{id}"), ..v1::ResumeFlowRequest::default() };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, resume_flow, request)
    }

    /// Pauses partitions of a topic, or the whole topic.
    pub async fn pause_flow_topic(
        &mut self,
        id: &str,
        topic: &str,
        partitions: &[i32],
    ) -> Result<v1::FlowTopic, Status> {
        let request = v1::PauseFlowTopicRequest {
            name: format!("flows/{id}/topics/{topic}"),
            partitions: partitions.to_vec(),
            request_id: request_id(),
        };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, pause_flow_topic, request)
    }

    /// Resumes partitions of a topic, or the whole topic.
    pub async fn resume_flow_topic(
        &mut self,
        id: &str,
        topic: &str,
        partitions: &[i32],
    ) -> Result<v1::FlowTopic, Status> {
        let request = v1::ResumeFlowTopicRequest {
            name: format!("flows/{id}/topics/{topic}"),
            partitions: partitions.to_vec(),
            request_id: request_id(),
        };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, resume_flow_topic, request)
    }

    /// Deletes a flow.
    pub async fn delete_flow(&mut self, id: &str) -> Result<(), Status> {
        let request =
            v1::DeleteFlowRequest { name: format!("flows/{id}"), ..v1::DeleteFlowRequest::default() };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, delete_flow, request)
    }

    /// All topics of a flow.
    pub async fn flow_topics(&mut self, id: &str) -> Result<v1::ListFlowTopicsResponse, Status> {
        let request = v1::ListFlowTopicsRequest {
            parent: format!("flows/{id}"),
            page_size: 1_000,
            ..v1::ListFlowTopicsRequest::default()
        };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, list_flow_topics, request)
    }

    /// What a flow would do with every topic of its source.
    pub async fn preview(&mut self, flow: v1::Flow) -> Result<v1::PreviewFlowTopicsResponse, Status> {
        let request = v1::PreviewFlowTopicsRequest {
            flow: Some(flow),
            page_size: 1_000,
            ..v1::PreviewFlowTopicsRequest::default()
        };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, preview_flow_topics, request)
    }

    /// The newest events of a flow.
    pub async fn flow_events(&mut self, id: &str) -> Result<v1::ListFlowEventsResponse, Status> {
        let request = v1::ListFlowEventsRequest {
            parent: format!("flows/{id}"),
            page_size: 100,
            ..v1::ListFlowEventsRequest::default()
        };
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, list_flow_events, request)
    }

    /// All events of a flow that the mesh still has, newest first.
    pub async fn all_flow_events(&mut self, id: &str) -> Result<Vec<v1::FlowEvent>, Status> {
        let mut request = v1::ListFlowEventsRequest {
            parent: format!("flows/{id}"),
            page_size: 1_000,
            ..v1::ListFlowEventsRequest::default()
        };
        let mut events = Vec::new();
        loop {
            let page = self.event_page(&request).await?;
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return Ok(events);
            }
            request.page_token = page.next_page_token;
        }
    }

    async fn event_page(
        &mut self,
        request: &v1::ListFlowEventsRequest,
    ) -> Result<v1::ListFlowEventsResponse, Status> {
        call!(self, v1::flow_service_client::FlowServiceClient<Channel>, list_flow_events, request)
    }

    /// Watches a flow; a failing coordinator ends the stream.
    pub async fn watch_flow(&mut self, id: &str) -> Result<Streaming<v1::WatchFlowResponse>, Status> {
        let request = v1::WatchFlowRequest { name: format!("flows/{id}"), include_topics: false };
        let channel = self.channels.get(self.next).cloned();
        let channel = channel.ok_or_else(|| Status::unavailable("no coordinator is known"))?;
        let answer = v1::flow_service_client::FlowServiceClient::new(channel).watch_flow(request).await;
        if answer.is_err() {
            self.next = (self.next + 1) % self.channels.len();
        }
        answer.map(tonic::Response::into_inner)
    }

    /// All workers.
    pub async fn workers(&mut self) -> Result<v1::ListWorkersResponse, Status> {
        let request = v1::ListWorkersRequest::default();
        call!(self, v1::worker_service_client::WorkerServiceClient<Channel>, list_workers, request)
    }

    /// The coordinators.
    pub async fn mesh(&mut self) -> Result<v1::Mesh, Status> {
        let request = v1::GetMeshRequest {};
        call!(self, v1::mesh_service_client::MeshServiceClient<Channel>, get_mesh, request)
    }

    /// Waits until a flow is as wished, and returns it; says how it is when it takes too long.
    pub async fn wait_for_flow(
        &mut self,
        id: &str,
        what: &str,
        limit: Duration,
        wished: impl Fn(&v1::Flow) -> bool,
    ) -> Result<v1::Flow> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.flow(id).await;
            match answer {
                Ok(flow) if wished(&flow) => return Ok(flow),
                other if Instant::now() > deadline => {
                    bail!("{what}: not within {limit:?}; flow {id} is {other:#?}")
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}
