//! `mirrormesh.v1.MeshService`: the coordinators themselves.

use std::time::Duration;

use mirrormesh_proto::v1::mesh_service_server::MeshService;
use mirrormesh_proto::v1::{
    self, AddMemberRequest, GetMeshRequest, Mesh, RemoveMemberRequest, TransferLeadershipRequest,
};
use mirrormesh_proto::{ConvertError, Faults};
use tonic::{Code, Request, Response, Status};

use super::{Context, status};
use crate::raft::{Member, Node};

/// How long a transfer of the leadership is waited for.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub(crate) struct MeshMembers(pub(crate) Context);

impl MeshMembers {
    async fn members(&self) -> Result<Vec<Member>, Status> {
        self.0.raft.members().await.map_err(|fault| status::raft(&fault))
    }

    async fn member(&self, id: u64) -> Result<Member, Status> {
        let members = self.members().await?;
        members.into_iter().find(|member| member.id == id).ok_or_else(|| {
            status::with_reason(
                Code::NotFound,
                "MEMBER_NOT_FOUND",
                format!("the mesh has no coordinator {id}"),
            )
        })
    }

    /// The mesh as it is after a change; the change itself may have ended this coordinator's leadership.
    async fn shown(&self) -> Result<Response<Mesh>, Status> {
        let leadership = self.0.raft.leadership();
        let members = self.members().await?.into_iter().map(|member| v1::Member {
            id: member.id,
            mesh_address: member.node.mesh_address,
            api_address: member.node.api_address,
            voter: member.voter,
        });
        Ok(Response::new(Mesh {
            revision: i64::try_from(self.0.raft.newest().revision).unwrap_or(i64::MAX),
            leader_id: leadership.leader.map(|(id, _)| id).unwrap_or_default(),
            term: leadership.term,
            members: members.collect(),
        }))
    }
}

fn check_member(member: Option<v1::Member>) -> Result<Member, Status> {
    let Some(member) = member else { return Err(ConvertError::new("member", "is missing").into()) };
    let mut faults = Faults::new();
    if member.id == 0 {
        faults.push("member.id", "must be at least 1");
    }
    for (field, address) in
        [("member.mesh_address", &member.mesh_address), ("member.api_address", &member.api_address)]
    {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            faults.push(field, format!("{address:?} is not `host:port`"));
        }
    }
    faults.finish()?;
    let node = Node { mesh_address: member.mesh_address, api_address: member.api_address };
    Ok(Member { id: member.id, node, voter: member.voter })
}

#[tonic::async_trait]
impl MeshService for MeshMembers {
    async fn get_mesh(&self, _: Request<GetMeshRequest>) -> Result<Response<Mesh>, Status> {
        self.0.read().await?;
        self.shown().await
    }

    async fn add_member(&self, request: Request<AddMemberRequest>) -> Result<Response<Mesh>, Status> {
        let member = check_member(request.into_inner().member)?;
        self.0.lead().await?;
        let known = self.members().await?.into_iter().find(|known| known.id == member.id);
        if let Some(known) = known.filter(|known| known.voter || known.node != member.node) {
            let message =
                format!("the mesh has a coordinator {} already, at {}", known.id, known.node.mesh_address);
            return Err(status::with_reason(Code::AlreadyExists, "MEMBER_EXISTS", message));
        }
        self.0.raft.add_member(member).await.map_err(|fault| status::raft(&fault))?;
        self.shown().await
    }

    async fn remove_member(&self, request: Request<RemoveMemberRequest>) -> Result<Response<Mesh>, Status> {
        self.0.lead().await?;
        let member = self.member(request.get_ref().id).await?;
        let voters = self.members().await?.iter().filter(|member| member.voter).count();
        if member.voter && voters == 1 {
            let message = format!(
                "coordinator {} is the only one of the mesh that votes, so it can't be removed: add another one first \
                 (MeshService/AddMember with \"voter\": true), or stop this process to end the mesh",
                member.id
            );
            return Err(status::with_reason(Code::FailedPrecondition, "LAST_MEMBER", message));
        }
        self.0.raft.remove_member(member.id, member.voter).await.map_err(|fault| status::raft(&fault))?;
        self.shown().await
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<Mesh>, Status> {
        self.0.lead().await?;
        let member = self.member(request.get_ref().id).await?;
        if !member.voter {
            let message = format!("coordinator {} does not vote, so it can't lead", member.id);
            return Err(status::with_reason(Code::FailedPrecondition, "MEMBER_NOT_VOTER", message));
        }
        if member.id != self.0.raft.own_id() {
            let transfer = self.0.raft.transfer_leadership(member.id, TRANSFER_WAIT);
            transfer.await.map_err(|fault| status::raft(&fault))?;
        }
        self.shown().await
    }
}
