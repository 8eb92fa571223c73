//! What stands of a partition in the positions topic in chunks of segments, and what of it may go.
//!
//! A source with a transaction every second has a segment every second. Chunks that lie below both log starts are cut:
//! nobody reads there any more. Of what is more than a partition may have, the oldest chunks are made coarse: only where
//! they begin and their last run stays, and what lies between is translated to the nearest earlier place, their begin.

use std::collections::VecDeque;

use mirrormesh_core::stored_map::ChunkKey;
use mirrormesh_core::translate::Segment;

/// Segments that a partition may have, in all chunks of all owners.
pub const SEGMENTS_MAX: usize = 1 << 16;

/// A chunk that its owner does not write to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Which one.
    pub key: ChunkKey,
    /// Its first segment.
    pub first: Segment,
    /// Its last segment.
    pub last: Segment,
    /// How many there are.
    pub segments: usize,
}

/// A chunk as it is to be written.
pub type Written = (ChunkKey, Vec<Segment>);

impl Chunk {
    /// `None` where nothing is in it.
    pub fn of(key: ChunkKey, segments: &[Segment]) -> Option<Self> {
        let (first, last) = (*segments.first()?, *segments.last()?);
        Some(Self { key, first, last, segments: segments.len() })
    }

    fn is_coarse(&self) -> bool {
        self.segments <= 2
    }
}

/// The chunks of a partition, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Chunks {
    kept: VecDeque<Chunk>,
}

impl Chunks {
    /// Takes note of what stands there from others than `own` (producer id and number of the assignment), in place of
    /// what was known of them.
    pub fn others(&mut self, own: (i64, u64), stored: &[Chunk]) {
        let is_own = |chunk: &Chunk| (chunk.key.0, chunk.key.1) == own;
        let mut kept: Vec<_> = self.kept.iter().copied().filter(is_own).collect();
        kept.extend(stored.iter().filter(|chunk| !is_own(chunk)));
        kept.sort_by_key(|chunk| (chunk.first.target, chunk.key));
        self.kept = kept.into();
    }

    /// Takes note of a chunk of one's own that is full.
    pub fn full(&mut self, key: ChunkKey, segments: &[Segment]) {
        self.kept.extend(Chunk::of(key, segments));
    }

    /// The oldest chunk lies below this log start of the source.
    pub fn reach_below(&self, source_start: i64) -> bool {
        self.kept.front().is_some_and(|chunk| chunk.last.source_end() <= source_start)
    }

    /// Cuts what lies below both log starts.
    pub fn cut(&mut self, source_start: i64, target_start: i64) -> Vec<Written> {
        let below = |chunk: &mut Chunk| {
            chunk.last.source_end() <= source_start && chunk.last.target_end() <= target_start
        };
        let mut cut = Vec::new();
        while let Some(chunk) = self.kept.pop_front_if(below) {
            cut.push((chunk.key, Vec::new()));
        }
        cut
    }

    /// Makes the oldest chunks coarse as far as there are more than `most` segments. Says which source offsets are
    /// translated to an earlier place by that.
    pub fn make_coarse(&mut self, most: usize) -> (Vec<Written>, Option<(i64, i64)>) {
        let mut surplus = self.kept.iter().map(|chunk| chunk.segments).sum::<usize>().saturating_sub(most);
        let (mut coarse, mut range) = (Vec::new(), None);
        for chunk in self.kept.iter_mut().filter(|chunk| !chunk.is_coarse()) {
            if surplus == 0 {
                break;
            }
            surplus = surplus.saturating_sub(chunk.segments - 2);
            chunk.segments = 2;
            range = Some((range.map_or(chunk.first.source, |(from, _)| from), chunk.last.source));
            coarse.push((chunk.key, vec![Segment { count: 0, ..chunk.first }, chunk.last]));
        }
        (coarse, range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(from: i64, count: usize) -> Vec<Segment> {
        (from..).take(count).map(|i| Segment { source: 3 * i, target: 2 * i, count: 2 }).collect()
    }

    fn chunks() -> Chunks {
        let mut chunks = Chunks::default();
        chunks.full((7, 2, 0), &segments(20, 10));
        let stored = [(7, 1, 0, 0), (7, 1, 1, 10), (7, 2, 9, 0)];
        let stored =
            stored.map(|(id, n, chunk, from)| Chunk::of((id, n, chunk), &segments(from, 10)).unwrap());
        chunks.others((7, 2), &stored);
        chunks
    }

    #[test]
    fn what_lies_below_both_log_starts_is_cut() {
        let mut chunks = chunks();
        // The first one ends at 29 on the source and at 20 on the target.
        assert!(!chunks.reach_below(28) && chunks.reach_below(29));
        assert!(chunks.cut(29, 19).is_empty() && chunks.cut(28, 20).is_empty());
        assert_eq!(chunks.cut(29, 20), [((7, 1, 0), vec![])]);
        let cut: Vec<_> = chunks.cut(1_000, 1_000).into_iter().map(|(key, _)| key).collect();
        assert_eq!(cut, [(7, 1, 1), (7, 2, 0)], "what others wrote under the own number is not known of");
        assert!(!chunks.reach_below(1_000));
    }

    #[test]
    fn the_oldest_ones_are_made_coarse_until_there_are_few_enough() {
        let mut chunks = chunks();
        assert_eq!(chunks.make_coarse(30), (vec![], None));
        let (coarse, range) = chunks.make_coarse(29);
        let begin = Segment { source: 0, target: 0, count: 0 };
        assert_eq!(coarse, [((7, 1, 0), vec![begin, Segment { source: 27, target: 18, count: 2 }])]);
        assert_eq!(range, Some((0, 27)));
        let (coarse, range) = chunks.make_coarse(5);
        assert_eq!((coarse.len(), range), (2, Some((30, 87))), "once for each chunk");
        assert_eq!(chunks.make_coarse(0), (vec![], None), "no more is to be had");
    }
}
