//! What the shell tells: answers to [`Action::Ask`](super::Action::Ask), and to whom they go.

use mirrormesh_core::epochs::EpochEnd;
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::registry::{Origin, Seen};

use super::register::Then;
use super::{Action, Ask, Facts, LossPolicy, Phase, Premise, Relay, Resync, Stored, TimestampPolicy, Told};
use crate::rebuild::Codecs;

/// The shell answered what was not asked.
const MISTAKEN: &str = "ANSWER_MISTAKEN";

/// A question that has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    id: u64,
    to: To,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The settings of both sides.
    Facts,
    /// The look into the registry, or the write.
    Registering,
    /// The recovery of the position.
    Recovery,
    /// Pages whose batches come from somewhere: those of the stream, or of the recovery.
    Origins,
    /// What is stored and can be cut.
    Cut,
    /// The ends of a source that does not have what was fetched.
    Ends,
    /// A generation that needs a producer id.
    Beginning,
}

impl Relay {
    /// Asks in somebody's name.
    pub(super) fn ask(&mut self, to: To, ask: Ask) -> Action {
        self.asked += 1;
        self.open = Some(Open { id: self.asked, to });
        Action::Ask { id: self.asked, ask }
    }

    /// Answers the last question.
    #[cfg(test)]
    pub(crate) fn told_now(&mut self, told: Told, codecs: &dyn Codecs) {
        self.told(self.asked, told, codecs);
    }

    /// Answers [`Action::Ask`] with this id. An answer to a question that was asked before another one says nothing any more.
    pub fn told(&mut self, id: u64, told: Told, codecs: &dyn Codecs) {
        let Some(Open { to, .. }) = self.open.take_if(|open| open.id == id) else { return };
        let other = match (to, told) {
            (to, Told::Failed(reason, message)) => return self.told_nothing(to, &reason, &message),
            (To::Facts, Told::Facts(facts)) => return self.told_facts(facts),
            (To::Registering, Told::Registry(seen)) => return self.told_registry(&seen),
            (To::Registering, Told::Registered) => return self.told_registered(),
            (To::Recovery, told) => return self.told_locating(told, codecs),
            (To::Origins, Told::Origins(found)) => return self.told_origins(found, codecs),
            (To::Cut, Told::TargetEnds(log_start, ..)) => return self.target_begins(Some(log_start)),
            (To::Ends, Told::SourceEnds(start, end)) => return self.told_ends((start, end)),
            (To::Ends, Told::Identity(source, _)) => return self.told_source(source),
            (To::Ends, Told::SourceHistory(epoch_end)) => return self.told_history(epoch_end),
            (To::Beginning, Told::Producer(id)) => return self.told_producer(id),
            (To::Facts | To::Registering | To::Origins | To::Cut | To::Ends | To::Beginning, other) => other,
        };
        self.told_nothing(to, MISTAKEN, &format!("an answer to another question came: {other:?}"));
    }

    /// A question got no answer. Whoever it was for tries again after a while, if it waits for it still.
    fn told_nothing(&mut self, to: To, reason: &str, message: &str) {
        match (to, &mut self.phase) {
            (To::Origins, Phase::Streaming(stream)) => {
                stream.origins_unknown(reason.to_owned(), message.to_owned());
            }
            (To::Cut, _) => self.target_begins(None),
            (To::Facts, Phase::Facts { .. })
            | (To::Registering, Phase::Registering(_))
            | (To::Recovery | To::Origins, Phase::Locating { .. })
            | (To::Ends, Phase::Ends { .. })
            | (To::Beginning, Phase::Beginning { .. }) => self.wait(reason, message),
            // It has gone on.
            _ => {}
        }
    }

    fn told_facts(&mut self, facts: Facts) {
        if !matches!(self.phase, Phase::Facts { .. }) {
            return;
        }
        if self.facts != facts {
            self.sizes.forget();
        }
        self.facts = facts;
        self.register(Then::Locate);
    }

