//! Offset maps of a flow's partitions, built from the records of its positions topic.
//!
//! Owns which records count and when a map is complete enough to translate with; knows nothing about how records are
//! read. What the topic says is foreign data: a map that may have a hole translates nothing, since an offset in the
//! hole would be taken for the next record behind it, and a consumer would skip what lies between.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::ids::{FlowId, TopicId};
use mirrormesh_core::position::{Position, PositionKey, PositionKind, PositionValue};
use mirrormesh_core::stored_map::{ChunkKey, stored_map};
use mirrormesh_core::translate::{OffsetMap, Segment, Translation};
use mirrormesh_core::unit::Generation;

/// The maps of one flow.
#[derive(Debug)]
pub(crate) struct OffsetMaps {
    flow: FlowId,
    partitions: BTreeMap<(TopicId, i32), Partition>,
    /// Which target topics a source partition was mirrored to: several when the target topic was created anew.
    by_source: BTreeMap<(String, i32), BTreeSet<TopicId>>,
}

#[derive(Debug, Default)]
struct Partition {
    positions: BTreeMap<(Generation, u32), Position>,
    chunks: BTreeMap<ChunkKey, Vec<Segment>>,
    /// Chunks whose newest record can't be read.
    unreadable: BTreeSet<ChunkKey>,
    /// The map for a producer id, until something changes; `None` in it where nothing can be translated.
    map: Option<(i64, Option<OffsetMap>)>,
}

impl OffsetMaps {
    /// Maps without anything in them.
    pub(crate) fn new(flow: FlowId) -> Self {
        Self { flow, partitions: BTreeMap::new(), by_source: BTreeMap::new() }
    }

    /// Forgets everything: the topic is read anew.
    pub(crate) fn clear(&mut self) {
        self.partitions.clear();
        self.by_source.clear();
    }

    /// Takes a record; `None` is a tombstone. Records of other flows are left out.
    pub(crate) fn apply(&mut self, key: &PositionKey, value: Option<PositionValue>) {
        if key.flow != self.flow {
            return;
        }
        let place = (key.target_topic_id, key.partition);
        let partition = self.partitions.entry(place).or_default();
        match (key.kind, value) {
            (PositionKind::Position { generation, slot }, Some(PositionValue::Position(position))) => {
                let source = (position.topic.clone(), key.partition);
                self.by_source.entry(source).or_default().insert(key.target_topic_id);
                partition.positions.insert((generation, slot), position);
            }
            (
                PositionKind::Segments { producer_id, number, chunk },
                Some(PositionValue::Segments(segments)),
            ) => {
                partition.unreadable.remove(&(producer_id, number, chunk));
                partition.chunks.insert((producer_id, number, chunk), segments);
            }
            (PositionKind::Position { generation, slot }, _) => {
                partition.positions.remove(&(generation, slot));
            }
            (PositionKind::Segments { producer_id, number, chunk }, None) => {
                partition.unreadable.remove(&(producer_id, number, chunk));
                partition.chunks.remove(&(producer_id, number, chunk));
            }
            (PositionKind::Segments { producer_id, number, chunk }, Some(PositionValue::Position(_))) => {
                partition.unreadable.insert((producer_id, number, chunk));
            }
        }
        partition.map = None;
    }

    /// Takes a record whose value can't be read. A position is then missing, which an older slot makes up for; a chunk
    /// of segments is a hole.
    pub(crate) fn apply_unreadable(&mut self, key: &PositionKey) {
        if key.flow != self.flow {
            return;
        }
        let partition = self.partitions.entry((key.target_topic_id, key.partition)).or_default();
        match key.kind {
            PositionKind::Position { generation, slot } => {
                partition.positions.remove(&(generation, slot));
            }
            PositionKind::Segments { producer_id, number, chunk } => {
                partition.unreadable.insert((producer_id, number, chunk));
            }
        }
        partition.map = None;
    }

    /// Where a source offset is on the target, for a flow that writes with this producer id.
    pub(crate) fn translate(
        &mut self,
        producer_id: i64,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Translation {
        let Some(ids) = self.by_source.get(&(topic.to_owned(), partition)) else {
            return Translation::NotYet;
        };
        // The latest assignment wrote to the topic that is there now.
        let latest = |id: &&TopicId| {
            let positions = self.partitions.get(&(**id, partition)).map(|found| found.positions.values());
            positions.and_then(|positions| positions.map(|position| position.assignment_number).max())
        };
        let Some(id) = ids.iter().max_by_key(latest).copied() else { return Translation::NotYet };
        let Some(found) = self.partitions.get_mut(&(id, partition)) else { return Translation::NotYet };
        found.map(producer_id).map_or(Translation::NotYet, |map| map.translate(offset))
    }
}

impl Partition {
    fn map(&mut self, producer_id: i64) -> Option<&OffsetMap> {
        if self.map.as_ref().is_none_or(|(built_for, _)| *built_for != producer_id) {
            let map = self.build(producer_id);
            self.map = Some((producer_id, map));
        }
        self.map.as_ref().and_then(|(_, map)| map.as_ref())
    }

    fn build(&self, producer_id: i64) -> Option<OffsetMap> {
        if !self.unreadable.is_empty() || !self.complete() {
            return None;
        }
        stored_map(&self.chunks, self.positions.values(), producer_id)
    }

    /// The chunks of each owner are without a hole. They may begin late: old ones are cut off.
    fn complete(&self) -> bool {
        let keys = self.chunks.keys();
        keys.clone()
            .zip(keys.skip(1))
            .all(|(one, next)| (one.0, one.1) != (next.0, next.1) || one.2.checked_add(1) == Some(next.2))
    }
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
