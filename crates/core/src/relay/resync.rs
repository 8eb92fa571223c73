//! Finding the place to go on from (exactly-once.md 4): after a start, a refusal, an unknown outcome, a reconnect.
//!
//! A machine that asks one question at a time; the shell answers. It never guesses: what can't be known stops the
//! partition with a reason.

use super::count_at;
use super::journal::Mirrored;
use super::position::{LastBatch, Position};
use super::stop::{Stop, StopReason};
use super::window::Place;
use crate::format::batch::BatchHeader;
use crate::ids::TopicId;
use crate::translate::Segment;
use crate::unit::{Generation, PartitionDetail};

/// A question, or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// What are the topic ids now? → [`Resync::identity`].
    Identity,
    /// All positions of the partition, whatever generation → [`Resync::positions`].
    Positions,
    /// Log start, log end and high watermark of the target → [`Resync::target_ends`].
    TargetEnds,
    /// The target's batch that holds this offset → [`Resync::target_tail`].
    TargetTail(i64),
    /// Headers of all batches of the target in the range → [`Resync::target_scan`].
    TargetScan {
        /// First offset.
        from: i64,
        /// Offset behind the last one.
        to: i64,
    },
    /// Where this leader epoch ends on the source → [`Resync::source_history`].
    SourceHistory(i32),
    /// The source's batches from this offset on, judged → [`Resync::source_read`].
    SourceRead(i64),
    /// The place is found.
    Done(Found),
    /// It can't be found.
    Stop(Stop),
    /// Not now: begin again later.
    Again(&'static str),
}

/// A batch on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetBatch {
    /// Its header.
    pub header: BatchHeader,
    /// CRC-32C of its bytes behind the header; `None` where only the header was looked at.
    pub body_crc: Option<u32>,
}

/// What the relay would make of a batch of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceItem {
    /// Mirrored from this offset on, to the batch's end.
    Mirror {
        /// First source offset that counts.
        from: i64,
        /// Its header.
        header: BatchHeader,
        /// CRC-32C of its bytes behind the header.
        body_crc: u32,
        /// Its size.
        bytes: u64,
    },
    /// Left out; the next offset is this.
    Passed(i64),
}

/// The settled place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where to go on.
    pub place: Place,
    /// Nobody else appends to the target partition, as far as can be seen.
    pub sole_writer: bool,
    /// What was appended but not written to the positions topic.
    pub replay: Vec<Mirrored>,
    /// The position it began with.
    pub position: Option<Position>,
    /// The target lost records that a position tells of: from, to.
    pub truncated: Option<(i64, i64)>,
}

/// The machine.
#[derive(Debug)]
pub struct Resync {
    generation: Generation,
    detail: PartitionDetail,
    step: Step,
    known: Vec<Position>,
    position: Option<Position>,
    base: Place,
    truncated: Option<(i64, i64)>,
    ends: (i64, i64),
    tail: Option<TargetBatch>,
    /// Our batches behind the position, if other writers stand between them: first record's n, target offset.
    ours: Option<Vec<(i64, i64)>>,
    count: i64,
    read: i64,
    cursor: i64,
    replay: Vec<Mirrored>,
}

impl Resync {
    /// Begins.
    pub fn new(generation: Generation, detail: PartitionDetail) -> Self {
        let base = Place {
            count: 0,
            source: detail.begun.start.source_offset,
            target: detail.begun.start.target_offset,
        };
        Self {
            generation,
            detail,
            step: Step::Identity,
            known: Vec::new(),
            position: None,
            base,
            truncated: None,
            ends: (0, 0),
            tail: None,
            ours: None,
            count: 0,
            read: 0,
            cursor: base.source,
            replay: Vec::new(),
        }
    }

    /// What is to be answered next.
    pub fn step(&self) -> &Step {
        &self.step
    }

    fn stop(&mut self, reason: StopReason, message: String) {
        let from = self.base.source;
        self.step = Step::Stop(Stop::new(reason, message).at(from, None));
    }

    /// Answers [`Step::Identity`]; `None` where the topic does not exist.
    pub fn identity(&mut self, source: Option<TopicId>, target: Option<TopicId>) {
        let differs = |known: TopicId, now: TopicId| !known.is_zero() && !now.is_zero() && known != now;
        match (source, target) {
            (None, _) => self.step = Step::Again("SOURCE_TOPIC_MISSING"),
            (_, None) => self.step = Step::Again("TARGET_TOPIC_MISSING"),
            (Some(now), _) if differs(self.detail.source_topic_id, now) => self.stop(
                StopReason::SourceRecreated,
                format!(
                    "the source topic was deleted and made again (id {} is now {now}): delete the flow and create it \
                     with start_over to mirror the new topic",
                    self.detail.source_topic_id
                ),
            ),
            (_, Some(now)) if differs(self.detail.target_topic_id, now) => self.stop(
                StopReason::TargetRecreated,
                format!(
                    "the target topic {} was deleted and made again (id {} is now {now}): delete the flow and create \
                     it with start_over to mirror into the new topic",
                    self.detail.target_topic, self.detail.target_topic_id
                ),
            ),
            _ => self.step = Step::Positions,
        }
    }

