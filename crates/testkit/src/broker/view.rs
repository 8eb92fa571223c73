//! What a test sees of a partition: a copy of one moment.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::batch::Batch;
use super::log::{Aborted, read_records};
use super::producers::ProducerState;
use super::records::Record;

/// A partition at one moment.
#[derive(Debug, Clone)]
pub struct PartitionView {
    /// Id of its topic.
    pub topic_id: Uuid,
    /// Its leader, if it has one.
    pub leader: Option<i32>,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// Its replicas.
    pub replicas: Vec<i32>,
    /// Those that are in sync.
    pub isr: Vec<i32>,
    /// First offset.
    pub log_start: i64,
    /// Up to here readers see it.
    pub high_watermark: i64,
    /// Up to here readers of committed records see it.
    pub last_stable_offset: i64,
    /// Offset that the next record gets.
    pub log_end: i64,
    /// Leader epochs and where they begin.
    pub epochs: Vec<(i32, i64)>,
    /// All batches, markers and empty ones included.
    pub batches: Vec<Batch>,
    /// Aborted transactions.
    pub aborted: Vec<Aborted>,
    /// What is remembered of producers, by id.
    pub producers: BTreeMap<i64, ProducerState>,
}

impl PartitionView {
    /// All records with their offsets, markers left out.
    pub fn records(&self) -> Vec<(i64, Record)> {
        let data = self.batches.iter().filter(|batch| !batch.header.has(super::batch::CONTROL));
        let of_batch = |batch: &Batch| {
            let base = batch.header.base_offset;
            read_records(batch).into_iter().map(move |r| (base + i64::from(r.offset_delta), r))
        };
        data.flat_map(of_batch).collect()
    }
}
