//! What stands on the target twice or out of order: when that may be, and that it is announced.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::report::Delivery;

use crate::check::{Appending, Checker, Claim, Mirror, NO_DUP, ORDER};
use crate::target::Batch;

/// So many announcements of a run may announce nothing, beside one for every third fault: where it can't be known what
/// stands twice, the relay announces what may.
const EMPTY_MAX: usize = 4;

/// A record that was appended where it does not belong.
#[derive(Debug, Clone, Copy)]
struct Owed {
    offset: i64,
    /// It stands there twice; else behind later ones.
    again: bool,
    /// The sender took what another owner had appended for other writers' records.
    among_others: bool,
}

/// Whether everything that stands twice was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaid {
    /// It was, or a violation was found.
    Nothing,
    /// What was not stands among other writers' records, where it can't be told from theirs (docs/guarantees.md).
    AmongOthers,
}

/// An announcement that target offsets hold records twice.
#[derive(Debug)]
struct Announcement {
    range: (i64, i64),
    uids: BTreeSet<u64>,
    /// One of these records stands twice or out of order, or came to.
    holds: bool,
}

/// What stands twice or out of order, and what was announced of that.
#[derive(Debug, Default)]
pub struct Book {
    /// Records of which somebody has to say it.
    owed: BTreeMap<u64, Owed>,
    /// Records that stood twice or out of order at any time.
    odd: BTreeSet<u64>,
    /// Records of which somebody said it.
    announced: BTreeSet<u64>,
    announcements: Vec<Announcement>,
    /// It was said of these that the source lost them and the target has them.
    pub lost: BTreeSet<u64>,
    /// What is appended now is [`Owed::among_others`].
    pub among_others: bool,
}

impl Book {
    fn owe(&mut self, uid: u64, offset: i64, again: bool) {
        let among_others = self.among_others;
        self.owed.insert(uid, Owed { offset, again, among_others });
    }

    fn odd(&mut self, uid: u64) {
        self.odd.insert(uid);
        for announcement in self.announcements.iter_mut().filter(|a| a.uids.contains(&uid)) {
            announcement.holds = true;
        }
    }

    pub fn is_announced(&self, uid: u64) -> bool {
        self.announced.contains(&uid)
    }

    /// The target's log ends here now.
    pub fn truncated(&mut self, at: i64) {
        self.owed.retain(|_, owed| owed.offset < at);
    }

    /// How many announcements there were, and how many of them announced nothing.
    pub fn announcements(&self) -> (usize, usize) {
        let empty = self.announcements.iter().filter(|a| !a.holds).count();
        (self.announcements.len(), empty)
    }
}

impl Checker {
    /// It was said of this record that it stands twice, or does if the source gets it back.
    pub fn is_announced(&self, uid: u64) -> bool {
        self.book.is_announced(uid) || self.went_back && self.book.lost.contains(&uid)
    }

    /// Somebody says that these target offsets hold records twice.
    pub fn announce(&mut self, from: i64, to: i64) {
        let inside = self.ledger.iter().filter(|m| (from..to).contains(&m.offset));
        let uids: BTreeSet<_> = inside.map(|m| m.uid).collect();
        let holds = uids.iter().any(|uid| self.book.odd.contains(uid));
        self.book.announced.extend(&uids);
        self.book.announcements.push(Announcement { range: (from, to), uids, holds });
    }

    /// A record of which it was not said, at first one that could be told. What the target's cleaner or retention took of
    /// them nobody can see.
    pub fn unsaid(&self, log: &[Batch]) -> Option<u64> {
        self.unsaid_of(log, false).or_else(|| self.unsaid_of(log, true))
    }

    fn unsaid_of(&self, log: &[Batch], among_others: bool) -> Option<u64> {
        let there = |uid: u64| log.iter().flat_map(|b| &b.records).filter(move |(_, rec)| rec.uid == uid);
        let stands = |(uid, owed): (&u64, &Owed)| {
            there(*uid).any(|(offset, _)| *offset == owed.offset) && (!owed.again || there(*uid).count() > 1)
        };
        let unsaid = self.book.owed.iter().filter(|(uid, _)| !self.is_announced(**uid));
        let unsaid = unsaid.filter(|(_, owed)| owed.among_others == among_others);
        unsaid.filter(|entry| stands(*entry)).map(|(uid, _)| *uid).next()
    }

