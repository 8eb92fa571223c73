//! The algorithm: keep what fits, place the rest heaviest first on the least loaded worker, then even out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ids::WorkerId;
use crate::unit::{Owner, Role, Unit};

/// A worker as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSlot {
    /// Its id.
    pub id: WorkerId,
    /// What it can run.
    pub role: Role,
    /// How many units it takes; 0 while draining.
    pub capacity: u32,
}

/// What is to be solved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// The workers.
    pub workers: Vec<WorkerSlot>,
    /// The units with their weights, at least 1.
    pub units: Vec<(u64, Unit)>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanStep {
    /// Give a free unit to a worker.
    Assign(Unit, WorkerId),
    /// Ask the owner to let go.
    Release(Unit),
}

/// Who should run what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Placed units.
    pub placed: BTreeMap<Unit, WorkerId>,
    /// Units for which there was no room, or no worker of their role.
    pub unplaced: Vec<Unit>,
}

/// A worker's share while solving.
#[derive(Debug)]
struct Share<'a> {
    id: &'a WorkerId,
    role: Role,
    room: u32,
    units: u32,
    load: u64,
}

/// Solves. `present` is who runs what now.
pub fn solve(problem: &Problem, present: &BTreeMap<Unit, WorkerId>) -> Plan {
    let mut shares: BTreeMap<&WorkerId, Share<'_>> = problem
        .workers
        .iter()
        .map(|w| (&w.id, Share { id: &w.id, role: w.role, room: w.capacity, units: 0, load: 0 }))
        .collect();
    let mut plan = Plan::default();
    let mut waiting: Vec<(u64, &Unit)> = Vec::new();

    // Heaviest first, then by name: the order of the input must not matter.
    let mut units: Vec<(u64, &Unit)> = problem.units.iter().map(|(weight, unit)| (*weight, unit)).collect();
    units.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));

    for &(weight, unit) in &units {
        let kept = present.get(unit).and_then(|worker| shares.get_mut(worker));
        match kept.filter(|share| share.role == unit.role() && share.room > 0) {
            Some(share) => {
                take(share, weight);
                plan.placed.insert(unit.clone(), share.id.clone());
            }
            None => waiting.push((weight, unit)),
        }
    }
    for (weight, unit) in waiting {
        let least = shares
            .values_mut()
            .filter(|share| share.role == unit.role() && share.room > 0)
            .min_by_key(|share| (share.load, share.units, share.id));
        match least {
            Some(share) => {
                take(share, weight);
                plan.placed.insert(unit.clone(), share.id.clone());
            }
            None => plan.unplaced.push(unit.clone()),
        }
    }
    even_out(&units, &mut shares, &mut plan);
    plan.unplaced.sort();
    plan
}

fn take(share: &mut Share<'_>, weight: u64) {
    share.room -= 1;
    share.units += 1;
    share.load += weight;
}

/// What each worker runs: units by weight, heaviest first.
type Held<'a> = BTreeMap<WorkerId, BTreeMap<Reverse<u64>, BTreeSet<&'a Unit>>>;

/// Moves units from the most to the least loaded worker of a role while that clearly helps. "Clearly": the gap is more
/// than a quarter of the larger load, and the unit moved is at most half the gap, so the order of the two workers
/// never flips and solving again finds nothing to do.
fn even_out(units: &[(u64, &Unit)], shares: &mut BTreeMap<&WorkerId, Share<'_>>, plan: &mut Plan) {
    let mut held = Held::new();
    for &(weight, unit) in units {
        if let Some(worker) = plan.placed.get(unit) {
            let of_worker = held.entry(worker.clone()).or_default();
            of_worker.entry(Reverse(weight)).or_default().insert(unit);
        }
    }
    for role in [Role::Source, Role::Checkpoint, Role::Heartbeat] {
        for _ in 0..units.len() {
            let of_role = || shares.values().filter(move |share| share.role == role);
            let Some(high) = of_role().filter(|s| s.units > 0).max_by_key(|s| (s.load, s.id)) else { break };
            let low = of_role().filter(|s| s.room > 0 && s.id != high.id).min_by_key(|s| (s.load, s.id));
            let Some(low) = low else { break };
            let gap = high.load.saturating_sub(low.load);
            if gap < 2 || gap * 4 <= high.load {
                break;
            }
            let (from, to) = (high.id.clone(), low.id.clone());
            let Some((weight, unit)) = take_heaviest(&mut held, &from, gap / 2) else { break };
            held.entry(to.clone()).or_default().entry(Reverse(weight)).or_default().insert(unit);
            if let Some(share) = shares.get_mut(&from) {
                share.room += 1;
                share.units -= 1;
                share.load -= weight;
            }
            if let Some(share) = shares.get_mut(&to) {
                take(share, weight);
            }
            plan.placed.insert(unit.clone(), to);
        }
    }
}

/// Takes away a worker's heaviest unit that weighs at most `limit`; of equal ones the first by name.
fn take_heaviest<'a>(held: &mut Held<'a>, worker: &WorkerId, limit: u64) -> Option<(u64, &'a Unit)> {
    let of_worker = held.get_mut(worker)?;
    let (&Reverse(weight), units) = of_worker.range_mut(Reverse(limit)..).next()?;
    let unit = units.pop_first()?;
    if units.is_empty() {
        of_worker.remove(&Reverse(weight));
    }
    Some((weight, unit))
}

/// The steps from what is to what should be. A unit that moves is only released here; it is assigned by a later plan,
/// once its owner let go (release-then-take).
pub fn steps(plan: &Plan, owners: &BTreeMap<Unit, Owner>) -> Vec<PlanStep> {
    let mut steps = Vec::new();
    for (unit, owner) in owners {
        if !owner.releasing && plan.placed.get(unit) != Some(&owner.worker) {
            steps.push(PlanStep::Release(unit.clone()));
        }
    }
    for (unit, worker) in &plan.placed {
        if !owners.contains_key(unit) {
            steps.push(PlanStep::Assign(unit.clone(), worker.clone()));
        }
    }
    steps
}
