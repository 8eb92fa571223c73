//! `CreateTopics`.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::state::State;
use crate::broker::{code, config, topics};

impl Served for CreateTopicsRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        self.topics.iter().map(|topic| (topic.name.to_string(), -1)).collect()
    }

    async fn serve(self, call: Call) -> Option<CreateTopicsResponse> {
        let topics = call.shared.change(|state| {
            let one = |topic: &CreatableTopic| {
                let answer = CreatableTopicResult::default().with_name(topic.name.clone());
                let made =
                    call.scripted(&topic.name, -1).and_then(|()| create(state, topic, self.validate_only));
                match made {
                    Err(code) => {
                        answer.with_error_code(code).with_num_partitions(-1).with_replication_factor(-1)
                    }
                    Ok((partitions, replicas)) => answer
                        .with_topic_id(
                            state.topics.get(topic.name.as_str()).map(|t| t.id).unwrap_or_default(),
                        )
                        .with_num_partitions(partitions)
                        .with_replication_factor(replicas),
                }
            };
            self.topics.iter().map(one).collect()
        });
        Some(CreateTopicsResponse::default().with_topics(topics))
    }
}

/// Partitions and replicas of what was made.
fn create(state: &mut State, topic: &CreatableTopic, validate_only: bool) -> Result<(i32, i16), i16> {
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let value = config.value.as_ref().map(ToString::to_string).unwrap_or_default();
        if !config::is_known(&config.name) || !config::is_valid(&config.name, &value) {
            return Err(code::INVALID_CONFIG);
        }
        configs.insert(config.name.to_string(), value);
    }
    let assigned: Vec<Vec<i32>> = topic
        .assignments
        .iter()
        .map(|assignment| assignment.broker_ids.iter().map(|id| id.0).collect())
        .collect();
    let layout = if assigned.is_empty() {
        let partitions = if topic.num_partitions == -1 { 1 } else { topic.num_partitions };
        let replicas = if topic.replication_factor == -1 { 1 } else { topic.replication_factor };
        topics::spread(state, 0, partitions, replicas)?
    } else {
        assigned
    };
    let replicas = layout.first().map_or(0, Vec::len);
    let counts = (
        i32::try_from(layout.len()).map_err(|_| code::INVALID_PARTITIONS)?,
        i16::try_from(replicas).map_err(|_| code::INVALID_REPLICATION_FACTOR)?,
    );
    topics::create(state, &topic.name, layout, configs, validate_only)?;
    Ok(counts)
}
