//! `Produce`: checks, appends, and waits for the replicas where all of them shall have it.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse};
use tokio::time::Instant;

use crate::broker::batch::{self, TRANSACTIONAL};
use crate::broker::call::{Call, Mentions, Served, leader_of, resolve, text};
use crate::broker::code;
use crate::broker::producers::Verdict;
use crate::broker::state::State;
use crate::broker::validate::{self, Refusal};

const ACKS_ALL: i16 = -1;

/// An append that all replicas in sync must have before it is acknowledged.
struct Due {
    topic: String,
    partition: i32,
    leader_epoch: i32,
    /// The high watermark that tells.
    needed: i64,
    /// Where its answer stands.
    place: (usize, usize),
}

impl Served for ProduceRequest {
    fn mentions(&self, state: &State) -> Mentions {
        let mut mentions = Mentions::new();
        for topic in &self.topic_data {
            if let Ok(name) = resolve(state, &topic.name, topic.topic_id) {
                mentions.extend(topic.partition_data.iter().map(|p| (name.clone(), p.index)));
            }
        }
        mentions
    }

    async fn serve(self, call: Call) -> Option<ProduceResponse> {
        let mut bell = call.shared.bell();
        let (mut response, mut due) = call.shared.change(|state| append_all(state, &call, &self));
        let timeout = Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0));
        let deadline = Instant::now() + timeout;
        while !due.is_empty() {
            let timed_out = Instant::now() >= deadline;
            call.shared.look(|state| due.retain(|due| !settle(state, &call, due, &mut response, timed_out)));
            if !due.is_empty() {
                // The state lives as long as the call does: the bell can't be gone.
                let _ = tokio::time::timeout_at(deadline, bell.changed()).await;
            }
        }
        (self.acks != 0).then_some(response)
    }
}

fn append_all(state: &mut State, call: &Call, request: &ProduceRequest) -> (ProduceResponse, Vec<Due>) {
    let mut due = Vec::new();
    let mut topics = Vec::new();
    let refused_as_a_whole = refusal_of_whole(request);
    for (topic_place, topic) in request.topic_data.iter().enumerate() {
        let name = resolve(state, &topic.name, topic.topic_id);
        let mut partitions = Vec::new();
        for (place, data) in topic.partition_data.iter().enumerate() {
            let outcome = match (&name, refused_as_a_whole) {
                (_, Some(code)) => Err(Refusal::new(code, "")),
                (Err(code), None) => Err(Refusal::new(*code, "")),
                (Ok(name), None) => append(state, call, request, name, data.index, data.records.as_ref()),
            };
            let answer = PartitionProduceResponse::default().with_index(data.index);
            partitions.push(match outcome {
                Ok(appended) => {
                    if let (ACKS_ALL, Ok(name)) = (request.acks, &name) {
                        let place = (topic_place, place);
                        due.push(Due {
                            topic: name.clone(),
                            partition: data.index,
                            leader_epoch: appended.leader_epoch,
                            needed: appended.needed,
                            place,
                        });
                    }
                    answer
                        .with_base_offset(appended.base_offset)
                        .with_log_append_time_ms(appended.log_append_time_ms)
                        .with_log_start_offset(appended.log_start)
                }
                Err(refusal) => refused(state, name.as_deref().unwrap_or(""), answer, &refusal),
            });
        }
        topics.push(
            TopicProduceResponse::default()
                .with_name(topic.name.clone())
                .with_topic_id(topic.topic_id)
                .with_partition_responses(partitions),
        );
    }
    let endpoints = endpoints(state, call.version, &topics);
    (ProduceResponse::default().with_responses(topics).with_node_endpoints(endpoints), due)
}

