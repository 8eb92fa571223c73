//! Tests of `resync`: what can't be believed any more when the answer comes.

use mirrormesh_core::translate::Segment;

use super::*;

#[test]
fn what_is_remembered_counts_only_if_the_log_did_not_grow_meanwhile() {
    let mut r = to_ends(vec![position(5, 105, 12)], 16, 16);
    r.producer(Some((1, 8)));
    r.target_ends(16, 17, 17);
    target(&mut r, &[ours(16, 8, 1, 108)]);
    assert!(matches!(r.step(), Step::TargetRead(_)), "n is read from the log that has grown: {:?}", r.step());
}

fn of_leader(epoch: i32, base: i64, count: i32) -> RawBatch {
    let offsets: Vec<i64> = (base..base + i64::from(count)).collect();
    batch_of(&offsets, BatchHeader { leader_epoch: epoch, ..header(base, count) }, 0)
}

#[test]
fn a_history_that_nothing_on_the_target_tells_of_is_mirrored_again() {
    let known = Position { source_leader_epoch: 3, ..position(5, 105, 12) };
    let mut r = to_ends(vec![known], 16, 16);
    remembers(&mut r, Some((1, 8)), 16);
    ends_at(&mut r, 107);
    source(&mut r, &[of_leader(3, 105, 2), of_leader(4, 107, 9)]);
    let found = found(&r);
    assert_eq!(found.place, Place { count: 9, source: 107, target: 16 });
    assert_eq!((found.unsure, found.apart, found.epoch), (Some((14, 16)), true, 3));
}

#[test]
fn the_epoch_of_an_older_generation_tells_only_of_what_it_reached() {
    let older = Generation { epoch: 0, ..GENERATION };
    let before = Position { generation: older, source_leader_epoch: 3, ..position(9, 95, 6) };
    let mut r = to_ends(vec![before.clone()], 0, 7);
    assert_eq!(*r.step(), Step::SourceHistory(3));
    ends_at(&mut r, 97);
    assert_eq!((place(&r).0.source, found(&r).epoch), (100, -1), "the start may lie in a later epoch");
    let mut r = to_ends(vec![before], 0, 7);
    ends_at(&mut r, 94);
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
}

#[test]
fn the_start_tells_which_epoch_reached_to_it() {
    let older = Generation { epoch: 0, ..GENERATION };
    let before = Position { generation: older, source_leader_epoch: 3, ..position(9, 95, 6) };
    let mut r = resync();
    r.premise.detail.begun.start.source_leader_epoch = Some(4);
    begun(&mut r, vec![before], 0, 7);
    assert_eq!(*r.step(), Step::SourceHistory(4), "not the one that the older generation reached");
    ends_at(&mut r, 99);
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
}

#[test]
fn where_no_epoch_is_known_only_what_the_first_leader_took_is_counted() {
    let counted = |end| {
        let mut r = to_ends(vec![position(5, 105, 12)], 16, 16);
        remembers(&mut r, Some((1, 8)), 16);
        assert_eq!(*r.step(), Step::SourceHistory(0));
        r.source_history(end);
        source(&mut r, &[of_leader(0, 105, 2), of_leader(1, 107, 9)]);
        let found = found(&r);
        (found.place.source, found.unsure, found.apart)
    };
    let end = |leader| Some(EpochEnd { epoch: 0, offset: 107, leader });
    // Another one was elected while it was read.
    assert_eq!(counted(end(0)), (107, Some((14, 16)), true));
    let nothing = (105, Some((12, 16)), true);
    assert_eq!(counted(end(1)), nothing, "what was mirrored may be of another history");
    assert_eq!(counted(None), nothing);
}

#[test]
fn behind_a_gap_it_is_asked_whether_retention_took_ours() {
    for read_before in [0, 3] {
        for taken in [true, false] {
            let mut r = resync_with(Facts::DEFAULT, false);
            begun(&mut r, vec![position(5, 105, 12)], 0, 20);
            target(&mut r, &[foreign(18, 2)]);
            if read_before > 0 {
                target(&mut r, &[ours(12, 5, read_before, 105)]);
            }
            target(&mut r, &[foreign(18, 2)]);
            assert_eq!(*r.step(), Step::TargetEnds, "ours may have been before 18");
            r.target_ends(if taken { 18 } else { 0 }, 20, 20);
            if taken {
                target(&mut r, &[foreign(18, 2)]);
                target(&mut r, &[foreign(18, 2)]);
                assert_eq!(*r.step(), Step::Producer);
                continue;
            }
            if read_before > 0 {
                source(&mut r, &[dense(105, 9)]);
            } else {
                remembers_at(&mut r, Some((1, 4)), (0, 20));
            }
            let n = i64::from(5 + read_before);
            assert_eq!(place(&r).0, Place { count: n, source: 100 + n, target: 20 }, "compaction took them");
        }
    }
}

