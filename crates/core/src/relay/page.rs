//! One fetch of the source, judged: what is to be mirrored of it, in order, and what is left out.
//!
//! The same reading serves streaming and counting: were the two different, a place found by counting would be wrong.

use bytes::Bytes;

use super::reader::{Aborted, FetchReader, Judgement, Skip, unreadable};
use super::rebuild::{Codecs, RebuildError, RecordId, Run};
use super::stop::Stop;
use crate::format::batch::{Entry, RawBatch, entries};

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

/// Reads a page from source offset `place` on. At the first entry that can't be read it ends with [`Item::Bad`].
pub fn read(page: SourcePage, read_committed: bool, place: i64, codecs: &dyn Codecs) -> Vec<Item> {
    let mut reader = FetchReader::new(read_committed, page.aborted);
    let mut place = place;
    let mut items = Vec::new();
    for entry in entries(page.records) {
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
            Judgement::Mirror(from) => Item::Data(Data { batch, from, old_format }),
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
