//! Topics that a flow of another mesh writes to: left alone, or gone on from where that flow stopped.
//!
//! Looked at before a topic enters the inventory. What stands in the registry, and what a claim means, is core's.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::control::TopicEntry;
use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::registry::{Claim, Inheritance, Writer, claimed};
use mirrormesh_core::unit::{PartitionGeneration, PartitionStart};
use mirrormesh_worker::Failure;

use super::{Topology, Trouble};

/// A topic that another mesh has, and who wrote last to each of its partitions.
type Claimed = (Claim, BTreeMap<i32, Writer>);

impl Topology {
    /// Takes the claimed topics out of what was found, with why; or, where the flow adopts them, lets them begin where
    /// the other mesh stopped.
    pub(super) async fn settle_claims(
        &mut self,
        spec: &FlowSpec,
        found: &mut BTreeMap<TopicName, TopicEntry>,
    ) -> Result<(), Trouble> {
        self.claimed.clear();
        for (topic, (claim, writers)) in self.claims(found).await.map_err(|f| (f.reason, f.message))? {
            let Some(entry) = found.get_mut(&topic) else { continue };
            if spec.adopt {
                self.adopt(entry, &claim, writers).await.map_err(|f| (f.reason, f.message))?;
                continue;
            }
            let stop = claimed(&entry.target_topic, &claim);
            let trouble = (stop.reason.name().to_owned(), stop.message);
            if self.said.get(&topic) != Some(&trouble) {
                self.context.coordinator.report_events([self.event(&trouble.0, &trouble.1, &topic)]);
                self.said.insert(topic.clone(), trouble.clone());
            }
            found.remove(&topic);
            self.claimed.insert(topic, trouble);
        }
        Ok(())
    }

    /// Claims of other meshes on topics that are not in the inventory yet.
    async fn claims(
        &self,
        found: &BTreeMap<TopicName, TopicEntry>,
    ) -> Result<BTreeMap<TopicName, Claimed>, Failure> {
        let mesh_id = &self.context.flow.mesh_id;
        let fresh: Vec<&TopicEntry> =
            found.values().filter(|entry| !self.reported.contains_key(&entry.topic)).collect();
        if fresh.is_empty() || mesh_id.is_empty() {
            return Ok(BTreeMap::new());
        }
        let registry = &self.link.target_registry;
        registry.ensure().await?;
        let source_cluster = self.link.source_registry.cluster_id().await?;
        registry
            .look(|registry| {
                let claimed = |entry: &&TopicEntry| {
                    let claim = registry.claim(&source_cluster, &entry.target_topic)?;
                    let wanted = Inheritance {
                        source_cluster: &source_cluster,
                        source_topic: &entry.topic,
                        topic: &entry.target_topic,
                        topic_id: entry.target_topic_id,
                    };
                    (claim.mesh_id != *mesh_id)
                        .then(|| (entry.topic.clone(), (claim.clone(), registry.last_writers(wanted))))
                };
                fresh.iter().filter_map(claimed).collect()
            })
            .await
    }

    async fn adopt(
        &self,
        entry: &mut TopicEntry,
        claim: &Claim,
        writers: BTreeMap<i32, Writer>,
    ) -> Result<(), Failure> {
        let mut number = 0;
        let mut taken = BTreeSet::new();
        for writer in writers.values() {
            if taken.insert((&writer.source, &writer.flow)) {
                let from = (&writer.source, &writer.flow);
                number = self.link.positions.adopt(from, entry.target_topic_id).await?.max(number);
            }
        }
        for (partition, writer) in writers {
            // Made again since: the next look at the topic tells, and the flow's policy says what follows.
            entry.source_topic_id = writer.source_topic_id;
            let start = PartitionStart { adopted: Some(number), ..writer.begun.start };
            entry.generations.insert(partition, PartitionGeneration { start, ..writer.begun });
        }
        let (flow, mesh) = (&claim.flow, &claim.mesh_id);
        let message = format!(
            "{} was mirrored by flows/{flow} of mesh {mesh} before: goes on where that flow stopped, in {} partitions",
            entry.target_topic,
            entry.generations.len()
        );
        tracing::info!(flow = %self.context.flow_id, topic = %entry.topic, message, "adopting");
        self.context.coordinator.report_events([self.event("FLOW_ADOPTED", &message, &entry.topic)]);
        Ok(())
    }
}
