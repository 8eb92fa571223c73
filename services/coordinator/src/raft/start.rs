//! Starting Raft on a data directory: a new one, or one that was used before.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::handle::{Leadership, RaftHandle};
use super::log_store::LogStore;
use super::network::Network;
use super::state_machine::{Raft, StateMachine};
use super::storage::{Storage, Writer};
use super::traces::FlowTraces;
use super::types::{Node, NodeId};
use crate::error::Error;

/// Key under which the data directory keeps whose it is.
const OWNER: &str = "node";
/// A snapshot each so many entries.
const SNAPSHOT_ENTRIES: u64 = 2_000;
/// Entries kept behind a snapshot, for peers that are a little behind.
const KEPT_ENTRIES: u64 = 1_000;

/// What is needed to start.
#[derive(Debug)]
pub(crate) struct StartPlan {
    /// Id of this coordinator.
    pub(crate) own: NodeId,
    /// Where it keeps its data.
    pub(crate) data_dir: PathBuf,
    /// Members of a new mesh, this coordinator included, the same on each of them; empty to wait until a mesh adds
    /// this one.
    pub(crate) initial_members: BTreeMap<NodeId, Node>,
    /// Measures proposals.
    pub(crate) proposals: opentelemetry::metrics::Histogram<f64>,
}

/// A started Raft.
#[derive(Debug)]
pub(crate) struct RunningRaft {
    /// The door to it.
    pub(crate) handle: RaftHandle,
    /// To be joined once everything else is gone.
    pub(crate) writer: Writer,
    /// To be filled by [`RunningRaft::follow`].
    leadership: watch::Sender<Leadership>,
}

/// Elections: after the death of a leader its lease (the longest election timeout) runs out, then one of the others
/// stands. About 1.5 s in all.
fn config() -> Result<Config, Error> {
    let config = Config {
        cluster_name: "mirrormesh".to_owned(),
        heartbeat_interval: 150,
        election_timeout_min: 500,
        election_timeout_max: 900,
        install_snapshot_timeout: 15_000,
        max_payload_entries: 256,
        replication_lag_threshold: 2 * SNAPSHOT_ENTRIES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        purge_batch_size: 256,
        api_channel_size: Some(4_096),
        notification_channel_size: Some(4_096),
        enable_pre_vote: Some(true),
        // The applied state is not on the disk, and the committed place may lag: leadership needs an election.
        enable_leader_restore: Some(false),
        backoff: "50ms 100ms 200ms ...500ms".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Raft { doing: "configuring", message: error.to_string() })
}

/// Opens the data directory, starts Raft, and forms a new mesh where there is none yet.
pub(crate) async fn start(plan: StartPlan) -> Result<RunningRaft, Error> {
    let (directory, own) = (plan.data_dir.clone(), plan.own);
    let at = plan.data_dir.clone();
    let data_dir = move |source: io::Error| Error::DataDir { path: at.clone(), source };
    let opened = tokio::task::spawn_blocking(move || {
        let (storage, writer) = Storage::open(&directory)?;
        let log = LogStore::new(storage.clone())?;
        let (machine, states) = StateMachine::open(storage.clone())?;
        let owner = storage.get(OWNER)?;
        Ok::<_, io::Error>((storage, writer, log, machine, states, owner))
    });
    let opened = opened.await.map_err(io::Error::other).map_err(&data_dir)?.map_err(&data_dir)?;
    let (storage, writer, log, machine, states, owner) = opened;
    check_owner(&storage, owner.as_deref(), own).await.map_err(&data_dir)?;
    let fault = |doing, message: String| Error::Raft { doing, message };
    let raft = Raft::new(own, Arc::new(config()?), Network::new(own), log, machine)
        .await
        .map_err(|error| fault("starting", error.to_string()))?;
    let initialized = raft.is_initialized().await.map_err(|error| fault("starting", error.to_string()))?;
    if !initialized && !plan.initial_members.is_empty() {
        form_mesh(&raft, plan.initial_members).await?;
    }
    let alone = raft
        .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([own]))
        .await
        .map_err(|error| fault("starting", error.to_string()))?;
    if alone {
        // Nobody else can stand: no reason to wait for the election timeout.
        raft.trigger().elect(false).await.map_err(|error| fault("starting", error.to_string()))?;
    }
    let (leadership, follower) = watch::channel(Leadership::default());
    let handle = RaftHandle {
        raft,
        own,
        states,
        leadership: follower,
        proposals: plan.proposals,
        last_trace: Arc::default(),
        flow_traces: FlowTraces::default(),
    };
    Ok(RunningRaft { handle, writer, leadership })
}

/// A data directory belongs to one node id: under another id its votes would count twice.
async fn check_owner(storage: &Storage, owner: Option<&[u8]>, own: NodeId) -> io::Result<()> {
    let text = own.to_string();
    match owner {
        None => storage.put(OWNER, text.into_bytes()).await,
        Some(owner) if owner == text.as_bytes() => Ok(()),
        Some(owner) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "it belongs to coordinator {}, this is coordinator {own}: check node_id and data_dir",
                String::from_utf8_lossy(owner)
            ),
        )),
    }
}

async fn form_mesh(raft: &Raft, members: BTreeMap<NodeId, Node>) -> Result<(), Error> {
    match raft.initialize(members).await {
        // The others form the same mesh; one of them may have been quicker.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(Error::Raft { doing: "forming a new mesh", message: error.to_string() }),
    }
}

impl RunningRaft {
    /// Publishes who leads until `stop` or the end of Raft; an end that nobody asked for is an error.
    pub(crate) fn follow(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (handle, leadership) = (self.handle.clone(), self.leadership.clone());
        async move { follow(handle, leadership, stop).await }
    }
}

async fn follow(
    handle: RaftHandle,
    published: watch::Sender<Leadership>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut metrics = handle.raft.metrics();
    let ended = |message: String| Error::Raft { doing: "running", message };
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            if let Err(fatal) = &metrics.running_state
                && !stop.is_cancelled()
            {
                return Err(ended(fatal.to_string()));
            }
            let leader = metrics.current_leader.and_then(|id| {
                let node = metrics.membership_config.get_node(&id).cloned()?;
                Some((id, node))
            });
            let is_self = metrics.state == ServerState::Leader && metrics.current_leader == Some(handle.own);
            Leadership { term: metrics.current_term, leader, is_self }
        };
        published.send_if_modified(|published| {
            let changed = *published != now;
            if changed {
                tracing::info!(
                    term = now.term,
                    leader = now.leader.as_ref().map(|(id, _)| *id),
                    "leadership"
                );
                *published = now;
            }
            changed
        });
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = metrics.changed() => if changed.is_err() {
                return if stop.is_cancelled() { Ok(()) } else { Err(ended("it ended by itself".to_owned())) };
            },
        }
    }
}

/// How long a leader that stops waits for its successor.
pub(crate) const HANDOVER_MAX: Duration = Duration::from_secs(1);