#[test]
fn what_an_older_generation_brought_and_retention_took_is_told_too() {
    // The position stands at 12. An older generation's stood at 12 to 14, ours from there on.
    for (log_start, left) in [(13, vec![of_epoch(0, 13, 40, 1, 106)]), (14, vec![])] {
        let mut r = to_ends(vec![position(5, 105, 12)], log_start, 16);
        let batches: Vec<_> = left.into_iter().chain([ours(14, 5, 2, 105)]).collect();
        target(&mut r, &batches);
        target(&mut r, &batches);
        source(&mut r, &[dense(105, 9)]);
        assert_eq!((place(&r).0.count, found(&r).doubled), (7, Some((12, 14))), "from {log_start} on");
    }
}

#[test]
fn a_source_that_is_read_by_name_is_looked_at_again_before_a_place_is_believed() {
    let mut r = resync_with(Facts { source_by_name: true, ..Facts::DEFAULT }, true);
    begun(&mut r, vec![position(5, 105, 12)], 0, 16);
    target(&mut r, &[ours(12, 5, 4, 105)]);
    source(&mut r, &[dense(105, 4)]);
    assert_eq!(*r.step(), Step::Identity);
    r.identity(Some(TopicId([9; 16])), Some(TARGET));
    assert_eq!(stopped(&r), StopReason::SourceRecreated);
}

fn compacted(log_start: i64, log_end: i64) -> Resync {
    let mut r = resync_with(Facts { source_compacted: true, ..Facts::DEFAULT }, true);
    begun(&mut r, vec![position(5, 105, 12)], log_start, log_end);
    r
}

#[test]
fn what_a_compacted_source_does_not_have_at_its_place_is_told() {
    let mut r = compacted(0, 14);
    let batches = [ours(12, 5, 1, 105), ours(13, 6, 1, 50)];
    serve(&mut r, &batches);
    let left = SourcePage { end_offset: 107, high_watermark: 107, ..page(&[dense(105, 2)]) };
    r.source_read(left, &Origins::default(), &Fake);
    assert_eq!((place(&r).0.source, found(&r).stray), (106, Some((13, 14))));
    // Later ones that are in their place do not hide it.
    let mut r = compacted(0, 15);
    let batches = [ours(12, 5, 1, 105), ours(13, 6, 1, 50), ours(14, 7, 1, 106)];
    serve(&mut r, &batches);
    source(&mut r, &[dense(105, 2)]);
    assert_eq!((place(&r).0.source, found(&r).stray), (107, Some((13, 14))));
}

#[test]
fn on_a_compacted_source_a_count_tells_no_offset() {
    let mut r = compacted(14, 14);
    remembers(&mut r, Some((1, 6)), 14);
    assert_eq!(place(&r).0, Place { count: 7, source: 105, target: 14 });
    assert_eq!(found(&r).unsure, Some((12, 14)));
}

#[test]
fn what_reaches_further_than_the_first_time_has_its_place() {
    let batches = [ours(12, 5, 3, 105), ours(15, 6, 4, 106)];
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 19);
    target(&mut r, &batches[1..]);
    target(&mut r, &batches);
    never_elected(&mut r);
    source(&mut r, &[dense(105, 9)]);
    assert_eq!((place(&r).0.source, found(&r).doubled), (110, Some((15, 19))));
    let replay = &found(&r).replay[0];
    let at: Vec<_> = std::iter::once(&replay.segment).chain(&replay.more).copied().collect();
    let seg = |source, target, count| Segment { source, target, count };
    assert_eq!(at, [seg(105, 12, 3), seg(108, 17, 2)]);
}

