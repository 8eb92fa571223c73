//! What seeds found, each as a script.

use mirrormesh_core::format::batch::BatchHeader;

use crate::kinds::Stored;
use crate::knobs::{Fault, Knobs};
use crate::parts::Event;
use crate::scene::Scene;
use crate::world::World;

/// Hours after which the target may drop a producer's state.
const OLD: i64 = 30;

fn as_usual(_: &mut Knobs) {}

/// Records that are not put together in one batch.
fn large(knobs: &mut Knobs) {
    knobs.record_bytes = 30_000;
    knobs.fetch_bytes = 1_000_000;
}

/// Producer epochs that stand on the target, in order of appearance.
fn epochs(world: &World) -> Vec<i16> {
    let mut epochs: Vec<_> =
        world.target.log.iter().map(|b: &crate::target::Batch| b.header.producer_epoch).collect();
    epochs.dedup();
    epochs
}

fn last(world: &World) -> BatchHeader {
    world.target.log.last().expect("the target holds a batch").header
}

#[test]
fn a_quiet_world_mirrors_everything_once() {
    let (doubles, world) = Scene::new(as_usual, 20, 0).end();
    assert_eq!(doubles, 0);
    assert_eq!((world.checker.records(), epochs(&world)), (21, vec![0]));
}

/// One request waits at the broker when the connection breaks. The owner recovers and appends the record again; then the
/// check for expired producers runs, and then the broker takes the request.
fn zombie(hours: i64) -> Scene {
    let mut scene = Scene::new(as_usual, 5, hours);
    scene.mute(400);
    scene.produce(1, hours);
    scene.until_in_flight(1);
    scene.wait(10);
    scene.cut(0, 0);
    scene.wait(100);
    assert_eq!(scene.world.checker.records(), 6, "the owner went on");
    scene.check_expired();
    scene.wait(1_000);
    scene.produce(1, hours);
    scene.wait(5_000);
    scene
}

#[test]
fn a_zombie_request_of_young_records_is_refused() {
    let (doubles, world) = zombie(0).end();
    assert_eq!((doubles, world.counts.zombies), (0, 0));
}

#[test]
fn a_zombie_request_of_old_records_is_announced() {
    let (doubles, world) = zombie(OLD).end();
    assert_eq!((doubles, world.counts.zombies), (1, 1));
    assert_eq!(world.checker.book.announcements(), (1, 0));
}

#[test]
fn a_zombie_of_a_dead_owner_appends_nothing_twice() {
    let mut scene = Scene::new(large, 5, 0);
    scene.mute(640);
    scene.produce_each(3, 0);
    scene.until_in_flight(3);
    scene.crash(3, 0);
    scene.wait(3_000);
    assert_eq!(scene.end().0, 0);
}

/// The first of two pipelined batches is refused, the check for expired producers runs, and the second one is taken.
#[test]
fn a_check_between_pipelined_old_batches_leaves_no_hole() {
    let mut scene = Scene::new(large, 10, OLD);
    scene.produce_each(3, OLD);
    scene.until_in_flight(3);
    scene.world.refuse_and_check = true;
    scene.wait(5_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.counts.holes, world.checker.book.announcements()), (2, 1, (1, 0)));
}

#[test]
fn a_target_that_forgot_between_appends_takes_the_next() {
    let mut scene = Scene::new(as_usual, 5, OLD);
    for _ in 0..5 {
        scene.check_expired();
        scene.produce(1, OLD);
        scene.wait(100);
    }
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.counts.unarmed > 4), (0, true));
}

#[test]
fn lost_answers_append_nothing_twice() {
    let mut scene = Scene::new(large, 5, 0);
    scene.produce_each(3, 0);
    scene.until_in_flight(3);
    scene.wait(5);
    scene.cut(0, 0);
    scene.wait(2_000);
    assert_eq!(scene.end().0, 0);
}

/// Of two batches on their way the second fits behind whatever stands where the first should.
#[test]
fn a_source_that_loses_its_end_doubles_nothing() {
    let mut scene = Scene::new(large, 5, 0);
    scene.mute(400);
    scene.produce_each(3, 0);
    scene.until_in_flight(3);
    scene.cut(3, 0);
    scene.source_loses(3);
    for _ in 0..4 {
        scene.produce(1, 0);
        scene.wait(100);
    }
    scene.wait(3_000);
    let (doubles, world) = scene.end();
    assert_eq!(doubles, 0);
    assert!(epochs(&world).len() > 1, "another history is another generation");
}

#[test]
fn a_source_restored_from_a_copy_is_another_history() {
    let mut scene = Scene::new(as_usual, 10, 0);
    scene.crash(0, 0);
    let at = scene.world.source.end - 1;
    scene.world.source.restore(at);
    scene.world.checker.source_cut = true;
    scene.world.happened.insert(Fault::SourceTruncate);
    scene.produce_each(6, 0);
    scene.wait(3_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.checker.generations.len()), (0, 2));
}

#[test]
fn a_source_that_goes_back_is_mirrored_again() {
    let mut scene = Scene::new(as_usual, 10, 0);
    scene.source_loses(4);
    scene.produce(3, 0);
    scene.wait(3_000);
    assert!(scene.world.source.go_back());
    (scene.world.checker.source_cut, scene.world.checker.went_back) = (true, true);
    scene.world.happened.insert(Fault::SourceReturn);
    scene.wait(3_000);
    scene.end();
}

