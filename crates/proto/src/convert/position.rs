//! The stored form of position records: what a flow writes to `mirrormesh-positions.{source}.internal`.
//!
//! Owns the bytes; when they are written and what they mean is core's (`relay::position`). Keys are compared byte by
//! byte by Kafka's compaction, so the encoding of a key must never change.

use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::position::{LastBatch, Position, PositionKey, PositionKind, PositionValue, SLOTS};
use mirrormesh_core::translate::Segment;
use mirrormesh_core::unit::Generation;
use prost::Message;

use super::parts::{decode, epoch, id, partition, required, topic_id};
use crate::error::ConvertError;
use crate::store::{self, position_key::Kind};

/// The bytes of a key.
pub fn encode_key(key: &PositionKey) -> Vec<u8> {
    store::PositionKey::from(key).encode_to_vec()
}

/// A key from its bytes. The bytes come from a topic that others may write to.
pub fn decode_key(bytes: &[u8]) -> Result<PositionKey, ConvertError> {
    let key: store::PositionKey = decode("position_key", bytes)?;
    PositionKey::try_from(key).map_err(|fault| fault.within("position_key"))
}

/// The bytes of a value.
pub fn encode_value(value: &PositionValue) -> Vec<u8> {
    match value {
        PositionValue::Position(position) => store::Position::from(position).encode_to_vec(),
        PositionValue::Segments(segments) => {
            let segments = segments.iter().map(Into::into).collect();
            store::Segments { segments }.encode_to_vec()
        }
    }
}

/// A value from its bytes; the key says of which kind it is.
pub fn decode_value(key: &PositionKey, bytes: &[u8]) -> Result<PositionValue, ConvertError> {
    match key.kind {
        PositionKind::Position { .. } => {
            let position: store::Position = decode("position", bytes)?;
            Position::try_from(position)
                .map(PositionValue::Position)
                .map_err(|fault| fault.within("position"))
        }
        PositionKind::Segments { .. } => {
            let stored: store::Segments = decode("segments", bytes)?;
            Ok(PositionValue::Segments(stored.segments.into_iter().map(Segment::from).collect()))
        }
    }
}

impl From<&PositionKey> for store::PositionKey {
    fn from(key: &PositionKey) -> Self {
        let kind = match key.kind {
            PositionKind::Position { generation, slot } => Kind::Position(store::PositionSlot {
                producer_id: generation.producer_id,
                epoch: generation.epoch.into(),
                slot,
            }),
            PositionKind::Segments { producer_id, number, chunk } => {
                Kind::Segments(store::SegmentChunk { producer_id, chunk, assignment_number: number })
            }
        };
        Self {
            flow_id: key.flow.to_string(),
            target_topic_id: key.target_topic_id.0.to_vec(),
            partition: key.partition,
            kind: Some(kind),
        }
    }
}

impl TryFrom<store::PositionKey> for PositionKey {
    type Error = ConvertError;

    fn try_from(key: store::PositionKey) -> Result<Self, ConvertError> {
        let kind = match required(key.kind, "kind")? {
            Kind::Position(slot) if slot.slot >= SLOTS => {
                return Err(ConvertError::new("position.slot", format!("{} is not a slot", slot.slot)));
            }
            Kind::Position(store::PositionSlot { producer_id, epoch: of, slot }) => PositionKind::Position {
                generation: Generation { producer_id, epoch: epoch(of, "position.epoch")? },
                slot,
            },
            Kind::Segments(store::SegmentChunk { producer_id, chunk, assignment_number: number }) => {
                PositionKind::Segments { producer_id, number, chunk }
            }
        };
        Ok(Self {
            flow: id(&key.flow_id, "flow_id")?,
            target_topic_id: topic_id(&key.target_topic_id, "target_topic_id")?,
            partition: partition(key.partition, "partition")?,
            kind,
        })
    }
}

impl From<&Position> for store::Position {
    fn from(position: &Position) -> Self {
        Self {
            producer_id: position.generation.producer_id,
            epoch: position.generation.epoch.into(),
            sequence_base: position.sequence_base,
            count: position.count,
            source_offset: position.source_offset,
            source_topic_id: position.source_topic_id.0.to_vec(),
            source_leader_epoch: position.source_leader_epoch,
            target_offset: position.target_offset,
            target_leader_epoch: position.target_leader_epoch,
            last_count: position.last.count,
            last_base_timestamp: position.last.base_timestamp,
            last_max_timestamp: position.last.max_timestamp,
            last_body_crc: position.last.body_crc,
            skip_version: position.skip_version,
            assignment_number: position.assignment_number,
            topic: position.topic.clone(),
            target_topic: position.target_topic.clone(),
            shared_leader_epoch: position.shared_leader_epoch,
            source_epochs: position
                .source_epochs
                .iter()
                .map(|(epoch, start_offset)| store::LeaderEpoch { epoch, start_offset })
                .collect(),
        }
    }
}

impl TryFrom<store::Position> for Position {
    type Error = ConvertError;

    fn try_from(position: store::Position) -> Result<Self, ConvertError> {
        Ok(Self {
            generation: Generation {
                producer_id: position.producer_id,
                epoch: epoch(position.epoch, "epoch")?,
            },
            sequence_base: position.sequence_base,
            count: position.count,
            source_offset: position.source_offset,
            source_topic_id: topic_id(&position.source_topic_id, "source_topic_id")?,
            source_leader_epoch: position.source_leader_epoch,
            target_offset: position.target_offset,
            target_leader_epoch: position.target_leader_epoch,
            last: LastBatch {
                count: position.last_count,
                base_timestamp: position.last_base_timestamp,
                max_timestamp: position.last_max_timestamp,
                body_crc: position.last_body_crc,
            },
            skip_version: position.skip_version,
            assignment_number: position.assignment_number,
            topic: position.topic,
            target_topic: position.target_topic,
            shared_leader_epoch: position.shared_leader_epoch,
            source_epochs: Epochs::new(
                position.source_epochs.iter().map(|known| (known.epoch, known.start_offset)),
            ),
        })
    }
}

impl From<&Segment> for store::Segment {
    fn from(segment: &Segment) -> Self {
        Self { source_offset: segment.source, target_offset: segment.target, count: segment.count }
    }
}

impl From<store::Segment> for Segment {
    fn from(segment: store::Segment) -> Self {
        Self { source: segment.source_offset, target: segment.target_offset, count: segment.count }
    }
}
