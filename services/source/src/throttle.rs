//! Throttles of one flow in one worker: who may take a fetched page, and when.
//!
//! Owns the buckets and the row before them; the arithmetic is core's, the limits are the flow's and its worker's part of
//! them. They are looked up whenever somebody takes or waits, so a change of them counts at once and starts nothing
//! anew. While a page waits, nothing more is fetched for those that would wait behind it: what is held in memory is
//! bounded by one fetch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mirrormesh_core::format::batch::{Entry, entries};
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::throttle::{Buckets, Throttle, Ticket};
use mirrormesh_relay::page::SourcePage;
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::FlowView;
use opentelemetry::KeyValue;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

use crate::fetcher::fetched::Fetched;
use crate::metrics::Metrics;

/// A page that waits looks again after this long at the latest: its limit may have changed.
const LOOK_AGAIN_MS: u64 = 250;
/// A partition whose flow or topic had a page waiting this long ago is called throttled.
const RECENTLY_MS: u64 = 3_000;
/// A fetch asks for about a quarter of a second's worth, but not for less than this.
const FETCH_BYTES_MIN: u64 = 16 << 10;

type Changes = watch::Receiver<Arc<FlowView>>;

/// One row: of the flow, or of one topic.
#[derive(Debug, Default)]
struct Row {
    /// Pages that wait in it.
    waiting: AtomicUsize,
    /// When one waited last, ms since 1970.
    waited_ms: AtomicU64,
}

#[derive(Debug)]
struct State {
    changes: Changes,
    /// The view that the limits were taken from.
    known: Option<Arc<FlowView>>,
    flow: (Throttle, Buckets),
    topics: BTreeMap<TopicName, (Throttle, Buckets)>,
    /// Some topic has a limit of its own.
    limits_topics: bool,
}

/// The throttles of a flow.
#[derive(Debug)]
pub(crate) struct Throttles {
    // Lock: held for some arithmetic.
    state: Mutex<State>,
    flow: Row,
    label: KeyValue,
    metrics: Arc<Metrics>,
}

impl Throttles {
    /// Follows these changes of the flow.
    pub(crate) fn new(label: KeyValue, changes: Changes, metrics: Arc<Metrics>) -> Self {
        let none = || (Throttle::NONE, Buckets::default());
        let state =
            State { changes, known: None, flow: none(), topics: BTreeMap::new(), limits_topics: false };
        Self { state: Mutex::new(state), flow: Row::default(), label, metrics }
    }

    /// The flow has limits, of its own or of topics. Without, nobody counts anything.
    pub(crate) fn is_limited(&self) -> bool {
        let state = self.lock(now_ms());
        state.flow.0 != Throttle::NONE || state.limits_topics
    }

    /// About so many bytes are worth fetching at a time for the whole flow.
    pub(crate) fn fetch_bytes(&self) -> Option<u64> {
        worth(self.lock(now_ms()).flow.0)
    }

    /// Follows these changes from now on: a flow that went and came again has new ones.
    pub(crate) fn follow(&self, changes: Changes) {
        self.lock(now_ms()).changes = changes;
    }

    /// The state under the limits of now.
    fn lock(&self, now_ms: u64) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        state.renew(now_ms);
        state
    }
}

impl State {
    fn renew(&mut self, now_ms: u64) {
        let newest = Arc::clone(&self.changes.borrow());
        if self.known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &newest)) {
            return;
        }
        let (spec, shares) = (&newest.flow.spec, &newest.flow.shares);
        let set = |(known, buckets): &mut (Throttle, Buckets), throttle: Throttle| {
            if *known != throttle {
                *known = throttle;
                buckets.set(throttle, now_ms);
            }
        };
        set(&mut self.flow, spec.throttle.shared(shares.flow));
        for (topic, place) in &mut self.topics {
            let share = shares.topics.get(topic).copied().unwrap_or_default();
            let throttle = spec.throttle_by_topic.get(topic).copied().unwrap_or_default();
            set(place, throttle.shared(share));
        }
        self.limits_topics = !spec.throttle_by_topic.is_empty();
        self.known = Some(newest);
    }

    fn topic(&mut self, topic: &TopicName, now_ms: u64) -> &mut (Throttle, Buckets) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.clone(), (Throttle::NONE, Buckets::default()));
            self.known = None;
            self.renew(now_ms);
        }
        self.topics.entry(topic.clone()).or_default()
    }
}

