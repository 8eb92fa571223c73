//! The source's history: whether what was mirrored is in it still, and where the two part (KIP-101, KIP-320).

use mirrormesh_core::epochs::EpochEnd;
use mirrormesh_core::epochs::{Epochs, Parting};
use mirrormesh_core::position::Position;

use super::{Resync, Step};
use crate::loss::Loss;
use crate::window::Place;

/// Leader epoch of a partition's first leader.
const FIRST_EPOCH: i32 = 0;

/// What is known of the source's history at the base, or before it where no position is written yet and the start does not
/// tell.
#[derive(Debug, Clone)]
pub(super) struct History {
    /// Leader epoch of what was read last; -1 when not known.
    pub(super) epoch: i32,
    /// The source offset up to which that epoch reached at least.
    pub(super) source: i64,
    /// The target offset at which it was known: what was mirrored behind that may be of a later one.
    pub(super) target: i64,
    /// The leader epochs that were read before that.
    pub(super) epochs: Epochs,
}

impl History {
    /// What a position tells.
    pub(super) fn of(position: &Position) -> Self {
        Self {
            epoch: position.source_leader_epoch,
            source: position.source_offset,
            target: position.target_offset,
            epochs: position.source_epochs.clone(),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self { epoch: -1, source: 0, target: 0, epochs: Epochs::default() }
    }
}

/// What is known of it in all, and what was asked.
#[derive(Debug)]
pub(super) struct Lineage {
    /// At the base.
    pub(super) known: History,
    /// The same where no position is counted from.
    pub(super) start: History,
    /// What all positions tell of it, in the order of the target.
    told: Vec<History>,
    /// The leader epoch that was asked for.
    pub(super) asked: i32,
    /// Nothing tells which of the source's histories was mirrored behind the base, and it may have had several.
    elected: bool,
    /// The source has another history than what was read last, and it is looked at what was read before.
    elsewhere: bool,
    /// Leader epoch of the first record that was counted, where the one at the base is not known.
    counted_epoch: Option<i32>,
    /// Where the epoch at the base ends on the source: what was mirrored behind it may be of another history.
    pub(super) end: Option<EpochEnd>,
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            known: History::default(),
            start: History::default(),
            told: Vec::new(),
            asked: -1,
            elected: false,
            elsewhere: false,
            counted_epoch: None,
            end: None,
        }
    }
}

/// The generation of the one began after that of the other. Producer ids tell no order, but owners do.
fn follows(one: &Position, other: &Position) -> bool {
    if one.generation.producer_id == other.generation.producer_id {
        one.generation.epoch > other.generation.epoch
    } else {
        one.assignment_number > other.assignment_number
    }
}

impl Resync {
    /// What older generations wrote last of the history: where nothing of this one is written yet, and its start does not
    /// tell, a source that loses its end again is seen by it.
    fn older_history(&self, positions: &[Position]) -> History {
        let known = self.premise.detail.source_topic_id;
        // Whoever went back on the source did so for a loss that was told: what was read before that may be gone for long.
        let went_back = |p: &Position| {
            let of_topic = |q: &&Position| q.source_topic_id == known && q.source_offset < p.source_offset;
            positions.iter().filter(of_topic).any(|q| follows(q, p))
        };
        let Place { source, target, .. } = self.base;
        let newest = positions
            .iter()
            .filter(|p| p.generation != self.generation && p.source_topic_id == known && !went_back(p))
            .filter(|p| p.target_offset <= target && p.source_leader_epoch >= 0)
            // The newest: before a loss, an older one may have been further on the source.
            .max_by_key(|p| (p.target_offset, p.assignment_number, p.generation, p.count));
        let Some(p) = newest else { return History { source: 0, target, ..History::default() } };
        let mut epochs = p.source_epochs.clone();
        epochs.truncate(source);
        let epoch = epochs.last().unwrap_or(p.source_leader_epoch);
        History { epoch, source: p.source_offset.min(source), target: p.target_offset, epochs }
    }

