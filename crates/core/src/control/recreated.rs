//! Topics that were deleted and made again: how they are told, and what is said about them.
//!
//! A topic that was made again is another topic: what is known of the old one, its starts first of all, must not be
//! taken for it.

use super::state::TopicEntry;
use crate::ids::{FlowId, TopicName};
use crate::report::Event;

/// A topic that is not the one that is known under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MadeAgain {
    /// Stable name of what happened.
    pub(super) reason: &'static str,
    side: &'static str,
    /// Its name on that side.
    name: TopicName,
    /// The source topic.
    topic: TopicName,
}

impl MadeAgain {
    /// Compares what is known with what was found. Where both topics were made again the source's counts, since its
    /// records are others.
    pub(super) fn of(known: &TopicEntry, found: &TopicEntry) -> Option<Self> {
        let (reason, side, name) = if known.source_topic_id.differs(found.source_topic_id) {
            ("SOURCE_RECREATED", "source", &found.topic)
        } else if known.target_topic_id.differs(found.target_topic_id) {
            ("TARGET_RECREATED", "target", &found.target_topic)
        } else {
            return None;
        };
        Some(Self { reason, side, name: name.clone(), topic: found.topic.clone() })
    }

    /// What to do where the flow does not follow.
    pub(super) fn refusal(&self, flow: &FlowId) -> String {
        format!(
            "{} was deleted and made again on the {}: set records.on_loss (or on_loss_by_topic) of flows/{flow} to \
             CONTINUE to mirror the new topic, or delete the flow and create it with start_over",
            self.name, self.side
        )
    }

    /// What happened where the flow follows.
    pub(super) fn event(&self, flow: &FlowId, now_ms: u64) -> Event {
        let message = match self.side {
            "source" => "what the old one still held is lost, the new one is mirrored from its first record",
            _ => "what it held is gone, the source is mirrored again from its first record",
        };
        Event {
            flow: flow.clone(),
            time_ms: now_ms,
            reason: self.reason.to_owned(),
            message: format!("{} was deleted and made again on the {}: {message}", self.name, self.side),
            subject: self.topic.to_string(),
            from_offset: None,
            to_offset: None,
            count: None,
            sequence: 0,
        }
    }
}
