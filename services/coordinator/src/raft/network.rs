//! Raft calls to other coordinators over `mirrormesh.mesh.v1.RaftService`.
//!
//! Owns the form of the messages on both sides and their bounds. Every call ends within the time that openraft gives
//! it: a peer that hangs must not hold up anything (openraft issue 1810).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mirrormesh_proto::mesh::RaftMessage;
use mirrormesh_proto::mesh::raft_service_client::RaftServiceClient;
use mirrormesh_runtime::complaint::Complaint;
use mirrormesh_runtime::grpc::{ChannelOptions, channel};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::types::{Node, NodeId, Snapshot, SnapshotMeta, TypeConfig, Vote};

/// `RaftMessage.format` of JSON of openraft 0.10.
const FORMAT_JSON: u32 = 1;
/// `RaftMessage.format` of a piece of a snapshot's bytes.
const FORMAT_BYTES: u32 = 2;
/// Largest message of Raft, in bytes: the largest command an API call can make, in base64, fits with room.
pub(crate) const RAFT_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Largest piece of a snapshot, in bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Largest snapshot that is taken, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;
/// Metadata key that names the coordinator that is meant: an address may have passed on to another one.
pub(crate) const TARGET_KEY: &str = "mirrormesh-raft-target";
/// Metadata key that names the coordinator that calls.
pub(crate) const SENDER_KEY: &str = "mirrormesh-raft-sender";

/// Makes clients of other coordinators.
#[derive(Debug)]
pub(crate) struct Network {
    own: NodeId,
    /// One channel per address and purpose; a snapshot must not hold up heartbeats.
    channels: BTreeMap<(String, bool), Channel>,
    /// What each peer's silence is worth in the log: one line, not one with every heartbeat.
    silences: BTreeMap<NodeId, Arc<Mutex<Complaint>>>,
}

impl Network {
    /// The network as seen by coordinator `own`.
    pub(crate) fn new(own: NodeId) -> Self {
        Self { own, channels: BTreeMap::new(), silences: BTreeMap::new() }
    }

    fn peer(&mut self, target: NodeId, node: &Node, for_snapshots: bool) -> Peer {
        let key = (node.mesh_address.clone(), for_snapshots);
        let channel = match self.channels.get(&key) {
            Some(channel) => Ok(channel.clone()),
            None => connect(&node.mesh_address).inspect(|channel| {
                self.channels.insert(key, channel.clone());
            }),
        };
        let silence = Arc::clone(self.silences.entry(target).or_default());
        Peer { own: self.own, target, channel, silence }
    }
}

fn connect(address: &str) -> Result<Channel, String> {
    let options = ChannelOptions { connect_timeout: Duration::from_millis(500), ..ChannelOptions::default() };
    channel(address, &options).map_err(|error| format!("mesh address {address}: {error}"))
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Node) -> Peer {
        self.peer(target, node, false)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Node) -> Peer {
        self.peer(target, node, true)
    }
}

/// A client of one other coordinator.
#[derive(Debug)]
pub(crate) struct Peer {
    own: NodeId,
    target: NodeId,
    channel: Result<Channel, String>,
    silence: Arc<Mutex<Complaint>>,
}

type Client = RaftServiceClient<Channel>;
type Answer = Result<Response<RaftMessage>, Status>;

impl Peer {
    fn client(&self) -> Result<Client, Fault> {
        let channel = self.channel.clone().map_err(Fault::Unreachable)?;
        Ok(RaftServiceClient::new(channel)
            .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX))
    }

    fn request<T>(&self, message: T, limit: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(TARGET_KEY, self.target.into());
        request.metadata_mut().insert(SENDER_KEY, self.own.into());
        request.set_timeout(limit);
        request
    }

    /// One call, within `soft_ttl`: the transport's own end comes before openraft's.
    async fn call<Q: Serialize, A: DeserializeOwned, F: Future<Output = Answer>>(
        &self,
        question: &Q,
        option: &RPCOption,
        call: impl FnOnce(Client, Request<RaftMessage>) -> F,
    ) -> Result<A, RPCError<TypeConfig>> {
        let limit = option.soft_ttl();
        let answer = async {
            let request = self.request(to_message(question).map_err(Fault::Status)?, limit);
            let answer = call(self.client()?, request).await.map_err(Fault::Status)?;
            from_message(answer.get_ref()).map_err(Fault::Status)
        };
        let answer = tokio::time::timeout(limit, answer).await.unwrap_or(Err(Fault::Timeout(limit)));
        self.note(answer.as_ref().err());
        answer.map_err(Fault::into_rpc)
    }

    /// Logs when a peer has not answered for some seconds, and when it answers again.
    fn note(&self, fault: Option<&Fault>) {
        let mut silence = self.silence.lock();
        match fault {
            Some(fault) => {
                if silence.failed("SILENT", Instant::now()) {
                    tracing::warn!(coordinator = self.target, %fault, "a coordinator does not answer");
                }
            }
            None => {
                if silence.passed() {
                    tracing::info!(coordinator = self.target, "the coordinator answers again");
                }
            }
        }
    }
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Unreachable(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Status(Status),
}

