//! Generations of partitions: which one is present, and how the next one begins.
//!
//! Invariants: a partition's epoch never falls under one producer id, and no generation of a partition is given out
//! twice: who holds an earlier one is fenced by the target, and what it counted is never mistaken for what is counted
//! now.

use super::command::{GenerationRequest, Reply};
use super::error::{Reject, RejectCode, flow_not_found, reject};
use super::state::{ControlState, FlowRecord, TopicEntry};
use crate::ids::TopicName;
use crate::unit::{Generation, PartitionGeneration, PartitionStart};

/// The generation behind `after`: its next epoch, or the offered producer id where epochs have run out.
pub(super) fn successor(after: Generation, offered: Option<i64>) -> Option<Generation> {
    match after.epoch.checked_add(1) {
        Some(epoch) => Some(Generation { epoch, ..after }),
        None => offered.map(|producer_id| Generation { producer_id, epoch: 0 }),
    }
}

impl TopicEntry {
    /// The entry as it is stored: partitions that appeared after the flow had looked at its source begin at their first
    /// record, and so do those of a topic that was recreated on either side: nothing of it is mirrored yet.
    pub(super) fn settled(mut self, record: &FlowRecord) -> Self {
        let known = record.topics.get(&self.topic).or_else(|| record.dropped.get(&self.topic));
        let recreated = known.is_some_and(|known| {
            known.source_topic_id.differs(self.source_topic_id)
                || known.target_topic_id.differs(self.target_topic_id)
        });
        for (partition, earliest) in std::mem::take(&mut self.earliest).into_iter().enumerate() {
            if let Some(start) = self.starts.get_mut(partition)
                && (recreated || !record.seen.holds(&self.topic, partition))
            {
                start.source_offset = earliest;
            }
        }
        self
    }

    /// The present generation of a partition in a flow whose own one is `flow`; `None` for a partition that is not
    /// known.
    pub fn begun(&self, flow: Generation, partition: i32) -> Option<PartitionGeneration> {
        let start = self.starts.get(usize::try_from(partition).ok()?)?;
        let own = self.generations.get(&partition).copied();
        Some(own.unwrap_or(PartitionGeneration { generation: flow, start: *start }))
    }

    /// Takes the place of `known`, an entry of the same topic before it was made again: every partition gets the next
    /// generation, those that the new topic lacks too, since it may grow to them. `None` if epochs have run out.
    pub(super) fn succeed(mut self, known: &Self, flow: Option<Generation>) -> Option<Self> {
        self.generations.clear();
        // Without a claim nothing was ever written.
        let Some(flow) = flow else { return Some(self) };
        let ends = known.generations.keys().next_back().map_or(0, |last| last.saturating_add(1));
        let count = known.starts.len().max(self.starts.len()).max(usize::try_from(ends).unwrap_or(0));
        for partition in 0..i32::try_from(count).unwrap_or(i32::MAX) {
            let present = known.generations.get(&partition).map_or(flow, |own| own.generation);
            let generation = successor(present, None)?;
            let start = usize::try_from(partition).ok().and_then(|p| self.starts.get(p)).copied();
            let mut start = start.unwrap_or_default();
            start.marked |= known.begun(flow, partition).is_some_and(|begun| begun.start.marked);
            self.generations.insert(partition, PartitionGeneration { generation, start });
        }
        Some(self)
    }

    /// The same topic, looked at once more: what is known stays, what is new comes in.
    pub(super) fn found_again(mut self, found: &Self) -> Self {
        for start in found.starts.get(self.starts.len()..).unwrap_or_default() {
            // A partition that had a generation before the topic was made again keeps it and begins where it was
            // found now.
            let own = i32::try_from(self.starts.len()).ok().and_then(|p| self.generations.get_mut(&p));
            if let Some(own) = own {
                own.start = PartitionStart { marked: own.start.marked, ..*start };
            }
            self.starts.push(*start);
        }
        // A cluster that learned topic ids (KIP-516) meanwhile: from now on a new topic is told from the old.
        let ids = [
            (&mut self.source_topic_id, found.source_topic_id),
            (&mut self.target_topic_id, found.target_topic_id),
        ];
        for (id, found) in ids {
            if id.is_zero() {
                *id = found;
            }
        }
        self
    }
}

impl FlowRecord {
    /// The present generation of a partition; `None` if the flow has no identity yet or the partition is not known.
    pub fn begun(&self, topic: &TopicName, partition: i32) -> Option<PartitionGeneration> {
        self.topics.get(topic)?.begun(self.generation?, partition)
    }
}

impl ControlState {
    pub(super) fn begin_generation(&mut self, request: &GenerationRequest) -> Result<Reply, Reject> {
        let GenerationRequest { flow, topic, partition, .. } = request;
        let record = self.flows.get(flow).ok_or_else(|| flow_not_found(flow))?;
        let present = record.begun(topic, *partition).ok_or_else(|| {
            reject(
                RejectCode::NotFound,
                "PARTITION_NOT_FOUND",
                "partition",
                format!("flows/{flow} does not mirror {topic}/{partition}"),
            )
        })?;
        if self.owners.get(&request.unit()).is_none_or(|owner| owner.number != request.number) {
            return Err(reject(
                RejectCode::Aborted,
                "ASSIGNMENT_OUTDATED",
                "number",
                format!(
                    "assignment {} of {topic}/{partition} in flows/{flow} is not the present one",
                    request.number
                ),
            ));
        }
        let next = successor(request.after, request.offered);
        if next == Some(present.generation) && present.start == request.start {
            return Ok(Reply::PartitionGeneration(present));
        }
        if present.generation != request.after {
            return Err(outdated(request, present.generation));
        }
        let generation = next.ok_or_else(|| exhausted(request))?;
        let used = [Some(request.after), record.generation];
        if generation.epoch == 0 && used.iter().flatten().any(|g| g.producer_id == generation.producer_id) {
            return Err(reject(
                RejectCode::InvalidArgument,
                "PRODUCER_ID_USED",
                "offered",
                format!(
                    "producer id {} was used by flows/{flow} before: offer a new one",
                    generation.producer_id
                ),
            ));
        }
        let begun = PartitionGeneration { generation, start: request.start };
        if let Some(entry) = self.flows.get_mut(flow).and_then(|record| record.topics.get_mut(topic)) {
            entry.generations.insert(*partition, begun);
        }
        self.bump();
        self.record_events(&request.events);
        Ok(Reply::PartitionGeneration(begun))
    }
}

fn outdated(request: &GenerationRequest, present: Generation) -> Reject {
    let GenerationRequest { flow, topic, partition, after, .. } = request;
    reject(
        RejectCode::Aborted,
        "GENERATION_OUTDATED",
        "after",
        format!(
            "{topic}/{partition} in flows/{flow} is in generation {}/{}, not in {}/{}: begin from the present one",
            present.producer_id, present.epoch, after.producer_id, after.epoch
        ),
    )
}

fn exhausted(request: &GenerationRequest) -> Reject {
    let GenerationRequest { flow, topic, partition, after, .. } = request;
    reject(
        RejectCode::FailedPrecondition,
        "EPOCHS_EXHAUSTED",
        "offered",
        format!(
            "producer id {} has no epoch left for {topic}/{partition} in flows/{flow}: offer a new producer id",
            after.producer_id
        ),
    )
}
