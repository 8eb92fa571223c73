//! Settings of topics and brokers that the relay depends on, read from both clusters and kept for a while.
//!
//! Owns the cache: with thousands of partitions each topic is asked for once in a while, not once per partition. What
//! the settings mean is core's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrormesh_core::relay::facts::Facts;
use mirrormesh_kafka::admin::{ConfigEntry, TopicConfigs};
use mirrormesh_kafka::{Client, ErrorCode};
use mirrormesh_worker::Failure;
use tokio::sync::Mutex;

/// How long an answer is good. They are asked for again while records flow.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(30);

type Entries = Arc<BTreeMap<String, ConfigEntry>>;

/// Which settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Topic(Arc<str>),
    Broker(i32),
}

/// Settings of one cluster.
#[derive(Debug)]
pub(crate) struct SettingsCache {
    client: Client,
    /// Held over the question: many partitions of a topic that start together ask once.
    known: Mutex<HashMap<Subject, (Instant, Option<Entries>)>>,
}

impl SettingsCache {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: Mutex::new(HashMap::new()) }
    }

    /// The settings of a topic; `None` if the broker doesn't let us see them.
    async fn topic(&self, topic: &str) -> Result<Option<Entries>, Failure> {
        self.get(Subject::Topic(Arc::from(topic))).await
    }

    /// The settings of a broker; `None` if it doesn't let us see them.
    async fn broker(&self, node_id: i32) -> Result<Option<Entries>, Failure> {
        self.get(Subject::Broker(node_id)).await
    }

    async fn get(&self, subject: Subject) -> Result<Option<Entries>, Failure> {
        let mut known = self.known.lock().await;
        known.retain(|_, (asked, _)| asked.elapsed() < GOOD_FOR);
        if let Some((_, entries)) = known.get(&subject) {
            return Ok(entries.clone());
        }
        let configs = match &subject {
            Subject::Topic(topic) => {
                let mut described = self.client.describe_topic_configs(&[topic]).await?;
                described.remove(&**topic)
            }
            Subject::Broker(node_id) => Some(self.client.describe_broker_configs(*node_id).await?),
        };
        let entries = match configs {
            Some(configs) => readable(&subject, configs)?,
            None => None,
        };
        known.insert(subject, (Instant::now(), entries.clone()));
        Ok(entries)
    }

    /// Forgets a topic's settings, since a broker just acted on others.
    pub(crate) async fn forget(&self, topic: &str) {
        self.known.lock().await.remove(&Subject::Topic(Arc::from(topic)));
    }
}

fn readable(subject: &Subject, configs: TopicConfigs) -> Result<Option<Entries>, Failure> {
    match configs.error {
        code if code.is_ok() => Ok(Some(Arc::new(configs.entries))),
        ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            tracing::warn!(
                ?subject,
                "not allowed to see settings (DescribeConfigs): taking Kafka's defaults"
            );
            Ok(None)
        }
        code => Err(Failure::new("SETTINGS_UNKNOWN", format!("{subject:?}: the broker answers {code}"))),
    }
}

fn text<'a>(entries: Option<&'a Entries>, name: &str) -> Option<&'a str> {
    entries?.get(name)?.value.as_deref()
}

fn number(entries: Option<&Entries>, name: &str) -> Option<i64> {
    text(entries, name)?.parse().ok()
}

fn compacts(entries: Option<&Entries>) -> Option<bool> {
    text(entries, "cleanup.policy").map(|policy| policy.split(',').any(|p| p.trim() == "compact"))
}

/// The facts of one partition's two topics.
pub(crate) async fn facts(
    source: &SettingsCache,
    target: &SettingsCache,
    topics: (&str, &str),
    target_leader: i32,
) -> Result<Facts, Failure> {
    let (source_topic, target_topic) = topics;
    let ours = source.topic(source_topic).await?;
    let theirs = target.topic(target_topic).await?;
    let broker = target.broker(target_leader).await?;
    let (theirs, default) = (theirs.as_ref(), Facts::DEFAULT);
    let bytes_max = number(theirs, "max.message.bytes").and_then(|bytes| usize::try_from(bytes).ok());
    // Before Kafka 3.6 one setting bounded both sides (KIP-937).
    let both = number(theirs, "message.timestamp.difference.max.ms");
    let before = number(theirs, "message.timestamp.before.max.ms").or(both);
    let after = number(theirs, "message.timestamp.after.max.ms").or(both);
    Ok(Facts {
        // What can't be known is taken for changing: that costs fences, not records.
        source_compacted: compacts(ours.as_ref()).unwrap_or(true),
        // Not a setting: the source's leader tells.
        source_by_name: default.source_by_name,
        target_compacted: compacts(theirs).unwrap_or(true),
        target_bytes_max: bytes_max.unwrap_or(default.target_bytes_max),
        target_append_time: text(theirs, "message.timestamp.type") == Some("LogAppendTime"),
        target_before_max_ms: before.unwrap_or(default.target_before_max_ms),
        target_after_max_ms: after.unwrap_or(default.target_after_max_ms),
        target_expiration_ms: number(broker.as_ref(), "producer.id.expiration.ms")
            .unwrap_or(default.target_expiration_ms),
    })
}
