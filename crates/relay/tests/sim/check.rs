//! The invariants, each a function, and what they need to remember.

use std::collections::BTreeSet;

use mirrormesh_core::flow::TimestampPolicy;
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::position::Position;
use mirrormesh_core::report::Delivery;
use mirrormesh_core::unit::{Generation, PartitionGeneration};
use mirrormesh_relay::machine::{Notice, Rules};

use crate::doubles::Book;
use crate::record::Rec;
use crate::source::{Gone, Info, Source, State};

/// A broken invariant.
#[derive(Debug, Clone)]
pub struct Violation {
    pub invariant: &'static str,
    pub message: String,
}

pub const NO_LOSS: &str = "I1 no-loss";
pub const NO_DUP: &str = "I2 no-dup";
pub const ORDER: &str = "I3 order";
pub const BYTES: &str = "I4 bytes";
pub const TRANSLATION: &str = "I5/I6 translation";
pub const SINGLE_WRITER: &str = "I9 single writer";
pub const PROGRESS: &str = "I10 progress durable";
pub const LIVENESS: &str = "I14 liveness";
pub const TOO_LARGE: &str = "nothing that fits is called too large";
pub const ABORTED: &str = "I18 aborted";
pub const LOOP: &str = "no record goes back to where it came from";

/// A record of ours on the target.
#[derive(Debug, Clone, Copy)]
pub struct Mirror {
    pub offset: i64,
    pub uid: u64,
    pub generation: Generation,
    /// The log had it already.
    pub again: bool,
    /// The cleaner took it from the target in favour of one that the target lost since: it has to come again.
    pub gone: bool,
}

/// What came with an append.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    pub generation: Generation,
    pub source_topic: TopicId,
    /// What the sender said of the guarantee when it sent.
    pub delivery: Delivery,
    pub timestamps: TimestampPolicy,
    /// The target sets its own timestamps.
    pub append_time: bool,
    /// Its fetches name topics only.
    pub by_name: bool,
    /// The source lost what the sender read, and who owns the generation by now shares it with others.
    pub lost: bool,
    /// By now the sender was replaced, gave the connection up, or the generation is not the present one.
    pub stale: bool,
}

/// How the target took an append.
#[derive(Debug, Clone, Copy)]
pub struct Appending {
    /// It knew the producer.
    pub armed: bool,
    /// Nothing that anybody may be excused by happened before.
    pub sure: bool,
    /// Another owner appended before it, the target dropped the producer's state since, and the flow lets others write: the
    /// sender takes what stands before it for theirs.
    pub among_others: bool,
    /// Timestamps that the target takes.
    pub bounds: Option<(i64, i64)>,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug, Default)]
pub struct Checker {
    pub ledger: Vec<Mirror>,
    mirrored: BTreeSet<u64>,
    /// Named by an event that was kept.
    named: BTreeSet<u64>,
    pub generations: Vec<PartitionGeneration>,
    pub violation: Option<Violation>,
    pub doubles: u32,
    /// What stands twice or out of order, and what was announced of that.
    pub book: Book,
    /// The newest generation that appended while the target remembered it.
    fenced: Option<Generation>,
    /// Goes up whenever the target's log changes.
    pub version: u64,
    /// The target lost acknowledged records, or was made again.
    pub target_lost: bool,
    /// What it lost may have been filled up again before anybody could know: it has to be noticed, sooner or later.
    pub refilled: bool,
    /// Records of another topic of the same name were mirrored.
    pub crossed: bool,
    /// The source lost records and uses their offsets again.
    pub source_cut: bool,
    /// The source went back to records that it had lost. Whoever is between two looks at its history can't know, and what is
    /// there again was mirrored before, or not: all is looked at when the run is over.
    pub went_back: bool,
    /// Others write to the target. Where it lost its end too, theirs may stand where ours did, which nothing tells.
    pub foreign: bool,
    /// Who appended last.
    pub last_by: Option<usize>,
}

impl Checker {
    pub fn fail(&mut self, invariant: &'static str, message: String) {
        self.violation.get_or_insert(Violation { invariant, message });
    }

