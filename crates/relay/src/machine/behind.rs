//! What is known of how far the source goes on behind the place, whether or not records flow.
//!
//! Owns the ends of the source partition as they were last seen and what unread bytes are estimated by. Must not know
//! who looks and when: a partition that doesn't fetch (stopped, held back, waiting) has its ends looked at for it.

use mirrormesh_core::report::PartitionFigures;

use super::{Notice, Relay};
use crate::loss::{retention_left_ms, retention_margin};
use crate::page::Item;

/// Fetched pages that may be older than what was looked at meanwhile: they waited to be taken.
const WAITING_PAGES: u8 = 4;

/// Where a source partition begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceEnds {
    /// First offset that the source still has; -1 if it wasn't said.
    pub log_start: i64,
    /// End of what may be read: last stable offset or high watermark.
    pub end_offset: i64,
    /// End of what is replicated.
    pub high_watermark: i64,
}

/// What was fetched and is not acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct InHand {
    pub(super) bytes: u64,
    /// Timestamp of the first record.
    pub(super) oldest_ms: Option<i64>,
}

/// What is behind the place.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The place is known: before, nothing can be said.
    placed: bool,
    /// Ends of what may be read, and of what is replicated.
    ends: Option<(i64, i64)>,
    /// How many pages may still come that are older than the ends.
    older_pages: u8,
    /// Offset behind what was fetched.
    read_to: i64,
    /// Bytes fetched lately, and the offsets that they took; older ones count less and less.
    bytes: u64,
    offsets: u64,
    /// Latest timestamp that was sent.
    newest_ms: Option<i64>,
    /// When nothing was left unread: what came later is not older.
    settled_ms: Option<i64>,
    /// The log start offset of the source when it was first seen.
    first_start: Option<i64>,
}

impl Behind {
    /// A place is known, from which reading begins anew.
    pub(super) fn placed(&mut self) {
        self.placed = true;
        self.read_to = 0;
    }

    /// A place is known.
    pub(super) fn is_placed(&self) -> bool {
        self.placed
    }

    /// A page said so.
    pub(super) fn fetched(&mut self, ends: (i64, i64)) {
        let newer = |(a, b): (i64, i64)| (a.max(ends.0), b.max(ends.1));
        self.ends = match self.older_pages.checked_sub(1) {
            Some(left) => {
                self.older_pages = left;
                Some(self.ends.map_or(ends, newer))
            }
            None => Some(ends),
        };
    }

    /// This was in the page, from `place` on.
    pub(super) fn read(&mut self, place: i64, items: &[Item]) {
        let (mut bytes, mut next) = (0, place);
        for item in items {
            match item {
                Item::Data(data) => {
                    bytes += data.batch.bytes.len();
                    next = next.max(data.batch.header.next_offset());
                }
                Item::Passed(after, ..) => next = next.max(*after),
                Item::Bad(_) => {}
            }
        }
        self.read_to = self.read_to.max(next);
        let older = |sum: u64| sum - sum / 4;
        if let Some(offsets) = u64::try_from(next - place).ok().filter(|offsets| *offsets > 0) {
            self.bytes = older(self.bytes).saturating_add(u64::try_from(bytes).unwrap_or(0));
            self.offsets = older(self.offsets).saturating_add(offsets);
        }
    }

    /// Somebody looked; the place is `place`.
    pub(super) fn looked(&mut self, place: i64, ends: (i64, i64), now_ms: u64) {
        self.older_pages = WAITING_PAGES;
        self.ends = Some(ends);
        if self.placed && ends.0 <= place {
            self.settled_ms = i64::try_from(now_ms).ok();
        }
    }

    /// Records flow, so the ends are as of now.
    pub(super) fn settle(&mut self, place: i64, in_hand: &InHand, now_ms: u64) {
        if *in_hand == InHand::default() && self.ends.is_some_and(|(end, _)| end <= place) {
            self.settled_ms = i64::try_from(now_ms).ok();
        }
    }

    /// A batch with this latest timestamp was sent.
    pub(super) fn sent(&mut self, newest_ms: i64) {
        self.newest_ms = self.newest_ms.max(Some(newest_ms).filter(|ms| *ms >= 0));
    }

    /// Fills in what these figures say of lag.
    pub(super) fn show(&self, figures: &mut PartitionFigures, in_hand: &InHand) {
        let ends = self.ends.filter(|_| self.placed);
        let Some((end, high_watermark)) = ends else {
            figures.source_end_offset = None;
            figures.held_records = 0;
            figures.oldest_pending_ms = None;
            figures.lag_bytes = None;
            return;
        };
        let place = figures.source_offset;
        figures.source_end_offset = Some(end.max(high_watermark));
        figures.held_records = (high_watermark - end).max(0);
        let unread_ms = self.newest_ms.max(self.settled_ms);
        figures.oldest_pending_ms = in_hand.oldest_ms.or(unread_ms).filter(|_| end > place);
        let read_to = if *in_hand == InHand::default() { place } else { self.read_to.max(place) };
        let unread = u64::try_from(end.max(high_watermark) - read_to).unwrap_or(0);
        figures.lag_bytes =
            self.bytes_of(unread).and_then(|unread| i64::try_from(unread.saturating_add(in_hand.bytes)).ok());
    }

