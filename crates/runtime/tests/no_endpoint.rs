//! Without an endpoint the exporting side does not exist. Alone in its binary: it counts threads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of a test binary for production code"
)]

mod support;

use mirrormesh_runtime::telemetry::Telemetry;
use std::collections::BTreeSet;
use std::ffi::OsString;
use support::{Collector, telemetry};
use tracing::Dispatch;

/// The threads of this process, by their ids.
fn threads() -> BTreeSet<OsString> {
    std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().file_name()).collect()
}

/// Telemetry with these variables, and how many threads came with it.
fn counted(variables: &[(&str, &str)]) -> (Telemetry, Dispatch, usize) {
    let before = threads();
    let (telemetry, dispatch, _) = telemetry(variables);
    let more = threads().difference(&before).count();
    (telemetry, dispatch, more)
}

#[tokio::test]
async fn no_endpoint_means_no_thread_and_no_connection() {
    let collector = Collector::start().await;
    for variables in [
        vec![],
        vec![("OTEL_SERVICE_NAME", "x")],
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()), ("OTEL_SDK_DISABLED", "true")],
    ] {
        let (telemetry, dispatch, threads) = counted(&variables);
        assert_eq!(telemetry.exported(), []);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info_span!("work").in_scope(|| tracing::info!("x"));
        });
        telemetry.meter("demo").u64_counter("demo.things").build().add(1, &[]);
        assert_eq!(threads, 0, "{variables:?}");
        let shown = telemetry.registry().gather();
        assert!(
            shown.iter().any(|family| family.name() == "demo_things_total"),
            "prometheus goes on: {shown:?}"
        );
        telemetry.shutdown().await.unwrap();
    }
    assert_eq!(collector.received.log_count(), 0);

    // The count is a real one: with an endpoint there are such threads.
    let (telemetry, _dispatch, threads) = counted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)]);
    assert_eq!(threads, 3);
    telemetry.shutdown().await.unwrap();
}
