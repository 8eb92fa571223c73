//! The stored form of what users specify and workers find: specifications, units, topics, events.

use std::collections::BTreeMap;

use mirrormesh_core::control::{SeenTopic, TopicEntry};
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::{ClusterSpec, Generation, PartitionGeneration, PartitionStart, Role, Unit};

use super::parts::{each, epoch, flag, id, inner, partition, required, topic_id};
use crate::error::ConvertError;
use crate::store;

impl From<Role> for store::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Source => Self::Source,
            Role::Checkpoint => Self::Checkpoint,
            Role::Heartbeat => Self::Heartbeat,
        }
    }
}

impl TryFrom<store::Role> for Role {
    type Error = ConvertError;

    fn try_from(role: store::Role) -> Result<Self, ConvertError> {
        super::parts::role(role.into(), "role")
    }
}

impl From<&ClusterSpec> for store::ClusterSpec {
    fn from(spec: &ClusterSpec) -> Self {
        Self {
            bootstrap_servers: spec.bootstrap_servers.clone(),
            properties: spec.properties.clone(),
            kafka_cluster_id: spec.kafka_cluster_id.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<store::ClusterSpec> for ClusterSpec {
    type Error = ConvertError;

    fn try_from(spec: store::ClusterSpec) -> Result<Self, ConvertError> {
        Ok(Self {
            bootstrap_servers: spec.bootstrap_servers,
            properties: spec.properties,
            kafka_cluster_id: Some(spec.kafka_cluster_id).filter(|id| !id.is_empty()),
        })
    }
}

/// 0 is the default, which the domain says as `None`.
pub(super) fn replication_factor(value: i32, field: &str) -> Result<Option<i16>, ConvertError> {
    match i16::try_from(value) {
        Ok(0) => Ok(None),
        Ok(factor) if factor > 0 => Ok(Some(factor)),
        _ => Err(ConvertError::new(field, format!("{value} is not between 0 (the default) and 32767"))),
    }
}

impl From<&Generation> for store::Generation {
    fn from(generation: &Generation) -> Self {
        Self { producer_id: generation.producer_id, epoch: generation.epoch.into() }
    }
}

impl TryFrom<store::Generation> for Generation {
    type Error = ConvertError;

    fn try_from(generation: store::Generation) -> Result<Self, ConvertError> {
        Ok(Self { producer_id: generation.producer_id, epoch: epoch(generation.epoch, "epoch")? })
    }
}

impl From<&Unit> for store::Unit {
    fn from(unit: &Unit) -> Self {
        use store::unit::Kind;
        let kind = match unit {
            Unit::Topology(_) => Kind::Topology(true),
            Unit::Groups(_) => Kind::Groups(true),
            Unit::Heartbeat(_) => Kind::Heartbeat(true),
            Unit::Group(_, group) => Kind::Group(group.to_string()),
            Unit::Partition(_, topic, partition) => {
                Kind::Partition(store::PartitionUnit { topic: topic.to_string(), partition: *partition })
            }
        };
        Self { flow_id: unit.flow().to_string(), kind: Some(kind) }
    }
}

impl TryFrom<store::Unit> for Unit {
    type Error = ConvertError;

    fn try_from(unit: store::Unit) -> Result<Self, ConvertError> {
        use store::unit::Kind;
        let flow = id(&unit.flow_id, "flow_id")?;
        match required(unit.kind, "kind")? {
            Kind::Topology(set) => flag(set, "topology").map(|()| Self::Topology(flow)),
            Kind::Groups(set) => flag(set, "groups").map(|()| Self::Groups(flow)),
            Kind::Heartbeat(set) => flag(set, "heartbeat").map(|()| Self::Heartbeat(flow)),
            Kind::Group(group) => Ok(Self::Group(flow, id(&group, "group")?)),
            Kind::Partition(unit) => Ok(Self::Partition(
                flow,
                id(&unit.topic, "partition.topic")?,
                partition(unit.partition, "partition.partition")?,
            )),
        }
    }
}

impl From<&PartitionStart> for store::PartitionStart {
    fn from(start: &PartitionStart) -> Self {
        Self {
            source_offset: start.source_offset,
            target_offset: start.target_offset,
            read_uncommitted: Some(start.read_uncommitted),
            skip_mirrored: start.skip_mirrored,
            adopted: start.adopted,
            source_leader_epoch: start.source_leader_epoch,
            strict: false,
            marked: start.marked,
        }
    }
}

impl TryFrom<store::PartitionStart> for PartitionStart {
    type Error = ConvertError;

    fn try_from(start: store::PartitionStart) -> Result<Self, ConvertError> {
        Ok(Self {
            source_offset: start.source_offset,
            target_offset: start.target_offset,
            // Absent in what earlier versions wrote: who reads a whole flow fills it in before.
            read_uncommitted: start.read_uncommitted.unwrap_or_default(),
            skip_mirrored: start.skip_mirrored,
            adopted: start.adopted,
            source_leader_epoch: start.source_leader_epoch,
            marked: start.strict || start.marked,
        })
    }
}

impl From<&PartitionGeneration> for store::PartitionGeneration {
    fn from(begun: &PartitionGeneration) -> Self {
        Self { generation: Some((&begun.generation).into()), start: Some((&begun.start).into()) }
    }
}

impl TryFrom<store::PartitionGeneration> for PartitionGeneration {
    type Error = ConvertError;

    fn try_from(begun: store::PartitionGeneration) -> Result<Self, ConvertError> {
        Ok(Self { generation: inner(begun.generation, "generation")?, start: inner(begun.start, "start")? })
    }
}

impl From<&TopicEntry> for store::TopicEntry {
    fn from(entry: &TopicEntry) -> Self {
        Self {
            topic: entry.topic.to_string(),
            target_topic: entry.target_topic.to_string(),
            source_topic_id: entry.source_topic_id.0.to_vec(),
            target_topic_id: entry.target_topic_id.0.to_vec(),
            starts: entry.starts.iter().map(Into::into).collect(),
            generations: entry.generations.iter().map(|(number, begun)| (*number, begun.into())).collect(),
            earliest: entry.earliest.clone(),
        }
    }
}

impl TryFrom<store::TopicEntry> for TopicEntry {
    type Error = ConvertError;

    fn try_from(entry: store::TopicEntry) -> Result<Self, ConvertError> {
        Ok(Self {
            topic: id(&entry.topic, "topic")?,
            target_topic: id(&entry.target_topic, "target_topic")?,
            source_topic_id: topic_id(&entry.source_topic_id, "source_topic_id")?,
            target_topic_id: topic_id(&entry.target_topic_id, "target_topic_id")?,
            starts: each(entry.starts, "starts", PartitionStart::try_from)?,
            generations: BTreeMap::from_iter(each(entry.generations, "generations", |(number, begun)| {
                Ok((partition(number, "")?, PartitionGeneration::try_from(begun)?))
            })?),
            earliest: entry.earliest,
        })
    }
}

impl From<&SeenTopic> for store::SeenTopic {
    fn from(seen: &SeenTopic) -> Self {
        Self { topic: seen.topic.to_string(), partitions: seen.partitions, selected: seen.selected }
    }
}

impl TryFrom<store::SeenTopic> for SeenTopic {
    type Error = ConvertError;

    fn try_from(seen: store::SeenTopic) -> Result<Self, ConvertError> {
        Ok(Self {
            topic: id(&seen.topic, "topic")?,
            partitions: partition(seen.partitions, "partitions")?,
            selected: seen.selected,
        })
    }
}

impl From<&Event> for store::Event {
    fn from(event: &Event) -> Self {
        Self {
            flow_id: event.flow.to_string(),
            time_ms: event.time_ms,
            reason: event.reason.clone(),
            message: event.message.clone(),
            subject: event.subject.clone(),
            from_offset: event.from_offset,
            to_offset: event.to_offset,
            count: event.count,
            sequence: event.sequence,
        }
    }
}

impl TryFrom<store::Event> for Event {
    type Error = ConvertError;

    fn try_from(event: store::Event) -> Result<Self, ConvertError> {
        Ok(Self {
            flow: id(&event.flow_id, "flow_id")?,
            time_ms: event.time_ms,
            reason: event.reason,
            message: event.message,
            subject: event.subject,
            from_offset: event.from_offset,
            to_offset: event.to_offset,
            count: event.count,
            sequence: event.sequence,
        })
    }
}
