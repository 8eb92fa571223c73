//! The source's side: which record the n-th one is.

use super::{Resync, Step};
use crate::relay::align::{Aligned, Aligner};
use crate::relay::journal::Mirrored;
use crate::relay::loss::Loss;
use crate::relay::origins::Origins;
use crate::relay::page::{self, Data, Item, Reading, SourcePage};
use crate::relay::position::{LastBatch, Position};
use crate::relay::reader::unreadable;
use crate::relay::rebuild::{Codecs, RebuildError, Run};
use crate::relay::stop::{Stop, StopReason};
use crate::relay::window::Place;
use crate::translate::Segment;

/// The generation of the one began after that of the other. Producer ids tell no order, but owners do.
fn follows(one: &Position, other: &Position) -> bool {
    if one.generation.producer_id == other.generation.producer_id {
        one.generation.epoch > other.generation.epoch
    } else {
        one.assignment_number > other.assignment_number
    }
}

impl Resync {
    /// Leader epoch of what older generations wrote last, and how far it reached at least: where nothing of this one is
    /// written yet, and its start does not tell, a source that loses its end again is seen by it.
    pub(super) fn older_epoch(&self, positions: &[Position]) -> (i32, i64, i64) {
        let known = self.premise.detail.source_topic_id;
        // Whoever went back on the source did so for a loss that was told: what was read before that may be gone for long.
        let went_back = |p: &Position| {
            let of_topic = |q: &&Position| q.source_topic_id == known && q.source_offset < p.source_offset;
            positions.iter().filter(of_topic).any(|q| follows(q, p))
        };
        positions
            .iter()
            .filter(|p| p.generation != self.generation && p.source_topic_id == known && !went_back(p))
            .filter(|p| p.target_offset <= self.base.target && p.source_leader_epoch >= 0)
            // The newest: before a loss, an older one may have been further on the source.
            .max_by_key(|p| (p.target_offset, p.assignment_number, p.generation, p.count))
            .map_or((-1, 0, self.base.target), |p| {
                (p.source_leader_epoch, p.source_offset.min(self.base.source), p.target_offset)
            })
    }

    /// n is known; next is the source's side.
    pub(super) fn settle(&mut self, count: i64) {
        self.count = count;
        if self.epoch >= 0 {
            self.step = Step::SourceHistory(self.epoch);
        } else {
            self.find_source();
        }
    }

    /// Answers [`Step::SourceHistory`]: the end offset of the epoch asked for, or of the nearest one before it;
    /// `None` if the broker can't tell.
    pub fn source_history(&mut self, end_offset: Option<i64>) {
        if let Some(verdict) = self.verdict.take() {
            let lost_more = end_offset.is_some_and(|end| Some(end) < self.epoch_end);
            self.step = if lost_more { Step::Again("SOURCE_NOT_SETTLED") } else { verdict };
            return;
        }
        self.epoch_end = end_offset;
        match end_offset {
            Some(end) if end < self.epoch_source => {
                if self.epoch_target < self.base.target {
                    // A generation in between may have gone on from there already, and nothing that it wrote says so.
                    self.unsure = Some((self.told_up_to(end), self.ends.1));
                }
                self.lost(Loss::diverged(end, self.base.source));
            }
            _ => self.find_source(),
        }
    }

    fn find_source(&mut self) {
        if self.count > self.base.count && !self.premise.facts.content_fixed() || self.behind.is_some() {
            self.read_content();
        } else {
            self.count_forward();
        }
    }

    /// The contents to look for are known.
    pub(super) fn align(&mut self) {
        let aligner = Aligner::new(&self.contents, self.premise.times_kept, self.whole);
        self.contents.clear();
        if aligner.is_complete() {
            self.nothing_to_align();
        } else {
            self.aligner = Some(aligner);
            self.step = self.source_read_step();
        }
    }

