//! Decoding of records beside the threads that pass batches on.
//!
//! Those are few (`Threads::PerTwoCores`), and opening a large batch takes as long as passing dozens on: it goes aside,
//! where every core may take part. Must not know how records are decoded, nor why.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use mirrormesh_core::format::batch::RawBatch;
use mirrormesh_kafka::batch::RecordCodecs;
use mirrormesh_relay::rebuild::{Codecs, RebuildError, RebuildPlan, Rebuilt, RecordId};
use tokio::runtime::{Handle, RuntimeFlavor};

/// To go aside costs about as much as decoding so many bytes.
const ASIDE_BYTES_MIN: usize = 16 * 1024;

/// A larger piece takes long, whatever it holds.
const PLAIN_BYTES_MAX: usize = 2 << 20;

/// Pieces that are done aside just now.
static ASIDE: AtomicUsize = AtomicUsize::new(0);
/// So many at once, where they are of records that are not compressed and so take no longer than to copy them. Each goes
/// on in a thread that keeps memory of its own, and more than there are cores would only wait for each other.
static ASIDE_MAX: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)));

/// Codecs that do large pieces of work aside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AsideCodecs(RecordCodecs);

impl AsideCodecs {
    /// With a limit on the decompressed records of one batch, bytes.
    pub(crate) const fn new(limit: usize) -> Self {
        Self(RecordCodecs::new(limit))
    }
}

impl Codecs for AsideCodecs {
    fn rebuild(&self, batches: &[RawBatch], plan: &RebuildPlan) -> Result<Rebuilt, RebuildError> {
        let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        aside(bytes, batches.iter().all(is_plain), || self.0.rebuild(batches, plan))
    }

    fn identify(&self, batch: &RawBatch) -> Result<Vec<RecordId>, RebuildError> {
        aside(batch.bytes.len(), is_plain(batch), || self.0.identify(batch))
    }

    fn modernise(&self, old: &Bytes) -> Result<RawBatch, RebuildError> {
        aside(old.len(), false, || self.0.modernise(old))
    }
}

/// Lets the thread's other tasks go on elsewhere meanwhile, where there is an elsewhere.
///
/// What is `plain` is short, so that it may as well be done at once where enough are aside.
fn aside<T>(bytes: usize, plain: bool, work: impl FnOnce() -> T) -> T {
    let has_others = || Handle::try_current().map(|handle| handle.runtime_flavor());
    if bytes < ASIDE_BYTES_MIN || !matches!(has_others(), Ok(RuntimeFlavor::MultiThread)) {
        return work();
    }
    let turn = Turn::take(if plain && bytes <= PLAIN_BYTES_MAX { *ASIDE_MAX } else { usize::MAX });
    if turn.is_some() {
        return tokio::task::block_in_place(work);
    }
    work()
}

/// Its records are not compressed.
fn is_plain(batch: &RawBatch) -> bool {
    batch.header.codec() == 0
}

/// One of the pieces that are done aside.
struct Turn;

impl Turn {
    fn take(most: usize) -> Option<Self> {
        let more = |count: usize| (count < most).then_some(count + 1);
        ASIDE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        ASIDE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    /// What only another task of the same thread does.
    fn done_meanwhile(bytes: usize) -> bool {
        let (done, is_done) = mpsc::channel();
        let other = tokio::spawn(async move { done.send(()) });
        let outcome = aside(bytes, true, || is_done.recv_timeout(Duration::from_secs(10)).is_ok());
        drop(other);
        outcome
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_of_the_thread_go_on_beside_a_large_piece() {
        let outcome = tokio::spawn(async { done_meanwhile(ASIDE_BYTES_MIN) }).await;
        assert!(outcome.unwrap());
    }

    #[tokio::test]
    async fn where_there_is_no_other_thread_it_is_done_at_once() {
        assert_eq!(aside(usize::MAX, true, || 7), 7);
        assert_eq!(
            std::thread::spawn(|| aside(usize::MAX, true, || 8)).join().unwrap(),
            8,
            "outside of a runtime too"
        );
    }
}
