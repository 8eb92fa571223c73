//! When to write to the positions topic, and what.
//!
//! Invariant: what is written tells only of appends that were acknowledged.

use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::position::{LastBatch, OWNER_SLOTS, Position};
use mirrormesh_core::translate::{Join, Segment};
use mirrormesh_core::unit::Generation;
use std::collections::BTreeMap;

use super::chunks::{Chunk, Chunks, SEGMENTS_MAX, Written};

/// A busy partition writes this often, in ms.
const INTERVAL_MS: u64 = 1_000;
/// A partition that mirrored fewer bytes than this since its last position is sparse.
const SPARSE_BYTES_MAX: u64 = 256 << 10;
/// A sparse partition writes no more often than this, in ms: a position per record would cost more than the record.
const SPARSE_INTERVAL_MS: u64 = 5_000;
/// And after so many bytes: a takeover reads no more than about this much again.
const BYTES_MAX: u64 = 16 << 20;
/// A partition that has nothing more to send writes this soon, in ms, so that translation is exact when it is quiet.
const QUIET_MS: u64 = 100;
/// Segments in one record. The last record is written whole with each position that tells of a new segment, so a smaller
/// number costs less.
pub const CHUNK_SEGMENTS: usize = 64;

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
    /// Other leader epochs of what was left out behind it, and from which source offset on.
    pub passed: Vec<(i32, i64)>,
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
    /// The chunks of segments that have any in them, whoever wrote them.
    pub chunks: Vec<Chunk>,
}

/// So many generations of a partition keep their positions: the present one, the one before it, and one more, whose history
/// tells where a source parts that lost its end twice.
const GENERATIONS_KEPT: usize = 3;

impl Stored {
    /// Generations and slots of positions that nobody can need any more.
    pub fn obsolete(&self, present: Generation) -> Vec<(Generation, u32)> {
        // A producer id tells no order, but the number of an owner's assignment does.
        let mut newest: BTreeMap<Generation, u64> = BTreeMap::from([(present, u64::MAX)]);
        for (_, position) in &self.positions {
            let number = newest.entry(position.generation).or_default();
            *number = position.assignment_number.max(*number);
        }
        let mut kept: Vec<_> = newest.into_iter().map(|(generation, number)| (number, generation)).collect();
        kept.sort_unstable_by_key(|entry| std::cmp::Reverse(*entry));
        kept.truncate(GENERATIONS_KEPT);
        // The last word of each producer id and of each source topic: batches and segments of theirs may still be met.
        let mut last: BTreeMap<(i64, TopicId), (u64, Generation)> = BTreeMap::new();
        for (_, position) in &self.positions {
            let of = (position.generation.producer_id, position.source_topic_id);
            let known = last.entry(of).or_insert((0, position.generation));
            *known = (*known).max((position.assignment_number, position.generation));
        }
        let is_kept = |generation| {
            kept.iter().any(|(_, kept)| *kept == generation)
                || last.values().any(|(_, last)| *last == generation)
        };
        let gone = self.positions.iter().filter(|(_, position)| !is_kept(position.generation));
        gone.map(|(slot, position)| (position.generation, *slot)).collect()
    }
}

/// What to write now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Chunks of segments that changed: number and whole content. To be written before the position.
    pub chunks: Vec<(u32, Vec<Segment>)>,
    /// Earlier chunks that are cut or made coarse.
    pub rewritten: Vec<Written>,
    /// Slot for the position.
    pub slot: u32,
}

/// Keeps account of one partition.
#[derive(Debug, Clone)]
pub struct Journal {
    /// Producer id and number of the assignment.
    own: (i64, u64),
    earlier: Chunks,
    /// Of earlier chunks, what is to be written.
    rewritten: Vec<Written>,
    /// Source offsets that are translated to an earlier place from now on.
    coarse: Option<(i64, i64)>,
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
    /// When something was taken to be written last.
    written_ms: Option<u64>,
    bytes: u64,
    /// Leader epochs of the source that were read, as far as it is acknowledged.
    epochs: Epochs,
}

impl Journal {
    /// Begins with no segments, which are this owner's own. `number`: of its assignment.
    pub fn new(producer_id: i64, number: u64) -> Self {
        Self {
            own: (producer_id, number),
            earlier: Chunks::default(),
            rewritten: Vec::new(),
            coarse: None,
            chunk: 0,
            segments: Vec::new(),
            full: Vec::new(),
            segments_changed: false,
            first_slot: if number.is_multiple_of(2) { 0 } else { OWNER_SLOTS },
            next_slot: 0,
            dirty_since_ms: None,
            changed_ms: 0,
            written_ms: None,
            bytes: 0,
            epochs: Epochs::default(),
        }
    }