    /// Retention took what is behind the base on the target, so that nothing leads to the place but what it can't be
    /// before: every record takes an offset or more. What was mirrored behind that is mirrored again, and said.
    fn nothing_to_align(&mut self) {
        let mirrored = self.surely_mirrored();
        if self.count > self.base.count {
            self.unsure = Some((self.base.target, self.ends.1));
        }
        match self.gap {
            Some(_) => self.deleted_up_to(mirrored),
            None => {
                self.cursor = mirrored;
                self.done();
            }
        }
    }

    /// The mirror got at least so far, in whatever history: every record takes an offset or more.
    fn mirrored_to(&self) -> i64 {
        self.base.source + (self.count - self.base.count).max(0)
    }

    /// Where the histories part, when nothing of what the target has left was found: what was mirrored up to the end of the
    /// epoch is of both, but only what is read from the base on tells that nothing behind the base is.
    fn parted(&mut self) -> i64 {
        let (facts, base) = (&self.premise.facts, self.base.source);
        let whole = self.whole && !facts.target_compacted;
        let mirrored = if !facts.content_fixed() || whole { base } else { self.mirrored_to() };
        let end = self.epoch_end.unwrap_or(base);
        if end < base {
            self.unsure = Some((self.told_up_to(end), self.ends.1));
        } else if !whole {
            self.unsure = Some((self.base.target, self.ends.1));
        }
        mirrored.min(end)
    }

    /// Up to this target offset at least, what was mirrored is from before this source offset.
    fn told_up_to(&self, source: i64) -> i64 {
        let before = self.older.iter().filter(|(reached, _)| *reached <= source);
        before.map(|(_, target)| *target).max().unwrap_or(0)
    }

    /// The mirror got at least so far in this history, if n is right: what it mirrored behind the end of the epoch may be of
    /// another, and so may all of it where the epoch is not known, or not that up to which others read the same. Where the content is not fixed, n may count records from
    /// before the base.
    fn surely_mirrored(&self) -> i64 {
        if !self.premise.facts.content_fixed() || self.shared_epoch().is_some() {
            return self.base.source;
        }
        let mirrored = self.at_least.max(self.mirrored_to());
        self.epoch_end.map_or(self.base.source, |end| mirrored.min(end.max(self.base.source)))
    }

    fn deleted_up_to(&mut self, mirrored: i64) {
        let Some((_, log_start)) = self.gap else { return };
        self.lost(Loss::deleted_on_both(mirrored.min(log_start), log_start, mirrored.max(log_start)));
    }

    /// What older generations counted is not known: for them all counts that may have.
    fn reading(&self) -> Reading {
        if self.aligner.is_some() && self.scan.has_older() {
            return Reading { read_committed: false, skip_mirrored: false };
        }
        Reading::from(self.premise.detail.begun.start)
    }

    fn source_read_step(&self) -> Step {
        Step::SourceRead { offset: self.cursor, read_committed: self.reading().read_committed }
    }

    fn count_forward(&mut self) {
        if self.base.count + self.read >= self.count {
            self.done();
        } else {
            self.step = self.source_read_step();
        }
    }

    /// Answers [`Step::SourceRead`]. `origins` is what is known of producer ids.
    pub fn source_read(&mut self, page: SourcePage, origins: &Origins, codecs: &dyn Codecs) {
        let (end_offset, high_watermark) = (page.end_offset, page.high_watermark);
        let items = match page::read(&page, self.reading(), self.cursor, origins, codecs) {
            Ok(items) => items,
            Err(unknown) => {
                self.held = Some(page);
                self.step = Step::Origins(unknown);
                return;
            }
        };
        let before = self.cursor;
        let read = match self.aligner.take() {
            Some(aligner) => self.read_aligning(aligner, &items, codecs),
            None => self.read_counting(&items, codecs),
        };
        if let Err(error) = read {
            self.step = Step::Stop(unreadable(error.offset, &error.problem));
            return;
        }
        if matches!(self.step, Step::SourceRead { .. }) {
            if self.aligner.is_some() && self.cursor >= end_offset {
                if end_offset < high_watermark && self.mirrored_to() > end_offset {
                    // Less is stable than was mirrored: the source lost a marker, and what its transaction holds back was
                    // on the target once.
                    self.step = Step::Again("SOURCE_NOT_SETTLED");
                    return;
                }
                // What was not found is gone from the source, or was never to be mirrored again.
                self.aligned();
            } else if self.cursor == before {
                self.step = Step::SourceEnds;
            } else {
                self.step = self.source_read_step();
            }
        }
    }

