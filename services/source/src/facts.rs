//! Settings of topics and brokers that the relay depends on, read from both clusters and kept for a while.
//!
//! Owns the cache: each topic is asked for once, not once per partition, and one task looks whether anything changed, so
//! that partitions hear of it without asking. What the settings mean is core's.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mirrormesh_kafka::admin::{ConfigEntry, TopicConfigs};
use mirrormesh_kafka::{Client, ErrorCode};
use mirrormesh_relay::facts::Facts;
use mirrormesh_runtime::complaint::OncePerMinute;
use mirrormesh_worker::Failure;
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

/// How often what is known is asked for again.
const LOOK_EVERY: Duration = Duration::from_secs(25);
/// How long an answer is good for who asks; longer than the task needs to bring the next one.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// Topics in one question.
const TOPICS_MAX: usize = 500;

const CLEANUP_POLICY: &str = "cleanup.policy";
const RETENTION_MS: &str = "retention.ms";
const BYTES_MAX: &str = "max.message.bytes";
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const BEFORE_MAX_MS: &str = "message.timestamp.before.max.ms";
const AFTER_MAX_MS: &str = "message.timestamp.after.max.ms";
/// Before Kafka 3.6 one setting bounded both sides (KIP-937).
const DIFFERENCE_MAX_MS: &str = "message.timestamp.difference.max.ms";
const EXPIRATION_MS: &str = "producer.id.expiration.ms";
const OF_TOPICS: [&str; 7] =
    [CLEANUP_POLICY, RETENTION_MS, BYTES_MAX, TIMESTAMP_TYPE, BEFORE_MAX_MS, AFTER_MAX_MS, DIFFERENCE_MAX_MS];
const OF_BROKERS: [&str; 1] = [EXPIRATION_MS];

type Entries = Arc<BTreeMap<String, ConfigEntry>>;

/// Limits the line of the log about settings that may not be read.
static UNREADABLE: OncePerMinute = OncePerMinute::new();

/// Which settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Topic(Arc<str>),
    Broker(i32),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(topic) => write!(f, "topic {topic}"),
            Self::Broker(id) => write!(f, "broker {id}"),
        }
    }
}

#[derive(Debug)]
struct Known {
    /// When it was asked for.
    asked: Instant,
    /// A broker acted on others since.
    outdated: bool,
    /// `None` if the broker doesn't let us see them.
    entries: Option<Entries>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    /// Held over the question of one who needs the answer: many partitions of a topic that start together ask once.
    known: Mutex<HashMap<Subject, Known>>,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

/// Settings of one cluster.
#[derive(Debug)]
pub(crate) struct SettingsCache {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl SettingsCache {
    /// Whenever something differs from what was known, `changes` counts on.
    pub(crate) fn start(client: Client, changes: watch::Sender<u64>) -> Self {
        let shared = Arc::new(Shared { client, known: Mutex::default(), changes });
        let task = tokio::spawn(look_again(Arc::downgrade(&shared)));
        Self { shared, _task: AbortOnDropHandle::new(task) }
    }

    /// The settings of a topic; `None` if the broker doesn't let us see them.
    async fn topic(&self, topic: &str) -> Result<Option<Entries>, Failure> {
        self.shared.get(Subject::Topic(Arc::from(topic))).await
    }

    /// The settings of a broker; `None` if it doesn't let us see them.
    async fn broker(&self, node_id: i32) -> Result<Option<Entries>, Failure> {
        self.shared.get(Subject::Broker(node_id)).await
    }

    /// A topic's settings are asked for again by the next who needs them, since a broker just acted on others.
    pub(crate) async fn outdate(&self, topic: &str) {
        if let Some(known) = self.shared.known.lock().await.get_mut(&Subject::Topic(Arc::from(topic))) {
            known.outdated = true;
        }
    }
}

impl Shared {
    async fn get(&self, subject: Subject) -> Result<Option<Entries>, Failure> {
        let mut all = self.known.lock().await;
        if let Some(known) = all.get(&subject).filter(|k| !k.outdated && k.asked.elapsed() < GOOD_FOR) {
            return Ok(known.entries.clone());
        }
        let asked = Instant::now();
        let configs = match &subject {
            Subject::Topic(topic) => {
                let mut described = self.client.describe_topic_configs(&[topic], Some(&OF_TOPICS)).await?;
                described.remove(&**topic)
            }
            Subject::Broker(id) => Some(self.client.describe_broker_configs(*id, Some(&OF_BROKERS)).await?),
        };
        let entries = match configs {
            Some(configs) => readable(&subject, configs)?,
            None => None,
        };
        self.learn(&mut all, subject, asked, entries.clone());
        Ok(entries)
    }

