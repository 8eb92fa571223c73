//! Instruments of the source service. What happens per batch is counted by its partition first ([`Tally`]) and brought here
//! a few times a second: an instrument costs more than a batch does.

use std::collections::VecDeque;
use std::time::Duration;

use mirrormesh_relay::path::Path;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use crate::costs::Costs;
use crate::lag_board::{Gauges, LagBoard, UNIT_IN_NAME};

/// Upper bounds of the latency histogram's buckets, in seconds: from one append to a week of backfill.
const LATENCY_BUCKETS: [f64; 18] = [
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0,
    86_400.0, 604_800.0,
];
/// Latencies that one partition keeps between two counts at most: of a busier one, the first ones are observed.
const LATENCIES_MAX: usize = 64;

/// The instruments.
#[derive(Debug)]
pub(crate) struct Metrics {
    records: Counter<u64>,
    bytes: Counter<u64>,
    batches: Counter<u64>,
    skipped: Counter<u64>,
    in_flight: UpDownCounter<i64>,
    resyncs: Counter<u64>,
    position_failures: Counter<u64>,
    stops: Counter<u64>,
    throttle_time: Counter<f64>,
    latency: Histogram<f64>,
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
                .with_unit(UNIT_IN_NAME)
                .with_description("Bytes of record batches appended to the target and acknowledged.")
                .build(),
            batches: meter
                .u64_counter("mirrormesh.batches")
                .with_unit("{batch}")
                .with_description("Batches sent to the target, by the path that they took: passthrough, or why they were rebuilt (trimmed, \
                     gaps, split, append_time, clamped, old_format, coalesced).")
                .build(),
            skipped: meter
                .u64_counter("mirrormesh.skipped.batches")
                .with_unit("{batch}")
                .with_description(
                    "Source batches that are not mirrored on purpose, by reason: control, aborted, empty, loop.",
                )
                .build(),
            in_flight: meter
                .i64_up_down_counter("mirrormesh.batches.in_flight")
                .with_unit("{batch}")
                .with_description("Batches that were sent to the target and are not acknowledged yet.")
                .build(),
            throttle_time: meter
                .f64_counter("mirrormesh.throttle.time")
                .with_unit("s")
                .with_description("Time that fetched records waited for their turn under a throttle.")
                .build(),
            latency: meter
                .f64_histogram("mirrormesh.replication.latency")
                .with_unit("s")
                .with_description(
                    "Time from a batch's first timestamp on the source until the target acknowledged the batch.",
                )
                .with_boundaries(LATENCY_BUCKETS.to_vec())
                .build(),
            resyncs: meter
                .u64_counter("mirrormesh.resyncs")
                .with_unit("{resync}")
                .with_description("Position recoveries: how often partitions looked up where to go on, by reason.")
                .build(),
            position_failures: meter
                .u64_counter("mirrormesh.positions.failures")
                .with_unit("{write}")
                .with_description("Writes to the positions topic that failed. Records go on; the next owner recovers from an older position.")
                .build(),
            stops: meter
                .u64_counter("mirrormesh.stops")
                .with_unit("{stop}")
                .with_description("Stops of partitions that last until somebody acts, by reason.")
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
        for latency in tally.latencies.drain(..) {
            self.latency.record(latency.as_secs_f64(), flow_only);
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

    pub(crate) fn position_failed(&self, flow: &KeyValue) {
        self.position_failures.add(1, std::slice::from_ref(flow));
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
    /// First timestamps of the batches in flight, ms since 1970, by the number of the append; oldest first.
    sent: VecDeque<(u64, i64)>,
    /// Of acknowledged batches; keeps its memory.
    latencies: Vec<Duration>,
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

    /// A batch goes out under this number, whose first timestamp is this, in ms since 1970.
    pub(crate) fn stamped(&mut self, id: u64, first_timestamp_ms: i64) {
        self.sent.push_back((id, first_timestamp_ms));
    }

    /// The append with this number was answered; `appended`: the target has the batch.
    pub(crate) fn settled(&mut self, id: u64, appended: bool, now_ms: u64) {
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == id) else { return };
        let Some((_, timestamp_ms)) = self.sent.remove(at) else { return };
        // A negative timestamp is none.
        if let Ok(timestamp_ms) = u64::try_from(timestamp_ms)
            && appended
            && self.latencies.len() < LATENCIES_MAX
        {
            self.latencies.push(Duration::from_millis(now_ms.saturating_sub(timestamp_ms)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_runtime::telemetry::{Telemetry, TelemetrySettings};

    #[test]
    fn latency_counts_acknowledged_batches_with_timestamps() {
        let mut tally = Tally::default();
        for (id, timestamp_ms) in [(1, 900), (2, -1), (3, 800), (4, 2_000)] {
            tally.stamped(id, timestamp_ms);
        }
        tally.settled(3, true, 1_000);
        tally.settled(1, false, 1_000);
        tally.settled(2, true, 1_000);
        tally.settled(4, true, 1_000);
        tally.settled(9, true, 1_000);
        assert_eq!(
            tally.latencies,
            [Duration::from_millis(200), Duration::ZERO],
            "a clock ahead is no latency"
        );
        assert!(tally.sent.is_empty());
    }

    #[test]
    fn a_busy_partition_keeps_a_bounded_number_of_latencies() {
        let mut tally = Tally::default();
        for id in 0..1_000 {
            tally.stamped(id, 0);
            tally.settled(id, true, 5);
        }
        assert_eq!(tally.latencies.len(), LATENCIES_MAX);
    }

    #[test]
    fn metric_names_have_one_unit_and_texts_stand_alone() {
        let (telemetry, _, _) = Telemetry::assemble(&TelemetrySettings::default()).unwrap();
        let metrics = Metrics::new(&telemetry.meter("test"), false);
        let flow = KeyValue::new("flow", "f");
        let mut tally = Tally::default();
        tally.sent("passthrough");
        tally.stamped(1, 1);
        tally.settled(1, true, 2);
        tally.mirrored(1, 1);
        metrics.count(&flow, &mut tally);
        metrics.skipped(&flow, "loop");
        metrics.throttled(&flow, 1);
        metrics.resync(&flow, "x");
        metrics.stop(&flow, "x");
        metrics.position_failed(&flow);
        let (id, topic) = (
            mirrormesh_core::ids::FlowId::new("f").unwrap(),
            mirrormesh_core::ids::TopicName::new("t").unwrap(),
        );
        let slot = metrics.lag.enter(&id, &topic, 0);
        slot.set(mirrormesh_core::report::PartitionFigures {
            source_end_offset: Some(1),
            lag_bytes: Some(1),
            oldest_pending_ms: Some(1),
            source_start_offset: Some(1),
            ..Default::default()
        });
        let families = telemetry.registry().gather();
        let mut names = Vec::new();
        for family in &families {
            names.push(family.name());
        }
        for name in ["lag_bytes", "lag_seconds", "bytes_total", "replication_latency_seconds"] {
            let name = format!("mirrormesh_{name}");
            assert!(names.contains(&name.as_str()), "{name} is not among {names:?}");
        }
        for family in families.iter().filter(|family| family.name().starts_with("mirrormesh_")) {
            let (name, help) = (family.name(), family.help());
            assert!(!name.contains("bytes_bytes") && !name.contains("seconds_seconds"), "{name}");
            assert!(!help.contains("of them") && help.ends_with('.'), "{name}: {help}");
        }
    }
}
