//! One task per source broker and flow: fetches for all partitions that the broker leads.
//!
//! Owns the fetch connections and the fetch offsets; knows nothing about what becomes of the records.
//!
//! Two fetches may be out at a time, for different partitions, each on its own connection: one may wait long at a
//! quiet broker while the other serves partitions that have something to do. A partition whose consumer has not taken
//! what it got is left out, so no partition holds up another and memory stays bounded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use mirrormesh_core::format::batch::entries;
use mirrormesh_core::relay::page::SourcePage;
use mirrormesh_core::relay::reader::Aborted;
use mirrormesh_kafka::wire::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchedPartition};
use mirrormesh_kafka::{Client, Error, ErrorCode};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// How long a broker may hold a fetch for which it has nothing.
const WAIT_LONG: Duration = Duration::from_millis(500);
/// The same while other partitions wait for the second connection.
const WAIT_SHORT: Duration = Duration::from_millis(20);
/// Connections for fetching, by purpose.
const LANES: [u32; 2] = [100, 101];
/// Chunks that a partition may have waiting.
pub(crate) const CHUNKS_WAITING: usize = 2;
/// Subscriptions waiting to be taken up; senders wait beyond it.
const COMMANDS_WAITING: usize = 1_024;

/// Records of one partition from one fetch.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// What was fetched; without records if only the end is new.
    pub(crate) page: SourcePage,
    /// Memory that the records take; given back when the last of them is done with.
    pub(crate) memory: Memory,
}

/// A share of the memory budget.
pub(crate) type Memory = Arc<Option<OwnedSemaphorePermit>>;

/// What a subscriber gets.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// Records, or only a new end.
    Chunk(Chunk),
    /// The broker refused; the subscription is over.
    Refused(ErrorCode),
    /// The broker can't be reached; the subscription is over.
    Lost(String),
}

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
    /// Where records go.
    pub(crate) chunks: mpsc::Sender<Fetched>,
}

/// What a fetcher is set to.
#[derive(Debug, Clone)]
pub(crate) struct FetcherLimits {
    /// Leave out transactions that are open or aborted.
    pub(crate) read_committed: bool,
    /// Bytes of one fetch.
    pub(crate) fetch_bytes: i32,
    /// Bytes of one partition in one fetch.
    pub(crate) partition_bytes: i32,
    /// The memory budget, in KiB.
    pub(crate) budget: Arc<Semaphore>,
    /// Its whole size, in KiB.
    pub(crate) budget_kib: u32,
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
        let task = Task {
            client,
            node_id,
            limits,
            commands: receiver,
            wake: Arc::clone(&wake),
            subscriptions: BTreeMap::new(),
            next_id: 0,
            first: 0,
            busy: [false; LANES.len()],
        };
        let handle = tokio::spawn(task.run());
        Self { commands, wake, _task: AbortOnDropHandle::new(handle) }
    }

    /// Subscribes. The subscription ends when its receiver is dropped.
    pub(crate) async fn subscribe(&self, subscription: Subscription) {
        // The task ends only with its handle, so there is always somebody to take it.
        let _taken = self.commands.send(subscription).await;
    }

    /// Says that a chunk was taken, so that the partition may be fetched again.
    pub(crate) fn taken(&self) {
        self.wake.notify_one();
    }
}

#[derive(Debug)]
struct Subscribed {
    wanted: Subscription,
    fetching: bool,
    /// Ends that the subscriber knows: of what it may read, and of what is replicated.
    told: (i64, i64),
}

struct Done {
    lane: usize,
    members: Vec<u64>,
    result: Result<FetchResponse, Error>,
}

struct Task {
    client: Client,
    node_id: i32,
    limits: FetcherLimits,
    commands: mpsc::Receiver<Subscription>,
    wake: Arc<Notify>,
    subscriptions: BTreeMap<u64, Subscribed>,
    next_id: u64,
    /// Where the next fetch begins in the row of partitions, so that each is first in its turn.
    first: u64,
    busy: [bool; LANES.len()],
}

impl Task {
    async fn run(mut self) {
        let mut out: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        loop {
            while let Ok(subscription) = self.commands.try_recv() {
                self.add(subscription);
            }
            self.subscriptions.retain(|_, s| !s.wanted.chunks.is_closed());
            while let Some(fetch) = self.next_fetch() {
                out.push(fetch);
            }
            tokio::select! {
                Some(done) = out.next(), if !out.is_empty() => self.finish(done).await,
                command = self.commands.recv() => match command {
                    Some(subscription) => self.add(subscription),
                    None => return,
                },
                () = self.wake.notified() => {}
            }
        }
    }

    fn add(&mut self, wanted: Subscription) {
        self.subscriptions.insert(self.next_id, Subscribed { wanted, fetching: false, told: (-1, -1) });
        self.next_id += 1;
    }

