//! The result of a comparison, for tests and for people.

use std::fmt;
use std::sync::Arc;

use super::TopicPair;
use super::matcher::{DIFFERENCES_MAX, Outcome};

/// The result for one partition.
#[derive(Debug, Clone)]
pub struct PartitionComparison {
    /// The topics.
    pub pair: Arc<TopicPair>,
    /// The partition.
    pub partition: i32,
    /// What came out.
    pub outcome: Outcome,
}

/// The result for all partitions.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// In the order of topics and partitions.
    pub partitions: Vec<PartitionComparison>,
    /// The sums; at most [`DIFFERENCES_MAX`] differences, whose places are in [`Self::partitions`].
    pub totals: Outcome,
}

impl Comparison {
    pub(super) fn new(mut partitions: Vec<PartitionComparison>) -> Self {
        partitions.sort_by(|a, b| {
            (&a.pair.source_topic, &a.pair.target_topic, a.partition).cmp(&(
                &b.pair.source_topic,
                &b.pair.target_topic,
                b.partition,
            ))
        });
        let mut totals = Outcome::default();
        for PartitionComparison { outcome, .. } in &partitions {
            totals.source_records += outcome.source_records;
            totals.target_records += outcome.target_records;
            totals.matched += outcome.matched;
            totals.lost += outcome.lost;
            totals.duplicated += outcome.duplicated;
            totals.reordered += outcome.reordered;
            totals.different += outcome.different;
            totals.extra += outcome.extra;
            totals.announced += outcome.announced;
            let room = DIFFERENCES_MAX - totals.differences.len();
            totals.differences.extend(outcome.differences.iter().take(room).cloned());
        }
        Self { partitions, totals }
    }

    /// Whether both clusters hold the same records in the same order, announced copies aside.
    pub fn is_equal(&self) -> bool {
        self.totals.is_equal()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.totals;
        write!(
            f,
            "{}: {} partitions, {} source and {} target records, {} lost, {} duplicated, {} reordered, {} different, \
             {} extra, {} announced copies",
            if self.is_equal() { "equal" } else { "NOT EQUAL" },
            self.partitions.len(),
            t.source_records,
            t.target_records,
            t.lost,
            t.duplicated,
            t.reordered,
            t.different,
            t.extra,
            t.announced
        )?;
        let mut shown = 0;
        for PartitionComparison { pair, partition, outcome } in &self.partitions {
            for difference in outcome.differences.iter().take(DIFFERENCES_MAX - shown) {
                write!(f, "\n  {}-{partition} -> {}: {difference}", pair.source_topic, pair.target_topic)?;
                shown += 1;
            }
        }
        Ok(())
    }
}
