//! Tests of what is written of the place, and of what is kept from one look for it to the next.

use mirrormesh_core::format::batch::BatchHeader;
use mirrormesh_core::format::samples::header;

use super::tests::{Bench, RULES};
use super::*;
use crate::testing::{Fake, batch_of, dense};

#[test]
fn a_marker_of_a_newer_leader_epoch_behind_a_batch_in_flight_is_noted_where_it_is() {
    let mut b = Bench::new(RULES);
    b.settle(Facts::DEFAULT);
    let shape = BatchHeader { attributes: 0x30, producer_id: 9, leader_epoch: 4, ..header(3, 1) };
    b.bring(&[dense(0, 3), batch_of(&[3], shape, 0)]);
    let sent = b.append();
    assert!(matches!(b.next(), Some(Action::Skipped(_))));
    b.ack(sent.id, 0);
    b.relay.stop();
    let written = std::iter::from_fn(|| b.next()).find_map(|action| match action {
        Action::Write(records) => records.into_iter().find_map(|(_, value)| match value {
            Some(PositionValue::Position(position)) => Some(position),
            Some(PositionValue::Segments(_)) | None => None,
        }),
        _ => None,
    });
    let position = written.unwrap();
    assert_eq!((position.source_offset, position.source_leader_epoch), (4, 4));
    assert_eq!(position.source_epochs.iter().collect::<Vec<_>>(), [(3, 0), (4, 3)]);
}

#[test]
fn what_the_target_was_seen_to_lose_is_not_forgotten_by_the_next_look() {
    let mut b = Bench::new(RULES);
    b.settle(Facts::DEFAULT);
    b.bring(&[dense(0, 3)]);
    let sent = b.append();
    b.ack(sent.id, 0);
    // It has none of them, and can't be read.
    b.relay.source_failed("SOURCE_FAILED", "none");
    assert!(matches!(b.drain(), Some(Action::Wait { .. })));
    for (log_end, cut) in [(1, Some((1, 3))), (4, Some((1, 3)))] {
        b.relay.resume();
        assert!(!matches!(b.settle_at(log_end), Some(Action::Fetch { .. })));
        assert_eq!(b.relay.target_cut, cut);
        b.relay.told_now(Told::Failed("TARGET_FAILED".to_owned(), "none".to_owned()), &Fake);
        assert!(matches!(b.next(), Some(Action::Wait { .. })));
    }
}

#[test]
fn an_append_that_stands_before_what_was_acknowledged_tells_that_the_target_lost_it() {
    let mut b = Bench::new(RULES);
    b.settle(Facts::DEFAULT);
    b.bring(&[dense(0, 3), dense(3, 2)]);
    let sent = b.append();
    b.ack(sent.id, 0);
    let sent = b.append();
    b.ack(sent.id, 1);
    assert_eq!(b.relay.target_cut, Some((1, 3)));
}
