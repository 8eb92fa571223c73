//! Tests of `resync/last.rs`: the last mirrored batch is compared with the source.

use super::tests::*;
use super::*;
use crate::origins::Origins;
use crate::testing::{Fake, batch_of, dense};

/// Stands at a position that the target's log ends with; its last batch holds three records.
fn at_the_end(facts: Facts, positions: Vec<Position>) -> Resync {
    let mut r = resync_with(facts, true);
    begun_at(&mut r, positions, &[ours(9, 2, 3, 102)]);
    assert_eq!(*r.step(), Step::SourceRead { offset: 104, read_committed: true, last_epoch: -1 });
    r
}

fn begun_at(r: &mut Resync, positions: Vec<Position>, log: &[RawBatch]) {
    r.identity(Some(SOURCE), Some(TARGET));
    r.positions(positions);
    r.target_ends(0, 12, 12);
    serve(r, log);
}

/// Other records than those that were mirrored.
fn others(base: i64, count: i64) -> RawBatch {
    let offsets: Vec<i64> = (base..base + count).collect();
    let shape = mirrormesh_core::format::samples::header(base, i32::try_from(count).unwrap());
    batch_of(&offsets, shape, 7_000)
}

#[test]
fn the_same_records_are_the_place_whatever_their_batches() {
    for batches in [vec![dense(100, 9)], vec![dense(104, 1)], vec![dense(102, 3)]] {
        let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
        source(&mut r, &batches);
        assert_eq!(found(&r).place, Place { count: 5, source: 105, target: 12 });
    }
}

#[test]
fn markers_behind_the_last_batch_are_passed() {
    let mut r = resync_with(Facts::DEFAULT, true);
    begun_at(&mut r, vec![position(5, 107, 12)], &[ours(9, 2, 3, 102)]);
    for at in [106, 105] {
        assert_eq!(*r.step(), Step::SourceRead { offset: at, read_committed: true, last_epoch: -1 });
        source(&mut r, &[marker(at)]);
    }
    source(&mut r, &[dense(100, 5)]);
    assert_eq!(found(&r).place.source, 107);
}

#[test]
fn other_records_are_a_divergence() {
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
    source(&mut r, &[others(101, 4)]);
    still_the_same(&mut r);
    let Step::Lost(loss, target) = r.step().clone() else { panic!("{:?}", r.step()) };
    assert_eq!((loss.stop.reason, loss.stop.from_offset), (StopReason::SourceDiverged, Some(102)));
    assert_eq!((loss.stop.to_offset, loss.go_on, target), (Some(105), 102, 12));
}

#[test]
fn an_older_position_tells_where_the_histories_part() {
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12), position(1, 101, 8)]);
    r.premise.searches = true;
    // The source was restored when it held 103 records, and has taken others since.
    let log = [dense(101, 2), others(103, 6)];
    source(&mut r, &log[1..]);
    serve(&mut r, &[ours(7, 0, 2, 100), ours(9, 2, 3, 102)]);
    source(&mut r, &log);
    while matches!(r.step(), Step::SourceRead { .. }) {
        r.source_read(
            SourcePage { end_offset: 109, high_watermark: 109, ..page(&log[1..]) },
            &Origins::default(),
            &Fake,
        );
    }
    still_the_same(&mut r);
    let Step::Lost(loss, _) = r.step().clone() else { panic!("{:?}", r.step()) };
    assert_eq!((loss.stop.from_offset, loss.stop.to_offset, loss.go_on), (Some(103), Some(105), 103));
}

#[test]
fn what_the_source_deleted_is_no_divergence() {
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
    r.source_out_of_range();
    r.source_ends(105, 120);
    assert_eq!(found(&r).place.source, 105);
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
    source(&mut r, &[others(105, 3)]);
    assert_eq!(found(&r).place.source, 105, "what comes behind the position is not compared");
    let mut r = resync_with(Facts { source_compacted: true, ..Facts::DEFAULT }, true);
    begun_at(&mut r, vec![position(5, 105, 12)], &[ours(9, 2, 3, 102)]);
    assert_eq!(found(&r).place.source, 105, "compaction may have taken it");
}

#[test]
fn a_source_that_ends_before_the_last_batch_lost_its_end() {
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
    r.source_out_of_range();
    r.source_ends(90, 103);
    still_the_same(&mut r);
    let Step::Lost(loss, _) = r.step().clone() else { panic!("{:?}", r.step()) };
    assert_eq!((loss.stop.reason, loss.go_on), (StopReason::SourceTruncated, 103));
}

#[test]
fn timestamps_of_the_last_batch_are_not_compared() {
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
    r.premise.times_kept = true;
    let shape = mirrormesh_core::format::samples::header(102, 3);
    let moved = BatchHeader {
        base_timestamp: shape.base_timestamp + 7,
        max_timestamp: shape.max_timestamp + 7,
        ..shape
    };
    source(&mut r, &[batch_of(&[102, 103, 104], moved, 0)]);
    assert_eq!(found(&r).place.source, 105, "they may have been moved, or set by the target");
}

#[test]
fn a_source_that_was_compacted_once_is_compared_to_its_first_gap() {
    // 103 is gone: 102 can't be paired with the record before the last one.
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
    let shape = mirrormesh_core::format::samples::header(101, 4);
    source(&mut r, &[batch_of(&[101, 102, 104], shape, 0)]);
    assert_eq!(found(&r).place.source, 105);
    // The last one is gone.
    let mut r = at_the_end(Facts::DEFAULT, vec![position(5, 105, 12)]);
    source(&mut r, &[batch_of(&[102, 103], mirrormesh_core::format::samples::header(102, 3), 0)]);
    assert_eq!(found(&r).place.source, 105);
}
