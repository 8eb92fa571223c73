//! Leader epochs of what was mirrored, and where each began on the source: what a follower keeps of its own log (Kafka's
//! `LeaderEpochFileCache`), so that the offset at which the source's history parts from it is found as a follower finds it
//! (KIP-101, KIP-320), also where an unclean election went back to records that had been lost before.

/// So many are kept: the newest.
pub const EPOCHS_MAX: usize = 16;

/// Where a leader epoch ends in the source's log (KIP-101, `LeaderEpochFileCache.endOffsetFor`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch that was asked for, or the largest smaller one that the log has.
    pub epoch: i32,
    /// Offset behind its last record.
    pub offset: i64,
    /// The epoch of the leader that says so, -1 if it is not known.
    pub leader: i32,
}

/// First source offset of each leader epoch, both ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epochs(Vec<(i32, i64)>);

/// Where two histories part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Nowhere before the place.
    Nowhere,
    /// What was mirrored from this source offset on is not in the source's history.
    At(i64),
    /// It has to be asked where this epoch ends.
    Ask(i32),
    /// What was mirrored is not known well enough.
    Unknown,
}

impl Epochs {
    /// Of stored ones; what is out of order is left out.
    pub fn new(epochs: impl IntoIterator<Item = (i32, i64)>) -> Self {
        let mut known = Self::default();
        for (epoch, start) in epochs {
            let newer = known.0.last().is_none_or(|(e, s)| *e < epoch && *s < start);
            if newer {
                known.assign(epoch, start);
            }
        }
        known
    }

    /// Epochs and their first offsets, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        self.0.iter().copied()
    }

    /// First offset of the oldest one.
    pub fn start(&self) -> Option<i64> {
        self.0.first().map(|(_, start)| *start)
    }

    /// The newest one.
    pub fn last(&self) -> Option<i32> {
        self.0.last().map(|(epoch, _)| *epoch)
    }

    /// Records of this epoch were read from this offset on. What was noted of later epochs or offsets is of another history.
    pub fn assign(&mut self, epoch: i32, start: i64) {
        if epoch < 0 || self.0.last().is_some_and(|(e, s)| *e == epoch && *s <= start) {
            return;
        }
        self.0.retain(|(e, s)| *e < epoch && *s < start);
        self.0.push((epoch, start));
        let surplus = self.0.len().saturating_sub(EPOCHS_MAX);
        self.0.drain(..surplus);
    }

    /// The history goes on from this offset.
    pub fn truncate(&mut self, end: i64) {
        self.0.retain(|(_, start)| *start < end);
    }

    /// Compares with what the source says of the epoch `asked`, at first of the newest one, which was read up to `reached`.
    pub fn parting(&self, asked: i32, reached: i64, end: EpochEnd) -> Parting {
        let ends_at = |i: usize| self.0.get(i + 1).map_or(reached, |(_, start)| *start);
        let own = self.0.iter().rposition(|(epoch, _)| *epoch <= end.epoch);
        match own.and_then(|i| Some((i, self.0.get(i)?.0))) {
            Some((i, epoch)) if epoch == end.epoch && (epoch == asked || i + 1 < self.0.len()) => {
                let newest = i + 1 == self.0.len();
                if newest && end.offset >= reached {
                    Parting::Nowhere
                } else {
                    Parting::At(end.offset.min(ends_at(i)))
                }
            }
            Some((i, epoch)) if epoch < end.epoch && i + 1 < self.0.len() => Parting::Ask(epoch),
            _ if end.epoch >= asked && end.offset >= reached => Parting::Nowhere,
            _ if end.epoch >= asked => Parting::At(end.offset),
            _ => Parting::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(of: &[(i32, i64)]) -> Epochs {
        Epochs::new(of.iter().copied())
    }

    fn parting(of: &[(i32, i64)], asked: i32, end: (i32, i64)) -> Parting {
        epochs(of).parting(asked, 100, EpochEnd { epoch: end.0, offset: end.1, leader: 9 })
    }

    #[test]
    fn what_is_read_again_takes_the_place_of_what_was_read_there() {
        let mut known = epochs(&[(0, 0), (2, 50), (3, 90)]);
        known.assign(3, 95);
        known.assign(-1, 97);
        assert_eq!(known, epochs(&[(0, 0), (2, 50), (3, 90)]));
        known.assign(1, 70);
        assert_eq!(known, epochs(&[(0, 0), (1, 70)]), "it went back to what it had before");
        known.truncate(70);
        assert_eq!(known, epochs(&[(0, 0)]));
        assert_eq!(
            epochs(&[(3, 5), (2, 9), (4, 5), (4, 6)]),
            epochs(&[(3, 5), (4, 6)]),
            "stored ones may be wrong"
        );
        let many = epochs(&(0..40).map(|i| (i, i64::from(i))).collect::<Vec<_>>());
        assert_eq!((many.0.len(), many.last()), (EPOCHS_MAX, Some(39)));
    }

    #[test]
    fn histories_part_where_a_follower_would_cut_its_log() {
        let known = [(0, 0), (1, 80), (4, 90)];
        assert_eq!(parting(&known, 4, (4, 120)), Parting::Nowhere);
        assert_eq!(parting(&known, 4, (4, 100)), Parting::Nowhere);
        assert_eq!(parting(&known, 4, (4, 99)), Parting::At(99));
        assert_eq!(parting(&known, 4, (1, 88)), Parting::At(88), "all of the last epoch is lost, and more");
        assert_eq!(
            parting(&known, 4, (1, 130)),
            Parting::At(90),
            "what the last epoch had taken is lost for older records"
        );
        assert_eq!(parting(&known, 4, (0, 130)), Parting::At(80));
        assert_eq!(parting(&known, 4, (3, 130)), Parting::Ask(1), "what was never read may begin anywhere");
        assert_eq!(parting(&known, 1, (1, 130)), Parting::At(90));
        assert_eq!(parting(&known, 1, (0, 70)), Parting::At(70));
        assert_eq!(parting(&known[1..], 4, (0, 130)), Parting::Unknown);
        assert_eq!(parting(&[], 4, (4, 130)), Parting::Nowhere);
        assert_eq!(parting(&[], 4, (4, 70)), Parting::At(70));
        assert_eq!(parting(&[], 4, (3, 70)), Parting::Unknown);
        assert_eq!(parting(&known[..2], 4, (0, 130)), Parting::At(80));
        assert_eq!(parting(&[(0, 0), (2, 80)], 4, (1, 130)), Parting::Ask(0), "whatever the newest one was");
        assert_eq!(
            parting(&known[..2], 4, (1, 130)),
            Parting::Unknown,
            "nothing tells where the last epoch began"
        );
    }
}
