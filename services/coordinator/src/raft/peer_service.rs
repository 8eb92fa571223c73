//! Raft calls from other coordinators: `mirrormesh.mesh.v1.RaftService`.
//!
//! Thin: unpacks, passes on to the library, packs the answer. Refuses calls that are meant for another coordinator
//! and those of another mesh.

use mirrormesh_proto::mesh::RaftMessage;
use mirrormesh_proto::mesh::raft_service_server::RaftService;
use serde::Serialize;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::handle::RaftHandle;
use super::network::{SENDER_KEY, TARGET_KEY, from_message, receive_snapshot, to_message};
use super::types::NodeId;

/// The service.
#[derive(Debug)]
pub(crate) struct PeerService {
    handle: RaftHandle,
}

impl PeerService {
    /// The service of the coordinator behind `handle`.
    pub(crate) fn new(handle: RaftHandle) -> Self {
        Self { handle }
    }

    fn check_target(&self, metadata: &MetadataMap) -> Result<NodeId, Status> {
        let id = |key| metadata.get(key).and_then(|value| value.to_str().ok()?.parse::<NodeId>().ok());
        let (target, sender) = id(TARGET_KEY).zip(id(SENDER_KEY)).ok_or_else(|| {
            Status::invalid_argument(format!("a raft call must carry {TARGET_KEY} and {SENDER_KEY}"))
        })?;
        if target != self.handle.own_id() {
            return Err(Status::failed_precondition(format!(
                "this is coordinator {}, not {target}: check the addresses of the members",
                self.handle.own_id()
            )));
        }
        Ok(sender)
    }

    /// A coordinator that is the only voter leads its mesh alone: nobody else can be a leader of it. Whoever says so
    /// belongs to another mesh, and what it sends would replace what was acknowledged here.
    fn check_mesh(&self, sender: NodeId) -> Result<(), Status> {
        let own = self.handle.own_id();
        let alone = self.handle.raft.voter_ids().eq([own]);
        if alone && sender != own {
            return Err(Status::failed_precondition(format!(
                "coordinator {own} is a mesh of its own: to add it to another one, start it with an empty data \
                 directory and `join` set"
            )));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl RaftService for PeerService {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let sender = self.check_target(request.metadata())?;
        self.check_mesh(sender)?;
        answer(self.handle.raft.append_entries(from_message(request.get_ref())?).await)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        self.check_target(request.metadata())?;
        answer(self.handle.raft.vote(from_message(request.get_ref())?).await)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        self.check_target(request.metadata())?;
        answer(self.handle.raft.pre_vote(from_message(request.get_ref())?).await)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let sender = self.check_target(request.metadata())?;
        self.check_mesh(sender)?;
        let (vote, snapshot) = receive_snapshot(request.into_inner()).await?;
        answer(self.handle.raft.install_full_snapshot(vote, snapshot).await)
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        self.check_target(request.metadata())?;
        answer(self.handle.raft.handle_transfer_leader(from_message(request.get_ref())?).await)
    }
}

/// An error here is fatal for this coordinator's Raft; to the caller it is as if nobody were there.
fn answer<T: Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Result<Response<RaftMessage>, Status> {
    let value = result.map_err(|error| Status::unavailable(format!("raft: {error}")))?;
    to_message(&value).map(Response::new)
}
