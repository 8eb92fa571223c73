//! The library's own conformance suite on our log, and what it does not cover.

use std::sync::Arc;

use mirrormesh_core::control::{Command, CommandKind};
use mirrormesh_core::ids::WorkerId;
use mirrormesh_proto::mesh::raft_service_server::RaftServiceServer;
use mirrormesh_runtime::grpc::{GrpcServer, ServerLimits};
use mirrormesh_runtime::shutdown::Shutdown;
use openraft::alias::LeaderIdOf;
use openraft::async_runtime::watch::WatchReceiver as _;
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

fn plan(directory: &TempDir) -> super::StartPlan {
    let node = super::Node { mesh_address: "127.0.0.1:1".into(), api_address: "127.0.0.1:2".into() };
    super::StartPlan {
        own: 1,
        data_dir: directory.path().to_owned(),
        initial_members: [(1, node)].into(),
        proposals: opentelemetry::global::meter("test").f64_histogram("proposals").build(),
    }
}

async fn register(handle: &super::RaftHandle, worker: &str) {
    let kind = CommandKind::RegisterWorker {
        worker: WorkerId::new(worker).unwrap(),
        role: mirrormesh_core::unit::Role::Source,
        capacity: 5,
        version: "1".into(),
    };
    handle.propose(kind).await.unwrap();
}

async fn stop(running: super::RunningRaft, stop: tokio_util::sync::CancellationToken) {
    stop.cancel();
    let super::RunningRaft { handle, writer, .. } = running;
    handle.shutdown().await;
    drop(handle);
    tokio::task::spawn_blocking(|| writer.join()).await.unwrap();
}

/// Index of the last entry that was applied here.
fn applied(handle: &super::RaftHandle) -> u64 {
    handle.raft.metrics().borrow_watched().last_applied.unwrap().index()
}

/// Waits until an entry is in the snapshot or gone from the log.
async fn wait_for(
    handle: &super::RaftHandle,
    what: &str,
    done: impl Fn(Option<u64>, Option<u64>) -> bool + Send + Sync,
) {
    let wait = handle.raft.wait(Some(std::time::Duration::from_secs(10)));
    let reached = wait.metrics(
        |metrics| done(metrics.snapshot.map(|id| id.index()), metrics.purged.map(|id| id.index())),
        what,
    );
    reached.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn state_survives_a_restart_from_snapshot_and_from_the_log_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let token = tokio_util::sync::CancellationToken::new();
    let running = super::start(plan(&directory)).await.unwrap();
    let following = tokio::spawn(running.follow(token.clone()));
    let handle = running.handle.clone();
    handle.watch_leadership().wait_for(|now| now.is_self).await.unwrap();
    for number in 0..20 {
        register(&handle, &format!("w{number}")).await;
    }
    let applied = applied(&handle);
    handle.raft.trigger().snapshot().await.unwrap();
    wait_for(&handle, "snapshot", |snapshot, _| snapshot >= Some(applied)).await;
    handle.raft.trigger().purge_log(applied).await.unwrap();
    wait_for(&handle, "purge", |_, purged| purged == Some(applied)).await;
    register(&handle, "behind-the-snapshot").await;
    let before = handle.read().await.unwrap();
    drop(handle);
    stop(running, token).await;
    following.await.unwrap().unwrap();

    let token = tokio_util::sync::CancellationToken::new();
    let running = super::start(plan(&directory)).await.unwrap();
    let following = tokio::spawn(running.follow(token.clone()));
    running.handle.watch_leadership().wait_for(|now| now.is_self).await.unwrap();
    let after = running.handle.read().await.unwrap();
    assert_eq!(after, before);
    assert_eq!(after.workers.len(), 21);
    stop(running, token).await;
    following.await.unwrap().unwrap();

    let other = super::StartPlan { own: 2, ..plan(&directory) };
    let refused = super::start(other).await.unwrap_err();
    assert!(format!("{refused:?}").contains("belongs to coordinator 1"), "{refused:?}");
}

/// Serves a coordinator's Raft calls until the returned guard is dropped.
fn serve(handle: &super::RaftHandle, server: GrpcServer) -> tokio_util::sync::DropGuard {
    let shutdown = Shutdown::new();
    let service = RaftServiceServer::new(super::PeerService::new(handle.clone()))
        .max_decoding_message_size(super::RAFT_MESSAGE_BYTES_MAX);
    let serving = server.serve(tonic::service::Routes::new(service), shutdown.clone());
    tokio::spawn(serving);
    shutdown.token().clone().drop_guard()
}

async fn bind() -> GrpcServer {
    let descriptors = [mirrormesh_proto::MESH_DESCRIPTORS];
    GrpcServer::bind("test", "127.0.0.1:0", ServerLimits::mesh(), &descriptors).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_gets_what_the_log_does_not_hold_any_more_as_a_snapshot() {
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first_server, second_server) = (bind().await, bind().await);
    let node = |server: &GrpcServer| super::Node {
        mesh_address: server.local_addr().to_string(),
        api_address: "127.0.0.1:1".into(),
    };
    let (first_node, second_node) = (node(&first_server), node(&second_server));
    let token = tokio_util::sync::CancellationToken::new();
    let first = super::StartPlan { initial_members: [(1, first_node)].into(), ..plan(&first_dir) };
    let first = super::start(first).await.unwrap();
    let second = super::StartPlan { own: 2, initial_members: [].into(), ..plan(&second_dir) };
    let second = super::start(second).await.unwrap();
    tokio::spawn(first.follow(token.clone()));
    tokio::spawn(second.follow(token.clone()));
    let _first_server = serve(&first.handle, first_server);
    let _second_server = serve(&second.handle, second_server);

    first.handle.watch_leadership().wait_for(|now| now.is_self).await.unwrap();
    // Larger than one piece.
    for number in 0..5 {
        let kind = CommandKind::RegisterWorker {
            worker: WorkerId::new(format!("w{number}")).unwrap(),
            role: mirrormesh_core::unit::Role::Source,
            capacity: 5,
            version: "x".repeat(700 << 10),
        };
        first.handle.propose(kind).await.unwrap();
    }
    let last = applied(&first.handle);
    first.handle.raft.trigger().snapshot().await.unwrap();
    wait_for(&first.handle, "snapshot", |snapshot, _| snapshot >= Some(last)).await;
    first.handle.raft.trigger().purge_log(last).await.unwrap();
    wait_for(&first.handle, "purge", |_, purged| purged == Some(last)).await;

    let member = super::Member { id: 2, node: second_node, voter: true };
    first.handle.add_member(member).await.unwrap();
    let expected = first.handle.read().await.unwrap();
    let mut states = second.handle.watch_states();
    let arrived = states.wait_for(|state| state.revision == expected.revision);
    let arrived =
        tokio::time::timeout(std::time::Duration::from_secs(10), arrived).await.unwrap().unwrap().clone();
    assert_eq!(arrived, expected);
    let snapshot = second.handle.raft.metrics().borrow_watched().snapshot;
    assert!(
        snapshot.is_some_and(|id| id.index() >= last),
        "it came as a snapshot, not as a log: {snapshot:?}"
    );
    token.cancel();
    first.handle.shutdown().await;
    second.handle.shutdown().await;
}
