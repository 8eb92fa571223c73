//! The target's side: how many records of this generation are there (n).

mod hole;
mod remembered;

use std::cmp::Ordering;

use bytes::Bytes;
use mirrormesh_core::format::batch::{BatchHeader, RawBatch, split};
use mirrormesh_core::stop::StopReason;

use super::{Purpose, Resync, Step, is_ours};
use crate::align::RECORDS_MAX;
use crate::rebuild::Codecs;
use crate::window::Place;
use crate::{SEQUENCES, count_at, widen};

/// What the headers behind the position say.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Our batches: n of the first record, target offset. Kept only where others stand between them.
    ours: Vec<(i64, i64)>,
    /// Target offset behind the last batch that was counted; 0 if none was.
    end: i64,
    /// Target offsets of the batches since then that are not counted.
    between: i64,
    /// Target offsets of batches of older generations of ours: from, to.
    older: Option<(i64, i64)>,
    /// Somebody else's batches are there.
    pub(super) foreign: bool,
    /// Target offsets that hold records twice.
    pub(super) doubled: Option<(i64, i64)>,
    /// The first target offset from which on it was read and something behind it was found: retention or compaction took
    /// what was there.
    pub(super) gap: Option<i64>,
}

impl Scan {
    /// Nobody else appends.
    pub(super) fn is_sole_writer(&self) -> bool {
        !self.foreign && self.older.is_none() && self.doubled.is_none()
    }

    /// An older generation appended behind the start, and ours did not yet.
    pub(super) fn late(&self) -> bool {
        self.older.is_some() && self.ours.is_empty()
    }

    /// What an older generation appended behind the start stands where it does not belong.
    pub(super) fn out_of_place(&mut self) {
        if let Some(older) = self.older {
            widen(&mut self.doubled, older);
        }
    }

    /// Older generations' batches are there.
    pub(super) fn has_older(&self) -> bool {
        self.older.is_some()
    }

    /// n of the first record of the next batch behind the n-th record.
    pub(super) fn next_batch(&self, n: i64) -> Option<i64> {
        let after = self.ours.partition_point(|(first, _)| *first <= n);
        self.ours.get(after).map(|(first, _)| *first)
    }

    /// n of the first record of ours, and where it is.
    pub(super) fn first(&self) -> Option<(i64, i64)> {
        self.ours.first().copied()
    }

    /// Where the n-th record is, if the scan knows it.
    pub(super) fn place_of(&self, n: i64) -> Option<i64> {
        let after = self.ours.partition_point(|(first, _)| *first <= n);
        let (first, offset) = after.checked_sub(1).and_then(|i| self.ours.get(i))?;
        Some(offset + (n - first))
    }
}

/// The target offsets that a batch takes.
fn span(header: &BatchHeader) -> (i64, i64) {
    (header.base_offset, header.next_offset())
}

impl Resync {
    /// The ends are known; next is n.
    pub(super) fn find_count(&mut self) {
        let (log_start, log_end) = self.ends;
        if log_end < self.base.target {
            let message = format!(
                "the target partition ends at {log_end}, before the mirror began at {}: records are lost on the \
                 target; delete the flow and create it with start_over",
                self.base.target
            );
            self.stop(StopReason::TargetTruncated, message);
        } else if self.truncated.is_some_and(|(from, _)| from < self.base.target) {
            self.cut_below_start();
        } else if log_start < self.base.target && self.wants_anchor() {
            self.read_target(Purpose::Anchor, self.base.target - 1);
        } else if log_end == self.base.target {
            self.settle(self.base.count);
        } else if log_start >= log_end {
            // Retention took everything: ask who remembers.
            self.step = Step::Producer;
        } else {
            self.read_target(Purpose::Tail, log_end - 1);
        }
    }

    pub(super) fn read_target(&mut self, purpose: Purpose, offset: i64) {
        self.purpose = purpose;
        self.step = Step::TargetRead(offset);
    }

    /// Answers [`Step::TargetRead`]: raw records, empty if there are none from there on.
    pub fn target_read(&mut self, records: Bytes, codecs: &dyn Codecs) {
        let (_, log_end) = self.ends;
        let mut batches = Vec::new();
        for batch in split(records) {
            match batch {
                Ok(batch) if batch.header.base_offset < log_end => batches.push(batch),
                Ok(_) => break,
                Err(error) => {
                    let message =
                        format!("the target's log can't be read: {error}: check the target broker's disk");
                    self.stop(StopReason::PositionUnknown, message);
                    return;
                }
            }
        }
        match self.purpose {
            Purpose::Anchor => self.anchor_read(&batches),
            Purpose::Tail => self.tail_read(&batches),
            Purpose::Scan(at) => self.scan_read(at, &batches),
            Purpose::Content(at) => self.content_read(at, &batches, codecs),
        }
    }