    /// Under which rule was the source read at this record: that of the generation which mirrored what follows it, or of
    /// the last one. What stands behind a missing record was mirrored twice, so the ledger goes back there: the record
    /// before this one tells by its last copy where this one was passed.
    fn rule_at(&self, info: &Info) -> bool {
        let (before, later): (Vec<_>, Vec<_>) =
            self.ledger.iter().enumerate().partition(|(_, m)| m.uid <= info.rec.uid);
        let passed = before.iter().max_by_key(|(at, m)| (m.uid, *at)).map(|(at, _)| *at);
        let behind = later.iter().find(|(at, _)| passed.is_none_or(|passed| *at > passed));
        let generation = behind.map(|(_, m)| m.generation);
        let by = self
            .generations
            .iter()
            .find(|g| Some(g.generation) == generation)
            .or_else(|| self.generations.last());
        by.is_some_and(|g| g.start.read_uncommitted && g.start.source_offset <= info.offset)
    }

    /// The newest record that is on the target.
    pub fn newest(&self) -> u64 {
        self.mirrored.last().copied().unwrap_or(0)
    }

    /// It was said of this record that it is left out.
    pub fn is_named(&self, uid: u64) -> bool {
        self.named.contains(&uid)
    }

    /// The newest record of ours was there already.
    pub fn last_again(&self) -> bool {
        self.ledger.last().is_some_and(|m| m.again)
    }

    /// Must this record be on the target, once the mirror is past it?
    fn is_required(&self, info: &Info) -> bool {
        let start = self.generations.first().map_or(0, |g| g.start.source_offset);
        if info.offset < start || self.named.contains(&info.rec.uid) {
            return false;
        }
        match (info.gone, info.state) {
            (_, State::Mirrored)
            | (Some(Gone::Compacted | Gone::Truncated), _)
            | (Some(Gone::Retained), State::Open | State::Aborted) => false,
            (_, State::Plain | State::Committed) => true,
            (None, State::Open | State::Aborted) => self.rule_at(info),
        }
    }

    /// I1: nothing that must be there is missing before this number.
    pub fn no_loss_before(&mut self, uid: u64, from: u64, source: &Source, when: &str) {
        if self.target_lost && self.foreign {
            return;
        }
        for info in &source.infos[from as usize..uid as usize] {
            if info.topic == source.topic && !self.mirrored.contains(&info.rec.uid) && self.is_required(info)
            {
                let message = format!(
                    "{when}: record {} at source offset {} is missing ({info:?})",
                    info.rec.uid, info.offset
                );
                return self.fail(NO_LOSS, message);
            }
        }
    }

    /// A batch of ours stands on the target now.
    pub fn appended(&mut self, records: &[(i64, Rec)], claim: &Claim, how: Appending, source: &Source) {
        self.version += 1;
        self.book.among_others = how.among_others;
        self.single_writer(claim, how.armed);
        for (offset, rec) in records {
            let Some(info) = source.infos.get(rec.uid as usize) else {
                return self.fail(
                    BYTES,
                    format!("the target's offset {offset} holds what no source record is: {rec:?}"),
                );
            };
            self.content(rec, info, claim, how.bounds);
            self.transaction(info, claim);
            if info.topic != claim.source_topic && claim.by_name {
                // Such a source can't tell; that it was another topic has to be noticed.
                self.crossed = true;
                continue;
            } else if info.topic != claim.source_topic {
                self.fail(
                    ORDER,
                    format!("record {} of another topic that has the same name was mirrored", rec.uid),
                );
            }
            let gone = |uid: u64| self.ledger.iter().all(|m| m.uid != uid || m.gone);
            let again = self.mirrored.contains(&rec.uid) && !gone(rec.uid);
            let last = self.ledger.iter().rev().find(|m| !m.again && !m.gone).map(|m| m.uid);
            if again || last.is_some_and(|last| rec.uid < last) {
                self.doubled(rec.uid, *offset, again, claim, how);
            }
            self.ledger.push(Mirror {
                offset: *offset,
                uid: rec.uid,
                generation: claim.generation,
                again,
                gone: false,
            });
            self.mirrored.insert(rec.uid);
            // Deferred: who looks for its place then has to see that one is left out.
            let deferred = claim.stale && claim.delivery == Delivery::ContentNotFixed;
            // The target dropped the producer's state between two batches of a pipeline: the one before this one may be
            // missing. It must come, and what stands here comes again behind it.
            let hole = !how.armed && claim.delivery != Delivery::ExactlyOnce;
            if !again && !deferred && !hole && !self.went_back && !self.refilled {
                // What a later record tells that stood there before, it told then: it was excused.
                let highest = self.ledger.iter().filter(|m| !m.again && !m.gone).map(|m| m.uid).max();
                let from = highest.filter(|_| last.is_some()).map_or(0, |uid| uid + 1).min(rec.uid);
                self.no_loss_before(rec.uid, from, source, "behind it on the target stands a later one");
            }
        }
    }

