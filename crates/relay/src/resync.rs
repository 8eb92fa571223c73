//! Finding the place to go on from: after a start, a refusal, an unknown outcome, a reconnect.
//!
//! A machine that asks one question at a time; the shell answers with what the brokers said. It never guesses: what
//! can't be known stops the partition with a reason.
//!
//! Phases: who and where (identity, positions, ends), n (`resync/target.rs`), the source's place (`resync/source.rs`).

mod anchor;
mod found;
mod history;
mod last;
mod source;
mod target;

use std::collections::BTreeSet;

use history::Lineage;
use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::format::batch::{BatchHeader, RawBatch};
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::position::Position;
use mirrormesh_core::stop::{Stop, StopReason};
use mirrormesh_core::unit::{Generation, PartitionDetail};

use super::align::Aligner;
use super::facts::Facts;
use super::journal::Mirrored;
use super::loss::Loss;
use super::page::SourcePage;
use super::rebuild::RecordId;
use super::widen;
use super::window::Place;
pub use found::Found;

/// A question, or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// What are the topic ids now? → [`Resync::identity`].
    Identity,
    /// All positions of the partition, whatever generation → [`Resync::positions`].
    Positions,
    /// Log start, log end and high watermark of the target → [`Resync::target_ends`]. From its leader, by `ListOffsets`:
    /// a fetch shows only what is replicated.
    TargetEnds,
    /// The target's records from the batch on that holds this offset, uncommitted ones too → [`Resync::target_read`].
    TargetRead(i64),
    /// What the target's leader remembers of our producer (`DescribeProducers`) → [`Resync::producer`].
    Producer,
    /// Where this leader epoch ends on the source → [`Resync::source_history`].
    SourceHistory(i32),
    /// The source's records from this offset on → [`Resync::source_read`], or [`Resync::source_out_of_range`].
    SourceRead {
        /// Where to begin.
        offset: i64,
        /// As the generation reads; what an older one appended may have been read otherwise.
        read_committed: bool,
        /// Leader epoch of what was read before that, -1 where it is not known: a source that has another history by now has
        /// to refuse (KIP-320), else two would be read for one.
        last_epoch: i32,
    },
    /// Whose are these producer ids in the source partition? → [`Resync::classified`].
    Origins(BTreeSet<i64>),
    /// Log start and log end of the source → [`Resync::source_ends`].
    SourceEnds,
    /// The place is found.
    Done(Box<Found>),
    /// The source lost what is needed; the policy says what follows. The place on the target is given.
    Lost(Box<Loss>, i64),
    /// It can't be found.
    Stop(Stop),
    /// Not now: begin again later.
    Again(&'static str),
}

/// What it has to know from the beginning.
#[derive(Debug, Clone)]
pub struct Premise {
    /// The partition with its generation.
    pub detail: PartitionDetail,
    /// Number of the owner's assignment.
    pub number: u64,
    /// Settings of both sides.
    pub facts: Facts,
    /// The flow lets nobody else write to its target topics.
    pub sole_writer: bool,
    /// The target keeps the records' timestamps as they are.
    pub times_kept: bool,
    /// Where the target's last record is not the source's at its place, the place is searched by content.
    pub searches: bool,
    /// This owner saw that not all target offsets before this one are the generation's own; `i64::MIN`: it did not.
    pub others_before: i64,
    /// Everything of this owner's before this target offset was acknowledged; `i64::MIN`: nothing was.
    pub acked_target: i64,
    /// This owner saw before that the target lost what stood there: from, to.
    pub target_cut: Option<(i64, i64)>,
}

/// What pages of the target are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The batch before the position, where the log ends there.
    Anchor,
    /// The batch that holds the last offset.
    Tail,
    /// All headers behind the position, from this offset on.
    Scan(i64),
    /// Contents behind the position, from this offset on, to find the place by content.
    Content(i64),
}

/// Epoch and last sequence of a producer; `None` if nothing is remembered, or it can't be told.
#[derive(Debug, Clone, Copy)]
struct Remembered(Option<(i16, i32)>);

