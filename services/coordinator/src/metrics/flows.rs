//! Gauges by flow: state, conditions, partitions, lag, rates.
//!
//! Only the leader has figures. One scrape reads many gauges, so what one of them worked out serves the others.

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::ids::FlowId;
use mirrormesh_proto::v1::Progress;
use mirrormesh_proto::v1::flow::State;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Sources;
use crate::service::{FlowFigures, flow_figures};

/// Figures are worked out anew once they are this old: the gauges of one scrape share them.
const SHARED_FOR: Duration = Duration::from_millis(200);

/// States that a flow can be in, with their label.
const STATES: [(State, &str); 5] = [
    (State::Starting, "STARTING"),
    (State::Running, "RUNNING"),
    (State::Degraded, "DEGRADED"),
    (State::Pausing, "PAUSING"),
    (State::Paused, "PAUSED"),
];

type Figures = Arc<Vec<FlowFigures>>;

/// The figures of all flows, as of a moment ago at most.
#[derive(Debug, Clone)]
struct Shared {
    sources: Sources,
    // Lock: held for one look at all flows.
    newest: Arc<Mutex<Option<(Instant, Figures)>>>,
}

impl Shared {
    fn read(&self) -> Figures {
        let mut newest = self.newest.lock();
        if let Some((at, figures)) = &*newest
            && at.elapsed() < SHARED_FOR
        {
            return Arc::clone(figures);
        }
        let lead = self.sources.lead();
        let figures = lead.map(|lead| flow_figures(&lead, &self.sources.raft.newest())).unwrap_or_default();
        let figures = Arc::new(figures);
        *newest = Some((Instant::now(), Arc::clone(&figures)));
        figures
    }
}

/// Registers the gauges; they are read as long as the meter lives.
pub(super) fn observe(meter: &Meter, sources: &Sources) {
    let shared = Shared { sources: sources.clone(), newest: Arc::default() };
    let text = "1 for the state that a flow is in, 0 for the other states.";
    gauge(meter, &shared, ("mirrormesh.flow.state", text), states);
    let text = "Conditions of a flow, by reason: what keeps it from running as declared.";
    gauge(meter, &shared, ("mirrormesh.flow.conditions", text), conditions);
    for (name, text, figure) in PROGRESS {
        let read = move |flow: &FlowFigures, observe: &mut Observe<'_>| {
            if let Some(value) = flow.progress.as_ref().and_then(figure) {
                observe(value, &[label(&flow.flow)]);
            }
        };
        gauge(meter, &shared, (name, text), read);
    }
}

type Observe<'a> = dyn FnMut(f64, &[KeyValue]) + 'a;
type Figure = fn(&Progress) -> Option<f64>;

const PROGRESS: [(&str, &str, Figure); 9] = [
    ("mirrormesh.flow.partitions", "Partitions that a flow is to mirror.", |progress| {
        Some(to_f64(progress.partitions))
    }),
    ("mirrormesh.flow.partitions_running", "Partitions of a flow that are mirrored now.", |progress| {
        Some(to_f64(progress.partitions_running))
    }),
    (
        "mirrormesh.flow.partitions_stopped",
        "Partitions of a flow that are stopped until somebody acts.",
        |progress| Some(to_f64(progress.partitions_stopped)),
    ),
    (
        "mirrormesh.flow.partitions_unmeasured",
        "Partitions of a flow whose lag can't be measured now: the lag of the flow leaves them out.",
        |progress| Some(to_f64(progress.partitions_unmeasured)),
    ),
    (
        "mirrormesh.flow.lag_records",
        "Records of a flow that are on the source and not on the target yet, without unmeasured partitions.",
        |progress| progress.lag_records.map(to_f64),
    ),
    (
        "mirrormesh.flow.lag_bytes",
        "Bytes of a flow that are on the source and not on the target yet, estimated where they are not fetched, \
         without unmeasured partitions.",
        |progress| progress.lag_bytes.map(to_f64),
    ),
    (
        "mirrormesh.flow.lag_seconds",
        "Age in seconds of a flow's oldest readable record that is not on the target yet, without unmeasured \
         partitions.",
        |progress| progress.lag_seconds,
    ),
    (
        "mirrormesh.flow.records_per_second",
        "Records that a flow mirrors per second, on average over the last 10 seconds.",
        |progress| Some(progress.records_per_second),
    ),
    (
        "mirrormesh.flow.bytes_per_second",
        "Bytes of record batches that a flow mirrors per second, on average over the last 10 seconds.",
        |progress| Some(progress.bytes_per_second),
    ),
];

fn states(flow: &FlowFigures, observe: &mut Observe<'_>) {
    for (state, name) in STATES {
        let value = if flow.state == state { 1.0 } else { 0.0 };
        observe(value, &[label(&flow.flow), KeyValue::new("state", name)]);
    }
}

fn conditions(flow: &FlowFigures, observe: &mut Observe<'_>) {
    for (reason, count) in &flow.conditions {
        let labels = [label(&flow.flow), KeyValue::new("reason", reason.clone())];
        observe(to_f64(i64::try_from(*count).unwrap_or(i64::MAX)), &labels);
    }
}

fn gauge(
    meter: &Meter,
    shared: &Shared,
    (name, text): (&'static str, &'static str),
    read: impl Fn(&FlowFigures, &mut Observe<'_>) + Send + Sync + 'static,
) {
    let shared = shared.clone();
    let callback = move |observer: &dyn AsyncInstrument<f64>| {
        for flow in &*shared.read() {
            read(flow, &mut |value, labels| observer.observe(value, labels));
        }
    };
    meter.f64_observable_gauge(name).with_description(text).with_callback(callback).build();
}

fn label(flow: &FlowId) -> KeyValue {
    KeyValue::new("flow", flow.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "a gauge for people and alerts")]
fn to_f64(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(by: fn(&FlowFigures, &mut Observe<'_>)) -> Vec<(f64, String)> {
        let flow = FlowFigures {
            flow: FlowId::new("f").unwrap(),
            state: State::Degraded,
            conditions: BTreeMap::from([("NO_WORKER".to_owned(), 1), ("STOPPED".to_owned(), 7)]),
            progress: None,
        };
        let mut seen = Vec::new();
        by(&flow, &mut |value, labels| seen.push((value, labels.last().unwrap().value.to_string())));
        seen
    }

    #[test]
    fn exactly_one_state_of_a_flow_is_1() {
        let states = read(states);
        assert_eq!(states.len(), STATES.len());
        let on: Vec<_> = states.iter().filter(|(value, _)| *value > 0.0).collect();
        assert_eq!(on, [&(1.0, "DEGRADED".to_owned())]);
    }

    #[test]
    fn conditions_are_counted_by_reason() {
        assert_eq!(read(conditions), [(1.0, "NO_WORKER".to_owned()), (7.0, "STOPPED".to_owned())]);
    }
}
