//! How far behind a partition is that nobody runs since it is paused.
//!
//! Owns what may be said of it from outside: its place by its positions, its lag by the source's ends and by a look at
//! the first records that wait. Nothing here moves a place. Must not know who looks, and when.

use bytes::Bytes;
use mirrormesh_core::format::batch::{Entry, entries};
use mirrormesh_core::position::Position;
use mirrormesh_core::report::PartitionFigures;
use mirrormesh_core::unit::PartitionDetail;

use super::machine::SourceEnds;
use super::page::SourcePage;
use super::reader::{FetchReader, Judgement};

/// A look that was shorter than what waits by this factor is repeated: few records say little about many.
const TOO_FEW: i64 = 4;

/// Next source and target offset of a partition that nobody runs: by the newest position of its generation, which its
/// last owner wrote before it let go. One that was not let go but lost (its worker died) may be a little further; it is
/// found exactly when the partition is resumed.
pub fn place(detail: &PartitionDetail, positions: &[Position]) -> (i64, i64) {
    let (generation, start) = (detail.begun.generation, detail.begun.start);
    let ours = |position: &&Position| {
        position.generation == generation && !position.source_topic_id.differs(detail.source_topic_id)
    };
    let newest =
        positions.iter().filter(ours).max_by_key(|position| (position.count, position.source_offset));
    newest.map_or((start.source_offset, start.target_offset), |newest| {
        (newest.source_offset, newest.target_offset)
    })
}

/// What the first records behind the place look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The place.
    place: i64,
    /// Timestamp of the first record that can be read and is to be mirrored.
    oldest_ms: Option<i64>,
    /// Bytes of what is to be mirrored, in so many offsets.
    bytes: u64,
    offsets: i64,
    /// There was more than was read.
    cut: bool,
}

impl Sample {
    /// Of a fetch from `place` on that was read as the partition is. What a flow mirrored to the source counts as
    /// waiting here: whose it is is looked up by who mirrors only.
    pub fn of(page: &SourcePage, read_committed: bool, place: i64) -> Self {
        let mut reader = FetchReader::new(read_committed, page.aborted.clone());
        let mut sample = Self { place, oldest_ms: None, bytes: 0, offsets: 0, cut: false };
        let mut next = place;
        for entry in entries(page.records.clone()) {
            // What can't be read stops the partition once it is resumed; here it only ends the look.
            let Ok(entry) = entry else { break };
            let behind = entry.next_offset();
            if let Some((bytes, first_ms)) = counted(&mut reader, &entry, place) {
                sample.bytes = sample.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
                sample.oldest_ms = sample.oldest_ms.or(first_ms);
            }
            next = next.max(behind);
        }
        sample.offsets = next - place;
        sample.cut = next < page.end_offset;
        sample
    }

    /// Whether it says enough about a partition that stands at `place` and whose source ends at `end`.
    pub fn serves(&self, place: i64, end: i64) -> bool {
        self.place == place && (self.cut || end.saturating_sub(place) <= self.offsets.saturating_mul(TOO_FEW))
    }

    /// What so many offsets take.
    fn bytes_of(&self, offsets: i64) -> Option<i64> {
        let sampled = u128::try_from(self.offsets).ok().filter(|sampled| *sampled > 0)?;
        i64::try_from(u128::try_from(offsets).ok()? * u128::from(self.bytes) / sampled).ok()
    }
}

/// The bytes of an entry that is to be mirrored, and the timestamp of its first record if it tells.
fn counted<'a>(reader: &mut FetchReader, entry: &'a Entry, place: i64) -> Option<(&'a Bytes, Option<i64>)> {
    match entry {
        Entry::Batch(batch) => match reader.judge(batch, place) {
            Judgement::Mirror(_) => {
                Some((&batch.bytes, Some(batch.header.base_timestamp).filter(|ms| *ms >= 0)))
            }
            Judgement::Skip(_) => None,
        },
        Entry::Old { offset, bytes, .. } => (*offset >= place).then_some((bytes, None)),
    }
}