    /// I2: what stands twice or out of order was announced.
    pub fn all_announced(&mut self, log: &[Batch]) -> Unsaid {
        if let Some(uid) = self.unsaid_of(log, false) {
            self.fail(NO_DUP, format!("record {uid} stands twice or out of order, and nobody says so"));
        } else if self.unsaid_of(log, true).is_some() {
            return Unsaid::AmongOthers;
        }
        Unsaid::Nothing
    }

    /// Announcements announce something, but for a few.
    pub fn few_are_empty(&mut self, faults: usize) {
        let (all, empty) = self.book.announcements();
        if empty > EMPTY_MAX + faults / 3 {
            let ranges: Vec<_> =
                self.book.announcements.iter().filter(|a| !a.holds).map(|a| a.range).collect();
            self.fail(NO_DUP, format!("{empty} of {all} announcements announce nothing: {ranges:?}"));
        }
    }

    /// I2, I3: once and in order. What the figures did not promise may stand twice, if somebody says so.
    pub fn doubled(&mut self, uid: u64, offset: i64, again: bool, claim: &Claim, how: Appending) {
        if again {
            self.doubles += 1;
        }
        self.book.odd(uid);
        if again && self.went_back {
            // Somebody has to say so, before or after.
            self.book.owe(uid, offset, again);
            return;
        }
        if self.refilled {
            // Whoever notices what the target lost, and what it took since, says so; beside others' records nobody can.
            if again && !self.foreign {
                self.book.owe(uid, offset, again);
            }
            return;
        }
        if self.went_back {
            return;
        }
        // Raising the epoch has a window: until the new generation's first append, the old one is not
        // fenced. What stands twice then is announced by the next look for the place.
        // What stands behind later ones does so behind the last of them: what stands twice tells nothing of it.
        let newest = || self.ledger.iter().rev().find(|m| !m.again && !m.gone);
        let first = self.ledger.iter().find(|m| m.uid == uid).or_else(newest);
        let window = first.is_some_and(|m| {
            // Nothing on a broker relates two producer ids: one does not fence the other.
            m.generation.producer_id != claim.generation.producer_id || m.generation < claim.generation
        });
        // A new producer id fences nobody under the last one, and does not know of them before it looks for its place.
        let other = first.is_some_and(|m| m.generation.producer_id != claim.generation.producer_id);
        let unfenced = claim.delivery != Delivery::ExactlyOnce || other && claim.stale;
        if window && (self.book.is_announced(uid) || unfenced) {
            if again {
                self.book.owe(uid, offset, again);
            }
            return;
        }
        // It was said of everything behind it that it comes again, or stands where it does not belong.
        let later = |m: &&Mirror| m.uid > uid && !m.gone;
        let said = self.ledger.iter().filter(later).all(|m| self.book.is_announced(m.uid));
        if !again && said {
            return;
        }
        // Where the content is not fixed, an old batch with exactly the boundaries of the append that hands over lets those
        // behind it pass until the new generation's first append: that they stand where they do is announced. So is a zombie
        // request that the target took since it had dropped the producer's state, with those that follow it: it brought that
        // state back. So is what the target had refused, where it took later records behind that without the producer's
        // state: it comes behind those, and they come again.
        let fixed = claim.delivery != Delivery::ContentNotFixed && !claim.lost;
        let may_expire = claim.delivery != Delivery::ExactlyOnce;
        let refused_before = !how.armed && may_expire;
        if !again && (claim.stale && (!fixed || !how.armed || may_expire) || refused_before) {
            self.book.owe(uid, offset, again);
            return;
        }
        if how.sure || claim.delivery == Delivery::ExactlyOnce || !again {
            let name = if again { NO_DUP } else { ORDER };
            let message = format!(
                "record {uid} was appended {} at target offset {offset} ({how:?}, {:?})",
                if again { "again" } else { "behind later ones" },
                claim.delivery
            );
            return self.fail(name, message);
        }
        // The target had forgotten the flow, and took it: that has to be found and said.
        self.book.owe(uid, offset, again);
    }
}
