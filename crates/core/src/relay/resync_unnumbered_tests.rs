//! Tests of finding the place without a producer id.

use super::tests::{begun, found, position, resync_with, source, target};
use super::*;
use crate::format::batch::tests::header;
use crate::relay::testing::{batch_of, dense};

const UNNUMBERED: i64 = -7;

/// Of a generation without a producer id, which began at source offset 100 and target offset 7.
fn unnumbered(sole_writer: bool) -> Resync {
    let mut r = resync_with(Facts::DEFAULT, sole_writer);
    r.generation.producer_id = UNNUMBERED;
    r.premise.detail.begun.generation.producer_id = UNNUMBERED;
    r
}

/// Five records were mirrored, as it was written down.
fn five() -> Vec<Position> {
    let mut position = position(5, 105, 12);
    position.generation.producer_id = UNNUMBERED;
    vec![position]
}

/// On the target: records of the source from `source` on, under no producer id.
fn copies(base: i64, count: i32, source: i64) -> RawBatch {
    let offsets: Vec<i64> = (base..base + i64::from(count)).collect();
    batch_of(&offsets, header(base, count), u64::try_from(source - base).unwrap())
}

#[test]
fn where_the_log_ends_at_the_position_nothing_is_asked() {
    let mut r = unnumbered(true);
    begun(&mut r, five(), 0, 12);
    let found = found(&r);
    assert_eq!(found.place, Place { count: 5, source: 105, target: 12 });
    assert!(!found.apart && found.unsure.is_none() && found.stray.is_none());
}

#[test]
fn what_was_not_written_down_is_found_by_content() {
    let mut r = unnumbered(true);
    begun(&mut r, five(), 0, 16);
    assert_eq!(*r.step(), Step::TargetRead(12));
    target(&mut r, &[copies(12, 4, 105)]);
    assert_eq!(*r.step(), Step::SourceRead { offset: 105, read_committed: true, last_epoch: -1 });
    source(&mut r, &[dense(100, 7), dense(107, 10)]);
    let found = found(&r);
    assert_eq!((found.place.source, found.place.target), (109, 16));
    assert!(found.apart, "how many the generation has mirrored is not known: the next one begins here");
    assert_eq!(found.replay.iter().map(Mirrored::records).sum::<i64>(), 4);
    assert!(found.unsure.is_none() && found.stray.is_none() && found.doubled.is_none());
}

#[test]
fn what_stands_there_twice_is_said_and_the_source_is_not_read_to_its_end_for_it() {
    let mut r = unnumbered(true);
    begun(&mut r, five(), 0, 17);
    // Two of them arrived once more, behind all: a stray.
    target(&mut r, &[copies(12, 3, 105), copies(15, 2, 105)]);
    source(&mut r, &[dense(105, 400)]);
    let behind = found(&r);
    assert_eq!((behind.place.source, behind.place.target, behind.stray), (108, 17, Some((15, 17))));
    // Or before what follows them.
    let mut r = unnumbered(true);
    begun(&mut r, five(), 0, 17);
    target(&mut r, &[copies(12, 2, 105), copies(14, 2, 105), copies(16, 1, 107)]);
    source(&mut r, &[dense(105, 400)]);
    let between = found(&r);
    assert_eq!((between.place.source, between.stray), (108, Some((14, 16))));
}

#[test]
fn what_others_wrote_is_not_taken_for_ours() {
    let mut r = unnumbered(true);
    begun(&mut r, five(), 0, 14);
    let theirs = BatchHeader { producer_id: 70, producer_epoch: 0, base_sequence: 0, ..header(12, 2) };
    target(&mut r, &[batch_of(&[12, 13], theirs, 93)]);
    let other = found(&r);
    assert_eq!((other.place.source, other.place.target, other.apart), (105, 14, true));
}

#[test]
fn a_record_that_the_target_lacks_is_mirrored_with_what_follows_it() {
    let mut r = unnumbered(true);
    begun(&mut r, five(), 0, 14);
    // It lost 105, and has 106 and 107.
    target(&mut r, &[copies(12, 2, 106)]);
    source(&mut r, &[dense(105, 400)]);
    let lacking = found(&r);
    assert_eq!((lacking.place.source, lacking.unsure), (105, Some((12, 14))));
}

#[test]
fn where_nobody_can_tell_it_goes_on_from_the_position_and_says_what_may_be_doubled() {
    let mut shared = unnumbered(false);
    begun(&mut shared, five(), 0, 20);
    let mut gone = unnumbered(true);
    begun(&mut gone, five(), 15, 20);
    for r in [shared, gone] {
        let found = found(&r);
        assert_eq!(found.place, Place { count: 5, source: 105, target: 20 });
        assert_eq!((found.unsure, found.apart), (Some((12, 20)), true));
    }
}