    /// Answers [`Step::Positions`].
    pub fn positions(&mut self, positions: Vec<Position>) {
        let newer = positions.iter().any(|p| {
            p.generation.producer_id == self.generation.producer_id
                && p.generation.epoch > self.generation.epoch
        });
        if newer {
            self.stop(
                StopReason::Fenced,
                "a newer generation of this flow writes to the target partition: pause and resume the flow"
                    .to_owned(),
            );
            return;
        }
        self.known = positions.into_iter().filter(|p| p.generation == self.generation).collect();
        self.known.sort_by_key(|p| std::cmp::Reverse(p.count));
        self.step = Step::TargetEnds;
    }

    /// Answers [`Step::TargetEnds`].
    pub fn target_ends(&mut self, log_start: i64, log_end: i64, high_watermark: i64) {
        if high_watermark < log_end {
            // What lies between can't be read yet, and may still be cut off.
            self.step = Step::Again("TARGET_NOT_SETTLED");
            return;
        }
        self.ends = (log_start, log_end);
        if let Some(beyond) = self.known.iter().find(|p| p.target_offset > log_end) {
            self.truncated = Some((log_end, beyond.target_offset));
        }
        self.position = self.known.iter().find(|p| p.target_offset <= log_end).cloned();
        if let Some(position) = &self.position {
            if position.source_topic_id != self.detail.source_topic_id
                && !position.source_topic_id.is_zero()
                && !self.detail.source_topic_id.is_zero()
            {
                let message = format!(
                    "the position was written for another source topic (id {}): delete the flow and create it with \
                     start_over",
                    position.source_topic_id
                );
                self.stop(StopReason::SourceRecreated, message);
                return;
            }
            self.base = Place {
                count: position.count,
                source: position.source_offset,
                target: position.target_offset,
            };
        }
        self.cursor = self.base.source;
        if log_end < self.base.target {
            self.stop(
                StopReason::TargetTruncated,
                format!(
                    "the target partition ends at {log_end}, before the mirror began at {}: records are lost on the \
                     target; delete the flow and create it with start_over",
                    self.base.target
                ),
            );
        } else if log_end == self.base.target {
            self.settle(self.base.count);
        } else if log_start >= log_end {
            // Retention took everything: as the only writer, offsets count our records.
            self.settle(self.base.count + (log_end - self.base.target));
        } else {
            self.step = Step::TargetTail(log_end - 1);
        }
    }

    /// Answers [`Step::TargetTail`]; `None` if the batch is gone.
    pub fn target_tail(&mut self, tail: Option<TargetBatch>) {
        let (log_start, log_end) = self.ends;
        if let Some(tail) = tail.filter(|tail| is_ours(self.generation, &tail.header)) {
            let count = self.count_after_tail(&tail.header);
            if count - self.base.count == log_end - self.base.target {
                self.tail = Some(tail);
                self.settle(count);
                return;
            }
        }
        self.step = Step::TargetScan { from: self.base.target.max(log_start), to: log_end };
    }

    /// n behind the newest batch. Its first record may lie before the position (a position can't, but the wrap must be
    /// read from a place that is surely not behind it).
    fn count_after_tail(&self, header: &BatchHeader) -> i64 {
        let last_sequence = i64::from(header.base_sequence) + i64::from(header.last_offset_delta);
        count_at(self.base.count, last_sequence.rem_euclid(super::SEQUENCES)) + 1
    }

    /// Answers [`Step::TargetScan`].
    pub fn target_scan(&mut self, batches: &[TargetBatch]) {
        let (log_start, _) = self.ends;
        let newer = batches.iter().any(|b| {
            b.header.producer_id == self.generation.producer_id
                && b.header.producer_epoch > self.generation.epoch
        });
        if newer {
            self.stop(
                StopReason::Fenced,
                "a newer generation of this flow wrote to the target partition: pause and resume the flow"
                    .to_owned(),
            );
            return;
        }
        let mut count = self.base.count;
        let mut ours = Vec::new();
        let generation = self.generation;
        for batch in batches.iter().filter(|b| is_ours(generation, &b.header)) {
            let first = count_at(count, i64::from(batch.header.base_sequence));
            count = first + i64::from(batch.header.last_offset_delta) + 1;
            ours.push((first, batch.header.base_offset));
            self.tail = Some(*batch);
        }
        if ours.is_empty() && log_start > self.base.target {
            self.stop(
                StopReason::PositionUnknown,
                format!(
                    "other writers share the target partition and retention removed its records from {} to \
                     {log_start}: which of ours were there is not known; delete the flow and create it with start_over",
                    self.base.target
                ),
            );
            return;
        }
        self.ours = Some(ours);
        self.settle(count);
    }

