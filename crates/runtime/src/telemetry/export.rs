//! OTLP exporters over gRPC.
//!
//! Owns the channel to the collector and the three providers. It must not decide whether a signal
//! is exported: that is settled before it is asked.

use super::TelemetryError;
use super::otel_env::{OtelEnv, Signal, Target};
use crate::error_chain::Chain;
use opentelemetry_otlp::{LogExporter, MetricExporter, RetryPolicy, SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// A collector that does not take a connection in this time counts as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Certificates and keys are small; anything larger is the wrong file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

pub(super) fn tracer(target: &Target, resource: Resource) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel(Signal::Traces, target)?)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|error| TelemetryError::exporter(Signal::Traces, &error))?;
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

pub(super) fn logger(target: &Target, resource: Resource) -> Result<SdkLoggerProvider, TelemetryError> {
    let exporter = LogExporter::builder()
        .with_tonic()
        .with_channel(channel(Signal::Logs, target)?)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|error| TelemetryError::exporter(Signal::Logs, &error))?;
    Ok(SdkLoggerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

pub(super) fn metric_reader(
    target: &Target,
    env: OtelEnv<'_>,
) -> Result<PeriodicReader<MetricExporter>, TelemetryError> {
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_channel(channel(Signal::Metrics, target)?)
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|error| TelemetryError::exporter(Signal::Metrics, &error))?;
    let reader = PeriodicReader::builder(exporter);
    Ok(match env.metric_interval() {
        Some(interval) => reader.with_interval(interval).build(),
        None => reader.build(),
    })
}

/// A channel that connects on first use. It is built here and not by the exporter, whose build has
/// no TLS.
fn channel(signal: Signal, target: &Target) -> Result<Channel, TelemetryError> {
    // The channel's task needs a runtime, and tonic panics without one.
    tokio::runtime::Handle::try_current().map_err(|_| TelemetryError::NoRuntime { signal })?;
    let wrong =
        |message: String| TelemetryError::Endpoint { signal, endpoint: target.endpoint.clone(), message };
    let endpoint = Endpoint::from_shared(target.endpoint.clone())
        .map_err(|error| wrong(Chain(&error).to_string()))?
        .connect_timeout(CONNECT_TIMEOUT);
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint.connect_lazy());
    }
    let tls = tls(target).map_err(wrong)?;
    Ok(endpoint.tls_config(tls).map_err(|error| wrong(Chain(&error).to_string()))?.connect_lazy())
}

fn tls(target: &Target) -> Result<ClientTlsConfig, String> {
    let mut tls = match &target.certificate {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem(path)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (&target.client_certificate, &target.client_key) {
        (Some(certificate), Some(key)) => {
            tls = tls.identity(Identity::from_pem(pem(certificate)?, pem(key)?));
        }
        (None, None) => {}
        _ => return Err("a client certificate needs its key, and a key its certificate".to_owned()),
    }
    Ok(tls)
}

fn pem(path: &Path) -> Result<Vec<u8>, String> {
    let named = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(named)?.len();
    if size > PEM_BYTES_MAX {
        return Err(format!("{} is larger than {PEM_BYTES_MAX} bytes", path.display()));
    }
    std::fs::read(path).map_err(named)
}
