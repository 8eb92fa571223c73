//! Which faults strike, in which order: all of it from one seed. Pure.
//!
//! Owns the choices; must not know who is hit: a fault holds numbers that are applied to whoever is there when it
//! strikes.

use std::time::Duration;

/// A worker that is silent for so long loses its partitions.
pub const LEASE: Duration = Duration::from_secs(3);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A source worker is killed with SIGKILL, and started again when others have taken over.
    WorkerKill,
    /// A source worker is killed with SIGKILL and started again at once.
    WorkerRestart,
    /// A source worker stands still (SIGSTOP) for longer than its lease, and goes on (SIGCONT) with what it held.
    WorkerPause,
    /// A broker of the source is killed with SIGKILL and started again.
    SourceBrokerKill,
    /// A broker of the source is ended with SIGTERM and started again.
    SourceBrokerStop,
    /// A broker of the target is killed with SIGKILL and started again.
    TargetBrokerKill,
    /// A broker of the target is ended with SIGTERM and started again.
    TargetBrokerStop,
    /// Connections of the mesh to the source are reset.
    SourceCut,
    /// Connections of the mesh to the target are reset.
    TargetCut,
    /// All connections to the target are reset while a worker has ten or more batches on their way.
    PipelineCut,
    /// The leading coordinator is killed with SIGKILL and started again.
    LeaderKill,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::WorkerKill,
        Self::WorkerRestart,
        Self::WorkerPause,
        Self::SourceBrokerKill,
        Self::SourceBrokerStop,
        Self::TargetBrokerKill,
        Self::TargetBrokerStop,
        Self::SourceCut,
        Self::TargetCut,
        Self::PipelineCut,
        Self::LeaderKill,
    ];

    /// A name for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKill => "worker_kill",
            Self::WorkerRestart => "worker_restart",
            Self::WorkerPause => "worker_pause",
            Self::SourceBrokerKill => "source_broker_kill",
            Self::SourceBrokerStop => "source_broker_stop",
            Self::TargetBrokerKill => "target_broker_kill",
            Self::TargetBrokerStop => "target_broker_stop",
            Self::SourceCut => "source_cut",
            Self::TargetCut => "target_cut",
            Self::PipelineCut => "pipeline_cut",
            Self::LeaderKill => "leader_kill",
        }
    }
}

/// One fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub number: u32,
    /// What is done.
    pub kind: Kind,
    /// Chooses among those that can be hit.
    pub pick: u64,
    /// How long before the victim is started or woken again, where that is not decided by what happens.
    pub hold: Duration,
    /// How long nothing is done before it.
    pub pause: Duration,
    /// Wait until all brokers are in step before it.
    pub alone: bool,
}

impl Fault {
    /// One of `candidates`, which must be in an order of its own; none of none.
    pub fn choose<T: Clone>(&self, candidates: &[T]) -> Option<T> {
        let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
        candidates.get(usize::try_from(self.pick % count).ok()?).cloned()
    }
}

/// An endless sequence of faults. Every kind comes once before any comes again.
#[derive(Debug, Clone)]
pub struct Plan {
    dice: Dice,
    block: Vec<Kind>,
    number: u32,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice(seed), block: Vec::new(), number: 0 }
    }

    fn next_kind(&mut self) -> Option<Kind> {
        if self.block.is_empty() {
            self.block = Kind::ALL.to_vec();
            for last in (1..self.block.len()).rev() {
                let other = usize::try_from(self.dice.below(last as u64 + 1)).unwrap_or(0);
                self.block.swap(last, other);
            }
        }
        self.block.pop()
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let kind = self.next_kind()?;
        self.number += 1;
        let hold = match kind {
            // Beyond the lease and the time that others need to take over.
            Kind::WorkerPause => LEASE + self.dice.millis(2_500, 6_000),
            Kind::SourceBrokerKill | Kind::TargetBrokerKill => self.dice.millis(0, 2_000),
            Kind::WorkerKill
            | Kind::WorkerRestart
            | Kind::SourceBrokerStop
            | Kind::TargetBrokerStop
            | Kind::SourceCut
            | Kind::TargetCut
            | Kind::PipelineCut
            | Kind::LeaderKill => self.dice.millis(200, 1_500),
        };
        Some(Fault {
            number: self.number,
            kind,
            pick: self.dice.roll(),
            hold,
            pause: self.dice.millis(2_000, 6_000),
            alone: self.dice.below(3) > 0,
        })
    }
}

/// `SplitMix64`: the same numbers on every machine and in every version.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which must not be 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_seed_decides_everything() {
        let plan = |seed| Plan::new(seed).take(200).collect::<Vec<_>>();
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let plan: Vec<Kind> = Plan::new(7).take(Kind::ALL.len() * 20).map(|fault| fault.kind).collect();
        for block in plan.chunks(Kind::ALL.len()) {
            assert_eq!(block.iter().collect::<BTreeSet<_>>().len(), Kind::ALL.len());
        }
        let orders: BTreeSet<&[Kind]> = plan.chunks(Kind::ALL.len()).collect();
        assert!(orders.len() > 10, "blocks are not shuffled");
    }

    #[test]
    fn pauses_of_workers_outlast_the_lease() {
        let mut pauses = Plan::new(3).take(500).filter(|fault| fault.kind == Kind::WorkerPause);
        assert!(pauses.all(|fault| fault.hold > LEASE + Duration::from_secs(2)));
    }

    #[test]
    fn a_choice_is_one_of_the_candidates() {
        let faults: Vec<Fault> = Plan::new(5).take(100).collect();
        let chosen: BTreeSet<_> = faults.iter().filter_map(|fault| fault.choose(&['a', 'b', 'c'])).collect();
        assert_eq!(chosen.into_iter().collect::<String>(), "abc");
        assert!(faults.iter().all(|fault| fault.choose::<char>(&[]).is_none()));
    }
}