#[test]
fn what_a_generation_between_may_have_dealt_with_is_mirrored_again_only_if_it_is_told() {
    let older = Generation { epoch: 0, ..GENERATION };
    let before = Position { generation: older, source_leader_epoch: 3, ..position(9, 99, 6) };
    let mut r = to_ends(vec![before.clone()], 0, 9);
    target(&mut r, &[ours(7, 0, 2, 100)]);
    ends_at(&mut r, 98);
    still_the_same(&mut r);
    assert_eq!((stopped(&r), r.unsure()), (StopReason::SourceDiverged, Some((0, 9))));
    let sooner = Position { source_offset: 97, target_offset: 4, ..before.clone() };
    let mut r = to_ends(vec![before.clone(), sooner], 0, 9);
    target(&mut r, &[ours(7, 0, 2, 100)]);
    ends_at(&mut r, 98);
    assert_eq!(r.unsure(), Some((4, 9)), "what was mirrored up to there is before the parting");
    // Where it is the last one that was written before the start nothing was in between.
    let last = Position { target_offset: 7, ..before };
    let mut r = to_ends(vec![last.clone()], 0, 7);
    ends_at(&mut r, 98);
    still_the_same(&mut r);
    assert_eq!((stopped(&r), r.unsure()), (StopReason::SourceDiverged, None));
    // Who appended behind that may have read what is there by now.
    let mut r = to_ends(vec![last], 0, 9);
    target(&mut r, &[ours(7, 0, 2, 100)]);
    ends_at(&mut r, 98);
    still_the_same(&mut r);
    assert_eq!((stopped(&r), r.unsure()), (StopReason::SourceDiverged, Some((0, 9))));
}

/// The source lost its end behind the epoch of the position, and the target has records from `log_start` on.
fn parting(log_start: i64) -> Resync {
    let known = Position { source_leader_epoch: 3, ..position(5, 105, 12) };
    let mut r = to_ends(vec![known], log_start, 32);
    let log = [ours(12, 5, 18, 105), ours(30, 23, 2, 123)];
    serve(&mut r, if log_start < 30 { &log } else { &log[1..] });
    ends_at(&mut r, 110);
    r.source_read(SourcePage { end_offset: 110, ..page(&[dense(105, 5)]) }, &Origins::default(), &Fake);
    r.source_read(SourcePage { end_offset: 110, ..SourcePage::default() }, &Origins::default(), &Fake);
    r.source_ends(0, 110);
    assert_eq!(*r.step(), Step::TargetRead(log_start.max(12)));
    r
}

#[test]
fn where_retention_took_what_tells_where_the_histories_part_the_position_does() {
    let mut r = parting(30);
    target(&mut r, &[ours(30, 23, 2, 123)]);
    let left = SourcePage { end_offset: 110, high_watermark: 110, ..page(&[dense(105, 5)]) };
    r.source_read(left, &Origins::default(), &Fake);
    still_the_same(&mut r);
    let Step::Lost(loss, _) = r.step().clone() else { panic!("{:?}", r.step()) };
    assert_eq!(
        (loss.stop.reason, loss.go_on),
        (StopReason::SourceDiverged, 105),
        "the epoch may have ended earlier once"
    );
    assert_eq!(r.unsure(), Some((12, 32)));
}

#[test]
fn what_a_lost_marker_holds_back_is_waited_for() {
    let mut r = parting(0);
    target(&mut r, &[ours(12, 5, 20, 105)]);
    let page = SourcePage { end_offset: 105, high_watermark: 110, ..SourcePage::default() };
    r.source_read(page, &Origins::default(), &Fake);
    assert_eq!(*r.step(), Step::Again("SOURCE_NOT_SETTLED"), "five records are there, and not stable");
}

#[test]
fn of_positions_with_the_same_count_the_one_that_passed_more_counts() {
    let passed = Position { source_leader_epoch: 3, ..position(0, 103, 7) };
    let mut r = to_ends(vec![position(0, 100, 7), passed], 0, 7);
    assert_eq!(*r.step(), Step::SourceHistory(3));
    ends_at(&mut r, 100);
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
}

#[test]
fn a_compacted_target_does_not_tell_where_histories_part() {
    let known = Position { source_leader_epoch: 3, ..position(5, 105, 12) };
    let mut r = resync_with(Facts { target_compacted: true, ..Facts::DEFAULT }, true);
    begun(&mut r, vec![known], 0, 32);
    let left = [ours(30, 23, 2, 123)];
    target(&mut r, &left);
    target(&mut r, &left);
    assert_eq!(*r.step(), Step::TargetEnds, "retention may have taken what is missing");
    r.target_ends(0, 32, 32);
    ends_at(&mut r, 110);
    let there = || SourcePage { end_offset: 110, high_watermark: 110, ..page(&[dense(105, 5)]) };
    r.source_read(there(), &Origins::default(), &Fake);
    r.source_read(SourcePage { end_offset: 110, ..SourcePage::default() }, &Origins::default(), &Fake);
    r.source_ends(0, 110);
    target(&mut r, &left);
    r.source_read(there(), &Origins::default(), &Fake);
    still_the_same(&mut r);
    let Step::Lost(loss, _) = r.step().clone() else { panic!("{:?}", r.step()) };
    assert_eq!((loss.go_on, r.unsure()), (105, Some((12, 32))));
}

