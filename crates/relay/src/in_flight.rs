//! Batches on their way to the target, and where they end on both sides.
//!
//! Must not know what an answer means.

use mirrormesh_core::position::LastBatch;
use mirrormesh_core::translate::Segment;

use super::journal::Mirrored;
use super::rebuild::Run;

/// A place on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Records mirrored by this generation before it: n.
    pub count: i64,
    /// Next source offset.
    pub source: i64,
    /// Next target offset.
    pub target: i64,
}

/// A batch as it is sent.
#[derive(Debug, Clone)]
pub struct Sending {
    /// Source offsets of its first records.
    pub run: Run,
    /// Further runs, where source offsets were left out.
    pub more: Vec<Run>,
    /// Source offset behind it.
    pub next_source: i64,
    /// Its size.
    pub bytes: u64,
    /// What it looks like.
    pub last: LastBatch,
    /// Leader epoch on the source.
    pub leader_epoch: i32,
}

/// A batch that was sent and has no answer.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) id: u64,
    /// Place after the batch.
    pub(super) after: Place,
    pub(super) sending: Sending,
    /// What is left out behind it: leader epochs, and from which source offset on.
    pub(super) passed: Vec<(i32, i64)>,
}

impl Pending {
    pub(super) fn records(&self) -> i64 {
        i64::from(self.sending.last.count)
    }

    /// Where its runs are on the target.
    pub(super) fn mirrored(self, base_offset: i64) -> Mirrored {
        let Self { sending, passed, .. } = self;
        let mut target = base_offset;
        let mut place = |run: &Run| {
            let segment = Segment { source: run.first, target, count: run.count };
            target += run.count;
            segment
        };
        let segment = place(&sending.run);
        let more = sending.more.iter().map(place).collect();
        Mirrored {
            segment,
            more,
            bytes: sending.bytes,
            last: sending.last,
            source_leader_epoch: sending.leader_epoch,
            passed,
        }
    }
}
