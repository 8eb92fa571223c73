//! `CreatePartitions`.

use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::state::State;
use crate::broker::{code, topics};

impl Served for CreatePartitionsRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        self.topics.iter().map(|topic| (topic.name.to_string(), -1)).collect()
    }

    async fn serve(self, call: Call) -> Option<CreatePartitionsResponse> {
        let results = call.shared.change(|state| {
            let one = |topic: &kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic| {
                let grown = call
                    .scripted(&topic.name, -1)
                    .and_then(|()| topics::grow(state, &topic.name, topic.count, self.validate_only));
                CreatePartitionsTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(grown.err().unwrap_or(code::NONE))
            };
            self.topics.iter().map(one).collect()
        });
        Some(CreatePartitionsResponse::default().with_results(results))
    }
}
