//! The registry: which flows write to a cluster's topics, whatever mesh they belong to.
//!
//! A compacted topic on every target. Before the first append of a generation a flow has its producer id there, so that
//! who reads the target's topics knows what was mirrored to it, and from where. Owns the shapes, what the records say
//! when taken together, and what they mean for a flow that is about to write; `mirrormesh-proto` owns the stored form.
//!
//! Claims are advisory, not a lock: they tell two meshes apart that would mirror the same twice.

use std::collections::BTreeMap;

use crate::ids::{ClusterId, FlowId, TopicId, TopicName};
use crate::stop::{Stop, StopReason};
use crate::unit::PartitionGeneration;

/// The topic, on every cluster that is a target.
pub const REGISTRY_TOPIC: &str = "mirrormesh-registry.internal";

/// Key of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegistryKey {
    /// Who writes under a producer id.
    Writer(WriterKey),
    /// Which mesh writes to a topic.
    Claim(ClaimKey),
}

/// A producer id in one target partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriterKey {
    /// Producer id of a flow.
    pub producer_id: i64,
    /// Topic on the target.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
}

/// A target topic, for one source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimKey {
    /// Kafka's id of the source cluster.
    pub source_cluster: String,
    /// Topic on the target.
    pub topic: TopicName,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryValue {
    /// Who writes under a producer id.
    Writer(Writer),
    /// Which mesh writes to a topic.
    Claim(Claim),
}

/// Who writes under a producer id to a partition, and from where in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Kafka's id of the cluster that the records come from.
    pub source_cluster: String,
    /// That cluster's id in its mesh.
    pub source: ClusterId,
    /// The flow.
    pub flow: FlowId,
    /// Its mesh.
    pub mesh_id: String,
    /// Source topic.
    pub source_topic: TopicName,
    /// Source topic id.
    pub source_topic_id: TopicId,
    /// Target topic id.
    pub target_topic_id: TopicId,
    /// Nothing under this producer id stands before this offset.
    pub first_offset: i64,
    /// The present generation: what another mesh needs to go on from it.
    pub begun: PartitionGeneration,
}

/// Which mesh writes to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The mesh.
    pub mesh_id: String,
    /// Its flow.
    pub flow: FlowId,
    /// The source cluster's id in that mesh.
    pub source: ClusterId,
    /// The topic's name on the source cluster; `None` if a version wrote the claim that did not say it.
    pub source_topic: Option<TopicName>,
}

/// Whose batches carry a producer id in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No flow's.
    Client,
    /// A flow's.
    Flow {
        /// It mirrors from the cluster that the reader mirrors to.
        from_target: bool,
        /// Nothing of it stands before this offset; `None`: it is registered for other partitions only, or for a topic
        /// of this name that is no more.
        first_offset: Option<i64>,
    },
}

/// What stands in the registry for a partition that is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Kafka's id of the source cluster as it is now.
    pub source_cluster: String,
    /// The entry of the present producer id.
    pub writer: Option<Writer>,
    /// Source of the present producer id, from whichever partition.
    pub known_source: Option<String>,
    /// The claim on the topic.
    pub claim: Option<Claim>,
}

/// What the records say when taken together.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    writers: BTreeMap<WriterKey, (i64, Writer)>,
    /// By producer id.
    sources: BTreeMap<i64, String>,
    claims: BTreeMap<ClaimKey, (i64, Claim)>,
    newest: Option<i64>,
}

impl Registry {
    /// Takes up a record, in the order of offsets.
    pub fn apply(&mut self, offset: i64, key: RegistryKey, value: RegistryValue) {
        self.newest = Some(offset);
        match (key, value) {
            (RegistryKey::Writer(key), RegistryValue::Writer(mut writer)) => {
                // Two owners that register at once may know different beginnings of one id: the first one holds.
                if let Some((_, known)) = self.writers.get(&key)
                    && !known.target_topic_id.differs(writer.target_topic_id)
                {
                    writer.first_offset = writer.first_offset.min(known.first_offset);
                }
                self.sources.insert(key.producer_id, writer.source_cluster.clone());
                self.writers.insert(key, (offset, writer));
            }
            (RegistryKey::Claim(key), RegistryValue::Claim(claim)) => {
                self.claims.insert(key, (offset, claim));
            }
            // Nobody writes that.
            (RegistryKey::Writer(_), RegistryValue::Claim(_))
            | (RegistryKey::Claim(_), RegistryValue::Writer(_)) => {}
        }
    }