#[test]
fn a_target_that_loses_its_end_gets_it_again() {
    let mut scene = Scene::new(as_usual, 20, 0);
    scene.target_loses(4);
    scene.produce(1, 0);
    scene.wait(5_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.checker.records()), (0, 22));
}

#[test]
fn a_target_that_comes_back_shorter_gets_all_again() {
    let mut scene = Scene::new(|knobs| knobs.comes_back = true, 20, OLD);
    scene.check_expired();
    scene.target_loses(4);
    scene.produce(1, OLD);
    scene.wait(5_000);
    scene.end();
}

#[test]
fn what_is_not_replicated_is_waited_for() {
    let mut scene = Scene::new(as_usual, 5, 0);
    scene.world.stalled_until = scene.world.now + 4_000;
    scene.produce(1, 0);
    scene.until_in_flight(1);
    scene.wait(5);
    scene.crash(0, 0);
    scene.wait(8_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, epochs(&world)), (0, vec![0]));
}

#[test]
fn headers_that_retention_took_are_not_needed() {
    let mut scene = Scene::new(as_usual, 10, 0);
    scene.produce(4, 0);
    scene.wait(50);
    scene.crash(0, 0);
    let end = scene.world.target.high_watermark;
    scene.world.target.retain(end);
    scene.world.happened.insert(Fault::TargetRetain);
    scene.wait(3_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, last(&world).base_sequence), (0, 14));
}

#[test]
fn a_compacted_target_is_counted_by_sequences() {
    let mut scene = Scene::new(|knobs| knobs.facts.target_compacted = true, 10, 0);
    for _ in 0..4 {
        // One key of all: only the last record stays.
        scene.produce_keys([0; 3].into_iter(), 0);
        scene.wait(50);
    }
    let end = scene.world.target.high_watermark;
    scene.world.target.compact(end);
    scene.crash(0, 0);
    scene.wait(3_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, last(&world).base_sequence), (0, 22));
}

#[test]
fn the_last_epoch_is_followed_by_a_new_producer_id() {
    let mut scene = Scene::new(|knobs| knobs.last_epoch = true, 5, 0);
    for _ in 0..4 {
        scene.crash(0, 0);
        scene.wait(2_000);
        scene.world.raft.rules.read_uncommitted ^= true;
        scene.produce(1, 0);
        scene.wait(1_000);
    }
    let (doubles, world) = scene.end();
    assert_eq!(doubles, 0);
    assert_ne!(last(&world).producer_id, crate::world::PRODUCER);
}

#[test]
fn an_overrun_of_retention_is_named() {
    let mut scene = Scene::new(as_usual, 5, 0);
    scene.crash(0, 0);
    scene.produce(6, 0);
    scene.produce(1, 0);
    let at = scene.world.source.end - 1;
    scene.world.source.retain(at);
    scene.world.happened.insert(Fault::SourceRetain);
    scene.wait(3_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.checker.generations.len()), (0, 2));
}

#[test]
fn lost_positions_are_counted_again_from_headers() {
    let mut scene = Scene::new(as_usual, 10, 0);
    let written = scene.world.positions.len();
    scene.produce(4, 0);
    scene.wait(8_000);
    assert!(scene.world.positions.len() > written);
    scene.world.positions.truncate(1);
    scene.crash(0, 0);
    scene.wait(3_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.checker.records()), (0, 15));
}

#[test]
fn old_positions_lead_to_the_same_place() {
    let mut scene = Scene::new(|knobs| knobs.stale_positions = 100, 10, 0);
    for _ in 0..4 {
        scene.produce(2, 0);
        scene.wait(8_000);
        scene.crash(0, 0);
        scene.wait(3_000);
    }
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.checker.records()), (0, 19));
}

#[test]
fn a_muted_connection_is_given_up_and_doubles_nothing() {
    let mut scene = Scene::new(as_usual, 5, 0);
    scene.mute(20_000);
    scene.produce(1, 0);
    scene.until_in_flight(1);
    scene.wait(30_000);
    assert_eq!(scene.end().0, 0);
}

#[test]
fn an_append_taken_by_a_broker_that_died_is_found() {
    let mut scene = Scene::new(as_usual, 5, 0);
    scene.produce(2, 0);
    scene.until_in_flight(1);
    scene.wait(2);
    let end = scene.world.target.end;
    scene.world.elect(end);
    scene.world.target.process += 1;
    let now = scene.world.now as i64;
    scene.world.target.reload(end, true, now);
    for c in 0..scene.world.connections.len() {
        scene.world.at(1, Event::ConnectionDied(c));
    }
    scene.wait(3_000);
    assert_eq!(scene.end().0, 0);
}

/// A batch that fits as it is sent and not as it is stored arrives in pieces, and nothing is called too large.
#[test]
fn a_batch_too_large_as_stored_arrives_in_pieces() {
    let change = |knobs: &mut Knobs| {
        (knobs.packed, knobs.stored) = (100, Stored::Plain);
        (knobs.facts.target_bytes_max, knobs.record_bytes) = (1_000, 200);
    };
    let mut scene = Scene::new(change, 3, 0);
    scene.produce(20, 0);
    scene.produce(3, 0);
    scene.wait(10_000);
    let (doubles, world) = scene.end();
    assert_eq!((doubles, world.checker.records(), world.checker.generations.len()), (0, 27, 1));
}