    fn learn(
        &self,
        all: &mut HashMap<Subject, Known>,
        subject: Subject,
        asked: Instant,
        entries: Option<Entries>,
    ) {
        let known = Known { asked, outdated: false, entries };
        let differs = all.get(&subject).is_some_and(|before| before.entries != known.entries);
        all.insert(subject, known);
        if differs {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Asks for all that is known once more.
    async fn look(&self) -> Result<(), Failure> {
        let (mut topics, mut brokers) = (Vec::new(), Vec::new());
        for subject in self.known.lock().await.keys() {
            match subject {
                Subject::Topic(topic) => topics.push(Arc::clone(topic)),
                Subject::Broker(node_id) => brokers.push(*node_id),
            }
        }
        for portion in topics.chunks(TOPICS_MAX) {
            let names: Vec<&str> = portion.iter().map(AsRef::as_ref).collect();
            let asked = Instant::now();
            let described = self.client.describe_topic_configs(&names, Some(&OF_TOPICS)).await?;
            for (topic, configs) in described {
                self.looked(Subject::Topic(topic), asked, configs).await;
            }
        }
        for node_id in brokers {
            let asked = Instant::now();
            let configs = self.client.describe_broker_configs(node_id, Some(&OF_BROKERS)).await?;
            self.looked(Subject::Broker(node_id), asked, configs).await;
        }
        Ok(())
    }

    async fn looked(&self, subject: Subject, asked: Instant, configs: TopicConfigs) {
        let mut all = self.known.lock().await;
        let newer = |known: &Known| known.asked < asked;
        match readable(&subject, configs) {
            Ok(entries) if all.get(&subject).is_some_and(newer) => {
                self.learn(&mut all, subject, asked, entries);
            }
            // Somebody asked meanwhile.
            Ok(_) => {}
            // It is gone, or can't be seen now: who needs it asks.
            Err(failure) => {
                tracing::debug!(?subject, %failure, "settings are not known any more");
                all.remove(&subject);
            }
        }
    }
}

/// Looks whether anything changed, as long as somebody needs it.
async fn look_again(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        if let Err(failure) = shared.look().await {
            tracing::debug!(%failure, "settings were not looked at");
        }
    }
}

fn readable(subject: &Subject, configs: TopicConfigs) -> Result<Option<Entries>, Failure> {
    match configs.error {
        code if code.is_ok() => Ok(Some(Arc::new(configs.entries))),
        ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            if UNREADABLE.may_log(Instant::now()) {
                tracing::warn!(%subject, "not allowed to see settings (DescribeConfigs): taking Kafka's defaults");
            }
            Ok(None)
        }
        code => {
            let message = format!("the settings of {subject} can't be read: the broker answers {code}");
            Err(Failure::new("SETTINGS_UNKNOWN", message))
        }
    }
}

fn text<'a>(entries: Option<&'a Entries>, name: &str) -> Option<&'a str> {
    entries?.get(name)?.value.as_deref()
}

fn number(entries: Option<&Entries>, name: &str) -> Option<i64> {
    text(entries, name)?.parse().ok()
}

fn compacts(entries: Option<&Entries>) -> Option<bool> {
    text(entries, CLEANUP_POLICY).map(|policy| policy.split(',').any(|p| p.trim() == "compact"))
}

/// How old records become; -1 stands for without end, and so does a policy without `delete`.
fn retention_ms(entries: Option<&Entries>) -> Option<i64> {
    let deletes = text(entries, CLEANUP_POLICY)?.split(',').any(|policy| policy.trim() == "delete");
    number(entries, RETENTION_MS).filter(|ms| deletes && *ms >= 0)
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
    let bytes_max = number(theirs, BYTES_MAX).and_then(|bytes| usize::try_from(bytes).ok());
    let both = number(theirs, DIFFERENCE_MAX_MS);
    let before = number(theirs, BEFORE_MAX_MS).or(both);
    let after = number(theirs, AFTER_MAX_MS).or(both);
    Ok(Facts {
        // What can't be known is taken for changing: that costs fences, not records.
        source_compacted: compacts(ours.as_ref()).unwrap_or(true),
        source_retention_ms: retention_ms(ours.as_ref()).unwrap_or(default.source_retention_ms),
        // Not a setting: the source's leader tells.
        source_by_name: default.source_by_name,
        target_compacted: compacts(theirs).unwrap_or(true),
        target_bytes_max: bytes_max.unwrap_or(default.target_bytes_max),
        target_append_time: text(theirs, TIMESTAMP_TYPE) == Some("LogAppendTime"),
        target_before_max_ms: before.unwrap_or(default.target_before_max_ms),
        target_after_max_ms: after.unwrap_or(default.target_after_max_ms),
        target_expiration_ms: number(broker.as_ref(), EXPIRATION_MS).unwrap_or(default.target_expiration_ms),
    })
}