    /// What so many offsets take, by what was fetched lately.
    fn bytes_of(&self, offsets: u64) -> Option<u64> {
        if offsets == 0 {
            return Some(0);
        }
        let bytes =
            u128::from(offsets) * u128::from(self.bytes) / u128::from(Some(self.offsets).filter(|n| *n > 0)?);
        u64::try_from(bytes).ok()
    }
}

impl Relay {
    pub(super) fn watch_retention(&mut self, log_start: i64, log_end: i64) {
        let place = self.figures.source_offset;
        // A mirror that begins at the log start offset is near to it without any deletion. The source deleted something
        // if its log start moved since this owner saw it first, or lies behind the begin of the generation.
        let first = *self.behind.first_start.get_or_insert(log_start);
        let deletes = log_start > first.min(self.setup.detail.begun.start.source_offset);
        let margin = retention_margin(place, log_start, log_end).filter(|_| deletes);
        let Some(margin) = margin else {
            self.warned_of_retention = false;
            return;
        };
        if !std::mem::replace(&mut self.warned_of_retention, true) {
            self.notice(Notice {
                reason: "RETENTION_NEAR",
                message: format!(
                    "the source deletes records close to where the mirror reads: {margin} records are left between its \
                     log start {log_start} and offset {place}; raise its retention or give the flow more workers"
                ),
                from_offset: Some(log_start),
                to_offset: Some(place),
                count: Some(margin),
            });
        }
    }

