//! The one door to Raft: propose a command, read the state, know who leads, change the members.
//!
//! Owns the bounds on how long each of these may take, and the translation of the library's errors. Everything
//! outside this folder sees commands, states and [`RaftFault`]s, never openraft.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::control::{Command, CommandKind, ControlState, Reply};
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_runtime::trace_context::current_traceparent;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::{ChangeMembers, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::state_machine::Raft;
use super::traces::FlowTraces;
use super::types::{LogCommand, Node, NodeId, TypeConfig};

/// A command is committed within this time, or its outcome is unknown to the caller.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Leadership is confirmed by a quorum within this time.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// A change of the members takes two entries and, for a new one, its catching up.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(20);

/// Why Raft did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RaftFault {
    /// Another coordinator leads, or none.
    #[error("this coordinator does not lead")]
    NotLeader,
    /// No quorum can be reached.
    #[error("no quorum of coordinators can be reached: {0}")]
    NoQuorum(String),
    /// The leadership changed, or no quorum answered in time, after the command was on its way.
    #[error("the outcome is not known: it may have been carried out, read before repeating it")]
    Uncertain,
    /// The change of the members is refused.
    #[error("{0}")]
    Membership(String),
    /// Raft has stopped, by shutdown or by an error of the disk.
    #[error("raft has stopped: {0}")]
    Stopped(String),
}

/// Who leads, as far as this coordinator knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Leadership {
    /// The term.
    pub(crate) term: u64,
    /// The leader, if one is known.
    pub(crate) leader: Option<(NodeId, Node)>,
    /// It is this coordinator.
    pub(crate) is_self: bool,
}

/// One coordinator as member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its id.
    pub(crate) id: NodeId,
    /// How it is reached.
    pub(crate) node: Node,
    /// It votes.
    pub(crate) voter: bool,
}

/// The door; clones share it.
#[derive(Clone)]
pub(crate) struct RaftHandle {
    pub(super) raft: Raft,
    pub(super) own: NodeId,
    pub(super) states: watch::Receiver<Arc<ControlState>>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) proposals: opentelemetry::metrics::Histogram<f64>,
    /// Trace of the last proposal: the plan that follows belongs to it.
    pub(super) last_trace: Arc<Mutex<Option<String>>>,
    /// Traces of the last changes of flows: the units that follow belong to them.
    pub(super) flow_traces: FlowTraces,
}

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHandle").field("own", &self.own).finish_non_exhaustive()
    }
}

impl RaftHandle {
    /// Id of this coordinator.
    pub(crate) fn own_id(&self) -> NodeId {
        self.own
    }

    /// Has a command carried out; returns when it is applied here. It gets the time of this coordinator's clock.
    #[tracing::instrument(name = "propose", skip_all, fields(command = kind.name()))]
    pub(crate) async fn propose(&self, kind: CommandKind) -> Result<Reply, RaftFault> {
        let begin = Instant::now();
        let name = kind.name();
        let trace = current_traceparent();
        if let Some(trace) = &trace {
            self.flow_traces.note(&kind, trace, begin.into_std());
        }
        *self.last_trace.lock() = trace;
        let command = LogCommand(Arc::new(Command { at_ms: now_ms(), kind }));
        let written = timeout(PROPOSE_TIMEOUT, self.raft.client_write(command)).await;
        let attributes = [opentelemetry::KeyValue::new("command", name)];
        self.proposals.record(begin.elapsed().as_secs_f64(), &attributes);
        match written {
            Ok(Ok(response)) => response.data.0.ok_or(RaftFault::Uncertain),
            Ok(Err(error)) => Err(write_fault(error)),
            Err(_) => Err(RaftFault::Uncertain),
        }
    }

