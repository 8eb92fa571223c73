//! What is stored comes back as it was, and damaged bytes are refused with the place of the damage.

use mirrormesh_core::control::{Command, CommandKind, WriteGuard};
use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::{FlowId, WorkerId};
use mirrormesh_core::plan::PlanStep;
use mirrormesh_core::unit::{Generation, PartitionStart, Unit};
use mirrormesh_proto::convert::command::{decode_command, encode_command};
use mirrormesh_proto::convert::position::{decode_key, decode_value, encode_key, encode_value};
use mirrormesh_proto::convert::registry::{
    decode_registry_key, decode_registry_value, encode_registry_key, encode_registry_value,
};
use mirrormesh_proto::convert::state::{decode_state, encode_state};
use mirrormesh_proto::store;
use proptest::prelude::*;
use prost::Message;

use crate::strategies;

proptest! {
    #[test]
    fn commands_come_back(command in strategies::command()) {
        prop_assert_eq!(decode_command(&encode_command(&command)), Ok(command));
    }

    #[test]
    fn states_come_back_and_equal_states_have_equal_bytes(state in strategies::state()) {
        let bytes = encode_state(&state);
        let decoded = decode_state(&bytes);
        prop_assert_eq!(decoded.as_ref().map(encode_state), Ok(bytes));
        prop_assert_eq!(decoded, Ok(state));
    }

    #[test]
    fn positions_come_back((key, value) in strategies::position_record()) {
        prop_assert_eq!(decode_key(&encode_key(&key)), Ok(key.clone()));
        prop_assert_eq!(decode_value(&key, &encode_value(&value)), Ok(value));
    }

    #[test]
    fn registry_records_come_back((key, value) in strategies::registry_record()) {
        prop_assert_eq!(decode_registry_key(&encode_registry_key(&key)), Ok(key.clone()));
        prop_assert_eq!(decode_registry_value(&key, &encode_registry_value(&value)), Ok(value));
    }

    /// A later version may add fields: field 1000, varint 7.
    #[test]
    fn unknown_fields_are_ignored(command in strategies::command(), record in strategies::position_record()) {
        let later = |mut bytes: Vec<u8>| { bytes.extend([0xc0, 0x3e, 7]); bytes };
        prop_assert_eq!(decode_command(&later(encode_command(&command))), Ok(command));
        let (key, value) = record;
        prop_assert_eq!(decode_value(&key, &later(encode_value(&value))), Ok(value));
        prop_assert_eq!(decode_key(&later(encode_key(&key))), Ok(key));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _command = decode_command(&bytes);
        let _state = decode_state(&bytes);
        if let Ok(key) = decode_key(&bytes) {
            let _value = decode_value(&key, &bytes);
        }
        if let Ok(key) = decode_registry_key(&bytes) {
            let _value = decode_registry_value(&key, &bytes);
        }
    }
}

fn put_flow(spec: store::FlowSpec) -> Vec<u8> {
    let put = store::PutFlow { flow_id: "f".into(), spec: Some(spec), ..Default::default() };
    store::Command { at_ms: 1, kind: Some(store::command::Kind::PutFlow(put)) }.encode_to_vec()
}

#[test]
fn faults_name_their_place() {
    let spec = || store::FlowSpec { source: "a".into(), target: "b".into(), ..Default::default() };
    let naming = Some(store::flow_spec::Naming::Identity(true));
    let fault = |bytes: &[u8]| decode_command(bytes).unwrap_err().field;

    assert_eq!(fault(&[0xff]), "command", "not protobuf");
    assert_eq!(fault(&[]), "command.kind", "a kind of a later version must not be skipped");
    assert_eq!(fault(&put_flow(spec())), "command.put_flow.spec.naming");
    let bad_source = store::FlowSpec { source: "a.b".into(), naming: naming.clone(), ..spec() };
    assert_eq!(fault(&put_flow(bad_source)), "command.put_flow.spec.source");
    let factor = store::FlowSpec { replication_factor: 40_000, naming: naming.clone(), ..spec() };
    assert_eq!(fault(&put_flow(factor)), "command.put_flow.spec.replication_factor");
    assert_eq!(fault(&put_flow(store::FlowSpec { naming, ..spec() })), "command.put_flow.guard");

    let claim = store::ClaimProducer {
        flow_id: "f".into(),
        generation: Some(store::Generation { producer_id: 1, epoch: 40_000 }),
    };
    let claim = store::Command { at_ms: 1, kind: Some(store::command::Kind::ClaimProducer(claim)) };
    let error = decode_command(&claim.encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "`command.claim_producer.generation.epoch`: 40000 is not a producer epoch");
}

