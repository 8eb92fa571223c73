//! `DeleteTopics`, by name and by id.

use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use uuid::Uuid;

use crate::broker::call::{Call, Mentions, Served, resolve, topic_name};
use crate::broker::code;
use crate::broker::state::State;

impl Served for DeleteTopicsRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        asked(self).into_iter().map(|(name, _)| (name.to_string(), -1)).collect()
    }

    async fn serve(self, call: Call) -> Option<DeleteTopicsResponse> {
        let responses = call.shared.change(|state| {
            asked(&self).into_iter().map(|(name, id)| delete(state, &call, &name, id)).collect()
        });
        Some(DeleteTopicsResponse::default().with_responses(responses))
    }
}

/// Names and ids, from the form of either version.
fn asked(request: &DeleteTopicsRequest) -> Vec<(TopicName, Uuid)> {
    let by_name = request.topic_names.iter().map(|name| (name.clone(), Uuid::nil()));
    let by_state = request.topics.iter().map(|t| (t.name.clone().unwrap_or_default(), t.topic_id));
    by_name.chain(by_state).collect()
}

fn delete(state: &mut State, call: &Call, name: &TopicName, id: Uuid) -> DeletableTopicResult {
    let answer = DeletableTopicResult::default().with_topic_id(id);
    let name = match resolve(state, name, id) {
        Ok(name) => name,
        Err(code) => return answer.with_error_code(code),
    };
    let answer = answer.with_name(Some(topic_name(&name)));
    if let Err(code) = call.scripted(&name, -1) {
        return answer.with_error_code(code);
    }
    match state.topics.remove(&name) {
        Some(topic) => answer.with_topic_id(topic.id),
        None => answer.with_error_code(code::UNKNOWN_TOPIC_OR_PARTITION),
    }
}
