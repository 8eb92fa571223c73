//! One look at both clusters: what is to be mirrored, what is missing on the target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::control::TopicEntry;
use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::{TopicId, TopicName};
use mirrormesh_kafka::ErrorCode;
use mirrormesh_kafka::admin::NewTopic;
use mirrormesh_kafka::client::metadata::TopicInfo;

use super::incarnations::known_starts;
use super::{Topology, Trouble, unreachable};

/// Topics created in one request; brokers with quotas refuse large ones.
const CREATE_MAX: usize = 50;
/// How often and how long changed topics are waited for.
const SETTLE_TRIES: u32 = 50;
const SETTLE_WAIT: Duration = Duration::from_millis(20);

/// A source topic that is to be mirrored.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) source: TopicInfo,
    pub(super) name: TopicName,
    pub(super) target: TopicName,
}

impl Topology {
    /// Looks, brings the target in step, tells the coordinator.
    pub(super) async fn scan(&mut self, spec: &FlowSpec) -> Result<(), Trouble> {
        let wanted = self.wanted(spec).await?;
        self.claim().await?;
        let targets = self.bring_in_step(spec, &wanted).await?;
        let (mut found, trouble) = self.entries(spec, wanted, &targets).await?;
        self.settle_claims(spec, &mut found).await?;
        // A topic that vanished from the source stays in the inventory: its partitions say what is wrong. Only one
        // that the flow does not select any more goes.
        let rules = spec.topic_rules().map_err(|error| ("PATTERN_INVALID".to_owned(), error.to_string()))?;
        let gone =
            self.reported.keys().filter(|topic| rules.target_of(topic.as_str()).is_none()).cloned().collect();
        self.tell(found, gone).await?;
        trouble.map_or(Ok(()), Err)
    }

    async fn wanted(&self, spec: &FlowSpec) -> Result<Vec<Wanted>, Trouble> {
        let rules = spec.topic_rules().map_err(|error| ("PATTERN_INVALID".to_owned(), error.to_string()))?;
        let topics = self.link.source.topics(None).await.map_err(unreachable)?;
        let mut wanted = Vec::new();
        for topic in topics {
            if topic.internal || !topic.error.is_ok() || topic.partitions.is_empty() {
                continue;
            }
            let Ok(name) = TopicName::new(&topic.name) else { continue };
            if let Some(target) = rules.target_of(&topic.name) {
                wanted.push(Wanted { source: topic, name, target });
            }
        }
        Ok(wanted)
    }

    /// Creates and grows target topics; returns those that are as they should be, by name.
    async fn bring_in_step(
        &self,
        spec: &FlowSpec,
        wanted: &[Wanted],
    ) -> Result<BTreeMap<Arc<str>, TopicInfo>, Trouble> {
        let present = self.targets(wanted).await?;
        let mut changed = BTreeSet::new();
        let missing: Vec<&Wanted> =
            wanted.iter().filter(|w| !present.contains_key(w.target.as_str())).collect();
        for chunk in missing.chunks(CREATE_MAX) {
            self.create(spec, chunk).await?;
            changed.extend(chunk.iter().map(|w| w.target.clone()));
        }
        for w in wanted {
            let Some(target) = present.get(w.target.as_str()) else { continue };
            let count = w.source.partitions.len();
            if target.partitions.len() < count {
                self.grow(&w.target, count).await?;
                changed.insert(w.target.clone());
            }
        }
        if changed.is_empty() {
            return Ok(present);
        }
        self.settled(wanted, &changed).await
    }

    /// Metadata lags behind a creation: waits until the changed topics show all their partitions. What does not show
    /// in time is left for the next scan.
    async fn settled(
        &self,
        wanted: &[Wanted],
        changed: &BTreeSet<TopicName>,
    ) -> Result<BTreeMap<Arc<str>, TopicInfo>, Trouble> {
        for _ in 0..SETTLE_TRIES {
            let present = self.targets(wanted).await?;
            let shows = |w: &Wanted| {
                let shown = present.get(w.target.as_str());
                shown.is_some_and(|t| t.partitions.len() >= w.source.partitions.len())
            };
            if wanted.iter().filter(|w| changed.contains(&w.target)).all(shows) {
                return Ok(present);
            }
            tokio::time::sleep(SETTLE_WAIT).await;
        }
        self.targets(wanted).await
    }

