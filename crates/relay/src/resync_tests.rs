//! Tests of `resync`.

use mirrormesh_core::epochs::EpochEnd;
use mirrormesh_core::format::samples::header;
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::position::LastBatch;
use mirrormesh_core::unit::{PartitionGeneration, PartitionStart};

use super::*;
use crate::origins::Origins;
use crate::page::SourcePage;
use crate::sequence_of;
use crate::testing::{Fake, batch_of, dense, joined};

const GENERATION: Generation = Generation { producer_id: 5, epoch: 1 };
pub(super) const SOURCE: TopicId = TopicId([1; 16]);
pub(super) const TARGET: TopicId = TopicId([2; 16]);

pub(super) fn resync_with(facts: Facts, sole_writer: bool) -> Resync {
    let start = PartitionStart { source_offset: 100, target_offset: 7, ..PartitionStart::default() };
    let detail = PartitionDetail {
        target_topic: TopicName::new("t").unwrap(),
        source_topic_id: SOURCE,
        target_topic_id: TARGET,
        begun: PartitionGeneration { generation: GENERATION, start },
    };
    let (others_before, acked_target) = (i64::MIN, i64::MIN);
    let (times_kept, searches) = (true, false);
    Resync::new(Premise {
        detail,
        number: 1,
        facts,
        sole_writer,
        times_kept,
        searches,
        others_before,
        acked_target,
        target_cut: None,
    })
}

fn resync() -> Resync {
    resync_with(Facts::DEFAULT, true)
}

pub(super) fn position(count: i64, source: i64, target: i64) -> Position {
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
        shared_leader_epoch: None,
        source_epochs: Epochs::default(),
        skip_version: 0,
        assignment_number: 1,
        topic: "s".into(),
        target_topic: "t".into(),
    }
}

fn of_source_epoch(epoch: i32, position: Position) -> Position {
    Position { source_leader_epoch: epoch, ..position }
}

/// A batch of ours on the target: records of the source from `source` on.
pub(super) fn ours(base: i64, sequence: i32, count: i32, source: i64) -> RawBatch {
    of_epoch(1, base, sequence, count, source)
}

fn of_epoch(epoch: i16, base: i64, sequence: i32, count: i32, source: i64) -> RawBatch {
    let shape =
        BatchHeader { producer_id: 5, producer_epoch: epoch, base_sequence: sequence, ..header(base, count) };
    let offsets: Vec<i64> = (base..base + i64::from(count)).collect();
    // The content of a source record is its offset.
    batch_of(&offsets, shape, u64::try_from(source - base).unwrap())
}

fn foreign(base: i64, count: i32) -> RawBatch {
    dense(base, count)
}

pub(super) fn page(batches: &[RawBatch]) -> SourcePage {
    SourcePage { records: joined(batches), end_offset: 1_000, high_watermark: 1_000, ..SourcePage::default() }
}

pub(super) fn marker(base: i64) -> RawBatch {
    batch_of(&[base], BatchHeader { attributes: 0x30, ..header(base, 1) }, 0)
}

pub(super) fn begun(r: &mut Resync, positions: Vec<Position>, log_start: i64, log_end: i64) {
    r.identity(Some(SOURCE), Some(TARGET));
    r.positions(positions);
    r.target_ends(log_start, log_end, log_end);
    if r.purpose == Purpose::Anchor {
        // What the position tells of, or where nothing is told, somebody else's.
        let of_ours = i16::from(r.base.count > 0);
        target(r, &[of_epoch(of_ours, log_end - 1, sequence_of(r.base.count - 1), 1, r.base.source - 1)]);
    }
}

fn to_ends(positions: Vec<Position>, log_start: i64, log_end: i64) -> Resync {
    let mut r = resync();
    begun(&mut r, positions, log_start, log_end);
    r
}

pub(super) fn target(r: &mut Resync, batches: &[RawBatch]) {
    r.target_read(joined(batches), &Fake);
}

/// Reads of the target find this log.
pub(super) fn serve(r: &mut Resync, log: &[RawBatch]) {
    while let Step::TargetRead(at) = *r.step() {
        let from = log.partition_point(|batch| batch.header.next_offset() <= at);
        target(r, &log[from..]);
    }
}

pub(super) fn source(r: &mut Resync, batches: &[RawBatch]) {
    r.source_read(page(batches), &Origins::default(), &Fake);
}

pub(super) fn found(r: &Resync) -> Found {
    match r.step() {
        Step::Done(found) => (**found).clone(),
        other => panic!("{other:?}"),
    }
}

/// The target's leader remembers this of the producer, and the log is empty up to its end as it was before.
pub(super) fn remembers(r: &mut Resync, remembered: Option<(i16, i32)>, log_end: i64) {
    r.producer(remembered);
    assert_eq!(*r.step(), Step::TargetEnds);
    r.target_ends(log_end, log_end, log_end);
}

