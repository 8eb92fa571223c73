//! The planner's properties A to F on random problems, and what they do not show.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Plan, PlanStep, Problem, WorkerSlot, solve, steps};
use crate::ids::{FlowId, TopicName, WorkerId};
use crate::unit::{Owner, Role, Unit};

fn worker(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

fn partition(number: i32) -> Unit {
    Unit::Partition(FlowId::new("f").unwrap(), TopicName::new("t").unwrap(), number)
}

fn slot(name: &str, role: Role, capacity: u32) -> WorkerSlot {
    WorkerSlot { id: worker(name), role, capacity }
}

fn units() -> impl Strategy<Value = Vec<(u64, Unit)>> {
    let weight = prop_oneof![3 => Just(1_u64), 1 => 1_u64..5_000];
    let unit = prop_oneof![
        4 => (0..40_i32).prop_map(partition),
        1 => "[a-c]".prop_map(|flow| Unit::Topology(FlowId::new(flow).unwrap())),
        1 => "[a-c]".prop_map(|flow| Unit::Groups(FlowId::new(flow).unwrap())),
        1 => "[a-c]".prop_map(|flow| Unit::Heartbeat(FlowId::new(flow).unwrap())),
    ];
    proptest::collection::btree_map(unit, weight, 0..40)
        .prop_map(|units| units.into_iter().map(|(unit, weight)| (weight, unit)).collect())
}

fn workers() -> impl Strategy<Value = Vec<WorkerSlot>> {
    let role = prop_oneof![2 => Just(Role::Source), 1 => Just(Role::Checkpoint), 1 => Just(Role::Heartbeat)];
    let slot = (0..8_u32, (role, 0..15_u32));
    proptest::collection::btree_map(slot.clone().prop_map(|(n, _)| n), slot.prop_map(|(_, rest)| rest), 0..7)
        .prop_map(|slots| slots.into_iter().map(|(n, (role, room))| slot_of(n, role, room)).collect())
}

fn slot_of(number: u32, role: Role, capacity: u32) -> WorkerSlot {
    slot(&format!("w{number}"), role, capacity)
}

fn problem() -> impl Strategy<Value = Problem> {
    (workers(), units()).prop_map(|(workers, units)| Problem { workers, units })
}

/// Who runs what now: anything, also what is gone or can't be.
fn present() -> impl Strategy<Value = BTreeMap<Unit, WorkerId>> {
    let unit = prop_oneof![
        6 => (0..50_i32).prop_map(partition),
        1 => "[a-c]".prop_map(|flow| Unit::Topology(FlowId::new(flow).unwrap())),
    ];
    proptest::collection::btree_map(unit, (0..9_u32).prop_map(|n| worker(&format!("w{n}"))), 0..40)
}

fn load_of(plan: &Plan, problem: &Problem, id: &WorkerId) -> (u64, u32) {
    let mut sum = (0, 0);
    for (weight, unit) in &problem.units {
        if plan.placed.get(unit) == Some(id) {
            sum = (sum.0 + weight, sum.1 + 1);
        }
    }
    sum
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn complete_and_within_capacity(problem in problem(), present in present()) {
        let plan = solve(&problem, &present);
        // Each unit is placed or not, once.
        prop_assert_eq!(plan.placed.len() + plan.unplaced.len(), problem.units.len());
        for (unit, owner) in &plan.placed {
            let slot = problem.workers.iter().find(|slot| slot.id == *owner).unwrap();
            prop_assert_eq!(slot.role, unit.role());
        }
        for slot in &problem.workers {
            let (_, units) = load_of(&plan, &problem, &slot.id);
            prop_assert!(units <= slot.capacity, "B: {} runs {units} of {}", slot.id, slot.capacity);
            let waits = plan.unplaced.iter().any(|unit| unit.role() == slot.role);
            prop_assert!(!waits || units == slot.capacity, "A: {} has room while units wait", slot.id);
        }
    }

    #[test]
    fn idempotent(problem in problem(), present in present()) {
        let plan = solve(&problem, &present);
        let again = solve(&problem, &plan.placed);
        prop_assert_eq!(&again, &plan, "D");
        let owner = |worker: &WorkerId| Owner { worker: worker.clone(), number: 1, releasing: false };
        let owners: BTreeMap<_, _> = plan.placed.iter().map(|(unit, w)| (unit.clone(), owner(w))).collect();
        prop_assert!(steps(&plan, &owners).is_empty());
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(problem in problem(), present in present(), turn in 0..40_usize) {
        let mut other = problem.clone();
        other.units.reverse();
        other.workers.reverse();
        if !other.units.is_empty() {
            let by = turn % other.units.len();
            other.units.rotate_left(by);
        }
        // C and F: the same answer for the same question, however it is put.
        prop_assert_eq!(solve(&other, &present), solve(&problem, &present));
    }

    #[test]
    fn a_lost_worker_moves_only_what_it_had(units in 1..60_i32, count in 2..6_u32, lost in 0..6_u32) {
        let lost = worker(&format!("w{}", lost % count));
        let mut problem = Problem {
            workers: (0..count).map(|n| slot_of(n, Role::Source, 100)).collect(),
            units: (0..units).map(|n| (1, partition(n))).collect(),
        };
        let before = solve(&problem, &BTreeMap::new());
        problem.workers.retain(|slot| slot.id != lost);
        let after = solve(&problem, &before.placed);
        for (unit, owner) in &before.placed {
            if *owner != lost {
                prop_assert_eq!(after.placed.get(unit), Some(owner), "E: {} moved without need", unit);
            }
        }
    }

    #[test]
    fn a_new_worker_gets_a_fair_share_and_nothing_moves_between_the_others(units in 8..80_i32, count in 1..5_u32) {
        let mut problem = Problem {
            workers: (0..count).map(|n| slot_of(n, Role::Source, 1_000)).collect(),
            units: (0..units).map(|n| (1, partition(n))).collect(),
        };
        let before = solve(&problem, &BTreeMap::new());
        problem.workers.push(slot("x", Role::Source, 1_000));
        let after = solve(&problem, &before.placed);
        for (unit, owner) in &before.placed {
            let now = &after.placed[unit];
            prop_assert!(now == owner || *now == worker("x"), "E: {} moved between old workers", unit);
        }
        let loads: Vec<u64> = problem.workers.iter().map(|s| load_of(&after, &problem, &s.id).0).collect();
        let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
        prop_assert!(most - least < 2 || (most - least) * 4 <= *most, "{loads:?}");
    }
}

#[test]
fn heavy_units_are_spread_and_a_small_difference_moves_nothing() {
    let problem = |second_weight| Problem {
        workers: vec![slot("a", Role::Source, 10), slot("b", Role::Source, 10)],
        units: vec![(100, partition(0)), (second_weight, partition(1)), (1, partition(2))],
    };
    let both_on_a = BTreeMap::from([(partition(0), worker("a")), (partition(1), worker("a"))]);
    let plan = solve(&problem(90), &both_on_a);
    assert_ne!(plan.placed[&partition(0)], plan.placed[&partition(1)]);
    let split = BTreeMap::from([
        (partition(0), worker("a")),
        (partition(1), worker("b")),
        (partition(2), worker("a")),
    ]);
    assert_eq!(solve(&problem(90), &split).placed, split, "101 against 90 is not worth a move");
}

#[test]
fn a_moving_unit_is_released_first_and_assigned_only_when_free() {
    let plan =
        Plan { placed: [(partition(0), worker("b")), (partition(1), worker("b"))].into(), ..Plan::default() };
    let owner = |releasing| Owner { worker: worker("a"), number: 1, releasing };
    let owners = BTreeMap::from([(partition(0), owner(false)), (partition(2), owner(false))]);
    assert_eq!(
        steps(&plan, &owners),
        [
            PlanStep::Release(partition(0)),
            PlanStep::Release(partition(2)),
            PlanStep::Assign(partition(1), worker("b")),
        ],
        "what no worker is to run is released, too"
    );
    let releasing = BTreeMap::from([(partition(0), owner(true)), (partition(1), owner(true))]);
    assert!(steps(&plan, &releasing).is_empty(), "nothing to do but to wait");
}

#[test]
fn a_draining_worker_gives_everything_away() {
    let problem = Problem {
        workers: vec![slot("a", Role::Source, 0), slot("b", Role::Source, 10)],
        units: (0..4).map(|n| (1, partition(n))).collect(),
    };
    let present = (0..4).map(|n| (partition(n), worker("a"))).collect();
    assert!(solve(&problem, &present).placed.values().all(|owner| *owner == worker("b")));
}

#[test]
fn ten_thousand_units_are_evened_out_without_looking_at_each_for_each() {
    let problem = Problem {
        workers: vec![slot("a", Role::Source, 20_000), slot("b", Role::Source, 20_000)],
        units: (0..10_000).map(|n| (1, partition(n))).collect(),
    };
    let present = (0..10_000).map(|n| (partition(n), worker("a"))).collect();
    let plan = solve(&problem, &present);
    let (a, b) = (load_of(&plan, &problem, &worker("a")).0, load_of(&plan, &problem, &worker("b")).0);
    // The first difference that is not clear: more than a quarter of the larger load is moved away.
    assert!(b < a && (a - b) * 4 <= a && a + b == 10_000, "{a} and {b}");
}
