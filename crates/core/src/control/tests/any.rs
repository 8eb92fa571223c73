//! What holds after any commands.

use proptest::prelude::*;

use super::*;
use crate::control::GenerationRequest;

fn any_command() -> impl Strategy<Value = CommandKind> {
    let name = || prop_oneof![Just("a"), Just("b"), Just("c")];
    let role = prop_oneof![Just(Role::Source), Just(Role::Checkpoint), Just(Role::Heartbeat)];
    let unit = || {
        prop_oneof![
            name().prop_map(topology),
            name().prop_map(|flow| Unit::Groups(flow_id(flow))),
            (name(), name(), 0..3_i32).prop_map(|(flow, topic, n)| partition(flow, topic, n)),
        ]
    };
    prop_oneof![
        (name(), 1..4, any::<bool>()).prop_map(|(id, port, new)| put_cluster(
            id,
            &format!("{id}:{port}"),
            new
        )),
        name().prop_map(delete_cluster),
        (name(), name(), name(), any::<bool>()).prop_map(|(id, from, to, new)| put_flow(
            id,
            spec(from, to),
            new
        )),
        name().prop_map(delete_flow),
        (name(), any::<bool>()).prop_map(|(id, paused)| pause(id, paused)),
        (name(), name(), proptest::collection::vec(0..4_i32, 0..2), any::<bool>()).prop_map(
            |(flow, topic, partitions, paused)| CommandKind::SetTopicPaused {
                id: flow_id(flow),
                topic: TopicName::new(topic).unwrap(),
                partitions,
                paused,
                guard: WriteGuard::default(),
            }
        ),
        (name(), role).prop_map(|(worker, role)| register(worker, role)),
        (name(), 1..6_u64)
            .prop_map(|(w, session)| CommandKind::ExpireWorker { worker: worker_id(w), session }),
        name().prop_map(|worker| CommandKind::DrainWorker { worker: worker_id(worker) }),
        (name(), 0..3_i64).prop_map(|(flow, id)| claim(flow, id)),
        (unit(), name()).prop_map(|(unit, worker)| assign(&[(unit, worker)])),
        unit().prop_map(|unit| release(&[unit])),
        (name(), unit(), 1..9_u64).prop_map(|(worker, unit, number)| released(worker, &[(unit, number)])),
        (name(), 1..9_u64, name(), 1..3_i64).prop_map(|(flow, number, topic, n)| inventory(
            flow,
            number,
            vec![entry(topic, topic, n)]
        )),
        (name(), name(), 0..3_i32, 1..9_u64, 0..3_i64, 0..3_i16).prop_map(
            |(flow, topic, partition, number, producer_id, epoch)| {
                let after = Generation { producer_id, epoch };
                CommandKind::BeginGeneration(GenerationRequest {
                    number,
                    after,
                    ..generations::begin(flow, topic, partition)
                })
            }
        ),
        (name(), 1..9_u64).prop_map(|(flow, number)| {
            let groups = vec![GroupId::new("g").unwrap()];
            let change = InventoryChange { groups, ..InventoryChange::default() };
            CommandKind::PutInventory { flow: flow_id(flow), number, change }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_comes_the_state_stays_sound(kinds in proptest::collection::vec(any_command(), 1..80)) {
        let (mut world, mut replica) = (World::default(), ControlState::default());
        for (at_ms, kind) in (1..).zip(kinds) {
            let before = world.state.clone();
            let command = Command { at_ms, kind };
            let applied = world.state.apply(&command);
            // The same commands give the same state and the same answers everywhere.
            prop_assert_eq!(&replica.apply(&command), &applied);
            prop_assert_eq!(&replica, &world.state);
            prop_assert_eq!(applied.changed, world.state.revision > before.revision);
            if matches!(applied.reply, Reply::Rejected(_)) {
                prop_assert_eq!(&world.state, &before, "a refusal changes nothing");
            }
            check(&world.state, &before)?;
        }
    }
}

fn check(state: &ControlState, before: &ControlState) -> Result<(), TestCaseError> {
    for (unit, owner) in &state.owners {
        let worker = state.workers.get(&owner.worker);
        prop_assert!(worker.is_some_and(|worker| worker.role == unit.role()), "{} has no worker", unit);
        prop_assert!(owner.number <= state.assignment_number);
        if let Some(earlier) = before.owners.get(unit) {
            let moved = earlier.worker != owner.worker || earlier.number != owner.number;
            prop_assert!(!moved, "{} changed hands within one command", unit);
        } else {
            prop_assert!(owner.number > before.assignment_number, "numbers grow");
        }
    }
    let mut numbers: Vec<_> = state.owners.values().map(|owner| owner.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    prop_assert_eq!(numbers.len(), state.owners.len(), "no number is given twice");
    for flow in state.flows.values() {
        prop_assert!(state.clusters.contains_key(&flow.spec.source));
        prop_assert!(state.clusters.contains_key(&flow.spec.target));
    }
    let wanted = state.wanted_units();
    prop_assert!(wanted.iter().all(|unit| state.wanted(unit)));
    for unit in &wanted {
        if let Unit::Partition(flow, topic, partition) = unit {
            prop_assert!(!state.flows[flow].is_paused(topic, *partition), "{} is paused", unit);
        }
    }
    Ok(())
}
