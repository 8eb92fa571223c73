//! Making topics with a standard client, and names that no other test has.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::Rng as _;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// How long a topic may take to have leaders everywhere.
const TIMEOUT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// A topic to be made.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas; not looked at where there is a layout.
    pub replicas: i32,
    /// Node ids of each partition's replicas, the preferred leader first; empty: the cluster chooses.
    pub layout: Vec<Vec<i32>>,
    /// Its settings.
    pub settings: BTreeMap<String, String>,
}

impl Topic {
    /// A topic with one replica and no settings of its own.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, replicas: 1, layout: Vec::new(), settings: BTreeMap::new() }
    }

    /// Sets the number of replicas.
    #[must_use]
    pub fn replicas(mut self, replicas: i32) -> Self {
        self.replicas = replicas;
        self
    }

    /// A topic whose partitions lie on these nodes, the preferred leader of each first.
    pub fn on(name: impl Into<String>, layout: &[&[i32]]) -> Self {
        let partitions = i32::try_from(layout.len()).unwrap_or(i32::MAX);
        let layout = layout.iter().map(|nodes| nodes.to_vec()).collect();
        Self { layout, ..Self::new(name, partitions) }
    }

    /// Sets a setting, e.g. `cleanup.policy`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }
}

/// A name that no other test uses: `{prefix}-{number in this process}-{random}`.
pub fn unique_name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let random: u32 = rand::rng().random();
    format!("{prefix}-{}-{random:08x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Makes topics and waits until each partition has a leader. A topic that is there already is an error.
pub async fn create_topics(bootstrap: &str, topics: &[Topic]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .context("cannot make an admin client")?;
    let layouts: Vec<Vec<&[i32]>> =
        topics.iter().map(|topic| topic.layout.iter().map(Vec::as_slice).collect()).collect();
    let wanted: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&layouts)
        .map(|(topic, layout)| {
            let replication = if layout.is_empty() {
                TopicReplication::Fixed(topic.replicas)
            } else {
                TopicReplication::Variable(layout)
            };
            let new = NewTopic::new(&topic.name, topic.partitions, replication);
            topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let results = admin.create_topics(&wanted, &options).await.context("cannot create topics")?;
    for result in results {
        if let Err((name, code)) = result {
            bail!("cannot create topic {name}: {code}");
        }
    }
    let (bootstrap, topics) = (bootstrap.to_owned(), topics.to_vec());
    tokio::task::spawn_blocking(move || wait_for_leaders(&bootstrap, &topics)).await.context("interrupted")?
}

/// Makes one topic with one replica.
pub async fn create_topic(bootstrap: &str, name: &str, partitions: i32) -> Result<()> {
    create_topics(bootstrap, &[Topic::new(name, partitions)]).await
}

fn wait_for_leaders(bootstrap: &str, topics: &[Topic]) -> Result<()> {
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().context("cannot make a client")?;
    let deadline = Instant::now() + TIMEOUT;
    for topic in topics {
        while !has_leaders(&client, topic) {
            if Instant::now() >= deadline {
                bail!("topic {} has no leaders after {TIMEOUT:?}", topic.name);
            }
            std::thread::sleep(STEP);
        }
    }
    Ok(())
}

fn has_leaders(client: &BaseConsumer, topic: &Topic) -> bool {
    let Ok(metadata) = client.fetch_metadata(Some(&topic.name), Duration::from_secs(5)) else { return false };
    metadata.topics().iter().find(|found| found.name() == topic.name).is_some_and(|found| {
        i32::try_from(found.partitions().len()) == Ok(topic.partitions)
            && found.partitions().iter().all(|partition| partition.leader() >= 0)
    })
}
