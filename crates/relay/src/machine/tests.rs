//! Tests of the machine's order of things; what it survives is the simulation's business (tests/sim).

use mirrormesh_core::flow::LossPolicy;
use mirrormesh_core::format::samples::header;
use mirrormesh_core::ids::{ClusterId, FlowId, TopicId, TopicName};
use mirrormesh_core::registry::{Origin, Registry, WriterKey};
use mirrormesh_core::translate::Segment;
use mirrormesh_core::unit::Generation;

use super::*;
use crate::chunks::Chunk;
use crate::path::Path;
use crate::testing::{Fake, batch_of, dense, joined};

pub(super) const NOW: u64 = 1_000;

pub(super) fn setup(rules: Rules) -> Setup {
    let start = PartitionStart { source_offset: 0, target_offset: 0, ..PartitionStart::default() };
    let generation = Generation { producer_id: 5, epoch: 0 };
    Setup {
        mesh_id: "m".to_owned(),
        source: ClusterId::new("uk").unwrap(),
        flow: FlowId::new("f").unwrap(),
        topic: TopicName::new("s").unwrap(),
        partition: 0,
        number: 1,
        detail: PartitionDetail {
            target_topic: TopicName::new("t").unwrap(),
            source_topic_id: TopicId([1; 16]),
            target_topic_id: TopicId([2; 16]),
            begun: PartitionGeneration { generation, start },
        },
        target_servers: "hq:9092".to_owned(),
        rules,
        limits: Limits::default(),
    }
}

pub(super) const RULES: Rules = Rules {
    read_uncommitted: false,
    on_loss: LossPolicy::StopPartition,
    on_oversized: OversizedPolicy::StopPartition,
    timestamps: TimestampPolicy::Keep,
    skip_mirrored: false,
    require_exactly_once: false,
    sole_writer: true,
};

pub(super) struct Bench {
    pub(super) relay: Relay,
    pub(super) told: Vec<&'static str>,
    pub(super) registry: Registry,
    /// Producer ids that are flows'.
    pub(super) flows: Vec<(i64, Origin)>,
    pub(super) now_ms: u64,
    /// Settings of both sides.
    pub(super) facts: Facts,
}

impl Bench {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            relay: Relay::new(setup(rules)),
            told: Vec::new(),
            registry: Registry::default(),
            flows: Vec::new(),
            now_ms: NOW,
            facts: Facts::DEFAULT,
        }
    }

    /// What it wants; questions about the registries are answered on the way.
    pub(super) fn next(&mut self) -> Option<Action> {
        loop {
            let action = self.relay.next(self.now_ms, &Fake);
            let told = match action {
                Some(Action::Ask { ask: Ask::Registry, .. }) => {
                    self.told.push("registry");
                    Told::Registry(Box::new(self.registry.seen(&self.key(), "source-id")))
                }
                Some(Action::Ask { ask: Ask::Register(records), .. }) => {
                    self.told.push("register");
                    for (key, value) in records {
                        self.registry.apply(0, key, value);
                    }
                    Told::Registered
                }
                Some(Action::Ask { ask: Ask::Origins(ids), .. }) => {
                    self.told.push("origins");
                    let of =
                        |id: &i64| self.flows.iter().find(|f| f.0 == *id).map_or(Origin::Client, |f| f.1);
                    Told::Origins(ids.iter().map(|id| (*id, of(id))).collect())
                }
                action => return action,
            };
            self.relay.told_now(told, &Fake);
        }
    }

    pub(super) fn key(&self) -> WriterKey {
        let producer_id = self.relay.generation().generation.producer_id;
        WriterKey { producer_id, topic: TopicName::new("t").unwrap(), partition: 0 }
    }

    /// Answers questions about an empty target until something else comes.
    pub(super) fn settle(&mut self, facts: Facts) -> Option<Action> {
        self.facts = facts;
        self.settle_at(0)
    }

    /// The same of a target that ends there and has no position.
    pub(super) fn settle_at(&mut self, log_end: i64) -> Option<Action> {
        loop {
            let told = match self.next() {
                Some(Action::Ask { ask: Ask::Facts, .. }) => Told::Facts(self.facts),
                Some(Action::Ask { ask: Ask::Locate(Step::Identity), .. }) => {
                    Told::Identity(Some(TopicId([1; 16])), Some(TopicId([2; 16])))
                }
                Some(Action::Ask { ask: Ask::Locate(Step::Positions), .. }) => {
                    Told::Positions(Stored::default())
                }
                Some(Action::Ask { ask: Ask::Locate(Step::TargetEnds), .. }) => {
                    Told::TargetEnds(0, log_end, log_end)
                }
                other => return other,
            };
            self.relay.told_now(told, &Fake);
        }
    }

    pub(super) fn bring(&mut self, batches: &[mirrormesh_core::format::batch::RawBatch]) {
        let page = SourcePage {
            records: joined(batches),
            end_offset: 100,
            high_watermark: 100,
            log_start: 0,
            ..SourcePage::default()
        };
        self.relay.fetched(page, &Fake);
    }

    /// Goes on until something else comes than what a broken stream does first.
    pub(super) fn drain(&mut self) -> Option<Action> {
        loop {
            match self.next() {
                Some(Action::Write(_)) => self.relay.written(true, self.now_ms),
                Some(Action::StopFetching | Action::Broken { .. }) => {}
                other => return other,
            }
        }
    }

    pub(super) fn append(&mut self) -> Append {
        match self.next() {
            Some(Action::Append(append)) => append,
            other => panic!("{other:?} after {:?}", self.told),
        }
    }

    pub(super) fn ack(&mut self, id: u64, base_offset: i64) {
        self.relay.answer(id, &Answer::Appended { base_offset, append_time: false }, self.now_ms);
    }
}

