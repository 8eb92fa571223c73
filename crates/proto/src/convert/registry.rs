//! The stored form of registry records: what flows write to `mirrormesh-registry.internal` on their targets.
//!
//! Owns the bytes; when they are written and what they mean is core's (`relay::registry`). Several meshes, perhaps of
//! several versions, share the topic. Keys are compared byte by byte by Kafka's compaction, so the encoding of a key must
//! never change.

use mirrormesh_core::registry::{Claim, ClaimKey, RegistryKey, RegistryValue, Writer, WriterKey};
use mirrormesh_core::unit::{Generation, PartitionGeneration};
use prost::Message;

use super::parts::{decode, epoch, id, inner, partition, required, topic_id};
use crate::error::ConvertError;
use crate::store::{self, registry_key::Kind};

/// The bytes of a key.
pub fn encode_registry_key(key: &RegistryKey) -> Vec<u8> {
    store::RegistryKey::from(key).encode_to_vec()
}

/// A key from its bytes. The bytes come from a topic that others may write to.
pub fn decode_registry_key(bytes: &[u8]) -> Result<RegistryKey, ConvertError> {
    let key: store::RegistryKey = decode("registry_key", bytes)?;
    RegistryKey::try_from(key).map_err(|fault| fault.within("registry_key"))
}

/// The bytes of a value.
pub fn encode_registry_value(value: &RegistryValue) -> Vec<u8> {
    match value {
        RegistryValue::Writer(writer) => store::Writer::from(writer).encode_to_vec(),
        RegistryValue::Claim(claim) => store::Claim::from(claim).encode_to_vec(),
    }
}

/// A value from its bytes; the key says of which kind it is.
pub fn decode_registry_value(key: &RegistryKey, bytes: &[u8]) -> Result<RegistryValue, ConvertError> {
    match key {
        RegistryKey::Writer(key) => {
            let writer: store::Writer = decode("writer", bytes)?;
            writer_from_store(writer, key.producer_id)
                .map(RegistryValue::Writer)
                .map_err(|fault| fault.within("writer"))
        }
        RegistryKey::Claim(_) => {
            let claim: store::Claim = decode("claim", bytes)?;
            Claim::try_from(claim).map(RegistryValue::Claim).map_err(|fault| fault.within("claim"))
        }
    }
}

impl From<&RegistryKey> for store::RegistryKey {
    fn from(key: &RegistryKey) -> Self {
        let kind = match key {
            RegistryKey::Writer(WriterKey { producer_id, topic, partition }) => {
                Kind::Writer(store::WriterKey {
                    producer_id: *producer_id,
                    target_topic: topic.to_string(),
                    partition: *partition,
                })
            }
            RegistryKey::Claim(ClaimKey { source_cluster, topic }) => Kind::Claim(store::ClaimKey {
                source_cluster_id: source_cluster.clone(),
                target_topic: topic.to_string(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<store::RegistryKey> for RegistryKey {
    type Error = ConvertError;

    fn try_from(key: store::RegistryKey) -> Result<Self, ConvertError> {
        Ok(match required(key.kind, "kind")? {
            Kind::Writer(writer) => Self::Writer(WriterKey {
                producer_id: writer.producer_id,
                topic: id(&writer.target_topic, "writer.target_topic")?,
                partition: partition(writer.partition, "writer.partition")?,
            }),
            Kind::Claim(claim) => Self::Claim(ClaimKey {
                source_cluster: claim.source_cluster_id,
                topic: id(&claim.target_topic, "claim.target_topic")?,
            }),
        })
    }
}

impl From<&Writer> for store::Writer {
    fn from(writer: &Writer) -> Self {
        Self {
            source_cluster_id: writer.source_cluster.clone(),
            source: writer.source.to_string(),
            flow_id: writer.flow.to_string(),
            mesh_id: writer.mesh_id.clone(),
            source_topic: writer.source_topic.to_string(),
            source_topic_id: writer.source_topic_id.0.to_vec(),
            target_topic_id: writer.target_topic_id.0.to_vec(),
            first_offset: writer.first_offset,
            epoch: writer.begun.generation.epoch.into(),
            start: Some((&writer.begun.start).into()),
        }
    }
}

/// The producer id is the key's.
fn writer_from_store(writer: store::Writer, producer_id: i64) -> Result<Writer, ConvertError> {
    let generation = Generation { producer_id, epoch: epoch(writer.epoch, "epoch")? };
    Ok(Writer {
        source_cluster: writer.source_cluster_id,
        source: id(&writer.source, "source")?,
        flow: id(&writer.flow_id, "flow_id")?,
        mesh_id: writer.mesh_id,
        source_topic: id(&writer.source_topic, "source_topic")?,
        source_topic_id: topic_id(&writer.source_topic_id, "source_topic_id")?,
        target_topic_id: topic_id(&writer.target_topic_id, "target_topic_id")?,
        first_offset: writer.first_offset,
        begun: PartitionGeneration { generation, start: inner(writer.start, "start")? },
    })
}

impl From<&Claim> for store::Claim {
    fn from(claim: &Claim) -> Self {
        Self {
            mesh_id: claim.mesh_id.clone(),
            flow_id: claim.flow.to_string(),
            source: claim.source.to_string(),
            source_topic: claim.source_topic.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl TryFrom<store::Claim> for Claim {
    type Error = ConvertError;

    fn try_from(claim: store::Claim) -> Result<Self, ConvertError> {
        Ok(Self {
            mesh_id: claim.mesh_id,
            flow: id(&claim.flow_id, "flow_id")?,
            source: id(&claim.source, "source")?,
            source_topic: match claim.source_topic.as_str() {
                "" => None,
                topic => Some(id(topic, "source_topic")?),
            },
        })
    }
}
