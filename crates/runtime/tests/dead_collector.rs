//! A collector that is away or hangs costs neither log lines nor time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of a test binary for production code"
)]

mod support;

use mirrormesh_runtime::env::Env;
use mirrormesh_runtime::telemetry::{SHUTDOWN_MAX, Telemetry, TelemetryError, TelemetrySettings};
use std::io::Read;
use std::time::{Duration, Instant};
use support::{TestChild, telemetry};
use tokio::net::TcpListener;

fn emit(telemetry: &Telemetry) {
    tracing::info_span!("work").in_scope(|| tracing::info!("one line"));
    telemetry.meter("demo").u64_counter("demo.things").build().add(1, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_is_bounded_where_the_collector_hangs() {
    // Takes connections and never says a word.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (telemetry, dispatch, _) = telemetry(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    tracing::dispatcher::with_default(&dispatch, || emit(&telemetry));
    let start = Instant::now();
    let result = telemetry.shutdown().await;
    let took = start.elapsed();
    assert!(took < SHUTDOWN_MAX + Duration::from_millis(500), "{took:?}");
    assert!(took > Duration::from_secs(2), "the exporters did try: {took:?}");
    assert!(matches!(result, Err(TelemetryError::ShutdownTimeout)), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_is_quick_where_nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (telemetry, dispatch, _) = telemetry(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    tracing::dispatcher::with_default(&dispatch, || emit(&telemetry));
    let start = Instant::now();
    telemetry.shutdown().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Exports every 50 ms for two seconds to where nobody listens, as a process of its own: only the
/// global subscriber sees what the exporters' threads say.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test below in a process of its own"]
async fn child_exports_to_nobody() {
    let settings = TelemetrySettings {
        service_name: "child".into(),
        env: Env::process(),
        ..TelemetrySettings::default()
    };
    let telemetry = Telemetry::init(&settings).unwrap();
    assert!(matches!(Telemetry::init(&settings), Err(TelemetryError::AlreadyInitialised)));
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..40 {
        tick.tick().await;
        emit(&telemetry);
    }
    telemetry.shutdown().await.unwrap();
}

#[test]
fn a_collector_that_is_away_costs_a_handful_of_lines() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut child = TestChild::start(
        "child_exports_to_nobody",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ],
    );
    let mut text = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.0.wait().unwrap().success(), "{text}");
    let complaints: Vec<_> = text.lines().filter(|line| line.contains("opentelemetry")).collect();
    assert!(!complaints.is_empty(), "the first failure must be said: {text}");
    assert!(complaints.len() <= 8, "{} lines: {text}", complaints.len());
    assert_eq!(text.lines().filter(|line| line.contains("one line")).count(), 40, "our own lines all stay");
}