#[test]
fn lists_name_the_element_at_fault() {
    let unit = |id: &str| store::Unit {
        flow_id: "f".into(),
        kind: Some(store::unit::Kind::Partition(store::PartitionUnit { topic: id.into(), partition: 0 })),
    };
    let plan = store::ApplyPlan { assign: vec![], release: vec![unit("ok"), unit("not ok")] };
    let plan = store::Command { at_ms: 1, kind: Some(store::command::Kind::ApplyPlan(plan)) };
    let error = decode_command(&plan.encode_to_vec()).unwrap_err();
    assert_eq!(error.field, "command.apply_plan.release[1].partition.topic");

    let entry = store::TopicEntry { topic: "t".into(), target_topic: "t".into(), ..Default::default() };
    let retired = store::RetiredFlow {
        flow_id: "f".into(),
        spec: Some(store::FlowSpec {
            source: "a".into(),
            target: "b".into(),
            naming: Some(store::flow_spec::Naming::Identity(true)),
            ..Default::default()
        }),
        topics: vec![entry],
        ..Default::default()
    };
    let state = store::State { retired: vec![retired], ..Default::default() };
    let error = decode_state(&state.encode_to_vec()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`state.retired[0].topics[0].source_topic_id`: a topic id has 16 bytes, not 0"
    );
}

#[test]
fn a_state_with_a_key_twice_is_damaged() {
    let cluster = || store::ClusterRecord {
        cluster_id: "a".into(),
        spec: Some(store::ClusterSpec::default()),
        ..Default::default()
    };
    let state = store::State { clusters: vec![cluster(), cluster()], ..Default::default() };
    let error = decode_state(&state.encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), "`state.clusters`: a comes twice");
}

#[test]
fn a_plan_comes_back_with_releases_first_and_assignments_in_order() {
    let unit = |flow: &str| Unit::Topology(FlowId::new(flow).unwrap());
    let worker = || WorkerId::new("w").unwrap();
    let assign = |flow| PlanStep::Assign(unit(flow), worker());
    let steps = vec![assign("b"), PlanStep::Release(unit("c")), assign("a")];
    let command = Command { at_ms: 1, kind: CommandKind::ApplyPlan { steps } };
    let steps = vec![PlanStep::Release(unit("c")), assign("b"), assign("a")];
    let expected = CommandKind::ApplyPlan { steps };
    assert_eq!(decode_command(&encode_command(&command)).unwrap().kind, expected);
}

#[test]
fn a_guard_for_revision_0_never_becomes_an_unguarded_write() {
    let guard = WriteGuard { expected_revision: Some(0), ..Default::default() };
    let id = FlowId::new("f").unwrap();
    let command = Command { at_ms: 1, kind: CommandKind::DeleteFlow { id, guard } };
    let decoded = decode_command(&encode_command(&command)).unwrap();
    let CommandKind::DeleteFlow { guard, .. } = decoded.kind else { panic!("{decoded:?}") };
    assert_eq!(guard.expected_revision, Some(u64::MAX));
}

#[test]
fn options_of_earlier_versions_are_read_and_never_weakened() {
    let spec = store::FlowSpec {
        source: "a".into(),
        target: "b".into(),
        naming: Some(store::flow_spec::Naming::Identity(true)),
        strict_delivery: true,
        ..Default::default()
    };
    let read = FlowSpec::try_from(spec).unwrap();
    assert!(read.require_exactly_once && read.retired.strict_delivery && !read.retired.at_least_once);
    for (strict, marked) in [(true, false), (false, true)] {
        let start = store::PartitionStart { strict, marked, ..Default::default() };
        let start = PartitionStart::try_from(start).unwrap();
        assert!(start.marked, "markers take offsets, so offsets don't count records there");
        assert!(store::PartitionStart::from(&start).marked);
    }
}

#[test]
fn epochs_at_the_edge_of_16_bits_come_back() {
    for epoch in [i16::MIN, -1, 0, i16::MAX] {
        let generation = Generation { producer_id: 7, epoch };
        assert_eq!(Generation::try_from(store::Generation::from(&generation)), Ok(generation));
    }
    for epoch in [i32::from(i16::MAX) + 1, i32::from(i16::MIN) - 1] {
        assert!(Generation::try_from(store::Generation { producer_id: 7, epoch }).is_err());
    }
}
