//! What the machine does with registries: its own entry first, nothing that came from the target back to it.

use mirrormesh_core::format::batch::{BatchHeader, RawBatch, split};
use mirrormesh_core::format::samples::{header, make};
use mirrormesh_core::registry::{Origin, RegistryValue};
use mirrormesh_core::unit::Generation;

use super::tests::{Bench, NOW, RULES, setup};
use super::*;
use crate::testing::{Fake, dense};

/// A batch of two records under a producer id.
fn under(producer_id: i64, base: i64) -> RawBatch {
    let plain = dense(base, 2);
    let body = plain.bytes.slice(mirrormesh_core::format::batch::HEADER_BYTES..);
    split(make(BatchHeader { producer_id, ..header(base, 2) }, &body)).next().unwrap().unwrap()
}

fn loops() -> Vec<(i64, Origin)> {
    let flow = |from_target| Origin::Flow { from_target, first_offset: Some(0) };
    vec![(70, flow(true)), (80, flow(false))]
}

#[test]
fn nothing_is_located_or_appended_before_the_generation_is_in_the_registry() {
    let mut b = Bench::new(RULES);
    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Fetch { .. })));
    assert_eq!(b.told, ["registry", "register", "registry"], "written, and looked at once more");
    let seen = b.registry.seen(&b.key(), "source-id");
    let (writer, claim) = (seen.writer.unwrap(), seen.claim.unwrap());
    assert_eq!((writer.source_cluster.as_str(), writer.begun.generation.epoch), ("source-id", 0));
    assert_eq!((writer.first_offset, claim.mesh_id.as_str()), (0, "m"));

    // A place that is found anew asks nothing more; a new generation does.
    b.told.clear();
    b.bring(&[dense(0, 3)]);
    let append = b.append();
    b.relay.answer(append.id, &Answer::Lost, NOW);
    b.settle(Facts::DEFAULT);
    assert!(b.told.is_empty(), "{:?}", b.told);

    // Another owner finds it there.
    let mut next = Bench::new(RULES);
    next.registry = b.registry.clone();
    next.settle(Facts::DEFAULT);
    assert_eq!(next.told, ["registry"]);
}

#[test]
fn a_new_generation_is_registered_before_its_first_append() {
    let mut b = Bench::new(RULES);
    b.settle(Facts { source_compacted: true, ..Facts::DEFAULT });
    b.bring(&[dense(0, 3)]);
    let first = b.append();
    b.ack(first.id, 0);
    let beginning = loop {
        match b.next() {
            Some(Action::Write(_)) => b.relay.written(true, NOW),
            Some(Action::Begin(beginning)) => break beginning,
            other => assert!(matches!(other, Some(Action::StopFetching)), "{other:?}"),
        }
    };
    let generation = Generation { producer_id: 5, epoch: 1 };
    b.told.clear();
    b.relay.begun(Ok(PartitionGeneration { generation, start: beginning.start }), NOW);
    assert!(matches!(b.next(), Some(Action::Fetch { offset: 3, .. })));
    assert_eq!(b.told, ["registry", "register", "registry"]);
    let writer = b.registry.seen(&b.key(), "source-id").writer.unwrap();
    assert_eq!(
        (writer.begun.generation.epoch, writer.first_offset),
        (1, 0),
        "of the id, not of the generation"
    );
}