#[test]
fn from_nothing_to_an_acknowledged_batch_and_a_clean_release() {
    let mut b = Bench::new(RULES);
    let fetch = b.settle(Facts::DEFAULT);
    assert!(matches!(fetch, Some(Action::Fetch { offset: 0, read_committed: true, .. })));
    assert!(b.next().is_none() && b.relay.wants_records());
    b.bring(&[dense(0, 3), dense(3, 2)]);
    let first = b.append();
    assert_eq!(first.path, Path::Passthrough);
    assert!(b.next().is_none(), "alone until its answer");
    b.ack(first.id, 0);
    let second = b.append();
    b.relay.stop();
    assert!(matches!(b.next(), Some(Action::StopFetching)));
    assert!(b.next().is_none(), "an answer is due");
    b.ack(second.id, 3);
    let Some(Action::Write(records)) = b.next() else { panic!() };
    let Some((_, Some(PositionValue::Position(position)))) = records.last() else { panic!() };
    assert_eq!((position.count, position.source_offset, position.target_offset), (5, 5, 5));
    assert!(b.next().is_none(), "not released before it is written");
    b.relay.written(true, NOW);
    assert!(matches!(b.next(), Some(Action::Released)));
}

#[test]
fn a_compacted_source_is_fenced_by_an_append_and_a_generation() {
    let mut b = Bench::new(RULES);
    assert!(matches!(
        b.settle(Facts { source_compacted: true, ..Facts::DEFAULT }),
        Some(Action::Fetch { .. })
    ));
    b.bring(&[batch_of(&[1, 4], header(0, 6), 0), dense(6, 2)]);
    let first = b.append();
    assert_eq!(first.path, Path::Gaps);
    b.ack(first.id, 0);
    assert!(matches!(b.next(), Some(Action::StopFetching)), "the second batch waits for the new generation");
    assert!(matches!(b.next(), Some(Action::Write(_))));
    b.relay.written(true, NOW);
    let Some(Action::Begin(beginning)) = b.next() else { panic!() };
    assert_eq!((beginning.start.source_offset, beginning.start.target_offset), (6, 2));
    let generation = Generation { producer_id: 5, epoch: 1 };
    b.relay.begun(Ok(PartitionGeneration { generation, start: beginning.start }), NOW);
    assert!(matches!(b.next(), Some(Action::Fetch { offset: 6, .. })));
    b.bring(&[dense(6, 2)]);
    let header = mirrormesh_core::format::batch::BatchHeader::parse(&b.append().batch.header).unwrap();
    assert_eq!((header.producer_epoch, header.base_sequence), (1, 0));
}

