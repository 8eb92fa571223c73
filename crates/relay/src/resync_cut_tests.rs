//! Tests of `resync`: a log that lost its end and has got more since, on either side.

use mirrormesh_core::epochs::Epochs;

use super::*;

/// Asks for the ends; what is read then is the test's.
fn ended(positions: Vec<Position>, sole_writer: bool, log_end: i64) -> Resync {
    let mut r = resync_with(Facts::DEFAULT, sole_writer);
    r.identity(Some(SOURCE), Some(TARGET));
    r.positions(positions);
    r.target_ends(0, log_end, log_end);
    r
}

fn of_leader(epoch: i32, base: i64, count: i32) -> RawBatch {
    let offsets: Vec<i64> = (base..base + i64::from(count)).collect();
    batch_of(&offsets, BatchHeader { leader_epoch: epoch, ..header(base, count) }, 0)
}

/// The log began with three records of ours, and lost the six behind them before it took what it holds now.
#[test]
fn a_target_that_was_filled_up_to_the_position_again_is_not_believed() {
    for records in [6, 8] {
        let log_end = 10 + i64::from(records);
        let refilled = [ours(7, 0, 3, 100), ours(10, 9, records, 109)];
        let mut r = ended(vec![position(9, 109, 16), position(5, 105, 12)], true, log_end);
        assert_eq!(*r.step(), Step::TargetRead(log_end - 1), "though it may end where the position says");
        for _ in 0..2 {
            while matches!(r.step(), Step::TargetRead(_)) {
                target(&mut r, &refilled);
            }
            assert_eq!(*r.step(), Step::TargetEnds, "twice, since an election may have moved them");
            r.target_ends(0, log_end, log_end);
        }
        while matches!(r.step(), Step::TargetRead(_)) {
            target(&mut r, &refilled);
        }
        source(&mut r, &[dense(100, 3)]);
        assert_eq!((r.hole(), r.truncated()), (Some((10, log_end)), Some((7, 16))), "{records}");
        assert_eq!(place(&r).0, Place { count: 3, source: 103, target: log_end }, "{records}");
        assert!(found(&r).apart);
    }
}

#[test]
fn an_older_position_that_the_log_still_has_is_counted_from() {
    let mut r = ended(vec![position(9, 109, 16), position(3, 103, 10)], true, 16);
    // Sequences from 3 on: this generation's, which a new owner sent again from an older position.
    let again = [ours(10, 3, 6, 103)];
    let mut wrong = again[0].header;
    wrong.base_sequence = 4;
    target(&mut r, &[batch_of(&[10, 11, 12, 13, 14, 15], wrong, 93)]);
    while matches!(r.step(), Step::TargetRead(_)) {
        target(&mut r, &again);
    }
    source(&mut r, &[dense(103, 9)]);
    assert_eq!((place(&r).0, r.truncated()), (Place { count: 9, source: 109, target: 16 }, Some((10, 16))));
    assert!(found(&r).apart, "its own positions tell of what is not there");
}

#[test]
fn a_log_that_lost_what_stood_before_the_generation_is_told() {
    for log_end in [7, 9] {
        let mut r = ended(vec![], true, log_end);
        for _ in 0..3 {
            if let Step::TargetRead(_) = r.step() {
                target(&mut r, &[ours(4, 0, i32::try_from(log_end - 4).unwrap(), 100)]);
            }
        }
        assert_eq!(stopped(&r), StopReason::TargetTruncated, "{log_end}");
    }
}

/// Older owners' batches ended just where the position says.
#[test]
fn a_target_that_is_known_to_have_lost_something_has_to_show_what_a_position_tells_of() {
    let late = [of_epoch(0, 7, 40, 3, 60), of_epoch(0, 10, 43, 2, 60)];
    for (cut, source) in [(None, 105), (Some((12, 20)), 100)] {
        let mut r = resync();
        r.truncated = cut;
        r.identity(Some(SOURCE), Some(TARGET));
        r.positions(vec![position(5, 105, 12)]);
        r.target_ends(0, 12, 12);
        serve(&mut r, &late);
        assert_eq!(r.base.source, source, "{cut:?}");
    }
}

#[test]
fn nobody_elses_batch_lies_across_a_position() {
    for others in [foreign(11, 3), of_epoch(0, 11, 40, 3, 60)] {
        let mut r = ended(vec![position(5, 105, 12), position(3, 103, 10)], false, 14);
        target(&mut r, std::slice::from_ref(&others));
        target(&mut r, std::slice::from_ref(&others));
        assert_eq!((r.base.source, r.truncated()), (103, Some((10, 12))));
    }
}

#[test]
fn where_others_filled_it_up_exactly_the_producer_is_asked_for() {
    let filled = |remembered| {
        let mut r = ended(vec![position(9, 109, 16), position(3, 103, 10)], false, 16);
        target(&mut r, &[foreign(10, 6)]);
        assert_eq!(*r.step(), Step::Producer);
        r.producer(remembered);
        r.target_ends(0, 16, 16);
        r
    };
    let r = filled(Some((1, 8)));
    assert_eq!((place(&r), r.truncated()), ((Place { count: 9, source: 109, target: 16 }, false), None));
    let mut r = filled(Some((1, 2)));
    assert_eq!(*r.step(), Step::TargetRead(9), "what the older position tells of is looked at too");
    serve(&mut r, &[ours(7, 0, 3, 100), foreign(10, 6)]);
    r.producer(Some((1, 2)));
    r.target_ends(0, 16, 16);
    source(&mut r, &[dense(100, 3)]);
    assert_eq!((place(&r).0.source, r.truncated()), (103, Some((10, 16))));
}