/// The machine.
#[derive(Debug)]
pub struct Resync {
    premise: Premise,
    generation: Generation,
    step: Step,
    known: Vec<Position>,
    /// Earlier producer ids of the flow: taken when the epochs of one ran out, which fences nobody.
    producers: BTreeSet<i64>,
    position: Option<Position>,
    base: Place,
    truncated: Option<(i64, i64)>,
    /// The target offset before which it was looked at what stands there.
    anchored: Option<i64>,
    ends: (i64, i64),
    purpose: Purpose,
    scan: target::Scan,
    /// Our last batch, where nothing stands behind the position.
    last: last::LastCheck,
    /// Our newest batch, to compare it with the source's.
    tail: Option<RawBatch>,
    /// Records of the target to be found on the source.
    contents: Vec<RecordId>,
    aligner: Option<Aligner>,
    /// Leader epoch of the last record of the target that was found on the source.
    found_epoch: i32,
    /// The source deleted what was to be read next: where the mirror stood at least, and the source's log start.
    gap: Option<(i64, i64)>,
    /// The source's history is another one than what was mirrored: up to this offset at least it was.
    diverged: Option<i64>,
    /// What follows once the topics, and where the history ends, are known to be the same still.
    verdict: Option<Step>,
    /// What the target's leader remembers of the producer.
    remembered: Option<Remembered>,
    /// The target's contents are read from the base on, none left out.
    whole: bool,
    /// n was taken from offsets, since nothing on the target tells it.
    assumed: bool,
    /// Only older generations' batches stand behind the start of this one, from this target offset on.
    late_from: Option<i64>,
    /// The mirror got at least so far on the source, if n is right.
    at_least: i64,
    /// Target offsets (from, to) of batches that stand behind a missing record of this generation.
    hole: Option<(i64, i64)>,
    /// Target offsets (from, to) of what the source does not have at its place.
    stray: Option<(i64, i64)>,
    /// Which target offsets held records of ours that are gone from there, where counting does not lead to the place.
    unsure: Option<(i64, i64)>,
    lineage: Lineage,
    /// How often the ends were asked for again, and that nothing was at the log end even so.
    again: u8,
    count: i64,
    read: i64,
    cursor: i64,
    /// Leader epoch of what was read before the cursor, -1 if nothing was.
    cursor_epoch: i32,
    /// All leader epochs before the cursor.
    epochs: Epochs,
    replay: Vec<Mirrored>,
    /// A page that can't be read before it is known where its batches come from.
    held: Option<SourcePage>,
}

