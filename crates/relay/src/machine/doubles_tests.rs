//! Tests of what the machine concludes from records that stand on the target twice, and from appends behind a failure.

use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::format::batch::{BatchHeader, RawBatch};
use mirrormesh_core::format::samples::header;

use super::tests::{Bench, NOW, RULES};
use super::*;
use crate::testing::batch_of;

/// One young record.
fn young(offset: i64) -> RawBatch {
    let now = i64::try_from(NOW).unwrap();
    let shape = BatchHeader { base_timestamp: now, max_timestamp: now, ..header(offset, 1) };
    batch_of(&[offset], shape, 0)
}

/// A position behind two records, of which the second one is a repeat.
fn behind_a_repeat() -> Found {
    Found {
        place: Place { count: 1, source: 1, target: 2 },
        sole_writer: false,
        others_before: 2,
        producer_changed: false,
        replay: Vec::new(),
        position: None,
        truncated: None,
        apart: false,
        doubled: Some((1, 2)),
        stray: None,
        hole: None,
        unsure: None,
        epoch: 0,
        epochs: Epochs::default(),
        base_epoch: 0,
    }
}

fn notices(bench: &mut Bench) -> usize {
    let mut count = 0;
    while let Some(action) = bench.next() {
        count += usize::from(matches!(action, Action::Notice(_)));
    }
    count
}

#[test]
fn a_drained_append_shows_that_the_target_lost_its_end() {
    let mut bench = Bench::new(RULES);
    bench.settle(Facts::DEFAULT);
    bench.bring(&[young(0)]);
    let first = bench.append();
    bench.ack(first.id, 0);
    assert!(bench.next().is_none());
    bench.bring(&[young(1), young(2), young(3)]);
    let (second, third, fourth) = (bench.append(), bench.append(), bench.append());
    bench.ack(second.id, 1);
    let refused = Answer::Refused { code: 6, message: String::new() };
    bench.relay.answer(third.id, &refused, NOW);
    // The leader lost its end before offset 1 and took the fourth record there.
    bench.ack(fourth.id, 1);
    assert_eq!(bench.relay.target_cut, Some((1, 2)));
}

#[test]
fn an_offset_behind_repeated_records_is_looked_at() {
    let mut bench = Bench::new(RULES);
    bench.settle(Facts::DEFAULT);
    bench.relay.found(&behind_a_repeat(), NOW);
    while !matches!(bench.next(), Some(Action::Fetch { .. })) {}
    bench.bring(&[young(1), young(2)]);
    let first = bench.append();
    bench.ack(first.id, 2);
    let second = bench.append();
    // Another owner of this generation may have appended the same record at offset 3.
    bench.ack(second.id, 4);
    assert!(bench.relay.has_failed(), "what stands at offset 3 is looked at");
}

#[test]
fn the_same_repeated_records_are_reported_once() {
    let mut bench = Bench::new(RULES);
    bench.settle(Facts::DEFAULT);
    bench.relay.found(&behind_a_repeat(), NOW);
    assert_eq!(notices(&mut bench), 1);
    bench.relay.found(&behind_a_repeat(), NOW);
    assert_eq!(notices(&mut bench), 0);
    bench.relay.found(&Found { doubled: Some((2, 3)), ..behind_a_repeat() }, NOW);
    assert_eq!(notices(&mut bench), 1, "other records");
}