#[test]
fn a_later_record_of_ours_than_the_position_tells_of_stands_behind_it_or_the_log_is_another_one() {
    for (target_compacted, first) in [(true, 105), (false, 103)] {
        let mut r = resync_with(Facts { target_compacted, ..Facts::DEFAULT }, false);
        begun(&mut r, vec![position(5, 105, 12), position(3, 103, 10)], 0, 14);
        target(&mut r, &[foreign(12, 2)]);
        target(&mut r, &[foreign(12, 2)]);
        r.producer(Some((1, 9)));
        r.target_ends(0, 14, 14);
        assert_eq!(r.base.source, first, "compacted: {target_compacted}");
    }
}

#[test]
fn a_position_that_was_beyond_the_end_is_not_believed_once_the_log_has_grown() {
    let positions = vec![position(9, 109, 16), position(5, 105, 12)];
    let mut r = ended(positions.clone(), false, 14);
    target(&mut r, &[foreign(12, 2)]);
    target(&mut r, &[foreign(12, 2)]);
    r.producer(None);
    r.target_ends(0, 17, 17);
    while matches!(r.step(), Step::TargetRead(_)) {
        target(&mut r, &[foreign(12, 5)]);
    }
    r.producer(None);
    r.target_ends(0, 17, 17);
    assert_eq!((place(&r).0.source, r.truncated()), (105, Some((14, 16))));
    // Nor by the next look of the same owner.
    let mut next = resync_with(Facts::DEFAULT, false);
    next = Resync::new(Premise { target_cut: r.truncated(), ..next.premise });
    next.identity(Some(SOURCE), Some(TARGET));
    next.positions(positions);
    next.target_ends(0, 17, 17);
    assert_eq!((next.base.source, next.truncated()), (105, Some((14, 16))));
}

#[test]
fn a_source_that_lost_its_end_while_it_was_counted_is_left_where_it_is_known() {
    let mut r = to_ends(vec![of_source_epoch(3, position(5, 105, 12))], 32, 32);
    remembers(&mut r, Some((1, 24)), 32);
    r.source_history(Some(EpochEnd { epoch: 3, offset: 130, leader: 3 }));
    let left = |batches: &[RawBatch]| SourcePage { end_offset: 110, high_watermark: 110, ..page(batches) };
    r.source_read(left(&[of_leader(3, 105, 5)]), &Origins::default(), &Fake);
    r.source_read(left(&[]), &Origins::default(), &Fake);
    r.source_ends(0, 110);
    still_the_same(&mut r);
    let Step::Lost(loss, _) = r.step() else { panic!("{:?}", r.step()) };
    assert_eq!((loss.stop.reason, loss.go_on), (StopReason::SourceDiverged, 105));
    assert_eq!(r.unsure(), Some((12, 32)));
}

#[test]
fn epochs_that_do_not_reach_to_the_place_are_not_gone_on_with() {
    let older = Generation { epoch: 0, ..GENERATION };
    let epochs = Epochs::new([(2, 80)]);
    let before =
        Position { generation: older, source_leader_epoch: 2, source_epochs: epochs, ..position(9, 90, 6) };
    for (reached, epoch, known) in [(90, 3, 0), (100, 3, 1), (90, 2, 1)] {
        let mut r = resync();
        r.premise.detail.begun.start.source_leader_epoch = Some(epoch);
        begun(&mut r, vec![Position { source_offset: reached, ..before.clone() }], 0, 7);
        r.source_history(Some(EpochEnd { epoch, offset: 150, leader: epoch }));
        assert_eq!(found(&r).epochs.iter().count(), known, "up to {reached} of 100, then epoch {epoch}");
    }
}

#[test]
fn a_last_record_that_is_gone_proves_nothing_of_a_newer_history() {
    for (leader, place_is) in [(3, 109), (4, 105)] {
        let mut r = resync_with(Facts { target_compacted: true, ..Facts::DEFAULT }, true);
        begun(&mut r, vec![of_source_epoch(3, position(5, 105, 12))], 0, 16);
        // The cleaner left the batch for its producer's sake, without its last record.
        let shape = ours(12, 5, 4, 105).header;
        target(&mut r, &[batch_of(&[12], shape, 93)]);
        r.source_history(Some(EpochEnd { epoch: 3, offset: 130, leader }));
        source(&mut r, &[of_leader(leader, 105, 4)]);
        let unsure = (leader == 4).then_some((12, 16));
        assert_eq!((place(&r).0.source, found(&r).unsure), (place_is, unsure));
    }
}

#[test]
fn where_others_led_since_it_is_sure_of_nothing_behind_the_position() {
    for (leader, from, go_on) in [(3, 111, 115), (5, 105, 111)] {
        let mut r = to_ends(vec![of_source_epoch(3, position(5, 105, 12))], 32, 32);
        remembers(&mut r, Some((1, 24)), 32);
        r.source_history(Some(EpochEnd { epoch: 3, offset: 115, leader }));
        r.source_out_of_range();
        r.source_ends(111, 200);
        still_the_same(&mut r);
        let Step::Lost(loss, _) = r.step() else { panic!("{:?}", r.step()) };
        assert_eq!((loss.stop.from_offset, loss.go_on), (Some(from), go_on), "led by {leader}");
    }
}
