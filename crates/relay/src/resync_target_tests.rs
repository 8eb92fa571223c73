//! Tests of `resync`: how many records of ours stand on the target (`resync/target.rs`).

use super::*;

#[test]
fn other_writers_are_counted_around() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 22);
    target(&mut r, &[foreign(20, 2)]);
    assert_eq!(*r.step(), Step::TargetRead(12));
    target(&mut r, &[foreign(12, 1), ours(13, 5, 2, 105), foreign(15, 2)]);
    assert_eq!(*r.step(), Step::TargetRead(17));
    target(&mut r, &[ours(17, 7, 3, 107), foreign(20, 2)]);
    source(&mut r, &[dense(105, 2), dense(107, 3)]);
    assert_eq!(place(&r), (Place { count: 10, source: 110, target: 22 }, false));
    assert_eq!(found(&r).replay.iter().map(|m| m.segment.target).collect::<Vec<_>>(), [13, 17]);
}

#[test]
fn nothing_of_ours_behind_the_position_is_no_progress() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 14);
    target(&mut r, &[foreign(12, 2)]);
    target(&mut r, &[foreign(12, 2)]);
    assert_eq!(*r.step(), Step::Producer, "theirs may stand where ours did");
    r.producer(Some((1, 4)));
    r.target_ends(0, 14, 14);
    assert_eq!(place(&r), (Place { count: 5, source: 105, target: 14 }, false));
    assert_eq!(found(&r).truncated, None);
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
    // Not only the last one: what it took since may be as many by chance.
    serve(&mut r, &[ours(7, 0, 5, 100), ours(12, 5, 1, 105)]);
    source(&mut r, &[dense(105, 1)]);
    assert_eq!((found(&r).place.count, found(&r).truncated), (6, Some((13, 16))));
    assert!(found(&r).apart, "what tells of the lost end must not be believed once the log is as long again");
}

/// The target lost its end between the start of the generation and the first append, which made the log as long as it was.
#[test]
fn a_first_append_below_the_start_of_the_generation_stops() {
    for positions in [vec![], vec![position(0, 100, 7)]] {
        let mut r = to_ends(positions, 0, 7);
        target(&mut r, &[ours(3, 0, 4, 100)]);
        assert_eq!(stopped(&r), StopReason::TargetTruncated);
    }
}

#[test]
fn an_owner_tells_of_a_truncation_that_no_position_knows() {
    for (acked, lost) in [(16, Some((13, 16))), (13, None)] {
        let mut r = resync();
        r.premise.acked_target = acked;
        begun(&mut r, vec![position(5, 105, 12)], 0, 13);
        serve(&mut r, &[ours(7, 0, 5, 100), ours(12, 5, 1, 105)]);
        source(&mut r, &[dense(105, 1)]);
        assert_eq!((found(&r).place.count, found(&r).truncated, found(&r).apart), (6, lost, lost.is_some()));
    }
}

#[test]
fn sequences_that_wrapped_are_read() {
    let n = (1_i64 << 31) - 2;
    let mut r = to_ends(vec![position(n, 105, 12)], 0, 16);
    target(&mut r, &[ours(12, i32::MAX - 1, 4, 105)]);
    source(&mut r, &[dense(105, 4)]);
    assert_eq!(place(&r).0.count, n + 4);
}

/// A replaced owner of an older generation woke up, and a late repeat of this generation's came behind its batches.
#[test]
fn repeats_of_two_generations_are_reported_together() {
    let log = [ours(12, 5, 4, 105), of_epoch(0, 16, 5, 2, 105), ours(18, 5, 4, 105)];
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 22);
    target(&mut r, &log[2..]);
    target(&mut r, &log);
    source(&mut r, &[dense(105, 4)]);
    assert_eq!((place(&r).0.count, found(&r).doubled), (9, Some((16, 22))));
}

#[test]
fn a_batch_that_the_target_took_twice_counts_once_and_is_told() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 20);
    target(&mut r, &[ours(16, 5, 4, 105)]);
    target(&mut r, &[ours(12, 5, 4, 105), ours(16, 5, 4, 105)]);
    source(&mut r, &[dense(105, 4)]);
    assert_eq!(place(&r), (Place { count: 9, source: 109, target: 20 }, false));
    assert_eq!(found(&r).doubled, Some((16, 20)));
}

