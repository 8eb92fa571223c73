//! The coordinator's one file: log, vote, snapshot, in a redb database.
//!
//! Owns the file and the only thread that writes to it. Writes are carried out in the order in which they were
//! asked for; what waits is written and synced to the disk together. Must not know what the bytes mean.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use super::types::TypeConfig;

/// Name of the file in the data directory.
const FILE: &str = "raft.redb";
/// The log: index to `store.v1.LogEntry`.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Everything that there is one of.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Key of the vote, `store.v1.Vote`.
pub(super) const VOTE: &str = "vote";
/// Key of the last purged place, `store.v1.LogId`.
pub(super) const PURGED: &str = "purged";
/// Key of the last place known to be committed, `store.v1.LogId`.
pub(super) const COMMITTED: &str = "committed";
/// Key of the newest snapshot, `store.v1.Snapshot`.
pub(super) const SNAPSHOT: &str = "snapshot";

/// Writes that may wait; whoever asks for more waits until there is room.
const QUEUE_MAX: usize = 1_024;
/// Writes that share one sync to the disk.
const BATCH_MAX: usize = 256;
/// What redb may keep in memory: the log is short, and the state is kept elsewhere.
const CACHE_BYTES: usize = 16 << 20;
/// A predecessor that is just ending still holds the file for a moment.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Answers when a write is on the disk.
type Done = oneshot::Sender<io::Result<()>>;

/// A write.
enum Write {
    Append {
        rows: Vec<(u64, Bytes)>,
        done: IOFlushed<TypeConfig>,
    },
    /// `None` in `done`: need not be on the disk before the next write that must.
    Put {
        key: &'static str,
        value: Vec<u8>,
        done: Option<Done>,
    },
    TruncateFrom {
        index: u64,
        done: Done,
    },
    Purge {
        upto: u64,
        log_id: Vec<u8>,
        done: Done,
    },
}

/// The database; clones share it. The writer ends when the last clone is gone.
#[derive(Clone)]
pub(crate) struct Storage {
    db: Arc<Database>,
    /// Appended but perhaps not committed to the database yet: readable from the moment `append` returns.
    tail: Arc<Mutex<BTreeMap<u64, Bytes>>>,
    writes: mpsc::Sender<Write>,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").finish_non_exhaustive()
    }
}

/// Waits for the end of the writer.
#[derive(Debug)]
pub(crate) struct Writer(JoinHandle<()>);

impl Writer {
    /// Returns once every write is carried out and the file is closed. Blocks: the last [`Storage`] must be gone.
    pub(crate) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the thread that writes the Raft log panicked");
        }
    }
}

impl Storage {
    /// Opens or creates the database in `directory`. Blocks.
    pub(crate) fn open(directory: &Path) -> io::Result<(Self, Writer)> {
        std::fs::create_dir_all(directory)?;
        let db = open_waiting(&directory.join(FILE))?;
        let transaction = db.begin_write().map_err(io::Error::other)?;
        transaction.open_table(LOG).map_err(io::Error::other)?;
        transaction.open_table(META).map_err(io::Error::other)?;
        transaction.commit().map_err(io::Error::other)?;
        let db = Arc::new(db);
        let tail = Arc::<Mutex<BTreeMap<u64, Bytes>>>::default();
        let (writes, queue) = mpsc::channel(QUEUE_MAX);
        let worker = (Arc::clone(&db), Arc::clone(&tail));
        let thread = std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || write_all(&worker.0, &worker.1, queue))?;
        Ok((Self { db, tail, writes }, Writer(thread)))
    }

    /// Appends; readable on return, `done` is called when it is on the disk.
    pub(super) async fn append(
        &self,
        rows: Vec<(u64, Bytes)>,
        done: IOFlushed<TypeConfig>,
    ) -> io::Result<()> {
        self.tail.lock().extend(rows.iter().cloned());
        self.send(Write::Append { rows, done }).await
    }

    /// Writes a value; on the disk on return.
    pub(super) async fn put(&self, key: &'static str, value: Vec<u8>) -> io::Result<()> {
        self.wait(|done| Write::Put { key, value, done: Some(done) }).await
    }

    /// Writes a value that may be lost in a crash; on the disk not later than the next write.
    pub(super) async fn put_lazily(&self, key: &'static str, value: Vec<u8>) -> io::Result<()> {
        self.send(Write::Put { key, value, done: None }).await
    }

    /// Removes `index` and everything behind it.
    pub(super) async fn truncate_from(&self, index: u64) -> io::Result<()> {
        self.wait(|done| Write::TruncateFrom { index, done }).await
    }

    /// Removes everything up to and with `upto`, and remembers its place.
    pub(super) async fn purge(&self, upto: u64, log_id: Vec<u8>) -> io::Result<()> {
        self.wait(|done| Write::Purge { upto, log_id, done }).await
    }

    /// Reads entries up to a sum of `bytes_max`, at least one if there is one.
    pub(super) fn read(
        &self,
        range: impl RangeBounds<u64> + Clone,
        bytes_max: usize,
    ) -> io::Result<Vec<(u64, Bytes)>> {
        // The tail first: what leaves it meanwhile is in the database by then.
        let tail: BTreeMap<u64, Bytes> =
            self.tail.lock().range(range.clone()).map(|(index, bytes)| (*index, bytes.clone())).collect();
        let mut rows = Vec::new();
        let mut budget = Budget(bytes_max);
        let transaction = self.db.begin_read().map_err(io::Error::other)?;
        let table = transaction.open_table(LOG).map_err(io::Error::other)?;
        for row in table.range(range).map_err(io::Error::other)? {
            let (index, value) = row.map_err(io::Error::other)?;
            // The tail is newer where both have an entry.
            if tail.contains_key(&index.value()) {
                break;
            }
            let bytes = Bytes::copy_from_slice(value.value());
            if !budget.take(bytes.len()) {
                return Ok(rows);
            }
            rows.push((index.value(), bytes));
        }
        for (index, bytes) in tail {
            if !budget.take(bytes.len()) {
                break;
            }
            rows.push((index, bytes));
        }
        Ok(rows)
    }

    /// The last entry.
    pub(super) fn last(&self) -> io::Result<Option<Bytes>> {
        if let Some((_, bytes)) = self.tail.lock().last_key_value() {
            return Ok(Some(bytes.clone()));
        }
        let transaction = self.db.begin_read().map_err(io::Error::other)?;
        let table = transaction.open_table(LOG).map_err(io::Error::other)?;
        let last = table.last().map_err(io::Error::other)?;
        Ok(last.map(|(_, value)| Bytes::copy_from_slice(value.value())))
    }

    /// A value as last committed to the database.
    pub(super) fn get(&self, key: &str) -> io::Result<Option<Bytes>> {
        let transaction = self.db.begin_read().map_err(io::Error::other)?;
        let table = transaction.open_table(META).map_err(io::Error::other)?;
        let value = table.get(key).map_err(io::Error::other)?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    async fn wait(&self, write: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(write(done)).await?;
        answer.await.map_err(|_| closed())?
    }

    async fn send(&self, write: Write) -> io::Result<()> {
        self.writes.send(write).await.map_err(|_| closed())
    }
}

