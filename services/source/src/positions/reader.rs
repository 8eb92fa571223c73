//! Reading the positions topic of one flow: to its end, again and again, keeping the newest of each key.
//!
//! Owns what was read so far. Must not write: who only looks uses it by itself.

use std::collections::BTreeMap;
use std::time::Instant;

use mirrormesh_core::ids::{FlowId, TopicId};
use mirrormesh_core::position::{Position, PositionKind, PositionValue};
use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::InternalReader;
use mirrormesh_proto::convert::position::{decode_key, decode_value};
use mirrormesh_relay::chunks::Chunk;
use mirrormesh_relay::journal::Stored;
use mirrormesh_worker::{Failure, topic_exists};
use tokio::sync::Mutex;

/// Everything of one partition by kind of record.
type Records = BTreeMap<PositionKind, PositionValue>;

#[derive(Debug, Default)]
struct Tail {
    reader: Option<InternalReader>,
    /// When the last complete reading began: who asked before then is served by it.
    read_from: Option<Instant>,
    records: BTreeMap<(TopicId, i32), Records>,
}

/// The reader.
#[derive(Debug)]
pub(crate) struct PositionReader {
    flow: FlowId,
    topic: String,
    target: Client,
    tail: Mutex<Tail>,
}

impl PositionReader {
    /// Of this flow's records in this topic. Opens nothing yet: it connects when it is first needed.
    pub(crate) fn new(flow: FlowId, topic: String, target: Client) -> Self {
        Self { flow, topic, target, tail: Mutex::default() }
    }

    /// Whose records it reads.
    pub(super) fn flow(&self) -> &FlowId {
        &self.flow
    }

    /// Where they are.
    pub(super) fn topic(&self) -> &str {
        &self.topic
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
        let mut tail = self.tail.lock().await;
        if tail.read_from.is_none_or(|began| began < asked) {
            self.read(&mut tail).await?;
        }
        let mut stored = Stored::default();
        for (kind, value) in tail.records.get(&(topic_id, partition)).into_iter().flatten() {
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
        let mut tail = self.tail.lock().await;
        if tail.reader.is_some() || topic_exists(&self.target, &self.topic).await? {
            self.read(&mut tail).await?;
        }
        let of = |partition: &(TopicId, i32)| {
            let values = tail.records.get(partition).into_iter().flat_map(BTreeMap::values);
            let positions = values.filter_map(|value| match value {
                PositionValue::Position(position) => Some(position.clone()),
                PositionValue::Segments(_) => None,
            });
            positions.collect()
        };
        Ok(partitions.iter().map(of).collect())
    }

    async fn read(&self, tail: &mut Tail) -> Result<(), Failure> {
        let began = Instant::now();
        let reader = match &mut tail.reader {
            Some(reader) => reader,
            None => tail.reader.insert(InternalReader::open(&self.target, &self.topic).await?),
        };
        let records = match reader.read_to_end().await {
            Ok(records) => records,
            Err(error) => {
                // A reader that failed half-way is not trusted again: begin at the beginning.
                tail.reader = None;
                tail.read_from = None;
                tail.records.clear();
                return Err(error.into());
            }
        };
        for record in records {
            let Some(Ok(key)) = record.key.as_deref().map(decode_key) else {
                tracing::warn!(
                    topic = self.topic,
                    offset = record.offset,
                    "skipped a record without a readable key"
                );
                continue;
            };
            if key.flow != self.flow {
                continue;
            }
            let place = tail.records.entry((key.target_topic_id, key.partition)).or_default();
            match record.value.as_deref().map(|value| decode_value(&key, value)) {
                None => {
                    place.remove(&key.kind);
                }
                Some(Ok(value)) => {
                    place.insert(key.kind, value);
                }
                Some(Err(error)) => {
                    tracing::warn!(topic = self.topic, offset = record.offset, %error, "skipped an unreadable record");
                }
            }
        }
        tail.read_from = Some(began);
        Ok(())
    }
}
