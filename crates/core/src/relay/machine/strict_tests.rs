//! Tests of strict delivery: what goes before a batch, and what waits.

use super::tests::{Bench, RULES, setup};
use super::*;
use crate::format::batch::tests::header;
use crate::format::batch::{BatchHeader, RawBatch};
use crate::relay::testing::{Fake, batch_of};
use crate::unit::Generation;

/// As of which the records of these tests are older than the target remembers, or just written.
const DAY_MS: u64 = 24 * 3_600_000;

fn strict_bench(now_ms: u64) -> Bench {
    let rules = Rules { strict: true, ..RULES };
    let mut setup = setup(rules);
    setup.detail.begun.start.strict = true;
    Bench { relay: Relay::new(setup), now_ms, ..Bench::new(rules) }
}

fn batch(base: i64, count: i32, timestamp_ms: u64) -> RawBatch {
    let timestamp = i64::try_from(timestamp_ms).unwrap();
    let shape = BatchHeader { base_timestamp: timestamp, max_timestamp: timestamp, ..header(base, count) };
    let offsets: Vec<i64> = (base..base + i64::from(count)).collect();
    batch_of(&offsets, shape, 0)
}

fn mark(b: &mut Bench) -> u64 {
    match b.next() {
        Some(Action::Mark(id)) => id,
        other => panic!("{other:?}"),
    }
}

fn marked(b: &mut Bench) {
    let id = mark(b);
    assert!(b.next().is_none(), "nothing goes before the marker has its answer");
    b.relay.answer(id, &Answer::Marked, b.now_ms);
}

/// Past the time in which requests of owners before may arrive, with the place found anew.
fn waited_out(b: &mut Bench, batches: &[RawBatch]) {
    b.settle(Facts::DEFAULT);
    b.bring(batches);
    assert!(b.next().is_none() && b.relay.is_busy(), "strays may come, and time has to be told");
    assert_eq!(b.relay.figures(b.now_ms).delivery, crate::report::Delivery::Unknown);
    b.now_ms += setup(RULES).limits.strays_ms;
    assert!(matches!(b.drain(), Some(Action::Ask(Ask::Facts))), "a stray may have come");
    b.relay.told(Told::Facts(Facts::DEFAULT), &Fake);
    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Fetch { offset: 0, .. })));
    b.bring(batches);
}

#[test]
fn a_marker_goes_before_each_old_batch() {
    let mut b = strict_bench(10 * DAY_MS);
    let old = b.now_ms - 2 * DAY_MS;
    let young = b.now_ms;
    waited_out(&mut b, &[batch(0, 3, old), batch(3, 2, old), batch(5, 1, young)]);
    for (base, count) in [(1, 3), (5, 2), (8, 1)] {
        marked(&mut b);
        let append = b.append();
        assert_eq!(BatchHeader::parse(&append.batch.header).unwrap().count, count);
        assert_eq!(
            b.relay.figures(b.now_ms).delivery.reason(),
            if count == 1 { "" } else { "EACH_BATCH_MARKED" }
        );
        assert!(b.next().is_none(), "one at a time");
        b.ack(append.id, base);
    }
    // Behind one that the target remembers, none is needed.
    b.bring(&[batch(6, 1, b.now_ms)]);
    b.append();
}

#[test]
fn a_place_tells_of_a_marker_only_by_what_is_appended_behind_it() {
    let mut b = strict_bench(10 * DAY_MS);
    let old = b.now_ms - 2 * DAY_MS;
    waited_out(&mut b, &[batch(0, 3, old)]);
    marked(&mut b);
    assert_eq!(b.relay.figures(b.now_ms).target_offset, 0, "where it stands is not known");
    let append = b.append();
    b.ack(append.id, 1);
    assert_eq!(b.relay.figures(b.now_ms).target_offset, 4);
}

#[test]
fn a_marker_elsewhere_breaks_the_pipeline() {
    let mut b = strict_bench(10 * DAY_MS);
    let old = b.now_ms - 2 * DAY_MS;
    waited_out(&mut b, &[batch(0, 3, old)]);
    marked(&mut b);
    let append = b.append();
    b.ack(append.id, 2);
    assert!(matches!(b.drain(), Some(Action::Ask(Ask::Facts))));
}

