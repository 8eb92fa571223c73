//! The positions topic of one flow: written by partition units, read to its end before a place is found.
//!
//! Owns the topic's creation, its writer and what was read from it so far; the meaning of a position is core's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mirrormesh_core::flow::positions_topic;
use mirrormesh_core::ids::{ClusterId, FlowId, TopicId};
use mirrormesh_core::relay::chunks::Chunk;
use mirrormesh_core::relay::journal::Stored;
use mirrormesh_core::relay::position::{Position, PositionKey, PositionKind, PositionValue};
use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::InternalReader;
use mirrormesh_proto::convert::position::{decode_key, decode_value, encode_key, encode_value};
use mirrormesh_worker::{Failure, ensure_internal_topic, topic_exists};
use tokio::sync::{Mutex, OnceCell};

use crate::internal::InternalWriter;

/// Everything of one partition by kind of record.
type Records = BTreeMap<PositionKind, PositionValue>;

#[derive(Debug)]
struct Tail {
    reader: Option<InternalReader>,
    /// When the last complete reading began: who asked before then is served by it.
    read_from: Option<Instant>,
    records: BTreeMap<(TopicId, i32), Records>,
}

/// The store.
#[derive(Debug)]
pub(crate) struct PositionStore {
    flow: FlowId,
    topic: String,
    replication_factor: Option<i16>,
    target: Client,
    created: OnceCell<()>,
    writer: Arc<InternalWriter>,
    tail: Mutex<Tail>,
}

impl PositionStore {
    /// Opens nothing yet: connections are made when first needed.
    pub(crate) fn new(
        flow: FlowId,
        (topic, replication_factor): (String, Option<i16>),
        target: Client,
        writer: Arc<InternalWriter>,
    ) -> Self {
        Self {
            flow,
            topic,
            replication_factor,
            target,
            created: OnceCell::new(),
            writer,
            tail: Mutex::new(Tail { reader: None, read_from: None, records: BTreeMap::new() }),
        }
    }

    /// Makes the topic if it is missing: one partition, compacted.
    async fn ensure(&self) -> Result<(), Failure> {
        let create = || ensure_internal_topic(&self.target, &self.topic, self.replication_factor);
        self.created.get_or_try_init(create).await.copied()
    }

    /// Reads to the end of the topic and returns what is stored about a partition.
    pub(crate) async fn load(&self, topic_id: TopicId, partition: i32) -> Result<Stored, Failure> {
        let asked = Instant::now();
        self.ensure().await?;
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

    /// Takes over what a flow of another mesh wrote about a target topic: its positions are this flow's from now on.
    /// Returns the highest assignment number in them.
    pub(crate) async fn adopt(
        &self,
        (source, flow): (&ClusterId, &FlowId),
        topic_id: TopicId,
    ) -> Result<u64, Failure> {
        let topic = positions_topic(source);
        if !topic_exists(&self.target, &topic).await? {
            return Ok(0);
        }
        let mut reader = InternalReader::open(&self.target, &topic).await?;
        let records = reader.read_to_end().await?;
        reader.close().await;
        let mut theirs: BTreeMap<PositionKey, PositionValue> = BTreeMap::new();
        for record in records {
            let Some(Ok(key)) = record.key.as_deref().map(decode_key) else { continue };
            if key.flow != *flow || key.target_topic_id != topic_id {
                continue;
            }
            if let Some(Ok(value)) = record.value.as_deref().map(|value| decode_value(&key, value)) {
                theirs.insert(key, value);
            }
        }
        let number = |(key, value): (&PositionKey, &PositionValue)| match (key.kind, value) {
            (_, PositionValue::Position(position)) => position.assignment_number,
            (PositionKind::Segments { number, .. }, _) => number,
            (PositionKind::Position { .. }, PositionValue::Segments(_)) => 0,
        };
        let highest = theirs.iter().map(number).max().unwrap_or(0);
        if topic != self.topic || *flow != self.flow {
            let renamed = theirs
                .into_iter()
                .map(|(key, value)| (PositionKey { flow: self.flow.clone(), ..key }, value));
            self.write(renamed.collect()).await?;
        }
        Ok(highest)
    }

    /// Writes records in order and waits until they are acknowledged.
    pub(crate) async fn write(&self, records: Vec<(PositionKey, PositionValue)>) -> Result<(), Failure> {
        self.ensure().await?;
        let bytes = |(key, value): &(PositionKey, PositionValue)| (encode_key(key), encode_value(value));
        self.writer.write(&self.topic, records.iter().map(bytes)).await
    }
}
