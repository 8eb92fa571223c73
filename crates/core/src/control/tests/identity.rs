//! Kafka's ids of clusters.

use super::*;

fn report(id: &str, kafka_cluster_id: &str) -> CommandKind {
    CommandKind::ReportCluster { id: cluster_id(id), kafka_cluster_id: kafka_cluster_id.to_owned() }
}

fn known(world: &World, id: &str) -> Option<String> {
    world.state.clusters[&cluster_id(id)].spec.kafka_cluster_id.clone()
}

#[test]
fn first_report_of_a_cluster_id_stays() {
    let mut world = World::with_flow();
    assert_eq!(known(&world, "uk"), None);
    let before = world.state.revision;
    world.run(report("uk", "first"));
    assert_eq!(known(&world, "uk").as_deref(), Some("first"));
    assert_eq!(world.state.revision, before + 1);
    let Reply::Cluster(_, record) = world.run(report("uk", "second")) else { panic!() };
    assert_eq!(record.spec.kafka_cluster_id.as_deref(), Some("first"), "the sender sees what is kept");
    assert_eq!(world.state.revision, before + 1, "nothing changed");
    assert_eq!(known(&world, "hq"), None);
}

#[test]
fn report_is_refused_for_no_id_and_no_cluster() {
    let mut world = World::with_flow();
    let transcript = world.transcript([report("uk", ""), report("uk", "a b"), report("none", "x")]);
    let expected = "\
ReportCluster r3 InvalidArgument CLUSTER_ID_INVALID kafka_cluster_id
ReportCluster r3 InvalidArgument CLUSTER_ID_INVALID kafka_cluster_id
ReportCluster r3 NotFound CLUSTER_NOT_FOUND name
";
    assert_eq!(transcript, expected);
}

/// What was read before a report must not be written back over it.
#[test]
fn reported_id_changes_the_etag() {
    let mut world = World::with_flow();
    let revision = world.state.clusters[&cluster_id("uk")].revision;
    world.run(report("uk", "first"));
    let guard = WriteGuard { expected_revision: Some(revision), ..WriteGuard::default() };
    let CommandKind::PutCluster { id, spec, create, .. } = put_cluster("uk", "uk:2", false) else { panic!() };
    let reply = world.run(CommandKind::PutCluster { id, spec, create, guard });
    assert!(matches!(reply, Reply::Rejected(reject) if reject.reason == "ETAG_MISMATCH"));
    assert_eq!(known(&world, "uk").as_deref(), Some("first"));
}

#[test]
fn workers_get_the_ids_with_their_units() {
    let mut world = World::running();
    let of_a = |world: &World| world.state.assignment_of(&worker_id("a"), &Weights::default()).clusters;
    assert!(of_a(&world).values().all(|spec| spec.kafka_cluster_id.is_none()));
    world.run(report("hq", "first"));
    assert_eq!(of_a(&world)[&cluster_id("hq")].kafka_cluster_id.as_deref(), Some("first"));
}
