//! Tests of `resync`.

use super::*;
use crate::format::batch::tests::header;
use crate::ids::TopicName;
use crate::unit::PartitionStart;

const GENERATION: Generation = Generation { producer_id: 5, epoch: 1 };
const SOURCE: TopicId = TopicId([1; 16]);
const TARGET: TopicId = TopicId([2; 16]);

fn resync() -> Resync {
    Resync::new(
        GENERATION,
        PartitionDetail {
            target_topic: TopicName::new("t").unwrap(),
            source_topic_id: SOURCE,
            target_topic_id: TARGET,
            start: PartitionStart { source_offset: 100, target_offset: 7 },
        },
    )
}

fn position(count: i64, source: i64, target: i64) -> Position {
    Position {
        generation: GENERATION,
        sequence_base: 0,
        count,
        source_offset: source,
        source_topic_id: SOURCE,
        source_leader_epoch: -1,
        target_offset: target,
        target_leader_epoch: -1,
        last: LastBatch::default(),
        skip_version: 0,
        assignment_number: 1,
        topic: "s".into(),
        target_topic: "t".into(),
    }
}

fn ours(base: i64, sequence: i32, count: i32) -> TargetBatch {
    let header =
        BatchHeader { producer_id: 5, producer_epoch: 1, base_sequence: sequence, ..header(base, count) };
    TargetBatch { header, body_crc: Some(9) }
}

fn foreign(base: i64, count: i32) -> TargetBatch {
    TargetBatch { header: header(base, count), body_crc: None }
}

fn mirror(base: i64, count: i32) -> SourceItem {
    SourceItem::Mirror { from: base, header: header(base, count), body_crc: 9, bytes: 100 }
}

fn to_ends(positions: Vec<Position>, log_start: i64, log_end: i64) -> Resync {
    let mut r = resync();
    r.identity(Some(SOURCE), Some(TARGET));
    r.positions(positions);
    r.target_ends(log_start, log_end, log_end);
    r
}

fn place(r: &Resync) -> (Place, bool) {
    match r.step() {
        Step::Done(found) => (found.place, found.sole_writer),
        other => panic!("{other:?}"),
    }
}

fn stopped(r: &Resync) -> StopReason {
    match r.step() {
        Step::Stop(stop) => stop.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fresh_partition_begins_at_its_start() {
    let r = to_ends(vec![], 0, 7);
    assert_eq!(place(&r), (Place { count: 0, source: 100, target: 7 }, true));
}

#[test]
fn what_lies_behind_the_position_is_counted_on_the_source() {
    let mut r = to_ends(vec![position(5, 105, 12), position(3, 103, 10)], 0, 19);
    assert_eq!(*r.step(), Step::TargetTail(18));
    r.target_tail(Some(ours(16, 9, 3)));
    assert_eq!(*r.step(), Step::SourceRead(105));
    r.source_read(&[mirror(105, 4), SourceItem::Passed(110), mirror(110, 3), mirror(113, 9)]);
    assert_eq!(place(&r), (Place { count: 12, source: 113, target: 19 }, true));
    let Step::Done(found) = r.step() else { panic!() };
    assert_eq!(
        found
            .replay
            .iter()
            .map(|m| (m.segment.source, m.segment.target, m.segment.count))
            .collect::<Vec<_>>(),
        [(105, 12, 4), (110, 16, 3)]
    );
}

#[test]
fn the_place_may_lie_inside_a_source_batch() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 14);
    r.target_tail(Some(ours(12, 5, 2)));
    r.source_read(&[mirror(105, 4)]);
    assert_eq!(place(&r), (Place { count: 7, source: 107, target: 14 }, true));
}

#[test]
fn a_different_record_stops() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 16);
    r.target_tail(Some(TargetBatch { body_crc: Some(8), ..ours(12, 5, 4) }));
    r.source_read(&[mirror(105, 4)]);
    assert_eq!(stopped(&r), StopReason::PositionMismatch);
}

