//! Topics and their configurations.
//!
//! Owns creation, growth, deletion and description. Must not know what a topic is for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest,
};
use kafka_protocol::protocol::{Message as _, VersionRange};

use super::{text, words};
use crate::client::{Client, safe_to_repeat, topic_name, worth_asking_again};
use crate::error::{Error, ErrorCode, Result};
use crate::wire::TopicId;
use crate::wire::api::Api;

/// `ConfigResource.Type.TOPIC`.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// `ConfigSource.DEFAULT_CONFIG`: nobody has set it anywhere.
const SOURCE_DEFAULT: i8 = 5;
/// `ConfigSource.TOPIC_CONFIG`: set on the topic itself.
const SOURCE_TOPIC: i8 = 1;
/// Up to version 5 topics to delete are named by name only, which is what we have.
const DELETE_TOPICS_VERSIONS: VersionRange = VersionRange { min: 1, max: 5 };
/// From version 4 on partitions and replication factor can be left to the broker (KIP-464).
const CREATE_WITH_DEFAULTS: VersionRange = VersionRange { min: 4, max: CreateTopicsRequest::VERSIONS.max };

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions; -1 leaves it to the broker.
    pub partitions: i32,
    /// How many replicas; -1 leaves it to the broker.
    pub replication_factor: i16,
    /// Its own settings.
    pub configs: BTreeMap<String, String>,
}

/// What became of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOutcome {
    /// Its name.
    pub name: Arc<str>,
    /// Its id if it was created and the broker tells; all zeroes otherwise.
    pub topic_id: TopicId,
    /// [`ErrorCode::TOPIC_ALREADY_EXISTS`] among others.
    pub error: ErrorCode,
    /// The broker's words.
    pub message: Option<Arc<str>>,
}

/// One setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its value; brokers keep sensitive ones to themselves.
    pub value: Option<String>,
    /// Whether nobody has set it anywhere.
    pub is_default: bool,
    /// Whether it is set on the topic itself, rather than on a broker.
    pub is_topic_override: bool,
    /// Whether it may not be shown.
    pub is_sensitive: bool,
}

/// The settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfigs {
    /// Whether they could be read.
    pub error: ErrorCode,
    /// The broker's words.
    pub message: Option<Arc<str>>,
    /// By name.
    pub entries: BTreeMap<String, ConfigEntry>,
}

impl Client {
    /// Creates topics; each has an outcome of its own.
    ///
    /// # Errors
    /// If the whole request failed. After an error with [`Error::outcome_unknown`] topics may exist: call again and
    /// expect [`ErrorCode::TOPIC_ALREADY_EXISTS`].
    pub async fn create_topics(&self, topics: Vec<NewTopic>) -> Result<Vec<TopicOutcome>> {
        let defaults = topics.iter().any(|topic| topic.partitions < 0 || topic.replication_factor < 0);
        let versions = if defaults { CREATE_WITH_DEFAULTS } else { CreateTopicsRequest::VERSIONS };
        let request = CreateTopicsRequest::default()
            .with_topics(topics.iter().map(creatable).collect())
            .with_timeout_ms(self.broker_timeout_ms());
        self.retrying("creating topics", safe_to_repeat, || async {
            let response = self.call_controller(&request, versions).await?;
            let outcomes = response.topics.iter().map(|topic| TopicOutcome {
                name: topic.name.as_str().into(),
                topic_id: topic.topic_id.into_bytes(),
                error: ErrorCode(topic.error_code),
                message: words(topic.error_message.as_ref()),
            });
            at_controller(CreateTopicsRequest::NAME, outcomes.collect())
        })
        .await
    }

    /// Raises a topic's number of partitions to `total`.
    ///
    /// # Errors
    /// [`Error::Topic`], with [`ErrorCode::INVALID_PARTITIONS`] if it has as many already.
    pub async fn create_partitions(&self, topic: &str, total: i32) -> Result<()> {
        let wanted = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(total)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(self.broker_timeout_ms());
        self.retrying("creating partitions", safe_to_repeat, || async {
            let response = self.call_controller(&request, CreatePartitionsRequest::VERSIONS).await?;
            let outcomes = response.results.iter().map(|result| TopicOutcome {
                name: result.name.as_str().into(),
                topic_id: [0; 16],
                error: ErrorCode(result.error_code),
                message: words(result.error_message.as_ref()),
            });
            let outcomes = at_controller(CreatePartitionsRequest::NAME, outcomes.collect())?;
            all_ok(CreatePartitionsRequest::NAME, &[topic], &outcomes)
        })
        .await
    }

    /// Deletes topics; each has an outcome of its own.
    pub async fn delete_topics(&self, topics: &[&str]) -> Result<Vec<TopicOutcome>> {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(topics.iter().map(|topic| topic_name(topic)).collect())
            .with_timeout_ms(self.broker_timeout_ms());
        self.retrying("deleting topics", safe_to_repeat, || async {
            let response = self.call_controller(&request, DELETE_TOPICS_VERSIONS).await?;
            let outcomes = response.responses.iter().map(|result| TopicOutcome {
                name: result.name.as_ref().map(|name| name.as_str()).unwrap_or_default().into(),
                topic_id: result.topic_id.into_bytes(),
                error: ErrorCode(result.error_code),
                message: words(result.error_message.as_ref()),
            });
            at_controller(DeleteTopicsRequest::NAME, outcomes.collect())
        })
        .await
    }

