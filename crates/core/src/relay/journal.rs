//! When to write to the positions topic, and what (exactly-once.md 5).
//!
//! Invariant: what is written tells only of appends that were acknowledged.

use super::position::{LastBatch, OWNER_SLOTS, Position};
use crate::translate::{Join, Segment};

/// An active partition writes at least this often, in ms.
const INTERVAL_MS: u64 = 1_000;
/// And after so many bytes: a takeover reads no more than about this much again.
const BYTES_MAX: u64 = 16 << 20;
/// A partition that has nothing more to send writes this soon, in ms, so that translation is exact when it is quiet.
const QUIET_MS: u64 = 100;
/// Segments in one record.
pub const CHUNK_SEGMENTS: usize = 512;

/// What was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// The records' places.
    pub segment: Segment,
    /// Further runs, where source offsets were left out.
    pub more: Vec<Segment>,
    /// Size of the batch in bytes.
    pub bytes: u64,
    /// What the batch looks like.
    pub last: LastBatch,
    /// Leader epoch of the batch on the source.
    pub source_leader_epoch: i32,
}

impl Mirrored {
    /// How many records.
    pub fn records(&self) -> i64 {
        self.segment.count + self.more.iter().map(|segment| segment.count).sum::<i64>()
    }
}

/// What is stored about one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// All positions, of any generation, with their slots.
    pub positions: Vec<(u32, Position)>,
}

/// What to write now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Chunks of segments that changed: number and whole content. To be written before the position.
    pub chunks: Vec<(u32, Vec<Segment>)>,
    /// Slot for the position.
    pub slot: u32,
}

/// Keeps account of one partition.
#[derive(Debug, Clone)]
pub struct Journal {
    chunk: u32,
    segments: Vec<Segment>,
    /// Full chunks that were not written yet.
    full: Vec<(u32, Vec<Segment>)>,
    segments_changed: bool,
    first_slot: u32,
    /// Counted from the first one.
    next_slot: u32,
    dirty_since_ms: Option<u64>,
    changed_ms: u64,
    bytes: u64,
}

impl Journal {
    /// Begins with no segments, which are this owner's own. `number`: of its assignment.
    pub fn new(number: u64) -> Self {
        Self {
            chunk: 0,
            segments: Vec::new(),
            full: Vec::new(),
            segments_changed: false,
            first_slot: if number.is_multiple_of(2) { 0 } else { OWNER_SLOTS },
            next_slot: 0,
            dirty_since_ms: None,
            changed_ms: 0,
            bytes: 0,
        }
    }

    /// Takes note of acknowledged records. What lies before the known segments was noted already and is left out.
    pub fn mirrored(&mut self, mirrored: &Mirrored, now_ms: u64) {
        self.extend(mirrored.segment);
        for segment in &mirrored.more {
            self.extend(*segment);
        }
        self.bytes = self.bytes.saturating_add(mirrored.bytes);
        self.touched(now_ms);
    }

    /// Takes note that the source place moved without records: markers, aborted batches.
    pub fn passed(&mut self, now_ms: u64) {
        self.touched(now_ms);
    }

    fn touched(&mut self, now_ms: u64) {
        self.dirty_since_ms.get_or_insert(now_ms);
        self.changed_ms = now_ms;
    }

    fn extend(&mut self, segment: Segment) {
        if segment.count <= 0 {
            return;
        }
        match self.segments.last_mut().map(|last| last.join(segment)) {
            Some(Join::Known) => return,
            Some(Join::Joined) => {
                self.segments_changed = true;
                return;
            }
            Some(Join::Apart | Join::Back) | None => {}
        }
        if self.segments.len() >= CHUNK_SEGMENTS {
            self.full.push((self.chunk, std::mem::take(&mut self.segments)));
            self.chunk += 1;
        }
        self.segments.push(segment);
        self.segments_changed = true;
    }

    /// Is something to be written now? `quiet`: nothing is in flight and nothing waits.
    pub fn due(&self, now_ms: u64, quiet: bool) -> bool {
        let Some(since) = self.dirty_since_ms else { return false };
        now_ms.saturating_sub(since) >= INTERVAL_MS
            || self.bytes >= BYTES_MAX
            || (quiet && now_ms.saturating_sub(self.changed_ms) >= QUIET_MS)
    }

