//! Writing the acknowledged place down (exactly-once.md 5): when, and what.

use super::stream::{Next, act};
use super::{Action, LastBatch, Phase, Position, PositionKey, PositionKind, PositionValue, Relay};

impl<T: Clone> Relay<T> {
    pub(super) fn write_if_due(&mut self, now_ms: u64) -> Next<T> {
        let Phase::Streaming(stream) = &mut self.phase else { return Next::Changed };
        let quiet = stream.window.is_empty() && stream.queue.is_empty();
        if stream.writing.is_none() && stream.journal.due(now_ms, quiet) {
            return self.write();
        }
        Next::Idle
    }

    /// Takes what is to be written down now.
    pub(super) fn write(&mut self) -> Next<T> {
        let setup = &self.setup;
        let Phase::Streaming(stream) = &mut self.phase else { return Next::Changed };
        let entry = stream.journal.take();
        let generation = setup.detail.begun.generation;
        let key = |kind| PositionKey {
            flow: setup.flow.clone(),
            target_topic_id: setup.detail.target_topic_id,
            partition: setup.partition,
            kind,
        };
        let acked = stream.window.acked();
        let (last, source_leader_epoch) = stream.last.unwrap_or_else(|| (LastBatch::default(), -1));
        let position = Position {
            generation,
            sequence_base: 0,
            count: acked.count,
            source_offset: acked.source,
            source_topic_id: setup.detail.source_topic_id,
            source_leader_epoch,
            target_offset: acked.target,
            target_leader_epoch: -1,
            last,
            skip_version: 0,
            assignment_number: setup.number,
            topic: setup.topic.to_string(),
            target_topic: setup.detail.target_topic.to_string(),
        };
        let producer_id = generation.producer_id;
        let chunks = entry.chunks.iter().map(|(chunk, segments)| {
            let kind = PositionKind::Segments { producer_id, number: setup.number, chunk: *chunk };
            (key(kind), PositionValue::Segments(segments.clone()))
        });
        let mut records: Vec<_> = chunks.collect();
        let kind = PositionKind::Position { generation, slot: entry.slot };
        records.push((key(kind), PositionValue::Position(position)));
        stream.writing = Some(entry);
        act(Action::Write(records))
    }

    /// Says whether what was to be written is written.
    pub fn written(&mut self, written: bool, now_ms: u64) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        let Some(entry) = stream.writing.take() else { return };
        if !written {
            // While draining there is no second try: a later owner counts what was not written down.
            stream.unwritten = stream.after.is_some();
            stream.journal.failed(entry, now_ms);
        }
    }
}
