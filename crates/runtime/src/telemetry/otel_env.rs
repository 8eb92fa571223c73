//! The standard OTEL_ variables, as far as they decide what is built.
//!
//! Owns the reading of endpoints, switches, resource attributes and certificates. Headers,
//! timeouts, compression, sampler and batch sizes are read by the SDK and the exporter themselves.
//! Source of the rules: OpenTelemetry specification, "OpenTelemetry Protocol Exporter" and
//! "Environment Variable Specification".

use crate::env::Env;
use opentelemetry::KeyValue;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A kind of telemetry data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Measurements.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    const fn infix(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        })
    }
}

/// Where one signal goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// With scheme.
    pub(super) endpoint: String,
    pub(super) certificate: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) client_certificate: Option<PathBuf>,
}

/// Reads OTEL_ variables from an environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct OtelEnv<'a>(pub(super) &'a Env);

impl<'a> OtelEnv<'a> {
    /// Whether all export is switched off.
    pub(super) fn disabled(self) -> bool {
        self.0.get("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// Where `signal` goes; none without an endpoint, or where it is switched off. The second part
    /// says why a signal stays off although it has an endpoint.
    pub(super) fn target(self, signal: Signal) -> (Option<Target>, Option<String>) {
        let exporter = self.0.get(&format!("OTEL_{}_EXPORTER", signal.infix()));
        let switched_off = exporter.is_some_and(|list| !list.split(',').any(|name| name.trim() == "otlp"));
        let Some(endpoint) = self.of(signal, "ENDPOINT") else { return (None, None) };
        if self.disabled() || switched_off {
            return (None, None);
        }
        if let Some(protocol) = self.of(signal, "PROTOCOL").filter(|protocol| *protocol != "grpc") {
            let reason = format!("{signal} stay off: OTLP over {protocol} is not built in, only grpc");
            return (None, Some(reason));
        }
        let path = |name| self.of(signal, name).map(PathBuf::from);
        let target = Target {
            endpoint: self.with_scheme(signal, endpoint),
            certificate: path("CERTIFICATE"),
            client_key: path("CLIENT_KEY"),
            client_certificate: path("CLIENT_CERTIFICATE"),
        };
        (Some(target), None)
    }

    /// The value for one signal, else the one for all.
    fn of(self, signal: Signal, name: &str) -> Option<&'a str> {
        self.0
            .get(&format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.infix()))
            .or_else(|| self.0.get(&format!("OTEL_EXPORTER_OTLP_{name}")))
    }