    /// Answers [`Step::Origins`].
    pub fn classified(&mut self, origins: &Origins, codecs: &dyn Codecs) {
        if let Some(page) = self.held.take() {
            self.step = self.source_read_step();
            self.source_read(page, origins, codecs);
        }
    }

    /// Answers [`Step::SourceRead`] instead: the offset is out of range.
    pub fn source_out_of_range(&mut self) {
        self.step = Step::SourceEnds;
    }

    /// Answers [`Step::SourceEnds`]: log start and log end.
    pub fn source_ends(&mut self, log_start: i64, log_end: i64) {
        let uncounted = (self.count - self.base.count - self.read).max(0);
        // At least so far the mirror got: every record takes an offset or more.
        if self.aligner.is_none() {
            self.at_least = self.cursor + uncounted;
        }
        let mirrored = self.at_least.max(self.mirrored_to());
        let surely = self.surely_mirrored();
        if self.cursor < log_start {
            if self.aligner.is_none() && uncounted == 0 {
                self.deleted(self.cursor, log_start);
                return;
            }
            // What is behind the deleted part may be on the target already: only its content can tell.
            let from = surely.min(log_start);
            self.gap.get_or_insert((from, log_start)).1 = log_start;
            self.cursor = log_start;
            if self.aligner.is_some() {
                self.step = self.source_read_step();
            } else {
                self.read_content();
            }
            return;
        }
        let lost_while_read =
            self.aligner.is_some() && self.cursor > self.base.source && log_end < self.cursor;
        if log_end > self.cursor || mirrored <= log_end || lost_while_read {
            // What was found up to now may be another history's, and what leads to it is still to be told.
            self.step = Step::Again("SOURCE_NOT_SETTLED");
        } else if self.count > self.base.count && self.diverged.is_none() {
            self.look_for_the_parting(mirrored);
        } else if let Some(loss) = Loss::out_of_range(mirrored, log_start, log_end) {
            self.lost(loss);
        }
    }

    /// The source lost records that were mirrored behind the base, and others may stand at their offsets: where the two
    /// histories part is found by content.
    fn look_for_the_parting(&mut self, mirrored: i64) {
        self.diverged = Some(mirrored);
        self.cursor = self.base.source;
        self.replay.clear();
        self.aligner = None;
        self.read_content();
    }

    /// The source deleted offsets before they were mirrored. Where in that part the mirror stood is not always known
    /// exactly: `from` is the first that may be missing.
    fn deleted(&mut self, from: i64, log_start: i64) {
        let exact = self.gap.is_none();
        if let Some(mut loss) = Loss::out_of_range(from.min(log_start - 1), log_start, log_start) {
            loss.stop.from_offset = Some(from);
            loss.count = exact.then_some(log_start - from);
            self.lost(loss);
        }
    }

    fn read_aligning(
        &mut self,
        mut aligner: Aligner,
        items: &[Item],
        codecs: &dyn Codecs,
    ) -> Result<(), RebuildError> {
        for item in items {
            match item {
                Item::Passed(next, ..) => self.cursor = *next,
                Item::Bad(stop) => {
                    self.step = Step::Stop(stop.clone());
                    return Ok(());
                }
                Item::Data(data) => {
                    for record in data.records(codecs)? {
                        if aligner.source(&record) {
                            self.found_epoch = data.batch.header.leader_epoch;
                        }
                        if aligner.is_complete() || self.read_enough() {
                            self.aligner = Some(aligner);
                            self.aligned();
                            return Ok(());
                        }
                    }
                    self.cursor = data.batch.header.next_offset();
                }
            }
        }
        self.aligner = Some(aligner);
        Ok(())
    }

