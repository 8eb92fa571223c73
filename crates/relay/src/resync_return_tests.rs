//! An unclean election may take the source back to records that it had lost before (`resync/history.rs`).

use mirrormesh_core::epochs::Epochs;

use super::*;

fn known(position: Position, epochs: &[(i32, i64)]) -> Position {
    let source_epochs = Epochs::new(epochs.iter().copied());
    Position { source_leader_epoch: source_epochs.last().unwrap_or(-1), source_epochs, ..position }
}

fn answer(r: &mut Resync, epoch: i32, offset: i64) {
    r.source_history(Some(EpochEnd { epoch, offset, leader: 9 }));
}

fn lost(r: &mut Resync) -> (i64, Option<i32>, Option<(i64, i64)>) {
    still_the_same(r);
    let Step::Lost(loss, _) = r.step().clone() else { panic!("{:?}", r.step()) };
    (loss.go_on, loss.epoch, r.unsure())
}

#[test]
fn where_an_older_epoch_goes_on_the_start_of_the_next_one_tells() {
    let position = known(position(20, 120, 27), &[(0, 90), (2, 110), (5, 115)]);
    let mut r = to_ends(vec![position.clone()], 0, 27);
    assert_eq!(*r.step(), Step::SourceHistory(5));
    answer(&mut r, 2, 140);
    assert_eq!(
        lost(&mut r),
        (115, Some(2), Some((0, 27))),
        "from 115 on it has what it had lost, mirrored or not"
    );
    // All that was read of the last epoch is lost, and nothing came back.
    let mut r = to_ends(vec![position.clone()], 0, 27);
    answer(&mut r, 2, 113);
    assert_eq!(lost(&mut r), (113, Some(2), None));
    // Of an epoch between that was never read, nobody knows where it begins.
    let mut r = to_ends(vec![position], 0, 27);
    answer(&mut r, 4, 140);
    assert_eq!(*r.step(), Step::SourceHistory(2));
    answer(&mut r, 2, 118);
    assert_eq!(lost(&mut r).0, 115);
}

#[test]
fn where_nothing_that_was_read_last_is_left_older_positions_are_asked_for() {
    let last = known(position(20, 120, 27), &[(5, 100)]);
    let before = |epoch, source, target| {
        let older = Generation { epoch: 0, ..GENERATION };
        known(Position { generation: older, ..position(3, source, target) }, &[(epoch, 90)])
    };
    let mut r = to_ends(vec![last.clone(), before(1, 95, 5), before(2, 97, 6)], 0, 27);
    answer(&mut r, 4, 140);
    assert_eq!(*r.step(), Step::SourceHistory(2));
    answer(&mut r, 1, 93);
    assert_eq!(*r.step(), Step::SourceHistory(1), "that one is not in it either");
    answer(&mut r, 1, 96);
    assert_eq!(lost(&mut r), (95, Some(1), Some((5, 27))), "what it has behind that was mirrored or not");
    let mut r = to_ends(vec![last], 0, 27);
    answer(&mut r, 4, 140);
    assert_eq!(lost(&mut r).0, 100, "the first that is known to have been read");
}

#[test]
fn pages_name_the_epoch_before_them() {
    let mut r = to_ends(vec![known(position(5, 105, 12), &[(3, 90)])], 0, 16);
    target(&mut r, &[ours(12, 5, 4, 105)]);
    let asked = |r: &Resync| match *r.step() {
        Step::SourceRead { offset, last_epoch, .. } => (offset, last_epoch),
        _ => panic!("{:?}", r.step()),
    };
    ends_at(&mut r, 120);
    assert_eq!(asked(&r), (105, 3));
    let header = BatchHeader { leader_epoch: 4, ..header(105, 2) };
    source(&mut r, &[batch_of(&[105, 106], header, 0)]);
    assert_eq!(asked(&r), (107, 4));
    source(&mut r, &[batch_of(&[107, 108], BatchHeader { base_offset: 107, ..header }, 0)]);
    assert_eq!(found(&r).epochs, Epochs::new([(3, 90), (4, 105)]));
}

#[test]
fn where_retention_took_what_tells_an_election_leaves_nothing_proven() {
    let counted = |leader| {
        let mut r = to_ends(vec![known(position(5, 105, 12), &[(3, 90)])], 16, 16);
        remembers(&mut r, Some((1, 8)), 16);
        r.source_history(Some(EpochEnd { epoch: 3, offset: 130, leader }));
        let header = BatchHeader { leader_epoch: 3, ..header(105, 4) };
        source(&mut r, &[batch_of(&[105, 106, 107, 108], header, 0)]);
        (found(&r).place.source, found(&r).unsure)
    };
    assert_eq!(counted(3), (109, None));
    assert_eq!(counted(4), (105, Some((12, 16))), "the epoch may have ended earlier in what was mirrored");
}

#[test]
fn what_an_older_generation_appended_late_is_looked_for_in_a_history_that_is_known() {
    let mut r = resync();
    r.premise.detail.begun.start.source_leader_epoch = Some(4);
    begun(&mut r, vec![], 0, 9);
    let late = of_epoch(0, 7, 40, 2, 100);
    target(&mut r, std::slice::from_ref(&late));
    target(&mut r, &[late]);
    assert_eq!(*r.step(), Step::SourceHistory(4));
    answer(&mut r, 4, 95);
    assert_eq!(lost(&mut r), (95, Some(4), Some((0, 9))));
}

#[test]
fn with_continue_a_mismatch_is_searched_by_content() {
    let mut r = to_ends(vec![position(5, 105, 12)], 0, 14);
    r.premise.searches = true;
    target(&mut r, &[ours(12, 5, 2, 50)]);
    source(&mut r, &[dense(105, 9)]);
    assert_eq!(*r.step(), Step::TargetRead(12));
}
