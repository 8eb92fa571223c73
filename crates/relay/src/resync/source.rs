//! The source's side: which record the n-th one is.

use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::position::LastBatch;
use mirrormesh_core::stop::{Stop, StopReason};
use mirrormesh_core::translate::Segment;

use super::{Resync, Step};
use crate::align::{Aligned, Aligner};
use crate::journal::Mirrored;
use crate::loss::Loss;
use crate::origins::Origins;
use crate::page::{self, Data, Item, Reading, SourcePage};
use crate::reader::unreadable;
use crate::rebuild::{Codecs, RebuildError, Run};
use crate::window::Place;

impl Resync {
    /// n is known; next is the source's side.
    pub(super) fn settle(&mut self, count: i64) {
        self.count = count;
        if self.lineage.known.epoch >= 0 {
            self.ask_history();
        } else if self.count > self.base.count && self.tail.is_none() && self.premise.facts.content_fixed() {
            self.ask_for_elections();
        } else {
            self.find_source();
        }
    }

    pub(super) fn find_source(&mut self) {
        if let Some(from) = self.late_from {
            self.read_late(from);
        } else if self.count > self.base.count && !self.premise.facts.content_fixed() {
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
        if let Some(mirrored) = self.diverged {
            if !self.search_further_back() {
                self.parts_unseen(mirrored);
            }
            return;
        }
        let mirrored = self.surely_mirrored();
        if self.count > self.base.count {
            self.unsure = Some((self.base.target, self.ends.1));
        }
        if self.gap.is_some() {
            self.deleted_up_to(mirrored);
        } else {
            if mirrored > self.base.source {
                self.jump(mirrored);
            }
            self.done();
        }
    }

    fn deleted_up_to(&mut self, mirrored: i64) {
        let Some((_, log_start)) = self.gap else { return };
        self.lost(Loss::deleted_on_both(mirrored.min(log_start), log_start, mirrored.max(log_start)));
    }

    /// What older generations counted is not known: for them all counts that may have.
    pub(super) fn reading(&self) -> Reading {
        if self.aligner.is_some() && self.scan.has_older() {
            return Reading { read_committed: false, skip_mirrored: false };
        }
        Reading::from(self.premise.detail.begun.start)
    }

    fn source_read_step(&self) -> Step {
        let at_base = self.cursor == self.lineage.known.source && self.lineage.end.is_some();
        let last_epoch = if at_base { self.lineage.known.epoch } else { self.cursor_epoch };
        Step::SourceRead { offset: self.cursor, read_committed: self.reading().read_committed, last_epoch }
    }

    pub(super) fn move_to_base(&mut self) {
        self.jump(self.base.source);
        if self.lineage.known.source >= self.base.source {
            self.epochs = self.lineage.known.epochs.clone();
        }
    }

    /// Goes on from there; what epochs lie before it is not known. With a hole in them, an epoch would be taken to begin
    /// later than it did.
    fn jump(&mut self, to: i64) {
        (self.cursor, self.cursor_epoch) = (to, -1);
        self.epochs = Epochs::default();
    }

    /// What lies between the cursor and this offset is read, and of this leader epoch.
    fn move_on(&mut self, next: i64, leader_epoch: i32) {
        self.epochs.assign(leader_epoch, self.cursor);
        (self.cursor, self.cursor_epoch) = (next, leader_epoch);
    }

    fn count_forward(&mut self) {
        if self.base.count + self.read >= self.count {
            self.settled();
        } else {
            self.step = self.source_read_step();
        }
    }

    /// Answers [`Step::SourceRead`]. `origins` is what is known of producer ids.
    pub fn source_read(&mut self, page: SourcePage, origins: &Origins, codecs: &dyn Codecs) {
        if self.is_looking() {
            return self.last_read(page, origins, codecs);
        }
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
        if self.is_gone(log_start) {
            return;
        }
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
            self.jump(log_start);
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
        self.move_to_base();
        self.replay.clear();
        self.aligner = None;
        self.read_content();
    }

    /// Nothing that the target still has tells where they part.
    fn parts_unseen(&mut self, mirrored: i64) {
        let epoch = self.lineage.end.map_or(-1, |end| end.epoch);
        let end = self.parted();
        self.lost(self.divergence(epoch, end, mirrored.max(end)));
    }

    /// The source deleted offsets before they were mirrored. Where in that part the mirror stood is not always known
    /// exactly: `from` is the first that may be missing.
    fn deleted(&mut self, from: i64, log_start: i64) {
        let exact = self.gap.is_none();
        if let Some(mut loss) = Loss::out_of_range(from.min(log_start - 1), log_start, log_start) {
            loss.stop.from_offset = Some(from);
            loss.stop.count = exact.then_some(log_start - from);
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
                Item::Passed(next, epoch, _) => self.move_on(*next, *epoch),
                Item::Bad(stop) => {
                    self.step = Step::Stop(stop.clone());
                    return Ok(());
                }
                Item::Data(data) => {
                    self.epochs.assign(data.batch.header.leader_epoch, self.cursor);
                    for record in data.records(codecs)? {
                        if aligner.source(&record) {
                            self.found_epoch = data.batch.header.leader_epoch;
                        }
                        if aligner.is_complete() {
                            self.aligner = Some(aligner);
                            self.aligned();
                            return Ok(());
                        }
                    }
                    self.move_on(data.batch.header.next_offset(), data.batch.header.leader_epoch);
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
                self.stray = next.map(|next| (next, self.ends.1)).filter(|_| !fixed);
            }
            let all_there = fixed && self.gap.is_none() && self.diverged.is_none();
            if let Some((from, to)) = skipped.filter(|_| !fixed || all_there) {
                // Not of this row of records: others', or there twice. (Where the source deleted or lost some, those are
                // no longer there to be found.)
                self.stray = Some((from, self.stray.map_or(to, |(_, to)| to)));
            }
            self.replay.extend(segments.into_iter().map(|segment| Mirrored {
                segment,
                more: Vec::new(),
                bytes: 0,
                last: LastBatch::default(),
                source_leader_epoch: epoch,
                passed: Vec::new(),
            }));
            if let (None, Some((from, log_start))) = (place, self.gap) {
                self.deleted(from, log_start);
                return;
            }
            if let (false, Some(mirrored)) = (complete, self.diverged) {
                match place {
                    Some(end) => self.lost(self.divergence(epoch, end, mirrored.max(end))),
                    None if self.search_further_back() => {}
                    None => self.parts_unseen(mirrored),
                }
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
                Item::Passed(next, epoch, _) => self.move_on(*next, *epoch),
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

    /// Counts the records of a batch, up to n. n may lie inside.
    fn count_batch(&mut self, data: &Data, codecs: &dyn Codecs) -> Result<(), RebuildError> {
        let header = &data.batch.header;
        let mut wanted = self.count - self.base.count - self.read;
        let mut taken: Vec<Run> = Vec::new();
        self.move_on(header.next_offset(), header.leader_epoch);
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
            passed: Vec::new(),
        });
        Ok(())
    }

    /// Where the n-th record is, if that is known: before the first header of ours only if nobody else's is there.
    pub(super) fn target_of(&self, n: i64) -> Option<i64> {
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
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            // Gone from either side: only the history tells.
            let leader = self.lineage.end.map_or(-1, |end| end.leader);
            if data.batch.header.leader_epoch.max(leader) <= self.base_epoch() {
                return Ok(true);
            }
            self.replay.clear();
            self.move_to_base();
            self.unsure = Some((self.base.target, self.ends.1));
            self.done();
            return Ok(false);
        };
        let same_time = !self.premise.times_kept || ours.timestamp == theirs.timestamp;
        if ours.content == theirs.content && same_time {
            return Ok(true);
        }
        let message = format!(
            "the target's record at offset {} is not the source's record at offset {offset}: something else was \
             written in its place, or the source changed; compare the two topics, then set records.on_loss to CONTINUE \
             to have the place searched by content, or delete the flow and create it with start_over",
            ours.offset
        );
        let told = self.position.as_ref().map_or(-1, |position| position.source_leader_epoch);
        let known = self.shared_epoch().unwrap_or(told);
        let newer = data.batch.header.leader_epoch > known && known >= 0;
        if (newer || self.premise.searches) && self.diverged.is_none() {
            self.look_for_the_parting(offset + 1);
            return Ok(false);
        }
        let stop = Stop::new(StopReason::PositionMismatch, message).at(offset, Some(offset + 1));
        self.confirm(Step::Stop(stop));
        Ok(false)
    }
}
