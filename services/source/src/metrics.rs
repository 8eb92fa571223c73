//! Instruments of the source service. What happens per batch is counted by its partition first ([`Tally`]) and brought here
//! a few times a second: an instrument costs more than a batch does.

use std::time::Duration;

use mirrormesh_core::relay::path::Path;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, UpDownCounter};

use crate::costs::Costs;
use crate::lag_board::{Gauges, LagBoard};

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
    costs: Costs,
    /// Lag of the worker's partitions.
    pub(crate) lag: LagBoard,
    /// Held, since a gauge that is dropped is not observed any more.
    _gauges: Gauges,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter, lag_by_partition: bool) -> Self {
        let lag = LagBoard::new(lag_by_partition);
        Self {
            _gauges: lag.observe(meter),
            lag,
            costs: Costs::new(),
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
                .with_description("Batches by the path that they took: passthrough, or why they were taken apart (trimmed, gaps, split, \
                     append_time, clamped, old_format, coalesced).")
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

    /// Takes over what a partition has counted since the last time. Says what passing a batch costs this process beside
    /// its bytes, ns.
    pub(crate) fn count(&self, flow: &KeyValue, tally: &mut Tally) -> u64 {
        let flow_only = std::slice::from_ref(flow);
        let all: u64 = tally.batches.iter().map(|(_, batches)| batches).sum();
        let as_they_were = tally.batches.iter().filter(|(path, _)| *path == Path::Passthrough.name());
        let passed = as_they_were.map(|(_, batches)| batches).sum();
        let passing_ns = self.costs.sent(passed, all - passed, tally.bytes);
        for (counter, by) in [(&self.records, &mut tally.records), (&self.bytes, &mut tally.bytes)] {
            if *by > 0 {
                counter.add(std::mem::take(by), flow_only);
            }
        }
        if tally.in_flight != 0 {
            self.in_flight.add(std::mem::take(&mut tally.in_flight), flow_only);
        }
        for (path, batches) in &mut tally.batches {
            if *batches > 0 {
                self.batches.add(std::mem::take(batches), &[flow.clone(), KeyValue::new("path", *path)]);
            }
        }
        passing_ns
    }

    pub(crate) fn skipped(&self, flow: &KeyValue, reason: &'static str) {
        self.skipped.add(1, &[flow.clone(), KeyValue::new("reason", reason)]);
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

/// What one partition has counted and not brought to the instruments yet.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    records: u64,
    bytes: u64,
    in_flight: i64,
    /// By path; there are few.
    batches: Vec<(&'static str, u64)>,
}

impl Tally {
    /// A batch goes out.
    pub(crate) fn sent(&mut self, path: &'static str) {
        self.in_flight += 1;
        match self.batches.iter_mut().find(|(known, _)| *known == path) {
            Some((_, batches)) => *batches += 1,
            None => self.batches.push((path, 1)),
        }
    }

    /// An answer came.
    pub(crate) fn answered(&mut self) {
        self.in_flight -= 1;
    }

    /// Records were mirrored.
    pub(crate) fn mirrored(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
    }
}
