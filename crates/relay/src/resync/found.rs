//! The place that was found, and what was seen on the way.

use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::position::Position;

use crate::journal::Mirrored;
use crate::window::Place;

/// The settled place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where to go on.
    pub place: Place,
    /// Nobody else appends to the target partition, as far as can be seen.
    pub sole_writer: bool,
    /// Not all target offsets before this one are the generation's own.
    pub others_before: i64,
    /// The flow wrote with another producer id before, and with no other epoch of this one.
    pub producer_changed: bool,
    /// What was appended but not written to the positions topic.
    pub replay: Vec<Mirrored>,
    /// The position it began with.
    pub position: Option<Position>,
    /// The target lost records that a position tells of: from, to.
    pub truncated: Option<(i64, i64)>,
    /// Counting does not lead here: an owner of an older generation appended behind the start of this one and nothing of
    /// this one is there, records may be mirrored again, or the target lost some that positions tell of. A generation has
    /// to begin at this place.
    pub apart: bool,
    /// Target offsets (from, to) that hold records twice: an older generation's, or an append that the target had
    /// forgotten.
    pub doubled: Option<(i64, i64)>,
    /// Target offsets (from, to) of what a compacted source does not have at its place: compaction took it, or it is the
    /// late append of a replaced owner.
    pub stray: Option<(i64, i64)>,
    /// Target offsets (from, to) of batches that stand behind a missing record of this generation: all of them are mirrored
    /// again.
    pub hole: Option<(i64, i64)>,
    /// Target offsets (from, to) of records that are gone from there; they may be mirrored again.
    pub unsure: Option<(i64, i64)>,
    /// Leader epoch on the source that reaches to the place, -1 when none is known to.
    pub epoch: i32,
    /// The leader epochs that were read up to the place.
    pub epochs: Epochs,
    /// Up to this leader epoch on the source everybody who may append has read the same; -1 when none is known to.
    pub base_epoch: i32,
}