    /// Whose batches carry this producer id in a partition of the cluster that has the registry. `target` is Kafka's id
    /// of the cluster that the reader mirrors to.
    pub fn origin(&self, key: &WriterKey, topic_id: TopicId, target: &str) -> Origin {
        let Some(source) = self.sources.get(&key.producer_id) else { return Origin::Client };
        let entry = self.writers.get(key).map(|(_, writer)| writer);
        let first_offset =
            entry.filter(|w| !w.target_topic_id.differs(topic_id)).map(|writer| writer.first_offset);
        Origin::Flow { from_target: source == target, first_offset }
    }

    /// What stands here for a partition that is about to be written.
    pub fn seen(&self, key: &WriterKey, source_cluster: &str) -> Seen {
        Seen {
            source_cluster: source_cluster.to_owned(),
            writer: self.writers.get(key).map(|(_, writer)| writer.clone()),
            known_source: self.sources.get(&key.producer_id).cloned(),
            claim: self.claim(source_cluster, &key.topic).cloned(),
        }
    }

    /// Which mesh writes to a topic.
    pub fn claim(&self, source_cluster: &str, topic: &TopicName) -> Option<&Claim> {
        let key = ClaimKey { source_cluster: source_cluster.to_owned(), topic: topic.clone() };
        self.claims.get(&key).map(|(_, claim)| claim)
    }
}

/// Topics of one cluster that came from another one, with their names there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Homes(BTreeMap<TopicName, BTreeMap<Home, i64>>);

/// The name of a topic on the cluster that it came from, and its id where a writer of the mirrored topic said it; with
/// the offset of the newest record that says so.
type Home = (TopicName, Option<TopicId>);

impl Homes {
    /// Whether a flow back to the other cluster would make a copy of a copy. `target` is what the flow would call the
    /// topic there. A topic that goes back under the name that it has at home makes no new topic: people may write to it
    /// on both sides, and batches that were mirrored are left out one by one (`origins`).
    pub fn is_loop(&self, topic: &TopicName, topic_id: TopicId, target: &TopicName) -> bool {
        let Some(homes) = self.0.get(topic) else { return false };
        let of_another = |id: &Option<TopicId>| id.is_some_and(|id| id.differs(topic_id));
        // What was written about a topic of this name that is no more says nothing, nor does an older claim.
        let outdated = homes.iter().filter(|((_, id), _)| of_another(id)).map(|(_, offset)| *offset).max();
        let mut present = homes
            .iter()
            .filter(|((_, id), offset)| id.map_or(Some(**offset) > outdated, |id| !id.differs(topic_id)))
            .map(|((home, _), _)| home)
            .peekable();
        present.peek().is_some() && present.all(|home| home != target)
    }
}

impl Registry {
    /// The offset of the newest record that was taken up.
    pub fn newest_offset(&self) -> Option<i64> {
        self.newest
    }

    /// Topics that came from the cluster with this Kafka id, whichever mesh mirrored them and whatever it calls the
    /// clusters. A claim says so before the topic exists, a writer also where an older version claimed the topic.
    pub fn homes(&self, cluster: &str) -> Homes {
        let mut homes = Homes::default();
        let claims = self.claims.iter().filter(|(key, _)| key.source_cluster == cluster);
        let claimed = claims.filter_map(|(key, (offset, claim))| {
            Some((&key.topic, (claim.source_topic.clone()?, None), *offset))
        });
        let writers = self.writers.iter().filter(|(_, (_, writer))| writer.source_cluster == cluster);
        let written = writers.map(|(key, (offset, writer))| {
            (&key.topic, (writer.source_topic.clone(), Some(writer.target_topic_id)), *offset)
        });
        for (topic, home, offset) in claimed.chain(written) {
            let newest = homes.0.entry(topic.clone()).or_default().entry(home).or_insert(offset);
            *newest = offset.max(*newest);
        }
        homes
    }
}

