//! The mesh's id, and generations of another mesh that are gone on from.

use super::*;

fn adopted(epoch: i16, highest: u64) -> PartitionGeneration {
    let start = PartitionStart { adopted: Some(highest), ..start(40, 30) };
    PartitionGeneration { generation: Generation { producer_id: 99, epoch }, start }
}

fn of_another_mesh(generations: &[(i32, PartitionGeneration)]) -> TopicEntry {
    TopicEntry { generations: generations.iter().copied().collect(), ..entry("u", "uk.u", 2) }
}

fn begun(world: &World, partition: i32) -> PartitionGeneration {
    world.state.flows[&flow_id("f")].begun(&topic_name("u"), partition).unwrap()
}

#[test]
fn the_first_id_of_a_mesh_stays() {
    let mut world = World::default();
    let name = |id: &str| CommandKind::NameMesh { mesh_id: id.to_owned() };
    world.run(name(""));
    assert_eq!((world.state.mesh_id.as_str(), world.state.revision), ("", 0));
    world.run(name("one"));
    world.run(name("two"));
    assert_eq!((world.state.mesh_id.as_str(), world.state.revision), ("one", 1));
}

#[test]
fn a_flow_that_adopts_goes_on_from_another_meshs_generations_under_higher_numbers() {
    let mut world = World::running();
    world.run(put_flow("f", FlowSpec { adopt: true, ..spec("uk", "hq") }, false));
    let number = world.number(&topology("f"));
    world.run(inventory("f", number, vec![of_another_mesh(&[(0, adopted(3, 500))])]));
    assert_eq!(begun(&world, 0), adopted(3, 500));
    assert_eq!(begun(&world, 1).generation.producer_id, 7, "which nobody wrote to before");
    world.run(assign(&[(partition("f", "u", 0), "a")]));
    assert!(world.number(&partition("f", "u", 0)) > 500, "its records must not hide behind the old ones");

    // What is stored stays, whatever is found later.
    world.run(inventory("f", number, vec![of_another_mesh(&[(0, adopted(9, 9_000))])]));
    assert_eq!(begun(&world, 0), adopted(3, 500));
    assert!(world.state.assignment_number < 9_000);
}

#[test]
fn nothing_is_adopted_unless_the_flow_says_so_and_only_what_is_said_to_be() {
    let mut world = World::running();
    let number = world.number(&topology("f"));
    world.run(inventory("f", number, vec![of_another_mesh(&[(0, adopted(3, 500))])]));
    assert_eq!(begun(&world, 0).generation.producer_id, 7);

    let mut world = World::running();
    world.run(put_flow("f", FlowSpec { adopt: true, ..spec("uk", "hq") }, false));
    let number = world.number(&topology("f"));
    let own = PartitionGeneration { start: start(40, 30), ..adopted(3, 500) };
    world.run(inventory("f", number, vec![of_another_mesh(&[(0, own)])]));
    assert_eq!(begun(&world, 0).generation.producer_id, 7, "generations are the Raft log's to give out");
}