    fn tail_read(&mut self, batches: &[RawBatch]) {
        let (log_start, log_end) = self.ends;
        let tail = batches.iter().find(|b| b.header.next_offset() >= log_end);
        if let Some(tail) =
            tail.filter(|tail| is_ours(self.generation, &tail.header) && !tail.header.is_control())
        {
            let count = self.count_behind(&tail.header);
            // Behind several batches the numbers may be equal by chance: a record stands twice and another one is missing, or
            // the target took as many since it lost its end. Only their headers tell.
            let alone = tail.header.base_offset <= self.base.target;
            if alone && self.truncated.is_none() && count - self.base.count == log_end - self.base.target {
                self.tail = Some(tail.clone());
                self.settle(count);
                return;
            }
        }
        let from = self.base.target.max(log_start);
        self.count = self.base.count;
        self.read_target(Purpose::Scan(from), from);
    }

    /// n behind a batch that is not before the base.
    fn count_behind(&self, header: &BatchHeader) -> i64 {
        let last_sequence = i64::from(header.base_sequence) + i64::from(header.last_offset_delta);
        count_at(self.base.count, last_sequence.rem_euclid(SEQUENCES)) + 1
    }

    fn scan_read(&mut self, at: i64, batches: &[RawBatch]) {
        let (_, log_end) = self.ends;
        let mut next = at;
        if batches.first().is_some_and(|batch| batch.header.base_offset > at) {
            self.scan.gap.get_or_insert(at);
        }
        for batch in batches.iter().filter(|b| b.header.next_offset() > at) {
            next = next.max(batch.header.next_offset());
            let counted = self.scan.end;
            if !self.scan_batch(batch) {
                return;
            }
            if self.scan.end == counted {
                self.scan.between += batch.header.next_offset() - batch.header.base_offset;
            }
        }
        if next >= log_end {
            self.scanned();
        } else if next == at {
            // A log may end behind its last batch: compaction took what was there, or a truncation cut into such a gap.
            if !self.ends_again() {
                self.scanned();
            }
        } else {
            self.read_target(Purpose::Scan(next), next);
        }
    }

    /// Takes note of one batch; false if the scan is over.
    fn scan_batch(&mut self, batch: &RawBatch) -> bool {
        let header = &batch.header;
        if header.base_offset < self.base.target
            && !(is_ours(self.generation, header) && self.continues(header))
        {
            // A position stands between two batches: this one took the place of what it tells of.
            self.distrust();
            return false;
        }
        if header.is_control() {
            // A marker takes an offset and holds no record. Only a newer generation's says something.
            let newer = header.producer_epoch > self.generation.epoch;
            if header.producer_id == self.generation.producer_id && newer {
                self.fenced();
                return false;
            }
            return true;
        }
        if header.producer_id != self.generation.producer_id {
            if self.producers.contains(&header.producer_id) {
                widen(&mut self.scan.older, span(header));
            } else {
                self.scan.foreign |= header.count > 0;
            }
            return true;
        }
        if header.producer_epoch > self.generation.epoch {
            self.fenced();
            return false;
        }
        if header.producer_epoch < self.generation.epoch {
            widen(&mut self.scan.older, span(header));
            return true;
        }
        let records = i64::from(header.last_offset_delta) + 1;
        let first = count_at(self.count, i64::from(header.base_sequence));
        if first - self.count > SEQUENCES / 2 {
            // It goes back: the target took it again, since it had forgotten us.
            widen(&mut self.scan.doubled, span(header));
            let overhang = first - SEQUENCES + records - self.count;
            if overhang > 0 {
                // Only what reaches further than before is there for the first time.
                self.scan.ours.push((self.count, header.next_offset() - overhang));
                self.count += overhang;
                (self.scan.end, self.scan.between) = (header.next_offset(), 0);
                self.tail = None;
            }
            return true;
        }
        if self.misses_before(first, header.base_offset) {
            self.found_hole(header.base_offset);
            return false;
        }
        self.scan.ours.push((first, header.base_offset));
        (self.scan.end, self.scan.between) = (header.next_offset(), 0);
        self.count = first + records;
        self.tail = Some(batch.clone());
        true
    }

    /// What was read of the target, and concluded from it, may not be so any more.
    pub(super) fn forget_target(&mut self) {
        self.scan = Scan::default();
        self.tail = None;
        self.last = super::last::LastCheck::default();
        self.contents.clear();
        (self.late_from, self.hole) = (None, None);
    }

    /// The log ends here by now: reads what others appended meanwhile.
    pub(super) fn scan_on(&mut self, log_end: i64) {
        let from = self.ends.1;
        match log_end.cmp(&from) {
            Ordering::Less => self.step = Step::Again("TARGET_NOT_SETTLED"),
            Ordering::Equal => self.scanned(),
            Ordering::Greater => {
                self.ends.1 = log_end;
                self.read_target(Purpose::Scan(from), from);
            }
        }
    }

