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

macro_rules! deliveries {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Which guarantee holds for a partition now.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub enum Delivery { $($(#[$doc])* $name,)* }

        impl Delivery {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Stable name of why it is not exactly once; empty where it is, or where nothing is known.
            pub fn reason(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

deliveries! {
    /// Nothing was mirrored yet.
    #[default]
    Unknown = "",
    /// Exactly once: the target remembers the flow and the content is fixed.
    ExactlyOnce = "",
    /// The last batch is older than the target remembers producers: doubles are not prevented, but detected.
    TargetMayForget = "TARGET_MAY_FORGET",
    /// Compaction may change the source under the relay: an owner fences its predecessor before it appends, and what
    /// may have been appended twice is compared.
    ContentNotFixed = "CONTENT_NOT_FIXED",
    /// The source's brokers fetch by topic name only (before Kafka 3.1): records of a topic that was made again under the
    /// same name may come behind those of the old one before it is noticed.
    SourceByName = "SOURCE_BY_NAME",
    /// Others append to the target partition: sequences hold, but offsets can't be checked.
    OtherWriters = "OTHER_WRITERS",
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
    /// Timestamp in ms of the oldest record that can be read and is not mirrored: that of the record itself where it was
    /// fetched, else the latest time that it is surely not older than, as far as records are in the order of their
    /// timestamps. `None` if there is no such record, or nothing is known of it.
    pub oldest_pending_ms: Option<i64>,
    /// How often the place was found anew.
    pub resyncs: i64,
    /// Which guarantee holds.
    pub delivery: Delivery,
    /// Records between the last stable offset and the high watermark: an open transaction holds them back. 0 for none.
    pub held_records: i64,
    /// First offset that the source still has; `None` until it was seen.
    pub source_start_offset: Option<i64>,
    /// Bytes on the source that are not on the target: exact for what was fetched, for the rest the number of offsets
    /// times the bytes per offset of what was fetched lately. `None` where nothing was fetched to estimate by.
    pub lag_bytes: Option<i64>,
    /// The end of the source partition could not be looked at since this time, ms since 1970: what is said of it is of
    /// then. `None`: it is as of now.
    pub stale_since_ms: Option<i64>,
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
    /// How many records are concerned, if known.
    pub count: Option<i64>,
    /// Number in its flow, from 1; 0 before it is stored.
    pub sequence: u64,
}