/// What is used in about a quarter of a second.
fn worth(throttle: Throttle) -> Option<u64> {
    throttle.bytes_per_second.map(|limit| (limit.get() / 4).max(FETCH_BYTES_MIN))
}

/// The throttles as one partition meets them.
#[derive(Debug)]
pub(crate) struct PartitionThrottle {
    throttles: Arc<Throttles>,
    topic: TopicName,
    /// Shared by the partitions of a topic.
    row: Arc<TopicRow>,
}

/// The row of one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicRow(Row);

impl PartitionThrottle {
    /// Of a topic's partition; `row` is the same for all of the topic.
    pub(crate) fn new(throttles: Arc<Throttles>, topic: TopicName, row: Arc<TopicRow>) -> Self {
        Self { throttles, topic, row }
    }

    fn rows(&self) -> [&Row; 2] {
        [&self.throttles.flow, &self.row.0]
    }

    /// The flow has limits.
    fn is_limited(&self) -> bool {
        self.throttles.is_limited()
    }

    /// A page waits that one of this partition would wait behind: none is to be fetched.
    pub(crate) fn holds(&self) -> bool {
        self.rows().iter().any(|row| row.waiting.load(Ordering::Relaxed) > 0)
    }

    /// About so many bytes are worth fetching at a time for the partition.
    pub(crate) fn fetch_bytes(&self) -> Option<u64> {
        if !self.is_limited() {
            return None;
        }
        let now = now_ms();
        let mut state = self.throttles.lock(now);
        let flow = worth(state.flow.0);
        flow.into_iter().chain(worth(state.topic(&self.topic, now).0)).min()
    }

    /// Whether the partition is held back, or was lately; the limits that do it.
    pub(crate) fn held_back(&self, now_ms: u64) -> Option<String> {
        let recent = |row: &Row| {
            row.waiting.load(Ordering::Relaxed) > 0
                || now_ms.saturating_sub(row.waited_ms.load(Ordering::Relaxed)) < RECENTLY_MS
        };
        let [flow, topic] = self.rows().map(recent);
        if !flow && !topic {
            return None;
        }
        let mut state = self.throttles.lock(now_ms);
        let of_topic = state.topic(&self.topic, now_ms).0;
        let limits = [("topic", topic, of_topic), ("flow", flow, state.flow.0)];
        let (whose, _, limit) =
            limits.into_iter().find(|(_, held, limit)| *held && *limit != Throttle::NONE)?;
        let bytes = limit.bytes_per_second.map(|limit| format!("{limit} bytes/s"));
        let records = limit.records_per_second.map(|limit| format!("{limit} records/s"));
        let limits: Vec<String> = bytes.into_iter().chain(records).collect();
        Some(format!("the {whose}'s throttle leaves this worker {}", limits.join(" and ")))
    }

    /// A place in the row for a page.
    fn issue(&self, page: &SourcePage, now_ms: u64) -> Turn {
        let bytes = u64::try_from(page.records.len()).unwrap_or(u64::MAX);
        let records = entries(page.records.clone())
            .filter_map(|entry| match entry {
                Ok(Entry::Batch(batch)) => u64::try_from(batch.header.count).ok(),
                Ok(Entry::Old { .. }) => Some(1),
                Err(_) => None,
            })
            .sum();
        let mut state = self.throttles.lock(now_ms);
        let flow = state.flow.1.issue(bytes, records, now_ms);
        let topic = state.topic(&self.topic, now_ms).1.issue(bytes, records, now_ms);
        Turn { flow, topic, since_ms: now_ms, waiting: false }
    }

