//! What a unit can say to the coordinator, without knowing gRPC.
//!
//! Owns retries over lost sessions and changed leaders; knows nothing about what is said.

use std::sync::Arc;

use mirrormesh_core::control::{GenerationRequest, InventoryChange};
use mirrormesh_core::ids::{ClusterId, FlowId};
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::{Generation, PartitionGeneration};
use tokio_util::sync::CancellationToken;

use crate::error::CoordinatorError;
use crate::events::EventQueue;
use crate::link::Links;
use crate::wire::{self, RefusedTopic};

/// Topics or groups in one call at most, so that a command stays small in the Raft log.
const INVENTORY_CHUNK: usize = 200;

/// A unit's way to the coordinator; cheap to clone. Every call is retried over lost sessions and changed leaders until
/// it succeeds, is refused, or the unit is asked to stop.
#[derive(Debug, Clone)]
pub struct CoordinatorHandle {
    links: Links,
    events: Arc<EventQueue>,
    stop: CancellationToken,
}

impl CoordinatorHandle {
    pub(crate) fn new(links: Links, events: Arc<EventQueue>) -> Self {
        Self { links, events, stop: CancellationToken::new() }
    }

    /// The same, with calls that end when `stop` is cancelled.
    #[must_use]
    pub fn until(&self, stop: CancellationToken) -> Self {
        Self { links: self.links.clone(), events: Arc::clone(&self.events), stop }
    }

    /// Reports Kafka's id of a cluster. The first one reported stays; the answer is that one.
    pub async fn report_cluster(
        &self,
        cluster: &ClusterId,
        kafka_cluster_id: &str,
    ) -> Result<String, CoordinatorError> {
        let call = |link| wire::report_cluster(link, cluster.clone(), kafka_cluster_id.to_owned());
        self.links.call(&self.stop, "report_cluster", call).await
    }

    /// Offers a producer identity for a flow. The first one offered wins; the answer is the winner.
    pub async fn claim_producer(
        &self,
        flow: &FlowId,
        offered: Generation,
    ) -> Result<Generation, CoordinatorError> {
        self.links
            .call(&self.stop, "claim_producer", |link| wire::claim_producer(link, flow.clone(), offered))
            .await
    }

    /// Begins a new generation of one partition; the answer is the one to go on with. Calling again with the same
    /// request is safe: the first one's generation comes back and no event is kept twice.
    ///
    /// [`CoordinatorError::Outdated`] with the reason `GENERATION_OUTDATED` means that another generation than
    /// `after` is present: the unit gets it with its next assignment. [`CoordinatorError::Refused`] with
    /// `EPOCHS_EXHAUSTED` or `PRODUCER_ID_USED` wants a fresh producer id in `offered`.
    pub async fn begin_generation(
        &self,
        request: &GenerationRequest,
    ) -> Result<PartitionGeneration, CoordinatorError> {
        self.links
            .call(&self.stop, "begin_generation", |link| wire::begin_generation(link, request.clone()))
            .await
    }

    /// Reports what a topology or groups unit found; `number` is the number of the unit's assignment. Long changes go
    /// in chunks, each on its own: after an error, earlier chunks are in. Returns the topics that were not taken.
    pub async fn report_inventory(
        &self,
        flow: &FlowId,
        number: u64,
        change: InventoryChange,
    ) -> Result<Vec<RefusedTopic>, CoordinatorError> {
        let mut refused = Vec::new();
        for chunk in chunks(change) {
            let call = |link| wire::report_inventory(link, flow.clone(), number, chunk.clone());
            refused.extend(self.links.call(&self.stop, "report_inventory", call).await?);
        }
        Ok(refused)
    }

    /// Hands over events. They are kept over outages and sent until acknowledged; when too many wait, the oldest are
    /// dropped and counted.
    pub fn report_events(&self, events: impl IntoIterator<Item = Event>) {
        self.events.push(events);
    }
}

/// Cuts a change into pieces of at most [`INVENTORY_CHUNK`] topics or groups. Removals come first: a topic that was
/// created anew under a target name that another one had is then not refused.
fn chunks(change: InventoryChange) -> Vec<InventoryChange> {
    let mut all = Vec::new();
    let (empty, seen_all) = (InventoryChange::default, change.seen_all);
    all.extend(
        pieces(change.removed_topics).map(|removed_topics| InventoryChange { removed_topics, ..empty() }),
    );
    all.extend(
        pieces(change.removed_groups).map(|removed_groups| InventoryChange { removed_groups, ..empty() }),
    );
    all.extend(pieces(change.topics).map(|topics| InventoryChange { topics, ..empty() }));
    all.extend(pieces(change.groups).map(|groups| InventoryChange { groups, ..empty() }));
    all.extend(pieces(change.seen).map(|seen| InventoryChange { seen, ..empty() }));
    if seen_all {
        match all.last_mut() {
            Some(last) => last.seen_all = true,
            None => all.push(InventoryChange { seen_all, ..empty() }),
        }
    }
    all
}

fn pieces<T>(list: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut rest = list.into_iter();
    std::iter::from_fn(move || {
        let piece: Vec<T> = rest.by_ref().take(INVENTORY_CHUNK).collect();
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::ids::GroupId;

    #[test]
    fn long_changes_are_cut_and_nothing_is_lost() {
        let groups: Vec<GroupId> = (0..450).map(|i| GroupId::new(format!("g{i}")).unwrap()).collect();
        let removed = vec![GroupId::new("old").unwrap()];
        let change = InventoryChange {
            groups: groups.clone(),
            removed_groups: removed.clone(),
            ..InventoryChange::default()
        };
        let chunks = chunks(change);
        assert_eq!(chunks.iter().map(|c| c.groups.len()).collect::<Vec<_>>(), [0, 200, 200, 50]);
        assert_eq!(chunks[0].removed_groups, removed);
        assert_eq!(chunks.into_iter().flat_map(|c| c.groups).collect::<Vec<_>>(), groups);
        assert!(super::chunks(InventoryChange::default()).is_empty());
    }
}
