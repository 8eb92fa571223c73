//! Records of the registry topic.

use mirrormesh_core::relay::registry::{Claim, ClaimKey, RegistryKey, RegistryValue, Writer, WriterKey};

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
    let claims = ("\\PC{0,8}", topic_name(), "[a-f0-9]{0,8}", flow_id(), cluster_id()).prop_map(
        |(source_cluster, topic, mesh_id, flow, source)| {
            let claim = RegistryValue::Claim(Claim { mesh_id, flow, source });
            (RegistryKey::Claim(ClaimKey { source_cluster, topic }), claim)
        },
    );
    prop_oneof![writers, claims]
}
