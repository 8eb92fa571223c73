//! Tests of refusals for size: settings that tell less than the target demands.

use mirrormesh_core::unit::PartitionGeneration;

use super::tests::{Bench, RULES};
use super::*;
use crate::testing::{Fake, dense};

/// Refuses every append of more records than this one takes, and says how many records arrived until something else
/// comes.
fn relayed(
    rules: Rules,
    takes: i32,
    batches: &[mirrormesh_core::format::batch::RawBatch],
) -> (i64, Option<Action>) {
    let mut bench = Bench::new(rules);
    let (mut there, mut tries) = (0_i64, 0);
    loop {
        tries += 1;
        assert!(tries < 200, "it never ends: {:?}", bench.relay.state());
        let told = match bench.next() {
            Some(Action::Append(append)) => {
                let count = i32::from_be_bytes(append.batch.header[57..61].try_into().unwrap());
                let answer = if count <= takes {
                    there += i64::from(count);
                    Answer::Appended { base_offset: there - i64::from(count), append_time: false }
                } else {
                    Answer::Refused { code: 10, message: String::new() }
                };
                bench.relay.answer(append.id, &answer, bench.now_ms);
                continue;
            }
            Some(Action::Fetch { offset, .. }) => {
                let behind = batches.iter().filter(|batch| batch.header.next_offset() > offset);
                bench.bring(&behind.cloned().collect::<Vec<_>>());
                continue;
            }
            Some(Action::StopFetching | Action::Broken { .. }) => continue,
            Some(Action::Wait { .. }) => {
                bench.relay.resume();
                continue;
            }
            Some(Action::Write(_)) => {
                bench.relay.written(true, bench.now_ms);
                continue;
            }
            Some(Action::Begin(beginning)) if rules.on_oversized == OversizedPolicy::Skip => {
                assert_eq!(beginning.notices[0].reason, "RECORD_SKIPPED");
                return (there, Some(Action::Begin(beginning)));
            }
            Some(Action::Ask { ask: Ask::Facts, .. }) => Told::Facts(bench.facts),
            Some(Action::Ask { ask: Ask::Locate(Step::Identity), .. }) => {
                let detail = bench.relay.detail().clone();
                Told::Identity(Some(detail.source_topic_id), Some(detail.target_topic_id))
            }
            Some(Action::Ask { ask: Ask::Locate(Step::Positions), .. }) => {
                Told::Positions(position_of(&bench, there))
            }
            Some(Action::Ask { ask: Ask::Locate(Step::TargetEnds), .. }) => {
                Told::TargetEnds(there, there, there)
            }
            other => return (there, other),
        };
        bench.relay.told_now(told, &Fake);
    }
}

/// What the relay wrote down of so many records.
fn position_of(bench: &Bench, there: i64) -> Stored {
    let PartitionGeneration { generation, .. } = bench.relay.generation();
    let detail = bench.relay.detail();
    let position = Position {
        generation,
        sequence_base: 0,
        count: there,
        source_offset: there,
        source_topic_id: detail.source_topic_id,
        source_leader_epoch: -1,
        source_epochs: mirrormesh_core::epochs::Epochs::default(),
        shared_leader_epoch: None,
        target_offset: there,
        target_leader_epoch: -1,
        last: LastBatch::default(),
        skip_version: 0,
        assignment_number: 1,
        topic: String::new(),
        target_topic: String::new(),
    };
    if there == 0 {
        Stored::default()
    } else {
        Stored { positions: vec![(0, position)], ..Stored::default() }
    }
}

#[test]
fn a_refused_batch_is_halved_until_it_fits() {
    let (there, then) = relayed(RULES, 2, &[dense(0, 20), dense(20, 1)]);
    assert!(then.is_none(), "{then:?}");
    assert_eq!(there, 21);
}

#[test]
fn one_record_refused_twice_is_too_large() {
    let (there, then) = relayed(RULES, 0, &[dense(0, 5)]);
    assert_eq!(there, 0);
    let Some(Action::Stopped(stop)) = then else { panic!("{then:?}") };
    assert_eq!((stop.reason, stop.from_offset), (StopReason::RecordTooLarge, Some(0)));
}

#[test]
fn one_record_refused_twice_is_skipped_where_the_flow_says_so() {
    let rules = Rules { on_oversized: OversizedPolicy::Skip, ..RULES };
    let (there, then) = relayed(rules, 0, &[dense(0, 5)]);
    let Some(Action::Begin(beginning)) = then else { panic!("{then:?}") };
    assert_eq!((there, beginning.start.source_offset), (0, 1), "nothing but the one record");
}