    /// Warns by the age of what waits too: the first time that the source deletes may already reach behind the place.
    pub(super) fn watch_age(&mut self, now_ms: u64) {
        let (place, retention_ms) = (self.figures.source_offset, self.facts.source_retention_ms);
        let left_ms =
            self.figures.oldest_pending_ms.and_then(|oldest| retention_left_ms(oldest, retention_ms, now_ms));
        let Some(left_ms) = left_ms else {
            self.warned_of_age = false;
            return;
        };
        if !std::mem::replace(&mut self.warned_of_age, true) {
            let end = self.figures.source_end_offset;
            self.notice(Notice {
                reason: "RETENTION_NEAR",
                message: format!(
                    "the records that wait at offset {place} are almost as old as the source keeps them (retention.ms \
                     {retention_ms}): in {} s it may begin to delete them; raise its retention or give the flow more workers",
                    left_ms / 1_000
                ),
                from_offset: Some(place),
                to_offset: end,
                count: end.map(|end| end - place),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, RULES};
    use super::super::{Action, Facts};
    use super::*;
    use crate::page::Data;
    use crate::testing::{batch_of, dense};
    use mirrormesh_core::format::batch::BatchHeader;
    use mirrormesh_core::format::samples::header;

    fn shown(behind: &Behind, place: i64, in_hand: InHand) -> PartitionFigures {
        let mut figures = PartitionFigures { source_offset: place, ..PartitionFigures::default() };
        behind.show(&mut figures, &in_hand);
        figures
    }

    fn page(base: i64, count: i32) -> [Item; 1] {
        [Item::Data(Data { batch: dense(base, count), from: base, old_format: false })]
    }

    /// Says how many warnings come of what waits when it is so old.
    fn warned(b: &mut Bench, age_ms: u64) -> usize {
        b.now_ms = 1_000_000 + age_ms;
        b.relay.figures(b.now_ms);
        let mut notices = Vec::new();
        while let Some(action) = b.next() {
            match action {
                Action::Notice(notice) => notices.push(notice),
                Action::Append(append) => b.ack(append.id, b.relay.figures.target_offset),
                Action::Write(_) => b.relay.written(true, b.now_ms),
                other => panic!("{other:?}"),
            }
        }
        assert!(notices.iter().all(|n| n.reason == "RETENTION_NEAR" && n.from_offset < n.to_offset));
        notices.len()
    }

    #[test]
    fn what_waits_until_the_source_may_delete_it_is_told_once() {
        let mut b = Bench::new(RULES);
        b.settle(Facts { source_retention_ms: 1_000_000, ..Facts::DEFAULT });
        let shape = BatchHeader { base_timestamp: 1_000_000, max_timestamp: 1_000_000, ..header(0, 3) };
        b.bring(&[batch_of(&[0, 1, 2], shape, 0)]);
        // Up to 100 more are there.
        assert_eq!(warned(&mut b, 899_999), 0);
        assert_eq!((warned(&mut b, 900_001), warned(&mut b, 900_002)), (1, 0));
        let late = BatchHeader { base_timestamp: 1_500_000, max_timestamp: 1_500_000, ..header(3, 2) };
        b.bring(&[batch_of(&[3, 4], late, 0)]);
        assert_eq!(
            (warned(&mut b, 950_000), warned(&mut b, 1_450_000)),
            (0, 1),
            "and again when it is again"
        );
    }

    /// The warnings that come of log start offsets as they are seen one after the other, at offset 0 or behind it.
    fn warnings(b: &mut Bench, starts: &[i64]) -> usize {
        let mut warned = 0;
        for start in starts {
            b.relay.watch_retention(*start, 1_000);
            while let Some(action) = b.relay.pending.pop_front() {
                assert!(matches!(action, Action::Notice(n) if n.reason == "RETENTION_NEAR"));
                warned += 1;
            }
        }
        warned
    }

    #[test]
    fn a_fresh_start_from_earliest_is_not_near_retention() {
        let mut b = Bench::new(RULES);
        b.settle(Facts::DEFAULT);
        b.relay.setup.detail.begun.start.source_offset = 500;
        b.relay.figures.source_offset = 500;
        assert_eq!(warnings(&mut b, &[500]), 0, "nothing was read yet");
        b.relay.figures.source_offset = 505;
        assert_eq!(warnings(&mut b, &[500]), 0, "nothing was deleted since it began");
        assert_eq!(warnings(&mut b, &[502]), 1, "the source deletes behind the reader");
        assert_eq!(warnings(&mut b, &[503]), 0, "said already");
    }

    #[test]
    fn deletion_before_this_owner_came_is_near_retention() {
        let mut b = Bench::new(RULES);
        b.settle(Facts::DEFAULT);
        b.relay.setup.detail.begun.start.source_offset = 0;
        b.relay.figures.source_offset = 100;
        assert_eq!(warnings(&mut b, &[95]), 1);
    }

    #[test]
    fn nothing_is_said_before_the_place_is_known() {
        let mut behind = Behind::default();
        behind.looked(0, (100, 100), 5);
        assert_eq!(shown(&behind, 0, InHand::default()).source_end_offset, None);
        behind.placed();
        let known = shown(&behind, 40, InHand::default());
        assert_eq!((known.source_end_offset, known.lag_bytes), (Some(100), None), "nothing to estimate by");
    }

    #[test]
    fn bytes_are_exact_for_what_was_fetched_and_estimated_behind_it() {
        let mut behind = Behind::default();
        behind.placed();
        let items = page(0, 10);
        let Item::Data(data) = &items[0] else { panic!() };
        let bytes = u64::try_from(data.batch.bytes.len()).unwrap();
        behind.fetched((30, 30));
        behind.read(0, &items);
        let in_hand = InHand { bytes, oldest_ms: Some(7) };
        let read = shown(&behind, 0, in_hand);
        assert_eq!(
            read.lag_bytes,
            i64::try_from(bytes + 2 * bytes).ok(),
            "20 unread offsets are twice the ten"
        );
        assert_eq!(read.oldest_pending_ms, Some(7));
        assert_eq!(shown(&behind, 10, InHand::default()).lag_bytes, i64::try_from(2 * bytes).ok());
        assert_eq!(shown(&behind, 30, InHand::default()).lag_bytes, Some(0));
    }

    #[test]
    fn unread_records_are_not_older_than_what_was_sent_or_than_when_nothing_was_left() {
        let mut behind = Behind::default();
        behind.placed();
        behind.fetched((10, 10));
        behind.sent(500);
        assert_eq!(shown(&behind, 10, InHand::default()).oldest_pending_ms, None, "nothing is left");
        behind.looked(10, (10, 10), 9_000);
        behind.looked(10, (12, 15), 11_000);
        let left = shown(&behind, 10, InHand::default());
        assert_eq!((left.oldest_pending_ms, left.held_records), (Some(9_000), 3));
        behind.sent(9_500);
        assert_eq!(shown(&behind, 11, InHand::default()).oldest_pending_ms, Some(9_500));
    }

    #[test]
    fn a_page_that_waited_takes_nothing_back() {
        let mut behind = Behind::default();
        behind.placed();
        behind.looked(0, (50, 50), 1);
        behind.fetched((30, 30));
        assert_eq!(shown(&behind, 0, InHand::default()).source_end_offset, Some(50));
        for _ in 1..WAITING_PAGES {
            behind.fetched((30, 30));
        }
        behind.fetched((40, 40));
        assert_eq!(shown(&behind, 0, InHand::default()).source_end_offset, Some(40), "a source may be cut");
    }
}
