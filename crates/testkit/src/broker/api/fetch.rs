//! `Fetch`: whole batches up to the high watermark or the last stable offset; waits for more if there is too little.
//!
//! Sessions are not offered: a client that asks for one gets a full answer and no session.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
};
use kafka_protocol::messages::{FetchRequest, FetchResponse, ProducerId};
use tokio::time::Instant;

use crate::broker::call::{Call, Mentions, Served, leader_of, resolve};
use crate::broker::code;
use crate::broker::fault::Fault;
use crate::broker::partition::Partition;
use crate::broker::state::State;

const READ_COMMITTED: i8 = 1;
/// Since this version any replica serves consumers (KIP-392).
const FOLLOWERS_FROM_VERSION: i16 = 11;

impl Served for FetchRequest {
    fn mentions(&self, state: &State) -> Mentions {
        let mut mentions = Mentions::new();
        for topic in &self.topics {
            if let Ok(name) = resolve(state, &topic.topic, topic.topic_id) {
                mentions.extend(topic.partitions.iter().map(|p| (name.clone(), p.partition)));
            }
        }
        mentions
    }

    async fn serve(self, call: Call) -> Option<FetchResponse> {
        if let Some(code) = call.claimed.whole_error() {
            return Some(FetchResponse::default().with_error_code(code));
        }
        if self.session_id != 0 {
            return Some(FetchResponse::default().with_error_code(code::FETCH_SESSION_ID_NOT_FOUND));
        }
        let mut bell = call.shared.bell();
        let wait = Duration::from_millis(u64::try_from(self.max_wait_ms).unwrap_or(0));
        let deadline = Instant::now() + wait;
        loop {
            let mut read = call.shared.look(|state| read_all(state, &call, &self));
            let enough = read.bytes >= usize::try_from(self.min_bytes).unwrap_or(0);
            if enough || read.urgent || Instant::now() >= deadline {
                if call.claimed.faults.contains(&Fault::CorruptRecords) {
                    corrupt(&mut read.topics);
                }
                return Some(FetchResponse::default().with_responses(read.topics));
            }
            // The state lives as long as the call does: the bell can't be gone.
            let _ = tokio::time::timeout_at(deadline, bell.changed()).await;
        }
    }
}

#[derive(Default)]
struct Read {
    topics: Vec<FetchableTopicResponse>,
    bytes: usize,
    /// Something that the client must hear of at once.
    urgent: bool,
}

fn read_all(state: &State, call: &Call, request: &FetchRequest) -> Read {
    let mut read = Read::default();
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0);
    for topic in &request.topics {
        let name = resolve(state, &topic.topic, topic.topic_id);
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let room = bytes_max.saturating_sub(read.bytes);
            let first = read.bytes == 0;
            let found = name.as_deref().map_err(|code| *code);
            let outcome = found.and_then(|name| read_one(state, call, request, name, asked, (room, first)));
            let data = outcome.unwrap_or_else(|code| {
                read.urgent = true;
                refused(state, name.as_deref().unwrap_or(""), asked.partition, code)
            });
            read.urgent |= data.diverging_epoch.end_offset >= 0;
            read.bytes += data.records.as_ref().map_or(0, Bytes::len);
            partitions.push(data);
        }
        read.topics.push(
            FetchableTopicResponse::default()
                .with_topic(topic.topic.clone())
                .with_topic_id(topic.topic_id)
                .with_partitions(partitions),
        );
    }
    read
}

fn refused(state: &State, topic: &str, index: i32, code: i16) -> PartitionData {
    let mut data = PartitionData::default()
        .with_partition_index(index)
        .with_error_code(code)
        .with_high_watermark(-1)
        .with_last_stable_offset(-1)
        .with_log_start_offset(-1)
        .with_records(Some(Bytes::new()));
    if matches!(code, code::NOT_LEADER_OR_FOLLOWER | code::FENCED_LEADER_EPOCH)
        && let Some(partition) = state.partition(topic, index)
    {
        data.current_leader = LeaderIdAndEpoch::default()
            .with_leader_id(leader_of(partition))
            .with_leader_epoch(partition.leader_epoch);
    }
    data
}

fn read_one(
    state: &State,
    call: &Call,
    request: &FetchRequest,
    topic: &str,
    asked: &FetchPartition,
    (room, first): (usize, bool),
) -> Result<PartitionData, i16> {
    call.scripted(topic, asked.partition)?;
    let partition = readable(state, call, topic, asked)?;
    let (log, offset) = (&partition.log, asked.fetch_offset);
    let committed = request.isolation_level == READ_COMMITTED;
    let last_stable = log.last_stable_offset();
    let data = PartitionData::default()
        .with_partition_index(asked.partition)
        .with_high_watermark(log.high_watermark)
        .with_last_stable_offset(last_stable)
        .with_log_start_offset(log.log_start)
        .with_aborted_transactions(committed.then(Vec::new))
        .with_records(Some(Bytes::new()));
    if asked.last_fetched_epoch >= 0 && call.version >= 12 {
        let (epoch, end) = log.epoch_end(asked.last_fetched_epoch);
        if end < 0 {
            return Err(code::OFFSET_OUT_OF_RANGE);
        }
        if epoch < asked.last_fetched_epoch || end < offset {
            let diverging = EpochEndOffset::default().with_epoch(epoch).with_end_offset(end);
            return Ok(data.with_diverging_epoch(diverging));
        }
    }
    if offset < log.log_start || offset > log.log_end {
        return Err(code::OFFSET_OUT_OF_RANGE);
    }
    let to = if committed { last_stable } else { log.high_watermark };
    let bytes_max = room.min(usize::try_from(asked.partition_max_bytes).unwrap_or(0));
    let records = log.read(offset, to, bytes_max, first);
    let aborted = committed.then(|| {
        // Up to where the answer's bytes end by the offset index, which is coarse: here, the end of the log.
        let touching = log.aborted_in(offset, log.log_end).into_iter();
        let told = touching.map(|aborted| {
            AbortedTransaction::default()
                .with_producer_id(ProducerId(aborted.producer_id))
                .with_first_offset(aborted.first_offset)
        });
        told.collect()
    });
    Ok(data.with_records(Some(records)).with_aborted_transactions(aborted))
}

/// The partition, if this node serves it to readers.
fn readable<'s>(
    state: &'s State,
    call: &Call,
    topic: &str,
    asked: &FetchPartition,
) -> Result<&'s Partition, i16> {
    let index = asked.partition;
    let partition = state.partition(topic, index).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
    if call.version >= FOLLOWERS_FROM_VERSION && partition.is_replica(call.node) {
        call.check_epoch(partition, asked.current_leader_epoch)?;
        return Ok(partition);
    }
    call.led(state, topic, index, asked.current_leader_epoch)
}

/// Changes the last byte of the first records that are found.
fn corrupt(topics: &mut [FetchableTopicResponse]) {
    for data in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let mut bytes = BytesMut::from(data.records.as_deref().unwrap_or_default());
        if let Some(last) = bytes.last_mut() {
            *last ^= 0x55;
            data.records = Some(bytes.freeze());
            return;
        }
    }
}
