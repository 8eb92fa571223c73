//! Reading the positions topic of one flow: to its end, again and again, keeping the newest of each key.
//!
//! Owns what was read so far. Must not write: who only looks uses it by itself.

use std::collections::BTreeMap;

use mirrormesh_core::ids::{FlowId, TopicId};
use mirrormesh_core::position::{Position, PositionKind, PositionValue};
use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::InternalRecord;
use mirrormesh_proto::convert::position::{decode_key, decode_value};
use mirrormesh_relay::chunks::Chunk;
use mirrormesh_relay::journal::Stored;
use mirrormesh_worker::{Failure, InternalTable, Table};
use tokio::time::Instant;

/// Everything of one partition by kind of record.
type Records = BTreeMap<PositionKind, PositionValue>;

/// The records of one flow, by partition of the target.
#[derive(Debug)]
struct Positions {
    flow: FlowId,
    topic: String,
    records: BTreeMap<(TopicId, i32), Records>,
}

impl Table for Positions {
    fn apply(&mut self, records: Vec<InternalRecord>, afresh: bool) {
        if afresh {
            self.records.clear();
        }
        for record in &records {
            self.take(record);
        }
    }
}

impl Positions {
    fn take(&mut self, record: &InternalRecord) {
        let Some(Ok(key)) = record.key.as_deref().map(decode_key) else {
            tracing::warn!(
                topic = self.topic,
                offset = record.offset,
                "skipped a record without a readable key"
            );
            return;
        };
        if key.flow != self.flow {
            return;
        }
        let place = self.records.entry((key.target_topic_id, key.partition)).or_default();
        match record.value.as_deref().map(|value| decode_value(&key, value)) {
            None => drop(place.remove(&key.kind)),
            Some(Ok(value)) => drop(place.insert(key.kind, value)),
            Some(Err(error)) => {
                tracing::warn!(topic = self.topic, offset = record.offset, %error, "skipped an unreadable record");
            }
        }
    }
}

/// The reader.
#[derive(Debug)]
pub(crate) struct PositionReader {
    flow: FlowId,
    target: Client,
    table: InternalTable<Positions>,
}

impl PositionReader {
    /// Of this flow's records in this topic. Opens nothing yet: it connects when it is first needed.
    pub(crate) fn new(flow: FlowId, topic: String, target: Client) -> Self {
        let positions = Positions { flow: flow.clone(), topic: topic.clone(), records: BTreeMap::new() };
        Self { flow, target, table: InternalTable::new(topic, positions) }
    }

    /// Whose records it reads.
    pub(super) fn flow(&self) -> &FlowId {
        &self.flow
    }

    /// Where they are.
    pub(super) fn topic(&self) -> &str {
        self.table.topic()
    }

    /// The cluster that has the topic.
    pub(super) fn target(&self) -> &Client {
        &self.target
    }

    /// Reads to the end of the topic, which must be there, and returns what is stored about a partition: as of when
    /// it was asked, or later.
    pub(super) async fn load(
        &self,
        asked: Instant,
        topic_id: TopicId,
        partition: i32,
    ) -> Result<Stored, Failure> {
        let missing = || {
            let message = format!("topic {} does not exist, though it was created", self.topic());
            std::future::ready(Err(Failure::new("UNKNOWN_TOPIC_OR_PARTITION", message)))
        };
        // Without positions a flow would begin where its generation began: a broker that lags must not say so.
        let told = self.table.read_or(&self.target, asked, missing).await?;
        let mut stored = Stored::default();
        for (kind, value) in told.records.get(&(topic_id, partition)).into_iter().flatten() {
            match (kind, value) {
                (PositionKind::Position { slot, .. }, PositionValue::Position(position)) => {
                    stored.positions.push((*slot, position.clone()));
                }
                (
                    PositionKind::Segments { producer_id, number, chunk },
                    PositionValue::Segments(segments),
                ) => {
                    stored.chunks.extend(Chunk::of((*producer_id, *number, *chunk), segments));
                }
                // Nobody writes that.
                (PositionKind::Position { .. }, PositionValue::Segments(_))
                | (PositionKind::Segments { .. }, PositionValue::Position(_)) => {}
            }
        }
        Ok(stored)
    }

    /// Reads to the end of the topic and returns the positions of these partitions, in their order. Writes nothing: where
    /// the topic is missing, there are none.
    pub(crate) async fn look(&self, partitions: &[(TopicId, i32)]) -> Result<Vec<Vec<Position>>, Failure> {
        let told = self.table.read(&self.target, Instant::now()).await?;
        let of = |partition: &(TopicId, i32)| {
            let values = told.records.get(partition).into_iter().flat_map(BTreeMap::values);
            let positions = values.filter_map(|value| match value {
                PositionValue::Position(position) => Some(position.clone()),
                PositionValue::Segments(_) => None,
            });
            positions.collect()
        };
        Ok(partitions.iter().map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_kafka::ClientConfig;
    use mirrormesh_testkit::broker::{FakeCluster, FakeSpec};

    /// A broker that does not know the topic says nothing about what is in it: a recovery that took it for empty would begin
    /// where the generation began.
    #[tokio::test]
    async fn a_topic_that_a_broker_does_not_know_is_no_empty_one_for_a_recovery() {
        let cluster = FakeCluster::start(FakeSpec::new("target")).await.unwrap();
        let client = Client::new(ClientConfig::new([cluster.address(1).unwrap()], "test")).unwrap();
        let flow = FlowId::new("f").unwrap();
        let reader = PositionReader::new(flow, "mirrormesh-positions.uk.internal".to_owned(), client);
        let partition = (TopicId([7; 16]), 0);
        let failed = reader.load(Instant::now(), partition.0, partition.1).await.unwrap_err();
        assert_eq!(failed.reason, "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(reader.look(&[partition]).await.unwrap(), [Vec::new()], "who only looks sees nothing yet");
    }
}
