//! `DescribeProducers`: what a replica remembers of producers. Any replica answers.

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::code;
use crate::broker::state::State;

impl Served for DescribeProducersRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        let one = |topic: &TopicRequest| {
            let name = topic.name.to_string();
            topic.partition_indexes.iter().map(|p| (name.clone(), *p)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(one).collect()
    }

    async fn serve(self, call: Call) -> Option<DescribeProducersResponse> {
        let topics = call.shared.change(|state| {
            let one = |topic: &TopicRequest| {
                let partitions = topic.partition_indexes.iter().map(|index| {
                    state.expire_if_due(&topic.name, *index, false);
                    let answer = PartitionResponse::default().with_partition_index(*index);
                    match describe(state, &call, &topic.name, *index) {
                        Ok(producers) => answer.with_active_producers(producers),
                        Err(code) => answer.with_error_code(code),
                    }
                });
                TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
            };
            self.topics.iter().map(one).collect()
        });
        Some(DescribeProducersResponse::default().with_topics(topics))
    }
}

fn describe(state: &State, call: &Call, topic: &str, index: i32) -> Result<Vec<ProducerState>, i16> {
    call.scripted(topic, index)?;
    let partition = state.partition(topic, index).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
    if !partition.is_replica(call.node) {
        return Err(code::NOT_LEADER_OR_FOLLOWER);
    }
    let one = |(id, producer): (&i64, &crate::broker::producers::ProducerState)| {
        ProducerState::default()
            .with_producer_id(ProducerId(*id))
            .with_producer_epoch(i32::from(producer.epoch))
            .with_last_sequence(producer.last_sequence())
            .with_last_timestamp(producer.last_timestamp)
            .with_coordinator_epoch(producer.coordinator_epoch)
            .with_current_txn_start_offset(producer.transaction_start.unwrap_or(-1))
    };
    Ok(partition.log.producers.states().iter().map(one).collect())
}
