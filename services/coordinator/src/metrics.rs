//! What a coordinator measures.
//!
//! Owns the instruments and their names. Gauges are read when somebody collects; per flow only the leader has figures,
//! since the others don't know any.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use tokio::sync::watch;
use tonic::Code;

use crate::leader::Lead;
use crate::raft::RaftHandle;

mod flows;

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
                .with_description(
                    "Calls of the public API, by method and gRPC code; a stream counts when it begins.",
                )
                .build(),
            proposals: meter
                .f64_histogram("mirrormesh.raft.proposal.duration")
                .with_description("Time from proposing a command to Raft until it is applied on the leader.")
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
    gauge(meter, &sources, "mirrormesh.state.revision", "Revision of the replicated state.", |sources| {
        Some(sources.raft.newest().revision)
    });
    gauge(
        meter,
        &sources,
        "mirrormesh.raft.is_leader",
        "1 on the coordinator that leads, 0 elsewhere.",
        |sources| Some(u64::from(sources.lead().is_some())),
    );
    gauge(meter, &sources, "mirrormesh.raft.term", "Raft term that this coordinator knows.", |sources| {
        Some(sources.raft.leadership().term)
    });
    gauge(
        meter,
        &sources,
        "mirrormesh.workers",
        "Workers with an open session; on the leader only.",
        |sources| sources.lead().map(|_| count(sources.raft.newest().workers.len())),
    );
    gauge(
        meter,
        &sources,
        "mirrormesh.units.placed",
        "Units of work that are assigned to a worker; on the leader only.",
        |sources| sources.lead().map(|lead| count(lead.placement.counts().0)),
    );
    gauge(
        meter,
        &sources,
        "mirrormesh.units.unplaced",
        "Units of work that wait for a worker; on the leader only.",
        |sources| sources.lead().map(|lead| count(lead.placement.counts().1)),
    );
    flows::observe(meter, &sources);
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
