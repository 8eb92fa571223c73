//! `mirrormesh.v1.WorkerService`.

use std::collections::BTreeMap;

use mirrormesh_core::control::{CommandKind, ControlState};
use mirrormesh_core::ids::WorkerId;
use mirrormesh_proto::Faults;
use mirrormesh_proto::convert::api::{parse_name, worker_to_api};
use mirrormesh_proto::page::{page_size, page_start, page_token};
use mirrormesh_proto::v1::worker_service_server::WorkerService;
use mirrormesh_proto::v1::{
    DrainWorkerRequest, GetWorkerRequest, ListWorkersRequest, ListWorkersResponse, Worker,
};
use tonic::{Request, Response, Status};

use super::{Context, page, status};

const LIST: &str = "workers";

/// The service.
#[derive(Debug)]
pub(crate) struct Workers(pub(crate) Context);

fn shown(state: &ControlState, id: &WorkerId) -> Result<Response<Worker>, Status> {
    let record = state
        .workers
        .get(id)
        .ok_or_else(|| status::not_found("WORKER_NOT_FOUND", format_args!("workers/{id}")))?;
    let units = state.owners.values().filter(|owner| owner.worker == *id).count();
    Ok(Response::new(worker_to_api(id, record, units)))
}

#[tonic::async_trait]
impl WorkerService for Workers {
    async fn get_worker(&self, request: Request<GetWorkerRequest>) -> Result<Response<Worker>, Status> {
        let id = parse_name::<WorkerId>("workers", &request.get_ref().name, "name")?;
        let (_, state) = self.0.read().await?;
        shown(&state, &id)
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let request = request.into_inner();
        let mut faults = Faults::new();
        let size = faults.keep(page_size(request.page_size));
        let start = faults.keep(page_start(LIST, &request.page_token));
        let (size, start) = faults.finish_with(size.zip(start))?;
        let (_, state) = self.0.read().await?;
        let mut units: BTreeMap<&WorkerId, usize> = BTreeMap::new();
        for owner in state.owners.values() {
            *units.entry(&owner.worker).or_default() += 1;
        }
        let entries = state.workers.iter().map(|(id, record)| (id.as_str(), (id, record)));
        let (entries, last) = page(entries, start.as_deref(), size);
        let shown = |(id, record)| worker_to_api(id, record, units.get(id).copied().unwrap_or_default());
        Ok(Response::new(ListWorkersResponse {
            workers: entries.into_iter().map(shown).collect(),
            next_page_token: last.map(|last| page_token(LIST, last)).unwrap_or_default(),
        }))
    }

    async fn drain_worker(&self, request: Request<DrainWorkerRequest>) -> Result<Response<Worker>, Status> {
        let worker = parse_name::<WorkerId>("workers", &request.get_ref().name, "name")?;
        self.0.write(CommandKind::DrainWorker { worker: worker.clone() }).await?;
        shown(&self.0.raft.newest(), &worker)
    }
}