    /// I4: key, value, timestamp.
    fn content(&mut self, rec: &Rec, info: &Info, claim: &Claim, bounds: Option<(i64, i64)>) {
        let same = (rec.key, rec.size) == (info.rec.key, info.rec.size);
        let clamped = claim.timestamps == TimestampPolicy::Clamp
            && bounds.is_some_and(|(first, last)| {
                // Clocks differ a little.
                (info.time < first + 600_000 || info.time > last - 600_000)
                    && (first..=last).contains(&rec.time)
            });
        if !same || (rec.time != info.time && !clamped && !claim.append_time) {
            self.fail(BYTES, format!("{rec:?} on the target is {info:?} on the source"));
        }
    }

    /// I18: aborted and open records never show.
    fn transaction(&mut self, info: &Info, claim: &Claim) {
        let uncommitted = self
            .generations
            .iter()
            .find(|g| g.generation == claim.generation)
            .is_some_and(|g| g.start.read_uncommitted);
        if info.state == State::Mirrored {
            self.fail(LOOP, format!("{info:?} came from the target and was mirrored back"));
        }
        let hidden = matches!(info.state, State::Open | State::Aborted) && info.gone != Some(Gone::Truncated);
        if hidden && !uncommitted && !info.shown {
            self.fail(ABORTED, format!("{info:?} was mirrored"));
        }
    }

    /// I9: where the target remembers, nothing of an older generation is appended behind a newer one.
    fn single_writer(&mut self, claim: &Claim, armed: bool) {
        let known = self.generations.iter().position(|g| g.generation == claim.generation);
        if known.is_none() {
            self.fail(SINGLE_WRITER, format!("{:?} was never given out", claim.generation));
        }
        let newest = self.fenced.and_then(|f| self.generations.iter().position(|g| g.generation == f));
        let same_producer = self.fenced.is_some_and(|f| f.producer_id == claim.generation.producer_id);
        if armed && same_producer && known < newest {
            self.fail(SINGLE_WRITER, format!("{:?} appended behind {:?}", claim.generation, self.fenced));
        }
        // Where it had forgotten, the old one is what it knows from now on.
        if known >= newest || !armed {
            self.fenced = Some(claim.generation);
        }
    }

    /// The target's log ends here now, and holds this.
    pub fn truncated(&mut self, at: i64, there: &BTreeSet<i64>) {
        self.version += 1;
        self.ledger.retain(|m| m.offset < at);
        self.book.truncated(at);
        // What fenced an older generation may be gone: then the target knows of no newer one.
        self.fenced = self.ledger.last().map(|m| m.generation);
        for mirror in &mut self.ledger {
            mirror.gone |= !there.contains(&mirror.offset);
        }
        self.mirrored = self.ledger.iter().map(|m| m.uid).collect();
    }

    /// A generation was begun, with what was kept in the same step.
    pub fn begun(
        &mut self,
        begun: PartitionGeneration,
        notices: &[Notice],
        source: &Source,
        bytes_min: usize,
    ) {
        let last = self.generations.last().map(|g| g.generation);
        if last.is_some_and(|l| {
            l.producer_id == begun.generation.producer_id && l.epoch >= begun.generation.epoch
        }) {
            self.fail(SINGLE_WRITER, format!("generation {begun:?} after {last:?}"));
        }
        self.generations.push(begun);
        for notice in notices {
            let (Some(from), Some(to)) = (notice.from_offset, notice.to_offset) else { continue };
            if matches!(notice.reason, "SOURCE_DIVERGED" | "SOURCE_TRUNCATED") {
                // Where the mirror stood is told as far as it is known: every record takes an offset, some take more.
                let named = |m: &&Mirror| source.infos[m.uid as usize].offset >= from;
                self.book.lost.extend(self.ledger.iter().filter(named).map(|m| m.uid));
            }
            let overrun = notice.reason == "RETENTION_OVERRUN";
            if !overrun && notice.reason != "RECORD_SKIPPED" {
                continue;
            }
            if !overrun && !Self::is_too_large(source, Some(from), bytes_min) {
                self.fail(TOO_LARGE, format!("{notice:?}"));
            }
            let inside =
                source.infos.iter().filter(|i| i.topic == source.topic && (from..to).contains(&i.offset));
            // What was skipped was there when it was looked at, wherever it is since.
            let named = |i: &&Info| i.gone == Some(Gone::Retained) || !overrun;
            self.named.extend(inside.filter(named).map(|i| i.rec.uid));
        }
    }

