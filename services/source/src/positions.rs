//! The positions topic of one flow: written by partition units, read to its end before a place is found.
//!
//! Owns the topic's creation and its writer, and has a reader of it; the meaning of a position is core's.

mod reader;

use std::collections::BTreeMap;
use std::sync::Arc;

use mirrormesh_core::flow::positions_topic;
use mirrormesh_core::ids::{ClusterId, FlowId, TopicId};
use mirrormesh_core::position::{PositionKey, PositionKind, PositionValue};
use mirrormesh_kafka::librdkafka::InternalReader;
use mirrormesh_proto::convert::position::{decode_key, decode_value, encode_key, encode_value};
use mirrormesh_relay::journal::Stored;
use mirrormesh_worker::{Failure, ensure_internal_topic, topic_exists};
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub(crate) use reader::PositionReader;

use crate::internal::InternalWriter;

/// The store.
#[derive(Debug)]
pub(crate) struct PositionStore {
    reader: PositionReader,
    replication_factor: Option<i16>,
    created: OnceCell<()>,
    writer: Arc<InternalWriter>,
}

impl PositionStore {
    /// Opens nothing yet: connections are made when first needed.
    pub(crate) fn new(
        reader: PositionReader,
        replication_factor: Option<i16>,
        writer: Arc<InternalWriter>,
    ) -> Self {
        Self { reader, replication_factor, created: OnceCell::new(), writer }
    }

    /// The topic's name.
    pub(crate) fn topic(&self) -> &str {
        self.reader.topic()
    }

    /// Makes the topic if it is missing: one partition, compacted.
    async fn ensure(&self) -> Result<(), Failure> {
        let (target, topic) = (self.reader.target(), self.reader.topic());
        let create = || ensure_internal_topic(target, topic, self.replication_factor);
        self.created.get_or_try_init(create).await.copied()
    }

    /// Reads to the end of the topic and returns what is stored about a partition.
    pub(crate) async fn load(&self, topic_id: TopicId, partition: i32) -> Result<Stored, Failure> {
        let asked = Instant::now();
        self.ensure().await?;
        self.reader.load(asked, topic_id, partition).await
    }

    /// Takes over what a flow of another mesh wrote about a target topic: its positions are this flow's from now on.
    /// Returns the highest assignment number in them.
    pub(crate) async fn adopt(
        &self,
        (source, flow): (&ClusterId, &FlowId),
        topic_id: TopicId,
    ) -> Result<u64, Failure> {
        let topic = positions_topic(source);
        if !topic_exists(self.reader.target(), &topic).await? {
            return Ok(0);
        }
        let mut reader = InternalReader::open(self.reader.target(), &topic).await?;
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
        let own = self.reader.flow();
        if topic != self.reader.topic() || flow != own {
            let renamed = theirs
                .into_iter()
                .map(|(key, value)| (PositionKey { flow: own.clone(), ..key }, Some(value)));
            self.write(renamed.collect()).await?;
        }
        Ok(highest)
    }

    /// Writes records in order and waits until they are acknowledged.
    pub(crate) async fn write(
        &self,
        records: Vec<(PositionKey, Option<PositionValue>)>,
    ) -> Result<(), Failure> {
        self.ensure().await?;
        let bytes = |(key, value): &(PositionKey, Option<PositionValue>)| {
            (encode_key(key), value.as_ref().map(encode_value))
        };
        self.writer.write(self.reader.topic(), records.iter().map(bytes)).await
    }
}