/// What is about to be taken over.
#[derive(Debug, Clone, Copy)]
pub struct Inheritance<'a> {
    /// Kafka's id of the source cluster.
    pub source_cluster: &'a str,
    /// Source topic.
    pub source_topic: &'a TopicName,
    /// Topic on the target.
    pub topic: &'a TopicName,
    /// Its id.
    pub topic_id: TopicId,
}

impl Registry {
    /// Who wrote last to each partition of a topic, from this source: what a mesh that adopts it goes on from.
    pub fn last_writers(&self, wanted: Inheritance<'_>) -> BTreeMap<i32, Writer> {
        let mut newest: BTreeMap<i32, &(i64, Writer)> = BTreeMap::new();
        for (key, entry) in &self.writers {
            let writer = &entry.1;
            let same = key.topic == *wanted.topic
                && writer.source_cluster == wanted.source_cluster
                && writer.source_topic == *wanted.source_topic
                && !writer.target_topic_id.differs(wanted.topic_id);
            if same && newest.get(&key.partition).is_none_or(|known| known.0 < entry.0) {
                newest.insert(key.partition, entry);
            }
        }
        newest.into_iter().map(|(partition, (_, writer))| (partition, writer.clone())).collect()
    }
}

/// Who is about to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// Its entry, but for the source cluster, which is looked up, and the first offset of an id that is known already.
    pub writer: Writer,
    /// Topic on the target.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
}

impl Applicant {
    /// What has to stand in the registry before this one may append and does not yet; nothing if all is there. An error
    /// says why it must not append.
    pub fn missing(&self, seen: &Seen) -> Result<Vec<(RegistryKey, RegistryValue)>, Stop> {
        if let Some(known) = seen.known_source.as_ref().filter(|known| **known != seen.source_cluster) {
            return Err(self.cluster_changed(known, &seen.source_cluster));
        }
        let adopted = self.writer.begun.start.adopted.is_some();
        let mut missing = Vec::new();
        let claim = Claim {
            mesh_id: self.writer.mesh_id.clone(),
            flow: self.writer.flow.clone(),
            source: self.writer.source.clone(),
            source_topic: Some(self.writer.source_topic.clone()),
        };
        // Which flow of a mesh may write to a topic is its coordinators' business.
        let other = seen.claim.as_ref().filter(|other| other.mesh_id != claim.mesh_id);
        if !claim.mesh_id.is_empty() && (seen.claim.is_none() || other.is_some()) {
            if let Some(other) = other.filter(|_| !adopted) {
                return Err(claimed(&self.topic, other));
            }
            let key = ClaimKey { source_cluster: seen.source_cluster.clone(), topic: self.topic.clone() };
            missing.push((RegistryKey::Claim(key), RegistryValue::Claim(claim)));
        }
        // What another mesh began stands there as that mesh wrote it, until a generation of our own begins.
        if !adopted {
            let known = seen.writer.as_ref();
            let known = known.filter(|known| !known.target_topic_id.differs(self.writer.target_topic_id));
            let first_offset = known.map_or(self.writer.first_offset, |known| known.first_offset);
            let source_cluster = seen.source_cluster.clone();
            let writer = Writer { source_cluster, first_offset, ..self.writer.clone() };
            if known != Some(&writer) {
                missing.push((RegistryKey::Writer(self.key()), RegistryValue::Writer(writer)));
            }
        }
        Ok(missing)
    }

    fn key(&self) -> WriterKey {
        WriterKey {
            producer_id: self.writer.begun.generation.producer_id,
            topic: self.topic.clone(),
            partition: self.partition,
        }
    }

    fn cluster_changed(&self, known: &str, now: &str) -> Stop {
        let message = format!(
            "clusters/{} is another Kafka cluster than the one that this flow mirrored from: its id was {known} and is \
             {now} now; let it point to the old one again, or delete the flow and create it with start_over",
            self.writer.source
        );
        Stop::new(StopReason::SourceClusterChanged, message)
    }
}

/// The stop of a flow that finds another mesh's claim.
pub fn claimed(topic: &TopicName, by: &Claim) -> Stop {
    let message = format!(
        "flows/{} of mesh {} mirrors clusters/{} to {topic} already: stop that flow, then set adopt on this one to go on \
         where it stopped; or choose other topics or names",
        by.flow, by.mesh_id, by.source
    );
    Stop::new(StopReason::FlowClaimed, message)
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
