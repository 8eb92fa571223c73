//! Writing the acknowledged place down: when, and what.

use super::streaming::{Next, act};
use super::{
    Action, Entry, LastBatch, Notice, Phase, Position, PositionKey, PositionKind, PositionValue, Relay, Setup,
};

/// So often it is looked whether what is stored of a partition can be cut.
const CUT_EVERY_MS: u64 = 10 * 60_000;

impl Setup {
    fn key(&self, kind: PositionKind) -> PositionKey {
        PositionKey {
            flow: self.flow.clone(),
            target_topic_id: self.detail.target_topic_id,
            partition: self.partition,
            kind,
        }
    }

    fn chunks(&self, entry: &Entry) -> Vec<(PositionKey, Option<PositionValue>)> {
        let producer_id = self.detail.begun.generation.producer_id;
        let own = entry.chunks.iter().map(|(chunk, segments)| ((producer_id, self.number, *chunk), segments));
        // An own chunk that was not written yet may be made coarse already: that comes behind it.
        let earlier = entry.rewritten.iter().map(|(key, segments)| (*key, segments));
        let chunks = own.chain(earlier).map(|((producer_id, number, chunk), segments)| {
            let kind = PositionKind::Segments { producer_id, number, chunk };
            (self.key(kind), Some(PositionValue::Segments(segments.clone())))
        });
        chunks.collect()
    }
}

impl Relay {
    pub(super) fn write_if_due(&mut self, now_ms: u64) -> Next {
        let Phase::Streaming(stream) = &mut self.phase else { return Next::Changed };
        let quiet = stream.window.is_empty() && stream.queue.is_empty();
        if stream.writing.is_none() && stream.journal.due(now_ms, quiet) {
            return self.write(now_ms);
        }
        Next::Idle
    }

    /// Is it to be asked now how far the target's log start is, to cut what is stored of what is gone from both sides?
    pub(super) fn wants_cut(&mut self, now_ms: u64) -> bool {
        let Phase::Streaming(stream) = &mut self.phase else { return false };
        let below = self.figures.source_start_offset.is_some_and(|start| stream.journal.may_cut(start));
        if !below || stream.asks_origins() || self.cut_asked || now_ms < self.next_cut_ms {
            return false;
        }
        self.cut_asked = true;
        self.next_cut_ms = now_ms.saturating_add(CUT_EVERY_MS);
        true
    }

    /// The target begins there; `None`: it could not be told.
    pub(super) fn target_begins(&mut self, log_start: Option<i64>) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        self.cut_asked = false;
        if let (Some(source), Some(target)) = (self.figures.source_start_offset, log_start) {
            stream.journal.cut(source, target);
        }
    }

    /// Says so, once, where the partition has more segments than are kept.
    pub(super) fn tell_of_coarse(&mut self) {
        let Phase::Streaming(stream) = &mut self.phase else { return };
        let Some((from, to)) = stream.journal.take_coarse() else { return };
        if std::mem::replace(&mut self.told_of_coarse, true) {
            return;
        }
        self.notice(Notice {
            reason: "TRANSLATION_COARSE",
            message: format!(
                "offsets {from} to {to} of the source are translated to an earlier place from now on, and later ones once \
                 they are as old: the partition has more gaps than are kept; groups that commit there read some records \
                 again after a failover"
            ),
            from_offset: Some(from),
            to_offset: Some(to),
            count: None,
        });
    }

    /// Takes what is to be written down now.
    pub(super) fn write(&mut self, now_ms: u64) -> Next {
        let setup = &self.setup;
        let Phase::Streaming(stream) = &mut self.phase else { return Next::Changed };
        let entry = stream.journal.take(now_ms);
        let mut records = setup.chunks(&entry);
        let generation = setup.detail.begun.generation;
        let acked = stream.window.acked();
        let (last, source_leader_epoch) = stream.last.unwrap_or_else(|| (LastBatch::default(), -1));
        let position = Position {
            generation,
            sequence_base: 0,
            count: acked.count,
            source_offset: acked.source,
            source_topic_id: setup.detail.source_topic_id,
            source_leader_epoch,
            source_epochs: stream.journal.epochs().clone(),
            shared_leader_epoch: stream.inherited.shared(source_leader_epoch, now_ms),
            target_offset: acked.target,
            target_leader_epoch: -1,
            last,
            skip_version: 0,
            assignment_number: setup.number,
            topic: setup.topic.to_string(),
            target_topic: setup.detail.target_topic.to_string(),
        };
        let kind = PositionKind::Position { generation, slot: entry.slot };
        records.push((setup.key(kind), Some(PositionValue::Position(position))));
        records.extend(self.obsolete.iter().map(|(generation, slot)| {
            let kind = PositionKind::Position { generation: *generation, slot: *slot };
            (setup.key(kind), None)
        }));
        stream.writing = Some(entry);
        act(Action::Write(records))
    }

    /// Where a loss ends a generation, what was found of it: nobody looks behind the start of the next one.
    pub(super) fn keep(&mut self, now_ms: u64) -> Option<Action> {
        let Phase::Keeping { change, asked } = &mut self.phase else { return None };
        *asked = true;
        let records = self.setup.chunks(&change.journal.take(now_ms));
        if records.is_empty() {
            self.phase = Phase::Beginning { change: change.clone(), asked: false };
            return None;
        }
        Some(Action::Write(records))
    }

    pub(super) fn wait_to_write(&mut self) {
        self.wait("POSITION_NOT_WRITTEN", "the positions topic can't be written to; trying again");
    }

    /// Says whether what was to be written is written.
    pub fn written(&mut self, written: bool, now_ms: u64) {
        if let Phase::Keeping { change, asked: true } = &self.phase {
            if written {
                self.phase = Phase::Beginning { change: change.clone(), asked: false };
            } else {
                self.wait_to_write();
            }
            return;
        }
        let Phase::Streaming(stream) = &mut self.phase else { return };
        let Some(entry) = stream.writing.take() else { return };
        if written {
            self.obsolete.clear();
        } else {
            // While draining there is no second try: a later owner counts what was not written down.
            stream.unwritten = stream.after.is_some();
            stream.journal.failed(entry, now_ms);
        }
    }
}