/// What is said of a partition that stands at this place, with the ends of the source as they are now.
pub fn figures((source, target): (i64, i64), ends: SourceEnds, sample: Option<&Sample>) -> PartitionFigures {
    let end = ends.end_offset.max(ends.high_watermark);
    let sample = sample.filter(|sample| sample.place == source);
    PartitionFigures {
        source_offset: source,
        target_offset: target,
        source_end_offset: Some(end),
        source_start_offset: Some(ends.log_start).filter(|start| *start >= 0),
        held_records: (ends.high_watermark - ends.end_offset).max(0),
        oldest_pending_ms: sample.and_then(|sample| sample.oldest_ms).filter(|_| ends.end_offset > source),
        lag_bytes: match end.saturating_sub(source) {
            ..=0 => Some(0),
            left => sample.and_then(|sample| sample.bytes_of(left)),
        },
        ..PartitionFigures::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{dense, joined};
    use mirrormesh_core::epochs::Epochs;
    use mirrormesh_core::ids::{TopicId, TopicName};
    use mirrormesh_core::lag::Lag;
    use mirrormesh_core::position::LastBatch;
    use mirrormesh_core::unit::{Generation, PartitionGeneration, PartitionStart};

    const GENERATION: Generation = Generation { producer_id: 7, epoch: 3 };

    fn detail() -> PartitionDetail {
        PartitionDetail {
            target_topic: TopicName::new("t").unwrap(),
            source_topic_id: TopicId([1; 16]),
            target_topic_id: TopicId([2; 16]),
            begun: PartitionGeneration {
                generation: GENERATION,
                start: PartitionStart { source_offset: 40, target_offset: 30, ..PartitionStart::default() },
            },
        }
    }

    fn position(count: i64) -> Position {
        Position {
            generation: GENERATION,
            sequence_base: 0,
            count,
            source_offset: 41 + count,
            source_topic_id: TopicId([1; 16]),
            source_leader_epoch: -1,
            target_offset: 30 + count,
            target_leader_epoch: -1,
            last: LastBatch::default(),
            shared_leader_epoch: None,
            source_epochs: Epochs::default(),
            skip_version: 0,
            assignment_number: 1,
            topic: String::new(),
            target_topic: String::new(),
        }
    }

    #[test]
    fn the_newest_position_of_the_generation_is_the_place_and_without_one_the_start() {
        assert_eq!(place(&detail(), &[]), (40, 30));
        assert_eq!(place(&detail(), &[position(5), position(9), position(2)]), (50, 39));
        let older = Generation { epoch: 2, ..GENERATION };
        let older = Position { generation: older, ..position(500) };
        let other = Position { source_topic_id: TopicId([9; 16]), ..position(600) };
        assert_eq!(place(&detail(), &[older, other]), (40, 30), "another generation's, another topic's");
        let passed = Position { source_offset: 60, ..position(9) };
        assert_eq!(place(&detail(), &[position(9), passed]), (60, 39), "markers were passed since");
    }

    fn page(records: Bytes, end_offset: i64) -> SourcePage {
        SourcePage { records, end_offset, high_watermark: end_offset, ..SourcePage::default() }
    }

    fn ends(end_offset: i64, high_watermark: i64) -> SourceEnds {
        SourceEnds { log_start: 3, end_offset, high_watermark }
    }

    #[test]
    fn lag_is_counted_by_the_ends_and_bytes_and_age_by_the_first_records() {
        let batches = [dense(40, 10), dense(50, 10)];
        let bytes = i64::try_from(batches[0].bytes.len() + batches[1].bytes.len()).unwrap();
        let sample = Sample::of(&page(joined(&batches), 100), true, 40);
        let shown = figures((40, 30), ends(100, 105), Some(&sample));
        assert_eq!((shown.source_offset, shown.target_offset), (40, 30));
        assert_eq!((shown.source_end_offset, shown.held_records), (Some(105), 5));
        assert_eq!(shown.source_start_offset, Some(3));
        assert_eq!(shown.lag_bytes, Some(bytes * 65 / 20));
        assert_eq!(shown.oldest_pending_ms, Some(batches[0].header.base_timestamp));
        assert_eq!(Lag::of(&shown, 1_000_000).unwrap().records, 65);
    }

    #[test]
    fn without_a_look_records_are_known_and_nothing_left_is_nothing() {
        let unseen = figures((40, 30), ends(100, 100), None);
        assert_eq!((unseen.lag_bytes, unseen.oldest_pending_ms), (None, None));
        let sample = Sample::of(&page(joined(&[dense(40, 10)]), 50), true, 40);
        let elsewhere = figures((50, 40), ends(100, 100), Some(&sample));
        assert_eq!((elsewhere.lag_bytes, elsewhere.oldest_pending_ms), (None, None), "of another place");
        assert_eq!(Lag::of(&figures((40, 30), ends(40, 40), None), 9), Some(Lag::NONE));
    }

    #[test]
    fn what_lies_before_the_place_or_can_not_be_read_is_left_out() {
        let batches = [dense(30, 10), dense(40, 10)];
        let mut records = joined(&batches).to_vec();
        records.extend_from_slice(&[0; 30]);
        let sample = Sample::of(&page(records.into(), 60), true, 40);
        let of_ten = i64::try_from(batches[1].bytes.len()).unwrap();
        assert_eq!((sample.bytes_of(10), sample.offsets), (Some(of_ten), 10));
        assert_eq!(Sample::of(&page(Bytes::new(), 40), true, 40).bytes_of(5), None);
    }

    #[test]
    fn a_look_serves_until_the_place_moves_or_much_more_waits() {
        let whole = Sample::of(&page(joined(&[dense(40, 10)]), 50), true, 40);
        assert!(
            whole.serves(40, 50) && whole.serves(40, 80) && !whole.serves(40, 81) && !whole.serves(41, 50)
        );
        let cut = Sample::of(&page(joined(&[dense(40, 10)]), 90), true, 40);
        assert!(cut.serves(40, 9_000), "more would not have fitted in");
        let nothing = Sample::of(&page(Bytes::new(), 40), true, 40);
        assert!(nothing.serves(40, 40) && !nothing.serves(40, 41));
    }
}
