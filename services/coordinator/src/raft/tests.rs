//! The library's own conformance suite on our log, and what it does not cover.

use std::sync::Arc;

use mirrormesh_core::control::{Command, CommandKind};
use mirrormesh_core::ids::WorkerId;
use openraft::alias::LeaderIdOf;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderId as _;
use openraft::{EntryPayload, StorageError};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::storage::Storage;
use super::types::{Entry, LogCommand, LogId, TypeConfig, Vote};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let (storage, _writer) = Storage::open(directory.path()).unwrap();
        let log = LogStore::new(storage.clone()).unwrap();
        let (machine, _states) = StateMachine::open(storage).unwrap();
        Ok((directory, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_passes_the_conformance_suite() {
    Suite::test_all(Builder).await.unwrap();
}

fn log_id(index: u64) -> LogId {
    LogId::new(LeaderIdOf::<TypeConfig>::new(3, 1), index)
}

fn entry(index: u64) -> Entry {
    let kind = CommandKind::DrainWorker { worker: WorkerId::new(format!("w{index}")).unwrap() };
    Entry::new(log_id(index), EntryPayload::Normal(LogCommand(Arc::new(Command { at_ms: index, kind }))))
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, writer) = Storage::open(directory.path()).unwrap();
    let mut log = LogStore::new(storage).unwrap();
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.blocking_append((1..=9).map(entry)).await.unwrap();
    log.truncate_after(Some(log_id(7))).await.unwrap();
    log.purge(log_id(2)).await.unwrap();
    // Lazily written: the writer must still bring it to the disk when it ends.
    log.save_committed(Some(log_id(5))).await.unwrap();
    drop(log);
    tokio::task::spawn_blocking(|| writer.join()).await.unwrap();

    let (storage, _writer) = Storage::open(directory.path()).unwrap();
    let mut log = LogStore::new(storage).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 1)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(5)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2)), Some(log_id(7))));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), (3..=7).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn entries_are_readable_before_they_are_on_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, _writer) = Storage::open(directory.path()).unwrap();
    let mut log = LogStore::new(storage).unwrap();
    for index in 1..200 {
        log.append([entry(index)], IOFlushed::noop()).await.unwrap();
        let read = log.try_get_log_entries(1..=index).await.unwrap();
        assert_eq!(read.len() as u64, index, "no hole and nothing missing at {index}");
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(index)));
    }
}

#[tokio::test]
async fn a_replication_message_is_limited_by_bytes_and_never_empty() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, _writer) = Storage::open(directory.path()).unwrap();
    let mut log = LogStore::new(storage).unwrap();
    let large = |index: u64| {
        let kind = CommandKind::RegisterWorker {
            worker: WorkerId::new("w").unwrap(),
            role: mirrormesh_core::unit::Role::Source,
            capacity: 1,
            version: "x".repeat(600 << 10),
        };
        Entry::new(log_id(index), EntryPayload::Normal(LogCommand(Arc::new(Command { at_ms: 0, kind }))))
    };
    log.blocking_append((1..=5).map(large)).await.unwrap();
    assert_eq!(log.limited_get_log_entries(1, 6).await.unwrap().len(), 2);
    assert_eq!(log.limited_get_log_entries(5, 6).await.unwrap().len(), 1);
    assert_eq!(log.try_get_log_entries(1..6).await.unwrap().len(), 5);
}