    /// Deletes a partition's records before an offset (-1: all); returns the first offset that is left.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<i64> {
        let wanted = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
        let wanted = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
        let request = DeleteRecordsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(self.broker_timeout_ms());
        let (broker, response) =
            self.call_leader(topic, partition, &request, DeleteRecordsRequest::VERSIONS).await?;
        let result = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .find(|p| p.partition_index == partition);
        let Some(result) = result else { return Err(missing::<DeleteRecordsRequest>(&broker, topic)) };
        self.check_partition(
            DeleteRecordsRequest::NAME,
            topic,
            partition,
            ErrorCode(result.error_code),
            None,
        )?;
        Ok(result.low_watermark)
    }

    /// The settings of topics, by topic: those named, or all. A topic that cannot be described has an error of its own.
    pub async fn describe_topic_configs(
        &self,
        topics: &[&str],
        names: Option<&[&str]>,
    ) -> Result<BTreeMap<Arc<str>, TopicConfigs>> {
        let resources = topics.iter().map(|topic| resource(RESOURCE_TOPIC, topic, names));
        let request = DescribeConfigsRequest::default().with_resources(resources.collect());
        self.retrying("describing topic configurations", worth_asking_again, || async {
            let timeout = self.limits().admin_timeout;
            let (broker, response) =
                self.call_any(&request, DescribeConfigsRequest::VERSIONS, timeout).await?;
            let described: BTreeMap<_, _> = response.results.iter().map(topic_configs).collect();
            match topics.iter().find(|topic| !described.contains_key(**topic)) {
                Some(topic) => Err(missing::<DescribeConfigsRequest>(&broker, topic)),
                None => Ok(described),
            }
        })
        .await
    }

    /// The settings of one broker, as that broker has them now: those named, or all.
    pub async fn describe_broker_configs(
        &self,
        node_id: i32,
        names: Option<&[&str]>,
    ) -> Result<TopicConfigs> {
        let name = node_id.to_string();
        let resource = resource(RESOURCE_BROKER, &name, names);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let timeout = self.limits().admin_timeout;
        let (broker, response) =
            self.call_node(node_id, &request, DescribeConfigsRequest::VERSIONS, timeout).await?;
        let described = response.results.first().map(topic_configs);
        described.map(|(_, configs)| configs).ok_or_else(|| missing::<DescribeConfigsRequest>(&broker, &name))
    }

    /// How long a broker may work on a request: less than we wait, so that it can tell us that it gave up.
    pub(crate) fn broker_timeout_ms(&self) -> i32 {
        let ours: Duration = self.limits().admin_timeout;
        i32::try_from((ours * 3 / 4).as_millis()).unwrap_or(i32::MAX)
    }

    /// Brokers with `KRaft` pass such requests on to the controller; older ones refuse them elsewhere.
    async fn call_controller<R: Api>(&self, request: &R, versions: VersionRange) -> Result<R::Response> {
        let cluster = self.cluster().await?;
        let Some(controller) = cluster.controller_id else {
            let code = ErrorCode::NOT_CONTROLLER;
            return Err(Error::Broker { broker: "the cluster".into(), api: R::NAME, code, message: None });
        };
        let (_, response) =
            self.call_node(controller, request, versions, self.limits().admin_timeout).await?;
        Ok(response)
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let configs = topic.configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    CreatableTopic::default()
        .with_name(topic_name(&topic.name))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(topic.replication_factor)
        .with_configs(configs.collect())
}

/// A controller that has moved refuses topic by topic: that is an error of the whole call.
fn at_controller(api: &'static str, outcomes: Vec<TopicOutcome>) -> Result<Vec<TopicOutcome>> {
    match outcomes.iter().find(|outcome| outcome.error == ErrorCode::NOT_CONTROLLER) {
        None => Ok(outcomes),
        Some(moved) => Err(refused(api, moved)),
    }
}

fn all_ok(api: &'static str, topics: &[&str], outcomes: &[TopicOutcome]) -> Result<()> {
    for topic in topics {
        match outcomes.iter().find(|outcome| *outcome.name == **topic) {
            None => return Err(missing_answer(api, "the controller", topic)),
            Some(outcome) if !outcome.error.is_ok() => return Err(refused(api, outcome)),
            Some(_) => {}
        }
    }
    Ok(())
}

fn refused(api: &'static str, outcome: &TopicOutcome) -> Error {
    let TopicOutcome { name, error, message, .. } = outcome;
    Error::Topic { topic: Arc::clone(name), api, code: *error, message: message.clone() }
}

fn resource(kind: i8, name: &str, settings: Option<&[&str]>) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(settings.map(|names| names.iter().map(|name| text(name)).collect()))
}

/// The error for an answer that leaves out what was asked for.
pub(crate) fn missing<R: Api>(broker: &str, what: &str) -> Error {
    missing_answer(R::NAME, broker, what)
}

fn missing_answer(api: &'static str, broker: &str, what: &str) -> Error {
    Error::Malformed { broker: broker.into(), api, version: -1, problem: format!("{what} is not in it") }
}

fn topic_configs(result: &DescribeConfigsResult) -> (Arc<str>, TopicConfigs) {
    let entries = result.configs.iter().map(|config| {
        let entry = ConfigEntry {
            value: config.value.as_ref().map(ToString::to_string),
            is_default: config.config_source == SOURCE_DEFAULT,
            is_topic_override: config.config_source == SOURCE_TOPIC,
            is_sensitive: config.is_sensitive,
        };
        (config.name.to_string(), entry)
    });
    let configs = TopicConfigs {
        error: ErrorCode(result.error_code),
        message: words(result.error_message.as_ref()),
        entries: entries.collect(),
    };
    (result.resource_name.as_str().into(), configs)
}
