//! Keeps the telemetry machinery's own complaints from flooding the log.
//!
//! Owns one rule: each kind of warning that the OpenTelemetry crates give appears at most once an
//! hour. A collector that is away all night costs a handful of lines, not one per batch.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// How long a warning stays away after it was shown.
const SILENCE: Duration = Duration::from_hours(1);

/// What the OpenTelemetry crates' targets begin with.
const TARGET: &str = "opentelemetry";

/// A filter that lets a repeated warning of the telemetry machinery pass once an hour.
#[derive(Debug, Default)]
pub(super) struct OncePerHour {
    /// Bounded by the number of callsites in the program.
    shown: Mutex<HashMap<Identifier, Instant>>,
}

impl OncePerHour {
    fn may_show(&self, callsite: Identifier, now: Instant) -> bool {
        let mut shown = self.shown.lock();
        let due = shown.get(&callsite).is_none_or(|last| now.duration_since(*last) >= SILENCE);
        if due {
            shown.insert(callsite, now);
        }
        due
    }
}

impl<S> Filter<S> for OncePerHour {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let complaint = *metadata.level() <= Level::WARN && metadata.target().starts_with(TARGET);
        !complaint || self.may_show(metadata.callsite(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, Registry};

    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl Layer<Registry> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, Registry>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn shown(emit: impl Fn()) -> usize {
        let count = Count::default();
        let layers = tracing_subscriber::registry().with(count.clone().with_filter(OncePerHour::default()));
        tracing::subscriber::with_default(layers, emit);
        count.0.load(Ordering::SeqCst)
    }

    #[test]
    fn a_repeated_complaint_shows_once_and_another_kind_shows_too() {
        let emit = || {
            for _ in 0..5 {
                tracing::warn!(target: "opentelemetry-otlp", "export failed");
            }
            tracing::error!(target: "opentelemetry_sdk", "queue full");
        };
        assert_eq!(shown(emit), 2);
    }

    #[test]
    fn everyone_else_may_repeat_himself() {
        let emit = || {
            for _ in 0..5 {
                tracing::warn!(target: "mirrormesh", "again");
                tracing::info!(target: "opentelemetry", "harmless");
            }
        };
        assert_eq!(shown(emit), 10);
    }

    #[test]
    fn after_an_hour_the_complaint_returns() {
        let filter = OncePerHour::default();
        let callsite = tracing::callsite!(name: "x", kind: tracing::metadata::Kind::EVENT, fields: y);
        let id = || tracing::Callsite::metadata(callsite).callsite();
        let start = Instant::now();
        assert!(filter.may_show(id(), start));
        assert!(!filter.may_show(id(), start + SILENCE / 2));
        assert!(filter.may_show(id(), start + SILENCE));
    }
}
