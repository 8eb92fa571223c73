//! Position records: how far a partition is mirrored.
//!
//! Owns the shapes; `mirrormesh-proto` owns the stored form.

use crate::epochs::Epochs;
use crate::ids::{FlowId, TopicId};
use crate::translate::Segment;
use crate::unit::Generation;

/// Slots that an owner writes positions to in turn, so that older ones survive a truncation of the target.
pub const OWNER_SLOTS: u32 = 8;
/// All slots: two owners after each other have slots of their own, since one that was replaced and wakes up would put what
/// it knew in place of what is known by now.
pub const SLOTS: u32 = 2 * OWNER_SLOTS;

/// Which record of the positions topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PositionKind {
    /// A position.
    Position {
        /// The generation that wrote it.
        generation: Generation,
        /// Slot, less than [`SLOTS`].
        slot: u32,
    },
    /// Segments for translation.
    Segments {
        /// Producer id of the generation that wrote it.
        producer_id: i64,
        /// Number of the assignment that wrote it: an owner writes chunks of its own only, since one that was replaced
        /// and wakes up would put what it knew in place of what is known by now.
        number: u64,
        /// Number of the chunk, from 0.
        chunk: u32,
    },
}

/// Key of a record in the positions topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PositionKey {
    /// The flow.
    pub flow: FlowId,
    /// Topic id on the target.
    pub target_topic_id: TopicId,
    /// The partition.
    pub partition: i32,
    /// Which record.
    pub kind: PositionKind,
}

/// What the last mirrored batch looked like, to find it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastBatch {
    /// Records in it.
    pub count: i32,
    /// First timestamp.
    pub base_timestamp: i64,
    /// Highest timestamp.
    pub max_timestamp: i64,
    /// CRC-32C of the bytes behind the header.
    pub body_crc: u32,
}

/// How far a partition is mirrored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The generation that wrote it.
    pub generation: Generation,
    /// First sequence of the generation in this partition.
    pub sequence_base: i32,
    /// Records mirrored by this generation: n.
    pub count: i64,
    /// Next source offset.
    pub source_offset: i64,
    /// Topic id on the source.
    pub source_topic_id: TopicId,
    /// Leader epoch of the source at the last batch; -1 when not known.
    pub source_leader_epoch: i32,
    /// Leader epoch of the source up to which everybody who may still append under this generation read the same; `None`:
    /// the one at the last batch. A later one may be of another history than theirs (`relay/machine/inherited.rs`).
    pub shared_leader_epoch: Option<i32>,
    /// Leader epochs of the source that were read, up to the last batch.
    pub source_epochs: Epochs,
    /// Next target offset.
    pub target_offset: i64,
    /// Leader epoch of the target at the last batch; -1: not known, and that is what is written.
    ///
    /// No answer to an append tells it. Metadata may name an older one than that of the leader that took the batch (the same
    /// broker, elected again meanwhile, answers on the same connection), and by one that is too old a target that lost
    /// nothing would seem to have: records would be mirrored twice. That the target lost what a position tells of shows
    /// without it: its log ends before, or, where others made it as long as it was, it remembers an earlier batch of the
    /// generation as the last one (`resync/target.rs`).
    pub target_leader_epoch: i32,
    /// The last batch.
    pub last: LastBatch,
    /// Version of the set of skipped records.
    pub skip_version: u64,
    /// Number of the assignment that wrote it.
    pub assignment_number: u64,
    /// Source topic, for people and tools that read the record.
    pub topic: String,
    /// Target topic, for people and tools that read the record.
    pub target_topic: String,
}

/// A decoded record of the positions topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PositionValue {
    /// A position.
    Position(Position),
    /// Segments, in the order of offsets.
    Segments(Vec<Segment>),
}
