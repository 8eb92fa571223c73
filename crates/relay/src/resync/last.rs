//! Whether the source still has the last mirrored batch, where nothing stands behind the position on the target.
//!
//! Leader epochs show an unclean election. They do not show a source that was restored from an older copy and has taken
//! other records under the same epoch. So the records of the last batch on the target are compared with the source's
//! records at their offsets, before anything is mirrored behind them. A record that retention deleted can't be compared, and
//! a compacted source may have dropped it: neither is a divergence.

use std::collections::BTreeMap;

use mirrormesh_core::format::batch::{RawBatch, split};
use mirrormesh_core::position::Position;

use super::history::History;
use super::{Resync, Step};
use crate::loss::Loss;
use crate::origins::Origins;
use crate::page::{self, Data, Item, SourcePage};
use crate::rebuild::{Codecs, RebuildError, RecordId};
use crate::window::Place;

/// So many batches that were not mirrored (markers, aborted ones) are passed on the way back to the last one that was.
const STEPS_MAX: u32 = 32;

/// The comparison.
#[derive(Debug, Default)]
pub(super) struct LastCheck {
    /// The last batch of this generation on the target.
    pub(super) batch: Option<RawBatch>,
    /// The source offset that is looked at.
    at: Option<i64>,
    steps: u32,
    done: bool,
    /// The source has other records than those that were mirrored.
    pub(super) differs: bool,
}

impl Resync {
    /// The place is found. The last mirrored batch is looked at before it is taken.
    pub(super) fn settled(&mut self) {
        let counted = self.position.as_ref().is_some_and(|position| position.count > 0);
        let wanted = self.last.batch.is_some()
            && !self.last.done
            && counted
            && self.count == self.base.count
            && self.unsure.is_none()
            && self.premise.facts.content_fixed();
        if wanted { self.look_at(self.base.source - 1) } else { self.done() }
    }

    /// The last batch is being looked at.
    pub(super) fn is_looking(&self) -> bool {
        self.last.at.is_some()
    }

    /// The source does not have what was looked at, and these are its ends: true if retention took it. Otherwise its log ends
    /// before, which is a loss.
    pub(super) fn is_gone(&mut self, log_start: i64) -> bool {
        let Some(at) = self.last.at.take() else { return false };
        if at >= log_start {
            return false;
        }
        self.looked();
        true
    }

    fn look_at(&mut self, offset: i64) {
        let start = self.premise.detail.begun.start.source_offset;
        if offset < start || self.last.steps > STEPS_MAX {
            return self.looked();
        }
        self.last.at = Some(offset);
        self.last.steps += 1;
        let read_committed = self.reading().read_committed;
        self.step = Step::SourceRead { offset, read_committed, last_epoch: -1 };
    }

    /// Nothing was found that differs.
    pub(super) fn looked(&mut self) {
        (self.last.at, self.last.done) = (None, true);
        self.done();
    }

    /// Answers the look at the source.
    pub(super) fn last_read(&mut self, page: SourcePage, origins: &Origins, codecs: &dyn Codecs) {
        let Some(at) = self.last.at else { return };
        let items = match page::read(&page, self.reading(), at, origins, codecs) {
            Ok(items) => items,
            Err(unknown) => {
                self.held = Some(page);
                self.step = Step::Origins(unknown);
                return;
            }
        };
        let holds =
            |data: &&Data| data.batch.header.base_offset <= at && data.batch.header.next_offset() > at;
        let data = items.iter().find_map(|item| match item {
            Item::Data(data) => Some(data).filter(holds),
            Item::Passed(..) | Item::Bad(_) => None,
        });
        if let Some(data) = data {
            match self.first_difference(data, at, codecs) {
                Ok(Some(offset)) => self.differs_from(offset),
                // A batch that can't be decoded here may have passed as it is: it can't be compared.
                Ok(None) | Err(_) => self.looked(),
            }
            return;
        }
        match split(page.records).next() {
            // A marker, or what was not to be mirrored: the last batch is before it.
            Some(Ok(batch)) if batch.header.base_offset <= at => self.look_at(batch.header.base_offset - 1),
            // It is gone from the source.
            Some(_) => self.looked(),
            None => {
                self.last.at = None;
                self.step = Step::SourceEnds;
            }
        }
    }

    /// The lowest source offset known to hold another record than what was mirrored. Records are compared, since the batch
    /// may have been rebuilt; from the last one back, as far as both batches reach.
    fn first_difference(
        &self,
        data: &Data,
        at: i64,
        codecs: &dyn Codecs,
    ) -> Result<Option<i64>, RebuildError> {
        let Some(batch) = &self.last.batch else { return Ok(None) };
        // Compaction on the target may have left out some of ours, but not moved the others.
        let ours = codecs.identify(batch)?.into_iter().map(|record| (record.offset, record));
        let ours: BTreeMap<i64, RecordId> = ours.collect();
        let theirs = codecs.identify(&data.batch)?;
        let theirs = theirs.iter().rev().skip_while(|record| record.offset > at);
        let ours = (0..).map(|behind: i64| (at - behind, ours.get(&(self.base.target - 1 - behind))));
        // Behind an offset that the source lacks, records can't be paired: it was compacted once. Timestamps are not compared:
        // the target may have set its own, or the flow may have moved them.
        let pairs = theirs.zip(ours).take_while(|(theirs, (offset, _))| theirs.offset == *offset);
        let differ =
            pairs.filter(|(theirs, (_, ours))| ours.is_some_and(|ours| ours.content != theirs.content));
        Ok(differ.map(|(theirs, _)| theirs.offset).last())
    }

    /// The source has other records from this offset on at the latest. Where they begin to differ is found by content, as
    /// far back as positions are known.
    fn differs_from(&mut self, offset: i64) {
        let mirrored = self.base.source;
        self.last.at = None;
        (self.last.done, self.last.differs) = (true, true);
        if !self.premise.searches {
            let epoch = self.lineage.end.map_or(-1, |end| end.epoch);
            return self.lost(Loss::differs(epoch, offset, mirrored));
        }
        self.diverged = Some(mirrored);
        let told = self.base.target;
        let oldest = self.known.iter().rev().find(|position| position.target_offset < told).cloned();
        self.search_from(oldest);
    }

    /// Nothing of what the target holds behind the base was found on the source: looks further back, if there is anything.
    pub(super) fn search_further_back(&mut self) -> bool {
        if !self.last.differs || self.position.is_none() {
            return false;
        }
        self.search_from(None);
        true
    }

    /// Searches what the target holds behind this position, or behind the generation's start.
    fn search_from(&mut self, position: Option<Position>) {
        let start = self.premise.detail.begun.start;
        let begin = Place { count: 0, source: start.source_offset, target: start.target_offset };
        self.lineage.known = position.as_ref().map_or_else(|| self.lineage.start.clone(), History::of);
        self.base = position.as_ref().map_or(begin, |position| Place {
            count: position.count,
            source: position.source_offset,
            target: position.target_offset,
        });
        self.position = position;
        self.move_to_base();
        self.replay.clear();
        self.contents.clear();
        self.read_content();
    }

    /// The loss of what was mirrored from `end` on.
    pub(super) fn divergence(&self, epoch: i32, end: i64, mirrored: i64) -> Loss {
        if self.last.differs {
            Loss::differs(epoch, end, mirrored)
        } else {
            Loss::diverged(epoch, end, mirrored)
        }
    }
}
