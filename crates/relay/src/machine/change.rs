//! What comes between streams: a place that was found, a loss, a generation that begins.
//!
//! Every discontinuity (a gap, a skip, other rules, an owner that must be fenced) is a generation of its own, with its
//! first place in the Raft log: inside a generation the n-th record is the same for every worker.

use mirrormesh_core::epochs::EpochEnd;
use mirrormesh_core::position::LastBatch;
use mirrormesh_core::stop::StopReason;

use super::inherited::Inherited;
use super::register::Then;
use super::stream::{After, Stream};
use super::told::To;
use super::{
    Action, Ask, Beginning, Found, Handling, Journal, Loss, Notice, PartitionGeneration, PartitionStart,
    Phase, Place, Refused, Relay, Stored,
};

/// A generation that is about to begin, and what goes on from the one before.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// First source offset of the new one.
    pub(super) source: i64,
    /// End of the target.
    pub(super) target: i64,
    /// What is to be kept in the same step.
    pub(super) notices: Vec<Notice>,
    /// A fresh producer id.
    pub(super) offered: Option<i64>,
    /// Segments and slots go on.
    pub(super) journal: Journal,
    /// The last mirrored batch with its leader epoch.
    pub(super) last: Option<(LastBatch, i32)>,
}

impl Change {
    pub(super) fn at(place: Place, journal: Journal, last: Option<(LastBatch, i32)>) -> Self {
        Self { source: place.source, target: place.target, notices: Vec::new(), offered: None, journal, last }
    }

    /// Goes on behind a loss.
    pub(super) fn behind(mut self, loss: &Loss) -> Self {
        self.source = loss.go_on;
        self.notices.push(Notice::from(loss));
        // Behind deleted offsets the epoch that was read last may have ended long before.
        if loss.stop.reason == StopReason::RetentionOverrun {
            self.last = self.last.map(|(last, _)| (last, -1));
        } else if let Some(epoch) = loss.epoch {
            self.last.get_or_insert_default().1 = epoch;
        }
        self
    }

    /// Leader epoch of what was read last from the source, if it is known.
    pub(super) fn epoch(&self) -> Option<i32> {
        self.last.map(|(_, epoch)| epoch).filter(|epoch| *epoch >= 0)
    }
}

impl Relay {
    fn journal_of(&self, stored: &Stored, target: i64) -> Journal {
        let generation = self.setup.detail.begun.generation;
        let newest = stored.positions.iter().filter(|(_, p)| p.generation == generation);
        let newest = newest.max_by_key(|(_, p)| p.count).map(|(slot, _)| *slot);
        let mut journal = self.journal.clone();
        journal.earlier(&stored.chunks);
        journal.go_on(newest, target);
        journal
    }

    fn take_stored(&mut self) -> Stored {
        let stored = match &mut self.phase {
            Phase::Locating { stored, .. } => std::mem::take(stored),
            _ => Stored::default(),
        };
        self.obsolete = stored.obsolete(self.setup.detail.begun.generation);
        stored
    }

    /// The place is found: stream on from it, or begin a generation there.
    pub(super) fn found(&mut self, found: &Found, now_ms: u64) {
        let stored = self.take_stored();
        if found.truncated.is_some() {
            // Other records may stand by now at the target offsets that were reported.
            self.doubles_told.clear();
        }
        self.tell_of_doubles(found.unsure, found.stray, found.doubled, found.hole);
        self.others_before = self.others_before.max(found.others_before);
        let mut journal = self.journal_of(&stored, found.place.target);
        for mirrored in &found.replay {
            journal.mirrored(mirrored, now_ms);
        }
        journal.read_before(&found.epochs, found.place.source);
        if found.position.is_none() {
            // So that a next owner finds a place even before the first batch is acknowledged.
            journal.passed(now_ms);
        }
        self.behind.placed();
        self.figures.source_offset = found.place.source;
        self.figures.target_offset = found.place.target;
        let last = found.replay.last().map(|m| m.last).or_else(|| found.position.as_ref().map(|p| p.last));
        let last =
            last.or_else(|| (found.epoch >= 0).then(LastBatch::default)).map(|last| (last, found.epoch));
        let refused_again = self
            .refusal
            .is_some_and(|r| r.what == Refused::Sequence && r.times > 1 && r.count == found.place.count);
        let untold = self.untold.take().filter(|(count, _)| *count == found.place.count);
        let begun = self.setup.detail.begun;
        // An own generation is no better: what this owner sent before may still arrive, between two that it sends now.
        let fences = !self.facts.content_fixed();
        let handover = fences || self.setup.rules.differ_from(begun.start) || begun.generation.is_last();
        if found.apart {
            self.begin_at(found, (journal, last));
            return;
        }
        if found.doubled.is_some() {
            // Somebody appended under this generation what stood there already: another owner, which may do so again.
            self.shared_ms = Some(now_ms);
        }
        let mut stream = Stream::new(
            (found.place, found.sole_writer),
            (self.facts, self.setup.limits),
            journal,
            last,
            handover,
        );
        stream.looked_ms = now_ms;
        stream.window.share(self.shared_ms);
        stream.window.expect(self.zombies);
        stream.inherited = self.inherited(found, now_ms);
        if let Some(looked_at) = self.unexpected.take() {
            stream.window.settle(looked_at);
        }
        if found.producer_changed {
            stream.window.watch(now_ms);
        }
        if untold.is_some() {
            stream.window.looked_at();
        }
        let handed_over = untold.is_some_and(|(_, hands_over)| hands_over || handover);
        if refused_again || handed_over {
            // What was found is written down first: whoever follows looks no further back than to the new generation.
            stream.break_off(After::Begin);
        }
        self.phase = Phase::Streaming(Box::new(stream));
    }

