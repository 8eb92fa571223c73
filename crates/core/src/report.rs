//! What workers tell the coordinator about their units: figures, states, events.
//!
//! Owns the shapes; knows nothing about how they travel. Figures are soft state and never enter the Raft log.

use crate::ids::FlowId;
use crate::unit::Unit;

/// What a unit is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// Finding the place to go on from.
    Resyncing,
    /// Doing its work.
    Running,
    /// Failed in a way that may pass.
    Backoff,
    /// Stopped until somebody acts.
    Stopped,
}

/// Figures of a partition unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionFigures {
    /// Next source offset to copy.
    pub source_offset: i64,
    /// End of the source partition as last seen; `None` until it was.
    pub source_end_offset: Option<i64>,
    /// Next target offset.
    pub target_offset: i64,
    /// Records mirrored since the unit started.
    pub records: i64,
    /// Bytes mirrored since the unit started.
    pub bytes: i64,
    /// Timestamp in ms of the oldest record that is not mirrored, if there is one.
    pub oldest_pending_ms: Option<i64>,
    /// How often the place was found anew.
    pub resyncs: i64,
    /// Exactly once holds: the target remembers the flow and the content is fixed.
    pub exactly_once: bool,
}

/// State and figures of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitReport {
    /// Which unit.
    pub unit: Unit,
    /// Number of the assignment.
    pub number: u64,
    /// What it is doing.
    pub state: UnitState,
    /// Stable name of what is wrong; empty when nothing is.
    pub reason: String,
    /// What is wrong and what to do; empty when nothing is.
    pub message: String,
    /// For partition units only.
    pub partition: Option<PartitionFigures>,
}

/// Something that happened to a flow and is worth keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The flow.
    pub flow: FlowId,
    /// When, ms since 1970.
    pub time_ms: u64,
    /// Stable name.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
    /// What it is about.
    pub subject: String,
    /// First source offset concerned.
    pub from_offset: Option<i64>,
    /// Source offset behind the last one concerned.
    pub to_offset: Option<i64>,
    /// Number in its flow, from 1; 0 before it is stored.
    pub sequence: u64,
}