/// The leader epoch that is asked for ends there on the source.
pub(super) fn ends_at(r: &mut Resync, offset: i64) {
    r.source_history(Some(EpochEnd { epoch: r.lineage.asked, offset, leader: -1 }));
}

/// The source's first leader leads still.
pub(super) fn never_elected(r: &mut Resync) {
    assert_eq!(*r.step(), Step::SourceHistory(0));
    r.source_history(Some(EpochEnd { epoch: 0, offset: 1_000, leader: 0 }));
}

fn place(r: &Resync) -> (Place, bool) {
    let found = found(r);
    (found.place, found.sole_writer)
}

pub(super) fn stopped(r: &Resync) -> StopReason {
    match r.step() {
        Step::Stop(stop) => stop.reason,
        Step::Lost(loss, _) => loss.stop.reason,
        other => panic!("{other:?}"),
    }
}

/// Before a loss is believed, the topics are asked about again.
pub(super) fn still_the_same(r: &mut Resync) {
    assert_eq!(*r.step(), Step::Identity);
    r.identity(Some(SOURCE), Some(TARGET));
    if let Step::SourceHistory(_) = r.step() {
        r.source_history(r.lineage.end);
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
    assert_eq!(*r.step(), Step::TargetRead(18));
    serve(&mut r, &[ours(12, 5, 4, 105), ours(16, 9, 3, 110)]);
    assert_eq!(*r.step(), Step::SourceRead { offset: 105, read_committed: true, last_epoch: -1 });
    source(&mut r, &[dense(105, 4), marker(109), dense(110, 3), dense(113, 9)]);
    assert_eq!(place(&r), (Place { count: 12, source: 113, target: 19 }, true));
    let segments: Vec<_> =
        found(&r).replay.iter().map(|m| (m.segment.source, m.segment.target, m.segment.count)).collect();
    assert_eq!(segments, [(105, 12, 4), (110, 16, 3)]);
}

#[test]
fn the_place_may_lie_inside_a_source_batch() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 14);
    target(&mut r, &[ours(12, 5, 2, 105)]);
    source(&mut r, &[dense(105, 4)]);
    assert_eq!(place(&r), (Place { count: 7, source: 107, target: 14 }, true));
}

#[test]
fn records_of_a_batch_with_gaps_are_counted_one_by_one() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 15);
    let gappy = batch_of(&[105, 107, 111, 112], header(105, 10), 0);
    target(&mut r, &[batch_of(&[12, 13, 14], ours(12, 5, 3, 105).header, 99)]);
    source(&mut r, std::slice::from_ref(&gappy));
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::PositionMismatch, "111 is not what the target has last");
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 15);
    target(&mut r, &[batch_of(&[12, 13, 14], ours(12, 5, 3, 105).header, 97)]);
    source(&mut r, &[gappy]);
    assert_eq!(place(&r).0, Place { count: 8, source: 112, target: 15 });
    assert_eq!(found(&r).replay[0].more.len(), 2);
}

#[test]
fn a_different_record_stops() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 16);
    target(&mut r, &[ours(12, 5, 4, 205)]);
    source(&mut r, &[dense(105, 4)]);
    assert_eq!(*r.step(), Step::Identity, "a topic that was made again has other records");
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::PositionMismatch);
}

#[test]
fn a_source_that_ends_too_early_lost_its_end() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 16);
    target(&mut r, &[ours(12, 5, 4, 105)]);
    r.source_read(SourcePage { end_offset: 105, ..SourcePage::default() }, &Origins::default(), &Fake);
    assert_eq!(*r.step(), Step::SourceEnds);
    r.source_ends(0, 105);
    assert_eq!(*r.step(), Step::TargetRead(12), "where the histories part, content says");
    target(&mut r, &[ours(12, 5, 4, 105)]);
    r.source_read(SourcePage { end_offset: 105, ..SourcePage::default() }, &Origins::default(), &Fake);
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 16);
    target(&mut r, &[ours(12, 5, 4, 105)]);
    r.source_read(SourcePage { end_offset: 105, ..SourcePage::default() }, &Origins::default(), &Fake);
    r.source_ends(0, 109);
    assert_eq!(*r.step(), Step::Again("SOURCE_NOT_SETTLED"), "the high watermark will follow");
}

#[test]
fn a_source_that_deleted_what_is_to_be_counted_lost_at_least_what_follows() {
    for (epoch, from) in [(0, 109), (-1, 105)] {
        let mut r = to_ends(vec![of_source_epoch(epoch, position(5, 105, 12))], 0, 16);
        target(&mut r, &[ours(12, 5, 4, 105)]);
        if epoch >= 0 {
            ends_at(&mut r, 200);
        }
        r.source_out_of_range();
        r.source_ends(120, 200);
        // What is behind the deleted part may be mirrored already: its content would tell.
        assert_eq!(*r.step(), Step::TargetRead(12));
        target(&mut r, &[ours(12, 5, 4, 105)]);
        assert_eq!(*r.step(), Step::SourceRead { offset: 120, read_committed: true, last_epoch: -1 });
        r.source_read(SourcePage { end_offset: 125, ..page(&[dense(120, 5)]) }, &Origins::default(), &Fake);
        still_the_same(&mut r);
        let Step::Lost(loss, 16) = r.step() else { panic!("{:?}", r.step()) };
        assert_eq!((loss.stop.reason, loss.go_on), (StopReason::RetentionOverrun, 120));
        let told = (loss.stop.from_offset, loss.stop.to_offset, loss.stop.count);
        assert_eq!(told, (Some(from), Some(120), None), "without an epoch, n may be of another history");
    }
}

