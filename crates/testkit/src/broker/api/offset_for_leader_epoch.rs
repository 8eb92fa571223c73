//! `OffsetForLeaderEpoch`: where an epoch ended.

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderTopic;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::state::State;

impl Served for OffsetForLeaderEpochRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        let one = |topic: &OffsetForLeaderTopic| {
            let name = topic.topic.to_string();
            topic.partitions.iter().map(|p| (name.clone(), p.partition)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(one).collect()
    }

    async fn serve(self, call: Call) -> Option<OffsetForLeaderEpochResponse> {
        let topics = call.shared.look(|state| self.topics.iter().map(|t| topic(state, &call, t)).collect());
        Some(OffsetForLeaderEpochResponse::default().with_topics(topics))
    }
}

fn topic(state: &State, call: &Call, topic: &OffsetForLeaderTopic) -> OffsetForLeaderTopicResult {
    let partitions = topic.partitions.iter().map(|asked| {
        let answer = EpochEndOffset::default().with_partition(asked.partition);
        let found = call
            .scripted(&topic.topic, asked.partition)
            .and_then(|()| call.led(state, &topic.topic, asked.partition, asked.current_leader_epoch));
        match found {
            Ok(partition) => {
                let (epoch, end) = partition.log.epoch_end(asked.leader_epoch);
                answer.with_leader_epoch(epoch).with_end_offset(end)
            }
            Err(code) => answer.with_error_code(code).with_leader_epoch(-1).with_end_offset(-1),
        }
    });
    OffsetForLeaderTopicResult::default()
        .with_topic(topic.topic.clone())
        .with_partitions(partitions.collect())
}
