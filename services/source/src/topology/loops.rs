//! Topics that came from the flow's target: mirroring them would make copies of copies, without end.
//!
//! Names don't tell that where two meshes name each other alike, so the registry of the source decides, which says who
//! made a topic and from which cluster. Whoever creates a target topic claims it there first. What a claim means is core's.

use std::collections::BTreeSet;

use mirrormesh_core::flow::{Choice, FlowSpec, mark_loops};
use mirrormesh_core::ids::{TopicId, TopicName};
use mirrormesh_core::registry::{Claim, ClaimKey, Homes, RegistryKey, RegistryValue};
use mirrormesh_worker::{Failure, cluster_name};

use super::scan::Wanted;
use super::{Topology, Trouble};

/// Topics that one event names.
const NAMED_MAX: usize = 10;

/// What the unit knows of loops.
#[derive(Debug, Default)]
pub(super) struct Loops {
    /// What the source's registry said, and its newest offset then: it is worked out again only when there is news.
    homes: Option<(Option<i64>, Homes)>,
    /// Source topics that were left out by the last scan.
    pub(super) left_out: BTreeSet<TopicName>,
}

impl Topology {
    /// Leaves out the topics that came from the flow's target. Looked up after the topics were listed: a topic was claimed
    /// before it was created.
    pub(super) async fn leave_out_loops(
        &mut self,
        spec: &FlowSpec,
        choices: &mut [Choice],
        id_of: impl Fn(&str) -> TopicId,
    ) -> Result<(), Trouble> {
        let trouble = |failure: Failure| (failure.reason, failure.message);
        let target = self.link.target_registry.cluster_id().await.map_err(trouble)?;
        let known = self.loops.homes.as_ref().map(|(offset, _)| *offset);
        let look = self.link.source_registry.look(|registry| {
            let newest = registry.newest_offset();
            (known != Some(newest)).then(|| (newest, registry.homes(&target)))
        });
        if let Some(homes) = look.await.map_err(trouble)? {
            self.loops.homes = Some(homes);
        }
        let Some((_, homes)) = &self.loops.homes else { return Ok(()) };
        let left_out = mark_loops(choices, homes, &spec.target, id_of);
        self.say_loops(&left_out);
        self.loops.left_out = left_out;
        Ok(())
    }

    /// Records an event about topics that are left out from now on.
    fn say_loops(&self, left_out: &BTreeSet<TopicName>) {
        let news: Vec<&str> = left_out.difference(&self.loops.left_out).map(TopicName::as_str).collect();
        let Some(first) = left_out.difference(&self.loops.left_out).next() else { return };
        let named = news.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        let more = news.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let target = cluster_name(&self.context.flow.spec.target);
        let message = format!(
            "left out: {named}{more}; the registry of the source says that these topics were mirrored there from {target}, \
             so mirroring them would bring their records back under another name"
        );
        tracing::info!(flow = %self.context.flow_id, message, "loop");
        self.context.coordinator.report_events([self.event("LOOP", &message, first)]);
    }

    /// Claims the target topics that this mesh has not reported yet and nobody claims, and those that it is about to
    /// create: whoever lists the topics of the target finds the claim of each.
    pub(super) async fn claim_topics(
        &self,
        wanted: &[Wanted],
        missing: &BTreeSet<TopicName>,
    ) -> Result<(), Failure> {
        let flow = &self.context.flow;
        let is_new = |w: &&Wanted| !self.reported.contains_key(&w.name) || missing.contains(&w.target);
        let fresh: Vec<&Wanted> = wanted.iter().filter(is_new).collect();
        if fresh.is_empty() || flow.mesh_id.is_empty() {
            return Ok(());
        }
        let registry = &self.link.target_registry;
        registry.ensure().await?;
        let source_cluster = self.link.source_registry.cluster_id().await?;
        let claim = |w: &Wanted| Claim {
            mesh_id: flow.mesh_id.clone(),
            flow: self.context.flow_id.clone(),
            source: flow.spec.source.clone(),
            source_topic: Some(w.name.clone()),
        };
        let records = registry
            .look(|registry| {
                let unclaimed = |w: &&&Wanted| match registry.claim(&source_cluster, &w.target) {
                    None => true,
                    Some(known) => known.mesh_id == flow.mesh_id && missing.contains(&w.target),
                };
                let record = |w: &&Wanted| {
                    let key =
                        ClaimKey { source_cluster: source_cluster.to_string(), topic: w.target.clone() };
                    (RegistryKey::Claim(key), RegistryValue::Claim(claim(w)))
                };
                fresh.iter().filter(unclaimed).map(record).collect::<Vec<_>>()
            })
            .await?;
        if records.is_empty() {
            return Ok(());
        }
        registry.write(&self.link.writer, records).await
    }
}
