//! Tests of the offset maps.

use super::*;
use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::position::LastBatch;
use proptest::prelude::*;

const TOPIC: TopicId = TopicId([7; 16]);

fn flow() -> FlowId {
    FlowId::new("uk-hq").unwrap()
}

fn key(kind: PositionKind) -> PositionKey {
    PositionKey { flow: flow(), target_topic_id: TOPIC, partition: 0, kind }
}

fn chunk_key(producer_id: i64, chunk: u32) -> PositionKey {
    key(PositionKind::Segments { producer_id, number: 1, chunk })
}

fn seg(source: i64, target: i64, count: i64) -> Segment {
    Segment { source, target, count }
}

fn segments(list: &[Segment]) -> PositionValue {
    PositionValue::Segments(list.to_vec())
}

fn position(producer_id: i64, epoch: i16, count: i64, source: i64, target: i64) -> Position {
    Position {
        generation: Generation { producer_id, epoch },
        sequence_base: 0,
        count,
        source_offset: source,
        source_topic_id: TopicId([1; 16]),
        source_leader_epoch: -1,
        target_offset: target,
        target_leader_epoch: -1,
        last: LastBatch::default(),
        shared_leader_epoch: None,
        source_epochs: Epochs::default(),
        skip_version: 0,
        assignment_number: 1,
        topic: "orders".into(),
        target_topic: "uk.orders".into(),
    }
}

fn put(maps: &mut OffsetMaps, slot: u32, position: Position) {
    let key = key(PositionKind::Position { generation: position.generation, slot });
    maps.apply(&key, Some(PositionValue::Position(position)));
}

fn at(maps: &mut OffsetMaps, offset: i64) -> Translation {
    maps.translate(9, "orders", 0, offset)
}

#[test]
fn nothing_is_known_before_the_first_position() {
    let mut maps = OffsetMaps::new(flow());
    assert_eq!(at(&mut maps, 0), Translation::NotYet);
    maps.apply(&chunk_key(9, 0), Some(segments(&[seg(0, 0, 10)])));
    assert_eq!(at(&mut maps, 3), Translation::NotYet, "the name of the topic is not known yet");
    put(&mut maps, 0, position(9, 0, 10, 12, 10));
    assert_eq!(at(&mut maps, 3), Translation::At(3));
    assert_eq!(at(&mut maps, 12), Translation::At(10), "markers behind the last record");
    assert_eq!(at(&mut maps, 13), Translation::NotYet);
}

#[test]
fn an_empty_mirror_translates_its_beginning() {
    let mut maps = OffsetMaps::new(flow());
    put(&mut maps, 0, position(9, 0, 0, 500, 20));
    assert_eq!(at(&mut maps, 500), Translation::At(20));
    assert_eq!(at(&mut maps, 501), Translation::NotYet);
}

#[test]
fn a_position_ahead_of_the_segments_is_not_believed() {
    let mut maps = OffsetMaps::new(flow());
    maps.apply(&chunk_key(9, 0), Some(segments(&[seg(0, 0, 100)])));
    put(&mut maps, 0, position(9, 0, 200, 200, 200));
    assert_eq!(at(&mut maps, 99), Translation::At(99));
    assert_eq!(
        at(&mut maps, 100),
        Translation::At(100),
        "the next record, wherever it is, comes right behind"
    );
    assert_eq!(at(&mut maps, 150), Translation::NotYet, "200 would skip 50 records");
    maps.apply(&chunk_key(9, 0), Some(segments(&[seg(0, 0, 200)])));
    assert_eq!(at(&mut maps, 150), Translation::At(150));
}

#[test]
fn the_highest_count_of_the_highest_epoch_is_the_newest_position() {
    let mut maps = OffsetMaps::new(flow());
    maps.apply(&chunk_key(9, 0), Some(segments(&[seg(0, 0, 20)])));
    put(&mut maps, 3, position(9, 1, 5, 25, 20));
    put(&mut maps, 4, position(9, 0, 15, 15, 15));
    put(&mut maps, 5, position(9, 1, 3, 22, 18));
    assert_eq!(at(&mut maps, 25), Translation::At(20));
    let newest = Generation { producer_id: 9, epoch: 1 };
    maps.apply(&key(PositionKind::Position { generation: newest, slot: 3 }), None);
    assert_eq!(at(&mut maps, 25), Translation::NotYet, "a tombstone takes it away");
    assert_eq!(at(&mut maps, 22), Translation::At(20));
}

