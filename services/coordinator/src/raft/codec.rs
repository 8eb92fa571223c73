//! Between the Raft library's types and what is stored (`mirrormesh.store.v1`): readable for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use mirrormesh_core::control::ControlState;
use mirrormesh_proto::store;
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::vote::RaftLeaderId as _;
use prost::Message;

use super::types::{Entry, LogCommand, LogId, Membership, Node, StoredMembership, Vote};

/// Stored bytes that can't be read: damaged, or written by a version that is not compatible.
pub(super) fn damaged(what: &str, problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("stored {what} can't be read: {problem}"))
}

pub(super) fn log_id_to_store(id: &LogId) -> store::LogId {
    let leader = id.committed_leader_id();
    store::LogId { term: leader.term, node_id: leader.node_id, index: id.index() }
}

pub(super) fn log_id_from_store(id: store::LogId) -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<super::types::TypeConfig>::new(id.term, id.node_id), id.index)
}

pub(super) fn decode_log_id(bytes: &[u8]) -> io::Result<LogId> {
    store::LogId::decode(bytes).map(log_id_from_store).map_err(|error| damaged("log id", error))
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let leader = vote.leader_id();
    store::Vote { term: leader.term, node_id: leader.node_id, committed: vote.is_committed() }.encode_to_vec()
}

pub(super) fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    let vote = store::Vote::decode(bytes).map_err(|error| damaged("vote", error))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    })
}

fn membership_to_store(log_id: Option<&LogId>, membership: &Membership) -> store::Membership {
    store::Membership {
        log_id: log_id.map(log_id_to_store),
        voter_sets: membership
            .get_joint_config()
            .iter()
            .map(|set| store::VoterSet { node_ids: set.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| store::Node {
                id: *id,
                mesh_address: node.mesh_address.clone(),
                api_address: node.api_address.clone(),
            })
            .collect(),
    }
}

fn membership_from_store(membership: store::Membership) -> io::Result<Membership> {
    let sets: Vec<BTreeSet<u64>> =
        membership.voter_sets.into_iter().map(|set| set.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Node> = membership
        .nodes
        .into_iter()
        .map(|node| (node.id, Node { mesh_address: node.mesh_address, api_address: node.api_address }))
        .collect();
    if sets.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(sets, nodes).map_err(|error| damaged("membership", error))
}

/// Encodes an entry as `store.v1.LogEntry`.
pub(super) fn encode_entry(entry: &Entry) -> Bytes {
    use store::log_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(LogCommand(command)) => Some(Payload::Command(store::Command::from(&**command))),
        EntryPayload::Membership(membership) => {
            Some(Payload::Membership(membership_to_store(None, membership)))
        }
    };
    let stored = store::LogEntry { log_id: Some(log_id_to_store(&entry.log_id)), payload };
    Bytes::from(stored.encode_to_vec())
}

pub(super) fn decode_entry(bytes: &[u8]) -> io::Result<Entry> {
    use store::log_entry::Payload;
    let stored = store::LogEntry::decode(bytes).map_err(|error| damaged("log entry", error))?;
    let log_id = stored.log_id.ok_or_else(|| damaged("log entry", "it has no log id"))?;
    let payload = match stored.payload {
        None => EntryPayload::Blank,
        Some(Payload::Command(command)) => {
            let command = command.try_into().map_err(|error| damaged("command", error))?;
            EntryPayload::Normal(LogCommand(Arc::new(command)))
        }
        Some(Payload::Membership(membership)) => EntryPayload::Membership(membership_from_store(membership)?),
    };
    Ok(Entry::new(log_id_from_store(log_id), payload))
}

/// Reads only the place of a stored entry.
pub(super) fn entry_log_id(bytes: &[u8]) -> io::Result<LogId> {
    #[derive(Message)]
    struct Head {
        #[prost(message, optional, tag = "1")]
        log_id: Option<store::LogId>,
    }
    let head = Head::decode(bytes).map_err(|error| damaged("log entry", error))?;
    head.log_id.map(log_id_from_store).ok_or_else(|| damaged("log entry", "it has no log id"))
}

/// What a snapshot holds.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotContent {
    pub(super) last_applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) state: Arc<ControlState>,
}

pub(super) fn encode_snapshot(content: &SnapshotContent) -> Bytes {
    let membership =
        membership_to_store(content.membership.log_id().as_ref(), content.membership.membership());
    let stored = store::Snapshot {
        last_applied: content.last_applied.as_ref().map(log_id_to_store),
        membership: Some(membership),
        state: Some(store::State::from(&*content.state)),
    };
    Bytes::from(stored.encode_to_vec())
}

pub(super) fn decode_snapshot(bytes: &[u8]) -> io::Result<SnapshotContent> {
    let stored = store::Snapshot::decode(bytes).map_err(|error| damaged("snapshot", error))?;
    let membership = stored.membership.unwrap_or_default();
    let membership_log_id = membership.log_id.map(log_id_from_store);
    let state = stored.state.unwrap_or_default().try_into().map_err(|error| damaged("state", error))?;
    Ok(SnapshotContent {
        last_applied: stored.last_applied.map(log_id_from_store),
        membership: StoredMembership::new(membership_log_id, membership_from_store(membership)?),
        state: Arc::new(state),
    })
}
