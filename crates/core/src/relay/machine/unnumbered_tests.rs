//! Tests of mirroring at least once, where the target gives out no producer ids.

use super::tests::{Bench, RULES, setup};
use super::*;
use crate::format::batch::{BatchHeader, RawBatch};
use crate::relay::testing::{Fake, dense};
use crate::unit::Generation;

fn bench(at_least_once: bool) -> Bench {
    let rules = Rules { at_least_once, ..RULES };
    let mut setup = setup(rules);
    setup.detail.begun.generation = Generation::unnumbered(9);
    Bench { relay: Relay::new(setup), ..Bench::new(rules) }
}

/// Past the time in which requests of owners before may arrive, with the place found anew.
fn waited_out(b: &mut Bench, batches: &[RawBatch]) -> Option<Action<()>> {
    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Fetch { offset: 0, .. })));
    b.bring(batches);
    assert!(b.next().is_none() && b.relay.is_busy(), "strays may come, and time has to be told");
    b.now_ms += setup(RULES).limits.strays_ms;
    assert!(matches!(b.drain(), Some(Action::Ask(Ask::Facts))), "a stray may have come");
    b.relay.told(Told::Facts(Facts::DEFAULT), &Fake);
    b.settle(Facts::DEFAULT)
}

fn no_ids(b: &mut Bench) {
    b.relay.told(Told::Failed(TARGET_NOT_IDEMPOTENT.to_owned(), "none".to_owned()), &Fake);
}

/// It was asked for a producer id, got none and streams.
fn streaming(b: &mut Bench, batches: &[RawBatch]) {
    assert!(matches!(waited_out(b, batches), Some(Action::Ask(Ask::NewProducer))));
    no_ids(b);
    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Fetch { offset: 0, .. })), "asked once only");
    b.bring(batches);
}

fn header_of(append: &Append<()>) -> BatchHeader {
    BatchHeader::parse(&append.batch.header).unwrap()
}

#[test]
fn batches_go_one_by_one_and_carry_no_producer() {
    let mut b = bench(true);
    streaming(&mut b, &[dense(0, 3), dense(3, 2), dense(5, 1)]);
    for (base, count) in [(0, 3), (3, 2), (5, 1)] {
        let append = b.append();
        let header = header_of(&append);
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (-1, -1, -1));
        assert_eq!(header.count, count);
        assert!(b.next().is_none(), "one at a time");
        assert_eq!(b.relay.figures(b.now_ms).delivery.reason(), "TARGET_NOT_IDEMPOTENT");
        b.ack(append.id, base);
    }
    assert_eq!(b.relay.figures(b.now_ms).source_offset, 6);
    let key = b.key();
    assert!(key.producer_id < -1 && b.registry.seen(&key, "source-id").writer.is_some());
}

#[test]
fn without_a_lease_nothing_is_sent() {
    let mut b = bench(true);
    streaming(&mut b, &[dense(0, 3), dense(3, 2)]);
    let first = b.append();
    b.ack(first.id, 0);
    b.relay.leased(false);
    assert!(!matches!(b.next(), Some(Action::Append(_))));
    b.relay.leased(true);
    b.append();
}

#[test]
fn after_a_lost_answer_strays_are_waited_for_and_the_place_is_found_anew() {
    let mut b = bench(true);
    streaming(&mut b, &[dense(0, 3)]);
    let append = b.append();
    b.relay.answer(append.id, &Answer::Lost, b.now_ms);
    assert!(matches!(b.drain(), Some(Action::Ask(Ask::Facts))));
    b.relay.told(Told::Facts(Facts::DEFAULT), &Fake);
    let fetch = waited_out(&mut b, &[dense(0, 3)]);
    assert!(matches!(fetch, Some(Action::Fetch { offset: 0, .. })), "not asked for an id again: {fetch:?}");
    b.bring(&[dense(0, 3)]);
    b.append();
}

#[test]
fn what_somebody_else_appended_is_counted_where_nobody_should() {
    for sole_writer in [true, false] {
        let mut b = bench(true);
        b.relay.setup.rules.sole_writer = sole_writer;
        streaming(&mut b, &[dense(0, 3), dense(3, 2)]);
        let append = b.append();
        b.ack(append.id, 2);
        if sole_writer {
            let Some(Action::Notice(notice)) = b.next() else { panic!() };
            assert_eq!((notice.reason, notice.count), ("RECORDS_DOUBLED", Some(2)));
            assert!(notice.message.contains("offsets 0 to 2"), "{}", notice.message);
        }
        // It goes on.
        let append = b.append();
        b.ack(append.id, 5);
        assert_eq!(b.relay.figures(b.now_ms).target_offset, 7);
    }
}

#[test]
fn an_id_that_the_target_gives_at_last_makes_the_flow_exactly_once() {
    let mut b = bench(true);
    assert!(matches!(waited_out(&mut b, &[dense(0, 3)]), Some(Action::Ask(Ask::NewProducer))));
    b.relay.told(Told::Producer(77), &Fake);
    let Some(Action::Begin(beginning)) = b.next() else { panic!() };
    assert_eq!((beginning.offered, beginning.start.source_offset), (Some(77), 0));
    let begun =
        PartitionGeneration { generation: Generation { producer_id: 77, epoch: 0 }, start: beginning.start };
    b.relay.begun(Ok(begun), b.now_ms);
    assert!(matches!(b.next(), Some(Action::Fetch { .. })));
    b.bring(&[dense(0, 3)]);
    let header = header_of(&b.append());
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (77, 0, 0));
    assert_ne!(b.relay.figures(b.now_ms).delivery.reason(), "TARGET_NOT_IDEMPOTENT");
}

#[test]
fn without_the_option_nothing_is_sent_until_there_is_an_id() {
    let mut b = bench(false);
    assert!(matches!(waited_out(&mut b, &[dense(0, 3)]), Some(Action::Ask(Ask::NewProducer))));
    no_ids(&mut b);
    let Some(Action::Wait { reason, .. }) = b.next() else { panic!() };
    assert_eq!(reason, "TARGET_NOT_IDEMPOTENT");
    b.relay.resume();
    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Ask(Ask::NewProducer))), "and asked again");
}

#[test]
fn other_rules_begin_a_generation_without_an_append_that_hands_over() {
    let mut b = bench(true);
    b.relay.setup.rules.read_uncommitted = true;
    let Some(Action::Begin(beginning)) = b.settle(Facts::DEFAULT) else { panic!() };
    assert_eq!((beginning.offered, beginning.start.read_uncommitted), (None, true));
}

#[test]
fn numbers_do_not_run_out() {
    let mut b = bench(true);
    b.relay.setup.detail.begun.generation.epoch = i16::MAX;
    let after = b.relay.setup.detail.begun.generation;
    let Some(Action::Begin(beginning)) = b.settle(Facts::DEFAULT) else { panic!() };
    assert_eq!(beginning.offered, Some(after.producer_id - 1));
}
