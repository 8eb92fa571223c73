//! Memory for what is read: a budget that many connections share, fair between their owners.
//!
//! Owns the count of bytes that are held, who has to wait, and buffers that are used again. A frame is charged before
//! its first byte is read: whoever must wait leaves it in the socket, so the broker is held up and nothing is buffered.
//! What a frame holds is given back when the last slice of it is dropped.
//!
//! What is copied out of a frame, or made from its records, is charged too ([`Share::charge`]). That never waits: the
//! bytes are there already. It goes beyond the limit at most until the frame is given back, and no frame is read meanwhile.
//!
//! Invariants: frames are granted within the limit, but for one larger frame at a time; a share holds at most as much as is
//! free for all others, so that one whose records go nowhere never takes the budget from the rest (the dynamic threshold
//! of shared-memory switches). Must not know what the bytes are.

mod buffer;

use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

pub(crate) use buffer::Buffer;
use buffer::MAPPED_BYTES_MIN;

/// The heap keeps so many free bytes at its end, for batches that are made here.
const HEAP_KEPT_BYTES: usize = 8 << 20;

/// A budget of bytes.
pub struct Budget {
    limit: usize,
    // Held for a few instructions per frame, never across an await.
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    held: usize,
    /// Somebody holds a frame that doesn't fit beside what the others hold.
    oversized: bool,
    /// Only such as have pages of their own.
    spare: Vec<Buffer>,
    spare_bytes: usize,
}

/// One owner's part in a budget: all that is read through it is charged to it. Clones are the same share.
#[derive(Clone)]
pub struct Share {
    inner: Arc<Owner>,
}

struct Owner {
    budget: Arc<Budget>,
    // Lock order: the budget's state first.
    held: Mutex<usize>,
}

/// Bytes that may be held, in a buffer with room for as many. Given back when dropped.
pub struct Lease {
    share: Share,
    bytes: usize,
    oversized: bool,
    pub(crate) buffer: Buffer,
}

/// Bytes that are held elsewhere than in a frame, charged to a share until it is dropped.
pub struct Charge {
    share: Share,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        // glibc gives the end of its heap back whenever 128 KiB of it are free, and takes it again at once, until a large
        // block was freed: from then on it keeps twice as much as that. Others don't mind.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(HEAP_KEPT_BYTES / 2)));
        Arc::new(Self { limit: limit.max(1), state: Mutex::default(), freed: Notify::new() })
    }

    /// A new owner's share.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { inner: Arc::new(Owner { budget: Arc::clone(self), held: Mutex::new(0) }) }
    }

    /// Bytes held by all shares.
    pub fn held(&self) -> usize {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Share {
    /// Bytes that the share holds.
    pub fn held(&self) -> usize {
        *self.inner.held.lock()
    }

    /// What the share may still take, in bytes.
    pub fn left(&self) -> usize {
        let free = self.inner.budget.limit.saturating_sub(self.inner.budget.held());
        free.saturating_sub(self.held()) / 2
    }

    /// Charges bytes that are there already: it never waits, and may go beyond the limit. Frames wait then until enough
    /// is given back.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.add(&mut self.inner.budget.lock(), bytes);
        Charge { share: self.clone(), bytes }
    }

    fn add(&self, state: &mut State, bytes: usize) {
        state.held += bytes;
        *self.inner.held.lock() += bytes;
    }

    fn give_back(&self, state: &mut State, bytes: usize) {
        state.held -= bytes;
        *self.inner.held.lock() -= bytes;
    }

    /// Takes `bytes` if they are granted now.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Lease> {
        let budget = &self.inner.budget;
        let mut state = budget.lock();
        let oversized = grant(budget.limit, &state, self.held(), bytes)?;
        state.oversized |= oversized;
        self.add(&mut state, bytes);
        let buffer = state.buffer(bytes, budget.limit);
        drop(state);
        let buffer = buffer.unwrap_or_else(|| Buffer::with_capacity(capacity_for(bytes)));
        Some(Lease { share: self.clone(), bytes, oversized, buffer })
    }

    /// Takes `bytes`; waits for them.
    pub(crate) async fn take(&self, bytes: usize) -> Lease {
        loop {
            let freed = self.inner.budget.freed.notified();
            tokio::pin!(freed);
            // From here on a release wakes us, even one between the question and the wait.
            freed.as_mut().enable();
            if let Some(lease) = self.try_take(bytes) {
                return lease;
            }
            freed.await;
        }
    }
}

/// Whether a share that holds `held` may take `bytes` more; and if so, whether that goes beyond the limit.
fn grant(limit: usize, state: &State, held: usize, bytes: usize) -> Option<bool> {
    if state.held.saturating_add(bytes) <= limit {
        let free_after = limit - state.held - bytes;
        if held == 0 || held + bytes <= free_after {
            return Some(false);
        }
    }
    // Larger than what a share may ever have beside others: alone, and one at a time.
    (held == 0 && !state.oversized && bytes > limit / 4).then_some(true)
}

/// Room for a frame of so many bytes, and for others that are a little larger: each new buffer costs page faults, as it is
/// filled for the first time.
fn capacity_for(bytes: usize) -> usize {
    if bytes < MAPPED_BYTES_MIN {
        return bytes;
    }
    let step = bytes.checked_next_power_of_two().map_or(1, |power| power / 16);
    bytes.checked_next_multiple_of(step).unwrap_or(bytes)
}

