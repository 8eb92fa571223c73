//! A generation that an owner shares with one that was replaced and may be alive still.
//!
//! Owns when that one has to be fenced: where the source got a new leader since, which may have lost the end of the log,
//! the other may have read other records behind the same place (content is not fixed by an unclean
//! election), and its append at n is not the same record. Whether an election was an unclean one, nobody tells. An owner
//! that began the generation itself, or had nobody before it, shares it with nobody.
//!
//! A connection that broke leaves such another one behind: what the owner sent on it may still arrive, and of two batches
//! the second fits behind whatever stands where the first should. So an owner that lost an answer shares its generation,
//! its own one too, with what it sent before. What of it arrives before the next generation's first append stands where it
//! was read, in front of what the source holds there now, and shows in that append's base offset.
//!
//! What another owner reads of it has to tell this too: an owner may be gone between the append that hands over, which is of
//! the newer epoch, and the generation that was to begin behind it. So a position tells up to which epoch the generation is
//! shared, and a next owner takes only that for known.

use super::Relay;
use crate::resync::Found;
use crate::window::WATCH_MS;

/// What is known of the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inherited {
    /// Leader epoch of the source up to which both have read the same, -1 if it is not known.
    epoch: i32,
    /// The other is gone by then; 0: there is none.
    until_ms: u64,
    /// This owner had an append under the generation acknowledged, so that every other owner's next one is refused, and what
    /// is refused goes on with a lease only: what is left of the other is on its way already.
    pub(super) had_ack: bool,
}

impl Inherited {
    /// Nobody else is there.
    pub(super) const FROM_NOBODY: Self = Self { epoch: -1, until_ms: 0, had_ack: false };

    /// What was appended up to now is on its way to the target still, and nobody waits for it.
    pub(super) fn strays_from(&mut self, now_ms: u64) {
        self.until_ms = now_ms.saturating_add(WATCH_MS);
    }

    /// The other is there still, perhaps, and what it read before this leader epoch may be another history.
    pub(super) fn is_beyond(&self, epoch: i32, now_ms: u64) -> bool {
        self.epoch >= 0 && epoch > self.epoch && now_ms < self.until_ms
    }

    /// What a position that tells of this leader epoch has to tell besides: a next owner shares the generation as well.
    pub(super) fn shared(&self, epoch: i32, now_ms: u64) -> Option<i32> {
        self.is_beyond(epoch, now_ms).then_some(self.epoch)
    }

    /// An append under the generation was acknowledged.
    pub(super) fn acknowledged(&mut self) {
        self.had_ack = true;
    }

    /// Records of this leader epoch are appended.
    pub(super) fn appends(&mut self, epoch: i32, now_ms: u64) {
        if !self.is_beyond(epoch, now_ms) {
            self.epoch = self.epoch.max(epoch);
        }
    }
}

