//! Raft: adapters between openraft and the pure control state, and the one door to it.
//!
//! Owns the log, the snapshots, the calls between coordinators and the first membership. Only this folder names
//! openraft and redb.

mod codec;
mod handle;
mod log_store;
mod network;
mod peer_service;
mod start;
mod state_machine;
mod storage;
#[cfg(test)]
mod tests;
mod traces;
mod types;

pub(crate) use handle::{Leadership, Member, RaftFault, RaftHandle};
pub(crate) use network::RAFT_MESSAGE_BYTES_MAX;
pub(crate) use peer_service::PeerService;
pub(crate) use start::{HANDOVER_MAX, RunningRaft, StartPlan, start};
pub(crate) use traces::FlowTraces;
pub(crate) use types::{Node, NodeId};