impl State {
    /// A kept buffer that fits without wasting more than it holds; others go if they no longer fit into the limit.
    fn buffer(&mut self, bytes: usize, limit: usize) -> Option<Buffer> {
        let fits = |b: &Buffer| b.capacity() >= bytes && b.capacity() / 2 <= bytes;
        // The one that was given back last is in the processor's caches still.
        let found = if bytes >= MAPPED_BYTES_MIN { self.spare.iter().rposition(fits) } else { None };
        let taken = found.map(|index| self.spare.remove(index));
        self.spare_bytes -= taken.as_ref().map_or(0, Buffer::capacity);
        while self.spare_bytes > 0 && self.held + self.spare_bytes > limit {
            let Some(dropped) = self.spare.pop() else { break };
            self.spare_bytes -= dropped.capacity();
        }
        taken
    }

    /// Keeps a buffer for use again if it fits into the limit beside what is held, or gives it back. New pages cost as much
    /// as copying what is read into them.
    fn keep(&mut self, buffer: Buffer, limit: usize) -> Option<Buffer> {
        let room = self.held + self.spare_bytes + buffer.capacity() <= limit;
        if !room || buffer.capacity() < MAPPED_BYTES_MIN {
            return Some(buffer);
        }
        self.spare_bytes += buffer.capacity();
        self.spare.push(buffer);
        None
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self.buffer.filled()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let budget = &self.share.inner.budget;
        let mut buffer = std::mem::replace(&mut self.buffer, Buffer::with_capacity(0));
        buffer.clear();
        let surplus;
        {
            let mut state = budget.lock();
            if self.oversized {
                state.oversized = false;
            }
            self.share.give_back(&mut state, self.bytes);
            surplus = state.keep(buffer, budget.limit);
        }
        budget.freed.notify_waiters();
        // Not under the lock: the operating system takes its time.
        drop(surplus);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let budget = &self.share.inner.budget;
        self.share.give_back(&mut budget.lock(), self.bytes);
        budget.freed.notify_waiters();
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charge").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("limit", &self.limit)
            .field("held", &self.held())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("held", &self.held()).field("budget", &self.inner.budget).finish()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_share_leaves_as_much_as_it_holds() {
        let budget = Budget::new(64 * MIB);
        let (stuck, other) = (budget.share(), budget.share());
        let mut held = Vec::new();
        while let Some(lease) = stuck.try_take(MIB) {
            held.push(lease);
        }
        assert_eq!(budget.held(), 32 * MIB);
        let mut others = Vec::new();
        while let Some(lease) = other.try_take(MIB) {
            others.push(lease);
        }
        assert_eq!(others.len(), 16, "half of what the first left");
        assert!(budget.share().try_take(MIB).is_some(), "there is always room for a third");
        held.clear();
        assert_eq!((stuck.held(), other.held()), (0, 16 * MIB));
    }

    #[test]
    fn a_frame_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(MIB);
        let (a, b) = (budget.share(), budget.share());
        let large = a.try_take(10 * MIB).unwrap();
        assert!(b.try_take(10 * MIB).is_none(), "one at a time");
        assert!(a.try_take(1).is_none());
        drop(large);
        assert!(b.try_take(10 * MIB).is_some());
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_waiter_gets_what_is_given_back() {
        let budget = Budget::new(MIB);
        let share = budget.share();
        let first = share.try_take(MIB / 2).unwrap();
        let mut second = Box::pin(share.take(MIB / 2));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(share.left(), 0);
        drop(first);
        assert_eq!(second.now_or_never().unwrap().bytes, MIB / 2);
    }

    #[test]
    fn a_charge_never_waits_and_frames_wait_for_it() {
        let budget = Budget::new(8 * MIB);
        let share = budget.share();
        let frame = share.try_take(4 * MIB).unwrap();
        let copies: Vec<Charge> = (0..5).map(|_| share.charge(MIB)).collect();
        assert_eq!((budget.held(), share.left()), (9 * MIB, 0), "beyond the limit while both are there");
        drop(frame);
        assert_eq!((budget.held(), share.held()), (5 * MIB, 5 * MIB));
        let mut next = Box::pin(share.take(2 * MIB));
        assert!(next.as_mut().now_or_never().is_none(), "as much has to be left for others");
        drop(copies);
        assert_eq!(next.now_or_never().unwrap().bytes, 2 * MIB);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn frames_that_differ_a_little_use_the_same_buffer() {
        let share = Budget::new(8 * MIB).share();
        let lease = share.try_take(MIB + 1).unwrap();
        let place = lease.buffer.filled().as_ptr();
        drop(lease);
        let lease = share.try_take(MIB + 100_000).unwrap();
        assert_eq!(lease.buffer.filled().as_ptr(), place);
        assert!(lease.buffer.capacity() <= MIB + MIB / 8, "and none is much too large");
        assert_eq!(share.held(), MIB + 100_000, "what is charged is what the frame has");
    }

    #[test]
    fn buffers_are_used_again_within_the_limit() {
        let budget = Budget::new(8 * MIB);
        let share = budget.share();
        let mut lease = share.try_take(MIB).unwrap();
        let mut reader = [7_u8; 10].as_slice();
        assert_eq!(lease.buffer.read(&mut reader, 10).now_or_never().unwrap().unwrap(), 10);
        let place = lease.buffer.filled().as_ptr();
        drop(lease);
        assert!(
            share.try_take(3 * MIB).unwrap().buffer.filled().is_empty(),
            "too small a buffer is not used"
        );
        let again = share.try_take(MIB + 100).unwrap();
        assert!(again.buffer.filled().as_ptr() != place, "too small");
        let place = again.buffer.filled().as_ptr();
        drop(again);
        let again = share.try_take(MIB - 100).unwrap();
        assert!(again.buffer.filled().as_ptr() == place, "what was given back last is in the caches still");
        let others: Vec<_> = (0..3).filter_map(|_| budget.share().try_take(MIB)).collect();
        drop((again, others));
        let kept = budget.lock().spare_bytes;
        assert!(kept > 4 * MIB && kept <= 8 * MIB, "{kept}");
    }
}
