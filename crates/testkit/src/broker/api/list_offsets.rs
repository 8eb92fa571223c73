//! `ListOffsets`: the ends of a log and offsets by time.

use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::code;
use crate::broker::log::Log;
use crate::broker::partition::Partition;
use crate::broker::state::State;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const READ_COMMITTED: i8 = 1;
const CONSUMER: i32 = -1;
/// Since this version the code for "not known yet" has a name of its own.
const OFFSET_NOT_AVAILABLE_FROM_VERSION: i16 = 5;

impl Served for ListOffsetsRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        let one = |topic: &kafka_protocol::messages::list_offsets_request::ListOffsetsTopic| {
            let name = topic.name.to_string();
            topic.partitions.iter().map(|p| (name.clone(), p.partition_index)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(one).collect()
    }

    async fn serve(self, call: Call) -> Option<ListOffsetsResponse> {
        let topics = call.shared.look(|state| {
            let topic = |topic: &kafka_protocol::messages::list_offsets_request::ListOffsetsTopic| {
                let partitions = topic.partitions.iter().map(|asked| {
                    let answer = ListOffsetsPartitionResponse::default()
                        .with_partition_index(asked.partition_index)
                        .with_leader_epoch(-1);
                    match find(state, &call, &self, &topic.name, asked) {
                        Ok((offset, timestamp, epoch)) => {
                            answer.with_offset(offset).with_timestamp(timestamp).with_leader_epoch(epoch)
                        }
                        Err(code) => answer.with_error_code(code).with_offset(-1).with_timestamp(-1),
                    }
                });
                ListOffsetsTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            };
            self.topics.iter().map(topic).collect()
        });
        Some(ListOffsetsResponse::default().with_topics(topics))
    }
}

/// Offset, timestamp and epoch.
fn find(
    state: &State,
    call: &Call,
    request: &ListOffsetsRequest,
    topic: &str,
    asked: &ListOffsetsPartition,
) -> Result<(i64, i64, i32), i16> {
    call.scripted(topic, asked.partition_index)?;
    let partition = call.led(state, topic, asked.partition_index, asked.current_leader_epoch)?;
    let log = &partition.log;
    let last = last_told(request, partition);
    match asked.timestamp {
        LATEST => {
            not_too_early(partition, request, last, call.version)?;
            Ok((last, -1, epoch_of_end(log, partition)))
        }
        EARLIEST | EARLIEST_LOCAL => Ok((log.log_start, -1, log.epoch_at(log.log_start))),
        MAX_TIMESTAMP => {
            let newest = log.batches.iter().map(|batch| batch.header.max_timestamp).max();
            let found = newest.and_then(|newest| log.offset_for_time(newest, last));
            Ok(found.map_or((-1, -1, -1), |(offset, time)| (offset, time, log.epoch_at(offset))))
        }
        time => {
            let found = log.offset_for_time(time, last);
            Ok(found.map_or((-1, -1, -1), |(offset, time)| (offset, time, log.epoch_at(offset))))
        }
    }
}

/// Consumers are told what they may read; others the log's end.
fn last_told(request: &ListOffsetsRequest, partition: &Partition) -> i64 {
    let log = &partition.log;
    match (request.replica_id.0, request.isolation_level) {
        (CONSUMER, READ_COMMITTED) => log.last_stable_offset(),
        (CONSUMER, _) => log.high_watermark,
        _ => log.log_end,
    }
}

fn epoch_of_end(log: &Log, partition: &Partition) -> i32 {
    if log.log_end == log.log_start {
        partition.leader_epoch
    } else {
        partition.leader_epoch.max(log.epoch_at(log.log_end))
    }
}

/// A new leader doesn't tell the newest offset until it knows that it is as high as the old one's.
fn not_too_early(
    partition: &Partition,
    request: &ListOffsetsRequest,
    last: i64,
    version: i16,
) -> Result<(), i16> {
    if request.replica_id.0 != CONSUMER || last >= partition.epoch_start {
        return Ok(());
    }
    Err(if version >= OFFSET_NOT_AVAILABLE_FROM_VERSION {
        code::OFFSET_NOT_AVAILABLE
    } else {
        code::LEADER_NOT_AVAILABLE
    })
}