#[test]
fn without_the_right_to_write_markers_nothing_is_sent() {
    let mut b = strict_bench(10 * DAY_MS);
    let old = b.now_ms - 2 * DAY_MS;
    waited_out(&mut b, &[batch(0, 3, old)]);
    let id = mark(&mut b);
    b.relay.answer(id, &Answer::Refused { code: 31, message: String::new() }, b.now_ms);
    let Some(Action::Wait { reason, message, .. }) = b.drain() else { panic!() };
    assert_eq!(reason, "STRICT_NOT_ALLOWED");
    assert!(message.contains("grant"), "{message}");
}

#[test]
fn a_sequence_refused_behind_a_marker_begins_a_generation_that_its_own_marker_fences() {
    let mut b = strict_bench(10 * DAY_MS);
    let old = b.now_ms - 2 * DAY_MS;
    waited_out(&mut b, &[batch(0, 3, old)]);
    marked(&mut b);
    let append = b.append();
    b.relay.answer(append.id, &Answer::Refused { code: 45, message: String::new() }, b.now_ms);
    assert!(matches!(b.drain(), Some(Action::Ask(Ask::Facts))));
    b.relay.told(Told::Facts(Facts::DEFAULT), &Fake);
    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Write(_))), "one refusal is enough");
    b.relay.written(true, b.now_ms);
    let Some(Action::Begin(beginning)) = b.drain() else { panic!() };
    assert!(beginning.start.strict && beginning.start.marked);
    let generation = Generation { producer_id: 5, epoch: 1 };
    b.relay.begun(Ok(PartitionGeneration { generation, start: beginning.start }), b.now_ms);
    b.next();
    b.bring(&[batch(0, 3, old)]);
    marked(&mut b);
    // Whoever was fenced may have been quicker.
    assert!(matches!(b.next(), Some(Action::Ask(Ask::Locate(Step::TargetEnds)))));
    assert!(b.next().is_none());
    b.relay.told(Told::TargetEnds(0, 1, 1), &Fake);
    b.append();
}

#[test]
fn what_was_appended_before_the_fence_is_looked_at_before_anything_is_appended() {
    let mut b = strict_bench(10 * DAY_MS);
    b.settle(Facts::DEFAULT);
    b.relay.phase = Phase::Beginning {
        change: Change::at(Place { count: 0, source: 0, target: 0 }, b.relay.journal.clone(), None),
        asked: true,
    };
    let start = PartitionStart { strict: true, marked: true, ..PartitionStart::default() };
    let generation = Generation { producer_id: 5, epoch: 1 };
    b.relay.begun(Ok(PartitionGeneration { generation, start }), b.now_ms);
    b.next();
    b.bring(&[batch(0, 3, b.now_ms)]);
    // Young records don't wait in a generation of one's own.
    marked(&mut b);
    assert!(matches!(b.next(), Some(Action::Ask(Ask::Locate(Step::TargetEnds)))));
    b.relay.told(Told::TargetEnds(0, 4, 4), &Fake);
    assert!(matches!(b.drain(), Some(Action::Ask(Ask::Facts))), "three stand before the marker");
}

#[test]
fn a_lost_answer_lets_old_records_wait_again() {
    let mut b = strict_bench(10 * DAY_MS);
    let old = b.now_ms - 2 * DAY_MS;
    waited_out(&mut b, &[batch(0, 3, old)]);
    marked(&mut b);
    let append = b.append();
    b.relay.answer(append.id, &Answer::Lost, b.now_ms);
    assert!(matches!(b.drain(), Some(Action::Ask(Ask::Facts))));
    b.relay.told(Told::Facts(Facts::DEFAULT), &Fake);
    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Fetch { .. })));
    b.bring(&[batch(0, 3, old)]);
    assert!(b.next().is_none() && b.relay.is_busy());
}

#[test]
fn a_flow_that_becomes_strict_begins_a_generation() {
    let mut b = Bench::new(Rules { strict: true, ..RULES });
    b.settle(Facts::DEFAULT);
    b.relay.fetched(SourcePage { end_offset: 0, high_watermark: 0, ..SourcePage::default() }, (), &Fake);
    let Some(Action::Begin(beginning)) = b.drain() else { panic!() };
    assert!(beginning.start.strict && !beginning.start.marked);
}