    /// A generation begins at the place that was found.
    fn begin_at(&mut self, found: &Found, (journal, last): (Journal, Option<(LastBatch, i32)>)) {
        // A position would tell of a place that counting does not lead to.
        let mut change = Change::at(found.place, journal, last);
        change.notices.extend(found.truncated.map(truncated));
        self.phase = Phase::Keeping { change, asked: false };
    }

    /// Says which target offsets hold, or may come to hold, records twice.
    fn tell_of_doubles(
        &mut self,
        unsure: Option<(i64, i64)>,
        stray: Option<(i64, i64)>,
        doubled: Option<(i64, i64)>,
        hole: Option<(i64, i64)>,
    ) {
        for (range, what) in [(unsure, UNSURE), (stray, STRAY), (doubled, DOUBLED), (hole, HOLE)] {
            let Some((from, to)) = range else { continue };
            // The position may be recovered many times from the same position record: the event is reported once.
            if self.doubles_told.contains(&(what, from, to)) {
                continue;
            }
            let surplus = (self.doubles_told.len() + 1).saturating_sub(DOUBLES_TOLD_MAX);
            self.doubles_told.drain(..surplus);
            self.doubles_told.push((what, from, to));
            let message = format!("the target's offsets {from} to {to} {what}");
            self.notice(of_target("RECORDS_DOUBLED", message, (from, to)));
        }
    }

    /// What is needed is gone from the source.
    pub(super) fn lost(&mut self, loss: Loss, target: i64, now_ms: u64) {
        let Phase::Locating { resync, .. } = &mut self.phase else { return };
        let (replay, unsure, found_epoch) = (resync.take_replay(), resync.unsure(), resync.found_epoch());
        let (cut, stray, doubled, hole) =
            (resync.truncated(), resync.stray(), resync.doubled(), resync.hole());
        let epochs = resync.epochs().clone();
        if cut.is_some() {
            self.doubles_told.clear();
        }
        self.tell_of_doubles(unsure, stray, doubled, hole);
        let stored = self.take_stored();
        let generation = self.setup.detail.begun.generation;
        match loss.handle(self.setup.rules.on_loss) {
            Handling::Stop(stop) => self.phase = Phase::Stopped { stop, said: false },
            Handling::GoOn(loss) => {
                let mut journal = self.journal_of(&stored, target);
                for mirrored in &replay {
                    journal.mirrored(mirrored, now_ms);
                }
                journal.read_before(&epochs, loss.go_on);
                let place = Place { count: 0, source: loss.go_on, target };
                let newest = stored.positions.iter().map(|(_, p)| p).filter(|p| p.generation == generation);
                let last = newest.max_by_key(|p| p.count).map(|p| (p.last, p.source_leader_epoch));
                let last = match last {
                    Some((last, epoch)) => Some((last, epoch.max(found_epoch))),
                    None => (found_epoch >= 0).then(|| (LastBatch::default(), found_epoch)),
                };
                let mut change = Change::at(place, journal, last).behind(&loss);
                change.notices.extend(cut.map(truncated));
                self.phase = Phase::Keeping { change, asked: false };
            }
        }
    }

