//! Logs, traces and metrics of a process.
//!
//! Owns the subscriber, the three OpenTelemetry providers and the Prometheus registry. It must not
//! know what is measured: each component asks for a [`Meter`] by name. Several services in one
//! process share one [`Telemetry`]. Without an OTLP endpoint nothing of the OTLP side exists: no
//! thread, no connection, no layer in the subscriber.

mod export;
mod otel_env;
mod quiet;

use crate::env::Env;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use opentelemetry_sdk::trace::SdkTracerProvider;
use otel_env::OtelEnv;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::{Dispatch, Subscriber, warn};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub use otel_env::Signal;

/// Longest time that [`Telemetry::shutdown`] takes.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(3);

/// What each provider gets of it; the metrics reader takes up to 5 s of its own and is left behind.
const DRAIN_MAX: Duration = Duration::from_millis(2_500);

/// Attribute sets per instrument. The SDK's default of 2,000 would fold the series of a large
/// installation (10,000 partitions) into one overflow series.
const SERIES_MAX: usize = 25_000;

/// The transport of the exporter must not be traced or logged into the exporter.
const NOT_EXPORTED: &str = "h2=off,hyper=off,tonic=off,tower=off,rustls=off,opentelemetry=off";

/// Libraries that describe their inner workings at info, and warn several times a second about a peer that is down. The
/// services say themselves what an operator needs. A filter that names the library shows its lines all the same.
const QUIET: &str = "openraft=error";

/// The levels of a filter.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("key `log.format` is `{other}`, expected `text` or `json`")),
        }
    }
}

/// What the log shows; the `log` section of every service's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// How log lines look.
    pub format: LogFormat,
    /// What is shown: `info`, or directives by target such as `info,mirrormesh_source=debug`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info".to_owned() }
    }
}

impl LogSettings {
    /// Checks the filter; the error names the key, the part that is wrong, and what belongs there.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |part: &str, expected: &str| {
            Err(format!("key `log.filter` is `{}`: `{part}` {expected}", self.filter))
        };
        for part in directives(&self.filter) {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            if !LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
                return wrong(
                    part,
                    "must be a level (off, error, warn, info, debug, trace) or `target=level`, e.g. \
                     `info,mirrormesh_source=debug`",
                );
            }
        }
        match filter(&self.filter) {
            Ok(_) => Ok(()),
            Err(error) => wrong(&self.filter, &format!("does not parse: {error}")),
        }
    }
}

/// The parts of a filter.
fn directives(filter: &str) -> Vec<&str> {
    filter.split(',').map(str::trim).collect()
}

/// What a process tells about itself, and how.
#[derive(Debug, Clone, Default)]
pub struct TelemetrySettings {
    /// `service.name`, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` say otherwise.
    pub service_name: String,
    /// `service.instance.id`: what tells this process from others of its kind.
    pub service_instance: String,
    /// `service.version`.
    pub service_version: String,
    /// The log on stderr.
    pub log: LogSettings,
    /// The OTEL_ variables.
    pub env: Env,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("the log filter `{filter}` does not parse: {message}")]
    Filter {
        /// As given.
        filter: String,
        /// What the parser said.
        message: String,
    },
    /// The collector's endpoint or its TLS files cannot be used.
    #[error("the OTLP endpoint `{endpoint}` for {signal} cannot be used: {message}")]
    Endpoint {
        /// For which data.
        signal: Signal,
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
    /// An exporter could not be built from the OTEL_ variables.
    #[error("the OTLP exporter for {signal} cannot be built: {message}")]
    Exporter {
        /// For which data.
        signal: Signal,
        /// What the exporter said.
        message: String,
    },
    /// OTLP needs a tokio runtime.
    #[error("the OTLP exporter for {signal} must be built inside a tokio runtime")]
    NoRuntime {
        /// For which data.
        signal: Signal,
    },
    /// The Prometheus side could not be built.
    #[error("the prometheus registry cannot be built: {message}")]
    Prometheus {
        /// What it said.
        message: String,
    },
    /// A process has one subscriber.
    #[error("telemetry is already set up in this process")]
    AlreadyInitialised,
    /// The last data could not be handed over in time.
    #[error("telemetry did not finish within {} s, the last data may be lost", SHUTDOWN_MAX.as_secs())]
    ShutdownTimeout,
}

