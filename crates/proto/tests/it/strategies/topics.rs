//! Records of the internal topics: positions and the registry.

use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::position::{LastBatch, Position, PositionKey, PositionKind, PositionValue, SLOTS};
use mirrormesh_core::registry::{Claim, ClaimKey, RegistryKey, RegistryValue, Writer, WriterKey};
use mirrormesh_core::translate::Segment;

use super::*;

/// Key and value of one kind; the value's producer id is the key's.
pub(crate) fn registry_record() -> impl Strategy<Value = (RegistryKey, RegistryValue)> {
    let by = ("\\PC{0,8}", cluster_id(), flow_id(), "[a-f0-9]{0,8}");
    let topics = (topic_name(), topic_id(), topic_id());
    let writers = (by, topics, any::<i64>(), partition_generation(), (topic_name(), 0..i32::MAX)).prop_map(
        |((source_cluster, source, flow, mesh_id), topics, first_offset, begun, (topic, partition))| {
            let (source_topic, source_topic_id, target_topic_id) = topics;
            let key = WriterKey { producer_id: begun.generation.producer_id, topic, partition };
            let writer = Writer {
                source_cluster,
                source,
                flow,
                mesh_id,
                source_topic,
                source_topic_id,
                target_topic_id,
                first_offset,
                begun,
            };
            (RegistryKey::Writer(key), RegistryValue::Writer(writer))
        },
    );
    let topics = (topic_name(), option::of(topic_name()));
    let claims = ("\\PC{0,8}", topics, "[a-f0-9]{0,8}", flow_id(), cluster_id()).prop_map(
        |(source_cluster, (topic, source_topic), mesh_id, flow, source)| {
            let claim = RegistryValue::Claim(Claim { mesh_id, flow, source, source_topic });
            (RegistryKey::Claim(ClaimKey { source_cluster, topic }), claim)
        },
    );
    prop_oneof![writers, claims]
}

pub(crate) fn position_record() -> impl Strategy<Value = (PositionKey, PositionValue)> {
    let positions = (generation(), 0..SLOTS, position()).prop_map(|(generation, slot, position)| {
        (PositionKind::Position { generation, slot }, PositionValue::Position(position))
    });
    let segment = any::<[i64; 3]>().prop_map(|[source, target, count]| Segment { source, target, count });
    let segments = (any::<i64>(), any::<u64>(), any::<u32>(), vec(segment, 0..4)).prop_map(
        |(producer_id, number, chunk, segments)| {
            (PositionKind::Segments { producer_id, number, chunk }, PositionValue::Segments(segments))
        },
    );
    (flow_id(), topic_id(), 0..i32::MAX, prop_oneof![positions, segments]).prop_map(
        |(flow, target_topic_id, partition, (kind, value))| {
            (PositionKey { flow, target_topic_id, partition, kind }, value)
        },
    )
}

fn position() -> impl Strategy<Value = Position> {
    let last = (any::<i32>(), any::<[i64; 2]>(), any::<u32>());
    (
        generation(),
        any::<[i64; 3]>(),
        any::<[i32; 3]>(),
        topic_id(),
        last,
        any::<([u64; 2], Option<i32>, Vec<(i32, i64)>)>(),
        "\\PC{0,8}",
    )
        .prop_map(
            |(
                generation,
                offsets,
                epochs,
                source_topic_id,
                (count, [base, max], body_crc),
                (numbers, shared_leader_epoch, source_epochs),
                topic,
            )| Position {
                generation,
                sequence_base: epochs[0],
                count: offsets[0],
                source_offset: offsets[1],
                source_topic_id,
                source_leader_epoch: epochs[1],
                shared_leader_epoch,
                source_epochs: Epochs::new(source_epochs),
                target_offset: offsets[2],
                target_leader_epoch: epochs[2],
                last: LastBatch { count, base_timestamp: base, max_timestamp: max, body_crc },
                skip_version: numbers[0],
                assignment_number: numbers[1],
                target_topic: format!("x.{topic}"),
                topic,
            },
        )
}