#[test]
fn records_behind_a_hole_are_mirrored_again_unless_compacted() {
    let batches = [ours(12, 5, 2, 105), foreign(14, 3), ours(17, 9, 2, 109)];
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 19);
    target(&mut r, &batches[2..]);
    target(&mut r, &batches);
    for _ in 0..2 {
        assert_eq!(*r.step(), Step::TargetEnds, "retention may have moved the log start meanwhile");
        r.target_ends(0, 19, 19);
        target(&mut r, &batches[2..]);
        target(&mut r, &batches);
    }
    assert_eq!(*r.step(), Step::TargetRead(11), "whether the position's own batch is there still");
    let log = [&[ours(7, 0, 5, 100)], &batches[..]].concat();
    serve(&mut r, &log);
    source(&mut r, &[dense(105, 6)]);
    assert_eq!(place(&r).0, Place { count: 7, source: 107, target: 19 }, "from the first missing record on");
    assert_eq!((found(&r).hole, found(&r).apart), (Some((17, 19)), true));
}

/// Recovers from a position with the target's log as it is, which nobody changes meanwhile.
fn recovered(mut r: Resync, positions: Vec<Position>, log: &[RawBatch]) -> Found {
    let log_end = log.last().unwrap().header.next_offset();
    begun(&mut r, positions, 0, log_end);
    serve(&mut r, log);
    while *r.step() == Step::TargetEnds {
        r.target_ends(0, log_end, log_end);
        serve(&mut r, log);
    }
    if matches!(r.step(), Step::SourceRead { .. }) {
        source(&mut r, &[dense(100, 20)]);
    }
    found(&r)
}

#[test]
fn a_compacted_target_keeps_the_offsets_of_what_it_took() {
    let compacted = || resync_with(Facts { target_compacted: true, ..Facts::DEFAULT }, true);
    // The cleaner took n = 7 and 8, which stood at 14 and 15.
    let found = recovered(
        compacted(),
        vec![position(5, 105, 12)],
        &[ours(12, 5, 2, 105), foreign(16, 3), ours(19, 9, 2, 109)],
    );
    assert_eq!((found.place.count, found.hole), (11, None), "sequences count, not records");
    // Nothing was ever appended between 14 and the others' batch.
    let found = recovered(
        compacted(),
        vec![position(5, 105, 12)],
        &[ours(12, 5, 2, 105), foreign(14, 3), ours(17, 9, 2, 109)],
    );
    assert_eq!((found.place.count, found.place.source, found.hole), (7, 107, Some((14, 19))));
}

#[test]
fn a_repeated_record_does_not_hide_a_missing_one() {
    // n = 5 stands there twice and n = 6 was refused, so that as many offsets as records were used.
    let log = [ours(12, 5, 1, 105), ours(13, 5, 1, 105), ours(14, 7, 1, 107)];
    let found = recovered(resync(), vec![position(5, 105, 12)], &log);
    assert_eq!((found.place.count, found.place.source), (6, 106));
    assert_eq!((found.doubled, found.hole), (Some((13, 14)), Some((14, 15))));
}

#[test]
fn late_records_before_a_missing_one_are_reported() {
    let log = [of_epoch(0, 12, 300, 2, 100), ours(14, 6, 1, 106)];
    let found = recovered(resync(), vec![position(5, 105, 12)], &log);
    assert_eq!((found.place.count, found.doubled, found.hole), (5, Some((12, 14)), Some((14, 15))));
}

#[test]
fn a_lost_end_before_the_position_is_no_missing_record() {
    // The target lost its end from 10 on and took later records there.
    let log = [ours(9, 2, 1, 102), ours(10, 8, 2, 108), ours(12, 10, 2, 110)];
    let found = recovered(resync(), vec![position(5, 105, 12), position(3, 103, 10)], &log);
    assert_eq!((found.place.count, found.place.source), (3, 103));
    assert_eq!((found.truncated, found.hole), (Some((10, 12)), Some((10, 14))));
    // Where the generation began, nothing tells what was before.
    let mut r = resync();
    begun(&mut r, vec![], 0, 10);
    let log = [ours(6, 8, 1, 108), ours(7, 9, 3, 109)];
    serve(&mut r, &log);
    while *r.step() == Step::TargetEnds {
        r.target_ends(0, 10, 10);
        serve(&mut r, &log);
    }
    assert_eq!(stopped(&r), StopReason::TargetTruncated);
}