/// A request that no partition of can be taken.
fn refusal_of_whole(request: &ProduceRequest) -> Option<i16> {
    let data = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let is_transactional = |bytes: &Bytes| {
        let batches = batch::split(bytes.clone()).unwrap_or_default();
        batches.iter().any(|batch| batch.header.has(TRANSACTIONAL))
    };
    if request.transactional_id.is_none() && data.filter_map(|d| d.records.as_ref()).any(is_transactional) {
        return Some(code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    }
    (!matches!(request.acks, -1..=1)).then_some(code::INVALID_REQUIRED_ACKS)
}

struct Appended {
    base_offset: i64,
    log_append_time_ms: i64,
    log_start: i64,
    leader_epoch: i32,
    needed: i64,
}

fn append(
    state: &mut State,
    call: &Call,
    request: &ProduceRequest,
    topic: &str,
    index: i32,
    bytes: Option<&Bytes>,
) -> Result<Appended, Refusal> {
    let simple = |code: i16| Refusal::new(code, "");
    call.scripted(topic, index).map_err(simple)?;
    let given = validate::request(call.version, bytes)?;
    call.led(state, topic, index, -1).map_err(simple)?;
    state.expire_if_due(topic, index, false);
    let (rules, now_ms) = (state.rules(topic), state.now_ms());
    let (in_sync_min, verifies) = (state.in_sync_min(topic), state.verifies_transactions());
    let Some(partition) = state.partition_mut(topic, index) else {
        return Err(simple(code::UNKNOWN_TOPIC_OR_PARTITION));
    };
    if request.acks == ACKS_ALL && partition.isr.len() < in_sync_min {
        return Err(simple(code::NOT_ENOUGH_REPLICAS));
    }
    let checked = validate::batch(&given, &rules, now_ms)?;
    let (leader_epoch, log) = (partition.leader_epoch, &mut partition.log);
    let log_start = log.log_start;
    match log.producers.check(&checked.header) {
        Verdict::Refused(code) => Err(simple(code)),
        // Told with the old offset and the old batch's highest timestamp; contents are not compared.
        Verdict::Duplicate { offset, timestamp } => {
            let needed = offset + i64::from(checked.header.last_offset_delta) + 1;
            let log_append_time_ms = timestamp;
            Ok(Appended { base_offset: offset, log_append_time_ms, log_start, leader_epoch, needed })
        }
        Verdict::Append => {
            if checked.header.has(TRANSACTIONAL) && verifies {
                return Err(simple(code::INVALID_TXN_STATE));
            }
            let base_offset = log.append(&checked, leader_epoch);
            let log_append_time_ms = if rules.log_append_time { now_ms } else { -1 };
            Ok(Appended { base_offset, log_append_time_ms, log_start, leader_epoch, needed: log.log_end })
        }
    }
}

fn refused(
    state: &State,
    topic: &str,
    answer: PartitionProduceResponse,
    refusal: &Refusal,
) -> PartitionProduceResponse {
    let bad = refusal.records.iter().map(|index| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(*index)
            .with_batch_index_error_message(Some(text(&refusal.message)))
    });
    let message = (!refusal.message.is_empty()).then(|| text(&refusal.message));
    let mut answer = answer
        .with_error_code(refusal.code)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
        .with_record_errors(bad.collect())
        .with_error_message(message);
    if refusal.code == code::NOT_LEADER_OR_FOLLOWER
        && let Some(partition) = state.partition(topic, answer.index)
    {
        answer.current_leader = LeaderIdAndEpoch::default()
            .with_leader_id(leader_of(partition))
            .with_leader_epoch(partition.leader_epoch);
    }
    answer
}

/// Where the leaders are that the answer points to.
fn endpoints(state: &State, version: i16, topics: &[TopicProduceResponse]) -> Vec<NodeEndpoint> {
    if version < 10 {
        return Vec::new();
    }
    let answers = topics.iter().flat_map(|topic| &topic.partition_responses);
    let mut leaders: Vec<_> = answers.map(|answer| answer.current_leader.leader_id.0).collect();
    leaders.sort_unstable();
    leaders.dedup();
    let known = leaders.into_iter().filter_map(|id| Some((id, state.nodes.get(&id)?)));
    known
        .map(|(id, node)| {
            NodeEndpoint::default()
                .with_node_id(BrokerId(id))
                .with_host(text("127.0.0.1"))
                .with_port(i32::from(node.port))
        })
        .collect()
}

/// Whether the wait is over; then the answer says how.
fn settle(state: &State, call: &Call, due: &Due, response: &mut ProduceResponse, timed_out: bool) -> bool {
    let code = match call.led(state, &due.topic, due.partition, -1) {
        Err(code) => code,
        Ok(partition) if partition.leader_epoch != due.leader_epoch => code::NOT_LEADER_OR_FOLLOWER,
        Ok(partition) if partition.log.high_watermark >= due.needed => {
            let enough = partition.isr.len() >= state.in_sync_min(&due.topic);
            if enough { code::NONE } else { code::NOT_ENOUGH_REPLICAS_AFTER_APPEND }
        }
        Ok(_) if timed_out => code::REQUEST_TIMED_OUT,
        Ok(_) => return false,
    };
    let (topic, partition) = due.place;
    let topic = response.responses.get_mut(topic);
    if let Some(answer) = topic.and_then(|topic| topic.partition_responses.get_mut(partition)) {
        answer.error_code = code;
    }
    true
}
