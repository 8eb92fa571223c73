//! The newest figures of all partitions of the worker, for the lag gauges.
//!
//! Owns how finely lag is shown: the number of series is bounded. The numbers are those that go to the coordinator and
//! from there to the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mirrormesh_core::ids::{FlowId, TopicName};
use mirrormesh_core::lag::{Lag, LagSum};
use mirrormesh_core::report::PartitionFigures;
use mirrormesh_runtime::clock::now_ms;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, ObservableGauge};

/// Series of one gauge at most: with more topics, lag is shown by flow only.
const SERIES_MAX: usize = 10_000;

type Slot = Mutex<PartitionFigures>;
type Key = (FlowId, TopicName, i32);

/// The board; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LagBoard {
    // Locks: held for one look or one assignment.
    slots: Arc<Mutex<BTreeMap<Key, Weak<Slot>>>>,
    by_partition: bool,
}

/// Where one partition says how far it is; it is off the board when this is dropped.
#[derive(Debug)]
pub(crate) struct LagSlot {
    slot: Arc<Slot>,
    key: Key,
    board: LagBoard,
}

impl LagSlot {
    /// The newest figures.
    pub(crate) fn set(&self, figures: PartitionFigures) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }
}

impl Drop for LagSlot {
    fn drop(&mut self) {
        let mut slots = self.board.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // The next owner of the partition may be on the board already.
        if slots.get(&self.key).is_some_and(|slot| std::ptr::eq(slot.as_ptr(), Arc::as_ptr(&self.slot))) {
            slots.remove(&self.key);
        }
    }
}

/// What a series is about: a flow, one of its topics, one of its partitions.
type Series = (FlowId, Option<TopicName>, Option<i32>);

impl LagBoard {
    /// A board; `by_partition` shows each partition.
    pub(crate) fn new(by_partition: bool) -> Self {
        Self { by_partition, ..Self::default() }
    }

    /// Puts a partition on the board.
    pub(crate) fn enter(&self, flow: &FlowId, topic: &TopicName, partition: i32) -> LagSlot {
        let (slot, key) = (Arc::new(Slot::default()), (flow.clone(), topic.clone(), partition));
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.insert(key.clone(), Arc::downgrade(&slot));
        LagSlot { slot, key, board: self.clone() }
    }

    /// Lag by series; those of which nothing is known are left out.
    fn read(&self, now_ms: u64) -> BTreeMap<Series, Lag> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let live: Vec<(&Key, Arc<Slot>)> =
            slots.iter().filter_map(|(key, slot)| Some((key, slot.upgrade()?))).collect();
        let mut topics: Vec<(&FlowId, &TopicName)> =
            live.iter().map(|((flow, topic, _), _)| (flow, topic)).collect();
        topics.dedup();
        let by_topic = topics.len() <= SERIES_MAX;
        let by_partition = self.by_partition && live.len() <= SERIES_MAX;
        let mut sums: BTreeMap<Series, LagSum> = BTreeMap::new();
        for ((flow, topic, partition), slot) in live {
            let figures = *slot.lock().unwrap_or_else(PoisonError::into_inner);
            let topic = (by_topic || by_partition).then(|| topic.clone());
            let series = (flow.clone(), topic, by_partition.then_some(*partition));
            sums.entry(series).or_default().add(Lag::of(&figures, now_ms));
        }
        sums.into_iter().filter_map(|(series, sum)| Some((series, sum.total()?))).collect()
    }

    /// Registers the gauges; they are read as long as they are held.
    pub(crate) fn observe(&self, meter: &Meter) -> [ObservableGauge<f64>; 3] {
        let gauge = |name: &'static str, unit, text, figure: fn(&Lag) -> Option<f64>| {
            let board = self.clone();
            let read = move |observer: &dyn AsyncInstrument<f64>| {
                for (series, lag) in board.read(now_ms()) {
                    if let Some(value) = figure(&lag) {
                        observer.observe(value, &labels(series));
                    }
                }
            };
            meter
                .f64_observable_gauge(name)
                .with_unit(unit)
                .with_description(text)
                .with_callback(read)
                .build()
        };
        [
            gauge(
                "mirrormesh.lag.records",
                "{record}",
                "Records on the source that are not on the target, of the partitions of this worker.",
                |lag| Some(to_f64(lag.records)),
            ),
            gauge(
                "mirrormesh.lag.bytes",
                "By",
                "Bytes of them: exact for what was fetched, estimated for the rest.",
                |lag| lag.bytes.map(to_f64),
            ),
            gauge("mirrormesh.lag.seconds", "s", "Age of the oldest of them that can be read.", |lag| {
                lag.seconds
            }),
        ]
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge for people and alerts")]
fn to_f64(count: i64) -> f64 {
    count as f64
}

fn labels((flow, topic, partition): Series) -> Vec<KeyValue> {
    let mut labels = vec![KeyValue::new("flow", flow.as_str().to_owned())];
    labels.extend(topic.map(|topic| KeyValue::new("topic", topic.as_str().to_owned())));
    labels.extend(partition.map(|partition| KeyValue::new("partition", i64::from(partition))));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(records: i64) -> PartitionFigures {
        PartitionFigures {
            source_end_offset: Some(records),
            lag_bytes: Some(records * 10),
            ..PartitionFigures::default()
        }
    }

    #[test]
    fn topics_are_summed_unless_partitions_are_asked_for_and_gone_ones_are_left_out() {
        let flow = FlowId::new("f").unwrap();
        let topic = |name: &str| TopicName::new(name).unwrap();
        let slots = |board: &LagBoard| {
            let (a, b, c) = (
                board.enter(&flow, &topic("a"), 0),
                board.enter(&flow, &topic("a"), 1),
                board.enter(&flow, &topic("b"), 0),
            );
            a.set(behind(3));
            b.set(behind(4));
            [a, b, c]
        };
        let board = LagBoard::new(false);
        let held = slots(&board);
        let read = board.read(1);
        assert_eq!(read.len(), 1, "nothing is known of b");
        let lag = read[&(flow.clone(), Some(topic("a")), None)];
        assert_eq!((lag.records, lag.bytes), (7, Some(70)));
        drop(held);
        assert!(board.read(1).is_empty());

        let board = LagBoard::new(true);
        let _held = slots(&board);
        assert_eq!(board.read(1)[&(flow.clone(), Some(topic("a")), Some(1))].records, 4);
    }
}
