//! Deadlines of unary calls.
//!
//! Owns the rule: a unary call ends at the client's `grpc-timeout` or at the server's own limit,
//! whichever is first; a call with a stream in it is never cut. Which calls have one is read from
//! the descriptors that reflection serves.

use super::GrpcError;
use prost::Message;
use prost_types::FileDescriptorSet;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// The paths (`/package.Service/Method`) of all methods that stream in either direction.
#[derive(Debug, Clone, Default)]
pub(super) struct StreamingMethods(Arc<HashSet<String>>);

impl StreamingMethods {
    pub(super) fn read(descriptor_sets: &[&[u8]]) -> Result<Self, GrpcError> {
        let mut paths = HashSet::new();
        let own = [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        for bytes in descriptor_sets.iter().copied().chain(own) {
            let set = FileDescriptorSet::decode(bytes)
                .map_err(|error| GrpcError::Descriptors { message: error.to_string() })?;
            for file in &set.file {
                collect(file, &mut paths);
            }
        }
        Ok(Self(Arc::new(paths)))
    }

    fn contains(&self, path: &str) -> bool {
        self.0.contains(path)
    }
}

fn collect(file: &prost_types::FileDescriptorProto, paths: &mut HashSet<String>) {
    let package = match file.package() {
        "" => String::new(),
        package => format!("{package}."),
    };
    for service in &file.service {
        for method in &service.method {
            if method.client_streaming() || method.server_streaming() {
                paths.insert(format!("/{package}{}/{}", service.name(), method.name()));
            }
        }
    }
}

/// Ends unary calls at their deadline.
#[derive(Debug, Clone)]
pub(super) struct DeadlineLayer {
    pub(super) streaming: StreamingMethods,
    pub(super) unary_max: Duration,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner, rule: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct DeadlineService<S> {
    inner: S,
    rule: DeadlineLayer,
}

impl<S, B> Service<http::Request<B>> for DeadlineService<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if self.rule.streaming.contains(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        let asked = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok());
        let limit =
            asked.and_then(grpc_timeout).map_or(self.rule.unary_max, |asked| asked.min(self.rule.unary_max));
        let response = self.inner.call(request);
        Box::pin(async move {
            tokio::time::timeout(limit, response).await.unwrap_or_else(|_| {
                let text = format!("the call did not end within {} ms", limit.as_millis());
                Ok(Status::deadline_exceeded(text).into_http())
            })
        })
    }
}

/// At most eight digits and a unit; source: gRPC over HTTP/2, "Timeout".
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(count)),
        "M" => Some(Duration::from_mins(count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("2M", Some(Duration::from_mins(2))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("-5S", None),
            ("5\u{e9}", None),
        ] {
            assert_eq!(grpc_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn streaming_methods_are_read_from_descriptors() {
        let streaming = StreamingMethods::read(&[]).unwrap();
        assert!(streaming.contains("/grpc.health.v1.Health/Watch"));
        assert!(!streaming.contains("/grpc.health.v1.Health/Check"));
        assert!(streaming.contains("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"));
        assert!(StreamingMethods::read(&[&[0xff, 0xff]]).is_err());
    }
}
