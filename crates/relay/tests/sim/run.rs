//! One seed from begin to end.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::check::{LIVENESS, ORDER, Violation};
use crate::doubles::Unsaid;
use crate::kinds::Kind;
use crate::knobs::Fault;
use crate::world::{Counts, World};

/// Steps that healing may take, and sim time.
const HEAL_STEPS: u64 = 200_000;
const HEAL_MS: u64 = 300_000;
const SAFETY_MS: u64 = 120_000;
/// The last position is written, and acknowledged, after so long.
const LAST_POSITION_MS: u64 = 8_000;

#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub records: usize,
    pub fired: Vec<Fault>,
    pub violation: Option<Violation>,
    pub ended: Option<&'static str>,
    pub doubles: u32,
    pub events: u64,
    pub generations: usize,
    pub paths: BTreeMap<&'static str, u64>,
    pub counts: Counts,
    /// Announcements of doubles, and those of them that announce nothing.
    pub announcements: (usize, usize),
}

/// Runs a seed.
pub fn run(seed: u64, trace: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run_inside(seed, trace))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let violation = Violation { invariant: "no panic", message: text.unwrap_or_default() };
        Outcome {
            seed,
            records: 0,
            fired: Vec::new(),
            violation: Some(violation),
            ended: None,
            doubles: 0,
            events: 0,
            generations: 0,
            paths: BTreeMap::new(),
            counts: Counts::default(),
            announcements: (0, 0),
        }
    })
}

fn run_inside(seed: u64, trace: bool) -> Outcome {
    let mut world = World::new(seed, trace);
    if trace {
        println!("{:?} {:?}", Kind::of(seed), world.knobs);
    }
    while world.elapsed() < SAFETY_MS && world.produced < world.knobs.records && world.step() {}
    // A little longer, so that faults strike the last records too.
    world.go_on(2_000);
    world.end();
    Outcome {
        seed,
        records: world.checker.records(),
        fired: world.fired.clone(),
        violation: world.checker.violation.clone(),
        ended: world.ended,
        doubles: world.checker.doubles,
        events: world.events,
        generations: world.checker.generations.len(),
        paths: world.paths.clone(),
        counts: world.counts,
        announcements: world.checker.book.announcements(),
    }
}

impl World {
    /// Time passes.
    pub fn go_on(&mut self, ms: u64) {
        let until = self.elapsed() + ms;
        while self.elapsed() < until && self.step() {}
    }

    /// Faults end, everything arrives, and is judged.
    pub fn end(&mut self) {
        self.heal();
        let (from, events) = (self.elapsed(), self.events);
        while !self.is_healed() && self.step() {
            if self.elapsed() - from > HEAL_MS || self.events - events > HEAL_STEPS {
                let missing = self.checker.missing(&self.source);
                let owner = &self.owners[self.raft.owner];
                let (state, stopped) = (owner.relay.state(), &owner.stopped);
                let number = self.raft.owner;
                let message =
                    format!("not healed: {missing:?}, owner {number} {state:?}, stopped {stopped:?}");
                self.checker.fail(LIVENESS, message);
            }
        }
        // The last position is on its way: an owner of a sparse partition writes one in 5 s. What comes behind it has none.
        self.produced = self.knobs.records;
        self.go_on(LAST_POSITION_MS);
        // A double that came last shows in the base offset of the next append.
        for _ in 0..3 {
            if self.checker.violation.is_some() || self.checker.unsaid(&self.target.log).is_none() {
                break;
            }
            self.one_more();
            self.go_on(20_000);
        }
        // That a topic was made again is noticed by whoever looks at topics.
        let until = self.elapsed() + 20_000;
        while self.checker.crossed && self.elapsed() < until && self.step() {}
        self.judge();
    }

    /// What has to hold at the end.
    fn judge(&mut self) {
        let checker = &mut self.checker;
        if checker.violation.is_none() && checker.crossed && self.ended != Some("source re-created") {
            let message = "records of another topic were mirrored, and nobody says so".to_owned();
            checker.fail(ORDER, message);
        }
        // Where the target topic is another one, nothing of the run is left to be judged.
        let another = self.happened.contains(&Fault::TargetRecreate);
        if checker.violation.is_some() || self.ended.is_some() || another {
            return;
        }
        let all = self.source.infos.len() as u64;
        if self.source.stable() == self.source.end {
            checker.no_loss_before(all, 0, &self.source, "at the end");
        }
        if checker.all_announced(&self.target.log) == Unsaid::AmongOthers {
            self.ended = Some("a double among other writers' records");
        }
        checker.few_are_empty(self.fired.len());
        if checker.went_back {
            // Of offsets that had other records in between, the later copy is what is translated to.
            return checker.in_order_at_the_end(&self.source);
        }
        if self.happened.contains(&Fault::PositionsLost) {
            // Segments that were acknowledged and are lost can't be found again behind the start of a generation.
            return;
        }
        let exact = !self.knobs.facts.source_compacted && checker.doubles == 0 && !checker.target_lost;
        let values: BTreeMap<_, _> =
            self.positions.iter().map(|(key, value)| (key.kind, value.as_ref())).collect();
        let there = self.target.log.iter().flat_map(|b| &b.records).map(|(at, rec)| (rec.uid, *at)).collect();
        checker.translation(&values, &self.source, &there, exact);
    }
}
