//! What can go wrong between a worker and the coordinators.
//!
//! Owns the one map from gRPC statuses to what the worker does about them.

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Metadata key in which a coordinator that does not lead names the one that does, `host:mesh_port`.
pub(crate) const LEADER_KEY: &str = "mirrormesh-leader";

/// Why a worker can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error("setting `{key}` is wrong: {problem}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A task that lives as long as the worker ended before it.
    #[error("a task of the worker ended unexpectedly: {problem}")]
    Ended {
        /// How it ended.
        problem: String,
    },
}

/// Why a call to the coordinator did not succeed. What may pass is retried and never comes back as an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// The assignment is not the present one any more: the unit will be stopped, there is nothing to do.
    #[error("the coordinator says that the assignment is outdated: {message}")]
    Outdated {
        /// Stable name.
        reason: String,
        /// What the coordinator said.
        message: String,
    },
    /// The coordinator refused what was sent.
    #[error("the coordinator refused the call ({code:?} {reason}): {message}")]
    Refused {
        /// gRPC code.
        code: Code,
        /// Stable name.
        reason: String,
        /// What the coordinator said.
        message: String,
    },
    /// The unit, or the worker, was asked to stop while the call was tried.
    #[error("the call was given up, since the unit is to stop")]
    Cancelled,
}

/// What to do about a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Another coordinator leads.
    Redirect(String),
    /// It may pass: try again, perhaps elsewhere.
    Retry,
    /// The session is not known: register again.
    SessionGone,
    /// It will not pass.
    Refused(CoordinatorError),
}

/// Judges a status. Codes that say nothing about the request are retried.
pub(crate) fn judge(status: &Status) -> Verdict {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    let message = || status.message().to_owned();
    match status.code() {
        Code::Unavailable => status
            .metadata()
            .get(LEADER_KEY)
            .and_then(|leader| leader.to_str().ok())
            .filter(|leader| !leader.is_empty())
            .map_or(Verdict::Retry, |leader| Verdict::Redirect(leader.to_owned())),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Internal
        | Code::Unimplemented
        | Code::DataLoss => Verdict::Retry,
        _ if reason.starts_with("SESSION_") || reason.starts_with("WORKER_") => Verdict::SessionGone,
        Code::Unauthenticated => Verdict::SessionGone,
        Code::Aborted => Verdict::Refused(CoordinatorError::Outdated { reason, message: message() }),
        code @ (Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange) => {
            Verdict::Refused(CoordinatorError::Refused { code, reason, message: message() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn with_reason(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "mirrormesh", HashMap::new());
        Status::with_error_details(code, "why", details)
    }

    #[test]
    fn statuses_are_judged() {
        let mut redirect = Status::unavailable("not the leader");
        redirect.metadata_mut().insert(LEADER_KEY, "b:7401".parse().unwrap());
        assert_eq!(judge(&redirect), Verdict::Redirect("b:7401".into()));
        assert_eq!(judge(&Status::unavailable("election")), Verdict::Retry);
        assert_eq!(judge(&Status::internal("bug")), Verdict::Retry);
        assert_eq!(judge(&with_reason(Code::Aborted, "SESSION_OUTDATED")), Verdict::SessionGone);
        assert_eq!(judge(&with_reason(Code::NotFound, "WORKER_NOT_FOUND")), Verdict::SessionGone);
        let outdated =
            CoordinatorError::Outdated { reason: "ASSIGNMENT_OUTDATED".into(), message: "why".into() };
        assert_eq!(judge(&with_reason(Code::Aborted, "ASSIGNMENT_OUTDATED")), Verdict::Refused(outdated));
        let refused = CoordinatorError::Refused {
            code: Code::NotFound,
            reason: "FLOW_NOT_FOUND".into(),
            message: "why".into(),
        };
        assert_eq!(judge(&with_reason(Code::NotFound, "FLOW_NOT_FOUND")), Verdict::Refused(refused));
    }
}