    fn aligned(&mut self) {
        if let Some(aligner) = self.aligner.take() {
            let epoch = self.found_epoch;
            let fixed = self.premise.facts.content_fixed();
            let (complete, next) = (aligner.is_complete(), aligner.next_wanted());
            let Aligned { place, segments, hole, skipped } = aligner.into_place();
            if let Some(hole) = hole {
                // An owner that was replaced appended what it had read behind that: it follows once more.
                self.unsure = Some((hole.target.unwrap_or(self.base.target), self.ends.1));
            } else if !complete {
                self.scan.out_of_place();
                // A replaced owner's batch may have had exactly the place of ours, and those behind it followed.
                self.stray = next.map(|next| (next, self.ends.1)).filter(|_| !fixed || self.behind.is_some());
            }
            if let Some((from, to)) = skipped.filter(|_| !fixed || self.behind.is_some()) {
                // Not of this row of records: others', or there twice.
                self.stray = Some((from, self.stray.map_or(to, |(_, to)| to)));
            }
            self.replay.extend(segments.into_iter().map(|segment| Mirrored {
                segment,
                more: Vec::new(),
                bytes: 0,
                last: LastBatch::default(),
                source_leader_epoch: epoch,
            }));
            if let (None, Some((from, log_start))) = (place, self.gap) {
                self.deleted(from, log_start);
                return;
            }
            if let (false, Some(mirrored)) = (complete, self.diverged) {
                let end = place.unwrap_or_else(|| self.parted());
                self.lost(Loss::diverged(end, mirrored.max(end)));
                return;
            }
            self.cursor = place.unwrap_or(self.base.source);
        }
        self.done();
    }

