//! Tests of `resync` where markers of the flow stand between its batches.

use super::tests::{
    begun, found, marker_of, never_elected, ours, position, remembers, resync_strict, source, stopped, target,
};
use super::*;
use crate::relay::testing::dense;

fn strict_to_ends(positions: Vec<Position>, log_start: i64, log_end: i64, marked: bool) -> Resync {
    let mut r = resync_strict(!marked, marked);
    begun(&mut r, positions, log_start, log_end);
    r
}

#[test]
fn markers_take_offsets_and_no_records() {
    for marked in [false, true] {
        // Behind the position: a marker, three of ours, a marker, two of ours, a marker.
        let mut r = strict_to_ends(vec![position(4, 104, 12)], 0, 20, marked);
        assert_eq!(*r.step(), Step::TargetRead(19));
        target(&mut r, &[marker_of(1, 19)]);
        assert_eq!(*r.step(), Step::TargetRead(12));
        let log =
            [marker_of(1, 12), ours(13, 4, 3, 104), marker_of(0, 16), ours(17, 7, 2, 107), marker_of(1, 19)];
        target(&mut r, &log);
        source(&mut r, &[dense(104, 5), dense(109, 3)]);
        let found = found(&r);
        assert_eq!(found.place, Place { count: 9, source: 109, target: 20 });
        assert!(found.sole_writer && !found.apart && found.doubled.is_none() && found.unsure.is_none());
        let all = found.replay.iter().flat_map(|m| std::iter::once(m.segment).chain(m.more.clone()));
        let segments: Vec<_> = all.map(|s| (s.source, s.target, s.count)).collect();
        assert_eq!(segments, [(104, 13, 3), (107, 17, 2)]);
    }
}

#[test]
fn a_marker_of_a_newer_generation_says_that_this_owner_was_replaced() {
    let mut r = strict_to_ends(vec![position(4, 104, 12)], 0, 13, false);
    target(&mut r, &[marker_of(2, 12)]);
    target(&mut r, &[marker_of(2, 12)]);
    assert_eq!(stopped(&r), StopReason::Fenced);
}

#[test]
fn what_nothing_tells_of_is_mirrored_again_only_where_that_is_allowed() {
    for (marked, strict) in [(false, true), (true, false)] {
        let mut r = resync_strict(strict, marked);
        begun(&mut r, vec![position(4, 104, 12)], 15, 15);
        assert_eq!(*r.step(), Step::Producer);
        remembers(&mut r, None, 15);
        if strict {
            assert_eq!(stopped(&r), StopReason::PositionUnknown, "three markers, or three records");
        } else {
            assert_eq!(found(&r).place, Place { count: 4, source: 104, target: 15 });
            assert_eq!((found(&r).unsure, found(&r).apart), (Some((12, 15)), true));
        }
    }
}

#[test]
fn what_is_not_known_is_said_with_what_to_do() {
    // A marker made the target remember the flow again, but not what was there before.
    for remembered in [None, Some((1, -1))] {
        let mut r = strict_to_ends(vec![position(4, 104, 12)], 15, 15, false);
        remembers(&mut r, remembered, 15);
        let Step::Stop(stop) = r.step() else { panic!("{:?}", r.step()) };
        assert_eq!((stop.reason, stop.from_offset), (StopReason::PositionUnknown, Some(104)));
        for says in ["from 12 to 15", "from offset 104 on", "3 at most", "raise retention.ms", "start_over"] {
            assert!(stop.message.contains(says), "{says}: {}", stop.message);
        }
    }
    // What was written down before retention took it needs nobody to remember it.
    let r = strict_to_ends(vec![position(4, 104, 12)], 12, 12, false);
    assert_eq!(found(&r).place, Place { count: 4, source: 104, target: 12 });
}

#[test]
fn what_else_the_target_took_was_markers_where_the_producer_is_remembered() {
    let mut r = strict_to_ends(vec![position(4, 104, 12)], 15, 15, false);
    remembers(&mut r, Some((1, 4)), 15);
    never_elected(&mut r);
    source(&mut r, &[dense(104, 1)]);
    let seen = found(&r);
    assert_eq!(seen.place, Place { count: 5, source: 105, target: 15 });
    assert!(seen.sole_writer && seen.unsure.is_none());
    // Nothing but markers.
    let mut r = strict_to_ends(vec![position(4, 104, 12)], 15, 15, false);
    remembers(&mut r, Some((1, 3)), 15);
    let seen = found(&r);
    assert_eq!(seen.place, Place { count: 4, source: 104, target: 15 });
    assert!(seen.sole_writer && seen.unsure.is_none());
}
