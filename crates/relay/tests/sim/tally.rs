//! What came of many seeds.

use std::collections::BTreeMap;
use std::fmt;

use crate::check::Violation;
use crate::kinds::Kind;
use crate::knobs::Fault;
use crate::run::{Outcome, run};
use crate::world::Counts;

/// A seed counts from here on.
const RECORDS_MIN: usize = 200;
const FAULTS_MIN: usize = 3;

impl Counts {
    fn add(&mut self, other: Self) {
        self.unarmed += other.unarmed;
        self.in_pipelines += other.in_pipelines;
        self.holes += other.holes;
        self.zombies += other.zombies;
        self.forgotten_zombies += other.forgotten_zombies;
    }
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    pub counted: u64,
    pub doubles: u64,
    pub records: u64,
    pub faults: u64,
    pub events: u64,
    pub generations: u64,
    pub ended: BTreeMap<&'static str, u64>,
    pub struck: BTreeMap<Fault, u64>,
    pub paths: BTreeMap<&'static str, u64>,
    pub kinds: BTreeMap<Kind, u64>,
    pub counts: Counts,
    /// Announcements of doubles, and those of them that announce nothing.
    pub announcements: (usize, usize),
    /// How many seeds have so many announcements of nothing.
    pub empty: BTreeMap<usize, u64>,
    pub failures: Vec<(u64, Violation)>,
}

impl Tally {
    pub fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        if outcome.records >= RECORDS_MIN && outcome.fired.len() >= FAULTS_MIN {
            self.counted += 1;
        }
        self.doubles += u64::from(outcome.doubles > 0);
        *self.kinds.entry(Kind::of(outcome.seed)).or_default() += 1;
        self.counts.add(outcome.counts);
        self.announcements.0 += outcome.announcements.0;
        self.announcements.1 += outcome.announcements.1;
        *self.empty.entry(outcome.announcements.1).or_default() += 1;
        self.records += outcome.records as u64;
        self.faults += outcome.fired.len() as u64;
        self.events += outcome.events;
        self.generations += outcome.generations as u64;
        if let Some(ended) = outcome.ended {
            *self.ended.entry(ended).or_default() += 1;
        }
        for fault in outcome.fired {
            *self.struck.entry(fault).or_default() += 1;
        }
        for (path, count) in outcome.paths {
            *self.paths.entry(path).or_default() += count;
        }
        if let Some(violation) = outcome.violation {
            self.failures.push((outcome.seed, violation));
        }
    }

    /// Shows what happens in the first two seeds that break each invariant.
    pub fn show_failures(&self) {
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for (seed, violation) in &self.failures {
            let shown = shown.entry(violation.invariant).or_default();
            *shown += 1;
            if *shown <= 2 {
                println!("\n{:?}", run(*seed, true));
            }
        }
    }

    pub fn join(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.counted += other.counted;
        self.doubles += other.doubles;
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.counts.add(other.counts);
        self.announcements.0 += other.announcements.0;
        self.announcements.1 += other.announcements.1;
        for (empty, count) in other.empty {
            *self.empty.entry(empty).or_default() += count;
        }
        self.records += other.records;
        self.faults += other.faults;
        self.events += other.events;
        self.generations += other.generations;
        for (ended, count) in other.ended {
            *self.ended.entry(ended).or_default() += count;
        }
        for (fault, count) in other.struck {
            *self.struck.entry(fault).or_default() += count;
        }
        for (path, count) in other.paths {
            *self.paths.entry(path).or_default() += count;
        }
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds, {} counted, {} records, {} faults, {} events, {} generations, {} seeds with announced doubles",
            self.seeds, self.counted, self.records, self.faults, self.events, self.generations, self.doubles
        )?;
        let (all, empty) = self.announcements;
        writeln!(
            f,
            "{all} announcements of doubles, {empty} of nothing {:?}; {:?}",
            self.empty, self.counts
        )?;
        let kinds: Vec<_> = self.kinds.iter().map(|(kind, count)| (kind.name(), count)).collect();
        writeln!(f, "worlds: {kinds:?}")?;
        writeln!(f, "ended early: {:?}", self.ended)?;
        writeln!(f, "faults: {:?}", self.struck)?;
        writeln!(f, "paths: {:?}", self.paths)?;
        let mut by_name: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (seed, violation) in &self.failures {
            by_name.entry(violation.invariant).or_default().push(*seed);
        }
        for (name, seeds) in &by_name {
            // Read by `cargo xtask planted`.
            writeln!(f, "FAILED {name}: {} seeds, {:?}", seeds.len(), &seeds[..seeds.len().min(20)])?;
        }
        for name in by_name.keys() {
            for (seed, violation) in self.failures.iter().filter(|(_, v)| v.invariant == *name).take(8) {
                writeln!(f, "seed {seed}: {name}: {:.400}", violation.message)?;
            }
        }
        Ok(())
    }
}