impl TelemetryError {
    fn exporter(signal: Signal, error: &dyn std::error::Error) -> Self {
        Self::Exporter { signal, message: error.to_string() }
    }
}

/// The telemetry of a process. Clones share it.
///
/// Call [`Telemetry::shutdown`] before the process ends; dropping the last clone without it blocks
/// the thread for as long as the SDK likes.
#[derive(Debug, Clone)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    meters: SdkMeterProvider,
    tracer: Option<SdkTracerProvider>,
    logger: Option<SdkLoggerProvider>,
    exported: Vec<Signal>,
    finished: AtomicBool,
}

impl Telemetry {
    /// Sets up telemetry and makes it the process's own; once per process.
    pub fn init(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        let (telemetry, dispatch, notes) = Self::assemble(settings)?;
        dispatch.try_init().map_err(|_| TelemetryError::AlreadyInitialised)?;
        for note in notes {
            warn!("{note}");
        }
        Ok(telemetry)
    }

    /// Sets up telemetry without making it the process's own, for tests and for programs that
    /// compose their own subscriber. The last part lists what the operator should know.
    pub fn assemble(settings: &TelemetrySettings) -> Result<(Self, Dispatch, Vec<String>), TelemetryError> {
        let env = OtelEnv(&settings.env);
        let resource = resource(settings, env);
        let [for_traces, for_metrics, for_logs] = Signal::ALL.map(|signal| env.target(signal));
        let mut notes = Vec::new();
        let mut exported = Vec::new();
        for (signal, (target, note)) in Signal::ALL.iter().zip([&for_traces, &for_metrics, &for_logs]) {
            notes.extend(note.clone());
            exported.extend(target.is_some().then_some(*signal));
        }
        // The log first: a bad filter must not leave exporter threads behind.
        let stderr = stderr_layer(&settings.log)?;
        let tracer = for_traces.0.map(|target| export::tracer(&target, resource.clone())).transpose()?;
        let logger = for_logs.0.map(|target| export::logger(&target, resource.clone())).transpose()?;
        let registry = Registry::new();
        let prometheus = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()
            .map_err(|error| TelemetryError::Prometheus { message: error.to_string() })?;
        let mut meters = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(prometheus)
            .with_view(|_: &Instrument| Stream::builder().with_cardinality_limit(SERIES_MAX).build().ok());
        if let Some(target) = &for_metrics.0 {
            meters = meters.with_reader(export::metric_reader(target, env)?);
        }
        let mut layers = vec![stderr];
        layers.extend(tracer.as_ref().map(span_layer).transpose()?);
        layers.extend(logger.as_ref().map(|logger| log_layer(logger, &settings.log.filter)).transpose()?);
        let inner = Inner {
            registry,
            meters: meters.build(),
            tracer,
            logger,
            exported,
            finished: AtomicBool::new(false),
        };
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layers));
        Ok((Self { inner: Arc::new(inner) }, dispatch, notes))
    }

    /// A meter for one component; its name becomes the scope of its instruments.
    pub fn meter(&self, name: impl Into<String>) -> Meter {
        self.inner.meters.meter_with_scope(InstrumentationScope::builder(name.into()).build())
    }

    /// What `/metrics` shows.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// What goes to a collector.
    pub fn exported(&self) -> &[Signal] {
        &self.inner.exported
    }

    /// Hands over what is left and ends the exporters, within [`SHUTDOWN_MAX`] even where the
    /// collector is dead. The second call does nothing.
    pub async fn shutdown(&self) -> Result<(), TelemetryError> {
        if self.inner.finished.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Threads of their own and not `spawn_blocking`: a runtime waits for its blocking tasks,
        // and a hung exporter may not hold up the end of the process.
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        let inner = Arc::clone(&self.inner);
        std::thread::spawn(move || {
            inner.drain();
            // Dropping the sender is the news: it also comes should a provider panic.
            drop(done);
        });
        match tokio::time::timeout(SHUTDOWN_MAX, finished).await {
            Ok(_) => Ok(()),
            Err(_) => Err(TelemetryError::ShutdownTimeout),
        }
    }
}

