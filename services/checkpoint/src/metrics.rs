//! What the service measures.
//!
//! Owns the names; knows nothing about exporters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mirrormesh_core::ids::FlowId;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, ObservableGauge};
use parking_lot::Mutex;

/// Waiting partitions of each group unit, by flow and number of the gauge.
type Waiting = Arc<Mutex<BTreeMap<(FlowId, u64), u64>>>;

/// The instruments; cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    checkpoints: Counter<u64>,
    waiting: Waiting,
    /// Held, since a gauge that is dropped is not observed any more.
    _pending: ObservableGauge<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        let waiting = Waiting::default();
        let observed = Arc::clone(&waiting);
        Self {
            checkpoints: meter
                .u64_counter("mirrormesh.checkpoints")
                .with_description("Checkpoints of consumer groups that were written to the target.")
                .build(),
            waiting,
            _pending: meter
                .u64_observable_gauge("mirrormesh.group.pending")
                .with_description(
                    "Partitions of consumer groups whose newest committed offset is not mirrored yet.",
                )
                .with_callback(move |observer| {
                    for (flow, count) in sums(&observed) {
                        observer.observe(count, &[KeyValue::new("flow", flow.shared())]);
                    }
                })
                .build(),
        }
    }

    /// One checkpoint was written.
    pub(crate) fn checkpoint_written(&self, flow: &FlowId) {
        self.checkpoints.add(1, &[KeyValue::new("flow", flow.shared())]);
    }

    /// The gauge of one group unit.
    pub(crate) fn group(&self, flow: &FlowId) -> GroupGauge {
        let mut waiting = self.waiting.lock();
        let number = waiting.keys().map(|(_, number)| number + 1).max().unwrap_or_default();
        let key = (flow.clone(), number);
        waiting.insert(key.clone(), 0);
        GroupGauge { key, waiting: Arc::clone(&self.waiting) }
    }
}

/// Labels stay few: flows are told apart, groups are not.
fn sums(waiting: &Waiting) -> BTreeMap<FlowId, u64> {
    let mut sums = BTreeMap::new();
    for ((flow, _), count) in &*waiting.lock() {
        *sums.entry(flow.clone()).or_default() += count;
    }
    sums
}

/// What one group unit adds to its flow's gauge, as long as it lives.
pub(crate) struct GroupGauge {
    key: (FlowId, u64),
    waiting: Waiting,
}

impl GroupGauge {
    /// So many partitions wait.
    pub(crate) fn set(&self, pending: usize) {
        self.waiting.lock().insert(self.key.clone(), pending as u64);
    }
}

impl Drop for GroupGauge {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.key);
    }
}

impl fmt::Debug for GroupGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GroupGauge").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_add_up_by_flow_and_go_with_their_unit() {
        let metrics = Metrics::new(&opentelemetry::global::meter("none"));
        let (a, b) = (FlowId::new("a").unwrap(), FlowId::new("b").unwrap());
        let (one, two, other) = (metrics.group(&a), metrics.group(&a), metrics.group(&b));
        one.set(2);
        two.set(3);
        other.set(4);
        assert_eq!(sums(&metrics.waiting), BTreeMap::from([(a.clone(), 5), (b.clone(), 4)]));
        drop(one);
        assert_eq!(sums(&metrics.waiting), BTreeMap::from([(a, 3), (b, 4)]));
    }
}
