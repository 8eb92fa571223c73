//! Which batches go into the next request.
//!
//! Owns the row of batches that wait. Invariants: a request has one batch of each partition at most, the batches of a
//! partition leave in the order in which they came, and partitions take turns. Must not know how a request is sent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::QueuedBatch;

/// Record bytes in one request; far below `socket.request.max.bytes` (100 MiB). One larger batch goes alone.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Empty queues kept for use again.
const SPARE_MAX: usize = 64;

/// A partition of a target topic.
pub(super) type Place = (Arc<str>, i32);

/// Batches that wait, by partition.
#[derive(Debug, Default)]
pub(super) struct Packing {
    /// None of them is empty.
    queues: HashMap<Place, VecDeque<QueuedBatch>>,
    /// Partitions that have a queue, next first.
    turns: VecDeque<Place>,
    /// Batches in all queues.
    count: usize,
    spare: Vec<VecDeque<QueuedBatch>>,
}

impl Packing {
    /// Batches that wait.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn push(&mut self, append: QueuedBatch) {
        let place = (Arc::clone(&append.topic), append.partition);
        self.count += 1;
        if let Some(queue) = self.queues.get_mut(&place) {
            return queue.push_back(append);
        }
        let mut queue = self.spare.pop().unwrap_or_default();
        queue.push_back(append);
        self.turns.push_back(place.clone());
        self.queues.insert(place, queue);
    }

    /// The batches of the next request; none if none wait.
    pub(super) fn take(&mut self) -> Vec<QueuedBatch> {
        let (mut packed, mut bytes) = (Vec::with_capacity(self.turns.len()), 0);
        for _ in 0..self.turns.len() {
            let Some(place) = self.turns.pop_front() else { break };
            let Some(queue) = self.queues.get_mut(&place) else { continue };
            let size = queue.front().map_or(0, |append| append.batch.body.len());
            if bytes > 0 && bytes + size > REQUEST_BYTES_MAX {
                self.turns.push_front(place);
                break;
            }
            bytes += size;
            packed.extend(queue.pop_front());
            if !queue.is_empty() {
                self.turns.push_back(place);
            } else if let Some(empty) = self.queues.remove(&place).filter(|_| self.spare.len() < SPARE_MAX) {
                self.spare.push(empty);
            }
        }
        self.count -= packed.len();
        packed
    }

    /// Takes out the batches of a partition that stand behind a failed batch, in their order.
    pub(super) fn take_failed(&mut self, place: &Place) -> Vec<QueuedBatch> {
        let Some(queue) = self.queues.get_mut(place) else { return Vec::new() };
        let mut taken = Vec::new();
        for append in std::mem::take(queue) {
            if append.reply.row().is_failed() {
                taken.push(append);
            } else {
                queue.push_back(append);
            }
        }
        if queue.is_empty() {
            self.queues.remove(place);
            self.turns.retain(|turn| turn != place);
        }
        self.count -= taken.len();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::format::batch::StampedBatch;
    use tokio::sync::mpsc;

    use super::super::{Reply, Row};

    fn append_in(row: &Arc<Row>, topic: &str, partition: i32, id: u64, bytes: usize) -> QueuedBatch {
        let (answers, _) = mpsc::unbounded_channel();
        let batch = StampedBatch { header: [0; 61], body: vec![0; bytes].into(), body_crc: 0 };
        let reply = Reply::new(id, answers, Arc::clone(row), bytes);
        QueuedBatch { topic: topic.into(), topic_id: [1; 16], partition, batch, reply }
    }

    fn append(topic: &str, partition: i32, id: u64, bytes: usize) -> QueuedBatch {
        append_in(&Arc::default(), topic, partition, id, bytes)
    }

    fn named(appends: Vec<QueuedBatch>) -> Vec<(String, i32, u64)> {
        appends.into_iter().map(|a| (a.topic.to_string(), a.partition, a.reply.id())).collect()
    }

    fn taken(packing: &mut Packing) -> Vec<(String, i32, u64)> {
        let packed = packing.take();
        named(packed)
    }

    fn of(topic: &str, partition: i32, id: u64) -> (String, i32, u64) {
        (topic.to_owned(), partition, id)
    }

    #[test]
    fn each_partition_once_per_request_and_in_order() {
        let mut packing = Packing::default();
        for (topic, partition, id) in [("a", 0, 1), ("a", 0, 2), ("a", 1, 7), ("b", 0, 5), ("a", 0, 3)] {
            packing.push(append(topic, partition, id, 10));
        }
        assert_eq!(packing.len(), 5);
        assert_eq!(taken(&mut packing), [of("a", 0, 1), of("a", 1, 7), of("b", 0, 5)]);
        packing.push(append("b", 0, 6, 10));
        assert_eq!(taken(&mut packing), [of("a", 0, 2), of("b", 0, 6)]);
        assert_eq!(taken(&mut packing), [of("a", 0, 3)]);
        assert!(packing.is_empty() && taken(&mut packing).is_empty());
        assert!(packing.queues.is_empty() && packing.turns.is_empty());
    }

    #[test]
    fn a_request_is_bounded_and_partitions_take_turns() {
        let mut packing = Packing::default();
        for id in 0..2 {
            for partition in 0..3 {
                packing.push(append("a", partition, id, REQUEST_BYTES_MAX / 2));
            }
        }
        assert_eq!(taken(&mut packing), [of("a", 0, 0), of("a", 1, 0)]);
        assert_eq!(taken(&mut packing), [of("a", 2, 0), of("a", 0, 1)]);
        packing.push(append("a", 3, 0, REQUEST_BYTES_MAX * 2));
        assert_eq!(taken(&mut packing), [of("a", 1, 1), of("a", 2, 1)]);
        assert_eq!(taken(&mut packing), [of("a", 3, 0)], "a larger one goes alone");
    }

    #[test]
    fn batches_behind_a_failed_one_are_taken_out() {
        let mut packing = Packing::default();
        let (failed, next, other) = (Arc::default(), Arc::default(), Arc::default());
        for (row, partition, id) in [(&failed, 0, 4), (&other, 1, 9), (&failed, 0, 5), (&next, 0, 0)] {
            packing.push(append_in(row, "a", partition, id, 10));
        }
        failed.fail();
        assert_eq!(named(packing.take_failed(&("a".into(), 0))), [of("a", 0, 4), of("a", 0, 5)]);
        assert_eq!((packing.len(), packing.take_failed(&("a".into(), 1)).len()), (2, 0));
        assert_eq!(taken(&mut packing), [of("a", 0, 0), of("a", 1, 9)]);
        packing.push(append_in(&other, "a", 1, 10, 10));
        other.fail();
        assert_eq!(named(packing.take_failed(&("a".into(), 1))), [of("a", 1, 10)]);
        assert!(packing.is_empty() && taken(&mut packing).is_empty());
        assert!(packing.queues.is_empty() && packing.turns.is_empty());
    }
}
