//! What one partition holds of the worker's memory: pages that were fetched, and batches that were made from them.
//!
//! The frame of a fetch is charged to its flow before it is read. A page is a slice of that frame and keeps all of the
//! frame in memory. A small page is copied instead, and the copy is charged. A batch that was made here is charged as well.
//! So all record bytes of a worker are charged, whatever holds them.
//!
//! Where several partitions keep one frame in memory, each holds an equal part of the frame. The last one holds all of it:
//! a partition that gets on slowly must not take the memory of the others unseen. Must not know what the bytes are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use mirrormesh_kafka::memory::{Charge, Share};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// A page that is smaller than this part of its frame is copied.
const COPIED_PART: usize = 16;

/// The frame of one answer, while pages keep it in memory.
#[derive(Debug)]
pub(crate) struct Frame {
    bytes: usize,
    /// Pages that are slices of the frame.
    pages: AtomicUsize,
}

impl Frame {
    /// A frame of so many bytes, which no page keeps yet.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, pages: AtomicUsize::new(0) })
    }

    /// The part of one of its pages.
    fn part(&self) -> usize {
        self.bytes / self.pages.load(Ordering::Relaxed).max(1)
    }
}

/// A page that keeps its frame.
#[derive(Debug)]
struct Slice {
    frame: Arc<Frame>,
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.frame.pages.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The memory of one partition.
#[derive(Debug)]
pub(crate) struct PartitionMemory {
    share: Share,
    /// Bytes of copies and of batches that were made here.
    own: AtomicUsize,
    /// Whoever fetches found no room, and waits for some.
    waits: AtomicBool,
    /// Pages that keep their frames. Those that are gone are taken out when the next one comes.
    // Lock: held to look through some entries.
    slices: Mutex<Vec<Weak<Slice>>>,
}

/// Bytes that count as held until their last slice is dropped.
struct Held {
    bytes: Bytes,
    /// The bytes are in memory of their own.
    own: Option<(Arc<PartitionMemory>, Charge)>,
    /// The bytes are in a frame, which is charged itself.
    slice: Option<Arc<Slice>>,
    wake: Arc<Notify>,
    /// Wake whoever fetches, also where nobody waits for memory of the partition.
    always_wakes: bool,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The memory first: who is woken must find it free.
        let length = self.bytes.len();
        self.bytes = Bytes::new();
        self.slice = None;
        let mut waits = false;
        if let Some((memory, charge)) = self.own.take() {
            memory.own.fetch_sub(length, Ordering::SeqCst);
            drop(charge);
            waits = memory.waits.swap(false, Ordering::SeqCst);
        }
        if waits || self.always_wakes {
            self.wake.notify_one();
        }
    }
}

impl PartitionMemory {
    /// Charged to a flow's share.
    pub(crate) fn new(share: Share) -> Arc<Self> {
        Arc::new(Self {
            share,
            own: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            slices: Mutex::default(),
        })
    }

    /// Bytes that the partition keeps in memory.
    pub(crate) fn held(&self) -> usize {
        let slices = self.slices.lock();
        let parts = slices.iter().filter_map(Weak::upgrade).map(|slice| slice.frame.part());
        self.own.load(Ordering::SeqCst) + parts.sum::<usize>()
    }

    /// The partition holds nothing, or no more than what is left for the other partitions of its flow.
    pub(crate) fn has_room(&self) -> bool {
        // Before the look: bytes that are given back behind it have to wake whoever fetches.
        self.waits.store(true, Ordering::SeqCst);
        let held = self.held();
        let room = held == 0 || held <= self.share.left();
        if room {
            self.waits.store(false, Ordering::SeqCst);
        }
        room
    }

    /// Takes a page of a frame. `wake` is told when the page is dropped.
    pub(crate) fn page(self: &Arc<Self>, records: Bytes, frame: &Arc<Frame>, wake: &Arc<Notify>) -> Bytes {
        if records.is_empty() {
            return Bytes::new();
        }
        if records.len() < frame.bytes / COPIED_PART {
            return self.own(Bytes::copy_from_slice(&records), wake, true);
        }
        frame.pages.fetch_add(1, Ordering::Relaxed);
        let slice = Arc::new(Slice { frame: Arc::clone(frame) });
        let mut slices = self.slices.lock();
        slices.retain(|slice| slice.strong_count() > 0);
        slices.push(Arc::downgrade(&slice));
        drop(slices);
        let wake = Arc::clone(wake);
        Bytes::from_owner(Held { bytes: records, own: None, slice: Some(slice), wake, always_wakes: true })
    }

