//! `DescribeConfigs` for topics (all settings) and brokers (the properties that the test gave).

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use crate::broker::call::{Call, Mentions, Served, text};
use crate::broker::state::State;
use crate::broker::{code, config};

const TOPIC: i8 = 2;
const STATIC_BROKER_CONFIG: i8 = 4;
const STRING: i8 = 2;

impl Served for DescribeConfigsRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        self.resources.iter().map(|resource| (resource.resource_name.to_string(), -1)).collect()
    }

    async fn serve(self, call: Call) -> Option<DescribeConfigsResponse> {
        let results =
            call.shared.look(|state| self.resources.iter().map(|r| describe(state, &call, r)).collect());
        Some(DescribeConfigsResponse::default().with_results(results))
    }
}

fn describe(state: &State, call: &Call, asked: &DescribeConfigsResource) -> DescribeConfigsResult {
    let answer = DescribeConfigsResult::default()
        .with_resource_type(asked.resource_type)
        .with_resource_name(asked.resource_name.clone());
    let found = call.scripted(&asked.resource_name, -1).and_then(|()| {
        if asked.resource_type == TOPIC { of_topic(state, asked) } else { Ok(of_broker(state)) }
    });
    let configs = match found {
        Ok(configs) => configs,
        Err(code) => return answer.with_error_code(code),
    };
    let wanted = |config: &DescribeConfigsResourceResult| {
        asked.configuration_keys.as_ref().is_none_or(|keys| keys.contains(&config.name))
    };
    answer.with_configs(configs.into_iter().filter(wanted).collect())
}

fn of_topic(
    state: &State,
    asked: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, i16> {
    let topic = state.topics.get(asked.resource_name.as_str()).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
    let all = config::effective(state.version, &state.properties, &topic.configs).into_iter();
    let told = all.map(|setting| {
        DescribeConfigsResourceResult::default()
            .with_name(text(setting.name))
            .with_value(Some(text(&setting.value)))
            .with_config_source(setting.source)
            .with_config_type(setting.kind)
    });
    Ok(told.collect())
}

fn of_broker(state: &State) -> Vec<DescribeConfigsResourceResult> {
    let told = state.properties.iter().map(|(name, value)| {
        DescribeConfigsResourceResult::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
            .with_config_source(STATIC_BROKER_CONFIG)
            .with_config_type(STRING)
    });
    told.collect()
}
