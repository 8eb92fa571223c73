//! `DeleteRecords`: the log begins later.

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::code;
use crate::broker::state::State;

/// Stands for the high watermark.
const TO_HIGH_WATERMARK: i64 = -1;

impl Served for DeleteRecordsRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        let one = |topic: &DeleteRecordsTopic| {
            let name = topic.name.to_string();
            topic.partitions.iter().map(|p| (name.clone(), p.partition_index)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(one).collect()
    }

    async fn serve(self, call: Call) -> Option<DeleteRecordsResponse> {
        let topics = call.shared.change(|state| {
            let one = |topic: &DeleteRecordsTopic| {
                let partitions = topic.partitions.iter().map(|asked| {
                    let answer =
                        DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
                    match delete(state, &call, &topic.name, asked) {
                        Ok(start) => answer.with_low_watermark(start),
                        Err(code) => answer.with_error_code(code).with_low_watermark(-1),
                    }
                });
                DeleteRecordsTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            };
            self.topics.iter().map(one).collect()
        });
        Some(DeleteRecordsResponse::default().with_topics(topics))
    }
}

fn delete(state: &mut State, call: &Call, topic: &str, asked: &DeleteRecordsPartition) -> Result<i64, i16> {
    call.scripted(topic, asked.partition_index)?;
    let high_watermark = call.led(state, topic, asked.partition_index, -1)?.log.high_watermark;
    if !state.setting(topic, "cleanup.policy").contains("delete") {
        return Err(code::POLICY_VIOLATION);
    }
    let to = if asked.offset == TO_HIGH_WATERMARK { high_watermark } else { asked.offset };
    if !(0..=high_watermark).contains(&to) {
        return Err(code::OFFSET_OUT_OF_RANGE);
    }
    let log = state.log_mut(topic, asked.partition_index).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
    log.advance_start(to);
    Ok(log.log_start)
}
