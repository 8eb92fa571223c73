//! The one map from what can go wrong to gRPC statuses, for calls that this coordinator answers itself.
//!
//! Reasons are stable: clients decide by them. Faults of fields and refusals by core have their map in
//! `mirrormesh-proto`.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use mirrormesh_core::control::{Reject, RejectCode, Reply};
use mirrormesh_core::ids::FlowId;
use mirrormesh_proto::{DOMAIN, status_of};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::raft::{Leadership, RaftFault};

/// Metadata key with the leader's mesh address, for workers.
pub(crate) const LEADER_KEY: &str = "mirrormesh-leader";
/// When to try again what may work in a moment.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// A status with a stable reason.
pub(crate) fn with_reason(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// UNAVAILABLE: the same call may work in a moment, here or elsewhere.
pub(crate) fn unavailable(reason: &str, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(Code::Unavailable, message, details)
}

/// No coordinator leads at the moment.
pub(crate) fn no_leader() -> Status {
    unavailable(
        "NO_LEADER",
        "no coordinator leads at the moment: an election is under way, or no quorum runs",
    )
}

/// The leadership that served a stream is over.
pub(crate) fn leader_changed() -> Status {
    unavailable("LEADER_CHANGED", "this coordinator does not lead any more: call again")
}

/// The coordinator is stopping.
pub(crate) fn stopping() -> Status {
    unavailable("STOPPING", "this coordinator is stopping: call again, another one answers")
}

/// What Raft could not do.
pub(crate) fn raft(fault: &RaftFault) -> Status {
    match fault {
        RaftFault::NotLeader => unavailable("NOT_LEADER", fault.to_string()),
        RaftFault::NoQuorum(_) => unavailable("NO_QUORUM", fault.to_string()),
        RaftFault::Uncertain => unavailable("OUTCOME_UNKNOWN", fault.to_string()),
        RaftFault::Stopped(_) => unavailable("STOPPING", fault.to_string()),
        RaftFault::Membership(_) => {
            with_reason(Code::FailedPrecondition, "MEMBERSHIP_REFUSED", fault.to_string())
        }
    }
}

/// For workers on a coordinator that does not lead: where the leader is, if that is known.
pub(crate) fn elsewhere(leadership: &Leadership) -> Status {
    let Some((id, node)) = leadership.leader.as_ref().filter(|_| !leadership.is_self) else {
        return no_leader();
    };
    let mut status = unavailable("NOT_LEADER", format!("coordinator {id} leads, at {}", node.mesh_address));
    if let Ok(address) = node.mesh_address.parse() {
        status.metadata_mut().insert(LEADER_KEY, address);
    }
    status
}

/// A resource that does not exist, e.g. `FLOW_NOT_FOUND` for `flows/a`.
pub(crate) fn not_found(reason: &'static str, name: impl Display) -> Status {
    status_of(&Reject {
        code: RejectCode::NotFound,
        reason,
        field: "name",
        message: format!("{name} does not exist"),
    })
}

/// A flow that does not exist.
pub(crate) fn flow_not_found(id: &FlowId) -> Status {
    not_found("FLOW_NOT_FOUND", format_args!("flows/{id}"))
}

/// The session that a worker speaks in is not its present one.
pub(crate) fn session_outdated(worker: impl Display, session: u64) -> Status {
    let message = format!("session {session} of workers/{worker} is not the present one: register again");
    with_reason(Code::Aborted, "SESSION_OUTDATED", message)
}

/// A refusal becomes its status; other answers pass.
pub(crate) fn accepted(reply: Reply) -> Result<Reply, Status> {
    match reply {
        Reply::Rejected(reject) => Err(status_of(&reject)),
        reply => Ok(reply),
    }
}

/// An answer that the command can't have: a bug.
pub(crate) fn unexpected(reply: &Reply) -> Status {
    tracing::error!(?reply, "a command was answered with something else");
    Status::internal("the command was answered with something else: this is a bug")
}