    /// How long until it is this page's turn, in ms.
    fn wait_ms(&self, turn: &Turn, now_ms: u64) -> (u64, u64) {
        let mut state = self.throttles.lock(now_ms);
        let flow = state.flow.1.wait_ms(&turn.flow, now_ms);
        let topic = state.topic(&self.topic, now_ms).1.wait_ms(&turn.topic, now_ms);
        (flow, topic)
    }

    fn give_back(&self, turn: &Turn) {
        let now = now_ms();
        let mut state = self.throttles.lock(now);
        state.flow.1.give_back(&turn.flow);
        state.topic(&self.topic, now).1.give_back(&turn.topic);
    }
}

/// A page's place in both rows.
#[derive(Debug)]
struct Turn {
    flow: Ticket,
    topic: Ticket,
    since_ms: u64,
    waiting: bool,
}

/// What comes out of an intake.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// To be used now.
    Now(Fetched),
    /// A page came whose turn it is not yet; it comes with a later call.
    Waits,
    /// Fetching is over.
    Ended,
}

/// Where one stream's pages come in: what waits for its turn goes with the stream.
#[derive(Debug)]
pub(crate) struct Intake {
    pages: mpsc::Receiver<Fetched>,
    throttle: Arc<PartitionThrottle>,
    held: Option<(SourcePage, Turn)>,
    /// In which rows the held page is counted.
    counted: [bool; 2],
}

impl Intake {
    /// Of a subscription.
    pub(crate) fn new(pages: mpsc::Receiver<Fetched>, throttle: Arc<PartitionThrottle>) -> Self {
        Self { pages, throttle, held: None, counted: [false; 2] }
    }

    /// The next page, when its turn has come. Nothing is lost if the call is given up.
    pub(crate) async fn next(&mut self) -> Arrived {
        if self.held.is_none() {
            match self.pages.recv().await {
                None => return Arrived::Ended,
                Some(Fetched::Page(page)) => {
                    if !self.throttle.is_limited() {
                        return Arrived::Now(Fetched::Page(page));
                    }
                    let turn = self.throttle.issue(&page, now_ms());
                    self.held = Some((page, turn));
                }
                Some(other) => return Arrived::Now(other),
            }
        }
        loop {
            let Some((_, turn)) = &mut self.held else { return Arrived::Ended };
            let now = now_ms();
            let (flow, topic) = self.throttle.wait_ms(turn, now);
            let wait = flow.max(topic);
            if wait == 0 {
                break;
            }
            let first = !std::mem::replace(&mut turn.waiting, true);
            self.count([flow > 0, topic > 0], now);
            if first {
                return Arrived::Waits;
            }
            tokio::time::sleep(Duration::from_millis(wait.min(LOOK_AGAIN_MS))).await;
        }
        self.count([false; 2], now_ms());
        match self.held.take() {
            None => Arrived::Ended,
            Some((page, turn)) => {
                if turn.waiting {
                    let throttles = &self.throttle.throttles;
                    throttles.metrics.throttled(&throttles.label, now_ms().saturating_sub(turn.since_ms));
                }
                Arrived::Now(Fetched::Page(page))
            }
        }
    }

    /// Counts the held page in the rows where it waits.
    fn count(&mut self, waits: [bool; 2], now_ms: u64) {
        for ((row, counted), waits) in self.throttle.rows().into_iter().zip(&mut self.counted).zip(waits) {
            match (*counted, waits) {
                (false, true) => drop(row.waiting.fetch_add(1, Ordering::Relaxed)),
                (true, false) => drop(row.waiting.fetch_sub(1, Ordering::Relaxed)),
                (true, true) | (false, false) => {}
            }
            if waits || *counted {
                row.waited_ms.store(now_ms, Ordering::Relaxed);
            }
            *counted = waits;
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.count([false; 2], now_ms());
        if let Some((_, turn)) = &self.held {
            self.throttle.give_back(turn);
        }
    }
}

#[cfg(test)]
mod tests;