/// Sums up to a limit; the first one always fits.
struct Budget(usize);

impl Budget {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.0 > 0;
        self.0 = self.0.saturating_sub(bytes);
        fits
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the thread that writes the Raft log has ended")
}

fn open_waiting(path: &Path) -> io::Result<Database> {
    let begin = Instant::now();
    loop {
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Ok(db) => return Ok(db),
            Err(DatabaseError::DatabaseAlreadyOpen) if begin.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(io::Error::other(format!("{}: {error}", path.display()))),
        }
    }
}

/// The writer: takes what waits, commits it as one transaction, then answers in order.
fn write_all(db: &Database, tail: &Mutex<BTreeMap<u64, Bytes>>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while let Some(first) = queue.blocking_recv() {
        batch.push(first);
        // What nobody waits for is written with the next write that somebody waits for, or at the end.
        while batch.len() < BATCH_MAX {
            let lazy = batch.iter().all(|write| matches!(write, Write::Put { done: None, .. }));
            let next = if lazy { queue.blocking_recv() } else { queue.try_recv().ok() };
            let Some(next) = next else { break };
            batch.push(next);
        }
        let result = commit(db, &batch);
        if let Err(error) = &result {
            tracing::error!(%error, "the Raft log can't be written");
        }
        for write in batch.drain(..) {
            answer(write, &result, tail);
        }
    }
}

fn commit(db: &Database, batch: &[Write]) -> io::Result<()> {
    let mut transaction = db.begin_write().map_err(io::Error::other)?;
    transaction.set_durability(Durability::Immediate).map_err(io::Error::other)?;
    {
        let mut log = transaction.open_table(LOG).map_err(io::Error::other)?;
        let mut meta = transaction.open_table(META).map_err(io::Error::other)?;
        for write in batch {
            match write {
                Write::Append { rows, .. } => {
                    for (index, bytes) in rows {
                        log.insert(index, &**bytes).map_err(io::Error::other)?;
                    }
                }
                Write::Put { key, value, .. } => {
                    meta.insert(*key, value.as_slice()).map_err(io::Error::other)?;
                }
                Write::TruncateFrom { index, .. } => {
                    log.retain_in(*index.., |_, _| false).map_err(io::Error::other)?;
                }
                Write::Purge { upto, log_id, .. } => {
                    meta.insert(PURGED, log_id.as_slice()).map_err(io::Error::other)?;
                    log.retain_in(..=*upto, |_, _| false).map_err(io::Error::other)?;
                }
            }
        }
    }
    transaction.commit().map_err(io::Error::other)
}

fn answer(write: Write, result: &io::Result<()>, tail: &Mutex<BTreeMap<u64, Bytes>>) {
    let copy = || match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    };
    match write {
        Write::Append { rows, done } => {
            if result.is_ok() {
                let mut tail = tail.lock();
                for (index, bytes) in &rows {
                    // A later append of the same index stays: compare the memory, not the content.
                    if tail.get(index).is_some_and(|kept| kept.as_ptr() == bytes.as_ptr()) {
                        tail.remove(index);
                    }
                }
            }
            done.io_completed(copy());
        }
        Write::Put { done: Some(done), .. }
        | Write::TruncateFrom { done, .. }
        | Write::Purge { done, .. } => {
            // Whoever asked may be gone.
            drop(done.send(copy()));
        }
        Write::Put { done: None, .. } => {}
    }
}
