//! The offset map that the records of the positions topic tell of.
//!
//! Owns which segments count for whom; knows nothing about how records are read. What the topic says is foreign data.

use std::collections::BTreeMap;

use crate::position::Position;
use crate::translate::{OffsetMap, Segment};

/// Producer id, number of the assignment and number of the chunk.
pub type ChunkKey = (i64, u64, u32);

/// The map of one partition for a flow that writes with this producer id; `None` where nothing can be translated.
///
/// Segments of earlier producer ids count as far as they lie before the present one's: what a partition that was begun
/// anew has mirrored a second time is translated to the second copy, and what a replaced owner appends under an id that
/// nothing fences any more is left out. Segments of a source topic that was made again since don't count: its offsets
/// are others.
pub fn stored_map<'a>(
    chunks: &BTreeMap<ChunkKey, Vec<Segment>>,
    positions: impl Iterator<Item = &'a Position> + Clone,
    producer_id: i64,
) -> Option<OffsetMap> {
    let former = last_of_former_topic(positions.clone());
    let counts = |number: u64| former.is_none_or(|former| number > former);
    let of = |id: i64| {
        let chunks = chunks.range((id, 0, 0)..=(id, u64::MAX, u32::MAX));
        chunks.filter(|((_, number, _), _)| counts(*number)).flat_map(owned)
    };
    let first = of(producer_id).map(|(_, segment)| segment).min_by_key(|segment| segment.target);
    let before = |(number, segment): (u64, Segment)| {
        let most = first.map_or(i64::MAX, |first| {
            let (source, target) = (first.source, first.target);
            source.saturating_sub(segment.source).min(target.saturating_sub(segment.target))
        });
        let left = Segment { count: segment.count.min(most), ..segment };
        Some((number, left)).filter(|_| most > 0)
    };
    let earlier = chunks
        .iter()
        .filter(|((id, number, _), _)| *id != producer_id && counts(*number))
        .flat_map(owned)
        .filter_map(before);
    let mut map = OffsetMap::new(earlier.chain(of(producer_id)), None);
    if let Some(newest) = newest(positions, producer_id) {
        // The position tells of everything up to its end. It is only believed when the segments reach as far: an offset
        // behind the last segment would otherwise jump over records that no segment tells of yet.
        let covered = match map.end() {
            Some((_, target_end)) => target_end >= newest.target_offset,
            None => newest.count == 0,
        };
        if covered {
            map.advance(newest.source_offset, newest.target_offset);
        }
    }
    map.end().is_some().then_some(map)
}

/// What an owner wrote, with its number.
fn owned(((_, number, _), segments): (&ChunkKey, &Vec<Segment>)) -> impl Iterator<Item = (u64, Segment)> {
    segments.iter().map(|segment| (*number, *segment))
}

/// The newest position of a producer id: the highest count within the highest epoch.
fn newest<'a>(positions: impl Iterator<Item = &'a Position>, producer_id: i64) -> Option<&'a Position> {
    positions
        .filter(|position| position.generation.producer_id == producer_id)
        .max_by_key(|position| (position.generation.epoch, position.count))
}

/// The last assignment of a source topic that was made again since: every owner reads one topic.
fn last_of_former_topic<'a>(positions: impl Iterator<Item = &'a Position> + Clone) -> Option<u64> {
    let latest = positions.clone().max_by_key(|position| position.assignment_number)?.source_topic_id;
    let former = positions.filter(|position| position.source_topic_id.differs(latest));
    former.map(|position| position.assignment_number).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epochs::Epochs;
    use crate::ids::TopicId;
    use crate::position::LastBatch;
    use crate::translate::Translation;
    use crate::unit::Generation;

    fn position(topic: u8, number: u64, epoch: i16, source: i64, target: i64) -> Position {
        Position {
            generation: Generation { producer_id: 7, epoch },
            sequence_base: 0,
            count: target,
            source_offset: source,
            source_topic_id: TopicId([topic; 16]),
            source_leader_epoch: -1,
            target_offset: target,
            target_leader_epoch: -1,
            last: LastBatch::default(),
            shared_leader_epoch: None,
            source_epochs: Epochs::default(),
            skip_version: 0,
            assignment_number: number,
            topic: "s".into(),
            target_topic: "t".into(),
        }
    }

    fn one(source: i64, target: i64, count: i64) -> Vec<Segment> {
        vec![Segment { source, target, count }]
    }

    #[test]
    fn a_topic_that_was_made_again_has_offsets_of_its_own() {
        // The old topic was mirrored up to 100. The new one begins at 0 again and is mirrored behind that; its offsets pass
        // those of the old one.
        let chunks = BTreeMap::from([((7, 1, 0), one(0, 0, 100)), ((7, 2, 0), one(0, 100, 150))]);
        let positions = [position(1, 1, 0, 100, 100), position(2, 2, 1, 150, 250)];
        let map = stored_map(&chunks, positions.iter(), 7).unwrap();
        assert_eq!(map.translate(0), Translation::At(100));
        assert_eq!(map.translate(120), Translation::At(220));
        // Nothing of the new one is mirrored yet: what is known of the old one says nothing.
        let positions = [position(1, 1, 0, 100, 100), position(2, 2, 1, 0, 100)];
        let chunks = BTreeMap::from([((7, 1, 0), one(0, 0, 100))]);
        assert_eq!(stored_map(&chunks, positions.iter(), 7).map(|map| map.translate(50)), None);
        // The source lost its end and a new producer id follows: what was mirrored before that stays known.
        let chunks = BTreeMap::from([((7, 1, 0), one(0, 0, 100)), ((8, 2, 0), one(90, 100, 20))]);
        let map = stored_map(&chunks, [].iter(), 8).unwrap();
        assert_eq!((map.translate(89), map.translate(90)), (Translation::At(89), Translation::At(100)));
        // A source before Kafka 2.8 has no ids: one topic.
        let positions = [position(0, 1, 0, 100, 100), position(0, 2, 1, 110, 110)];
        let chunks = BTreeMap::from([((7, 1, 0), one(0, 0, 100)), ((7, 2, 0), one(100, 100, 10))]);
        assert_eq!(stored_map(&chunks, positions.iter(), 7).unwrap().translate(50), Translation::At(50));
    }
}