impl Fault {
    /// Nobody there: openraft waits before it tries again. Otherwise it may try at once.
    fn into_rpc(self) -> RPCError<TypeConfig> {
        match &self {
            Self::Timeout(_) => RPCError::Network(NetworkError::from_string(&self)),
            Self::Status(status) if status.code() == Code::DeadlineExceeded => {
                RPCError::Network(NetworkError::from_string(&self))
            }
            Self::Unreachable(_) | Self::Status(_) => RPCError::Unreachable(Unreachable::from_string(&self)),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(
            &request,
            &option,
            |mut client, request| async move { client.append_entries(request).await },
        )
        .await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(&request, &option, |mut client, request| async move { client.vote(request).await }).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(&request, &option, |mut client, request| async move { client.pre_vote(request).await })
            .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(
            &request,
            &option,
            |mut client, request| async move { client.transfer_leader(request).await },
        )
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let limit = option.soft_ttl();
        let sending = async {
            let messages = snapshot_messages(vote, snapshot).map_err(Fault::Status)?;
            let request = self.request(futures::stream::iter(messages), limit);
            let answer = self.client()?.install_snapshot(request).await.map_err(Fault::Status)?;
            from_message(answer.get_ref()).map_err(Fault::Status)
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = tokio::time::timeout(limit, sending) => {
                let answer = answer.unwrap_or(Err(Fault::Timeout(limit)));
                answer.map_err(|fault| StreamingError::from(fault.into_rpc()))
            }
        }
    }
}

/// First message of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotHead {
    vote: Vote,
    meta: SnapshotMeta,
    bytes: u64,
}

fn snapshot_messages(
    vote: Vote,
    snapshot: Snapshot,
) -> Result<impl Iterator<Item = RaftMessage> + Send + 'static, Status> {
    let mut rest = snapshot.snapshot;
    let head =
        SnapshotHead { vote, meta: snapshot.meta, bytes: u64::try_from(rest.len()).unwrap_or(u64::MAX) };
    let head = to_message(&head)?;
    let chunks = std::iter::from_fn(move || {
        let next = rest.split_to(rest.len().min(CHUNK_BYTES));
        (!next.is_empty()).then_some(RaftMessage { format: FORMAT_BYTES, payload: next })
    });
    Ok(std::iter::once(head).chain(chunks))
}

/// Puts a snapshot together from its messages.
pub(crate) async fn receive_snapshot(
    mut messages: impl futures::Stream<Item = Result<RaftMessage, Status>> + Unpin,
) -> Result<(Vote, Snapshot), Status> {
    use futures::StreamExt as _;
    let first =
        messages.next().await.unwrap_or_else(|| Err(Status::invalid_argument("the snapshot has no head")))?;
    let head: SnapshotHead = from_message(&first)?;
    if head.bytes > SNAPSHOT_BYTES_MAX {
        let text = format!("a snapshot of {} bytes is larger than {SNAPSHOT_BYTES_MAX}", head.bytes);
        return Err(Status::resource_exhausted(text));
    }
    let mut bytes = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        bytes.extend_from_slice(&message.payload);
        if message.format != FORMAT_BYTES || bytes.len() as u64 > head.bytes {
            return Err(Status::invalid_argument("the snapshot is not what its head announced"));
        }
    }
    if bytes.len() as u64 != head.bytes {
        return Err(Status::invalid_argument("the snapshot ended early"));
    }
    Ok((head.vote, Snapshot { meta: head.meta, snapshot: bytes.into() }))
}

/// A library type as a message.
pub(crate) fn to_message<T: Serialize>(value: &T) -> Result<RaftMessage, Status> {
    let payload =
        serde_json::to_vec(value).map_err(|error| Status::internal(format!("raft message: {error}")))?;
    Ok(RaftMessage { format: FORMAT_JSON, payload: payload.into() })
}

/// A library type from a message.
pub(crate) fn from_message<T: DeserializeOwned>(message: &RaftMessage) -> Result<T, Status> {
    if message.format != FORMAT_JSON {
        let text = format!("raft message of format {}, this version knows {FORMAT_JSON}", message.format);
        return Err(Status::unimplemented(text));
    }
    serde_json::from_slice(&message.payload)
        .map_err(|error| Status::invalid_argument(format!("raft message does not parse: {error}")))
}
