//! What the unit says about its partition: state, figures, events.

use std::time::Instant;

use mirrormesh_core::report::{Event, UnitState};
use mirrormesh_core::stop::{Stop, StopReason};
use mirrormesh_relay::machine::Notice;
use mirrormesh_runtime::clock::now_ms;

use super::PartitionUnit;
use crate::ends::News;

impl PartitionUnit {
    /// Says what the machine is doing.
    pub(super) fn say(&mut self) {
        let passing_ns = self.link.metrics.count(&self.flow_label, &mut self.tally);
        self.relay.passing_ns(passing_ns);
        self.relay.ack_ns(self.lines.sender.as_ref().map_or(0, |sender| sender.ack_ns()));
        let figures = self.relay.figures(now_ms());
        self.lag.set(figures);
        let (state, reason, message) = self.relay.state();
        if state == UnitState::Backoff {
            // The partitions of a flow mostly wait for one cause: a line a minute stands for all of them.
            let now = Instant::now();
            if self.complaint.failed(reason, now) && self.link.waiting_line.may_log(now) {
                tracing::warn!(flow = %self.context.flow_id, topic = %self.topic, partition = self.partition,
                    reason, message, "partitions wait");
            }
        } else if state == UnitState::Running {
            self.complaint.passed();
            self.start.streams();
        }
        let behind = figures.source_end_offset.is_some_and(|end| end > figures.source_offset);
        let throttled = (state == UnitState::Running && reason.is_empty() && behind)
            .then(|| self.throttle.held_back(now_ms()))
            .flatten();
        let fault = self.position_fault.as_ref().filter(|_| state == UnitState::Running && reason.is_empty());
        match (fault, throttled) {
            (Some(fault), _) => {
                let text = format!(
                    "the positions topic {} can't be written: {fault}; records go on, but a next owner has to recover from an \
                     older position: check the topic's replicas and the flow's rights to write it",
                    self.link.positions.topic()
                );
                self.context.report.set(state, "POSITION_NOT_WRITTEN", &text, figures);
            }
            (None, Some(why)) => self.context.report.set(state, "THROTTLED", &why, figures),
            (None, None) => self.context.report.set(state, reason, message, figures),
        }
    }

    /// Somebody looked at the ends of the source partition, or nobody could.
    pub(super) fn ends(&mut self, news: News) {
        match news {
            News::Seen(ends) => {
                self.relay.ends_seen(ends, now_ms());
                self.relay.ends_unseen_since(None);
            }
            News::Old(since) => self.relay.ends_unseen_since(Some(since)),
            News::Fresh => self.relay.ends_unseen_since(None),
        }
        self.say();
    }

    /// Says that the partition stopped, and why. It stays so until the unit is taken away.
    pub(super) fn stopped(&mut self, stop: &Stop) {
        let notice = Notice {
            reason: stop.reason.name(),
            message: stop.message.clone(),
            from_offset: stop.from_offset,
            to_offset: stop.to_offset,
            count: stop.count,
        };
        let event = self.event(&notice);
        tracing::error!(flow = %self.context.flow_id, subject = event.subject, reason = event.reason,
            message = event.message, "partition stopped");
        self.link.metrics.stop(&self.flow_label, stop.reason.name());
        self.lines.pages = None;
        self.fenced = stop.reason == StopReason::Fenced;
        self.say();
        self.context.coordinator.report_events([event]);
    }

    pub(super) fn event(&self, notice: &Notice) -> Event {
        Event {
            flow: self.context.flow_id.clone(),
            time_ms: now_ms(),
            reason: notice.reason.to_owned(),
            message: notice.message.clone(),
            subject: format!("{}/{}", self.topic, self.partition),
            from_offset: notice.from_offset,
            to_offset: notice.to_offset,
            count: notice.count,
            sequence: 0,
        }
    }
}