    /// Something was mirrored that no position tells of.
    pub fn is_dirty(&self) -> bool {
        self.dirty_since_ms.is_some()
    }

    /// Takes what is to be written. If writing fails, [`Journal::failed`] puts it back.
    pub fn take(&mut self) -> Entry {
        let mut chunks = std::mem::take(&mut self.full);
        if self.segments_changed {
            chunks.push((self.chunk, self.segments.clone()));
        }
        self.segments_changed = false;
        self.dirty_since_ms = None;
        self.bytes = 0;
        let slot = self.first_slot + self.next_slot;
        self.next_slot = (self.next_slot + 1) % OWNER_SLOTS;
        Entry { chunks, slot }
    }

    /// The entry was not written: it stays due.
    pub fn failed(&mut self, entry: Entry, now_ms: u64) {
        for (number, segments) in entry.chunks {
            if number == self.chunk {
                self.segments_changed = true;
            } else {
                self.full.push((number, segments));
            }
        }
        self.full.sort_by_key(|(number, _)| *number);
        self.dirty_since_ms.get_or_insert(now_ms);
    }

    /// Goes on behind the slot of the newest position, at a place that was found anew: what is said to stand from this
    /// target offset on was lost.
    pub fn go_on(&mut self, last_slot: Option<u32>, target: i64) {
        let own = self.first_slot..self.first_slot + OWNER_SLOTS;
        if let Some(slot) = last_slot.filter(|slot| own.contains(slot)) {
            self.next_slot = (slot - self.first_slot + 1) % OWNER_SLOTS;
        }
        while let Some(last) = self.segments.last_mut().filter(|last| last.target + last.count > target) {
            last.count = target - last.target;
            self.segments_changed = true;
            if last.count <= 0 {
                self.segments.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrored(source: i64, target: i64, count: i64, bytes: u64) -> Mirrored {
        Mirrored {
            segment: Segment { source, target, count },
            more: Vec::new(),
            bytes,
            last: LastBatch::default(),
            source_leader_epoch: 0,
        }
    }

    #[test]
    fn due_by_time_bytes_or_quiet() {
        let mut journal = Journal::new(2);
        assert!(!journal.due(10_000, true), "nothing happened");
        journal.mirrored(&mirrored(0, 0, 5, 100), 10_000);
        assert!(!journal.due(10_099, true) && journal.due(10_100, true) && !journal.due(10_999, false));
        assert!(journal.due(11_000, false));
        journal.mirrored(&mirrored(5, 5, 5, BYTES_MAX), 10_001);
        assert!(journal.due(10_001, false));
        let entry = journal.take();
        assert_eq!(entry.chunks, vec![(0, vec![Segment { source: 0, target: 0, count: 10 }])]);
        assert!(!journal.is_dirty());
        journal.failed(entry.clone(), 12_000);
        assert!(journal.due(13_000, false));
        assert_eq!(journal.take().chunks, entry.chunks);
    }

    #[test]
    fn chunks_fill_and_slots_turn() {
        let mut journal = Journal::new(1);
        journal.go_on(Some(2 * OWNER_SLOTS - 1), 0);
        for i in 0..i64::try_from(CHUNK_SEGMENTS + 2).unwrap() {
            journal.mirrored(&mirrored(i * 3, i, 1, 1), 0);
        }
        let entry = journal.take();
        assert_eq!(entry.slot, OWNER_SLOTS, "behind its last one");
        assert_eq!(
            entry.chunks.iter().map(|(n, s)| (*n, s.len())).collect::<Vec<_>>(),
            [(0, CHUNK_SEGMENTS), (1, 2)]
        );
        journal.mirrored(&mirrored(0, 0, 1, 1), 0);
        let entry = journal.take();
        assert!(entry.chunks.is_empty(), "known already");
        assert_eq!(entry.slot, OWNER_SLOTS + 1);
        journal.go_on(Some(3), 0);
        assert_eq!(journal.take().slot, OWNER_SLOTS + 2, "another owner's does not count");
    }
}