impl Resync {
    /// Begins.
    pub fn new(premise: Premise) -> Self {
        let (begun, truncated) = (premise.detail.begun, premise.target_cut);
        let base = Place { count: 0, source: begun.start.source_offset, target: begun.start.target_offset };
        Self {
            premise,
            generation: begun.generation,
            step: Step::Identity,
            known: Vec::new(),
            producers: BTreeSet::new(),
            position: None,
            base,
            truncated,
            anchored: None,
            ends: (0, 0),
            purpose: Purpose::Tail,
            scan: target::Scan::default(),
            last: last::LastCheck::default(),
            tail: None,
            contents: Vec::new(),
            aligner: None,
            found_epoch: -1,
            gap: None,
            diverged: None,
            verdict: None,
            remembered: None,
            whole: true,
            assumed: false,
            late_from: None,
            at_least: 0,
            hole: None,
            stray: None,
            unsure: None,
            lineage: Lineage::default(),
            again: 0,
            count: 0,
            read: 0,
            cursor: base.source,
            cursor_epoch: -1,
            epochs: Epochs::default(),
            replay: Vec::new(),
            held: None,
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
        let detail = &self.premise.detail;
        match (source, target) {
            (None, _) => self.step = Step::Again("SOURCE_TOPIC_MISSING"),
            (_, None) => self.step = Step::Again("TARGET_TOPIC_MISSING"),
            (Some(now), _) if now.differs(detail.source_topic_id) => {
                let message = format!(
                    "the source topic was deleted and made again (id {} is now {now}): delete the flow and create it \
                     with start_over, or set records.on_loss to CONTINUE, to mirror the new topic",
                    detail.source_topic_id
                );
                self.stop(StopReason::SourceRecreated, message);
            }
            (_, Some(now)) if now.differs(detail.target_topic_id) => {
                let message = format!(
                    "the target topic {} was deleted and made again (id {} is now {now}): delete the flow and create \
                     it with start_over, or set records.on_loss to CONTINUE, to mirror into the new topic",
                    detail.target_topic, detail.target_topic_id
                );
                self.stop(StopReason::TargetRecreated, message);
            }
            _ => match self.verdict.take() {
                Some(verdict) if self.lineage.end.is_some() && !matches!(verdict, Step::Done(_)) => {
                    self.verdict = Some(verdict);
                    self.step = Step::SourceHistory(self.lineage.asked);
                }
                verdict => self.step = verdict.unwrap_or(Step::Positions),
            },
        }
    }

    /// Ends and epochs are asked for by name: before a loss is believed, the topics must still be the same. And so must the
    /// history: what the source lost meanwhile and filled up again would be passed over.
    fn lost(&mut self, loss: Loss) {
        self.confirm(Step::Lost(Box::new(loss), self.ends.1));
    }

    fn confirm(&mut self, verdict: Step) {
        self.verdict = Some(verdict);
        self.step = Step::Identity;
    }

    /// Answers [`Step::Positions`].
    pub fn positions(&mut self, positions: Vec<Position>) {
        let newer = positions.iter().any(|p| {
            // Another producer id fences nobody: there, who was given the partition later is the newer one.
            if p.generation.producer_id == self.generation.producer_id {
                p.generation.epoch > self.generation.epoch
            } else {
                p.assignment_number > self.premise.number && p.target_offset > self.base.target
            }
        });
        if newer {
            self.fenced();
            return;
        }
        self.take_history(&positions);
        self.producers = positions.iter().map(|p| p.generation.producer_id).collect();
        self.known = positions.into_iter().filter(|p| p.generation == self.generation).collect();
        if let Some((end, _)) = self.truncated {
            self.known.retain(|p| p.target_offset <= end);
        }
        // Of two with the same count, the later one passed more that is not mirrored.
        self.known.sort_by_key(|p| std::cmp::Reverse((p.count, p.source_offset)));
        self.step = Step::TargetEnds;
    }

    /// What was read does not fit the ends: retention or an election may have moved them meanwhile. Asks for them again,
    /// twice at most.
    fn ends_again(&mut self) -> bool {
        if self.again >= 2 {
            return false;
        }
        self.again += 1;
        self.forget_target();
        self.step = Step::TargetEnds;
        true
    }

    fn fenced(&mut self) {
        let message = "a newer generation of this flow writes to the target partition: this worker was replaced; if \
                       no other worker runs the partition, pause and resume the flow";
        self.stop(StopReason::Fenced, message.to_owned());
    }

    /// Answers [`Step::TargetEnds`].
    pub fn target_ends(&mut self, log_start: i64, log_end: i64, high_watermark: i64) {
        if high_watermark < log_end {
            // What lies between can't be read yet, and may still be cut off.
            self.step = Step::Again("TARGET_NOT_SETTLED");
            return;
        }
        if let Some(gap) = self.scan.gap.take() {
            let moved = log_end != self.ends.1 && self.again < 2;
            if log_start <= gap && !moved {
                // It was there before: compaction left it.
                self.scan_on(log_end);
                return;
            }
            self.again += u8::from(moved);
            self.forget_target();
        }
        let before = std::mem::replace(&mut self.ends, (log_start, log_end));
        if let Some(Remembered(remembered)) = self.remembered.take() {
            if before.1 == log_end {
                self.judge_remembered(remembered);
                return;
            }
            if self.again >= 2 {
                self.step = Step::Again("TARGET_NOT_SETTLED");
                return;
            }
            self.again += 1;
            self.forget_target();
        }
        // What was acknowledged last may not be written down: the loss may have struck the positions topic too.
        let told = self.known.iter().map(|p| p.target_offset).max().unwrap_or(i64::MIN);
        let told = told.max(self.premise.acked_target);
        if told > log_end {
            self.cut(log_end, told);
            // Not to be believed again once the log is as long as it was.
            self.known.retain(|p| p.target_offset <= log_end);
        }
        if self.take_position(log_end) {
            self.find_count();
        }
    }

    /// The target lost what stood there.
    fn cut(&mut self, from: i64, to: i64) {
        widen(&mut self.truncated, (from, to));
    }

    /// Counts from the newest position that is not beyond the end; false if that can't be.
    fn take_position(&mut self, log_end: i64) -> bool {
        let start = self.premise.detail.begun.start;
        self.base = Place { count: 0, source: start.source_offset, target: start.target_offset };
        self.lineage.known = self.lineage.start.clone();
        self.position = self.known.iter().find(|p| p.target_offset <= log_end).cloned();
        if let Some(position) = &self.position {
            if position.source_leader_epoch >= 0 {
                self.lineage.known = history::History::of(position);
            }
            if position.source_topic_id.differs(self.premise.detail.source_topic_id) {
                let message = format!(
                    "the position was written for another source topic (id {}): delete the flow and create it with \
                     start_over",
                    position.source_topic_id
                );
                self.stop(StopReason::SourceRecreated, message);
                return false;
            }
            self.base = Place {
                count: position.count,
                source: position.source_offset,
                target: position.target_offset,
            };
        }
        self.move_to_base();
        true
    }

    /// What was appended but not written to the positions topic, as far as it was found.
    pub fn take_replay(&mut self) -> Vec<Mirrored> {
        std::mem::take(&mut self.replay)
    }

    /// Leader epoch on the source of the last record of the target that was found there by content; -1 if none was.
    pub fn found_epoch(&self) -> i32 {
        self.found_epoch
    }

    /// The leader epochs that were read up to the place.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// The target lost records that a position tells of: from, to.
    pub fn truncated(&self) -> Option<(i64, i64)> {
        self.truncated
    }

    /// Target offsets that hold records twice.
    pub fn doubled(&self) -> Option<(i64, i64)> {
        self.scan.doubled
    }

    /// Target offsets of what a compacted source does not have at its place.
    pub fn stray(&self) -> Option<(i64, i64)> {
        self.stray
    }

    /// Target offsets of batches behind a missing record: all of them are mirrored again.
    pub fn hole(&self) -> Option<(i64, i64)> {
        self.hole
    }

    /// Target offsets of records that may be mirrored again.
    pub fn unsure(&self) -> Option<(i64, i64)> {
        self.unsure
    }

    fn done(&mut self) {
        let (_, log_end) = self.ends;
        let epoch = match self.replay.last() {
            Some(mirrored) => mirrored.source_leader_epoch,
            None if self.cursor <= self.lineage.known.source => self.lineage.known.epoch,
            None => self.cursor_epoch,
        };
        // Positions that tell of what the target lost would be believed again once its log is as long as it was.
        let apart =
            self.scan.late() || self.unsure.is_some() || self.truncated.is_some() || self.hole.is_some();
        let found = Step::Done(Box::new(Found {
            place: Place { count: self.count, source: self.cursor, target: log_end },
            sole_writer: self.scan.is_sole_writer(),
            others_before: match (self.scan.foreign, self.scan.is_sole_writer()) {
                // Who is no owner of the flow may come again.
                (true, _) => i64::MAX,
                (false, false) => log_end,
                (false, true) => i64::MIN,
            },
            producer_changed: self.generation.epoch == 0 && self.had_other_producer(),
            replay: std::mem::take(&mut self.replay),
            epochs: self.epochs.clone(),
            base_epoch: self.base_epoch(),
            position: self.position.take(),
            truncated: self.truncated,
            apart,
            doubled: self.scan.doubled,
            stray: self.stray,
            hole: self.hole,
            unsure: self.unsure,
            epoch,
        }));
        if self.premise.facts.source_by_name && self.count > self.base.count {
            self.confirm(found);
        } else {
            self.step = found;
        }
    }
}

fn is_ours(generation: Generation, header: &BatchHeader) -> bool {
    header.producer_id == generation.producer_id && header.producer_epoch == generation.epoch
}

#[cfg(test)]
#[path = "resync_last_tests.rs"]
mod last_tests;
#[cfg(test)]
#[path = "resync_tests.rs"]
mod tests;