    pub(super) fn scanned(&mut self) {
        if self.scan.gap.is_some() {
            // Ours may have been there: retention may have taken them since the log start was told.
            self.step = Step::TargetEnds;
            return;
        }
        let (log_start, _) = self.ends;
        if log_start > self.base.target && self.others_gone() {
            return;
        }
        if self.scan.older.is_some() {
            if self.scan.ours.is_empty() && self.base.count == 0 {
                // Nothing of this generation is there: what the older one appended counts as mirrored.
                let from = self.base.target.max(log_start);
                self.whole = from == self.base.target;
                self.late_from = Some(from);
                self.settle(0);
                return;
            }
            self.scan.out_of_place();
        }
        if self.scan.doubled.is_some() && self.premise.facts.target_compacted {
            // The cleaner takes what stands before a repeat of the same key: the place found by content is before that.
            self.unsure = Some((self.base.target, self.ends.1));
        }
        if self.scan.ours.is_empty() && (log_start > self.base.target || self.may_be_cut()) {
            self.step = Step::Producer;
            return;
        }
        self.settle(self.count);
    }

    /// Retention took what stood behind the base, which may have been an older generation's. True if a record of ours is
    /// missing there, and the place is settled before it.
    fn others_gone(&mut self) -> bool {
        let Place { count, target, .. } = self.base;
        let first = self.scan.first();
        if first.is_some_and(|(n, at)| at - target < n - count) {
            // Fewer offsets than records of ours: the target accepted a batch without the one before it.
            self.missing_behind_base();
            return true;
        }
        if let Some((from, _)) = &mut self.scan.older {
            *from = target;
        } else if let Some((n, at)) = first.filter(|_| self.offsets_count())
            && at - target > n - count
        {
            // More offsets than records of ours, and nobody else writes there.
            self.scan.doubled = self.scan.doubled.or(Some((target, at)));
        }
        false
    }

    /// The flow wrote under no other generation before.
    fn is_first(&self) -> bool {
        self.generation.epoch == 0 && !self.had_other_producer()
    }

    /// The flow wrote with another producer id before.
    pub(super) fn had_other_producer(&self) -> bool {
        self.producers.iter().any(|id| *id != self.generation.producer_id)
    }

    /// Offsets count our records: nobody else appends, and no markers of ours lie between.
    fn offsets_count(&self) -> bool {
        self.premise.sole_writer && !self.holds_markers()
    }

    /// Markers of an earlier version's strict delivery may stand between our records.
    fn holds_markers(&self) -> bool {
        self.premise.detail.begun.start.marked
    }

    /// A batch under this producer id may be the flow's.
    pub(super) fn may_be_ours(&self, producer_id: i64) -> bool {
        producer_id == self.generation.producer_id || self.producers.contains(&producer_id)
    }

    fn unknown(&mut self, log_start: i64) {
        let Place { source, target, .. } = self.base;
        let which = if self.holds_markers() {
            // A batch may have a marker before it or none, and there may be markers without one.
            format!(
                "strict delivery put markers between them, so that offsets do not tell how many of the source's records \
                 from offset {source} on were there: {} at most",
                self.ends.1 - target
            )
        } else {
            "which of ours were there is not known".to_owned()
        };
        let message = format!(
            "retention removed the target's records from {target} to {log_start} before a position told of them, and the \
             target does not remember the flow: {which}; raise retention.ms of the target topic above the age of the \
             records, then delete the flow and create it with start_over"
        );
        self.stop(StopReason::PositionUnknown, message);
    }

    /// Contents of the target's batches behind the base: ours, or those of older generations if only they are there.
    fn content_read(&mut self, at: i64, batches: &[RawBatch], codecs: &dyn Codecs) {
        let log_end = self.content_end();
        let mut next = at;
        for batch in batches.iter().filter(|b| b.header.next_offset() > at && b.header.base_offset < log_end)
        {
            next = next.max(batch.header.next_offset());
            if batch.header.is_control() || !self.may_be_ours(batch.header.producer_id) {
                continue;
            }
            match codecs.identify(batch) {
                Ok(records) => self.contents.extend(records),
                Err(error) => {
                    self.stop(
                        StopReason::PositionUnknown,
                        format!("the target's log can't be read: {error}"),
                    );
                    return;
                }
            }
        }
        let surplus = self.contents.len().saturating_sub(RECORDS_MAX);
        self.whole &= surplus == 0;
        self.contents.drain(..surplus);
        if next >= log_end || next == at && self.again >= 2 {
            self.align();
        } else if next == at {
            self.step = Step::Again("TARGET_NOT_SETTLED");
        } else {
            self.read_target(Purpose::Content(next), next);
        }
    }

    /// Reads by content what an older generation appended behind the start of this one.
    pub(super) fn read_late(&mut self, from: i64) {
        self.read_target(Purpose::Content(from), from);
    }

    /// Reads what stands behind the base by content.
    pub(super) fn read_content(&mut self) {
        let (log_start, log_end) = (self.ends.0, self.content_end());
        let most = i64::try_from(RECORDS_MAX).unwrap_or(i64::MAX);
        let from = self.base.target.max(log_start).max(log_end - most);
        self.whole = from == self.base.target;
        if from >= log_end {
            self.align();
        } else {
            self.read_target(Purpose::Content(from), from);
        }
    }
}