    async fn targets(&self, wanted: &[Wanted]) -> Result<BTreeMap<Arc<str>, TopicInfo>, Trouble> {
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let names: Vec<&str> = wanted.iter().map(|w| w.target.as_str()).collect();
        let topics = self.link.target.topics(Some(&names)).await.map_err(unreachable)?;
        let exists = |t: &TopicInfo| t.error.is_ok() && !t.partitions.is_empty();
        Ok(topics.into_iter().filter(exists).map(|t| (Arc::clone(&t.name), t)).collect())
    }

    async fn create(&self, spec: &FlowSpec, wanted: &[&Wanted]) -> Result<(), Trouble> {
        let topics = wanted
            .iter()
            .map(|w| NewTopic {
                name: w.target.shared(),
                partitions: i32::try_from(w.source.partitions.len()).unwrap_or(i32::MAX),
                replication_factor: spec.replication_factor.unwrap_or(-1),
                configs: BTreeMap::new(),
            })
            .collect();
        for created in self.link.target.create_topics(topics).await.map_err(unreachable)? {
            let name = &created.name;
            if !created.error.is_ok() && created.error != ErrorCode::TOPIC_ALREADY_EXISTS {
                let said = created.message.as_deref().unwrap_or_default();
                return Err((
                    "TOPIC_NOT_CREATED".to_owned(),
                    format!(
                        "{name} could not be created on clusters/{}: {} {said}; create it by hand or allow it",
                        spec.target, created.error
                    ),
                ));
            }
            tracing::info!(flow = %self.context.flow_id, topic = %name, "target topic created");
        }
        Ok(())
    }

    async fn grow(&self, topic: &TopicName, count: usize) -> Result<(), Trouble> {
        let total = i32::try_from(count).unwrap_or(i32::MAX);
        self.link.target.create_partitions(topic.as_str(), total).await.map_err(|error| {
            (
                "TOPIC_NOT_GROWN".to_owned(),
                format!("{topic} could not be grown to {count} partitions: {error}"),
            )
        })?;
        tracing::info!(flow = %self.context.flow_id, %topic, count, "target topic grown");
        Ok(())
    }

    /// The inventory entries of what was found; a topic that can't be answered for now is left for the next scan, and
    /// said.
    async fn entries(
        &self,
        spec: &FlowSpec,
        wanted: Vec<Wanted>,
        targets: &BTreeMap<Arc<str>, TopicInfo>,
    ) -> Result<(BTreeMap<TopicName, TopicEntry>, Option<Trouble>), Trouble> {
        let mut found = BTreeMap::new();
        let mut fresh = Vec::new();
        for w in wanted {
            let Some(target) = targets.get(w.target.as_str()) else { continue };
            let mut entry = TopicEntry {
                topic: w.name.clone(),
                target_topic: w.target.clone(),
                source_topic_id: TopicId(w.source.topic_id),
                target_topic_id: TopicId(target.topic_id),
                starts: Vec::new(),
                generations: BTreeMap::new(),
            };
            if self.former.has(&entry) {
                tracing::debug!(flow = %self.context.flow_id, topic = %w.name, "a broker still names the old topic");
                continue;
            }
            entry.starts = known_starts(self.reported.get(&w.name), &entry);
            if entry.starts.len() < w.source.partitions.len() {
                fresh.push((w.source.partitions.len(), entry));
            } else {
                found.insert(w.name, entry);
            }
        }
        let (started, trouble) = self.starts(spec, fresh).await?;
        found.extend(started.into_iter().map(|entry| (entry.topic.clone(), entry)));
        Ok((found, trouble))
    }
}
