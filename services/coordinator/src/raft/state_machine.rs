//! The replicated state as openraft wants it. Only calls [`ControlState::apply`].
//!
//! Owns the newest applied state in memory, its publication, and its snapshots. Snapshots are kept on the disk;
//! what came after the last one is applied again from the log when the process starts.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use mirrormesh_core::control::ControlState;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use super::codec::{SnapshotContent, decode_snapshot, encode_snapshot};
use super::storage::{SNAPSHOT, Storage};
use super::types::{LogCommand, LogId, LogReply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// The Raft of one coordinator.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The state machine of one coordinator.
#[derive(Debug)]
pub(crate) struct StateMachine {
    storage: Storage,
    content: SnapshotContent,
    published: watch::Sender<Arc<ControlState>>,
}

impl StateMachine {
    /// Starts from the snapshot in `storage`, if there is one. Blocks.
    pub(crate) fn open(storage: Storage) -> io::Result<(Self, watch::Receiver<Arc<ControlState>>)> {
        let content = storage.get(SNAPSHOT)?.map(|bytes| decode_snapshot(&bytes)).transpose()?;
        let content = content.unwrap_or_default();
        let (published, states) = watch::channel(Arc::clone(&content.state));
        Ok((Self { storage, content, published }, states))
    }

    /// Tells the readers, but wakes them only if something changed.
    fn publish(&self) {
        self.published.send_if_modified(|published| {
            let changed = published.revision != self.content.state.revision;
            *published = Arc::clone(&self.content.state);
            changed
        });
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.content.last_applied, self.content.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // Published once per call: readers hold the published state, so each publication costs a copy. Answers come
        // after it, so whoever got one finds the state at least as new.
        let mut answers = Vec::new();
        let result = loop {
            let (entry, responder) = match entries.try_next().await {
                Ok(Some(item)) => item,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            self.content.last_applied = Some(entry.log_id);
            let reply = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(LogCommand(command)) => {
                    Some(Arc::make_mut(&mut self.content.state).apply(&command).reply)
                }
                EntryPayload::Membership(membership) => {
                    self.content.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
            };
            answers.extend(responder.map(|responder| (responder, LogReply(reply))));
        };
        self.publish();
        for (responder, reply) in answers {
            responder.send(reply);
        }
        result
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { storage: self.storage.clone(), content: self.content.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, bytes: Bytes) -> io::Result<()> {
        let decoding = bytes.clone();
        let content = blocking(move || decode_snapshot(&decoding)).await?;
        if content.last_applied != meta.last_log_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("snapshot is of {:?}, announced was {:?}", content.last_applied, meta.last_log_id),
            ));
        }
        self.storage.put(SNAPSHOT, bytes.into()).await?;
        self.content = content;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(bytes) = self.storage.get(SNAPSHOT)? else { return Ok(None) };
        let decoding = bytes.clone();
        let content = blocking(move || decode_snapshot(&decoding)).await?;
        Ok(Some(snapshot(&content, bytes)))
    }
}

/// Writes a snapshot of the state as it was when the builder was made.
#[derive(Debug)]
pub(crate) struct SnapshotBuilder {
    storage: Storage,
    content: SnapshotContent,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let content = self.content.clone();
        let bytes = blocking(move || Ok(encode_snapshot(&content))).await?;
        self.storage.put(SNAPSHOT, bytes.to_vec()).await?;
        tracing::info!(
            bytes = bytes.len(),
            applied = self.content.last_applied.map(|id| id.index()),
            "snapshot of the replicated state written"
        );
        Ok(snapshot(&self.content, bytes))
    }
}

fn snapshot(content: &SnapshotContent, bytes: Bytes) -> Snapshot {
    let meta =
        SnapshotMeta { last_log_id: content.last_applied, last_membership: content.membership.clone() };
    Snapshot { meta, snapshot: bytes }
}

/// Keeps long work off the threads that serve calls.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
