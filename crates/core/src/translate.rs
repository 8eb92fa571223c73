//! Translation of source offsets to target offsets: exact wherever a record was mirrored.
//!
//! Owns the run-length map and when to emit a checkpoint; knows nothing about how either is stored or sent.

mod checkpoint;
mod offset_map;

pub use checkpoint::{CheckpointState, Emitted};
pub use offset_map::{Join, OffsetMap, Segment, Translation};