#[test]
fn what_came_from_the_target_is_skipped_and_said() {
    for skip_mirrored in [false, true] {
        let mut b = Bench::new(Rules { skip_mirrored, ..RULES });
        b.relay = Relay::new(Setup {
            detail: PartitionDetail {
                begun: PartitionGeneration {
                    start: PartitionStart { skip_mirrored, ..PartitionStart::default() },
                    ..setup(RULES).detail.begun
                },
                ..setup(RULES).detail
            },
            ..setup(Rules { skip_mirrored, ..RULES })
        });
        b.flows = loops();
        b.settle(Facts::DEFAULT);
        b.told.clear();
        b.bring(&[under(70, 0), under(80, 2), under(90, 4), under(-1, 6), under(70, 8)]);
        assert!(!b.relay.wants_records(), "before it is known where they come from");
        let mut appended = Vec::new();
        let mut skipped = 0;
        let mut end = 0;
        while let Some(action) = b.next() {
            match action {
                Action::Append(append) => {
                    appended.push(i64::from(BatchHeader::parse(&append.batch.header).unwrap().base_sequence));
                    b.ack(append.id, end);
                    end += 2;
                }
                Action::Skipped(skip) => {
                    assert_eq!(skip.name(), "loop");
                    skipped += 1;
                }
                Action::Write(_) => b.relay.written(true, NOW),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(b.told, ["origins"], "once for all that are new");
        assert_eq!(skipped, if skip_mirrored { 3 } else { 2 });
        let n = if skip_mirrored { vec![0, 2] } else { vec![0, 2, 4] };
        assert_eq!(appended, n);
        assert_eq!(b.relay.figures(NOW).source_offset, 10, "behind what was skipped too");

        b.told.clear();
        b.bring(&[under(70, 10)]);
        assert!(matches!(b.next(), Some(Action::Skipped(_))));
        assert!(b.told.is_empty(), "its class is known");
    }
}

#[test]
fn other_rules_about_loops_begin_a_generation() {
    let mut b = Bench::new(Rules { skip_mirrored: true, ..RULES });
    b.flows = loops();
    b.settle(Facts::DEFAULT);
    b.bring(&[under(80, 0), under(80, 2)]);
    let first = b.append();
    b.ack(first.id, 0);
    let beginning = loop {
        match b.next() {
            Some(Action::Write(_)) => b.relay.written(true, NOW),
            Some(Action::Begin(beginning)) => break beginning,
            other => assert!(matches!(other, Some(Action::StopFetching)), "{other:?}"),
        }
    };
    assert_eq!(beginning.start.source_offset, 2, "what was begun under the old rules ends under them");
    assert!(beginning.start.skip_mirrored);
}

#[test]
fn a_lookup_that_fails_is_tried_again_and_a_contradiction_stops() {
    let mut b = Bench::new(RULES);
    b.settle(Facts::DEFAULT);
    b.bring(&[under(70, 0)]);
    assert!(
        matches!(b.relay.next(NOW, &Fake), Some(Action::Ask { ask: Ask::Origins(ids), .. }) if ids.contains(&70))
    );
    b.relay.told_now(Told::Failed("CLUSTER_UNREACHABLE".into(), "no answer".into()), &Fake);
    let waited = loop {
        match b.next() {
            Some(Action::Write(_)) => b.relay.written(true, NOW),
            Some(Action::StopFetching) => {}
            other => break other,
        }
    };
    assert!(matches!(waited, Some(Action::Wait { .. })), "{waited:?}");

    b.flows = vec![(70, Origin::Flow { from_target: true, first_offset: Some(1) })];
    b.relay.resume();
    b.settle(Facts::DEFAULT);
    b.bring(&[under(70, 0)]);
    let stopped = loop {
        match b.next() {
            Some(Action::Write(_)) => b.relay.written(true, NOW),
            Some(Action::StopFetching) => {}
            other => break other,
        }
    };
    let Some(Action::Stopped(stop)) = stopped else { panic!("{stopped:?}") };
    assert_eq!(stop.reason.name(), "ORIGIN_UNCLEAR");
}

#[test]
fn another_source_cluster_or_another_meshs_claim_stops() {
    let mut b = Bench::new(RULES);
    b.settle(Facts::DEFAULT);
    let records = b.registry.clone();
    for (change, reason) in [(0, "SOURCE_CLUSTER_CHANGED"), (1, "FLOW_CLAIMED")] {
        let mut b = Bench::new(RULES);
        b.registry = records.clone();
        let key = b.key();
        let mut seen = b.registry.seen(&key, "source-id");
        match change {
            0 => seen.source_cluster = "another".to_owned(),
            _ => seen.claim.as_mut().unwrap().mesh_id = "other".to_owned(),
        }
        b.relay.next(NOW, &Fake);
        b.relay.told_now(Told::Facts(Facts::DEFAULT), &Fake);
        assert!(matches!(b.relay.next(NOW, &Fake), Some(Action::Ask { ask: Ask::Registry, .. })));
        b.relay.told_now(Told::Registry(Box::new(seen)), &Fake);
        let Some(Action::Stopped(stop)) = b.relay.next(NOW, &Fake) else { panic!() };
        assert_eq!(stop.reason.name(), reason);
    }
}

#[test]
fn a_generation_of_another_mesh_is_ended_before_records_go_on() {
    let mut b = Bench::new(RULES);
    let start = PartitionStart { adopted: Some(9), ..PartitionStart::default() };
    let generation = Generation { producer_id: 5, epoch: 3 };
    let detail = PartitionDetail { begun: PartitionGeneration { generation, start }, ..setup(RULES).detail };
    b.relay = Relay::new(Setup { detail, ..setup(RULES) });
    let mut other = Bench::new(RULES);
    other.relay = Relay::new(Setup { mesh_id: "other".into(), ..setup(RULES) });
    other.settle(Facts::DEFAULT);
    b.registry = other.registry.clone();

    assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Fetch { .. })));
    let seen = b.registry.seen(&b.key(), "source-id");
    assert_eq!(seen.claim.unwrap().mesh_id, "m", "the claim is taken over");
    assert_eq!(seen.writer.unwrap().mesh_id, "other", "what the other mesh began stands as it wrote it");
    b.bring(&[dense(0, 2), dense(2, 2)]);
    let first = b.append();
    assert_eq!(BatchHeader::parse(&first.batch.header).unwrap().producer_epoch, 3, "a hand-over");
    b.ack(first.id, 0);
    let beginning = loop {
        match b.next() {
            Some(Action::Write(_)) => b.relay.written(true, NOW),
            Some(Action::Begin(beginning)) => break beginning,
            other => assert!(matches!(other, Some(Action::StopFetching)), "{other:?}"),
        }
    };
    assert!(beginning.start.adopted.is_none() && beginning.after == generation);
    let generation = Generation { epoch: 4, ..generation };
    b.relay.begun(Ok(PartitionGeneration { generation, start: beginning.start }), NOW);
    assert!(matches!(b.next(), Some(Action::Fetch { offset: 2, .. })));
    let RegistryValue::Writer(writer) =
        RegistryValue::Writer(b.registry.seen(&b.key(), "source-id").writer.unwrap())
    else {
        panic!()
    };
    assert_eq!((writer.mesh_id.as_str(), writer.begun.generation.epoch), ("m", 4));
}
