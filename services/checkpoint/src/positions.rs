//! Reads the positions topic of a flow.
//!
//! Owns the reader and when it reads; what the records mean is `maps`' business.

use std::sync::Arc;

use mirrormesh_core::ids::FlowId;
use mirrormesh_core::translate::Translation;
use mirrormesh_kafka::Client;
use mirrormesh_kafka::librdkafka::InternalRecord;
use mirrormesh_proto::convert::position::{decode_key, decode_value};
use mirrormesh_worker::{Failure, InternalTable, Table};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::maps::OffsetMaps;

/// The positions of one flow.
pub(crate) struct PositionReader {
    client: Client,
    table: InternalTable<Maps>,
    maps: Maps,
}

/// Read by one, and looked at by all who translate.
// Lock: held for what one reading brought, so that nobody translates by a part of it, or for one look.
#[derive(Clone)]
struct Maps(Arc<Mutex<OffsetMaps>>);

impl Table for Maps {
    fn apply(&mut self, records: Vec<InternalRecord>, afresh: bool) {
        let mut maps = self.0.lock();
        if afresh {
            maps.clear();
        }
        for record in &records {
            apply(&mut maps, record);
        }
    }
}

impl PositionReader {
    pub(crate) fn new(flow: FlowId, client: Client, topic: String) -> Self {
        let maps = Maps(Arc::new(Mutex::new(OffsetMaps::new(flow))));
        Self { client, table: InternalTable::new(topic, maps.clone()), maps }
    }

    /// Reads to the end of the topic, unless that was begun at `since` or later. Callers that come while somebody
    /// reads wait for it: all groups of a flow share one reading.
    pub(crate) async fn refresh(&self, since: Instant) -> Result<(), Failure> {
        self.table.read(&self.client, since).await.map(drop)
    }

    /// Where a source offset is on the target, as of the last refresh.
    pub(crate) fn translate(
        &self,
        producer_id: i64,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Translation {
        self.maps.0.lock().translate(producer_id, topic, partition, offset)
    }
}

/// Takes one record. What can't be read is foreign or damaged: it is said once, and never taken for something else.
fn apply(maps: &mut OffsetMaps, record: &InternalRecord) {
    let Some(key) = &record.key else { return };
    let key = match decode_key(key) {
        Ok(key) => key,
        Err(error) => {
            tracing::warn!(offset = record.offset, %error, "a record of the positions topic has no readable key");
            return;
        }
    };
    match record.value.as_ref().map(|value| decode_value(&key, value)).transpose() {
        Ok(value) => maps.apply(&key, value),
        Err(error) => {
            tracing::warn!(offset = record.offset, %error, "a record of the positions topic can't be read");
            maps.apply_unreadable(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::epochs::Epochs;
    use mirrormesh_core::ids::TopicId;
    use mirrormesh_core::position::{LastBatch, Position, PositionKey, PositionKind, PositionValue};
    use mirrormesh_core::translate::Segment;
    use mirrormesh_core::unit::Generation;
    use mirrormesh_proto::convert::position::{encode_key, encode_value};

    fn record(key: Option<Vec<u8>>, value: Option<Vec<u8>>) -> InternalRecord {
        InternalRecord { offset: 0, key, value, timestamp_ms: 0 }
    }

    #[test]
    fn stored_records_become_maps_and_garbage_does_no_harm() {
        let flow = FlowId::new("f").unwrap();
        let generation = Generation { producer_id: 9, epoch: 0 };
        let key =
            |kind| PositionKey { flow: flow.clone(), target_topic_id: TopicId([7; 16]), partition: 0, kind };
        let position = Position {
            generation,
            sequence_base: 0,
            count: 10,
            source_offset: 12,
            source_topic_id: TopicId([1; 16]),
            source_leader_epoch: 3,
            target_offset: 10,
            target_leader_epoch: 4,
            last: LastBatch::default(),
            shared_leader_epoch: None,
            source_epochs: Epochs::default(),
            skip_version: 0,
            assignment_number: 1,
            topic: "t".into(),
            target_topic: "uk.t".into(),
        };
        let place = key(PositionKind::Position { generation, slot: 0 });
        let chunk = key(PositionKind::Segments { producer_id: 9, number: 1, chunk: 0 });
        let segments = PositionValue::Segments(vec![Segment { source: 0, target: 0, count: 10 }]);

        let mut maps = OffsetMaps::new(flow.clone());
        apply(&mut maps, &record(None, Some(vec![1])));
        apply(&mut maps, &record(Some(vec![0xff; 9]), Some(vec![1])));
        apply(&mut maps, &record(Some(encode_key(&chunk)), Some(encode_value(&segments))));
        let stored = encode_value(&PositionValue::Position(position));
        apply(&mut maps, &record(Some(encode_key(&place)), Some(stored)));
        assert_eq!(maps.translate(9, "t", 0, 4), Translation::At(4));
        assert_eq!(maps.translate(9, "t", 0, 11), Translation::At(10));
        apply(&mut maps, &record(Some(encode_key(&chunk)), Some(vec![0xff; 9])));
        assert_eq!(maps.translate(9, "t", 0, 4), Translation::NotYet, "a damaged chunk is a hole");
    }
}