    /// The state with everything that was acknowledged before this call (`ReadIndex`).
    pub(crate) async fn read(&self) -> Result<Arc<ControlState>, RaftFault> {
        match timeout(READ_TIMEOUT, self.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Ok(Ok(_)) => Ok(self.newest()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => {
                Err(RaftFault::NotLeader)
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)))) => {
                Err(RaftFault::NoQuorum(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(RaftFault::Stopped(fatal.to_string())),
            Err(_) => Err(RaftFault::NoQuorum(format!("no answer within {} s", READ_TIMEOUT.as_secs()))),
        }
    }

    /// The newest state that was applied here; on the leader it holds everything that it acknowledged.
    pub(crate) fn newest(&self) -> Arc<ControlState> {
        Arc::clone(&self.states.borrow())
    }

    /// Follows the applied state; newest wins.
    pub(crate) fn watch_states(&self) -> watch::Receiver<Arc<ControlState>> {
        self.states.clone()
    }

    /// Follows who leads.
    pub(crate) fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Who leads now.
    pub(crate) fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// The traces that the last changes of flows belonged to.
    pub(crate) fn flow_traces(&self) -> FlowTraces {
        self.flow_traces.clone()
    }

    /// The trace that the last proposal belonged to.
    pub(crate) fn last_trace(&self) -> Option<String> {
        self.last_trace.lock().clone()
    }

    /// All members in the order of their ids.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, RaftFault> {
        let membership = self
            .raft
            .with_raft_state(|state| state.membership_state.effective().membership().clone())
            .await
            .map_err(|fatal| RaftFault::Stopped(fatal.to_string()))?;
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        Ok(membership
            .nodes()
            .map(|(id, node)| Member { id: *id, node: node.clone(), voter: voters.contains(id) })
            .collect())
    }

    /// Adds a coordinator; waits until it has caught up before it may vote.
    pub(crate) async fn add_member(&self, member: Member) -> Result<(), RaftFault> {
        bounded(async {
            self.raft.add_learner(member.id, member.node, true).await.map_err(write_fault)?;
            if member.voter {
                let change = ChangeMembers::AddVoterIds(BTreeSet::from([member.id]));
                self.raft.change_membership(change, false).await.map_err(write_fault)?;
            }
            Ok(())
        })
        .await
    }

    /// Removes a coordinator, voter or not.
    pub(crate) async fn remove_member(&self, id: NodeId, voter: bool) -> Result<(), RaftFault> {
        let ids = BTreeSet::from([id]);
        let change = if voter { ChangeMembers::RemoveVoters(ids) } else { ChangeMembers::RemoveNodes(ids) };
        bounded(async {
            self.raft.change_membership(change, false).await.map_err(write_fault)?;
            Ok(())
        })
        .await
    }

    /// Says under which addresses this coordinator is reached from now on; for the leader only.
    pub(crate) async fn set_own_node(&self, node: Node) -> Result<(), RaftFault> {
        let change = ChangeMembers::SetNodes(BTreeMap::from([(self.own, node)]));
        bounded(async {
            self.raft.change_membership(change, true).await.map_err(write_fault)?;
            Ok(())
        })
        .await
    }

    /// Hands the leadership over and waits until this coordinator has heard of the new leader.
    pub(crate) async fn transfer_leadership(&self, to: NodeId, wait: Duration) -> Result<(), RaftFault> {
        let mut leadership = self.leadership.clone();
        let stopped = |text: String| RaftFault::Stopped(text);
        self.raft.trigger().transfer_leader(to).await.map_err(|fatal| stopped(fatal.to_string()))?;
        let arrived = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|(id, _)| *id == to));
        match timeout(wait, arrived).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopped("nobody knows who leads".to_owned())),
            Err(_) => Err(RaftFault::NoQuorum(format!("coordinator {to} did not take over in time"))),
        }
    }

    /// The voter, other than this coordinator, whose log is the most complete; for the leader only.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
        let replication = metrics.replication?;
        let others = replication.iter().filter(|(id, _)| voters.contains(id) && **id != self.own);
        others.max_by_key(|(_, matched)| matched.map(|id| id.index())).map(|(id, _)| *id)
    }

    /// Stops Raft on this coordinator.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "raft ended badly");
        }
    }
}

async fn bounded(change: impl Future<Output = Result<(), RaftFault>>) -> Result<(), RaftFault> {
    timeout(MEMBERSHIP_TIMEOUT, change).await.unwrap_or_else(|_| {
        let text = format!("the change did not come through within {} s", MEMBERSHIP_TIMEOUT.as_secs());
        Err(RaftFault::NoQuorum(text))
    })
}

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

fn write_fault(error: WriteError) -> RaftFault {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader { .. })) => {
            RaftFault::NotLeader
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => RaftFault::Uncertain,
        RaftError::APIError(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => RaftFault::Membership(error.to_string()),
        RaftError::Fatal(fatal) => RaftFault::Stopped(fatal.to_string()),
    }
}
