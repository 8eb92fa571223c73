//! W3C trace context across processes.
//!
//! Owns how the current span travels: in gRPC metadata by itself, in a message as text. With that
//! an API call, the Raft proposal it becomes and the assignment that follows are one trace. It
//! must not know what is called.

use opentelemetry::Context as OtelContext;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::metadata::{KeyRef, MetadataKey, MetadataMap};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";

/// A channel whose requests carry the caller's span.
pub type TracedChannel = InterceptedService<Channel, TraceInjector>;

/// Makes every request on `channel` carry the caller's span.
pub fn traced(channel: Channel) -> TracedChannel {
    InterceptedService::new(channel, TraceInjector)
}

/// Puts the current span into the metadata of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceInjector;

impl Interceptor for TraceInjector {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        inject(request.metadata_mut());
        Ok(request)
    }
}

/// Puts the current span into `metadata`; nothing where there is none or no trace is exported.
pub fn inject(metadata: &mut MetadataMap) {
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut Metadata(metadata));
}

/// The caller's span out of the metadata of a request; an empty context without one.
pub fn extract(metadata: &MetadataMap) -> OtelContext {
    TraceContextPropagator::new().extract(&MetadataRef(metadata))
}

/// The current span as W3C `traceparent` text, for carrying it in a message; none where there is
/// none or no trace is exported.
pub fn current_traceparent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes `span`, which was not entered yet, a child of the span that `traceparent` names. Text that
/// is none leaves the span as it is.
pub fn follow(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    adopt(span, TraceContextPropagator::new().extract(&carrier));
}

fn adopt(span: &Span, parent: OtelContext) {
    if parent.span().span_context().is_valid() {
        // An error says that no trace is exported here; then there is nothing to continue.
        drop(span.set_parent(parent));
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct MetadataRef<'a>(&'a MetadataMap);

impl Extractor for MetadataRef<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0
            .keys()
            .filter_map(|key| match key {
                KeyRef::Ascii(key) => Some(key.as_str()),
                KeyRef::Binary(_) => None,
            })
            .collect()
    }
}

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Server side: gives each request a span that continues the caller's trace.
///
/// The span ends with the response head, so a stream that lasts for hours is not one open span.
/// Health and reflection calls get none.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceLayer;

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TraceService { inner }
    }
}

/// The service of [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct TraceService<S> {
    inner: S,
}

/// Calls without a span: probes, and the heartbeats between coordinators, which would drown everything else.
const QUIET: [&str; 2] = ["/grpc.", "/mirrormesh.mesh.v1.RaftService/"];

impl<S, B, R> Service<http::Request<B>> for TraceService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if QUIET.iter().any(|prefix| request.uri().path().starts_with(prefix)) {
            return Box::pin(self.inner.call(request));
        }
        let span = server_span(&request);
        let response = self.inner.call(request);
        let record = span.clone();
        let recorded = async move {
            let response = response.await;
            if let Ok(response) = &response {
                record_status(&record, response.headers());
            }
            response
        };
        Box::pin(recorded.instrument(span))
    }
}

fn server_span<B>(request: &http::Request<B>) -> Span {
    let path = request.uri().path().trim_start_matches('/');
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let span = tracing::info_span!(
        "grpc",
        otel.name = path,
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = field::Empty,
    );
    adopt(&span, TraceContextPropagator::new().extract(&Headers(request.headers())));
    span
}

/// A refusal stands in the response head; a success in the trailers, which come later.
fn record_status(span: &Span, headers: &http::HeaderMap) {
    let status = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
    if let Some(status) = status {
        span.record("rpc.grpc.status_code", status);
        if status != 0 {
            span.record("otel.status_code", "ERROR");
        }
    }
}