#[test]
fn what_an_older_generation_appended_late_counts_as_mirrored() {
    let late = [of_epoch(0, 7, 300, 3, 100)];
    let mut r = to_ends(vec![], 0, 10);
    target(&mut r, &late);
    target(&mut r, &late);
    assert_eq!(*r.step(), Step::TargetRead(7), "for its content");
    target(&mut r, &late);
    source(&mut r, &[dense(100, 2), dense(102, 4)]);
    assert_eq!((place(&r).0, found(&r).apart), (Place { count: 0, source: 103, target: 10 }, true));
}

#[test]
fn a_late_repeat_before_what_is_found_is_told() {
    // A replaced owner's repeat of what the generation began behind, then what its successor sent.
    let log = [of_epoch(0, 7, 299, 1, 99), of_epoch(0, 8, 300, 3, 100)];
    let mut r = to_ends(vec![], 0, 11);
    serve(&mut r, &log);
    source(&mut r, &[dense(100, 6)]);
    assert_eq!((place(&r).0.source, found(&r).stray), (103, Some((7, 8))));
}

#[test]
fn on_a_compacted_source_the_place_is_found_by_content() {
    let mut r = resync_with(Facts { source_compacted: true, ..Facts::DEFAULT }, true);
    begun(&mut r, vec![position(5, 105, 12)], 0, 16);
    target(&mut r, &[ours(12, 5, 4, 105)]);
    assert_eq!(*r.step(), Step::TargetRead(12));
    target(&mut r, &[ours(12, 5, 4, 105)]);
    // 106 and 107 were compacted meanwhile; 109 was not mirrored.
    source(&mut r, &[batch_of(&[105, 108, 109], header(105, 5), 0)]);
    assert_eq!(place(&r).0, Place { count: 9, source: 109, target: 16 });
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
    ends_at(&mut r, 104);
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
    let mut r = to_ends(vec![old], 0, 12);
    ends_at(&mut r, 105);
    source(&mut r, &[dense(104, 1)]);
    assert_eq!(place(&r).0.source, 105);
    let r = to_ends(vec![], 0, 5);
    assert_eq!(stopped(&r), StopReason::TargetTruncated);
}

#[test]
fn where_both_sides_deleted_what_would_tell_nothing_is_left_out_and_it_is_said() {
    let deleted = |epoch, remembered| {
        let mut r = to_ends(vec![of_source_epoch(epoch, position(5, 105, 12))], 16, 16);
        remembers(&mut r, remembered, 16);
        if epoch >= 0 {
            ends_at(&mut r, 130);
        }
        r.source_out_of_range();
        r.source_ends(107, 130);
        still_the_same(&mut r);
        let Step::Lost(loss, _) = r.step().clone() else { panic!("{:?}", r.step()) };
        assert_eq!(r.unsure(), Some((12, 16)));
        (loss.stop.from_offset, loss.go_on)
    };
    assert_eq!(
        deleted(0, Some((1, 8))),
        (Some(107), 109),
        "n = 9 is known: four records take four offsets or more"
    );
    assert_eq!(
        deleted(-1, Some((1, 8))),
        (Some(105), 107),
        "they may have been others, from before the source lost its end"
    );
}

#[test]
fn a_source_that_was_cut_below_the_start_is_seen_before_anything_of_the_generation_is_written() {
    let mut older = position(12, 108, 7);
    older.generation.epoch = 0;
    older.source_leader_epoch = 4;
    let mut r = to_ends(vec![older], 0, 7);
    assert_eq!(*r.step(), Step::SourceHistory(4));
    ends_at(&mut r, 90);
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
}

#[test]
fn a_later_assignment_under_another_producer_id_replaced_this_one() {
    let mut other = position(3, 103, 10);
    other.generation.producer_id = 6;
    assert_eq!(place(&to_ends(vec![other.clone()], 0, 7)).0.count, 0, "an earlier one");
    other.assignment_number = 2;
    let mut r = resync();
    r.identity(Some(SOURCE), Some(TARGET));
    r.positions(vec![other]);
    assert_eq!(stopped(&r), StopReason::Fenced);
}

#[path = "resync_cut_tests.rs"]
mod cut;
#[path = "resync_history_tests.rs"]
mod history;
#[path = "resync_return_tests.rs"]
mod returns;
#[path = "resync_target_tests.rs"]
mod target_side;
