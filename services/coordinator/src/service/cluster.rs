//! `mirrormesh.v1.ClusterService`.

use mirrormesh_core::control::{ClusterRecord, CommandKind, Reply};
use mirrormesh_core::ids::ClusterId;
use mirrormesh_proto::convert::api::{
    apply_cluster_mask, cluster_spec, cluster_to_api, parse_id, parse_name, write_guard,
};
use mirrormesh_proto::page::{page_size, page_start, page_token};
use mirrormesh_proto::v1::cluster_service_server::ClusterService;
use mirrormesh_proto::v1::{
    Cluster, CreateClusterRequest, DeleteClusterRequest, GetClusterRequest, ListClustersRequest,
    ListClustersResponse, UpdateClusterRequest,
};
use mirrormesh_proto::{ConvertError, Faults, fingerprint};
use tonic::{Code, Request, Response, Status};

use super::{Context, OVERTAKEN_MAX, page, status};

const LIST: &str = "clusters";

/// The service.
#[derive(Debug)]
pub(crate) struct Clusters(pub(crate) Context);

impl Clusters {
    async fn carry_out(&self, kind: CommandKind, validate_only: bool) -> Result<Reply, Status> {
        if validate_only { Ok(self.0.rehearse(kind).await?.0) } else { self.0.write(kind).await }
    }
}

fn shown(reply: &Reply) -> Result<Response<Cluster>, Status> {
    match reply {
        Reply::Cluster(id, record) => Ok(Response::new(cluster_to_api(id, record))),
        other => Err(status::unexpected(other)),
    }
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn create_cluster(
        &self,
        request: Request<CreateClusterRequest>,
    ) -> Result<Response<Cluster>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let mut faults = Faults::new();
        let id = faults.keep(parse_id::<ClusterId>(&request.cluster_id, "cluster_id"));
        let cluster = request.cluster.as_ref().ok_or_else(|| ConvertError::new("cluster", "is missing"));
        let spec = faults.keep(cluster).and_then(|cluster| cluster_spec(cluster, &mut faults));
        let guard = faults.keep(write_guard(&request_id, fingerprint(&request), "", "cluster.etag"));
        let ((id, spec), guard) = faults.finish_with(id.zip(spec).zip(guard))?;
        let kind = CommandKind::PutCluster { id, spec, create: true, guard };
        shown(&self.carry_out(kind, request.validate_only).await?)
    }

    async fn get_cluster(&self, request: Request<GetClusterRequest>) -> Result<Response<Cluster>, Status> {
        let id = parse_name::<ClusterId>("clusters", &request.get_ref().name, "name")?;
        let (_, state) = self.0.read().await?;
        let record = state.clusters.get(&id).ok_or_else(|| not_found(&id))?;
        Ok(Response::new(cluster_to_api(&id, record)))
    }

    async fn list_clusters(
        &self,
        request: Request<ListClustersRequest>,
    ) -> Result<Response<ListClustersResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::new();
        let size = faults.keep(page_size(request.page_size));
        let start = faults.keep(page_start(LIST, &request.page_token));
        let (size, start) = faults.finish_with(size.zip(start))?;
        let (_, state) = self.0.read().await?;
        let entries = state
            .clusters
            .iter()
            .map(|(id, record): (&ClusterId, &ClusterRecord)| (id.as_str(), (id, record)));
        let (entries, last) = page(entries, start.as_deref(), size);
        Ok(Response::new(ListClustersResponse {
            clusters: entries.into_iter().map(|(id, record)| cluster_to_api(id, record)).collect(),
            next_page_token: last.map(|last| page_token(LIST, last)).unwrap_or_default(),
        }))
    }

    async fn update_cluster(
        &self,
        request: Request<UpdateClusterRequest>,
    ) -> Result<Response<Cluster>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let update = request.cluster.clone().unwrap_or_default();
        let mut faults = Faults::new();
        let id = faults.keep(parse_name::<ClusterId>("clusters", &update.name, "cluster.name"));
        let guard =
            faults.keep(write_guard(&request_id, fingerprint(&request), &update.etag, "cluster.etag"));
        let (id, guard) = faults.finish_with(id.zip(guard))?;
        let unconditional = guard.expected_revision.is_none();
        for _ in 0..OVERTAKEN_MAX {
            let (_, state) = self.0.read().await?;
            let present = state.clusters.get(&id).ok_or_else(|| not_found(&id))?;
            let spec = apply_cluster_mask(&present.spec, &update, request.update_mask.as_ref())?;
            let mut guard = guard.clone();
            // Fields that the mask does not name come from what was read: it must still be the newest.
            guard.expected_revision.get_or_insert(present.revision);
            let kind = CommandKind::PutCluster { id: id.clone(), spec, create: false, guard };
            match self.carry_out(kind, request.validate_only).await {
                Err(status) if unconditional && status.code() == Code::Aborted => {}
                result => return shown(&result?),
            }
        }
        Err(status::unavailable(
            "OVERTAKEN",
            format!("clusters/{id} is changed too often by others: try again"),
        ))
    }

    async fn delete_cluster(&self, request: Request<DeleteClusterRequest>) -> Result<Response<()>, Status> {
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let mut faults = Faults::new();
        let id = faults.keep(parse_name::<ClusterId>("clusters", &request.name, "name"));
        let guard = faults.keep(write_guard(&request_id, fingerprint(&request), &request.etag, "etag"));
        let (id, guard) = faults.finish_with(id.zip(guard))?;
        self.carry_out(CommandKind::DeleteCluster { id, guard }, request.validate_only).await?;
        Ok(Response::new(()))
    }
}

fn not_found(id: &ClusterId) -> Status {
    status::not_found("CLUSTER_NOT_FOUND", format_args!("clusters/{id}"))
}