    /// A fetch for every partition that is not being fetched and whose consumer has room, if a connection is free.
    fn next_fetch(&mut self) -> Option<BoxFuture<'static, Done>> {
        let lane = self.busy.iter().position(|busy| !busy)?;
        let ready = |s: &Subscribed| !s.fetching && s.wanted.chunks.capacity() > 0;
        let mut members: Vec<u64> =
            self.subscriptions.iter().filter(|(_, s)| ready(s)).map(|(id, _)| *id).collect();
        if members.is_empty() {
            return None;
        }
        let turn = members.partition_point(|id| *id < self.first);
        members.rotate_left(turn);
        self.first = members.first().map_or(0, |id| id + 1);
        let mut partitions = Vec::with_capacity(members.len());
        for id in &members {
            if let Some(s) = self.subscriptions.get_mut(id) {
                s.fetching = true;
                partitions.push(FetchPartition {
                    topic: Arc::clone(&s.wanted.topic),
                    topic_id: s.wanted.topic_id,
                    partition: s.wanted.partition,
                    offset: s.wanted.offset,
                    leader_epoch: s.wanted.leader_epoch,
                    last_fetched_epoch: s.wanted.last_epoch,
                    max_bytes: self.limits.partition_bytes,
                });
            }
        }
        // Nobody waits for the other connection only if all partitions are in this fetch.
        let all = members.len() == self.subscriptions.len();
        let request = FetchRequest {
            max_wait: if all { WAIT_LONG } else { WAIT_SHORT },
            min_bytes: 1,
            max_bytes: self.limits.fetch_bytes,
            read_committed: self.limits.read_committed,
            partitions,
        };
        if let Some(busy) = self.busy.get_mut(lane) {
            *busy = true;
        }
        let connection_lane = LANES.get(lane).copied().unwrap_or_default();
        let (client, node_id, budget) = (self.client.clone(), self.node_id, Arc::clone(&self.limits.budget));
        Some(Box::pin(async move {
            let result = async {
                // Some of the budget must be free before more is asked for; what comes is charged when its size is
                // known. So a fetch may overshoot once, by its own size.
                drop(budget.acquire().await);
                client.connection(node_id, connection_lane).await?.fetch(&request).await
            }
            .await;
            Done { lane, members, result }
        }))
    }

    async fn finish(&mut self, done: Done) {
        if let Some(busy) = self.busy.get_mut(done.lane) {
            *busy = false;
        }
        for id in &done.members {
            if let Some(s) = self.subscriptions.get_mut(id) {
                s.fetching = false;
            }
        }
        match done.result {
            Ok(response) => self.distribute(response, &done.members).await,
            Err(error) => {
                let text = error.to_string();
                for id in done.members {
                    self.end(id, Fetched::Lost(text.clone()));
                }
            }
        }
    }

    async fn distribute(&mut self, response: FetchResponse, members: &[u64]) {
        let by_place: HashMap<(Arc<str>, i32), u64> = members
            .iter()
            .filter_map(|id| self.subscriptions.get(id).map(|s| (id, &s.wanted)))
            .map(|(id, wanted)| ((Arc::clone(&wanted.topic), wanted.partition), *id))
            .collect();
        let bytes: usize = response.partitions.iter().map(|p| p.records.len()).sum();
        let memory: Memory = Arc::new(if bytes == 0 { None } else { self.charge(bytes).await });
        for partition in response.partitions {
            let Some(&id) = by_place.get(&(Arc::clone(&partition.topic), partition.partition)) else {
                continue;
            };
            if !partition.error.is_ok() {
                self.end(id, Fetched::Refused(partition.error));
                continue;
            }
            let Some(s) = self.subscriptions.get_mut(&id) else { continue };
            if partition.diverging.is_some() {
                self.end(id, Fetched::Lost("the source's history parts before the offset".to_owned()));
                continue;
            }
            let page = page_of(partition, self.limits.read_committed);
            let (next, unreadable) = next_offset(&page.records, s.wanted.offset);
            let told = (page.end_offset, page.high_watermark);
            if next == s.wanted.offset && told == s.told && !unreadable {
                continue;
            }
            if next > s.wanted.offset {
                // Behind it a new leader refuses the epoch that the fetch names.
                s.wanted.last_epoch = -1;
            }
            s.wanted.offset = next;
            s.told = told;
            let chunk = Chunk { page, memory: Arc::clone(&memory) };
            // There was room when the fetch was made, and nobody else fills this channel.
            let _gone = s.wanted.chunks.try_send(Fetched::Chunk(chunk));
        }
    }

    async fn charge(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.limits.budget_kib);
        Arc::clone(&self.limits.budget).acquire_many_owned(kib).await.ok()
    }

    fn end(&mut self, id: u64, last: Fetched) {
        if let Some(s) = self.subscriptions.remove(&id) {
            // A subscriber that has no room or is gone finds the channel closed, which says the same.
            let _gone = s.wanted.chunks.try_send(last);
        }
    }
}

/// A partition of a fetch as core reads it.
pub(crate) fn page_of(partition: FetchedPartition, read_committed: bool) -> SourcePage {
    let committed = read_committed && partition.last_stable_offset >= 0;
    let end_offset = if committed { partition.last_stable_offset } else { partition.high_watermark };
    let aborted = partition
        .aborted
        .iter()
        .map(|a| Aborted { producer_id: a.producer_id, first_offset: a.first_offset })
        .collect();
    SourcePage {
        records: partition.records,
        aborted,
        end_offset,
        high_watermark: partition.high_watermark,
        log_start: partition.log_start_offset,
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