    /// Takes note of what positions tell of the history.
    pub(super) fn take_history(&mut self, positions: &[Position]) {
        let known = self.premise.detail.source_topic_id;
        // Where a later generation stands before it on the target, that one had lost its end.
        let lost = |p: &Position| {
            let behind_start = p.generation != self.generation && p.target_offset > self.base.target;
            behind_start || positions.iter().any(|q| q.target_offset < p.target_offset && follows(q, p))
        };
        let of_topic = positions.iter().filter(|p| p.source_topic_id == known && !lost(p));
        self.lineage.told = of_topic.map(History::of).collect();
        self.lineage.told.sort_by_key(|told| (told.target, told.source));
        self.lineage.known = self.older_history(positions);
        if let Some(epoch) = self.premise.detail.begun.start.source_leader_epoch {
            let Place { source, target, .. } = self.base;
            let older = std::mem::take(&mut self.lineage.known);
            // Up to the place there may have been others between them, but none within one epoch.
            let whole = older.source >= source || older.epochs.last() == Some(epoch);
            let epochs = if whole { older.epochs } else { Epochs::default() };
            self.lineage.known = History { epoch, source, target, epochs };
        }
        self.lineage.start = self.lineage.known.clone();
    }

    /// Asks for it, if anything is known.
    pub(super) fn ask_history(&mut self) {
        self.lineage.asked = self.lineage.known.epoch;
        self.step = Step::SourceHistory(self.lineage.asked);
    }

    /// Nothing tells of which history the records behind the base are, neither a position nor their content: of the only one
    /// there ever was, if nobody but the first leader ever led.
    pub(super) fn ask_for_elections(&mut self) {
        self.lineage.asked = FIRST_EPOCH;
        self.step = Step::SourceHistory(self.lineage.asked);
    }

    /// Answers [`Step::SourceHistory`]: the end of the epoch asked for, or of the nearest one before it; `None` if the
    /// broker can't tell.
    pub fn source_history(&mut self, end: Option<EpochEnd>) {
        if let Some(verdict) = self.verdict.take() {
            let lost =
                |(now, then): (EpochEnd, EpochEnd)| now.epoch != then.epoch || now.offset < then.offset;
            let lost_more = end.zip(self.lineage.end).is_some_and(lost);
            self.step = if lost_more { Step::Again("SOURCE_NOT_SETTLED") } else { verdict };
            return;
        }
        if self.lineage.known.epoch < 0 {
            self.lineage.elected = end.is_none_or(|end| end.leader != FIRST_EPOCH);
            return self.find_source();
        }
        self.lineage.end = end;
        let Some(end) = end else { return self.find_source() };
        match self.lineage.known.epochs.parting(self.lineage.asked, self.lineage.known.source, end) {
            Parting::Nowhere if self.lineage.elsewhere => self.leave(end, self.lineage.known.source),
            Parting::Nowhere => self.find_source(),
            Parting::Ask(epoch) => {
                self.lineage.asked = epoch;
                self.step = Step::SourceHistory(epoch);
            }
            Parting::At(offset) => self.leave(end, offset),
            Parting::Unknown => self.look_elsewhere(end),
        }
    }

    /// The source has another history from this offset on than what was mirrored.
    fn leave(&mut self, end: EpochEnd, offset: i64) {
        // It may have had the records behind that before, and they were mirrored then. And somebody may have gone on from there
        // already, and nothing written says so: who appended behind the base, or a generation in between.
        let behind = self.count > self.base.count || self.late_from.is_some();
        let between = self.lineage.known.target < self.base.target;
        if self.lineage.elsewhere || offset < end.offset || behind || between {
            self.unsure = Some((self.told_up_to(offset), self.ends.1));
        }
        self.epochs = self.lineage.known.epochs.clone();
        self.lost(Loss::diverged(end.epoch, offset, self.mirrored_to()));
    }

