//! Events on their way to the coordinator.
//!
//! Owns the queue: bounded, kept over outages, sent until acknowledged, oldest dropped (and counted) when full.

use std::collections::VecDeque;

use mirrormesh_core::report::Event;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::CoordinatorError;
use crate::link::Links;
use crate::metrics::Metrics;
use crate::wire;

/// Events that wait at most.
const QUEUE_MAX: usize = 10_000;
/// Events in one call at most.
const BATCH_MAX: usize = 200;

/// The queue.
#[derive(Debug)]
pub(crate) struct EventQueue {
    queue: Mutex<Queue>,
    added: Notify,
    emptied: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Number of the event at the front, counted from the first one ever pushed.
    front: u64,
}

impl EventQueue {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { queue: Mutex::default(), added: Notify::new(), emptied: Notify::new(), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A push that panicked half-way leaves a queue of whole events.
        self.queue.lock()
    }

    /// Adds events; the oldest make room.
    pub(crate) fn push(&self, events: impl IntoIterator<Item = Event>) {
        let dropped = {
            let mut queue = self.lock();
            queue.events.extend(events);
            let dropped = queue.events.len().saturating_sub(QUEUE_MAX);
            queue.events.drain(..dropped);
            queue.front += dropped as u64;
            dropped
        };
        if dropped > 0 {
            tracing::warn!(dropped, "too many events wait for the coordinator: the oldest were dropped");
            self.metrics.events_dropped(dropped as u64);
        }
        self.added.notify_one();
    }

    /// The oldest events with the number of the first one.
    fn front(&self, max: usize) -> (u64, Vec<Event>) {
        let queue = self.lock();
        (queue.front, queue.events.iter().take(max).cloned().collect())
    }

    /// Removes `count` events that began at number `first`, unless they have been dropped meanwhile.
    fn remove(&self, first: u64, count: usize) {
        let mut queue = self.lock();
        let end = first + count as u64;
        while queue.front < end && queue.events.pop_front().is_some() {
            queue.front += 1;
        }
        if queue.events.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().events.len()
    }

    /// Returns once nothing waits.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().events.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Sends until `stop`.
    pub(crate) async fn send(&self, links: &Links, stop: &CancellationToken) {
        // After a refusal events go one by one, so that only the one at fault is lost.
        let mut batch = BATCH_MAX;
        loop {
            let (first, events) = self.front(batch);
            if events.is_empty() {
                batch = BATCH_MAX;
                if stop.run_until_cancelled(self.added.notified()).await.is_none() {
                    return;
                }
                continue;
            }
            let count = events.len();
            let call = |link| wire::report_events(link, events.clone());
            match links.call(stop, "report_events", call).await {
                Ok(()) => self.remove(first, count),
                Err(CoordinatorError::Cancelled) => return,
                Err(_) if count > 1 => batch = 1,
                Err(error) => {
                    let reason = events.first().map(|event| event.reason.clone()).unwrap_or_default();
                    tracing::error!(%error, event = reason, "the coordinator refused an event: dropped");
                    self.metrics.events_dropped(1);
                    self.remove(first, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::ids::FlowId;

    fn event(time_ms: u64) -> Event {
        Event {
            flow: FlowId::new("f").unwrap(),
            time_ms,
            reason: "TEST".into(),
            message: String::new(),
            subject: String::new(),
            from_offset: None,
            to_offset: None,
            count: None,
            sequence: 0,
        }
    }

    #[test]
    fn the_oldest_make_room_and_what_was_sent_is_removed_once() {
        let queue = EventQueue::new(Metrics::none());
        queue.push((0..100).map(event));
        let (first, sent) = queue.front(BATCH_MAX);
        assert_eq!((first, sent.len()), (0, 100));
        // While those are on the way, so many come that most of them are dropped.
        queue.push((100..10_080).map(event));
        let (first, waiting) = queue.front(1);
        assert_eq!((first, waiting[0].time_ms), (80, 80));
        queue.remove(0, 100);
        let (first, waiting) = queue.front(1);
        assert_eq!((first, waiting[0].time_ms), (100, 100), "only the sent ones are removed");
    }
}
