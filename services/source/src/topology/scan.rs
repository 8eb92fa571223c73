//! One look at both clusters: what is to be mirrored, what is missing on the target.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrormesh_core::control::{SeenTopic, TopicEntry};
use mirrormesh_core::flow::{FlowSpec, Surprises, TopicRules};
use mirrormesh_core::ids::{ClusterId, TopicId, TopicName};
use mirrormesh_kafka::ErrorCode;
use mirrormesh_kafka::admin::NewTopic;
use mirrormesh_kafka::client::metadata::TopicInfo;
use tracing::Instrument as _;

use super::incarnations::known_starts;
use super::{Topology, Trouble, unreachable};
use crate::preview::described;

/// Topics and partitions created in one request; one larger topic goes alone. A controller refuses requests of more than
/// 10,000 records (`ReplicationControlManager`), of which every topic, partition and setting is one.
const CREATE_MAX: usize = 2_000;
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
        let rules = self.rules(spec)?;
        let wanted = self.wanted(spec, &rules).await?;
        self.tell_seen(spec).await?;
        self.claim().await?;
        let targets = self.bring_in_step(spec, &wanted).await?;
        let not_made = self.postponed.trouble();
        let (mut found, trouble) = self.entries(spec, wanted, &targets).await?;
        self.settle_claims(spec, &mut found).await?;
        // A topic that vanished from the source stays in the inventory: its partitions say what is wrong. Only one
        // that the flow does not select any more goes, or one that came from the target. A refused topic too: the
        // coordinator shows its refusal until then.
        let is_gone = |topic: &&TopicName| {
            rules.target_of(topic.as_str()).is_none() || self.loops.left_out.contains(*topic)
        };
        let gone = self.reported.keys().chain(self.refused.keys()).filter(is_gone).cloned().collect();
        self.tell(found, gone).await?;
        not_made.or(trouble).map_or(Ok(()), Err)
    }

    /// The flow's rules about topics; they are compiled when the flow changes only, since that costs more than the rest of
    /// a look at a quiet cluster.
    fn rules(&mut self, spec: &FlowSpec) -> Result<Arc<TopicRules>, Trouble> {
        let clusters = self.context.flow_changes.borrow().flow.clusters.clone();
        let same = |known: &&(FlowSpec, BTreeSet<ClusterId>, _)| known.0 == *spec && known.1 == clusters;
        if let Some((_, _, rules)) = self.rules.as_ref().filter(same) {
            return Ok(Arc::clone(rules));
        }
        let rules =
            spec.topic_rules(&clusters).map_err(|error| ("PATTERN_INVALID".to_owned(), error.to_string()))?;
        let rules = Arc::new(rules);
        self.rules = Some((spec.clone(), clusters, Arc::clone(&rules)));
        Ok(rules)
    }

    async fn wanted(&mut self, spec: &FlowSpec, rules: &TopicRules) -> Result<Vec<Wanted>, Trouble> {
        let topics = self.link.source.topics(None).await.map_err(unreachable)?;
        let is_mirrored =
            |topic: &str| TopicName::new(topic).is_ok_and(|topic| self.reported.contains_key(&topic));
        let mut choices = rules.choose_all(described(&topics), is_mirrored);
        let mut by_name: BTreeMap<Arc<str>, TopicInfo> =
            topics.into_iter().map(|topic| (Arc::clone(&topic.name), topic)).collect();
        let id_of = |name: &str| TopicId(by_name.get(name).map(|topic| topic.topic_id).unwrap_or_default());
        self.leave_out_loops(spec, &mut choices, id_of).await?;
        self.surprises = Surprises::of(spec, rules, &choices);
        let present = choices.iter().filter_map(|choice| {
            let topic = TopicName::new(&choice.topic.name).ok()?;
            let partitions = by_name.get(topic.as_str())?.partitions.len();
            Some(SeenTopic {
                topic,
                partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
                selected: choice.outcome.is_ok(),
            })
        });
        self.present = present.collect();
        let wanted = choices.into_iter().filter_map(|choice| {
            let name = TopicName::new(&choice.topic.name).ok()?;
            let source = by_name.remove(name.as_str())?;
            Some(Wanted { source, name, target: choice.outcome.ok()? })
        });
        Ok(wanted.collect())
    }

    /// Creates and grows target topics; returns those that are there, by name. A topic that can't be created or grown
    /// holds up no other: it is postponed.
    async fn bring_in_step(
        &mut self,
        spec: &FlowSpec,
        wanted: &[Wanted],
    ) -> Result<BTreeMap<Arc<str>, TopicInfo>, Trouble> {
        let present = self.targets(wanted).await?;
        let partitions = |w: &Wanted| present.get(w.target.as_str()).map_or(0, |t| t.partitions.len());
        let short: Vec<&Wanted> =
            wanted.iter().filter(|w| partitions(w) < w.source.partitions.len()).collect();
        let needed: BTreeSet<&TopicName> = short.iter().map(|w| &w.target).collect();
        self.postponed.retain(|topic| needed.contains(topic));
        let now = Instant::now();
        let due = short.into_iter().filter(|w| self.postponed.is_due(&w.target, now));
        let (missing, small): (Vec<&Wanted>, Vec<&Wanted>) = due.partition(|w| partitions(w) == 0);
        let mut changed = BTreeSet::new();
        let to_create = missing.iter().map(|w| w.target.clone()).collect();
        self.claim_topics(wanted, &to_create).await.map_err(|failure| (failure.reason, failure.message))?;
        for portion in portions(&missing, |w| w.source.partitions.len() + 1) {
            changed.extend(self.create(spec, portion).await?);
        }
        for w in small {
            match self.grow(&w.target, w.source.partitions.len()).await {
                Ok(()) => drop(changed.insert(w.target.clone())),
                Err(not_grown) => drop(self.postponed.failed(&w.target, not_grown, now)),
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

    /// Returns the topics that are there now; the others are postponed.
    async fn create(&mut self, spec: &FlowSpec, wanted: &[&Wanted]) -> Result<BTreeSet<TopicName>, Trouble> {
        let topics = wanted
            .iter()
            .map(|w| NewTopic {
                name: w.target.shared(),
                partitions: i32::try_from(w.source.partitions.len()).unwrap_or(i32::MAX),
                replication_factor: spec.replication_factor.unwrap_or(-1),
                configs: BTreeMap::new(),
            })
            .collect();
        let (mut made, mut news) = (BTreeSet::new(), Vec::new());
        let span = tracing::info_span!("create topics", flow = %self.context.flow_id, topics = wanted.len());
        let creating = self.link.target.create_topics(topics).instrument(span);
        for created in creating.await.map_err(unreachable)? {
            let name = &created.name;
            let Some(w) = wanted.iter().find(|w| *w.target.as_str() == **name) else { continue };
            if created.error.is_ok() || created.error == ErrorCode::TOPIC_ALREADY_EXISTS {
                tracing::info!(flow = %self.context.flow_id, topic = %name, "target topic created");
                made.insert(w.target.clone());
                continue;
            }
            let said = created.message.as_deref().unwrap_or_default();
            let text = format!(
                "{name} could not be created on clusters/{}: {} {said}; create it by hand or allow it",
                spec.target, created.error
            );
            if self.postponed.failed(
                &w.target,
                ("TOPIC_NOT_CREATED".to_owned(), text.clone()),
                Instant::now(),
            ) {
                news.push(text);
            }
        }
        if let Some(first) = news.first() {
            tracing::info!(flow = %self.context.flow_id, topics = news.len(), first, "target topics not created");
        }
        Ok(made)
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
                earliest: Vec::new(),
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

/// Cuts a row into portions whose sizes add up to [`CREATE_MAX`] at most; a larger one is alone.
fn portions<T>(row: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let (mut portions, mut begin, mut sum) = (Vec::new(), 0, 0);
    for (index, item) in row.iter().enumerate() {
        let size = size(item);
        if sum > 0 && sum + size > CREATE_MAX {
            portions.extend(row.get(begin..index));
            (begin, sum) = (index, 0);
        }
        sum += size;
    }
    portions.extend(row.get(begin..).filter(|rest| !rest.is_empty()));
    portions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_created_in_portions_that_a_controller_takes() {
        let cut = |sizes: &[usize]| -> Vec<Vec<usize>> {
            portions(sizes, |size| *size).into_iter().map(<[usize]>::to_vec).collect()
        };
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[5, 7]), [[5, 7]]);
        assert_eq!(cut(&[1_001, 1_001, 998]), [vec![1_001], vec![1_001, 998]]);
        assert_eq!(cut(&[9_001, 3, 9_001]), [[9_001], [3], [9_001]]);
        let many = vec![2; 5_000];
        assert_eq!(cut(&many).concat(), many);
        assert!(cut(&many).iter().all(|portion| portion.iter().sum::<usize>() <= CREATE_MAX));
    }
}
