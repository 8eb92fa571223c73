//! Tests of what a partition shows of its guarantee, and why: by settings, by the records' age, by what was found.

use mirrormesh_core::format::batch::{BatchHeader, RawBatch};
use mirrormesh_core::format::samples::header;
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::report::Delivery;
use mirrormesh_core::unit::Generation;

use super::tests::{Bench, RULES};
use super::*;
use crate::testing::{Fake, batch_of, dense, joined};
use crate::window::WATCH_MS;

/// As long as the target remembers who wrote a record.
const DAY_MS: u64 = 24 * 3_600_000;
/// As of which records of these tests may be older than that.
const TODAY: u64 = 10 * DAY_MS;

fn bench(rules: Rules) -> Bench {
    Bench { now_ms: TODAY, ..Bench::new(rules) }
}

/// A batch of records that are so old.
fn batch(base: i64, count: i32, age_ms: u64) -> RawBatch {
    let timestamp = i64::try_from(TODAY - age_ms).unwrap();
    let shape = BatchHeader { base_timestamp: timestamp, max_timestamp: timestamp, ..header(base, count) };
    let offsets: Vec<i64> = (base..base + i64::from(count)).collect();
    batch_of(&offsets, shape, 0)
}

fn shown(b: &mut Bench) -> Delivery {
    b.relay.figures(b.now_ms).delivery
}

/// Sends the next batch; the target has it at this offset.
fn mirrored(b: &mut Bench, base_offset: i64) {
    let append = b.append();
    b.ack(append.id, base_offset);
}

#[test]
fn the_sources_settings_come_before_what_the_target_remembers() {
    let compacted = Facts { source_compacted: true, ..Facts::DEFAULT };
    let by_name = Facts { source_by_name: true, ..Facts::DEFAULT };
    let both = Facts { source_compacted: true, ..by_name };
    for (facts, wanted) in
        [(compacted, "CONTENT_NOT_FIXED"), (by_name, "SOURCE_BY_NAME"), (both, "CONTENT_NOT_FIXED")]
    {
        let mut b = bench(RULES);
        assert!(matches!(b.settle(facts), Some(Action::Fetch { .. })));
        assert_eq!(shown(&mut b).reason(), wanted, "before anything is mirrored");
        b.bring(&[batch(0, 3, 0)]);
        mirrored(&mut b, 0);
        assert_eq!(shown(&mut b).reason(), wanted, "though the target surely remembers");
    }
}

#[test]
fn the_target_may_forget_who_wrote_old_records() {
    let mut b = bench(RULES);
    b.settle(Facts::DEFAULT);
    assert_eq!(shown(&mut b), Delivery::Unknown, "nothing is mirrored");
    b.bring(&[batch(0, 3, 2 * DAY_MS), batch(3, 2, 0), batch(5, 1, 2 * DAY_MS)]);
    mirrored(&mut b, 0);
    assert_eq!(shown(&mut b).reason(), "TARGET_MAY_FORGET");
    mirrored(&mut b, 3);
    assert_eq!(shown(&mut b), Delivery::ExactlyOnce);
    let old = b.append();
    assert_eq!(shown(&mut b).reason(), "TARGET_MAY_FORGET", "it may stand there by now");
    b.ack(old.id, 5);
    assert_eq!(shown(&mut b).reason(), "TARGET_MAY_FORGET");
}

#[test]
fn the_target_may_forget_who_was_quiet() {
    let mut b = bench(RULES);
    b.settle(Facts::DEFAULT);
    b.bring(&[batch(0, 3, 0)]);
    mirrored(&mut b, 0);
    assert_eq!(shown(&mut b), Delivery::ExactlyOnce);
    b.now_ms += DAY_MS;
    assert_eq!(shown(&mut b).reason(), "TARGET_MAY_FORGET");
}

/// Streams behind two records of somebody else's.
fn beside_others(rules: Rules) -> Bench {
    let mut b = bench(rules);
    let fetch = loop {
        let told = match b.next() {
            Some(Action::Ask { ask: Ask::Facts, .. }) => Told::Facts(Facts::DEFAULT),
            Some(Action::Ask { ask: Ask::Locate(Step::Identity), .. }) => {
                Told::Identity(Some(TopicId([1; 16])), Some(TopicId([2; 16])))
            }
            Some(Action::Ask { ask: Ask::Locate(Step::Positions), .. }) => Told::Positions(Stored::default()),
            Some(Action::Ask { ask: Ask::Locate(Step::TargetEnds), .. }) => Told::TargetEnds(0, 2, 2),
            Some(Action::Ask { ask: Ask::Locate(Step::TargetRead(_)), .. }) => {
                Told::TargetRecords(joined(&[dense(0, 2)]))
            }
            other => break other,
        };
        b.relay.told_now(told, &Fake);
    };
    assert!(matches!(fetch, Some(Action::Fetch { offset: 0, .. })), "{fetch:?}");
    b
}

#[test]
fn other_writers_are_shown_where_the_target_may_forget() {
    // What was found decides, whether or not the flow allows it.
    for sole_writer in [true, false] {
        let mut b = beside_others(Rules { sole_writer, ..RULES });
        assert_eq!(shown(&mut b).reason(), "OTHER_WRITERS");
        b.bring(&[batch(0, 3, 2 * DAY_MS), batch(3, 2, 0), batch(5, 1, 0)]);
        mirrored(&mut b, 2);
        assert_eq!(shown(&mut b).reason(), "OTHER_WRITERS", "the last batch is an old one");
        mirrored(&mut b, 5);
        assert_eq!(shown(&mut b), Delivery::ExactlyOnce, "sequences count only the flow's records");
        mirrored(&mut b, 9);
        assert_eq!((shown(&mut b), b.relay.figures(b.now_ms).target_offset), (Delivery::ExactlyOnce, 10));
        b.now_ms += DAY_MS;
        assert_eq!(shown(&mut b).reason(), "OTHER_WRITERS");
    }
}

#[test]
fn owners_under_another_producer_id_count_as_others_until_they_are_gone() {
    let mut b = bench(Rules { read_uncommitted: true, ..RULES });
    b.settle(Facts::DEFAULT);
    b.relay.fetched(SourcePage { end_offset: 0, high_watermark: 0, ..SourcePage::default() }, &Fake);
    let Some(Action::Begin(beginning)) = b.drain() else { panic!() };
    let generation = Generation { producer_id: 77, epoch: 0 };
    b.relay.begun(Ok(PartitionGeneration { generation, start: beginning.start }), b.now_ms);
    assert!(matches!(b.next(), Some(Action::Fetch { .. })));
    b.bring(&[batch(0, 3, 0)]);
    mirrored(&mut b, 0);
    assert_eq!(shown(&mut b).reason(), "OTHER_WRITERS", "nothing fences them");
    b.now_ms += WATCH_MS;
    assert_eq!(shown(&mut b), Delivery::ExactlyOnce);
}