    /// The leader epochs that were read before the place.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Goes on from this source offset, behind these epochs.
    pub fn read_before(&mut self, epochs: &Epochs, source_offset: i64) {
        self.epochs = epochs.clone();
        self.epochs.truncate(source_offset);
    }

    /// Goes on from this source offset.
    pub fn go_back(&mut self, source_offset: i64) {
        self.epochs.truncate(source_offset);
    }

    /// What is behind this source offset, and passed by, is of this leader epoch.
    pub fn read(&mut self, leader_epoch: i32, source_offset: i64) {
        self.epochs.assign(leader_epoch, source_offset);
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
            let full = std::mem::take(&mut self.segments);
            self.earlier.full((self.own.0, self.own.1, self.chunk), &full);
            self.full.push((self.chunk, full));
            self.chunk += 1;
            self.make_coarse(SEGMENTS_MAX);
        }
        self.segments.push(segment);
        self.segments_changed = true;
    }

    fn make_coarse(&mut self, most: usize) {
        let (written, range) = self.earlier.make_coarse(most);
        self.rewritten.extend(written);
        self.coarse = self.coarse.or(range);
    }

    /// Source offsets that are translated to an earlier place since it was asked last.
    pub fn take_coarse(&mut self) -> Option<(i64, i64)> {
        self.coarse.take()
    }

    /// A chunk lies below the source's log start: it goes once the target's is known to be as far.
    pub fn may_cut(&self, source_start: i64) -> bool {
        self.earlier.reach_below(source_start)
    }

    /// Cuts what lies below both log starts.
    pub fn cut(&mut self, source_start: i64, target_start: i64) {
        self.rewritten.extend(self.earlier.cut(source_start, target_start));
    }

    /// Goes on under another producer id, with chunks of its own.
    #[must_use]
    pub fn renewed(mut self, producer_id: i64) -> Self {
        self.earlier.full((self.own.0, self.own.1, self.chunk), &self.segments);
        let next = Self::new(producer_id, self.own.1);
        Self { earlier: self.earlier, rewritten: self.rewritten, epochs: self.epochs, ..next }
    }

    /// Is something to be written now? `quiet`: nothing is in flight and nothing waits.
    pub fn due(&self, now_ms: u64, quiet: bool) -> bool {
        let Some(since) = self.dirty_since_ms else { return !self.rewritten.is_empty() };
        if self.bytes >= BYTES_MAX {
            return true;
        }
        let rested = self.written_ms.is_none_or(|ms| now_ms.saturating_sub(ms) >= SPARSE_INTERVAL_MS);
        let busy = self.bytes >= SPARSE_BYTES_MAX && now_ms.saturating_sub(since) >= INTERVAL_MS;
        let waited = now_ms.saturating_sub(since) >= SPARSE_INTERVAL_MS;
        busy || waited || rested && quiet && now_ms.saturating_sub(self.changed_ms) >= QUIET_MS
    }

    /// Something was mirrored that no position tells of.
    pub fn is_dirty(&self) -> bool {
        self.dirty_since_ms.is_some()
    }

    /// Takes what is to be written. If writing fails, [`Journal::failed`] puts it back.
    pub fn take(&mut self, now_ms: u64) -> Entry {
        self.written_ms = Some(now_ms);
        let mut chunks = std::mem::take(&mut self.full);
        if self.segments_changed {
            chunks.push((self.chunk, self.segments.clone()));
        }
        self.segments_changed = false;
        self.dirty_since_ms = None;
        self.bytes = 0;
        let slot = self.first_slot + self.next_slot;
        self.next_slot = (self.next_slot + 1) % OWNER_SLOTS;
        Entry { chunks, rewritten: std::mem::take(&mut self.rewritten), slot }
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
        // What was decided since comes behind it.
        self.rewritten.splice(..0, entry.rewritten);
        self.dirty_since_ms.get_or_insert(now_ms);
    }

    /// Takes note of what stands there from earlier owners.
    pub fn earlier(&mut self, stored: &[Chunk]) {
        self.earlier.others(self.own, stored);
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
            passed: Vec::new(),
        }
    }

    #[test]
    fn due_by_time_bytes_or_quiet() {
        let mut journal = Journal::new(7, 2);
        assert!(!journal.due(10_000, true), "nothing happened");
        journal.mirrored(&mirrored(0, 0, 5, 100), 10_000);
        assert!(!journal.due(10_099, true) && journal.due(10_100, true) && !journal.due(14_999, false));
        assert!(journal.due(15_000, false));
        journal.mirrored(&mirrored(5, 5, 5, SPARSE_BYTES_MAX), 10_001);
        assert!(!journal.due(10_999, false) && journal.due(11_000, false), "it is busy");
        journal.mirrored(&mirrored(5, 5, 5, BYTES_MAX), 10_001);
        assert!(journal.due(10_001, false));
        let entry = journal.take(10_001);
        assert_eq!(entry.chunks, vec![(0, vec![Segment { source: 0, target: 0, count: 10 }])]);
        assert!(!journal.is_dirty());
        journal.failed(entry.clone(), 12_000);
        assert!(journal.due(17_000, false));
        assert_eq!(journal.take(0).chunks, entry.chunks);
    }

    #[test]
    fn a_sparse_partition_writes_once_in_five_seconds() {
        let mut journal = Journal::new(7, 2);
        let mut written = 0;
        for tick in 0..600_u64 {
            let now_ms = 100_000 + tick * 100;
            if tick % 5 == 0 {
                // A record each half second, acknowledged at once.
                let n = i64::try_from(tick).unwrap();
                journal.mirrored(&mirrored(n, n, 1, 100), now_ms);
            }
            if journal.due(now_ms, true) {
                journal.take(now_ms);
                written += 1;
            }
        }
        assert!((11..=13).contains(&written), "{written} positions for 120 records in a minute");
    }

    #[test]
    fn chunks_fill_and_slots_turn() {
        let mut journal = Journal::new(7, 1);
        journal.go_on(Some(2 * OWNER_SLOTS - 1), 0);
        for i in 0..i64::try_from(CHUNK_SEGMENTS + 2).unwrap() {
            journal.mirrored(&mirrored(i * 3, i, 1, 1), 0);
        }
        let entry = journal.take(0);
        assert_eq!(entry.slot, OWNER_SLOTS, "behind its last one");
        assert_eq!(
            entry.chunks.iter().map(|(n, s)| (*n, s.len())).collect::<Vec<_>>(),
            [(0, CHUNK_SEGMENTS), (1, 2)]
        );
        journal.mirrored(&mirrored(0, 0, 1, 1), 0);
        let entry = journal.take(0);
        assert!(entry.chunks.is_empty(), "known already");
        assert_eq!(entry.slot, OWNER_SLOTS + 1);
        journal.go_on(Some(3), 0);
        assert_eq!(journal.take(0).slot, OWNER_SLOTS + 2, "another owner's does not count");
    }

    #[test]
    fn earlier_chunks_are_cut_or_made_coarse_once_written() {
        let mut journal = Journal::new(7, 1);
        let stored = [Segment { source: 0, target: 0, count: 5 }, Segment { source: 6, target: 5, count: 5 }];
        journal.earlier(&[Chunk::of((7, 0, 3), &stored).unwrap()]);
        for i in 0..i64::try_from(CHUNK_SEGMENTS + 1).unwrap() {
            journal.mirrored(&mirrored(20 + i * 3, 10 + i, 1, 1), 0);
        }
        journal.take(0);
        assert!(!journal.may_cut(10) && journal.may_cut(11) && !journal.due(0, false));
        journal.cut(11, 9);
        assert!(!journal.due(0, false), "the target still has what it tells of");
        journal.cut(11, 10);
        assert!(journal.due(0, false));
        let entry = journal.take(0);
        assert_eq!(entry.rewritten, [((7, 0, 3), vec![])]);
        assert!(!journal.due(0, false));
        journal.make_coarse(4);
        assert_eq!((journal.take_coarse(), journal.take_coarse()), (Some((20, 20 + 63 * 3)), None));
        journal.failed(entry, 0);
        assert!(!journal.due(1, false), "not again and again");
        let again: Vec<_> =
            journal.take(0).rewritten.into_iter().map(|(key, left)| (key, left.len())).collect();
        assert_eq!(again, [((7, 0, 3), 0), ((7, 1, 0), 2)]);
        // What was written under an earlier producer id is an earlier chunk as well.
        let mut journal = journal.renewed(8);
        journal.cut(10_000, 10_000);
        let cut: Vec<_> = journal.take(0).rewritten.into_iter().map(|(key, _)| key).collect();
        assert_eq!(cut, [(7, 1, 0), (7, 1, 1)]);
    }
}