#[test]
fn an_oversized_record_stops_or_is_skipped_by_name() {
    let small = Facts { target_bytes_max: 61 + 11, ..Facts::DEFAULT };
    let mut b = Bench::new(RULES);
    b.settle(small);
    b.bring(&[dense(7, 2)]);
    assert!(matches!(b.next(), Some(Action::StopFetching)));
    assert!(matches!(b.next(), Some(Action::Write(_))));
    b.relay.written(true, NOW);
    let Some(Action::Stopped(stop)) = b.next() else { panic!() };
    assert_eq!(
        (stop.reason.name(), stop.from_offset, stop.to_offset),
        ("RECORD_TOO_LARGE", Some(7), Some(8))
    );

    let mut b = Bench::new(Rules { on_oversized: OversizedPolicy::Skip, ..RULES });
    b.settle(small);
    b.bring(&[dense(7, 2)]);
    b.next();
    b.next();
    b.relay.written(true, NOW);
    let Some(Action::Begin(beginning)) = b.next() else { panic!() };
    assert_eq!(beginning.start.source_offset, 8);
    assert_eq!((beginning.notices[0].reason, beginning.notices[0].from_offset), ("RECORD_SKIPPED", Some(7)));
}

#[test]
fn a_place_that_is_refused_twice_begins_anew() {
    let mut b = Bench::new(RULES);
    for _ in 0..2 {
        assert!(matches!(b.settle(Facts::DEFAULT), Some(Action::Fetch { .. })));
        b.bring(&[dense(0, 3)]);
        let append = b.append();
        b.relay.answer(append.id, &Answer::Refused { code: 45, message: String::new() }, NOW);
        while let Some(action) = b.next() {
            match action {
                Action::Write(_) => b.relay.written(true, NOW),
                Action::Wait { .. } => b.relay.resume(),
                Action::Ask { ask: Ask::Facts, .. } => break,
                Action::StopFetching | Action::Broken { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        b.relay.told_now(Told::Facts(Facts::DEFAULT), &Fake);
    }
    assert!(
        matches!(b.settle(Facts::DEFAULT), Some(Action::Write(_))),
        "what was found is written down first"
    );
    b.relay.written(true, NOW);
    let Some(Action::Begin(beginning)) = b.next() else { panic!() };
    assert_eq!((beginning.start.source_offset, beginning.after.epoch), (0, 0));
}

#[test]
fn retention_overrun_stops_or_goes_on_behind_a_named_gap() {
    for (on_loss, continues) in [(LossPolicy::StopPartition, false), (LossPolicy::Continue, true)] {
        let mut b = Bench::new(Rules { on_loss, ..RULES });
        b.settle(Facts::DEFAULT);
        b.relay.out_of_range();
        let ask = loop {
            match b.next() {
                Some(Action::Write(_)) => b.relay.written(true, NOW),
                other => break other,
            }
        };
        assert!(matches!(ask, Some(Action::Ask { ask: Ask::SourceEnds, .. })));
        b.relay.told_now(Told::SourceEnds(12, 50), &Fake);
        let ask = b.next();
        assert!(
            matches!(ask, Some(Action::Ask { ask: Ask::Locate(Step::Identity), .. })),
            "is it the same topic still?"
        );
        b.relay.told_now(Told::Identity(Some(TopicId([1; 16])), Some(TopicId([2; 16]))), &Fake);
        match b.next() {
            Some(Action::Stopped(stop)) if !continues => {
                assert_eq!((stop.from_offset, stop.to_offset), (Some(0), Some(12)));
            }
            Some(Action::Begin(beginning)) if continues => {
                let notice = &beginning.notices[0];
                assert_eq!((notice.reason, notice.count), ("RETENTION_OVERRUN", Some(12)));
                assert_eq!((beginning.start.source_offset, beginning.start.target_offset), (12, 0));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn damaged(mut batch: mirrormesh_core::format::batch::RawBatch) -> mirrormesh_core::format::batch::RawBatch {
    let mut bytes = batch.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    batch.bytes = bytes.into();
    batch
}

#[test]
fn small_batches_before_a_damaged_one_are_put_together_and_sent() {
    let mut b = Bench::new(RULES);
    b.settle(Facts::DEFAULT);
    b.bring(&[dense(0, 2), dense(2, 2), dense(4, 1), damaged(dense(5, 2)), dense(7, 2)]);
    let append = b.append();
    let header = mirrormesh_core::format::batch::BatchHeader::parse(&append.batch.header).unwrap();
    assert_eq!((append.path, header.count), (Path::Coalesced, 5));
    b.ack(append.id, 0);
    let Some(Action::Stopped(stop)) = b.drain() else { panic!() };
    assert_eq!((stop.reason, stop.from_offset), (StopReason::BatchCorrupt, Some(5)));
}

#[test]
fn records_that_the_target_finds_damaged_are_checked_before_they_go_again() {
    let mut b = Bench::new(RULES);
    let damaged = || damaged(dense(0, 3));
    b.settle(Facts::DEFAULT);
    b.bring(&[damaged()]);
    let append = b.append();
    b.relay.answer(append.id, &Answer::Refused { code: 2, message: String::new() }, NOW);
    assert!(matches!(b.drain(), Some(Action::Wait { .. })));
    b.relay.resume();
    let fetch = b.settle(Facts::DEFAULT);
    assert!(matches!(fetch, Some(Action::Fetch { offset: 0, .. })), "{fetch:?}");
    b.bring(&[damaged()]);
    let Some(Action::Stopped(stop)) = b.drain() else { panic!() };
    assert_eq!((stop.reason, stop.from_offset), (StopReason::BatchCorrupt, Some(0)));
}

/// Streams from an empty target, with a chunk of an earlier owner stored, of which the source has nothing left.
fn with_a_chunk() -> Bench {
    let mut bench = Bench::new(RULES);
    let segment = Segment { source: 0, target: 0, count: 5 };
    let chunks = vec![Chunk::of((5, 0, 3), &[segment]).unwrap()];
    while let Some(Action::Ask { ask, .. }) = bench.next() {
        let told = match ask {
            Ask::Facts => Told::Facts(Facts::DEFAULT),
            Ask::Locate(Step::Identity) => Told::Identity(Some(TopicId([1; 16])), Some(TopicId([2; 16]))),
            Ask::Locate(Step::Positions) => {
                Told::Positions(Stored { positions: Vec::new(), chunks: chunks.clone() })
            }
            Ask::Locate(Step::TargetEnds) => Told::TargetEnds(0, 0, 0),
            other => panic!("{other:?}"),
        };
        bench.relay.told_now(told, &Fake);
    }
    bench.relay.fetched(
        SourcePage { end_offset: 9, high_watermark: 9, log_start: 5, ..SourcePage::default() },
        &Fake,
    );
    assert!(matches!(bench.next(), Some(Action::Ask { ask: Ask::Locate(Step::TargetEnds), .. })));
    assert!(bench.next().is_none(), "once");
    bench
}

#[test]
fn what_is_stored_of_what_both_sides_deleted_is_cut() {
    let mut bench = with_a_chunk();
    bench.relay.told_now(Told::TargetEnds(4, 9, 9), &Fake);
    assert!(bench.next().is_none(), "the target still has it");
    let mut bench = with_a_chunk();
    bench.relay.told_now(Told::TargetEnds(5, 9, 9), &Fake);
    let Some(Action::Write(records)) = bench.relay.next(NOW + 1_000, &Fake) else { panic!() };
    let kind = PositionKind::Segments { producer_id: 5, number: 0, chunk: 3 };
    assert!(
        records
            .iter()
            .any(|(key, value)| key.kind == kind && *value == Some(PositionValue::Segments(vec![])))
    );
}

#[test]
fn nothing_goes_on_before_it_is_known_where_the_target_begins() {
    let mut bench = with_a_chunk();
    bench.relay.stop();
    assert!(matches!(bench.next(), Some(Action::StopFetching)));
    assert!(bench.next().is_none(), "an answer that comes late would be taken for another one's");
    bench.relay.told_now(Told::Failed("UNREACHABLE".to_owned(), String::new()), &Fake);
    assert!(matches!(bench.drain(), Some(Action::Released)));
}
