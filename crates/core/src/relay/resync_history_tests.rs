//! Tests of `resync`: what can't be believed any more when the answer comes.

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
    r.source_history(Some(107));
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
    r.source_history(Some(97));
    assert_eq!((place(&r).0.source, found(&r).epoch), (100, -1), "the start may lie in a later epoch");
    let mut r = to_ends(vec![before], 0, 7);
    r.source_history(Some(94));
    still_the_same(&mut r);
    assert_eq!(stopped(&r), StopReason::SourceDiverged);
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
