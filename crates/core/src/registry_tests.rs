//! What registry records mean when taken together, and who may write.

use super::*;
use crate::unit::{Generation, PartitionStart};

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

fn key(producer_id: i64, partition: i32) -> WriterKey {
    WriterKey { producer_id, topic: topic(), partition }
}

fn writer(mesh_id: &str, epoch: i16, target_offset: i64) -> Writer {
    let start = PartitionStart { source_offset: 0, target_offset, ..PartitionStart::default() };
    Writer {
        source_cluster: "a-id".into(),
        source: ClusterId::new("a").unwrap(),
        flow: FlowId::new("f").unwrap(),
        mesh_id: mesh_id.into(),
        source_topic: topic(),
        source_topic_id: TopicId([1; 16]),
        target_topic_id: TopicId([2; 16]),
        first_offset: target_offset,
        begun: PartitionGeneration { generation: Generation { producer_id: 7, epoch }, start },
    }
}

fn registered(records: Vec<(WriterKey, Writer)>) -> Registry {
    let mut registry = Registry::default();
    for (offset, (key, writer)) in (0..).zip(records) {
        registry.apply(offset, RegistryKey::Writer(key), RegistryValue::Writer(writer));
    }
    registry
}

fn applicant(mesh_id: &str, epoch: i16, target_offset: i64) -> Applicant {
    Applicant { writer: writer(mesh_id, epoch, target_offset), topic: topic(), partition: 0 }
}

#[test]
fn an_id_is_told_by_its_source_and_by_where_it_may_stand() {
    let registry = registered(vec![(key(7, 0), writer("m", 0, 10))]);
    let id = TopicId([2; 16]);
    assert_eq!(registry.origin(&key(8, 0), id, "a-id"), Origin::Client);
    let of = |partition, topic_id, target| registry.origin(&key(7, partition), topic_id, target);
    assert_eq!(of(0, id, "a-id"), Origin::Flow { from_target: true, first_offset: Some(10) });
    assert_eq!(of(0, id, "c-id"), Origin::Flow { from_target: false, first_offset: Some(10) });
    assert_eq!(
        of(1, id, "a-id"),
        Origin::Flow { from_target: true, first_offset: None },
        "not registered there"
    );
    let again = of(0, TopicId([9; 16]), "a-id");
    assert_eq!(again, Origin::Flow { from_target: true, first_offset: None }, "the topic was made again");
    assert_eq!(of(0, TopicId::default(), "a-id"), of(0, id, "a-id"), "a cluster without topic ids");
}

#[test]
fn the_first_offset_of_an_id_never_rises_but_for_another_topic() {
    let later = Writer { first_offset: 50, ..writer("m", 1, 50) };
    let mut records = vec![(key(7, 0), writer("m", 0, 10)), (key(7, 0), later.clone())];
    let seen = registered(records.clone()).seen(&key(7, 0), "a-id").writer.unwrap();
    assert_eq!((seen.first_offset, seen.begun.generation.epoch), (10, 1));
    records.push((key(7, 0), Writer { target_topic_id: TopicId([3; 16]), ..later }));
    assert_eq!(registered(records).seen(&key(7, 0), "a-id").writer.unwrap().first_offset, 50);
}

#[test]
fn what_is_missing_is_written_once() {
    let mut registry = Registry::default();
    let seen = |registry: &Registry| registry.seen(&key(7, 0), "a-id");
    let missing = applicant("m", 0, 10).missing(&seen(&registry)).unwrap();
    assert_eq!(missing.len(), 2, "a claim and an entry");
    for (key, value) in missing {
        registry.apply(0, key, value);
    }
    assert_eq!(applicant("m", 0, 10).missing(&seen(&registry)), Ok(vec![]));
    let next = applicant("m", 1, 40).missing(&seen(&registry)).unwrap();
    let [(RegistryKey::Writer(_), RegistryValue::Writer(next))] = &next[..] else { panic!("{next:?}") };
    assert_eq!((next.first_offset, next.begun.start.target_offset), (10, 40));
    let nameless = applicant("", 0, 10).missing(&Registry::default().seen(&key(7, 0), "a-id")).unwrap();
    assert!(matches!(&nameless[..], [(RegistryKey::Writer(_), _)]), "a mesh without an id claims nothing");
}

#[test]
fn another_meshs_claim_stops_and_names_it_unless_its_generation_is_adopted() {
    let mut registry = Registry::default();
    for (key, value) in applicant("one", 3, 10).missing(&registry.seen(&key(7, 0), "a-id")).unwrap() {
        registry.apply(0, key, value);
    }
    let seen = registry.seen(&key(7, 0), "a-id");
    let stop = applicant("two", 0, 10).missing(&seen).unwrap_err();
    assert_eq!(stop.reason.name(), "FLOW_CLAIMED");
    assert!(stop.message.contains("flows/f of mesh one"), "{}", stop.message);
    let mut adopting = applicant("two", 3, 10);
    adopting.writer.begun.start.adopted = Some(9);
    let missing = adopting.missing(&seen).unwrap();
    let [(RegistryKey::Claim(_), RegistryValue::Claim(claim))] = &missing[..] else { panic!("{missing:?}") };
    assert_eq!(claim.mesh_id, "two");
    // Another flow of the same mesh is the coordinator's business.
    let mut other = applicant("one", 3, 10);
    other.writer.flow = FlowId::new("g").unwrap();
    let [(RegistryKey::Writer(_), _)] = &other.missing(&seen).unwrap()[..] else { panic!() };
    assert!(applicant("two", 0, 10).missing(&registry.seen(&key(9, 0), "b-id")).is_ok(), "another source");
}

