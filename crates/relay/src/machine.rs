//! The relay of one partition as one machine without IO: everything that is decided between two brokers.
//!
//! The shell (the source service; the simulation) carries out what [`Relay::next`] asks for and tells what came of it:
//! [`Relay::told`] answers questions, [`Relay::fetched`] brings records, [`Relay::answer`] brings answers to appends,
//! [`Relay::written`] and [`Relay::begun`] say what became of a position and of a new generation. Time and codecs are
//! arguments.
//!
//! Phases: settings → registering → locating → streaming → (draining) → … A partition leaves streaming only when every append has its
//! answer and what was acknowledged is written down.

mod action;
mod answered;
mod behind;
mod change;
mod exact;
mod inherited;
mod outgoing;
mod refusal;
mod register;
mod stream;
mod streaming;
mod told;
mod written;

pub use action::{Action, Append, Ask, Beginning, Notice, Rules, Setup, Told};
pub use behind::SourceEnds;

use behind::{Behind, InHand};
use change::Change;
use inherited::Inherited;
use mirrormesh_core::flow::{LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_core::position::{LastBatch, Position, PositionKey, PositionKind, PositionValue};
use mirrormesh_core::report::{PartitionFigures, UnitState};
use mirrormesh_core::stop::{Stop, StopReason};
use mirrormesh_core::unit::{Generation, PartitionDetail, PartitionGeneration, PartitionStart};
use refusal::Refusal;
use register::Registering;
use std::collections::VecDeque;
use stream::Stream;
use told::{Open, To};

use super::answer::{Answer, Refused};
use super::economy::Economy;
use super::facts::Facts;
use super::journal::{Entry, Journal, Stored};
use super::loss::{Handling, Loss};
use super::origins::Origins;
use super::page::SourcePage;
use super::reader::Skip;
use super::rebuild::Codecs;
use super::resync::{Found, Premise, Resync, Step};
use super::sizes::Sizes;
use super::window::{Limits, Place, Unexpected, Zombies};

/// Where the machine is.
#[derive(Debug)]
enum Phase {
    Facts {
        asked: bool,
    },
    Registering(Registering),
    Locating {
        resync: Box<Resync>,
        stored: Stored,
        asked: bool,
    },
    Streaming(Box<Stream>),
    /// The source does not have what was fetched: which way?
    Ends {
        change: Change,
        /// Log start and log end; asked for by name, and so good only if the topic is the same still.
        ends: Option<(i64, i64)>,
        /// It is.
        same: bool,
        asked: bool,
    },
    /// What was found before a loss is written down.
    Keeping {
        change: Change,
        asked: bool,
    },
    Beginning {
        change: Change,
        asked: bool,
    },
    Waiting {
        reason: String,
        message: String,
        said: bool,
    },
    Stopped {
        stop: Stop,
        said: bool,
    },
    Released {
        said: bool,
    },
}

fn without_producer_id() -> Stop {
    let message = "an earlier version mirrored this partition at least once, to a target that gave out no producer ids \
                   (records.at_least_once, which does not exist any more): how many records are there can't be told; delete \
                   the flow and create it with start_over, on a target with idempotent produce";
    Stop::new(StopReason::TargetNotIdempotent, message.to_owned())
}

/// The machine of one partition.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug)]
pub struct Relay {
    setup: Setup,
    facts: Facts,
    phase: Phase,
    stopping: bool,
    /// The worker is counted among the living: nobody else was given the partition.
    leased: bool,
    /// Somebody else's records stand before this target offset.
    others_before: i64,
    /// n behind an append of which it is not known whether it was a new one, and whether it was to hand over.
    untold: Option<(i64, bool)>,
    /// When it was seen that another owner of the generation may append too.
    shared_ms: Option<u64>,
    /// Appends of this owner that may still arrive.
    zombies: Option<Zombies>,
    /// Whom the generation is shared with; `None` before the first place is found.
    inherited: Option<Inherited>,
    /// An append that is looked at for where it stands.
    unexpected: Option<Unexpected>,
    /// Everything before this target offset was acknowledged to this owner, as far as it still counts on it.
    acked_target: i64,
    /// Target offsets that were reported to hold records twice, and the text about them: the latest.
    doubles_told: Vec<(&'static str, i64, i64)>,
    /// What the target is known to have lost, until a generation begins behind it.
    target_cut: Option<(i64, i64)>,
    attempts: u32,
    refusal: Option<Refusal>,
    /// The target refused a timestamp that its settings did not tell of: move them in every batch until one is in.
    clamp: bool,
    /// What the target's refusals tell of sizes.
    sizes: Sizes,
    /// The target found a checksum wrong: records are checked before they are sent.
    check: bool,
    warned_of_retention: bool,
    warned_of_age: bool,
    told_of_coarse: bool,
    /// It was asked where the target begins.
    cut_asked: bool,
    /// When it may be asked again whether what is stored can be cut.
    next_cut_ms: u64,
    /// The generation that stands in the target's registry.
    registered: Option<PartitionGeneration>,
    /// Where the source's batches come from.
    origins: Origins,
    /// Whether small batches are put together.
    economy: Economy,
    /// The target's log end was looked at for the batch that waits, as `require_exactly_once` demands.
    looked_for_exact: bool,
    /// Positions that nobody can need any more: generation and slot.
    obsolete: Vec<(Generation, u32)>,
    /// This owner's own, between two streams.
    journal: Journal,
    figures: PartitionFigures,
    behind: Behind,
    pending: VecDeque<Action>,
    /// Questions so far.
    asked: u64,
    /// The last one, if it has no answer yet.
    open: Option<Open>,
}

impl Relay {
    /// Begins with nothing known.
    pub fn new(setup: Setup) -> Self {
        let generation = setup.detail.begun.generation;
        let journal = Journal::new(generation.producer_id, setup.number);
        let phase = if generation.has_producer_id() {
            Phase::Facts { asked: false }
        } else {
            Phase::Stopped { stop: without_producer_id(), said: false }
        };
        Self {
            setup,
            facts: Facts::DEFAULT,
            phase,
            stopping: false,
            leased: true,
            others_before: i64::MIN,
            untold: None,
            shared_ms: None,
            zombies: None,
            inherited: None,
            unexpected: None,
            acked_target: i64::MIN,
            doubles_told: Vec::new(),
            target_cut: None,
            attempts: 0,
            refusal: None,
            clamp: false,
            sizes: Sizes::default(),
            check: false,
            warned_of_retention: false,
            warned_of_age: false,
            told_of_coarse: false,
            cut_asked: false,
            next_cut_ms: 0,
            registered: None,
            origins: Origins::default(),
            economy: Economy::default(),
            looked_for_exact: false,
            obsolete: Vec::new(),
            journal,
            figures: PartitionFigures::default(),
            behind: Behind::default(),
            pending: VecDeque::new(),
            asked: 0,
            open: None,
        }
    }

    // Getters.

    /// The present generation.
    pub fn generation(&self) -> PartitionGeneration {
        self.setup.detail.begun
    }

    /// What was found out about the partition.
    pub fn detail(&self) -> &PartitionDetail {
        &self.setup.detail
    }

    /// Figures as they are now.
    pub fn figures(&mut self, now_ms: u64) -> PartitionFigures {
        let mut in_hand = InHand::default();
        if let Phase::Streaming(stream) = &mut self.phase {
            stream.figures(&mut self.figures, now_ms);
            if let Some(waits) = &mut stream.waits {
                waits.reported = true;
            }
            in_hand = stream.in_hand();
            self.behind.settle(self.figures.source_offset, &in_hand, now_ms);
        }
        self.behind.show(&mut self.figures, &in_hand);
        self.watch_age(now_ms);
        self.figures
    }

    /// What it is doing: state, stable reason, message.
    pub fn state(&self) -> (UnitState, &str, &str) {
        match &self.phase {
            Phase::Streaming(stream) if stream.is_draining() => (UnitState::Resyncing, "", ""),
            Phase::Streaming(stream) if let Some(waits) = &stream.waits => {
                (UnitState::Backoff, waits.reason, &waits.message)
            }
            Phase::Streaming(_) | Phase::Released { .. } => (UnitState::Running, "", ""),
            // A short hiccup is not worth a condition.
            Phase::Waiting { reason, message, .. } if self.attempts > 3 => {
                (UnitState::Backoff, reason, message)
            }
            Phase::Stopped { stop, .. } => (UnitState::Stopped, stop.reason.name(), &stop.message),
            Phase::Facts { .. }
            | Phase::Registering(_)
            | Phase::Locating { .. }
            | Phase::Ends { .. }
            | Phase::Keeping { .. }
            | Phase::Beginning { .. }
            | Phase::Waiting { .. } => (UnitState::Resyncing, "", ""),
        }
    }

    /// It was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Records and bytes that were acknowledged since it began.
    pub fn totals(&self) -> (u64, u64) {
        let whole = |n: i64| u64::try_from(n).unwrap_or(0);
        (whole(self.figures.records), whole(self.figures.bytes))
    }

    /// Another chunk of records may be brought.
    pub fn wants_records(&self) -> bool {
        matches!(&self.phase, Phase::Streaming(stream) if stream.wants_records())
    }

    /// Something is in flight or not written down: time has to be told.
    pub fn is_busy(&self) -> bool {
        matches!(&self.phase, Phase::Streaming(stream) if stream.is_busy())
    }

    // Commands.

    /// Asks it to drain and release.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Says whether the worker's lease holds. Without it nothing is sent to a target that may have forgotten the flow:
    /// there, only one owner keeps records from being doubled (design 5, static stability).
    pub fn leased(&mut self, holds: bool) {
        self.leased = holds;
    }

    /// What passing a batch costs here beside its bytes, ns, as measured.
    pub fn passing_ns(&mut self, ns: u64) {
        self.economy.passing_ns(ns);
    }

    /// A batch in flight has failed, or stands elsewhere than expected: nothing that has not left yet may be sent.
    pub fn has_failed(&self) -> bool {
        matches!(&self.phase, Phase::Streaming(stream) if stream.window.is_failed())
    }

    /// So many bytes that were to be appended have not left this process.
    pub fn waiting(&mut self, bytes: u64) {
        if let Phase::Streaming(stream) = &mut self.phase {
            stream.window.waiting(bytes);
        }
    }

    /// The time in which the target acknowledges one batch while further requests wait there, ns; 0 if none wait.
    pub fn ack_ns(&mut self, ns: u64) {
        self.economy.ack_ns(ns);
    }

    /// The wait is over.
    pub fn resume(&mut self) {
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.phase = Phase::Facts { asked: false };
        }
    }

    /// The ends of the source partition were looked at apart from fetching: for a partition that doesn't fetch just now.
    pub fn ends_seen(&mut self, ends: SourceEnds, now_ms: u64) {
        let place = self.figures.source_offset;
        self.behind.looked(place, (ends.end_offset, ends.high_watermark), now_ms);
        if ends.log_start >= 0 {
            self.figures.source_start_offset = Some(ends.log_start);
            if self.behind.is_placed() {
                self.watch_retention(ends.log_start, ends.high_watermark);
            }
        }
    }

    /// Nobody could look at the ends of the source partition since then, ms since 1970; `None`: somebody does again.
    pub fn ends_unseen_since(&mut self, since_ms: Option<u64>) {
        self.figures.stale_since_ms = since_ms.and_then(|ms| i64::try_from(ms).ok());
    }

    /// Settings as they are now, looked at while records flow.
    pub fn facts_now(&mut self, facts: Facts) {
        if facts != self.facts
            && let Phase::Streaming(stream) = &mut self.phase
        {
            stream.break_off(stream::After::Locate { reason: "SETTINGS_CHANGED", leader_moved: false });
        }
    }

    // Outputs.

    /// What to do next; `None` until something is told or time has passed.
    pub fn next(&mut self, now_ms: u64, codecs: &dyn Codecs) -> Option<Action> {
        loop {
            if let Some(action) = self.pending.pop_front() {
                return Some(action);
            }
            if self.stopping && !matches!(self.phase, Phase::Streaming(_) | Phase::Released { .. }) {
                self.phase = Phase::Released { said: false };
            }
            match &mut self.phase {
                Phase::Facts { asked } if !*asked => {
                    *asked = true;
                    return Some(self.ask(To::Facts, Ask::Facts));
                }
                Phase::Registering(registering) => {
                    let ask = registering.ask()?;
                    return Some(self.ask(To::Registering, ask));
                }
                Phase::Locating { resync, asked, .. } if !*asked => {
                    *asked = true;
                    match resync.step().clone() {
                        Step::Done(found) => self.found(&found, now_ms),
                        Step::Stop(stop) => self.phase = Phase::Stopped { stop, said: false },
                        Step::Again(reason) => self.wait(reason, refusal::explain(reason)),
                        Step::Lost(loss, target) => self.lost(*loss, target, now_ms),
                        Step::Origins(unknown) => return Some(self.ask(To::Origins, Ask::Origins(unknown))),
                        step => return Some(self.ask(To::Recovery, Ask::Locate(step))),
                    }
                }
                Phase::Ends { asked, ends, same, change } if !*asked => {
                    *asked = true;
                    let ask = match (ends, &same, change.epoch()) {
                        (None, ..) => Ask::SourceEnds,
                        (_, true, Some(epoch)) => Ask::Locate(Step::SourceHistory(epoch)),
                        _ => Ask::Locate(Step::Identity),
                    };
                    return Some(self.ask(To::Ends, ask));
                }
                Phase::Keeping { asked: false, .. } => {
                    if let Some(action) = self.keep(now_ms) {
                        return Some(action);
                    }
                }
                Phase::Beginning { .. } => return self.begin(),
                Phase::Streaming(_) => match self.stream(now_ms, codecs) {
                    streaming::Next::Action(action) => return Some(*action),
                    streaming::Next::Idle => return None,
                    streaming::Next::Changed => {}
                },
                Phase::Waiting { reason, message, said } if !*said => {
                    *said = true;
                    let (reason, message) = (reason.clone(), message.clone());
                    let attempt = self.attempts;
                    self.attempts = self.attempts.saturating_add(1);
                    return Some(Action::Wait { reason, message, attempt });
                }
                Phase::Stopped { stop, said } if !*said => {
                    *said = true;
                    return Some(Action::Stopped(stop.clone()));
                }
                Phase::Released { said } if !*said => {
                    *said = true;
                    return Some(Action::Released);
                }
                _ => return None,
            }
        }
    }

    fn wait(&mut self, reason: &str, message: &str) {
        self.phase = Phase::Waiting { reason: reason.to_owned(), message: message.to_owned(), said: false };
    }

    fn notice(&mut self, notice: Notice) {
        self.pending.push_back(Action::Notice(notice));
    }
}

#[cfg(test)]
mod delivery_tests;
#[cfg(test)]
mod doubles_tests;
#[cfg(test)]
mod place_tests;
#[cfg(test)]
mod registry_tests;
#[cfg(test)]
mod size_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;