    /// Nothing that was read last tells where the histories part: whether the source has what an older position tells of.
    fn look_elsewhere(&mut self, end: EpochEnd) {
        self.lineage.elsewhere = true;
        let older = ..=end.epoch.min(self.lineage.known.epoch - 1);
        let known = self.lineage.told.iter().filter(|told| told.epoch >= 0 && older.contains(&told.epoch));
        if let Some(told) = known.max_by_key(|told| (told.epoch, told.source)) {
            self.lineage.known = told.clone();
            return self.ask_history();
        }
        let start = self.premise.detail.begun.start.source_offset;
        let firsts =
            self.lineage.told.iter().map(|told| told.epochs.start().unwrap_or(told.source).min(told.source));
        let first = firsts.min().map_or(start, |first| first.min(start));
        self.lineage.known = History::default();
        self.leave(end, first.min(end.offset));
    }

    /// The mirror got at least so far, in whatever history: every record takes an offset or more.
    pub(super) fn mirrored_to(&self) -> i64 {
        self.base.source + (self.count - self.base.count).max(0)
    }

    /// Where the histories part, when nothing of what the target has left was found: what was mirrored behind the base may be
    /// of another one, also up to the end of the epoch, which may have ended earlier there.
    pub(super) fn parted(&mut self) -> i64 {
        let base = self.base.source;
        let whole = self.whole && !self.premise.facts.target_compacted;
        let end = self.lineage.end.map_or(base, |end| end.offset);
        if end < base {
            self.unsure = Some((self.told_up_to(end), self.ends.1));
        } else if !whole {
            self.unsure = Some((self.base.target, self.ends.1));
        }
        base.min(end)
    }

    /// Up to this target offset at least, what was mirrored is from before this source offset.
    fn told_up_to(&self, source: i64) -> i64 {
        let before = self.lineage.told.iter().take_while(|told| told.source <= source);
        before.map(|told| told.target).max().unwrap_or(0)
    }

    /// The mirror got at least so far in this history, if n is right: what it mirrored behind the end of the epoch may be of
    /// another, and so may all of it where the epoch is not known, or not that up to which others read the same. Where the
    /// content is not fixed, n may count records from before the base.
    pub(super) fn surely_mirrored(&self) -> i64 {
        let elected = self.lineage.end.is_some_and(|end| end.leader > self.base_epoch());
        if !self.premise.facts.content_fixed() || self.shared_epoch().is_some() || self.assumed || elected {
            return self.base.source;
        }
        let mirrored = self.at_least.max(self.mirrored_to());
        self.lineage.end.map_or(self.base.source, |end| mirrored.min(end.offset.max(self.base.source)))
    }

    /// Up to which leader epoch everybody who may have appended behind the base read the same: what the position tells;
    /// without one, that of the first record that was counted.
    pub(super) fn base_epoch(&self) -> i32 {
        let known = if self.lineage.known.epoch >= 0 {
            self.lineage.known.epoch
        } else {
            self.lineage.counted_epoch.unwrap_or(-1)
        };
        self.shared_epoch().unwrap_or(known)
    }

    /// It is an earlier one than that of the position's last batch: what stands behind may be of another history.
    pub(super) fn shared_epoch(&self) -> Option<i32> {
        self.position.as_ref().and_then(|position| position.shared_leader_epoch)
    }

    /// Nothing of this generation is written, and the mirror had been further on the source before it: what it left there may
    /// be back.
    fn began_further_back(&self) -> bool {
        let Place { source, target, .. } = self.base;
        self.position.is_none()
            && self.lineage.told.iter().any(|told| told.target <= target && told.source > source)
    }

    /// Nothing on the target tells whether it was this history that was mirrored from here on: then it goes on from here.
    pub(super) fn is_unproven(&mut self, leader_epoch: i32) -> bool {
        self.lineage.counted_epoch.get_or_insert(leader_epoch);
        let known = self.base_epoch();
        // Where there was an election since, even records of the known epoch may be of another history: it may have ended
        // earlier there.
        let elected = self.lineage.elected || self.lineage.end.is_some_and(|end| end.leader > known);
        let unproven = self.tail.is_none() && (leader_epoch > known || elected || self.began_further_back());
        if unproven {
            let from = self.target_of(self.base.count + self.read).unwrap_or(self.base.target);
            self.unsure = Some((from, self.ends.1));
            self.done();
        }
        unproven
    }
}
