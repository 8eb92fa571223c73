//! The spans of a partition's start, in the trace of the flow's change that it was started for.
//!
//! Owns when they begin and end. Without a trace there are none, and a batch costs one look at an option.

use mirrormesh_core::ids::TopicName;
use mirrormesh_runtime::trace_context::follow;
use mirrormesh_worker::UnitContext;
use tracing::Span;

/// What is left of the start.
#[derive(Debug)]
pub(super) enum StartTrace {
    /// The position is looked for.
    Locating(Span),
    /// Nothing was mirrored yet.
    Waiting(Span),
    /// The start is over, or belongs to no trace.
    Over,
}

impl StartTrace {
    /// The unit begins.
    pub(super) fn begin(context: &UnitContext, topic: &TopicName, partition: i32) -> Self {
        let Some(trace) = &context.trace else { return Self::Over };
        let span = tracing::info_span!("partition start", flow = %context.flow_id, %topic, partition);
        follow(&span, trace);
        Self::Locating(span)
    }

    /// The position is known and records are fetched.
    pub(super) fn streams(&mut self) {
        if let Self::Locating(start) = self {
            *self = Self::Waiting(tracing::info_span!(parent: &*start, "first batch"));
        }
    }

    /// A batch was acknowledged.
    pub(super) fn mirrored(&mut self) {
        if !matches!(self, Self::Over) {
            *self = Self::Over;
        }
    }

    /// The span that calls to the coordinator belong to.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Locating(span) | Self::Waiting(span) => span.clone(),
            Self::Over => Span::none(),
        }
    }
}