    /// Takes a batch that was made here: a slice of no frame. `wake` is told when it is dropped, if whoever
    /// fetches waits for memory of the partition.
    pub(crate) fn made(self: &Arc<Self>, batch: Bytes, wake: &Arc<Notify>) -> Bytes {
        self.own(batch, wake, false)
    }

    fn own(self: &Arc<Self>, bytes: Bytes, wake: &Arc<Notify>, always_wakes: bool) -> Bytes {
        self.own.fetch_add(bytes.len(), Ordering::Relaxed);
        let own = Some((Arc::clone(self), self.share.charge(bytes.len())));
        Bytes::from_owner(Held { bytes, own, slice: None, wake: Arc::clone(wake), always_wakes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_kafka::memory::Budget;

    const KIB: usize = 1 << 10;

    fn page(memory: &Arc<PartitionMemory>, frame: &Arc<Frame>, bytes: usize) -> Bytes {
        memory.page(vec![7; bytes].into(), frame, &Arc::default())
    }

    #[test]
    fn a_small_page_is_copied_and_charged() {
        let budget = Budget::new(64 * KIB);
        let memory = PartitionMemory::new(budget.share());
        let frame = Frame::new(32 * KIB);
        let first = page(&memory, &frame, KIB);
        let rest = first.slice(10..);
        drop(first);
        assert_eq!((memory.held(), budget.held()), (KIB, KIB), "a slice keeps it");
        drop(rest);
        assert_eq!((memory.held(), budget.held()), (0, 0));
        assert!(page(&memory, &frame, 0).is_empty());
    }

    #[test]
    fn pages_of_many_partitions_fill_the_budget() {
        let budget = Budget::new(64 * KIB);
        let share = budget.share();
        let frame = Frame::new(32 * KIB);
        let memories: Vec<_> = (0..200).map(|_| PartitionMemory::new(share.clone())).collect();
        let pages: Vec<Bytes> = memories.iter().map(|memory| page(memory, &frame, KIB)).collect();
        assert_eq!(budget.held(), 200 * KIB);
        assert!(memories.iter().all(|memory| !memory.has_room()));
        drop(pages);
        assert!(memories.iter().all(|memory| memory.has_room()));
    }

    #[test]
    fn a_frame_is_divided_among_those_who_keep_it() {
        let budget = Budget::new(64 * KIB);
        let (quick, slow) = (PartitionMemory::new(budget.share()), PartitionMemory::new(budget.share()));
        let frame = Frame::new(32 * KIB);
        let pages = [page(&quick, &frame, 8 * KIB), page(&quick, &frame, 8 * KIB)];
        let last = page(&slow, &frame, 2 * KIB);
        assert!((quick.held() + slow.held()).abs_diff(32 * KIB) < 3);
        assert_eq!(budget.held(), 0, "the frame is charged by who read it");
        drop(pages);
        assert_eq!((quick.held(), slow.held()), (0, 32 * KIB), "the last one keeps all of it");
        drop(last);
        let _next = page(&slow, &Frame::new(KIB), KIB);
        assert_eq!((slow.held(), slow.slices.lock().len()), (KIB, 1));
    }

    #[test]
    fn who_waits_for_room_is_woken_when_it_is_there() {
        let budget = Budget::new(64 * KIB);
        let memory = PartitionMemory::new(budget.share());
        let wake = Arc::new(Notify::new());
        let woken = || futures::FutureExt::now_or_never(Box::pin(wake.notified())).is_some();
        drop(memory.made(vec![1; KIB].into(), &wake));
        assert!(!woken(), "nobody waited for memory");
        let made = memory.made(vec![1; 40 * KIB].into(), &wake);
        assert!(!memory.has_room());
        drop(made);
        assert!(memory.has_room() && woken());
        drop(memory.page(vec![1; KIB].into(), &Frame::new(KIB), &wake));
        assert!(woken());
    }
}
