//! What a worker measures about itself.
//!
//! Owns the names; knows nothing about exporters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mirrormesh_core::unit::Role;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, ObservableGauge};

use crate::config::role_name;

/// The instruments; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    /// Tells the workers of one process apart.
    role: [KeyValue; 1],
    units: Arc<AtomicU64>,
    session: Arc<AtomicU64>,
    unit_failures: Counter<u64>,
    events_dropped: Counter<u64>,
    /// Held, since a gauge that is dropped is not observed any more.
    _gauges: [ObservableGauge<u64>; 2],
}

impl Metrics {
    /// Instruments of this meter for a worker of this role.
    pub(crate) fn new(meter: &Meter, role: Role) -> Self {
        let role = [KeyValue::new("role", role_name(role))];
        let gauge = |name: &'static str, text: &'static str| {
            let value = Arc::new(AtomicU64::new(0));
            let (observed, role) = (Arc::clone(&value), role.clone());
            let gauge = meter
                .u64_observable_gauge(name)
                .with_description(text)
                .with_callback(move |observer| observer.observe(observed.load(Ordering::Relaxed), &role))
                .build();
            (value, gauge)
        };
        let (units, units_gauge) =
            gauge("mirrormesh.worker.units", "Units of work that a worker has, by role.");
        let (session, session_gauge) = gauge(
            "mirrormesh.worker.session",
            "1 while a worker has an open session with a coordinator, by role.",
        );
        Self(Arc::new(Instruments {
            role,
            units,
            session,
            unit_failures: meter
                .u64_counter("mirrormesh.worker.unit_failures")
                .with_description("Units of work that failed and are started again, by role.")
                .build(),
            events_dropped: meter
                .u64_counter("mirrormesh.worker.events_dropped")
                .with_description("Events of flows that never reached a coordinator, by role of the worker.")
                .build(),
            _gauges: [units_gauge, session_gauge],
        }))
    }

    /// Instruments that nobody reads.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::new(&opentelemetry::global::meter("none"), Role::Source)
    }

    pub(crate) fn units(&self, count: usize) {
        self.0.units.store(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn session(&self, open: bool) {
        self.0.session.store(u64::from(open), Ordering::Relaxed);
    }

    pub(crate) fn unit_failed(&self) {
        self.0.unit_failures.add(1, &self.0.role);
    }

    pub(crate) fn events_dropped(&self, count: u64) {
        self.0.events_dropped.add(count, &self.0.role);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_runtime::telemetry::{Telemetry, TelemetrySettings};

    #[test]
    fn roles_of_one_process_have_series_of_their_own() {
        let (telemetry, _, _) = Telemetry::assemble(&TelemetrySettings::default()).unwrap();
        let meter = telemetry.meter("mirrormesh.worker");
        let workers = [(Role::Source, 7), (Role::Checkpoint, 2), (Role::Heartbeat, 1)];
        let _held = workers.map(|(role, units)| {
            let metrics = Metrics::new(&meter, role);
            metrics.units(units);
            metrics
        });
        let families = telemetry.registry().gather();
        let units = families.iter().find(|family| family.name() == "mirrormesh_worker_units").unwrap();
        let series = |metric: &_| format!("{metric:?}");
        let shown: Vec<String> = units.get_metric().iter().map(series).collect();
        assert_eq!(shown.len(), 3, "{shown:#?}");
        for role in ["source", "checkpoint", "heartbeat"] {
            assert!(shown.iter().any(|series| series.contains(role)), "{role}: {shown:#?}");
        }
    }
}