#[test]
fn a_hole_translates_nothing() {
    let mut maps = OffsetMaps::new(flow());
    put(&mut maps, 0, position(9, 0, 30, 30, 30));
    maps.apply(&chunk_key(9, 1), Some(segments(&[seg(0, 0, 10)])));
    maps.apply(&chunk_key(9, 3), Some(segments(&[seg(20, 20, 10)])));
    assert_eq!(at(&mut maps, 12), Translation::NotYet, "chunk 2 is missing");
    maps.apply(&chunk_key(9, 2), Some(segments(&[seg(10, 10, 10)])));
    assert_eq!(at(&mut maps, 12), Translation::At(12), "chunk 0 was cut off, which is no hole");
    maps.apply_unreadable(&chunk_key(9, 2));
    assert_eq!(at(&mut maps, 12), Translation::NotYet);
    maps.apply(&chunk_key(9, 2), Some(segments(&[seg(10, 10, 10)])));
    assert_eq!(at(&mut maps, 12), Translation::At(12));
}

#[test]
fn earlier_producer_ids_count_before_the_present_one() {
    let mut maps = OffsetMaps::new(flow());
    maps.apply(&chunk_key(4, 0), Some(segments(&[seg(0, 0, 10), seg(20, 10, 5)])));
    maps.apply(&chunk_key(9, 0), Some(segments(&[seg(30, 15, 10)])));
    put(&mut maps, 0, position(9, 0, 10, 40, 25));
    assert_eq!(at(&mut maps, 3), Translation::At(3));
    assert_eq!(at(&mut maps, 27), Translation::At(15));
    // Begun anew: everything is mirrored a second time, behind the first copy.
    maps.apply(&chunk_key(9, 0), Some(segments(&[seg(0, 15, 40)])));
    assert_eq!(at(&mut maps, 3), Translation::At(18));
}

#[test]
fn the_latest_target_topic_counts_and_other_flows_do_not() {
    let mut maps = OffsetMaps::new(flow());
    put(&mut maps, 0, position(9, 0, 0, 100, 50));
    let anew = Position { assignment_number: 2, ..position(9, 0, 0, 100, 3) };
    let kind = PositionKind::Position { generation: anew.generation, slot: 0 };
    let place = PositionKey { target_topic_id: TopicId([8; 16]), ..key(kind) };
    maps.apply(&place, Some(PositionValue::Position(anew)));
    assert_eq!(at(&mut maps, 100), Translation::At(3));
    let other = PositionKey { flow: FlowId::new("other").unwrap(), ..place };
    let stray = Position { assignment_number: 9, ..position(9, 0, 0, 100, 77) };
    maps.apply(&other, Some(PositionValue::Position(stray)));
    assert_eq!(at(&mut maps, 100), Translation::At(3));
}

proptest! {
    /// Whatever order the records of an honest mirror are read in up to some place, no translation lies behind the
    /// right one, and once all of them are read every translation is right.
    #[test]
    fn translations_never_skip(runs in prop::collection::vec((0_i64..3, 1_i64..5), 1..20), cut in 0_usize..40) {
        // An honest mirror: after each run the last chunk is written, then the position. Chunks hold 3 segments.
        let mut records = Vec::new();
        let (mut chunks, mut log) = (vec![Vec::new()], Vec::new());
        let (mut source, mut target) = (0, 0);
        for (index, (hole, count)) in runs.into_iter().enumerate() {
            source += hole;
            records.extend((0..count).map(|i| (source + i, target + i)));
            if chunks.last().unwrap().len() == 3 { chunks.push(Vec::new()); }
            chunks.last_mut().unwrap().push(seg(source, target, count));
            source += count;
            target += count;
            let number = u32::try_from(chunks.len() - 1).unwrap();
            log.push((chunk_key(9, number), Some(segments(chunks.last().unwrap()))));
            let written = position(9, 0, target, source, target);
            let slot = u32::try_from(index % 8).unwrap();
            let kind = PositionKind::Position { generation: written.generation, slot };
            log.push((key(kind), Some(PositionValue::Position(written))));
        }
        let mut maps = OffsetMaps::new(flow());
        let right = |asked: i64| records.iter().find(|(s, _)| *s >= asked).map_or(target, |(_, t)| *t);
        let all = log.len();
        for (read, (key, value)) in log.into_iter().enumerate() {
            if read == cut {
                for asked in records[0].0..=source {
                    if let Translation::At(found) = at(&mut maps, asked) {
                        prop_assert!(found <= right(asked), "{asked} → {found}, right is {}", right(asked));
                    }
                }
            }
            maps.apply(&key, value);
        }
        prop_assert!(all > 0);
        for asked in records[0].0..=source {
            prop_assert_eq!(at(&mut maps, asked), Translation::At(right(asked)));
        }
    }
}
