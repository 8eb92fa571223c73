//! What the service measures.
//!
//! Owns the names; knows nothing about exporters.

use std::collections::BTreeMap;
use std::sync::Arc;

use mirrormesh_core::ids::FlowId;
use mirrormesh_runtime::clock::now_ms;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, ObservableGauge};
use parking_lot::Mutex;

/// When each flow's last heartbeat was written, ms since 1970.
type Written = Arc<Mutex<BTreeMap<FlowId, u64>>>;

/// The instruments; cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    heartbeats: Counter<u64>,
    failures: Counter<u64>,
    written: Written,
    /// Held, since a gauge that is dropped is not observed any more.
    _age: ObservableGauge<f64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        let written = Written::default();
        let observed = Arc::clone(&written);
        Self {
            heartbeats: meter
                .u64_counter("mirrormesh.heartbeats")
                .with_description("Heartbeats that were written to the target of a flow.")
                .build(),
            failures: meter
                .u64_counter("mirrormesh.heartbeat.failures")
                .with_description("Heartbeats that could not be written to the target of a flow.")
                .build(),
            written,
            _age: meter
                .f64_observable_gauge("mirrormesh.heartbeat.age")
                .with_unit("s")
                .with_description("Time since the last heartbeat of a flow was written to its target.")
                .with_callback(move |observer| {
                    for (flow, age_ms) in ages(&observed, now_ms()) {
                        let seconds = std::time::Duration::from_millis(age_ms).as_secs_f64();
                        observer.observe(seconds, &[KeyValue::new("flow", flow.shared())]);
                    }
                })
                .build(),
        }
    }

    /// A heartbeat was written.
    pub(crate) fn written(&self, flow: &FlowId, time_ms: u64) {
        self.heartbeats.add(1, &[KeyValue::new("flow", flow.shared())]);
        self.written.lock().insert(flow.clone(), time_ms);
    }

    /// A heartbeat could not be written.
    pub(crate) fn failed(&self, flow: &FlowId) {
        self.failures.add(1, &[KeyValue::new("flow", flow.shared())]);
    }

    /// The flow's unit has gone: its age says nothing any more.
    pub(crate) fn gone(&self, flow: &FlowId) {
        self.written.lock().remove(flow);
    }
}

fn ages(written: &Written, now: u64) -> BTreeMap<FlowId, u64> {
    let written = written.lock();
    written.iter().map(|(flow, time_ms)| (flow.clone(), now.saturating_sub(*time_ms))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_counts_from_the_last_heartbeat() {
        let metrics = Metrics::new(&opentelemetry::global::meter("none"));
        let flow = FlowId::new("f").unwrap();
        metrics.written(&flow, 1_000);
        metrics.written(&flow, 2_000);
        assert_eq!(ages(&metrics.written, 2_500), BTreeMap::from([(flow.clone(), 500)]));
        metrics.gone(&flow);
        assert!(ages(&metrics.written, 2_500).is_empty());
    }
}
