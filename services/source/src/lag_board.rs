//! The newest figures of all partitions of the worker, for the gauges of lag and of what endangers a mirror.
//!
//! Owns how finely lag is shown: the number of series is bounded. The numbers are those that go to the coordinator and
//! from there to the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use mirrormesh_core::ids::{FlowId, TopicName};
use mirrormesh_core::lag::{Lag, LagSum};
use mirrormesh_core::report::PartitionFigures;
use mirrormesh_runtime::clock::now_ms;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, ObservableGauge};
use parking_lot::{Mutex, MutexGuard};

/// Series of one gauge at most: with more topics, lag is shown by flow only.
const SERIES_MAX: usize = 10_000;

/// The unit of an instrument whose name ends with its unit: the Prometheus exporter appends units, and would double it.
pub(crate) const UNIT_IN_NAME: &str = "";

/// All gauges of the board.
pub(crate) type Gauges = [ObservableGauge<f64>; 6];

type Slot = Mutex<PartitionFigures>;
type Key = (FlowId, TopicName, i32);
type Slots = BTreeMap<Key, Weak<Slot>>;

/// The board; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LagBoard {
    // Locks: held for one look or one assignment.
    slots: Arc<Mutex<Slots>>,
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
        *self.slot.lock() = figures;
    }
}

impl Drop for LagSlot {
    fn drop(&mut self) {
        let mut slots = self.board.lock();
        // The next owner of the partition may be on the board already.
        if slots.get(&self.key).is_some_and(|slot| std::ptr::eq(slot.as_ptr(), Arc::as_ptr(&self.slot))) {
            slots.remove(&self.key);
        }
    }
}

/// What a series is about: a flow, one of its topics, one of its partitions.
type Series = (FlowId, Option<TopicName>, Option<i32>);

/// What the partitions of a series say together.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    lag: LagSum,
    /// Records that open transactions hold back; partitions of which that is not known hold none.
    held_records: i64,
    /// Of the partition that is nearest to losing records; `None` while no partition has deleted any.
    margin_records: Option<i64>,
}

impl Standing {
    fn add(&mut self, figures: &PartitionFigures, now_ms: u64) {
        self.lag.add(Lag::of(figures, now_ms));
        self.held_records = self.held_records.saturating_add(figures.held_records.max(0));
        // A log that begins at 0 has lost nothing yet: its start is no sign of a deletion to come.
        let start = figures.source_start_offset.filter(|start| *start > 0);
        let margin = start.map(|start| figures.source_offset.saturating_sub(start).max(0));
        self.margin_records = [self.margin_records, margin].into_iter().flatten().min();
    }
}

impl LagBoard {
    /// A board; `by_partition` shows each partition.
    pub(crate) fn new(by_partition: bool) -> Self {
        Self { by_partition, ..Self::default() }
    }

    /// Puts a partition on the board, instead of whoever stands there for it.
    pub(crate) fn enter(&self, flow: &FlowId, topic: &TopicName, partition: i32) -> LagSlot {
        let key = (flow.clone(), topic.clone(), partition);
        self.stand(&mut self.lock(), key)
    }

    /// Puts a partition on the board that nobody runs; `None` if somebody runs it after all.
    pub(crate) fn enter_vacant(&self, flow: &FlowId, topic: &TopicName, partition: i32) -> Option<LagSlot> {
        let key = (flow.clone(), topic.clone(), partition);
        let mut slots = self.lock();
        let taken = slots.get(&key).is_some_and(|slot| slot.strong_count() > 0);
        (!taken).then(|| self.stand(&mut slots, key))
    }