#[test]
fn who_remembers_is_asked_when_retention_took_the_headers() {
    let mut r = to_ends(vec![position(5, 105, 12)], 16, 16);
    assert_eq!(*r.step(), Step::Producer);
    remembers(&mut r, Some((1, 7)), 16);
    never_elected(&mut r);
    source(&mut r, &[dense(105, 9)]);
    assert_eq!(place(&r).0, Place { count: 8, source: 108, target: 16 });
    let append_time = Facts { target_append_time: true, ..Facts::DEFAULT };
    let mut r = resync_with(append_time, true);
    begun(&mut r, vec![position(5, 105, 12)], 16, 16);
    remembers(&mut r, None, 16);
    never_elected(&mut r);
    source(&mut r, &[dense(105, 9)]);
    assert_eq!(place(&r).0.count, 9, "as the only writer, offsets count");
    let mut r = to_ends(vec![position(5, 105, 12)], 16, 16);
    remembers(&mut r, None, 16);
    assert_eq!(
        (place(&r).0.count, found(&r).unsure),
        (5, Some((12, 16))),
        "old records may have left a hole"
    );
    // It remembers more records than there are offsets.
    let mut r = to_ends(vec![position(5, 105, 12)], 16, 16);
    remembers(&mut r, Some((1, 12)), 16);
    assert_eq!((place(&r).0.count, found(&r).hole), (5, Some((12, 16))));
    let mut r = to_ends(vec![position(5, 105, 12)], 16, 16);
    r.premise.others_before = 13;
    remembers(&mut r, None, 16);
    assert_eq!((place(&r).0.count, found(&r).unsure), (5, Some((12, 16))), "not where others were seen");
    // Before its first append was acknowledged, an older generation's may have been there.
    let mut r = to_ends(vec![], 9, 9);
    remembers(&mut r, None, 9);
    assert_eq!((place(&r).0, found(&r).unsure), (Place { count: 0, source: 100, target: 9 }, Some((7, 9))));
    let mut r = resync_with(Facts::DEFAULT, false);
    begun(&mut r, vec![position(5, 105, 12)], 16, 16);
    remembers(&mut r, None, 16);
    assert_eq!(stopped(&r), StopReason::PositionUnknown);
}

#[test]
fn a_hole_that_retention_took_is_mirrored_again() {
    // Three of ours are left at 14 to 17, but their sequences say that eight were sent.
    let mut r = to_ends(vec![position(5, 105, 12)], 14, 17);
    let left = [ours(14, 10, 3, 110)];
    target(&mut r, &left);
    target(&mut r, &left);
    assert_eq!((place(&r).0, found(&r).hole), (Place { count: 5, source: 105, target: 17 }, Some((12, 17))));
}

#[test]
fn a_log_may_end_behind_its_last_batch() {
    let batches = [ours(12, 5, 2, 105)];
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 17);
    for asked in 0..3 {
        target(&mut r, &[]);
        target(&mut r, &batches);
        target(&mut r, &[]);
        if asked < 2 {
            assert_eq!(*r.step(), Step::TargetEnds);
            r.target_ends(0, 17, 17);
        }
    }
    source(&mut r, &[dense(105, 6)]);
    let found = found(&r);
    assert_eq!(found.place, Place { count: 7, source: 107, target: 17 });
}

#[test]
fn a_producer_that_is_remembered_by_an_older_epoch_appended_nothing_yet() {
    let mut r = to_ends(vec![], 9, 9);
    remembers(&mut r, Some((0, 36)), 9);
    let found = found(&r);
    assert_eq!((found.place, found.unsure), (Place { count: 0, source: 100, target: 9 }, Some((7, 9))));
}

#[test]
fn what_others_wrote_between_two_batches_shifts_only_what_follows() {
    let batches = [ours(12, 5, 1, 105), foreign(13, 3), ours(16, 6, 2, 106)];
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 18);
    target(&mut r, &batches[2..]);
    target(&mut r, &batches);
    source(&mut r, &[dense(105, 3)]);
    let replay = found(&r).replay;
    let places: Vec<_> = replay.iter().flat_map(|m| std::iter::once(&m.segment).chain(&m.more)).collect();
    let at: Vec<_> = places.iter().map(|s| (s.source, s.target, s.count)).collect();
    assert_eq!(at, [(105, 12, 1), (106, 16, 2)]);
}