    /// `INSECURE` speaks only where the endpoint does not.
    fn with_scheme(self, signal: Signal, endpoint: &str) -> String {
        if endpoint.contains("://") {
            return endpoint.to_owned();
        }
        let insecure = self.of(signal, "INSECURE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        format!("{}://{endpoint}", if insecure { "http" } else { "https" })
    }

    /// How often metrics are pushed; the SDK's default without a usable value.
    pub(super) fn metric_interval(self) -> Option<Duration> {
        let ms: u64 = self.0.get("OTEL_METRIC_EXPORT_INTERVAL")?.trim().parse().ok()?;
        (ms > 0).then(|| Duration::from_millis(ms))
    }

    /// `OTEL_SERVICE_NAME`, else `service.name` of the attributes, else `fallback`.
    pub(super) fn service_name(self, fallback: &str) -> String {
        let attribute = || {
            self.resource_attributes()
                .into_iter()
                .find(|attribute| attribute.key.as_str() == "service.name")
                .map(|attribute| attribute.value.to_string())
        };
        self.0
            .get("OTEL_SERVICE_NAME")
            .map(str::to_owned)
            .or_else(attribute)
            .unwrap_or_else(|| fallback.to_owned())
    }

    /// `OTEL_RESOURCE_ATTRIBUTES`: `key=value` pairs with commas, values percent-encoded. Pairs
    /// that are none are left out.
    pub(super) fn resource_attributes(self) -> Vec<KeyValue> {
        self.0
            .get("OTEL_RESOURCE_ATTRIBUTES")
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter_map(|pair| pair.split_once('='))
            .filter(|(key, _)| !key.trim().is_empty())
            .map(|(key, value)| KeyValue::new(key.trim().to_owned(), percent_decoded(value.trim())))
            .collect()
    }
}

/// `%XX` becomes its byte; what is no valid escape or no UTF-8 stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = match (first, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| (h * 16 + l, after)),
            _ => None,
        };
        let (byte, after) = escape.unwrap_or((first, tail));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> Env {
        variables.iter().copied().collect()
    }

    fn endpoints(variables: &[(&str, &str)]) -> [Option<String>; 3] {
        let env = env(variables);
        Signal::ALL.map(|signal| OtelEnv(&env).target(signal).0.map(|target| target.endpoint))
    }

    #[test]
    fn without_an_endpoint_everything_is_off() {
        assert_eq!(endpoints(&[("OTEL_SERVICE_NAME", "x")]), [None, None, None]);
    }

    #[test]
    fn the_common_endpoint_serves_all_and_a_signal_may_have_its_own() {
        let all = Some("http://all:4317".to_owned());
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317");
        assert_eq!(endpoints(&[base]), [all.clone(), all.clone(), all.clone()]);
        let logs = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:1");
        assert_eq!(endpoints(&[base, logs]), [all.clone(), all, Some("http://logs:1".to_owned())]);
        assert_eq!(endpoints(&[logs]), [None, None, Some("http://logs:1".to_owned())]);
    }

    #[test]
    fn switches_turn_signals_off() {
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317");
        assert_eq!(endpoints(&[base, ("OTEL_SDK_DISABLED", "True")]), [None, None, None]);
        let [traces, metrics, logs] = endpoints(&[base, ("OTEL_TRACES_EXPORTER", "none")]);
        assert!(traces.is_none() && metrics.is_some() && logs.is_some());
        let env = env(&[base, ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")]);
        let (target, reason) = OtelEnv(&env).target(Signal::Metrics);
        assert_eq!(target, None);
        assert!(reason.unwrap().contains("metrics stay off: OTLP over http/protobuf"));
        assert!(OtelEnv(&env).target(Signal::Traces).0.is_some());
    }

    #[test]
    fn an_endpoint_without_scheme_is_encrypted_unless_said_otherwise() {
        let bare = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otel:4317");
        assert_eq!(endpoints(&[bare])[0].as_deref(), Some("https://otel:4317"));
        let insecure = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        assert_eq!(endpoints(&[bare, insecure])[0].as_deref(), Some("http://otel:4317"));
    }

    #[test]
    fn the_service_name_has_an_order_of_sources() {
        let name = |variables: &[(&str, &str)]| OtelEnv(&env(variables)).service_name("own");
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=attr,zone=a");
        assert_eq!(name(&[]), "own");
        assert_eq!(name(&[attributes]), "attr");
        assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "named")]), "named");
    }

    #[test]
    fn resource_attributes_are_percent_decoded() {
        let env = env(&[("OTEL_RESOURCE_ATTRIBUTES", "a=x%2Cy%20z, b = 100%, =none,broken,c=%ff")]);
        let got: Vec<_> = OtelEnv(&env)
            .resource_attributes()
            .iter()
            .map(|attribute| format!("{}={}", attribute.key, attribute.value))
            .collect();
        assert_eq!(got, ["a=x,y z", "b=100%", "c=%ff"]);
    }

    #[test]
    fn a_metric_interval_of_nothing_usable_is_left_to_the_sdk() {
        for (value, expected) in [("250", Some(Duration::from_millis(250))), ("0", None), ("soon", None)] {
            let env = env(&[("OTEL_METRIC_EXPORT_INTERVAL", value)]);
            assert_eq!(OtelEnv(&env).metric_interval(), expected, "{value}");
        }
    }
}
