//! All three signals reach a collector; a trace goes through a gRPC call.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of a test binary for production code"
)]

mod support;

use mirrormesh_runtime::grpc::{ChannelOptions, GrpcServer, ServerLimits, channel, with_standard_services};
use mirrormesh_runtime::shutdown::Shutdown;
use mirrormesh_runtime::telemetry::Signal;
use mirrormesh_runtime::trace_context::{current_traceparent, extract, follow, traced};
use opentelemetry::trace::{TraceContextExt, TraceId};
use support::{Collector, telemetry};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tracing::Instrument;

#[tokio::test(flavor = "multi_thread")]
async fn all_three_signals_reach_the_collector() {
    let collector = Collector::start().await;
    let (telemetry, dispatch, notes) = telemetry(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
        ("OTEL_RESOURCE_ATTRIBUTES", "zone=a"),
        ("OTEL_SERVICE_NAME", "named"),
    ]);
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(telemetry.exported(), Signal::ALL);
    tracing::dispatcher::with_default(&dispatch, || {
        let _span = tracing::info_span!("work", flow = "uk-hq").entered();
        tracing::info!("one line");
        tracing::info!(target: "h2::codec", "transport chatter");
    });
    telemetry.meter("one").u64_counter("demo.things").build().add(3, &[]);
    telemetry.meter("two").u64_counter("demo.others").build().add(4, &[]);
    telemetry.shutdown().await.unwrap();
    telemetry.shutdown().await.unwrap();

    let received = &collector.received;
    let spans = received.spans();
    assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["work"]);
    assert_eq!(received.log_count(), 1, "the transport's own lines are not exported");
    let names = received.metric_names();
    assert!(names.contains(&"demo.things".into()) && names.contains(&"demo.others".into()), "{names:?}");
    let resource = received.resource().join("\n");
    for expected in ["service.name", "named", "service.instance.id", "demo-1", "9.9", "zone"] {
        assert!(resource.contains(expected), "{expected} is not in {resource}");
    }
}

#[tokio::test]
async fn one_signal_may_go_alone_and_the_rest_stays_off() {
    let collector = Collector::start().await;
    let (telemetry, _, notes) = telemetry(&[
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", &collector.endpoint),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &collector.endpoint),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
    ]);
    assert_eq!(telemetry.exported(), [Signal::Logs]);
    assert_eq!(notes.len(), 1, "{notes:?}");
    telemetry.shutdown().await.unwrap();
    assert_eq!(collector.received.spans().len(), 0);
}

/// Answers with the trace id that it was called with.
#[derive(Debug)]
struct Echo;

#[tonic::async_trait]
impl Health for Echo {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let seen = extract(request.metadata()).span().span_context().trace_id().to_string();
        let mut response = Response::new(HealthCheckResponse::default());
        response.metadata_mut().insert("seen-trace", seen.parse().unwrap());
        Ok(response)
    }

    type WatchStream = tokio_stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}

#[tokio::test]
async fn a_call_carries_the_trace_of_its_caller() {
    let collector = Collector::start().await;
    let (telemetry, dispatch, _) = telemetry(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &collector.endpoint)]);
    let _default = tracing::dispatcher::set_default(&dispatch);
    let server = GrpcServer::bind("test", "127.0.0.1:0", ServerLimits::default(), &[]).await.unwrap();
    let address = server.local_addr();
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(server.serve(Routes::new(HealthServer::new(Echo)), shutdown.clone()));

    let channel = channel(&address.to_string(), &ChannelOptions::default()).unwrap();
    let mut client = HealthClient::new(traced(channel));
    let root = tracing::info_span!("root");
    let (answer, traceparent) = async {
        (client.check(HealthCheckRequest::default()).await.unwrap(), current_traceparent().unwrap())
    }
    .instrument(root)
    .await;
    let follower = tracing::info_span!("follower");
    follow(&follower, &traceparent);
    drop(follower);
    shutdown.trigger();
    serving.await.unwrap().unwrap();
    telemetry.shutdown().await.unwrap();

    let spans = collector.received.spans();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let trace = TraceId::from_bytes(named("root").trace_id.clone().try_into().unwrap()).to_string();
    assert_eq!(answer.metadata().get("seen-trace").unwrap(), trace.as_str());
    assert_eq!(named("follower").trace_id, named("root").trace_id);
    assert_eq!(named("follower").parent_span_id, named("root").span_id);
    assert!(spans.iter().all(|span| span.name != "grpc.health.v1.Health/Check"), "health calls get no span");
}

#[tokio::test]
async fn a_request_to_a_service_gets_a_server_span_in_the_trace_of_its_caller() {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;

    let collector = Collector::start().await;
    let (telemetry, dispatch, _) = telemetry(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &collector.endpoint)]);
    let _default = tracing::dispatcher::set_default(&dispatch);
    let server = GrpcServer::bind("test", "127.0.0.1:0", ServerLimits::default(), &[]).await.unwrap();
    let address = server.local_addr();
    let shutdown = Shutdown::new();
    let (routes, _health) = with_standard_services(Routes::default(), &[]).unwrap();
    let serving = tokio::spawn(server.serve(routes, shutdown.clone()));

    // Nobody serves it here: the refusal is part of the span.
    let channel = channel(&address.to_string(), &ChannelOptions::default()).unwrap();
    let mut client = LogsServiceClient::new(traced(channel));
    let root = tracing::info_span!("root");
    let refused = client.export(ExportLogsServiceRequest::default()).instrument(root).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    shutdown.trigger();
    serving.await.unwrap().unwrap();
    telemetry.shutdown().await.unwrap();

    let spans = collector.received.spans();
    let root = spans.iter().find(|span| span.name == "root").unwrap();
    let name = "opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let span = spans.iter().find(|span| span.name == name).unwrap();
    assert_eq!((&span.trace_id, &span.parent_span_id), (&root.trace_id, &root.span_id));
    assert_eq!(span.status.as_ref().unwrap().code, 2, "refused calls are errors");
}
