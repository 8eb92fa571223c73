//! Why a command changed nothing.

use crate::ids::FlowId;

/// Class of a refusal; maps one to one to gRPC codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectCode {
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already.
    AlreadyExists,
    /// A field is wrong in itself.
    InvalidArgument,
    /// The state does not allow it now.
    FailedPrecondition,
    /// The etag does not match, or the session or assignment is not the present one.
    Aborted,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Reject {
    /// Class.
    pub code: RejectCode,
    /// Stable name, `UPPER_SNAKE`.
    pub reason: &'static str,
    /// The field at fault, as in the API, or empty.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// A refusal.
pub(super) fn reject(
    code: RejectCode,
    reason: &'static str,
    field: &'static str,
    message: impl Into<String>,
) -> Reject {
    Reject { code, reason, field, message: message.into() }
}

/// The refusal of a command about a flow that does not exist.
pub(super) fn flow_not_found(id: &FlowId) -> Reject {
    reject(RejectCode::NotFound, "FLOW_NOT_FOUND", "name", format!("flows/{id} does not exist"))
}