    fn stand(&self, slots: &mut Slots, key: Key) -> LagSlot {
        let slot = Arc::new(Slot::default());
        slots.insert(key.clone(), Arc::downgrade(&slot));
        LagSlot { slot, key, board: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock()
    }

    /// By series.
    fn read(&self, now_ms: u64) -> BTreeMap<Series, Standing> {
        let slots = self.lock();
        let live: Vec<(&Key, Arc<Slot>)> =
            slots.iter().filter_map(|(key, slot)| Some((key, slot.upgrade()?))).collect();
        let mut topics: Vec<(&FlowId, &TopicName)> =
            live.iter().map(|((flow, topic, _), _)| (flow, topic)).collect();
        topics.dedup();
        let by_topic = topics.len() <= SERIES_MAX;
        let by_partition = self.by_partition && live.len() <= SERIES_MAX;
        let mut sums: BTreeMap<Series, Standing> = BTreeMap::new();
        for ((flow, topic, partition), slot) in live {
            let figures = *slot.lock();
            let topic = (by_topic || by_partition).then(|| topic.clone());
            let series = (flow.clone(), topic, by_partition.then_some(*partition));
            sums.entry(series).or_default().add(&figures, now_ms);
        }
        sums
    }

    /// Registers the gauges; they are read as long as they are held. What is not known of a series is left out.
    pub(crate) fn observe(&self, meter: &Meter) -> Gauges {
        let gauge = |name: &'static str, unit, text, figure: fn(&Standing) -> Option<f64>| {
            let board = self.clone();
            let read = move |observer: &dyn AsyncInstrument<f64>| {
                for (series, standing) in board.read(now_ms()) {
                    if let Some(value) = figure(&standing) {
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
                "Records on the source that are not on the target, of the measured partitions of this worker.",
                |standing| standing.lag.total().map(|lag| to_f64(lag.records)),
            ),
            gauge(
                "mirrormesh.lag.bytes",
                UNIT_IN_NAME,
                "Bytes on the source that are not on the target, of the measured partitions of this worker: exact for \
                 batches that were fetched, estimated for the rest.",
                |standing| standing.lag.total()?.bytes.map(to_f64),
            ),
            gauge(
                "mirrormesh.lag.seconds",
                UNIT_IN_NAME,
                "Age in seconds of the oldest readable record on the source that is not on the target, of the measured \
                 partitions of this worker.",
                |standing| standing.lag.total()?.seconds,
            ),
            gauge(
                "mirrormesh.lag.unmeasured_partitions",
                "{partition}",
                "Partitions of this worker whose lag can't be measured now: the lags leave them out.",
                |standing| Some(to_f64(i64::try_from(standing.lag.unmeasured()).unwrap_or(i64::MAX))),
            ),
            gauge(
                "mirrormesh.held.records",
                "{record}",
                "Records that can't be read yet, because an open transaction on the source holds them back.",
                |standing| Some(to_f64(standing.held_records)),
            ),
            gauge(
                "mirrormesh.retention.margin",
                "{record}",
                "Records between the log start offset of the source, which retention moves, and the offset where the \
                 mirror reads: that of the nearest partition, of partitions that deleted records already.",
                |standing| standing.margin_records.map(to_f64),
            ),
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
        let b = read[&(flow.clone(), Some(topic("b")), None)].lag;
        assert_eq!((b.total(), b.unmeasured()), (None, 1), "nothing is known of b");
        let lag = read[&(flow.clone(), Some(topic("a")), None)].lag.total().unwrap();
        assert_eq!((lag.records, lag.bytes), (7, Some(70)));
        drop(held);
        assert!(board.read(1).is_empty());

        let board = LagBoard::new(true);
        let _held = slots(&board);
        let read = board.read(1);
        assert_eq!(read[&(flow.clone(), Some(topic("a")), Some(1))].lag.total().unwrap().records, 4);
    }

    #[test]
    fn an_unmeasured_partition_does_not_hide_the_lag_of_its_topic() {
        let mut standing = Standing::default();
        standing.add(&behind(3), 1);
        standing.add(&PartitionFigures::default(), 1);
        assert_eq!(standing.lag.total().map(|lag| lag.records), Some(3));
        assert_eq!(standing.lag.unmeasured(), 1);
    }

    #[test]
    fn who_looks_at_a_paused_partition_never_takes_the_place_of_who_runs_it() {
        let (flow, topic) = (FlowId::new("f").unwrap(), TopicName::new("t").unwrap());
        let board = LagBoard::new(false);
        let shown = || {
            let read = board.read(1);
            read.get(&(flow.clone(), Some(topic.clone()), None))
                .and_then(|s| s.lag.total())
                .map(|lag| lag.records)
        };
        let run = board.enter(&flow, &topic, 0);
        run.set(behind(3));
        assert!(board.enter_vacant(&flow, &topic, 0).is_none());
        drop(run);
        let paused = board.enter_vacant(&flow, &topic, 0).unwrap();
        paused.set(behind(4));
        assert_eq!(shown(), Some(4));
        let run = board.enter(&flow, &topic, 0);
        run.set(behind(5));
        drop(paused);
        assert_eq!(shown(), Some(5), "who resumed it stays");
    }

    #[test]
    fn what_is_held_adds_up_and_the_margin_is_that_of_the_nearest_partition() {
        let mut standing = Standing::default();
        let at = |source_offset, start: Option<i64>, held_records| PartitionFigures {
            source_offset,
            source_start_offset: start,
            held_records,
            ..PartitionFigures::default()
        };
        standing.add(&at(50, Some(0), 2), 1);
        standing.add(&at(50, None, 0), 1);
        assert_eq!((standing.held_records, standing.margin_records), (2, None), "nothing was deleted");
        standing.add(&at(50, Some(20), 3), 1);
        standing.add(&at(70, Some(60), 0), 1);
        standing.add(&at(90, Some(10), 0), 1);
        assert_eq!((standing.held_records, standing.margin_records), (5, Some(10)));
        standing.add(&at(5, Some(9), 0), 1);
        assert_eq!(standing.margin_records, Some(0), "overrun");
    }
}
