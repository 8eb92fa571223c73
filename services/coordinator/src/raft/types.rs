//! What the Raft library is told about our types.
//!
//! Owns the wrappers that give commands and replies the traits that openraft asks for. Commands travel and are
//! stored as `mirrormesh.store.v1` bytes, never in the library's own form.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirrormesh_core::control::{Command, Reply};
use mirrormesh_proto::convert::command::{decode_command, encode_command};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Id of a coordinator.
pub(crate) type NodeId = u64;

/// How a coordinator is reached. Part of the Raft membership.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Where coordinators and workers reach it, `host:port`.
    pub(crate) mesh_address: String,
    /// Where it serves the public API, `host:port`.
    pub(crate) api_address: String,
}

/// A command in the log; shared, since it is read by the log, the replication and the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogCommand(pub(crate) Arc<Command>);

impl fmt::Display for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for LogCommand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(encode_command(&self.0)))
    }
}

impl<'de> Deserialize<'de> for LogCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)?;
        decode_command(&bytes).map(|command| Self(Arc::new(command))).map_err(D::Error::custom)
    }
}

/// What applying an entry answered; `None` for entries that are no commands. It never leaves the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogReply(pub(crate) Option<Reply>);

impl Serialize for LogReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The library can send replies to other nodes; we forward whole API calls instead, so nobody reads this.
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for LogReply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        Ok(Self(None))
    }
}

openraft::declare_raft_types!(
    /// The types of our Raft.
    pub(crate) TypeConfig:
        D = LogCommand,
        R = LogReply,
        Node = Node,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// Place of an entry in the log.
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote.
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
/// An entry of the log.
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
/// The members and where they were decided.
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// The members.
pub(crate) type Membership = openraft::Membership<NodeId, Node>;
/// What a snapshot is about.
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: its bytes are a `store.v1.Snapshot`.
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, bytes::Bytes>;