#[test]
fn a_parting_before_the_start_is_gone_back_to() {
    let older = Generation { epoch: 0, ..GENERATION };
    let before = Position { generation: older, source_leader_epoch: 3, ..position(9, 99, 7) };
    let mut r = to_ends(vec![before], 0, 8);
    target(&mut r, &[ours(7, 0, 1, 100)]);
    ends_at(&mut r, 99);
    let nothing = || SourcePage { end_offset: 100, high_watermark: 100, ..SourcePage::default() };
    r.source_read(nothing(), &Origins::default(), &Fake);
    r.source_ends(0, 100);
    target(&mut r, &[ours(7, 0, 1, 100)]);
    r.source_read(nothing(), &Origins::default(), &Fake);
    still_the_same(&mut r);
    let Step::Lost(loss, _) = r.step().clone() else { panic!("{:?}", r.step()) };
    assert_eq!((loss.go_on, r.unsure()), (99, Some((7, 8))), "99 was left out, and is another record now");
}

#[test]
fn a_history_that_was_left_for_a_loss_is_not_lost_again() {
    // An owner that was replaced wrote down late what it had read before the source lost it.
    let older = |epoch, assignment_number, source, source_leader_epoch| {
        let mut older = position(5, source, 7);
        older.generation.epoch = epoch;
        Position { source_leader_epoch, assignment_number, ..older }
    };
    let epoch_of = |positions| match to_ends(positions, 0, 7).step() {
        Step::SourceHistory(epoch) => Some(*epoch),
        _ => None,
    };
    let late = older(-1, 2, 99, 4);
    assert_eq!(epoch_of(vec![late.clone()]), Some(4));
    assert_eq!(
        epoch_of(vec![older(0, 3, 90, -1), late.clone()]),
        None,
        "the next generation began before that"
    );
    assert_eq!(epoch_of(vec![older(-2, 1, 80, 3), older(0, 3, 90, -1), late.clone()]), Some(3));
    let mut renewed = older(0, 3, 90, -1);
    renewed.generation.producer_id = 6;
    assert_eq!(epoch_of(vec![renewed, late.clone()]), None, "under another producer id as well");
    assert_eq!(epoch_of(vec![older(0, 3, 99, -1), late]), Some(4), "it went on from there");
}

#[test]
fn a_source_that_loses_its_end_while_it_is_searched_is_searched_anew() {
    let mut r = to_ends(vec![of_source_epoch(0, position(5, 105, 12))], 0, 16);
    target(&mut r, &[ours(12, 5, 4, 105)]);
    ends_at(&mut r, 107);
    let left = SourcePage { end_offset: 107, high_watermark: 107, ..page(&[dense(105, 2)]) };
    r.source_read(left, &Origins::default(), &Fake);
    r.source_ends(0, 107);
    target(&mut r, &[ours(12, 5, 4, 105)]);
    r.source_read(page(&[dense(105, 1)]), &Origins::default(), &Fake);
    // What was found up to 106 would not be told any more.
    r.source_out_of_range();
    r.source_ends(0, 104);
    assert_eq!(*r.step(), Step::Again("SOURCE_NOT_SETTLED"));
}

#[test]
fn a_loss_is_believed_only_if_the_history_ends_where_it_did() {
    let parted = |epoch_end: Option<i64>| {
        let mut r = to_ends(vec![of_source_epoch(0, position(5, 105, 12))], 0, 16);
        target(&mut r, &[ours(12, 5, 4, 105)]);
        ends_at(&mut r, 109);
        // It lost its end before the place, and has other records there by now.
        r.source_out_of_range();
        r.source_ends(0, 105);
        target(&mut r, &[ours(12, 5, 4, 105)]);
        r.source_read(
            SourcePage { end_offset: 105, high_watermark: 105, ..page(&[]) },
            &Origins::default(),
            &Fake,
        );
        r.identity(Some(SOURCE), Some(TARGET));
        assert_eq!(*r.step(), Step::SourceHistory(0));
        r.source_history(epoch_end.map(|offset| EpochEnd { epoch: r.lineage.asked, offset, leader: -1 }));
        r.step().clone()
    };
    assert_eq!(parted(Some(104)), Step::Again("SOURCE_NOT_SETTLED"));
    for same in [Some(109), None] {
        assert!(matches!(parted(same), Step::Lost(..)), "{same:?}");
    }
}

