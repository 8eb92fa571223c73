//! One partition unit: finds its place, streams until something breaks, finds it again.
//!
//! Owns nothing of the contract: core's machines decide, this carries out. One task per partition, so that no
//! partition can stop another.

mod locate;
mod probe;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::ids::TopicName;
use mirrormesh_core::relay::answer::Verdict;
use mirrormesh_core::relay::journal::Journal;
use mirrormesh_core::relay::resync::Found;
use mirrormesh_core::relay::stop::{Stop, StopReason};
use mirrormesh_core::report::{Event, PartitionFigures, UnitState};
use mirrormesh_core::unit::{Generation, PartitionDetail};
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::UnitContext;
use opentelemetry::KeyValue;
use rand::Rng as _;

use crate::link::FlowLink;

/// A settled place that is refused this often in a row is not settled.
const REFUSALS_MAX: u32 = 5;
const BACKOFF_MIN_MS: u64 = 50;
const BACKOFF_MAX_MS: u64 = 2_000;

/// The place, with what goes on from it.
pub(crate) struct Located {
    found: Found,
    journal: Journal,
}

/// Why streaming ended.
pub(crate) enum End {
    /// It was asked to; everything is acknowledged and written down.
    Released,
    /// The pipeline broke.
    Broken(Verdict),
    /// The source's side broke: find out why.
    Source(String, String),
}

/// One source partition.
pub(crate) struct PartitionUnit {
    context: UnitContext,
    link: Arc<FlowLink>,
    topic: TopicName,
    partition: i32,
    detail: PartitionDetail,
    generation: Generation,
    flow_label: KeyValue,
    figures: PartitionFigures,
    attempts: u32,
    refusals: u32,
}

impl PartitionUnit {
    /// `None` if the assignment lacks what a partition needs, which is said in its report.
    pub(crate) fn new(
        context: UnitContext,
        link: Arc<FlowLink>,
        topic: TopicName,
        partition: i32,
    ) -> Option<Self> {
        let (Some(detail), Some(generation)) = (context.assigned.partition.clone(), context.flow.generation)
        else {
            context.report.set(
                UnitState::Stopped,
                "ASSIGNMENT_INCOMPLETE",
                "the assignment lacks the topic's ids or the producer id: all services must have one version",
                None,
            );
            return None;
        };
        let flow_label = KeyValue::new("flow", context.flow_id.as_str().to_owned());
        Some(Self {
            context,
            link,
            topic,
            partition,
            detail,
            generation,
            flow_label,
            figures: PartitionFigures::default(),
            attempts: 0,
            refusals: 0,
        })
    }

    /// Runs until asked to stop.
    pub(crate) async fn run(mut self) {
        self.say(UnitState::Resyncing, "", "");
        let stop = self.context.stop.clone();
        while !stop.is_cancelled() {
            let located = tokio::select! {
                located = self.locate() => located,
                () = stop.cancelled() => return,
            };
            match located {
                Ok(located) => match self.stream(located).await {
                    End::Released => return,
                    End::Broken(Verdict::Stop(stop)) => return self.stopped(stop).await,
                    End::Broken(Verdict::Resync { sequence_refused, leader_moved, back_off, reason }) => {
                        self.broken(sequence_refused, leader_moved, reason);
                        if self.refusals > REFUSALS_MAX {
                            let stop = self.refused_for_good();
                            return self.stopped(stop).await;
                        }
                        if back_off || leader_moved || self.refusals > 1 {
                            self.back_off(reason, "the target can't take records now; trying again").await;
                        }
                    }
                    End::Source(reason, message) => {
                        self.link.source.invalidate(self.topic.as_str(), self.partition);
                        self.back_off(&reason, &message).await;
                    }
                },
                Err(locate::Failure::Stop(stop)) => return self.stopped(stop).await,
                Err(locate::Failure::Again(reason, message)) => {
                    self.link.source.invalidate(self.topic.as_str(), self.partition);
                    self.link.target.invalidate(self.detail.target_topic.as_str(), self.partition);
                    self.back_off(&reason, &message).await;
                }
            }
        }
    }

    fn refused_for_good(&self) -> Stop {
        Stop::new(
            StopReason::SequenceRefused,
            format!(
                "the target refuses to go on at record {} of this flow although its log says so: pause the flow, \
                 check for another mirror that writes as the same flow, then resume",
                self.figures.target_offset
            ),
        )
    }

    fn broken(&mut self, sequence_refused: bool, leader_moved: bool, reason: &'static str) {
        tracing::info!(
            flow = %self.context.flow_id, topic = %self.topic, partition = self.partition, reason,
            "pipeline broke; finding the place anew"
        );
        self.link.metrics.resync(&self.flow_label, reason);
        self.figures.resyncs += 1;
        self.refusals = if sequence_refused { self.refusals + 1 } else { 0 };
        if leader_moved {
            self.link.target.invalidate(self.detail.target_topic.as_str(), self.partition);
        }
        self.say(UnitState::Resyncing, "", "");
    }

    fn say(&self, state: UnitState, reason: &str, message: &str) {
        self.context.report.set(state, reason, message, self.figures);
    }

    async fn back_off(&mut self, reason: &str, message: &str) {
        let limit = BACKOFF_MIN_MS.saturating_mul(1 << self.attempts.min(10)).min(BACKOFF_MAX_MS);
        self.attempts += 1;
        // A short hiccup is not worth a condition.
        if self.attempts > 3 {
            self.say(UnitState::Backoff, reason, message);
        }
        let wait = rand::rng().random_range(limit / 2..=limit);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            () = self.context.stop.cancelled() => {}
        }
    }

    /// Stays stopped, and says why, until the unit is taken away.
    async fn stopped(self, stop: Stop) {
        let subject = format!("{}/{}", self.topic, self.partition);
        tracing::error!(
            flow = %self.context.flow_id, subject, reason = %stop.reason, message = stop.message, "partition stopped"
        );
        self.link.metrics.stop(&self.flow_label, stop.reason.name());
        self.say(UnitState::Stopped, stop.reason.name(), &stop.message);
        self.context.coordinator.report_events(vec![self.event(
            stop.reason.name(),
            &stop.message,
            stop.from_offset,
            stop.to_offset,
        )]);
        self.context.stop.cancelled().await;
    }

    fn event(&self, reason: &str, message: &str, from: Option<i64>, to: Option<i64>) -> Event {
        Event {
            flow: self.context.flow_id.clone(),
            time_ms: now_ms(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            subject: format!("{}/{}", self.topic, self.partition),
            from_offset: from,
            to_offset: to,
            sequence: 0,
        }
    }
}
