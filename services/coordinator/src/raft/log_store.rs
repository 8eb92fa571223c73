//! The Raft log as openraft wants it, over [`Storage`].
//!
//! Invariants (openraft's contract): entries are readable when `append` returns and on the disk when its callback is
//! called; the vote is on the disk when `save_vote` returns; writes keep their order.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use prost::Message as _;

use super::codec::{
    decode_entry, decode_log_id, decode_vote, encode_entry, encode_vote, entry_log_id, log_id_to_store,
};
use super::storage::{COMMITTED, PURGED, Storage, VOTE};
use super::types::{Entry, LogId, TypeConfig, Vote};

/// Entries that one replication message carries, in stored bytes: a message stays far below the mesh's limit.
const REPLICATION_BYTES_MAX: usize = 1 << 20;

/// The log; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    storage: Storage,
    /// The newest committed place; the stored one may be older.
    committed: Arc<Mutex<Option<LogId>>>,
}

impl LogStore {
    /// The log in `storage`.
    pub(crate) fn new(storage: Storage) -> io::Result<Self> {
        let committed = storage.get(COMMITTED)?.filter(|bytes| !bytes.is_empty());
        let committed = committed.map(|bytes| decode_log_id(&bytes)).transpose()?;
        Ok(Self { storage, committed: Arc::new(Mutex::new(committed)) })
    }

    fn entries(&self, range: impl RangeBounds<u64> + Clone, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.storage.read(range, bytes_max)?.iter().map(|(_, bytes)| decode_entry(bytes)).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.entries(range, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.storage.get(VOTE)?.map(|bytes| decode_vote(&bytes)).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start..end, REPLICATION_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged = self.storage.get(PURGED)?.map(|bytes| decode_log_id(&bytes)).transpose()?;
        let last = self.storage.last()?.map(|bytes| entry_log_id(&bytes)).transpose()?;
        Ok(LogState { last_log_id: last.or(purged), last_purged_log_id: purged })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.storage.put(VOTE, encode_vote(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        *self.committed.lock() = committed;
        let bytes = committed.map(|id| log_id_to_store(&id).encode_to_vec()).unwrap_or_default();
        self.storage.put_lazily(COMMITTED, bytes).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(*self.committed.lock())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows = entries.into_iter().map(|entry| (entry.index(), encode_entry(&entry))).collect();
        self.storage.append(rows, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.storage.truncate_from(last.map_or(0, |id| id.index().saturating_add(1))).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.storage.purge(log_id.index(), log_id_to_store(&log_id).encode_to_vec()).await
    }
}