    /// n is known; next is the source's side.
    fn settle(&mut self, count: i64) {
        self.count = count;
        let epoch = self.position.as_ref().map_or(-1, |position| position.source_leader_epoch);
        if epoch >= 0 {
            self.step = Step::SourceHistory(epoch);
        } else {
            self.count_forward();
        }
    }

    /// Answers [`Step::SourceHistory`]: the end offset of the epoch asked for, or of the nearest one before it;
    /// `None` if the broker can't tell.
    pub fn source_history(&mut self, end_offset: Option<i64>) {
        match end_offset {
            Some(end) if end < self.base.source => self.stop(
                StopReason::SourceDiverged,
                format!(
                    "the source's history changed: the epoch of the last mirrored batch ends at {end}, but offsets up \
                     to {} were mirrored; the target holds records that the source lost in an unclean election",
                    self.base.source
                ),
            ),
            _ => self.count_forward(),
        }
    }

    fn count_forward(&mut self) {
        if self.base.count + self.read >= self.count {
            self.done();
        } else {
            self.step = Step::SourceRead(self.cursor);
        }
    }

    fn target_of(&self, n: i64) -> i64 {
        let contiguous = self.base.target + (n - self.base.count);
        let Some(ours) = &self.ours else { return contiguous };
        let after = ours.partition_point(|(first, _)| *first <= n);
        after
            .checked_sub(1)
            .and_then(|i| ours.get(i))
            .map_or(contiguous, |(first, offset)| offset + (n - first))
    }

    /// Answers [`Step::SourceRead`]: at least one item, in order; empty if the source has nothing there (yet).
    pub fn source_read(&mut self, items: &[SourceItem]) {
        if items.is_empty() {
            self.stop(
                StopReason::PositionMismatch,
                format!(
                    "the target holds {} records of this flow behind source offset {}, but the source ends before \
                     them",
                    self.count - self.base.count,
                    self.base.source
                ),
            );
            return;
        }
        for item in items {
            match *item {
                SourceItem::Passed(next) => self.cursor = next,
                SourceItem::Mirror { from, header, body_crc, bytes } => {
                    let n = self.base.count + self.read;
                    let records = (header.next_offset() - from).min(self.count - n);
                    let whole = from + records == header.next_offset();
                    if whole && n + records == self.count && !self.matches_tail(&header, body_crc, records) {
                        return;
                    }
                    self.read += records;
                    self.cursor = from + records;
                    let last = LastBatch {
                        count: i32::try_from(records).unwrap_or(i32::MAX),
                        base_timestamp: header.base_timestamp,
                        max_timestamp: header.max_timestamp,
                        body_crc,
                    };
                    self.replay.push(Mirrored {
                        segment: Segment { source: from, target: self.target_of(n), count: records },
                        bytes,
                        last,
                        source_leader_epoch: header.leader_epoch,
                    });
                }
            }
            if self.base.count + self.read >= self.count {
                break;
            }
        }
        self.count_forward();
    }

    /// The target's last batch must be the source's batch that was counted for it. Bodies are compared only where the
    /// target keeps them as they were sent; times only where it does not set its own.
    fn matches_tail(&mut self, header: &BatchHeader, body_crc: u32, records: i64) -> bool {
        let Some(tail) = self.tail else { return true };
        let target = tail.header;
        if i64::from(target.count) != records || i64::from(header.count) != records {
            return true;
        }
        let same_times = target.is_log_append_time() || target.max_timestamp == header.max_timestamp;
        let same_body = target.codec() != header.codec() || tail.body_crc.is_none_or(|crc| crc == body_crc);
        if same_times && same_body {
            return true;
        }
        let message = format!(
            "the target's batch at offset {} is not the source's batch at offset {}: something else was written in \
             its place, or the source changed",
            target.base_offset, header.base_offset
        );
        self.step = Step::Stop(
            Stop::new(StopReason::PositionMismatch, message)
                .at(header.base_offset, Some(header.next_offset())),
        );
        false
    }

    fn done(&mut self) {
        let (_, log_end) = self.ends;
        self.step = Step::Done(Found {
            place: Place { count: self.count, source: self.cursor, target: log_end },
            sole_writer: self.ours.is_none(),
            replay: std::mem::take(&mut self.replay),
            position: self.position.take(),
            truncated: self.truncated,
        });
    }
}

fn is_ours(generation: Generation, header: &BatchHeader) -> bool {
    header.producer_id == generation.producer_id && header.producer_epoch == generation.epoch
}

#[cfg(test)]
#[path = "resync_tests.rs"]
mod tests;
