//! One fetch of the source, judged: what is to be mirrored of it, in order, and what is left out.
//!
//! The same reading serves streaming and counting: were the two different, a place found by counting would be wrong.

use std::collections::BTreeSet;

use bytes::Bytes;
use mirrormesh_core::format::batch::{Entry, RawBatch, entries};
use mirrormesh_core::stop::Stop;
use mirrormesh_core::unit::PartitionStart;

use super::origins::{Origins, Passage};
use super::reader::{Aborted, FetchReader, Judgement, Skip, unreadable};
use super::rebuild::{Codecs, RebuildError, RecordId, Run};

/// What a fetch of the source answered.
#[derive(Debug, Clone, Default)]
pub struct SourcePage {
    /// Raw batches; may end in the middle of one, and begin before the wanted offset.
    pub records: Bytes,
    /// Aborted transactions that this answer names.
    pub aborted: Vec<Aborted>,
    /// End of what may be read: last stable offset or high watermark.
    pub end_offset: i64,
    /// End of what is replicated.
    pub high_watermark: i64,
    /// First offset that the source still has; -1 if it wasn't said.
    pub log_start: i64,
}

/// What of the source counts as a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Transactions that are open or aborted are left out.
    pub read_committed: bool,
    /// What any flow mirrored to the source is left out; otherwise only what came from the target.
    pub skip_mirrored: bool,
}

impl From<PartitionStart> for Reading {
    fn from(start: PartitionStart) -> Self {
        Self { read_committed: !start.read_uncommitted, skip_mirrored: start.skip_mirrored }
    }
}

/// A batch that is to be mirrored.
#[derive(Debug, Clone)]
pub struct Data {
    /// The batch.
    pub batch: RawBatch,
    /// Its records from this source offset on count.
    pub from: i64,
    /// It came in an old format.
    pub old_format: bool,
}

/// One entry of a page.
#[derive(Debug, Clone)]
pub enum Item {
    /// To be mirrored.
    Data(Data),
    /// Left out; the next offset, its leader epoch, and why.
    Passed(i64, i32, Skip),
    /// It can't be read: the partition stops here, behind everything before it.
    Bad(Stop),
}

/// Reads a page from source offset `place` on. At the first entry that can't be read it ends with [`Item::Bad`]. An
/// error names the producer ids that have to be looked up first: nothing is read then.
pub fn read(
    page: &SourcePage,
    reading: Reading,
    place: i64,
    origins: &Origins,
    codecs: &dyn Codecs,
) -> Result<Vec<Item>, BTreeSet<i64>> {
    let mut unknown = BTreeSet::new();
    let items = read_known(page, (reading, place), (origins, codecs), &mut unknown);
    if unknown.is_empty() { Ok(items) } else { Err(unknown) }
}

fn read_known(
    page: &SourcePage,
    (reading, mut place): (Reading, i64),
    (origins, codecs): (&Origins, &dyn Codecs),
    unknown: &mut BTreeSet<i64>,
) -> Vec<Item> {
    let mut reader = FetchReader::new(reading.read_committed, page.aborted.clone());
    let mut items = Vec::new();
    for entry in entries(page.records.clone()) {
        let (batch, old_format) = match entry {
            Ok(Entry::Batch(batch)) => (batch, false),
            Ok(Entry::Old { offset, .. }) if offset < place => continue,
            Ok(Entry::Old { bytes, .. }) => match codecs.modernise(&bytes) {
                Ok(batch) => (batch, true),
                Err(error) => {
                    items.push(bad(&error));
                    return items;
                }
            },
            Err(error) => {
                items.push(bad(&RebuildError::from(error)));
                return items;
            }
        };
        let next = batch.header.next_offset();
        items.push(match reader.judge(&batch, place) {
            Judgement::Mirror(from) => match origins.judge(&batch.header, reading.skip_mirrored) {
                Passage::Mirror => Item::Data(Data { batch, from, old_format }),
                Passage::Skip => Item::Passed(next.max(place), batch.header.leader_epoch, Skip::Loop),
                Passage::Unknown(producer_id) => {
                    unknown.insert(producer_id);
                    continue;
                }
                Passage::Stop(stop) => {
                    items.push(Item::Bad(stop));
                    return items;
                }
            },
            Judgement::Skip(skip) => Item::Passed(next.max(place), batch.header.leader_epoch, skip),
        });
        place = place.max(next);
    }
    items
}

fn bad(error: &RebuildError) -> Item {
    Item::Bad(unreadable(error.offset, &error.problem))
}

impl Data {
    /// Source offsets of the records that count, in order. Empty if compaction left none of them.
    pub fn runs(&self, codecs: &dyn Codecs) -> Result<Vec<Run>, RebuildError> {
        let header = &self.batch.header;
        if header.is_dense() {
            return Ok(vec![Run { first: self.from, count: header.next_offset() - self.from }]);
        }
        let mut runs: Vec<Run> = Vec::new();
        for record in self.records(codecs)? {
            match runs.last_mut() {
                Some(run) if run.first + run.count == record.offset => run.count += 1,
                _ => runs.push(Run { first: record.offset, count: 1 }),
            }
        }
        Ok(runs)
    }

    /// The records that count.
    pub fn records(&self, codecs: &dyn Codecs) -> Result<Vec<RecordId>, RebuildError> {
        let mut records = codecs.identify(&self.batch)?;
        records.retain(|record| record.offset >= self.from);
        Ok(records)
    }
}