    /// I10: a position tells only of what is acknowledged, and of nothing that is missing.
    pub fn position(&mut self, position: &Position, high_watermark: i64, source: &Source) {
        if self.target_lost || self.crossed {
            return;
        }
        if position.target_offset > high_watermark {
            let message = format!(
                "a position tells of target offset {} while {high_watermark} is replicated",
                position.target_offset
            );
            self.fail(PROGRESS, message);
        }
        self.passed(
            position.source_offset,
            position.source_topic_id,
            source,
            "a position is written behind it",
        );
        let ours = |m: &&Mirror| m.generation == position.generation && m.offset < position.target_offset;
        let count = self.ledger.iter().filter(ours).count() as i64;
        if self.doubles == 0 && position.count > count {
            let message = format!("a position tells of {} records, {count} were appended", position.count);
            self.fail(PROGRESS, message);
        }
    }

    /// I1: the mirror is past this source offset.
    pub fn passed(&mut self, offset: i64, topic: TopicId, source: &Source, when: &str) {
        if topic != source.topic || self.target_lost || self.went_back {
            return;
        }
        let behind = source
            .infos
            .iter()
            .find(|i| i.topic == topic && i.gone != Some(Gone::Truncated) && i.offset >= offset);
        let end = behind.map_or(source.infos.len() as u64, |i| i.rec.uid);
        // Who mirrored what the source lost since can't know of what stands there now.
        let newest = self.ledger.iter().map(|m| m.uid).max().unwrap_or(0);
        let end = if self.source_cut { end.min(newest) } else { end };
        if offset <= source.end {
            self.no_loss_before(end, 0, source, when);
        }
    }

    /// I10: a place that was found is behind everything that stands on the target.
    pub fn found(&mut self, offset: i64, version: u64, source: &Source) {
        if version != self.version || self.target_lost || self.doubles > 0 || self.went_back {
            return;
        }
        let Some(last) = self.ledger.iter().rev().find(|m| !m.again) else { return };
        let info = &source.infos[last.uid as usize];
        // It was said that this one may come again.
        if self.book.is_announced(last.uid) {
            return;
        }
        if info.gone.is_none() && info.topic == source.topic && info.offset >= offset {
            let message =
                format!("goes on from source offset {offset}, {} is on the target already", info.offset);
            self.fail(PROGRESS, message);
        }
    }

    /// The record at this source offset was once too large for the target, even alone.
    pub fn is_too_large(source: &Source, offset: Option<i64>, bytes_min: usize) -> bool {
        // The source may have been recreated meanwhile.
        let there = |i: &&Info| Some(i.offset) == offset;
        source.infos.iter().filter(there).any(|i| i.rec.alone() > bytes_min)
    }

    /// I9: who takes over under a new generation had an append acknowledged under the old one first: it was refused if
    /// the old owner was quicker.
    pub fn handed_over(&mut self, o: usize, begins: &Generation, handed: bool) {
        if !handed && !self.ledger.is_empty() {
            self.fail(
                SINGLE_WRITER,
                format!("owner {o} raises the epoch of {begins:?} without a hand-over append"),
            );
        }
    }

    /// Everything is there.
    pub fn is_complete(&self, source: &Source) -> bool {
        if self.target_lost && self.foreign {
            return true;
        }
        let ready = |i: &&Info| i.topic == source.topic && i.offset < source.stable() && i.gone.is_none();
        source.infos.iter().filter(ready).all(|i| self.mirrored.contains(&i.rec.uid) || !self.is_required(i))
    }

    /// The first that is not.
    pub fn missing(&self, source: &Source) -> Option<Info> {
        let missing = |i: &&Info| {
            i.topic == source.topic
                && i.gone.is_none()
                && !self.mirrored.contains(&i.rec.uid)
                && self.is_required(i)
        };
        source.infos.iter().find(missing).copied()
    }

    pub fn records(&self) -> usize {
        self.mirrored.len()
    }
}

/// The rules under which timestamps are judged.
pub fn timestamps(rules: Rules) -> TimestampPolicy {
    rules.timestamps
}
