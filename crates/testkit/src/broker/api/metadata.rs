//! `Metadata`: brokers that are up, topics with their ids, leaders.

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse};

use crate::broker::call::{Call, Mentions, Served, leader_of, text, topic_name};
use crate::broker::code;
use crate::broker::partition::Partition;
use crate::broker::state::State;

impl Served for MetadataRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        let topics = self.topics.iter().flatten();
        topics.filter_map(|topic| Some((topic.name.as_ref()?.to_string(), -1))).collect()
    }

    async fn serve(self, call: Call) -> Option<MetadataResponse> {
        Some(call.shared.look(|state| answer(state, &call, &self)))
    }
}

fn answer(state: &State, call: &Call, request: &MetadataRequest) -> MetadataResponse {
    let up: Vec<_> = state.nodes.iter().filter(|(_, node)| node.up).collect();
    let brokers = up.iter().map(|(id, node)| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(**id))
            .with_host(text("127.0.0.1"))
            .with_port(i32::from(node.port))
    });
    let controller = up.first().map_or(-1, |(id, _)| **id);
    MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(text(&state.cluster_id)))
        .with_controller_id(BrokerId(controller))
        .with_topics(wanted(state, call, request))
}

fn wanted(state: &State, call: &Call, request: &MetadataRequest) -> Vec<MetadataResponseTopic> {
    let all = || state.topics.keys().map(|name| topic(state, call, name)).collect();
    let Some(asked) = &request.topics else { return all() };
    if asked.is_empty() && call.version == 0 {
        return all();
    }
    let one = |asked: &kafka_protocol::messages::metadata_request::MetadataRequestTopic| match &asked.name {
        Some(name) => topic(state, call, name),
        None => match state.topic_by_id(asked.topic_id) {
            Some(name) => topic(state, call, name),
            None => MetadataResponseTopic::default()
                .with_topic_id(asked.topic_id)
                .with_error_code(code::UNKNOWN_TOPIC_ID),
        },
    };
    asked.iter().map(one).collect()
}

fn topic(state: &State, call: &Call, name: &str) -> MetadataResponseTopic {
    let answer = MetadataResponseTopic::default().with_name(Some(topic_name(name)));
    if let Err(code) = call.scripted(name, -1) {
        return answer.with_error_code(code);
    }
    let Some(topic) = state.topics.get(name) else {
        return answer.with_error_code(code::UNKNOWN_TOPIC_OR_PARTITION);
    };
    let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| one(state, index, partition));
    answer.with_topic_id(topic.id).with_partitions(partitions.collect())
}

fn one(state: &State, index: i32, partition: &Partition) -> MetadataResponsePartition {
    let ids = |nodes: &[i32]| nodes.iter().copied().map(BrokerId).collect::<Vec<_>>();
    let down = |node: &&i32| state.nodes.get(*node).is_none_or(|node| !node.up);
    let offline: Vec<_> = partition.replicas.iter().filter(down).copied().collect();
    MetadataResponsePartition::default()
        .with_error_code(if partition.leader.is_some() { code::NONE } else { code::LEADER_NOT_AVAILABLE })
        .with_partition_index(index)
        .with_leader_id(leader_of(partition))
        .with_leader_epoch(partition.leader_epoch)
        .with_replica_nodes(ids(&partition.replicas))
        .with_isr_nodes(ids(&partition.isr))
        .with_offline_replicas(ids(&offline))
}