    /// The source did not have what was fetched; these are its ends, and where the epoch ends that was read last.
    pub(super) fn source_ends(
        &mut self,
        change: Change,
        (log_start, log_end): (i64, i64),
        epoch_end: Option<EpochEnd>,
    ) {
        // Where the history tells that its end was lost, finding the place anew looks at all that is known of it.
        let overrun = |loss: &Loss| loss.stop.reason == StopReason::RetentionOverrun;
        match Loss::out_of_range(change.source, log_start, log_end)
            .filter(|loss| epoch_end.is_none() || overrun(loss))
            .map(|loss| loss.handle(self.setup.rules.on_loss))
        {
            None => self.wait(
                "SOURCE_MOVED",
                "the source has another history than what was mirrored, or had for a while",
            ),
            Some(Handling::Stop(stop)) => self.phase = Phase::Stopped { stop, said: false },
            Some(Handling::GoOn(loss)) => {
                let change = change.behind(&loss);
                self.phase = Phase::Beginning { change, asked: false };
            }
        }
    }

    /// Asks for the generation, or first for a producer id.
    pub(super) fn begin(&mut self) -> Option<Action> {
        let after = self.setup.detail.begun.generation;
        let (rules, before) = (self.setup.rules, self.setup.detail.begun.start);
        let Phase::Beginning { change, asked } = &mut self.phase else { return None };
        if *asked {
            return None;
        }
        *asked = true;
        if change.offered.is_none() && after.is_last() {
            return Some(self.ask(To::Beginning, Ask::NewProducer));
        }
        Some(Action::Begin(Beginning {
            after,
            offered: change.offered,
            start: PartitionStart {
                source_offset: change.source,
                target_offset: change.target,
                read_uncommitted: rules.read_uncommitted,
                skip_mirrored: rules.skip_mirrored,
                adopted: None,
                source_leader_epoch: change.epoch(),
                marked: before.marked,
            },
            notices: change.notices.clone(),
        }))
    }

    /// Answers [`Action::Begin`]; an error is a stable name and what is wrong.
    pub fn begun(&mut self, begun: Result<PartitionGeneration, (String, String)>, now_ms: u64) {
        let Phase::Beginning { change, .. } = &self.phase else { return };
        let begun = match begun {
            Ok(begun) => begun,
            Err((reason, message)) => return self.wait(&reason, &message),
        };
        let Change { journal, last, .. } = change.clone();
        let same_producer = begun.generation.producer_id == self.setup.detail.begun.generation.producer_id;
        let mut journal = if same_producer { journal } else { journal.renewed(begun.generation.producer_id) };
        journal.go_back(begun.start.source_offset);
        journal.passed(now_ms);
        self.setup.detail.begun = begun;
        self.refusal = None;
        self.inherited = Some(Inherited::FROM_NOBODY);
        // What the target lost before was told with this generation.
        (self.acked_target, self.target_cut) = (i64::MIN, None);
        let PartitionStart { source_offset: source, target_offset: target, .. } = begun.start;
        self.behind.placed();
        self.figures.source_offset = source;
        self.figures.target_offset = target;
        let place = Place { count: 0, source, target };
        // No later epoch can fence this one: one append of it, which fences the one before, and a new producer id follows.
        let last_epoch = begun.generation.is_last();
        let mut stream =
            Stream::new((place, true), (self.facts, self.setup.limits), journal, last, last_epoch);
        stream.looked_ms = now_ms;
        stream.window.expect(self.zombies);
        if !same_producer {
            stream.window.watch(now_ms);
        }
        self.register(Then::Stream(Box::new(stream)));
    }
}

/// So many reports of records that stand twice are remembered, so that none is repeated.
const DOUBLES_TOLD_MAX: usize = 16;

/// What is said of target offsets that may hold records twice.
const UNSURE: &str = "held records that may come to stand there twice: retention or compaction took some before it was \
                      known how far they go on the source, or a replaced owner's append came late; raise the target's \
                      retention, or min.compaction.lag.ms where it is compacted";
const STRAY: &str = "hold records that the source does not have at their place: compaction took them there, or a replaced \
                     owner's append came late and they stand on the target twice or out of order";
const DOUBLED: &str =
    "hold records that stand there twice: an append arrived late while the target had forgotten the flow";

const HOLE: &str = "hold records that come to stand there twice: the target accepted them although it had refused one before \
                    them, since it had dropped the flow's producer state; all of them are mirrored again in order; raise \
                    producer.id.expiration.ms on the target to prevent this";

/// What is said of records that the target lost.
fn truncated((from, to): (i64, i64)) -> Notice {
    let message = format!(
        "the target lost its offsets {from} to {to}, which were acknowledged: they are mirrored again from the source; \
         check the target's replication and unclean elections"
    );
    of_target("TARGET_TRUNCATED", message, (from, to))
}

/// A notice about target offsets, which the offsets of a notice don't name: those are the source's.
pub(super) fn of_target(reason: &'static str, message: String, (from, to): (i64, i64)) -> Notice {
    Notice { reason, message, from_offset: None, to_offset: None, count: Some(to - from) }
}
