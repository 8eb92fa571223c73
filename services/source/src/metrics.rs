//! Instruments of the source service. Updated per batch or rarer, never per record.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, ObservableGauge, UpDownCounter};

use crate::lag_board::LagBoard;

/// The instruments.
#[derive(Debug)]
pub(crate) struct Metrics {
    records: Counter<u64>,
    bytes: Counter<u64>,
    batches: Counter<u64>,
    skipped: Counter<u64>,
    in_flight: UpDownCounter<i64>,
    resyncs: Counter<u64>,
    stops: Counter<u64>,
    throttle_time: Counter<f64>,
    /// Lag of the worker's partitions.
    pub(crate) lag: LagBoard,
    /// Held, since a gauge that is dropped is not observed any more.
    _gauges: [ObservableGauge<f64>; 3],
}

impl Metrics {
    pub(crate) fn new(meter: &Meter, lag_by_partition: bool) -> Self {
        let lag = LagBoard::new(lag_by_partition);
        Self {
            _gauges: lag.observe(meter),
            lag,
            records: meter
                .u64_counter("mirrormesh.records")
                .with_unit("{record}")
                .with_description("Records appended to the target and acknowledged.")
                .build(),
            bytes: meter
                .u64_counter("mirrormesh.bytes")
                .with_unit("By")
                .with_description("Bytes of record batches appended to the target and acknowledged.")
                .build(),
            batches: meter
                .u64_counter("mirrormesh.batches")
                .with_unit("{batch}")
                .with_description("Batches by the path that they took: passthrough or trimmed.")
                .build(),
            skipped: meter
                .u64_counter("mirrormesh.skipped.batches")
                .with_unit("{batch}")
                .with_description(
                    "Batches that are not mirrored on purpose, by reason: control, aborted, empty, loop.",
                )
                .build(),
            in_flight: meter
                .i64_up_down_counter("mirrormesh.batches.in_flight")
                .with_unit("{batch}")
                .with_description("Batches sent to the target and not answered yet.")
                .build(),
            throttle_time: meter
                .f64_counter("mirrormesh.throttle.time")
                .with_unit("s")
                .with_description("Time that fetched pages waited for their turn under a throttle.")
                .build(),
            resyncs: meter
                .u64_counter("mirrormesh.resyncs")
                .with_unit("{resync}")
                .with_description("How often a place was found anew, by reason.")
                .build(),
            stops: meter
                .u64_counter("mirrormesh.stops")
                .with_unit("{stop}")
                .with_description("Partitions stopped, by reason.")
                .build(),
        }
    }

    pub(crate) fn mirrored(&self, flow: &KeyValue, records: u64, bytes: u64) {
        self.records.add(records, std::slice::from_ref(flow));
        self.bytes.add(bytes, std::slice::from_ref(flow));
    }

    pub(crate) fn batch(&self, flow: &KeyValue, path: &'static str) {
        self.batches.add(1, &[flow.clone(), KeyValue::new("path", path)]);
    }

    pub(crate) fn skipped(&self, flow: &KeyValue, reason: &'static str) {
        self.skipped.add(1, &[flow.clone(), KeyValue::new("reason", reason)]);
    }

    pub(crate) fn in_flight(&self, flow: &KeyValue, by: i64) {
        self.in_flight.add(by, std::slice::from_ref(flow));
    }

    pub(crate) fn throttled(&self, flow: &KeyValue, ms: u64) {
        self.throttle_time.add(Duration::from_millis(ms).as_secs_f64(), std::slice::from_ref(flow));
    }

    pub(crate) fn resync(&self, flow: &KeyValue, reason: &'static str) {
        self.resyncs.add(1, &[flow.clone(), KeyValue::new("reason", reason)]);
    }

    pub(crate) fn stop(&self, flow: &KeyValue, reason: &'static str) {
        self.stops.add(1, &[flow.clone(), KeyValue::new("reason", reason)]);
    }
}
