//! Reads the checkpoints that were written before, so that a new owner of a group goes on where the old one was.
//!
//! Owns the newest checkpoint of each partition of each group of a flow (MirrorMaker 2's `CheckpointStore`); what
//! follows from them is `rounds`' business.

use std::collections::BTreeMap;

use mirrormesh_core::format::mm2::Checkpoint;
use mirrormesh_core::ids::GroupId;
use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::InternalRecord;
use mirrormesh_worker::{Failure, InternalTable, Table};
use tokio::time::Instant;

/// The checkpoints of one flow.
pub(crate) struct CheckpointReader {
    client: Client,
    table: InternalTable<Newest>,
}

/// The newest checkpoint by group, target topic and partition.
#[derive(Debug, Default)]
struct Newest(BTreeMap<String, BTreeMap<(String, i32), Checkpoint>>);

impl CheckpointReader {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        Self { client, table: InternalTable::new(topic, Newest::default()) }
    }

    /// The newest checkpoints of a group, as of now: what an earlier owner wrote a moment ago is there.
    pub(crate) async fn of_group(&self, group: &GroupId) -> Result<Vec<Checkpoint>, Failure> {
        Ok(self.table.read(&self.client, Instant::now()).await?.of_group(group))
    }
}

impl Table for Newest {
    fn apply(&mut self, records: Vec<InternalRecord>, afresh: bool) {
        if afresh {
            self.0.clear();
        }
        for record in &records {
            self.take(record);
        }
    }
}

impl Newest {
    /// Takes one record; malformed ones are skipped, as MirrorMaker 2 does.
    fn take(&mut self, record: &InternalRecord) {
        let Some(key) = &record.key else { return };
        let decoded = match &record.value {
            Some(value) => Checkpoint::decode(key, value).map(|checkpoint| (checkpoint, true)),
            // A tombstone: only the key counts.
            None => Checkpoint::decode(key, &[0; 20]).map(|checkpoint| (checkpoint, false)),
        };
        match decoded {
            Ok((checkpoint, true)) => {
                let place = (checkpoint.topic.clone(), checkpoint.partition);
                self.0.entry(checkpoint.group.clone()).or_default().insert(place, checkpoint);
            }
            Ok((gone, false)) => {
                if let Some(partitions) = self.0.get_mut(&gone.group) {
                    partitions.remove(&(gone.topic, gone.partition));
                }
            }
            Err(error) => {
                tracing::warn!(offset = record.offset, %error, "a record of the checkpoints topic can't be read");
            }
        }
    }

    fn of_group(&self, group: &GroupId) -> Vec<Checkpoint> {
        self.0.get(group.as_str()).map(|found| found.values().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(group: &str, partition: i32, upstream: i64) -> Checkpoint {
        Checkpoint {
            group: group.into(),
            topic: "uk.t".into(),
            partition,
            upstream,
            downstream: upstream,
            metadata: String::new(),
        }
    }

    fn record(checkpoint: &Checkpoint, value: Option<Vec<u8>>) -> InternalRecord {
        InternalRecord { offset: 0, key: checkpoint.encode_key().ok(), value, timestamp_ms: 0 }
    }

    #[test]
    fn the_last_of_each_partition_counts_and_malformed_ones_are_skipped() {
        let mut newest = Newest::default();
        for checkpoint in
            [checkpoint("a", 0, 1), checkpoint("a", 1, 5), checkpoint("b", 0, 9), checkpoint("a", 0, 2)]
        {
            newest.take(&record(&checkpoint, checkpoint.encode_value().ok()));
        }
        newest.take(&record(&checkpoint("a", 0, 3), Some(vec![0, 1, 2])));
        newest.take(&InternalRecord { offset: 0, key: None, value: None, timestamp_ms: 0 });
        let group = GroupId::new("a").unwrap();
        assert_eq!(newest.of_group(&group), [checkpoint("a", 0, 2), checkpoint("a", 1, 5)]);
        newest.take(&record(&checkpoint("a", 0, 0), None));
        assert_eq!(newest.of_group(&group), [checkpoint("a", 1, 5)]);
        assert!(newest.of_group(&GroupId::new("c").unwrap()).is_empty());
    }
}