#[test]
fn a_source_that_ends_too_early_stops() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 16);
    r.target_tail(Some(ours(12, 5, 4)));
    r.source_read(&[]);
    assert_eq!(stopped(&r), StopReason::PositionMismatch);
}

#[test]
fn other_writers_are_counted_around() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 22);
    r.target_tail(Some(foreign(20, 2)));
    assert_eq!(*r.step(), Step::TargetScan { from: 12, to: 22 });
    r.target_scan(&[foreign(12, 1), ours(13, 5, 2), foreign(15, 2), ours(17, 7, 3), foreign(20, 2)]);
    r.source_read(&[mirror(105, 2), mirror(107, 3)]);
    assert_eq!(place(&r), (Place { count: 10, source: 110, target: 22 }, false));
    let Step::Done(found) = r.step() else { panic!() };
    assert_eq!(found.replay.iter().map(|m| m.segment.target).collect::<Vec<_>>(), [13, 17]);
}

#[test]
fn nothing_of_ours_behind_the_position_is_no_progress() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 14);
    r.target_tail(Some(foreign(12, 2)));
    r.target_scan(&[foreign(12, 2)]);
    assert_eq!(place(&r), (Place { count: 5, source: 105, target: 14 }, false));
}

#[test]
fn an_unsettled_end_is_waited_for() {
    let mut r = resync();
    r.identity(Some(SOURCE), Some(TARGET));
    r.positions(vec![]);
    r.target_ends(0, 9, 7);
    assert_eq!(*r.step(), Step::Again("TARGET_NOT_SETTLED"));
}

#[test]
fn a_truncated_target_takes_the_newest_position_below_its_end() {
    let mut r = to_ends(vec![position(9, 109, 16), position(5, 105, 12)], 0, 13);
    r.target_tail(Some(ours(12, 5, 1)));
    r.source_read(&[mirror(105, 1)]);
    let Step::Done(found) = r.step() else { panic!() };
    assert_eq!((found.place.count, found.truncated), (6, Some((13, 16))));
}

#[test]
fn sequences_that_wrapped_are_read() {
    let n = (1_i64 << 31) - 2;
    let mut r = to_ends(vec![position(n, 105, 12)], 0, 16);
    r.target_tail(Some(ours(12, i32::MAX - 1, 4)));
    r.source_read(&[mirror(105, 4)]);
    assert_eq!(place(&r).0.count, n + 4);
}

#[test]
fn identities_generations_and_history_are_checked() {
    let mut r = resync();
    r.identity(Some(TopicId([9; 16])), Some(TARGET));
    assert_eq!(stopped(&r), StopReason::SourceRecreated);
    let mut r = resync();
    r.identity(Some(SOURCE), Some(TopicId([9; 16])));
    assert_eq!(stopped(&r), StopReason::TargetRecreated);
    let mut r = resync();
    r.identity(None, Some(TARGET));
    assert_eq!(*r.step(), Step::Again("SOURCE_TOPIC_MISSING"));

    let newer = Position { generation: Generation { producer_id: 5, epoch: 2 }, ..position(1, 1, 1) };
    let mut r = resync();
    r.identity(Some(SOURCE), Some(TARGET));
    r.positions(vec![newer]);
    assert_eq!(stopped(&r), StopReason::Fenced);

    let old = Position { source_leader_epoch: 4, ..position(5, 105, 12) };
    let mut r = to_ends(vec![old.clone()], 0, 12);
    assert_eq!(*r.step(), Step::SourceHistory(4));
    r.source_history(Some(104));
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
    let mut r = to_ends(vec![old], 0, 12);
    r.source_history(Some(105));
    assert_eq!(place(&r).0.source, 105);
    let r = to_ends(vec![], 0, 5);
    assert_eq!(stopped(&r), StopReason::TargetTruncated);
}
