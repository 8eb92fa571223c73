//! Reading from one source broker for all partitions of a flow that it leads.
//!
//! Owns the fetch connections and the fetch offsets; knows nothing about what becomes of the records.
//!
//! Two fetches may be out at a time, each on its own connection. The first is a session that waits long and costs
//! nothing for partitions that are quiet; the second serves those that got ready meanwhile, and waits only shortly. A
//! partition whose consumer has not taken what it got, or which holds more than its share of the memory, is left out: no
//! partition holds up another.

pub(crate) mod fetched;
mod lane;
mod pause;
mod task;

use std::sync::Arc;

use bytes::Bytes;
use mirrormesh_core::format::batch::entries;
use mirrormesh_kafka::Client;
use mirrormesh_kafka::memory::Share;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::ends::SourceEnd;
use crate::memory::PartitionMemory;
use crate::throttle::{PartitionThrottle, Throttles};
pub(crate) use fetched::{Fetched, page_of};
use task::Task;

/// Pages that a partition may have waiting.
pub(crate) const PAGES_WAITING: usize = 2;
/// Subscriptions waiting to be taken up; senders wait beyond it.
const COMMANDS_WAITING: usize = 1_024;

/// What a partition wants.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The topic.
    pub(crate) topic: Arc<str>,
    /// Its id.
    pub(crate) topic_id: [u8; 16],
    /// The partition.
    pub(crate) partition: i32,
    /// Where to begin.
    pub(crate) offset: i64,
    /// Leader epoch as the metadata has it.
    pub(crate) leader_epoch: i32,
    /// Leader epoch of what is before the offset; -1 when not known.
    pub(crate) last_epoch: i32,
    /// Told whenever the end of the partition was seen.
    pub(crate) end: Arc<SourceEnd>,
    /// Says when nothing is to be fetched, and how much at a time.
    pub(crate) throttle: Arc<PartitionThrottle>,
    /// What the records are charged to.
    pub(crate) memory: Arc<PartitionMemory>,
    /// Where records go.
    pub(crate) pages: mpsc::Sender<Fetched>,
}

/// What a fetcher is set to.
#[derive(Debug, Clone)]
pub(crate) struct FetcherLimits {
    /// Leave out transactions that are open or aborted.
    pub(crate) read_committed: bool,
    /// Bytes of one fetch at most, but for a larger first batch.
    pub(crate) fetch_bytes: i32,
    /// Bytes of one partition in one fetch, while fetches are quick. On a long way it grows up to `fetch_bytes`.
    pub(crate) partition_bytes: i32,
    /// The flow's share of the worker's memory: what is fetched is charged to it before it is read.
    pub(crate) memory: Share,
    /// How fast the flow may copy.
    pub(crate) throttles: Arc<Throttles>,
}

/// The way to a fetcher.
#[derive(Debug)]
pub(crate) struct Fetcher {
    commands: mpsc::Sender<Subscription>,
    wake: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Fetcher {
    /// Starts the task.
    pub(crate) fn start(client: Client, node_id: i32, limits: FetcherLimits) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS_WAITING);
        let wake = Arc::new(Notify::new());
        let task = Task::new(client, node_id, limits, receiver, Arc::clone(&wake));
        let handle = tokio::spawn(task.run());
        Self { commands, wake, _task: AbortOnDropHandle::new(handle) }
    }

    /// Subscribes, in place of an earlier subscription to the same partition. It ends when its receiver is dropped.
    pub(crate) async fn subscribe(&self, subscription: Subscription) {
        // The task ends only with its handle, so there is always somebody to take it.
        let _taken = self.commands.send(subscription).await;
    }

    /// Is told when memory of a partition gets free.
    pub(crate) fn wake(&self) -> &Arc<Notify> {
        &self.wake
    }

    /// Says that a page was taken, so that the partition may be fetched again.
    pub(crate) fn taken(&self) {
        self.wake.notify_one();
    }
}

/// Offset behind the last batch that can be read, and whether one follows that can't: its reader must see it and stop,
/// or it would be fetched again and again.
fn next_offset(records: &Bytes, from: i64) -> (i64, bool) {
    let mut next = from;
    for entry in entries(records.clone()) {
        match entry {
            Ok(entry) => next = next.max(entry.next_offset()),
            Err(_) => return (next, true),
        }
    }
    (next, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_batch_is_told_apart_from_a_partial_one() {
        let mut batch = [0_u8; 61];
        batch[7] = 40; // base offset
        batch[11] = 49; // length
        batch[16] = 2; // magic
        batch[26] = 4; // last offset delta
        batch[60] = 5; // count
        let whole = Bytes::copy_from_slice(&batch);
        assert_eq!(next_offset(&whole, 3), (45, false));
        assert_eq!(next_offset(&whole.slice(..60), 3), (3, false), "partial");
        batch[8] = 0xff; // a negative length
        assert_eq!(next_offset(&Bytes::copy_from_slice(&batch), 3), (3, true));
        let both = Bytes::from([&whole[..], &batch[..]].concat());
        assert_eq!(next_offset(&both, 3), (45, true));
    }
}