#[test]
fn a_source_that_became_another_cluster_stops() {
    let registry = registered(vec![(key(7, 5), writer("m", 0, 10))]);
    let stop = applicant("m", 0, 10).missing(&registry.seen(&key(7, 0), "b-id")).unwrap_err();
    assert_eq!(stop.reason.name(), "SOURCE_CLUSTER_CHANGED", "whichever partition tells it");
    assert!(stop.message.contains("a-id") && stop.message.contains("b-id"), "{}", stop.message);
}

#[test]
fn the_last_writer_of_each_partition_is_gone_on_from() {
    let other = |producer_id, epoch| {
        let mut writer = writer("one", epoch, 40);
        writer.begun.generation.producer_id = producer_id;
        writer
    };
    let elsewhere = Writer { source_cluster: "b-id".into(), ..other(11, 0) };
    let again = Writer { target_topic_id: TopicId([9; 16]), ..other(12, 0) };
    let merged = Writer { source_topic: TopicName::new("u").unwrap(), ..other(13, 0) };
    let registry = registered(vec![
        (key(9, 0), other(9, 5)),
        (key(7, 0), writer("one", 2, 10)),
        (key(7, 1), writer("one", 1, 10)),
        (key(8, 1), other(8, 0)),
        (key(11, 0), elsewhere),
        (key(12, 0), again),
        (key(13, 0), merged),
        (key(7, 0), writer("one", 3, 30)),
    ]);
    let (source_topic, topic) = (topic(), topic());
    let wanted = Inheritance {
        source_cluster: "a-id",
        source_topic: &source_topic,
        topic: &topic,
        topic_id: TopicId([2; 16]),
    };
    let found = registry.last_writers(wanted);
    let generations: Vec<_> =
        found.iter().map(|(p, w)| (*p, w.begun.generation.producer_id, w.begun.generation.epoch)).collect();
    assert_eq!(generations, [(0, 7, 3), (1, 8, 0)]);
}

fn named(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn claim_of(topic: &str, home: Option<&str>) -> (RegistryKey, RegistryValue) {
    let claim = Claim {
        mesh_id: "m".into(),
        flow: FlowId::new("f").unwrap(),
        source: ClusterId::new("a").unwrap(),
        source_topic: home.map(named),
    };
    let key = ClaimKey { source_cluster: "a-id".into(), topic: named(topic) };
    (RegistryKey::Claim(key), RegistryValue::Claim(claim))
}

fn writer_of(topic: &str, home: &str, topic_id: u8) -> (RegistryKey, RegistryValue) {
    let key = WriterKey { producer_id: i64::from(topic_id), topic: named(topic), partition: 0 };
    let writer =
        Writer { source_topic: named(home), target_topic_id: TopicId([topic_id; 16]), ..writer("m", 0, 0) };
    (RegistryKey::Writer(key), RegistryValue::Writer(writer))
}

fn homes_of(records: Vec<(RegistryKey, RegistryValue)>, cluster: &str) -> Homes {
    let mut registry = Registry::default();
    for (offset, (key, value)) in (0..).zip(records) {
        registry.apply(offset, key, value);
    }
    registry.homes(cluster)
}

const ID: TopicId = TopicId([2; 16]);

/// Two meshes name each other alike: `remote.t` came from the cluster that this flow mirrors to.
#[test]
fn copy_is_not_mirrored_back_under_a_new_name() {
    // Before the first append there is only the claim, and the claims of older versions don't name the topic.
    let claimed = homes_of(vec![claim_of("remote.t", Some("t"))], "a-id");
    let written = homes_of(vec![claim_of("remote.t", None), writer_of("remote.t", "t", 2)], "a-id");
    for homes in [claimed, written] {
        assert!(homes.is_loop(&named("remote.t"), ID, &named("remote.remote.t")));
        assert!(!homes.is_loop(&named("t"), ID, &named("remote.t")), "nobody mirrored it there");
        assert!(!homes.is_loop(&named("remote.t"), ID, &named("t")), "it goes home, batch by batch");
    }
    let elsewhere = homes_of(vec![claim_of("remote.t", Some("t"))], "c-id");
    assert!(!elsewhere.is_loop(&named("remote.t"), ID, &named("remote.remote.t")), "a chain goes on");
}

#[test]
fn same_name_on_both_sides_is_mirrored_both_ways() {
    let homes = homes_of(vec![claim_of("t", Some("t")), writer_of("t", "t", 2)], "a-id");
    assert!(!homes.is_loop(&named("t"), ID, &named("t")));
    assert!(homes.is_loop(&named("t"), ID, &named("b.t")), "another name makes a copy of a copy");
}

#[test]
fn recreated_topic_is_not_taken_for_the_mirrored_one() {
    let (topic, back) = (named("remote.t"), named("remote.remote.t"));
    let before = vec![claim_of("remote.t", Some("t")), writer_of("remote.t", "t", 2)];
    let homes = homes_of(before.clone(), "a-id");
    assert!(homes.is_loop(&topic, ID, &back));
    assert!(!homes.is_loop(&topic, TopicId([9; 16]), &back), "somebody made it for himself");
    assert!(homes.is_loop(&topic, TopicId::default(), &back), "brokers without ids");
    // The mirror makes it again: it claims the topic first.
    let homes = homes_of([before, vec![claim_of("remote.t", Some("t"))]].concat(), "a-id");
    assert!(homes.is_loop(&topic, TopicId([9; 16]), &back));
}
