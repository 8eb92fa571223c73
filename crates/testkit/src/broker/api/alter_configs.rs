//! `IncrementalAlterConfigs` for topics and brokers.

use std::collections::BTreeMap;

use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::state::State;
use crate::broker::{code, config};

const TOPIC: i8 = 2;
const SET: i8 = 0;
const DELETE: i8 = 1;

impl Served for IncrementalAlterConfigsRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        self.resources.iter().map(|resource| (resource.resource_name.to_string(), -1)).collect()
    }

    async fn serve(self, call: Call) -> Option<IncrementalAlterConfigsResponse> {
        let responses = call.shared.change(|state| {
            let one = |asked: &AlterConfigsResource| {
                let done = call
                    .scripted(&asked.resource_name, -1)
                    .and_then(|()| alter(state, asked, self.validate_only));
                AlterConfigsResourceResponse::default()
                    .with_resource_type(asked.resource_type)
                    .with_resource_name(asked.resource_name.clone())
                    .with_error_code(done.err().unwrap_or(code::NONE))
            };
            self.resources.iter().map(one).collect()
        });
        Some(IncrementalAlterConfigsResponse::default().with_responses(responses))
    }
}

fn alter(state: &mut State, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), i16> {
    let is_topic = asked.resource_type == TOPIC;
    let target = if is_topic {
        let topic = state.topics.get_mut(asked.resource_name.as_str());
        &mut topic.ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?.configs
    } else {
        &mut state.properties
    };
    let mut altered = target.clone();
    for config in &asked.configs {
        apply(&mut altered, config, is_topic)?;
    }
    if !validate_only {
        *target = altered;
    }
    Ok(())
}

fn apply(
    configs: &mut BTreeMap<String, String>,
    config: &AlterableConfig,
    is_topic: bool,
) -> Result<(), i16> {
    let name = config.name.to_string();
    let value = config.value.as_ref().map(ToString::to_string).unwrap_or_default();
    if is_topic && !config::is_known(&name) {
        return Err(code::INVALID_CONFIG);
    }
    match config.config_operation {
        SET if is_topic && !config::is_valid(&name, &value) => Err(code::INVALID_CONFIG),
        SET => {
            configs.insert(name, value);
            Ok(())
        }
        DELETE => {
            configs.remove(&name);
            Ok(())
        }
        // Lists are replaced as a whole by what we use.
        _ => Err(code::INVALID_CONFIG),
    }
}
