//! Pauses of single topics and partitions, beside the pause of a whole flow.
//!
//! Owns what is paused and the rules of pausing and resuming; a paused partition is not wanted, so the planner lets go
//! of it as of everything that is not wanted, and takes it up again where it was.

use std::collections::BTreeSet;

use super::command::{Reply, WriteGuard};
use super::error::{Reject, RejectCode, flow_not_found, reject};
use super::state::{ControlState, FlowRecord};
use super::topic_pause::TopicPause;
use crate::ids::{FlowId, TopicName};

impl FlowRecord {
    /// The flow, the topic or the partition is paused.
    pub fn is_paused(&self, topic: &TopicName, partition: i32) -> bool {
        self.paused || self.paused_topics.get(topic).is_some_and(|pause| pause.has(partition))
    }
}

impl ControlState {
    pub(super) fn set_topic_paused(
        &mut self,
        now: u64,
        (id, topic): (&FlowId, &TopicName),
        partitions: &[i32],
        paused: bool,
        guard: &WriteGuard,
    ) -> Result<Reply, Reject> {
        if self.repeated(guard)? {
            return self.flow_reply(id);
        }
        let revision = self.revision + 1;
        let record = self.flows.get_mut(id).ok_or_else(|| flow_not_found(id))?;
        let Some(entry) = record.topics.get(topic) else {
            return Err(reject(
                RejectCode::NotFound,
                "FLOW_TOPIC_NOT_FOUND",
                "name",
                format!("flows/{id}/topics/{topic} does not exist: the flow has not found such a topic"),
            ));
        };
        let count = i32::try_from(entry.starts.len()).unwrap_or(i32::MAX);
        if let Some(wrong) = partitions.iter().find(|partition| !(0..count).contains(*partition)) {
            return Err(reject(
                RejectCode::InvalidArgument,
                "PARTITION_NOT_FOUND",
                "partitions",
                format!("partitions holds {wrong}, but {topic} has {count} partitions, from 0"),
            ));
        }
        let none = || TopicPause::Partitions(BTreeSet::new());
        let before = record.paused_topics.get(topic).cloned().unwrap_or_else(none);
        let after =
            if paused { before.clone().with(partitions) } else { before.clone().without(partitions, count) };
        if before != after {
            if after == none() {
                record.paused_topics.remove(topic);
            } else {
                record.paused_topics.insert(topic.clone(), after);
            }
            record.updated_ms = now;
            record.revision = revision;
            self.bump();
        }
        self.remember(guard);
        self.flow_reply(id)
    }
}