#[test]
fn where_an_older_epoch_is_remembered_offsets_count_no_records() {
    let mut r = to_ends(vec![position(5, 105, 12)], 16, 16);
    remembers(&mut r, Some((0, 36)), 16);
    assert_eq!(
        (place(&r).0, found(&r).unsure),
        (Place { count: 5, source: 105, target: 16 }, Some((12, 16)))
    );
}

#[test]
fn what_only_older_owners_can_have_brought_is_told() {
    let brought = |sole_writer| {
        let mut r = resync_with(Facts::DEFAULT, sole_writer);
        begun(&mut r, vec![position(5, 105, 12)], 16, 16);
        remembers(&mut r, Some((1, 6)), 16);
        never_elected(&mut r);
        source(&mut r, &[dense(105, 9)]);
        assert_eq!(place(&r), (Place { count: 7, source: 107, target: 16 }, false));
        (found(&r).unsure, found(&r).apart)
    };
    assert_eq!(brought(true), (Some((12, 16)), true), "the last one may be a repeat: n may be higher");
    assert_eq!(brought(false), (None, false));
}

/// The target's leader remembers this of the producer, and the log is as it was before.
fn remembers_at(r: &mut Resync, remembered: Option<(i16, i32)>, (log_start, log_end): (i64, i64)) {
    assert_eq!(*r.step(), Step::Producer);
    r.producer(remembered);
    r.target_ends(log_start, log_end, log_end);
}

#[test]
fn behind_a_gap_a_log_that_grew_is_looked_at_again() {
    let mut r = resync_with(Facts { target_compacted: true, ..Facts::DEFAULT }, true);
    begun(&mut r, vec![position(5, 105, 12)], 0, 20);
    target(&mut r, &[foreign(18, 2)]);
    target(&mut r, &[foreign(18, 2)]);
    assert_eq!(*r.step(), Step::TargetEnds);
    r.target_ends(0, 23, 23);
    assert_eq!(*r.step(), Step::TargetRead(22));
    target(&mut r, &[ours(20, 5, 3, 105)]);
    target(&mut r, &[foreign(18, 2), ours(20, 5, 3, 105)]);
    r.target_ends(0, 23, 23);
    source(&mut r, &[dense(105, 9)]);
    assert_eq!(found(&r).place, Place { count: 8, source: 108, target: 23 }, "a replaced owner was quicker");
}

/// Only others' batches are behind the newest of three positions.
fn behind_others(remembered: Option<(i16, i32)>) -> Resync {
    let positions = vec![position(9, 109, 16), position(5, 105, 12), position(3, 103, 10)];
    let mut r = to_ends(positions, 0, 18);
    target(&mut r, &[foreign(13, 3), foreign(16, 2)]);
    target(&mut r, &[foreign(13, 3), foreign(16, 2)]);
    remembers_at(&mut r, remembered, (0, 18));
    r
}

#[test]
fn what_the_target_lost_is_seen_though_others_made_its_log_as_long_as_it_was() {
    // The sixth record is the last one that it remembers: the newest position tells of three more.
    let mut r = behind_others(Some((1, 5)));
    assert_eq!(*r.step(), Step::TargetRead(11), "the older position is not believed unseen either");
    serve(&mut r, &[ours(7, 0, 5, 100), ours(12, 5, 1, 105), foreign(13, 3), foreign(16, 2)]);
    assert_eq!(*r.step(), Step::SourceRead { offset: 105, read_committed: true, last_epoch: -1 });
    source(&mut r, &[dense(105, 4)]);
    assert_eq!(found(&r).place, Place { count: 6, source: 106, target: 18 });
    assert_eq!((found(&r).truncated, found(&r).apart), (Some((13, 16)), true));

    // Before all positions: from the start of the generation on.
    let mut r = behind_others(Some((1, 0)));
    serve(&mut r, &[ours(7, 0, 1, 100), foreign(8, 8), foreign(16, 2)]);
    source(&mut r, &[dense(100, 4)]);
    assert_eq!(found(&r).place, Place { count: 1, source: 101, target: 18 });
    assert_eq!(found(&r).truncated, Some((8, 16)));
}

#[test]
fn a_target_that_remembers_what_the_position_tells_of_or_nothing_lost_nothing() {
    for remembered in [Some((1, 8)), None, Some((0, 3))] {
        let r = behind_others(remembered);
        assert_eq!(found(&r).place, Place { count: 9, source: 109, target: 18 }, "{remembered:?}");
        assert_eq!(found(&r).truncated, None);
    }
}