impl Relay {
    /// Whom this owner shares the generation with, by the first place that it finds. What it finds later tells nothing of
    /// the other: a position's epoch may be that of a marker, which is passed without an append.
    pub(super) fn inherited(&mut self, found: &Found, now_ms: u64) -> Inherited {
        *self.inherited.get_or_insert_with(|| {
            if found.position.is_none() && found.place.count == 0 {
                return Inherited::FROM_NOBODY;
            }
            // What stands behind the position may be an append that was to hand over. A position of this assignment's own
            // number is another's too: of this owner before it was started again.
            let epoch = if found.base_epoch >= 0 { found.base_epoch } else { found.epoch };
            Inherited { epoch, until_ms: now_ms.saturating_add(WATCH_MS), had_ack: false }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Stored;
    use crate::machine::tests::{Bench, NOW, RULES};
    use crate::machine::{Action, Answer, Ask, Told};
    use crate::page::SourcePage;
    use crate::resync::Step;
    use crate::testing::{Fake, batch_of, joined};
    use mirrormesh_core::epochs::EpochEnd;
    use mirrormesh_core::epochs::Epochs;
    use mirrormesh_core::format::batch::BatchHeader;
    use mirrormesh_core::format::batch::RawBatch;
    use mirrormesh_core::format::samples::header;
    use mirrormesh_core::ids::TopicId;
    use mirrormesh_core::position::{LastBatch, Position, PositionKey, PositionValue};
    use mirrormesh_core::unit::{Generation, PartitionGeneration};

    #[test]
    fn a_newer_epoch_parts_as_long_as_the_other_may_be_there_and_an_unknown_one_is_learned() {
        let mut shared = Inherited { epoch: 5, until_ms: 100, had_ack: false };
        shared.appends(4, 1);
        assert!(!shared.is_beyond(5, 1));
        shared.appends(6, 99);
        assert!(shared.is_beyond(6, 99), "what hands over is not known to the other");
        shared.appends(6, 100);
        assert!(!shared.is_beyond(6, 1));
        let mut unknown = Inherited { epoch: -1, until_ms: 100, had_ack: false };
        assert!(!unknown.is_beyond(3, 1));
        unknown.appends(3, 1);
        assert!(unknown.is_beyond(4, 1));
        let mut own = Inherited::FROM_NOBODY;
        own.appends(3, 0);
        assert!(!own.is_beyond(4, 1));
        own.strays_from(1);
        assert!(own.is_beyond(4, WATCH_MS) && !own.is_beyond(4, WATCH_MS + 1) && !own.is_beyond(3, 1));
    }

    /// One record per batch, so many of them, of this leader epoch.
    fn batches(from: i64, count: i64, leader_epoch: i32) -> Vec<RawBatch> {
        let batch = |offset| batch_of(&[offset], BatchHeader { leader_epoch, ..header(offset, 1) }, 0);
        (from..from + count).map(batch).collect()
    }

    /// What the target holds of them.
    fn mirrored(from: i64, count: i64) -> RawBatch {
        let shape = header(from, i32::try_from(count).unwrap());
        let sequence = i32::try_from(from).unwrap();
        let shape = BatchHeader { producer_id: 5, producer_epoch: 0, base_sequence: sequence, ..shape };
        batch_of(&(from..from + count).collect::<Vec<_>>(), shape, 0)
    }

    /// The epochs that a position tells: that of the last batch, and the one up to which the generation is shared.
    fn told(records: &[(PositionKey, Option<PositionValue>)]) -> Option<(i32, Option<i32>)> {
        records.iter().find_map(|(_, value)| match value {
            Some(PositionValue::Position(p)) => Some((p.source_leader_epoch, p.shared_leader_epoch)),
            Some(PositionValue::Segments(_)) | None => None,
        })
    }

    /// Stands at so many records, as the owner with this number wrote it down, and streams.
    fn located(bench: &mut Bench, number: u64, at: i64) {
        located_behind(bench, number, at, 0);
    }

    /// The same, and so many of a newer leader epoch stand there behind that.
    fn located_behind(bench: &mut Bench, number: u64, at: i64, newer: i64) {
        located_by(bench, number, (at, newer), None);
    }

    /// The same, and the position tells up to which epoch the generation is shared.
    fn located_by(bench: &mut Bench, number: u64, (at, newer): (i64, i64), shared: Option<i32>) {
        let next = locate(bench, number, (at, newer), shared);
        assert!(matches!(next, Some(Action::Fetch { offset, .. }) if offset == at + newer), "{next:?}");
    }

    /// Answers until something else comes than what belongs to finding the place.
    fn locate(
        bench: &mut Bench,
        number: u64,
        (at, newer): (i64, i64),
        shared: Option<i32>,
    ) -> Option<Action> {
        let position = Position {
            generation: bench.relay.generation().generation,
            sequence_base: 0,
            count: at,
            source_offset: at,
            source_topic_id: TopicId([1; 16]),
            source_leader_epoch: 5,
            target_offset: at,
            target_leader_epoch: -1,
            last: LastBatch::default(),
            shared_leader_epoch: shared,
            source_epochs: Epochs::default(),
            skip_version: 0,
            assignment_number: number,
            topic: String::new(),
            target_topic: String::new(),
        };
        loop {
            let told = match bench.next() {
                Some(Action::StopFetching | Action::Broken { .. }) => continue,
                Some(Action::Write(_)) => {
                    bench.relay.written(true, NOW);
                    continue;
                }
                Some(Action::Ask { ask: Ask::Facts, .. }) => Told::Facts(bench.facts),
                Some(Action::Ask { ask: Ask::Locate(Step::Identity), .. }) => {
                    Told::Identity(Some(TopicId([1; 16])), Some(TopicId([2; 16])))
                }
                Some(Action::Ask { ask: Ask::Locate(Step::Positions), .. }) => {
                    let positions = vec![(0, position.clone())];
                    Told::Positions(Stored { positions, ..Stored::default() })
                }
                Some(Action::Ask { ask: Ask::Locate(Step::TargetEnds), .. }) => {
                    Told::TargetEnds(0, at + newer, at + newer)
                }
                Some(Action::Ask { ask: Ask::Locate(Step::TargetRead(_)), .. }) => {
                    // Where nothing newer stands there, what the position tells of.
                    let (first, records) = if newer == 0 { (at - 1, 1) } else { (at, newer) };
                    Told::TargetRecords(joined(&[mirrored(first, records)]))
                }
                Some(Action::Ask { ask: Ask::Locate(Step::SourceHistory(5)), .. }) => {
                    Told::SourceHistory(Some(EpochEnd { epoch: 5, offset: at.max(1), leader: 6 }))
                }
                Some(Action::Ask { ask: Ask::Locate(Step::SourceRead { offset, .. }), .. }) => {
                    // Where nothing newer stands there, the last mirrored batch is compared.
                    let (records, epoch) = if newer == 0 { (1, 5) } else { (newer, 6) };
                    let records = joined(&batches(offset, records, epoch));
                    let page =
                        SourcePage { records, end_offset: 9, high_watermark: 9, ..SourcePage::default() };
                    Told::SourcePage(page)
                }
                other => return other,
            };
            bench.relay.told_now(told, &Fake);
        }
    }

    fn hands_over(bench: &mut Bench, at: i64) {
        bench.bring(&batches(at, 3, 6));
        let first = bench.append();
        assert!(bench.next().is_none(), "alone, under the generation that is shared");
        bench.ack(first.id, at);
        let begins = loop {
            match bench.next() {
                Some(Action::Write(records)) => {
                    assert_eq!(told(&records), Some((6, Some(5))), "a next owner shares it as well");
                    bench.relay.written(true, NOW);
                }
                Some(Action::StopFetching) => {}
                Some(Action::Begin(begins)) => break begins,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((begins.start.source_offset, begins.start.source_leader_epoch), (at + 1, Some(6)));
        let generation = Generation { epoch: begins.after.epoch + 1, ..begins.after };
        bench.relay.begun(Ok(PartitionGeneration { generation, start: begins.start }), NOW);
        assert!(matches!(bench.next(), Some(Action::Fetch { .. })));
        // It is this owner's own: a later leader changes nothing.
        bench.bring(&[batches(at + 1, 1, 6), batches(at + 2, 1, 7), batches(at + 3, 1, 8)].concat());
        for offset in at + 1..at + 4 {
            let append = bench.append();
            bench.ack(append.id, offset);
        }
    }

    #[test]
    fn a_source_with_a_new_leader_is_not_read_on_under_a_generation_that_another_owner_shares() {
        let mut bench = Bench::new(RULES);
        located(&mut bench, 9, 1);
        hands_over(&mut bench, 1);
    }

    /// A generation begins without an append that hands over, at this offset.
    fn begins(bench: &mut Bench, at: i64) {
        let Some(Action::Begin(begins)) = bench.drain() else { panic!("{:?}", bench.relay.state()) };
        assert_eq!((begins.start.source_offset, begins.start.source_leader_epoch), (at, Some(5)));
    }

    #[test]
    fn who_had_an_append_acknowledged_hands_nothing_over() {
        let mut bench = Bench::new(RULES);
        located(&mut bench, 9, 0);
        bench.bring(&[batches(0, 1, 5), batches(1, 1, 6)].concat());
        let append = bench.append();
        // Nothing but its own answer tells that the other's next one is refused.
        assert!(bench.drain().is_none());
        bench.ack(append.id, 0);
        begins(&mut bench, 1);
    }

    #[test]
    fn a_look_for_the_place_forgets_nothing() {
        let mut bench = Bench::new(RULES);
        located(&mut bench, 9, 0);
        bench.bring(&[batches(0, 1, 5), batches(1, 1, 6)].concat());
        let append = bench.append();
        bench.relay.answer(append.id, &Answer::Lost, NOW);
        located(&mut bench, 1, 0);
        hands_over(&mut bench, 0);
    }

    #[test]
    fn a_position_tells_a_next_owner_what_is_shared() {
        let mut bench = Bench::new(RULES);
        located_by(&mut bench, 9, (1, 0), Some(3));
        bench.bring(&batches(1, 1, 5));
        let append = bench.append();
        bench.ack(append.id, 1);
        begins(&mut bench, 2);
    }

    #[test]
    fn what_an_owner_before_appended_to_hand_over_makes_nothing_known() {
        let mut bench = Bench::new(RULES);
        located_behind(&mut bench, 9, 1, 2);
        hands_over(&mut bench, 3);
    }

    #[test]
    fn a_newer_epoch_that_nothing_was_appended_of_is_shared_until_the_other_is_gone() {
        let mut bench = Bench::new(RULES);
        located(&mut bench, 9, 1);
        let marker =
            |offset, leader_epoch| BatchHeader { leader_epoch, attributes: 0x30, ..header(offset, 1) };
        for (offset, later_ms, wanted) in [(1, WATCH_MS / 2, Some(5)), (2, WATCH_MS, None)] {
            bench.bring(&[batch_of(&[offset], marker(offset, 6), 0)]);
            assert!(matches!(bench.next(), Some(Action::Skipped(_))));
            bench.now_ms += later_ms;
            let Some(Action::Write(records)) = bench.next() else { panic!() };
            assert_eq!(told(&records), Some((6, wanted)));
            bench.relay.written(true, bench.now_ms);
            assert!(!bench.relay.is_busy());
        }
    }

    #[test]
    fn what_hands_over_does_so_though_it_has_to_be_looked_at() {
        let mut bench = Bench::new(RULES);
        bench.facts.target_append_time = true;
        located(&mut bench, 9, 1);
        bench.bring(&batches(1, 2, 6));
        let first = bench.append();
        bench.ack(first.id, 1);
        let next = locate(&mut bench, 9, (1, 1), None);
        assert!(
            matches!(next, Some(Action::Begin(begins)) if begins.start.source_offset == 2),
            "nothing before"
        );
    }

    #[test]
    fn who_lost_answers_shares_its_own_generation_with_what_it_sent() {
        let mut bench = Bench::new(RULES);
        located(&mut bench, 9, 1);
        hands_over(&mut bench, 1);
        bench.bring(&batches(5, 2, 8));
        let sent = [bench.append().id, bench.append().id];
        for id in sent {
            bench.relay.answer(id, &Answer::Lost, NOW);
        }
        located(&mut bench, 1, 5);
        bench.bring(&batches(5, 1, 9));
        begins(&mut bench, 5);
    }

    #[test]
    fn what_was_read_and_not_sent_is_known_to_nobody() {
        let mut bench = Bench::new(RULES);
        located(&mut bench, 9, 0);
        bench.bring(&[batches(0, 1, 5), batches(1, 1, 6)].concat());
        let append = bench.append();
        assert!(bench.drain().is_none(), "the second waits");
        bench.relay.answer(append.id, &Answer::Lost, NOW);
        located(&mut bench, 1, 0);
        hands_over(&mut bench, 0);
    }

    #[test]
    fn what_was_lost_long_ago_is_shared_with_nobody() {
        let mut bench = Bench::new(RULES);
        located(&mut bench, 1, 0);
        bench.bring(&batches(0, 1, 5));
        let append = bench.append();
        bench.relay.answer(append.id, &Answer::Lost, NOW);
        located(&mut bench, 1, 0);
        bench.now_ms += WATCH_MS;
        bench.bring(&[batches(0, 1, 5), batches(1, 1, 6), batches(2, 1, 7)].concat());
        for offset in 0..3 {
            let append = bench.append();
            bench.ack(append.id, offset);
        }
    }
}