    fn read_counting(&mut self, items: &[Item], codecs: &dyn Codecs) -> Result<(), RebuildError> {
        for item in items {
            match item {
                Item::Passed(_, epoch, _) if self.is_unproven(*epoch) => {}
                Item::Passed(next, ..) => self.cursor = *next,
                Item::Bad(stop) => {
                    self.step = Step::Stop(stop.clone());
                    return Ok(());
                }
                Item::Data(data) if self.is_unproven(data.batch.header.leader_epoch) => {}
                Item::Data(data) => self.count_batch(data, codecs)?,
            }
            if !matches!(self.step, Step::SourceRead { .. }) || self.diverged.is_some() {
                return Ok(());
            }
            if self.base.count + self.read >= self.count {
                self.done();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Up to which leader epoch everybody who may have appended behind the base read the same: what the position tells;
    /// without one, that of the first record that was counted.
    pub(super) fn base_epoch(&self) -> i32 {
        let known = if self.epoch >= 0 { self.epoch } else { self.counted_epoch.unwrap_or(-1) };
        self.shared_epoch().unwrap_or(known)
    }

    /// It is an earlier one than that of the position's last batch: what stands behind may be of another history.
    fn shared_epoch(&self) -> Option<i32> {
        self.position.as_ref().and_then(|position| position.shared_leader_epoch)
    }

    /// Nothing on the target tells whether it was this history that was mirrored from here on: then it goes on from here.
    fn is_unproven(&mut self, leader_epoch: i32) -> bool {
        self.counted_epoch.get_or_insert(leader_epoch);
        let unproven = self.tail.is_none() && leader_epoch > self.base_epoch();
        if unproven {
            let from = self.target_of(self.base.count + self.read).unwrap_or(self.base.target);
            self.unsure = Some((from, self.ends.1));
            self.done();
        }
        unproven
    }

    /// Counts the records of a batch, up to n. n may lie inside.
    fn count_batch(&mut self, data: &Data, codecs: &dyn Codecs) -> Result<(), RebuildError> {
        let header = &data.batch.header;
        let mut wanted = self.count - self.base.count - self.read;
        let mut taken: Vec<Run> = Vec::new();
        self.cursor = header.next_offset();
        for run in data.runs(codecs)? {
            let count = run.count.min(wanted);
            taken.push(Run { count, ..run });
            wanted -= count;
            if count < run.count || wanted == 0 {
                if run.first + count < header.next_offset() {
                    self.cursor = run.first + count;
                }
                break;
            }
        }
        let Some(last) = taken.last().map(|run| run.first + run.count - 1) else { return Ok(()) };
        let n = self.base.count + self.read;
        let records: i64 = taken.iter().map(|run| run.count).sum();
        self.read += records;
        if wanted == 0 && !self.is_last(data, last, codecs)? {
            return Ok(());
        }
        let mut segments = Vec::with_capacity(taken.len());
        let mut at = n;
        for run in &taken {
            let end = at + run.count;
            while at < end {
                // Others may stand between two batches that one run went into.
                let count = self.scan.next_batch(at).map_or(end, |next| next.min(end)) - at;
                let source = run.first + run.count - (end - at);
                // What is not known to stand anywhere is gone: retention took its headers.
                segments.extend(self.target_of(at).map(|target| Segment { source, target, count }));
                at += count;
            }
        }
        let mut segments = segments.into_iter();
        let Some(segment) = segments.next() else { return Ok(()) };
        self.replay.push(Mirrored {
            segment,
            more: segments.collect(),
            bytes: u64::try_from(data.batch.bytes.len()).unwrap_or(u64::MAX),
            last: LastBatch {
                count: i32::try_from(records).unwrap_or(i32::MAX),
                base_timestamp: header.base_timestamp,
                max_timestamp: header.max_timestamp,
                body_crc: 0,
            },
            source_leader_epoch: header.leader_epoch,
        });
        Ok(())
    }

    /// Where the n-th record is, if that is known: before the first header of ours only if nobody else's is there.
    fn target_of(&self, n: i64) -> Option<i64> {
        let Place { count, target, .. } = self.base;
        let (known, at) = self.scan.first().unwrap_or((self.count, self.ends.1));
        let gapless = at - target == known - count;
        self.scan.place_of(n).or_else(|| gapless.then(|| target + (n - count)))
    }

    /// The target's newest record of ours must be the source's record at this offset. One that is gone from either side
    /// can't be compared.
    fn is_last(&mut self, data: &Data, offset: i64, codecs: &dyn Codecs) -> Result<bool, RebuildError> {
        let Some(tail) = self.tail.take() else { return Ok(true) };
        let ours = codecs.identify(&tail)?.pop().filter(|r| r.offset == tail.header.last_offset());
        let theirs = codecs.identify(&data.batch)?.into_iter().find(|r| r.offset == offset);
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(true) };
        let same_time = !self.premise.times_kept || ours.timestamp == theirs.timestamp;
        if ours.content == theirs.content && same_time {
            return Ok(true);
        }
        let message = format!(
            "the target's record at offset {} is not the source's record at offset {offset}: something else was \
             written in its place, or the source changed; compare the two topics, then delete the flow and create it \
             with start_over",
            ours.offset
        );
        let told = self.position.as_ref().map_or(-1, |position| position.source_leader_epoch);
        let known = self.shared_epoch().unwrap_or(told);
        if data.batch.header.leader_epoch > known && known >= 0 && self.diverged.is_none() {
            self.look_for_the_parting(offset + 1);
            return Ok(false);
        }
        let stop = Stop::new(StopReason::PositionMismatch, message).at(offset, Some(offset + 1));
        self.confirm(Step::Stop(stop));
        Ok(false)
    }
}
