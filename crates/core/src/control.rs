//! The replicated state of a mesh and the one function that changes it.
//!
//! Invariants: `apply` is total and deterministic (a bad command is refused, never a panic); the revision grows with
//! every change and only then; a unit has at most one owner; an owner is removed only when it let go or its session
//! ended. Rates, lag and offsets are never kept here.

mod apply;
mod command;
mod error;
mod generation;
mod pause;
mod plan_apply;
mod recreated;
mod rings;
mod rules;
mod state;
#[cfg(test)]
mod tests;
mod topic_pause;
mod view;

pub use apply::Applied;
pub use command::{Command, CommandKind, GenerationRequest, InventoryChange, Reply, WriteGuard};
pub use error::{Reject, RejectCode};
pub use plan_apply::{HEARTBEATS_SHARED, Written};
pub use state::{
    ClusterRecord, ControlState, EVENTS_MAX, FlowRecord, REQUESTS_MAX, RETIRED_MAX, RequestRecord,
    RetiredFlow, SeenTopic, SeenTopics, TopicEntry,
};
pub use topic_pause::TopicPause;