impl Inner {
    /// Ends the three signals side by side. Their errors were already logged by the SDK.
    fn drain(&self) {
        std::thread::scope(|scope| {
            scope.spawn(|| self.tracer.as_ref().map(|tracer| tracer.shutdown_with_timeout(DRAIN_MAX)));
            scope.spawn(|| self.logger.as_ref().map(|logger| logger.shutdown_with_timeout(DRAIN_MAX)));
            scope.spawn(|| self.meters.shutdown_with_timeout(DRAIN_MAX));
        });
    }
}

fn resource(settings: &TelemetrySettings, env: OtelEnv<'_>) -> Resource {
    let own =
        [("service.instance.id", &settings.service_instance), ("service.version", &settings.service_version)];
    let own = own.into_iter().filter(|(_, value)| !value.is_empty());
    Resource::builder_empty()
        .with_attribute(KeyValue::new("telemetry.sdk.language", "rust"))
        .with_attribute(KeyValue::new("telemetry.sdk.name", "opentelemetry"))
        .with_attributes(own.map(|(key, value)| KeyValue::new(key, value.clone())))
        .with_attributes(env.resource_attributes())
        .with_service_name(env.service_name(&settings.service_name))
        .build()
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

fn stderr_layer<S>(log: &LogSettings) -> Result<BoxedLayer<S>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    filter(&log.filter)?;
    let filter = filter(&format!("{QUIET},{}", log.filter))?.and(quiet::OncePerHour::default());
    let lines = tracing_subscriber::fmt::layer().with_writer(BoxMakeWriter::new(std::io::stderr));
    Ok(match log.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).with_filter(filter).boxed(),
    })
}

fn span_layer<S>(tracer: &SdkTracerProvider) -> Result<BoxedLayer<S>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    // Spans have a level of their own: a quiet log is no reason to lose traces.
    let filter = filter(&format!("info,{NOT_EXPORTED}"))?;
    Ok(tracing_opentelemetry::layer()
        .with_tracer(tracer.tracer("mirrormesh"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter)
        .boxed())
}

fn log_layer<S>(logger: &SdkLoggerProvider, directives: &str) -> Result<BoxedLayer<S>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let filter = filter(&format!("{QUIET},{directives},{NOT_EXPORTED}"))?;
    Ok(opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge::new(logger)
        .with_filter(filter)
        .boxed())
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .parse(directives(text).join(","))
        .map_err(|error| TelemetryError::Filter { filter: text.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(filter: &str) -> Result<(), String> {
        LogSettings { filter: filter.to_owned(), ..LogSettings::default() }.check()
    }

    #[test]
    fn wrong_filters_are_refused_by_name() {
        for right in
            ["info", "WARN", "off", "info,mirrormesh_source=debug", "warn, a::b=trace", "info,a[b]=debug"]
        {
            assert_eq!(checked(right), Ok(()), "{right}");
        }
        for wrong in
            ["inof", "", "info,", "info,mirrormesh_source", "info,mirrormesh_source=loud", "info;debug"]
        {
            let refused = checked(wrong).unwrap_err();
            assert!(refused.contains("`log.filter`") && refused.contains("level"), "{wrong}: {refused}");
        }
    }

    #[test]
    fn wrong_formats_are_refused_by_name() {
        let read = |text: &str| serde_json::from_str::<LogFormat>(&format!("{text:?}"));
        assert_eq!(read("json").unwrap(), LogFormat::Json);
        let refused = read("yaml").unwrap_err().to_string();
        assert!(refused.contains("`log.format`") && refused.contains("`json`"), "{refused}");
        assert_eq!(serde_json::to_string(&LogFormat::Text).unwrap(), "\"text\"");
    }
}