    fn told_registry(&mut self, seen: &Seen) {
        if matches!(self.phase, Phase::Registering(_)) {
            self.registry(seen);
        }
    }

    fn told_registered(&mut self) {
        if let Phase::Registering(registering) = &mut self.phase {
            registering.look_again();
        }
    }

    fn told_origins(&mut self, found: Vec<(i64, Origin)>, codecs: &dyn Codecs) {
        self.origins.learn(found);
        match &mut self.phase {
            Phase::Locating { resync, asked, .. } => {
                *asked = false;
                resync.classified(&self.origins, codecs);
            }
            Phase::Streaming(_) => self.classified(codecs),
            _ => {}
        }
    }

    fn told_ends(&mut self, found: (i64, i64)) {
        if let Phase::Ends { ends, asked, .. } = &mut self.phase {
            (*ends, *asked) = (Some(found), false);
        }
    }

    fn told_source(&mut self, source: Option<TopicId>) {
        let Phase::Ends { change, ends: Some(ends), same, asked } = &mut self.phase else { return };
        let known = self.setup.detail.source_topic_id;
        if source.is_none_or(|now| now.differs(known)) {
            // Deleted or recreated: the next recovery says which.
            self.phase = Phase::Facts { asked: false };
        } else if change.epoch().is_some() {
            (*same, *asked) = (true, false);
        } else {
            let (change, ends) = (change.clone(), *ends);
            self.source_ends(change, ends, None);
        }
    }

    fn told_history(&mut self, epoch_end: Option<EpochEnd>) {
        let Phase::Ends { change, ends: Some(ends), .. } = &self.phase else { return };
        let (change, ends) = (change.clone(), *ends);
        self.source_ends(change, ends, epoch_end);
    }

    fn told_producer(&mut self, id: i64) {
        if let Phase::Beginning { change, asked } = &mut self.phase {
            change.offered = Some(id);
            *asked = false;
        }
    }

    fn told_locating(&mut self, told: Told, codecs: &dyn Codecs) {
        let Phase::Locating { resync, stored, asked } = &mut self.phase else { return };
        *asked = false;
        match told {
            Told::Identity(source, target) => resync.identity(source, target),
            Told::Positions(found) => {
                resync.positions(found.positions.iter().map(|(_, p)| p.clone()).collect());
                *stored = found;
            }
            Told::TargetEnds(start, end, high_watermark) => {
                resync.target_ends(start, end, high_watermark);
            }
            Told::TargetRecords(records) => resync.target_read(records, codecs),
            Told::Remembered(remembered) => resync.producer(remembered),
            Told::SourceHistory(end) => resync.source_history(end),
            Told::SourcePage(page) => resync.source_read(page, &self.origins, codecs),
            Told::SourceOutOfRange => resync.source_out_of_range(),
            Told::SourceEnds(start, end) => resync.source_ends(start, end),
            Told::Facts(_)
            | Told::Producer(_)
            | Told::Origins(_)
            | Told::Registry(_)
            | Told::Registered
            | Told::Failed(..) => {
                return self
                    .wait(MISTAKEN, "an answer to another question came while the position was recovered");
            }
        }
        self.target_cut = resync.truncated();
    }

    pub(super) fn locate(&mut self) {
        let facts = self.facts;
        let rules = &self.setup.rules;
        let premise = Premise {
            detail: self.setup.detail.clone(),
            number: self.setup.number,
            facts,
            sole_writer: rules.sole_writer,
            times_kept: !facts.target_append_time && rules.timestamps == TimestampPolicy::Keep,
            searches: rules.on_loss == LossPolicy::Continue,
            others_before: self.others_before,
            acked_target: self.acked_target,
            target_cut: self.target_cut,
        };
        let resync = Box::new(Resync::new(premise));
        self.phase = Phase::Locating { resync, stored: Stored::default(), asked: false };
    }
}
