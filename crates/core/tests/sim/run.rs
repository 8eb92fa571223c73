//! One seed from begin to end, and what came of many.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mirrormesh_core::relay::position::PositionValue;

use crate::check::{LIVENESS, NO_DUP, ORDER, Violation};
use crate::knobs::Fault;
use crate::world::World;

/// A seed counts from here on.
const RECORDS_MIN: usize = 200;
const FAULTS_MIN: usize = 3;
/// Steps that healing may take, and sim time.
const HEAL_STEPS: u64 = 200_000;
const HEAL_MS: u64 = 300_000;
/// The same in strict worlds: each append takes a marker, and some wait until no stray may come.
const HEAL_STRICT_MS: u64 = 1_200_000;
const HEAL_STRICT_STEPS: u64 = 800_000;
const SAFETY_MS: u64 = 120_000;
/// The same where nothing old is sent while strays may come.
const SAFETY_STRICT_MS: u64 = 400_000;

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
    /// Markers on the target; `None` where the world is not strict.
    pub markers: Option<u64>,
    /// Strays that came late.
    pub strays: u64,
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
            markers: None,
            strays: 0,
        }
    })
}

fn run_inside(seed: u64, trace: bool) -> Outcome {
    let mut world = World::new(seed, trace);
    if trace {
        println!("{:?}", world.knobs);
    }
    let safety_ms = if world.knobs.waits() { SAFETY_STRICT_MS } else { SAFETY_MS };
    while world.elapsed() < safety_ms && world.produced < world.knobs.records && world.step() {}
    // A little longer, so that faults strike the last records too.
    let until = world.elapsed() + 2_000;
    while world.elapsed() < until && world.step() {}
    world.heal();
    let (from, events) = (world.elapsed(), world.events);
    let (heal_ms, heal_steps) =
        if world.knobs.waits() { (HEAL_STRICT_MS, HEAL_STRICT_STEPS) } else { (HEAL_MS, HEAL_STEPS) };
    while !world.is_healed() && world.step() {
        if world.elapsed() - from > heal_ms || world.events - events > heal_steps {
            let missing = world.checker.missing(&world.source);
            let owner = &world.owners[world.raft.owner];
            let state = owner.relay.state();
            let message = format!(
                "not healed: {missing:?}, owner {} {state:?}, stopped {:?}",
                world.raft.owner, owner.stopped
            );
            world.checker.fail(LIVENESS, message);
        }
    }
    // The last position is on its way.
    let until = world.elapsed() + 3_000;
    while world.elapsed() < until && world.step() {}
    // A double that came last shows in the base offset of the next append.
    for _ in 0..3 {
        if world.checker.violation.is_some() || world.checker.unsaid(&world.target.log).is_none() {
            break;
        }
        world.one_more();
        let until = world.elapsed() + 20_000;
        while world.elapsed() < until && world.step() {}
    }
    // That a topic was made again is noticed by whoever looks at topics.
    let until = world.elapsed() + 20_000;
    while world.checker.crossed && world.elapsed() < until && world.step() {}
    finish(&mut world);
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
        markers: world.knobs.rules.strict.then_some(world.markers),
        strays: world.strays,
    }
}

/// Where each generation was strict, nothing stands twice, announced or not. What strict delivery does not change is left
/// out: a source whose content is not fixed, a new producer id, which fences nobody, and a target whose retention takes what
/// no position tells of yet: then it is not known which history of the source that was.
fn once_where_strict(world: &mut World) {
    let knobs = &world.knobs;
    let strict = world.checker.generations.iter().all(|g| g.start.strict);
    let fixed = !knobs.facts.source_compacted && !knobs.by_name && !knobs.last_epoch;
    let kept = !world.checker.target_lost && !world.checker.source_cut && !world.checker.foreign;
    let kept = kept && !world.happened.contains(&Fault::TargetRetain);
    if knobs.rules.strict && strict && fixed && kept && world.checker.doubles > 0 {
        let message = format!("{} records stand twice although delivery is strict", world.checker.doubles);
        world.checker.fail(NO_DUP, message);
    }
}

/// What has to hold at the end.
fn finish(world: &mut World) {
    once_where_strict(world);
    if world.checker.violation.is_none() && world.checker.crossed && world.ended != Some("source re-created")
    {
        let message = "records of another topic were mirrored, and nobody says so".to_owned();
        world.checker.fail(ORDER, message);
    }
    if world.checker.violation.is_some() || world.ended.is_some() || world.checker.target_lost {
        return;
    }
    let all = world.source.infos.len() as u64;
    if world.source.stable() == world.source.end {
        world.checker.no_loss_before(all, 0, &world.source, "at the end");
    }
    world.checker.all_announced(&world.target.log);
    if world.checker.went_back {
        // Of offsets that had other records in between, the later copy is what is translated to.
        return world.checker.in_order_at_the_end(&world.source);
    }
    let exact = !world.knobs.facts.source_compacted && world.checker.doubles == 0;
    let values: BTreeMap<_, &PositionValue> =
        world.positions.iter().map(|(key, value)| (key.kind, value)).collect();
    let there = world.target.log.iter().flat_map(|b| &b.records).map(|(at, rec)| (rec.uid, *at)).collect();
    world.checker.translation(&values, &world.source, &there, exact);
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
    /// Strict seeds, the markers in them, and those of them with doubles.
    pub strict: (u64, u64, u64),
    /// Strays that came late.
    pub strays: u64,
    pub failures: Vec<(u64, Violation)>,
}

impl Tally {
    pub fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        if outcome.records >= RECORDS_MIN && outcome.fired.len() >= FAULTS_MIN {
            self.counted += 1;
        }
        self.doubles += u64::from(outcome.doubles > 0);
        if let Some(markers) = outcome.markers {
            self.strict.0 += 1;
            self.strict.1 += markers;
            self.strict.2 += u64::from(outcome.doubles > 0);
        }
        self.strays += outcome.strays;
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

    pub fn join(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.counted += other.counted;
        self.doubles += other.doubles;
        self.strict.0 += other.strict.0;
        self.strict.1 += other.strict.1;
        self.strict.2 += other.strict.2;
        self.strays += other.strays;
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
        let (strict, markers, doubles) = self.strict;
        let strays = self.strays;
        writeln!(
            f,
            "strict: {strict} seeds, {markers} markers, {doubles} seeds with doubles, {strays} late strays"
        )?;
        writeln!(f, "ended early: {:?}", self.ended)?;
        writeln!(f, "faults: {:?}", self.struck)?;
        writeln!(f, "paths: {:?}", self.paths)?;
        let mut by_name: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (seed, violation) in &self.failures {
            by_name.entry(violation.invariant).or_default().push(*seed);
        }
        for (name, seeds) in &by_name {
            writeln!(f, "{name}: {} seeds, {:?}", seeds.len(), &seeds[..seeds.len().min(20)])?;
        }
        for name in by_name.keys() {
            for (seed, violation) in self.failures.iter().filter(|(_, v)| v.invariant == *name).take(8) {
                writeln!(f, "seed {seed}: {name}: {:.400}", violation.message)?;
            }
        }
        Ok(())
    }
}
