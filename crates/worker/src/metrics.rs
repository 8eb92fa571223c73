//! What a worker measures about itself.
//!
//! Owns the names; knows nothing about exporters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::metrics::{Counter, Meter, ObservableGauge};

/// The instruments; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    units: Arc<AtomicU64>,
    session: Arc<AtomicU64>,
    unit_failures: Counter<u64>,
    events_dropped: Counter<u64>,
    /// Held, since a gauge that is dropped is not observed any more.
    _gauges: [ObservableGauge<u64>; 2],
}

impl Metrics {
    /// Instruments of this meter.
    pub(crate) fn new(meter: &Meter) -> Self {
        let gauge = |name: &'static str, text: &'static str| {
            let value = Arc::new(AtomicU64::new(0));
            let observed = Arc::clone(&value);
            let gauge = meter
                .u64_observable_gauge(name)
                .with_description(text)
                .with_callback(move |observer| observer.observe(observed.load(Ordering::Relaxed), &[]))
                .build();
            (value, gauge)
        };
        let (units, units_gauge) = gauge("mirrormesh.worker.units", "Units that the worker has.");
        let (session, session_gauge) =
            gauge("mirrormesh.worker.session", "1 while a session with a coordinator is open.");
        Self(Arc::new(Instruments {
            units,
            session,
            unit_failures: meter
                .u64_counter("mirrormesh.worker.unit_failures")
                .with_description("Units that ended without having been asked to.")
                .build(),
            events_dropped: meter
                .u64_counter("mirrormesh.worker.events_dropped")
                .with_description("Events that never reached a coordinator.")
                .build(),
            _gauges: [units_gauge, session_gauge],
        }))
    }

    /// Instruments that nobody reads.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::new(&opentelemetry::global::meter("none"))
    }

    pub(crate) fn units(&self, count: usize) {
        self.0.units.store(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn session(&self, open: bool) {
        self.0.session.store(u64::from(open), Ordering::Relaxed);
    }

    pub(crate) fn unit_failed(&self) {
        self.0.unit_failures.add(1, &[]);
    }

    pub(crate) fn events_dropped(&self, count: u64) {
        self.0.events_dropped.add(count, &[]);
    }
}
