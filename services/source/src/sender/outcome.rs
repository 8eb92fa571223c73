//! From the answer to a request to the answers of its batches.
//!
//! Must not know what is done about a batch that was not appended.

use std::sync::Arc;

use mirrormesh_kafka::Error;
use mirrormesh_kafka::wire::produce::{ProduceResponse, ProducedPartition};
use mirrormesh_relay::answer::Answer;

use super::Reply;
use super::packing::Place;

/// Who waits for one entry of a request.
pub(super) struct Waiting {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: [u8; 16],
    pub(super) partition: i32,
    pub(super) reply: Reply,
}

/// Answers the batches of a request. Returns the partitions whose batch was not appended.
pub(super) fn distribute(waiting: Vec<Waiting>, result: Result<ProduceResponse, Error>) -> Vec<Place> {
    let mut failed = Vec::new();
    match result {
        Ok(response) => {
            for (index, w) in waiting.into_iter().enumerate() {
                let answer = answer_of(&w, index, &response);
                give(w, answer, &mut failed);
            }
        }
        Err(error) => {
            tracing::debug!(error = %error, "produce answer lost");
            for w in waiting {
                give(w, Answer::Lost, &mut failed);
            }
        }
    }
    failed
}

fn give(waiting: Waiting, answer: Answer, failed: &mut Vec<Place>) {
    if !matches!(answer, Answer::Appended { .. }) {
        failed.push((waiting.topic, waiting.partition));
    }
    waiting.reply.give(answer);
}

/// Brokers answer in the order of the request, as a rule; where one does not, its answer is looked for.
fn answer_of(waiting: &Waiting, index: usize, response: &ProduceResponse) -> Answer {
    let ours = |p: &&ProducedPartition| {
        p.partition == waiting.partition && p.topic_id == waiting.topic_id && p.topic == waiting.topic
    };
    let in_place = response.partitions.get(index).filter(ours);
    match in_place.or_else(|| response.partitions.iter().find(ours)) {
        // The broker said nothing about it: nothing may be concluded.
        None => Answer::Lost,
        Some(p) if p.error.is_ok() => {
            Answer::Appended { base_offset: p.base_offset, append_time: p.log_append_time >= 0 }
        }
        Some(p) => Answer::Refused { code: p.error.0, message: p.error_message.clone().unwrap_or_default() },
    }
}
