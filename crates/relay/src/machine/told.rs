//! What the shell tells: answers to [`Action::Ask`](super::Action::Ask), and to whom they go.

use super::register::Then;
use super::{LossPolicy, Phase, Premise, Relay, Resync, Stored, TimestampPolicy, Told};
use crate::rebuild::Codecs;

impl Relay {
    /// Answers [`Action::Ask`](super::Action::Ask). What was not asked for is left alone.
    pub fn told(&mut self, told: Told, codecs: &dyn Codecs) {
        match (&mut self.phase, told) {
            (Phase::Stopped { .. } | Phase::Released { .. }, _) => {}
            // Only where batches come from, or the target begins, is asked for while records flow.
            (Phase::Streaming(stream), Told::Failed(reason, message)) => {
                stream.origins_unknown(reason, message);
                self.target_begins(None);
            }
            (Phase::Streaming(_), Told::TargetEnds(log_start, ..)) => self.target_begins(Some(log_start)),
            (_, Told::Failed(reason, message)) => self.wait(&reason, &message),
            (phase, Told::Origins(found)) => {
                self.origins.learn(found);
                match phase {
                    Phase::Locating { resync, asked, .. } => {
                        *asked = false;
                        resync.classified(&self.origins, codecs);
                    }
                    _ => self.classified(codecs),
                }
            }
            (Phase::Facts { .. }, Told::Facts(facts)) => {
                if self.facts != facts {
                    self.sizes.forget();
                }
                self.facts = facts;
                self.register(Then::Locate);
            }
            (Phase::Registering(_), Told::Registry(seen)) => self.registry(&seen),
            (Phase::Registering(registering), Told::Registered) => registering.look_again(),
            (Phase::Locating { .. }, told) => self.told_locating(told, codecs),
            (Phase::Ends { ends, asked, .. }, Told::SourceEnds(start, end)) => {
                *ends = Some((start, end));
                *asked = false;
            }
            (Phase::Ends { change, ends: Some(ends), same, asked }, Told::Identity(source, _)) => {
                let known = self.setup.detail.source_topic_id;
                if source.is_none_or(|now| now.differs(known)) {
                    // Deleted or made again: finding the place anew says which.
                    self.phase = Phase::Facts { asked: false };
                } else if change.epoch().is_some() {
                    (*same, *asked) = (true, false);
                } else {
                    let (change, ends) = (change.clone(), *ends);
                    self.source_ends(change, ends, None);
                }
            }
            (Phase::Ends { change, ends: Some(ends), .. }, Told::SourceHistory(epoch_end)) => {
                let (change, ends) = (change.clone(), *ends);
                self.source_ends(change, ends, epoch_end);
            }
            (Phase::Beginning { change, asked }, Told::Producer(id)) => {
                change.offered = Some(id);
                *asked = false;
            }
            _ => {}
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
            | Told::Failed(..) => {}
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
