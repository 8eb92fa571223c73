//! What a coordinator measures.
//!
//! Owns the instruments and their names. Gauges are read when somebody collects; per flow only the leader has figures,
//! since the others don't know any.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram, Meter};
use tokio::sync::watch;
use tonic::Code;

use crate::leader::Lead;
use crate::raft::RaftHandle;
use crate::service::flow_figures;

/// Longest usual proposals, in seconds.
const PROPOSAL_BUCKETS: [f64; 11] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The instruments that are written when something happens; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    calls: Counter<u64>,
    /// Seconds from proposal to applied.
    pub(crate) proposals: Histogram<f64>,
}

impl Metrics {
    /// Makes the instruments.
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            calls: meter
                .u64_counter("mirrormesh.api.calls")
                .with_description("API calls by method and code; a stream counts when it begins")
                .build(),
            proposals: meter
                .f64_histogram("mirrormesh.raft.proposal.duration")
                .with_description("time from proposing a command until it is applied on the leader")
                .with_unit("s")
                .with_boundaries(PROPOSAL_BUCKETS.to_vec())
                .build(),
        }
    }

    /// An API call was answered. Methods are our own, so there are few.
    pub(crate) fn call(&self, method: &str, code: Code) {
        let attributes = [KeyValue::new("method", method.to_owned()), KeyValue::new("code", code_name(code))];
        self.calls.add(1, &attributes);
    }
}

/// What gauges are read from.
#[derive(Debug, Clone)]
struct Sources {
    raft: RaftHandle,
    leads: watch::Receiver<Option<Arc<Lead>>>,
}

impl Sources {
    fn lead(&self) -> Option<Arc<Lead>> {
        self.leads.borrow().clone()
    }
}

/// Registers the gauges; they are read as long as the meter lives.
pub(crate) fn observe(meter: &Meter, raft: &RaftHandle, leads: &watch::Receiver<Option<Arc<Lead>>>) {
    let sources = Sources { raft: raft.clone(), leads: leads.clone() };
    gauge(meter, &sources, "mirrormesh.state.revision", "revision of the replicated state", |sources| {
        Some(sources.raft.newest().revision)
    });
    gauge(meter, &sources, "mirrormesh.raft.is_leader", "1 on the leading coordinator", |sources| {
        Some(u64::from(sources.lead().is_some()))
    });
    gauge(meter, &sources, "mirrormesh.raft.term", "term of the leadership", |sources| {
        Some(sources.raft.leadership().term)
    });
    gauge(meter, &sources, "mirrormesh.workers", "workers with an open session", |sources| {
        sources.lead().map(|_| count(sources.raft.newest().workers.len()))
    });
    gauge(meter, &sources, "mirrormesh.units.placed", "units that have a worker", |sources| {
        sources.lead().map(|lead| count(lead.placement.counts().0))
    });
    gauge(meter, &sources, "mirrormesh.units.unplaced", "units that have no worker", |sources| {
        sources.lead().map(|lead| count(lead.placement.counts().1))
    });
    observe_flows(meter, &sources);
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn gauge(
    meter: &Meter,
    sources: &Sources,
    name: &'static str,
    description: &'static str,
    read: impl Fn(&Sources) -> Option<u64> + Send + Sync + 'static,
) {
    let sources = sources.clone();
    meter
        .u64_observable_gauge(name)
        .with_description(description)
        .with_callback(move |observer| {
            if let Some(value) = read(&sources) {
                observer.observe(value, &[]);
            }
        })
        .build();
}

fn observe_flows(meter: &Meter, sources: &Sources) {
    type Figure = fn(&mirrormesh_proto::v1::Progress) -> Option<f64>;
    #[expect(clippy::cast_precision_loss, reason = "a gauge for people and alerts")]
    let lag_records: Figure = |progress| progress.lag_records.map(|lag| lag as f64);
    #[expect(clippy::cast_precision_loss, reason = "a gauge for people and alerts")]
    let lag_bytes: Figure = |progress| progress.lag_bytes.map(|lag| lag as f64);
    let figures: [(&'static str, &'static str, Figure); 5] = [
        ("mirrormesh.flow.lag_records", "records that are not on the target yet", lag_records),
        (
            "mirrormesh.flow.lag_bytes",
            "bytes that are not on the target yet, estimated for what is not fetched",
            lag_bytes,
        ),
        (
            "mirrormesh.flow.lag_seconds",
            "age of the oldest record that is not on the target yet",
            |progress| progress.lag_seconds,
        ),
        ("mirrormesh.flow.records_per_second", "records mirrored per second, lately", |progress| {
            Some(progress.records_per_second)
        }),
        ("mirrormesh.flow.bytes_per_second", "bytes mirrored per second, lately", |progress| {
            Some(progress.bytes_per_second)
        }),
    ];
    for (name, description, figure) in figures {
        let sources = sources.clone();
        let read = move |observer: &dyn AsyncInstrument<f64>| {
            let Some(lead) = sources.lead() else { return };
            for (flow, progress) in flow_figures(&lead, &sources.raft.newest()) {
                if let Some(value) = figure(&progress) {
                    observer.observe(value, &[KeyValue::new("flow", flow.to_string())]);
                }
            }
        };
        meter.f64_observable_gauge(name).with_description(description).with_callback(read).build();
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
