//! What all units of one flow share: one client per cluster, one writer, one reader of positions and one of
//! checkpoints.
//!
//! Owns their life: made with the first unit of a flow, dropped with the last. A flow whose clusters are reached
//! otherwise gets new ones; its units are restarted then (`mirrormesh_worker`).

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::format::mm2::Checkpoint;
use mirrormesh_core::ids::{FlowId, GroupId};
use mirrormesh_core::translate::Translation;
use mirrormesh_core::unit::ClusterSpec;
use mirrormesh_kafka::Client;
use mirrormesh_kafka::admin::CommittedOffset;
use mirrormesh_kafka::internal_writer::{InternalWriter, NewRecord};
use mirrormesh_worker::{
    ClusterCheck, Failure, FlowView, UnitContext, client_config, cluster_name, ensure_internal_topic,
};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::time::Instant;

use crate::positions::PositionReader;
use crate::rounds::Committed;
use crate::written::CheckpointReader;

/// Groups of one flow that ask the source for offsets at a time: thousands of groups wake at the same moment.
const FETCHES_MAX: usize = 16;
/// A record that is not acknowledged in this time counts as not written.
const SEND_TIMEOUT: Duration = Duration::from_secs(6);

/// What the units of one flow share.
pub(crate) struct Shared {
    /// The newest form of the flow.
    pub(crate) changes: watch::Receiver<Arc<FlowView>>,
    /// The cluster to read groups from.
    pub(crate) source: Client,
    /// All groups of a flow tick in step, counted from here: one look at the positions serves them all.
    pub(crate) begun: Instant,
    /// How source and target are reached.
    clusters: (ClusterSpec, ClusterSpec),
    target: Client,
    writer: InternalWriter,
    positions: PositionReader,
    written: CheckpointReader,
    fetches: Semaphore,
    topic_ready: OnceCell<()>,
}

impl Shared {
    fn new(view: &FlowView, changes: watch::Receiver<Arc<FlowView>>) -> Result<Self, Failure> {
        let spec = &view.flow.spec;
        let client_id = format!("mirrormesh-checkpoint-{}", view.id);
        let client = |name, cluster| -> Result<Client, Failure> {
            Ok(Client::new(client_config(&cluster_name(name), cluster, &client_id)?)?)
        };
        let source = client(&spec.source, &view.source)?;
        let target = client(&spec.target, &view.target)?;
        Ok(Self {
            changes,
            source,
            begun: Instant::now(),
            clusters: (view.source.clone(), view.target.clone()),
            writer: InternalWriter::new(target.clone()),
            positions: PositionReader::new(view.id.clone(), target.clone(), spec.positions_topic()),
            written: CheckpointReader::new(target.clone(), spec.checkpoints_topic()),
            target,
            fetches: Semaphore::new(FETCHES_MAX),
            topic_ready: OnceCell::new(),
        })
    }

    /// The newest form of the flow.
    pub(crate) fn view(&self) -> Arc<FlowView> {
        Arc::clone(&self.changes.borrow())
    }

    /// The offsets that a group has committed on the source.
    pub(crate) async fn committed(&self, group: &GroupId) -> Result<Vec<Committed>, Failure> {
        // Never closed: only an open semaphore is ever acquired here.
        let _permit = self.fetches.acquire().await.ok();
        let offsets = self.source.fetch_group_offsets(group.as_str()).await?;
        let own = |found: CommittedOffset| Committed {
            topic: found.topic.to_string(),
            partition: found.partition,
            offset: found.offset,
            metadata: found.metadata,
        };
        Ok(offsets.into_iter().map(own).collect())
    }

    /// Reads the positions, unless that was done since `since`.
    pub(crate) async fn refresh_positions(&self, since: Instant) -> Result<(), Failure> {
        self.positions.refresh(since).await
    }

    /// Where a source offset is on the target, as of the last refresh.
    pub(crate) fn translate(&self, topic: &str, partition: i32, offset: i64) -> Translation {
        // Without a producer identity nothing was ever mirrored.
        let Some(generation) = self.changes.borrow().flow.generation else { return Translation::NotYet };
        self.positions.translate(generation.producer_id, topic, partition, offset)
    }

    /// The checkpoints that were written for a group before.
    pub(crate) async fn written(&self, group: &GroupId) -> Result<Vec<Checkpoint>, Failure> {
        self.written.of_group(group).await
    }

    /// Writes a checkpoint, with the time at which the offset was looked at.
    pub(crate) async fn write(&self, checkpoint: &Checkpoint, time_ms: i64) -> Result<(), Failure> {
        let invalid = |error: mirrormesh_core::format::mm2::FormatError| {
            Failure::new("CHECKPOINT_INVALID", format!("the checkpoint can't be stored: {error}"))
        };
        let spec = self.view().flow.spec.clone();
        self.topic_ready.get_or_try_init(|| self.create_topic(&spec)).await?;
        let (key, value) =
            (checkpoint.encode_key().map_err(invalid)?, checkpoint.encode_value().map_err(invalid)?);
        let topic = spec.checkpoints_topic();
        let sending = self.writer.send(&topic, NewRecord { key, value: Some(value), timestamp_ms: time_ms });
        match tokio::time::timeout(SEND_TIMEOUT, sending).await {
            Ok(sent) => sent.map(drop).map_err(Failure::from),
            Err(_) => Err(Failure::new(
                "CLUSTER_UNREACHABLE",
                format!("{topic} on the target took no record in time"),
            )),
        }
    }

    async fn create_topic(&self, spec: &FlowSpec) -> Result<(), Failure> {
        let topic = spec.checkpoints_topic();
        ensure_internal_topic(&self.target, &topic, spec.internal_replication_factor).await
    }
}

/// The shared parts of all flows that this worker has units of.
#[derive(Default)]
pub(crate) struct Registry {
    // Locks: held only to look up or insert.
    flows: Mutex<BTreeMap<FlowId, Weak<Shared>>>,
    checks: Mutex<BTreeMap<FlowId, Weak<ClusterCheck>>>,
}

impl Registry {
    /// Waits until both clusters of a unit's flow are known; see [`ClusterCheck::pass`].
    pub(crate) async fn clusters_pass(&self, context: &UnitContext) -> bool {
        let check = {
            let mut checks = self.checks.lock();
            checks.retain(|_, check| check.strong_count() > 0);
            let check = checks.get(&context.flow_id).and_then(Weak::upgrade).unwrap_or_default();
            checks.insert(context.flow_id.clone(), Arc::downgrade(&check));
            check
        };
        check.pass(context).await
    }

    /// The shared parts of a unit's flow, made if it is the flow's first unit.
    pub(crate) fn of(&self, context: &UnitContext) -> Result<Arc<Shared>, Failure> {
        let mut flows = self.flows.lock();
        let newest = Arc::clone(&context.flow_changes.borrow());
        if let Some(shared) = flows.get(&newest.id).and_then(Weak::upgrade) {
            // A flow that went and came back has a new channel of changes: the old one is closed.
            let alive = shared.changes.has_changed().is_ok();
            if alive && shared.clusters == (newest.source.clone(), newest.target.clone()) {
                return Ok(shared);
            }
        }
        let shared = Arc::new(Shared::new(&newest, context.flow_changes.clone())?);
        flows.retain(|_, shared| shared.strong_count() > 0);
        flows.insert(newest.id.clone(), Arc::downgrade(&shared));
        Ok(shared)
    }
}
