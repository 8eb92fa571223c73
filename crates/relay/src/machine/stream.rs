//! The state of one stream, and what it waits for.

use std::collections::BTreeSet;

use mirrormesh_core::report::Delivery;

use super::behind::InHand;
use super::inherited::Inherited;
use super::outgoing::Queue;
use super::{Entry, Facts, Journal, LastBatch, Limits, PartitionFigures, Place, SourcePage, Stop};
use crate::rebuild::Oversized;
use crate::window::Window;

/// The target does not tell whether an append is a new one.
pub(super) const UNTOLD: &str = "APPEND_UNTOLD";

/// What follows once everything has its answer and is written down.
#[derive(Debug, Clone)]
pub(super) enum After {
    /// It was asked to stop.
    Release,
    /// Recover the position at once.
    Locate { reason: &'static str, leader_moved: bool },
    /// Recover the position after a while.
    Wait { reason: String, message: String },
    /// Stop.
    Stop(Stop),
    /// Begin a generation at the acknowledged place.
    Begin,
    /// Begin a generation behind a record that is left out; the source's leader epoch there.
    Skip(Oversized, i32),
    /// Ask the source where it begins and ends.
    Ends,
}

/// Why records wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waits {
    /// Stable name.
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// It stands in the partition's status.
    pub(super) reported: bool,
}

/// A page whose batches are not all classified yet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) page: SourcePage,
    pub(super) unknown: BTreeSet<i64>,
    pub(super) asked: bool,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) window: Window,
    pub(super) facts: Facts,
    pub(super) journal: Journal,
    pub(super) queue: Queue,
    /// Fetched, but where some of it comes from has to be looked up first.
    pub(super) held: Option<Held>,
    pub(super) fetching: bool,
    pub(super) writing: Option<Entry>,
    /// Writing failed while draining: there is no second try.
    pub(super) unwritten: bool,
    pub(super) last: Option<(LastBatch, i32)>,
    /// The first append goes under the old generation; then a new one begins.
    pub(super) handover: bool,
    /// Who may append under this generation still: owners before this one, and what this one lost the answers of.
    pub(super) inherited: Inherited,
    /// Why the next batch waits, where the flow requires exactly once.
    pub(super) waits: Option<Waits>,
    /// When the target's log end was looked at, ms since 1970.
    pub(super) looked_ms: u64,
    pub(super) after: Option<After>,
    pub(super) end_offset: i64,
    pub(super) high_watermark: i64,
}

impl Stream {
    pub(super) fn new(
        (place, sole_writer): (Place, bool),
        (facts, limits): (Facts, Limits),
        journal: Journal,
        last: Option<(LastBatch, i32)>,
        handover: bool,
    ) -> Self {
        Self {
            window: Window::new(place, sole_writer, facts, limits),
            facts,
            journal,
            queue: Queue::default(),
            held: None,
            fetching: false,
            writing: None,
            unwritten: false,
            last,
            handover,
            inherited: Inherited::FROM_NOBODY,
            waits: None,
            looked_ms: 0,
            after: None,
            end_offset: -1,
            high_watermark: -1,
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.after.is_some()
    }

    pub(super) fn wants_records(&self) -> bool {
        self.after.is_none() && self.fetching && self.queue.is_empty() && self.held.is_none()
    }

    /// It is to be looked up where a page comes from.
    pub(super) fn asks_origins(&self) -> bool {
        self.held.is_some()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.journal.is_dirty()
            || !self.window.is_empty()
            || self.waits.as_ref().is_some_and(|waits| !waits.reported)
    }

    /// Sends nothing more; what comes then. The first reason stays.
    pub(super) fn break_off(&mut self, after: After) {
        self.after.get_or_insert(after);
    }

    /// As [`Stream::break_off`], after a failure: what was to go on from the acknowledged place can't, since that place
    /// is not known any more, nor is everything before a record to be left out mirrored.
    pub(super) fn break_off_failed(&mut self, after: After) {
        if matches!(self.after, Some(After::Begin | After::Skip(..) | After::Ends)) {
            self.after = None;
        }
        self.break_off(after);
    }

    /// It could not be looked up where a page comes from.
    pub(super) fn origins_unknown(&mut self, reason: String, message: String) {
        if self.held.is_some() {
            self.break_off(After::Wait { reason, message });
        }
    }

    /// Which guarantee holds now.
    pub(super) fn figures(&self, figures: &mut PartitionFigures, now_ms: u64) {
        figures.delivery = if !self.facts.content_fixed() {
            Delivery::ContentNotFixed
        } else if self.facts.source_by_name {
            Delivery::SourceByName
        } else if self.window.stays_armed(now_ms) && !self.window.is_watched(now_ms) {
            Delivery::ExactlyOnce
        } else if !self.window.is_sole_writer() || self.window.is_watched(now_ms) {
            Delivery::OtherWriters
        } else if self.last.is_some_and(|(last, _)| last.count > 0) {
            Delivery::TargetMayForget
        } else {
            Delivery::Unknown
        };
    }

    /// What was fetched and is not acknowledged: bytes, and the timestamp of the first record.
    pub(super) fn in_hand(&self) -> InHand {
        InHand {
            bytes: self.window.bytes().saturating_add(self.queue.bytes()),
            oldest_ms: self.window.oldest_ms().or_else(|| self.queue.oldest_ms()).filter(|ms| *ms >= 0),
        }
    }

    /// Under the old generation, there is nothing that its rules would still mirror.
    pub(super) fn caught_up(&self) -> bool {
        self.queue.is_empty()
            && self.held.is_none()
            && self.window.is_empty()
            && self.end_offset >= 0
            && self.window.next_source() >= self.end_offset
    }

    /// Whether a generation has to begin before records of this leader epoch are appended.
    pub(super) fn parts_at(&self, epoch: i32, now_ms: u64) -> bool {
        (self.inherited.had_ack || !self.handover) && self.inherited.is_beyond(epoch, now_ms)
    }

    /// Makes way for a generation. If nobody has, the next append hands over: the first one behind a place that was looked up.
    pub(super) fn part(&mut self) {
        if self.window.is_untouched() && !self.inherited.had_ack {
            self.handover = true;
        } else {
            // Behind an append of these records what is on its way may fit, and nobody else is quicker: who still sends
            // was refused by then, or is by the next generation's first append, whose base offset shows what came before.
            self.break_off(After::Begin);
        }
    }
}
