//! What holds a flow back by a user's word: throttles, pauses of topics and partitions; and very many topics at once.

use mirrormesh_core::report::{PartitionFigures, UnitReport, UnitState};
use mirrormesh_core::throttle::Share;
use mirrormesh_core::unit::{AssignedUnit, Unit, WorkerAssignment};
use mirrormesh_proto::v1::{self, flow_partition::State};
use mirrormesh_proto::{mesh, store};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::{Node, flow_request, make_flow, reason, single};
use crate::session::{Worker, running_flow};

async fn topic(node: &Node) -> v1::FlowTopic {
    let topics = v1::ListFlowTopicsRequest { parent: "flows/f".into(), ..Default::default() };
    node.flows().list_flow_topics(topics).await.unwrap().into_inner().topics.remove(0)
}

fn pause(partitions: &[i32]) -> v1::PauseFlowTopicRequest {
    v1::PauseFlowTopicRequest {
        name: "flows/f/topics/t".into(),
        partitions: partitions.to_vec(),
        request_id: String::new(),
    }
}

fn resume(partitions: &[i32]) -> v1::ResumeFlowTopicRequest {
    let v1::PauseFlowTopicRequest { name, partitions, request_id } = pause(partitions);
    v1::ResumeFlowTopicRequest { name, partitions, request_id }
}

fn numbers(set: &WorkerAssignment) -> Vec<i32> {
    let number = |unit: &Unit| match unit {
        Unit::Partition(_, _, number) => Some(*number),
        _ => None,
    };
    set.units.keys().filter_map(number).collect()
}

fn states(topic: &v1::FlowTopic) -> Vec<State> {
    topic.partitions.iter().map(v1::FlowPartition::state).collect()
}

#[tokio::test]
async fn a_paused_partition_is_let_go_and_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 3).await;
    let _kept = worker.keep(&node).await;
    let shown = node.flows().pause_flow_topic(pause(&[1])).await.unwrap().into_inner();
    assert_eq!((&*shown.name, shown.partitions[1].state()), ("flows/f/topics/t", State::Pausing));
    let without = worker.set("one partition less", |set| numbers(set) == [0, 2]).await;
    let (unit, owned) = set.units.iter().find(|(unit, _)| matches!(unit, Unit::Partition(_, _, 1))).unwrap();
    worker.report(&[], &[(unit.clone(), owned.number)]).await.unwrap();
    assert_eq!(states(&topic(&node).await)[1], State::Paused, "its worker let go");

    // Once more is no other pause, and others are paused beside it; resumed is only what is named.
    node.flows().pause_flow_topic(pause(&[1, 2])).await.unwrap();
    worker.set("two partitions less", |set| numbers(set) == [0]).await;
    node.flows().resume_flow_topic(resume(&[1])).await.unwrap();
    let again = worker.set("it is back", |set| numbers(set) == [0, 1]).await;
    assert!(again.units[unit].number > owned.number, "a new assignment");
    assert_eq!(again.units[unit].partition, owned.partition, "with the same place and generation");
    assert!(without.units.len() == 3);

    // The whole topic, then all of it again.
    node.flows().pause_flow_topic(pause(&[])).await.unwrap();
    worker.set("nothing but the topology", |set| numbers(set).is_empty()).await;
    let flow = v1::GetFlowRequest { name: "flows/f".into() };
    let flow = node.flows().get_flow(flow).await.unwrap().into_inner();
    assert_ne!(flow.state(), v1::flow::State::Paused, "the flow itself is not paused");
    node.stop().await;
}

#[tokio::test]
async fn resuming_a_topic_says_that_the_flow_is_paused() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (worker, _set) = running_flow(&node, 2).await;
    let _kept = worker.keep(&node).await;
    let shown = node.flows().pause_flow_topic(pause(&[1])).await.unwrap().into_inner();
    assert!(shown.partitions[1].reason.starts_with("TOPIC_PAUSED: flows/f/topics/t"), "{shown:#?}");
    assert_eq!(shown.partitions[0].reason, "", "the other one is not paused");
    let request = v1::PauseFlowRequest { name: "flows/f".into(), ..Default::default() };
    node.flows().pause_flow(request).await.unwrap();
    let shown = node.flows().resume_flow_topic(resume(&[])).await.unwrap().into_inner();
    for partition in &shown.partitions {
        assert!(partition.reason.starts_with("FLOW_PAUSED: flows/f"), "{partition:#?}");
        assert!(partition.reason.contains("ResumeFlow"), "{partition:#?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_recreated_flow_is_starting_until_its_units_report() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 2).await;
    let running = |set: &WorkerAssignment| -> Vec<UnitReport> {
        let report = |(unit, assigned): (&Unit, &AssignedUnit)| UnitReport {
            unit: unit.clone(),
            number: assigned.number,
            state: UnitState::Running,
            reason: String::new(),
            message: String::new(),
            partition: None,
        };
        set.units.iter().map(report).collect()
    };
    worker.report(&running(&set), &[]).await.unwrap();
    let delete = v1::DeleteFlowRequest { name: "flows/f".into(), ..Default::default() };
    node.flows().delete_flow(delete).await.unwrap();
    let shown = node.flows().create_flow(flow_request("f")).await.unwrap().into_inner();
    assert_eq!(shown.state(), v1::flow::State::Starting, "what runs is the deleted flow's: {shown:#?}");
    node.stop().await;
}

#[tokio::test]
async fn pauses_survive_a_restart_and_what_does_not_exist_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (worker, _set) = running_flow(&node, 2).await;
    let _kept = worker.keep(&node).await;
    node.flows().pause_flow_topic(pause(&[0])).await.unwrap();
    let refused = async |node: &Node, request: v1::PauseFlowTopicRequest| {
        let status = node.flows().pause_flow_topic(request).await.unwrap_err();
        (status.code(), reason(&status))
    };
    let named = |name: &str| v1::PauseFlowTopicRequest { name: name.into(), ..pause(&[]) };
    assert_eq!(refused(&node, pause(&[2])).await, (Code::InvalidArgument, "PARTITION_NOT_FOUND".into()));
    let unknown = (Code::NotFound, "FLOW_TOPIC_NOT_FOUND".into());
    assert_eq!(refused(&node, named("flows/f/topics/u")).await, unknown);
    assert_eq!(refused(&node, named("flows/g/topics/t")).await, (Code::NotFound, "FLOW_NOT_FOUND".into()));
    assert_eq!(refused(&node, named("flows/f")).await.0, Code::InvalidArgument);
    assert_eq!(refused(&node, pause(&[-1])).await.0, Code::InvalidArgument);

    let node = Node::start(node.stop().await).await;
    crate::harness::leader(&[&node]).await;
    assert_eq!(states(&topic(&node).await)[0], State::Pausing);
    node.stop().await;
}

fn violations(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    details.into_iter().map(|violation| violation.field).collect()
}

fn throttled(throttle: v1::Throttle) -> v1::UpdateFlowRequest {
    let records = v1::RecordOptions { throttle: Some(throttle), ..v1::RecordOptions::default() };
    v1::UpdateFlowRequest {
        flow: Some(v1::Flow { name: "flows/f".into(), records: Some(records), ..v1::Flow::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["records.throttle".into()] }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_throttle_is_live_shared_among_workers_and_refused_if_absurd() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 4).await;
    let _kept = worker.keep(&node).await;
    for (bytes, records, field) in [
        (0, 1, "bytes"),
        (-1, 1, "bytes"),
        (i64::MAX, 1, "bytes"),
        (1_024, 0, "records"),
        (1_024, i64::MAX, "records"),
    ] {
        let throttle = v1::Throttle { bytes_per_second: Some(bytes), records_per_second: Some(records) };
        let status = node.flows().update_flow(throttled(throttle)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(violations(&status), [format!("flow.records.throttle.{field}_per_second")]);
    }
    let throttle = v1::Throttle { bytes_per_second: Some(1 << 20), records_per_second: None };
    let flow = node.flows().update_flow(throttled(throttle)).await.unwrap().into_inner();
    assert_eq!(flow.records.unwrap().throttle, Some(throttle));
    let id = set.flows.keys().next().unwrap();
    let limited =
        worker.set("the throttle", |set| set.flows[id].spec.throttle.bytes_per_second.is_some()).await;
    assert_eq!(limited.units, set.units, "nothing is assigned anew");
    assert_eq!(limited.flows[id].generation, set.flows[id].generation);
    let share = limited.flows[id].shares.flow;
    assert_eq!((share.part, share.of), (1, 1));

    // Another worker takes over some: each has its part, and the parts are one whole.
    let mut other = Worker::register(&node, "s2", store::Role::Source, 100).await;
    let _other_kept = other.keep(&node).await;
    let moved = worker.set("some are to be let go", |set| numbers(set).len() < 4).await;
    let gone: Vec<(Unit, u64)> = set
        .units
        .iter()
        .filter(|(unit, _)| !moved.units.contains_key(*unit))
        .map(|(unit, assigned)| (unit.clone(), assigned.number))
        .collect();
    worker.report(&[], &gone).await.unwrap();
    let partitions = gone.iter().filter(|(unit, _)| matches!(unit, Unit::Partition(..))).count();
    let taken = other.set("its part", |set| numbers(set).len() == partitions).await;
    let even = taken.flows[id].shares.flow;
    assert_eq!(even.part as usize * 4, partitions * even.of as usize, "nothing is known of any: even parts");

    // What one worker's partitions take no part of is the other's, as long as it waits.
    other.report(&figures(&taken, ""), &[]).await.unwrap();
    worker.report(&figures(&moved, "THROTTLED"), &[]).await.unwrap();
    let nearly = |share: Share| share.part < share.of && share.part * 10 > share.of * 9;
    let more = worker.set("what the other leaves", |set| nearly(set.flows[id].shares.flow)).await;
    let more = more.flows[id].shares.flow;
    let less = other.set("what it needs", |set| set.flows[id].shares.flow != even).await;
    let less = less.flows[id].shares.flow;
    assert_eq!((more.of, more.part + less.part), (less.of, more.of), "the parts are one whole");
    let waits = figures(&taken, "THROTTLED");
    other.report(&waits, &[]).await.unwrap();
    other.set("its even part, when it waits", |set| set.flows[id].shares.flow == even).await;
    node.stop().await;
}

/// Reports of partitions that mirror nothing, for this reason.
fn figures(set: &WorkerAssignment, reason: &str) -> Vec<UnitReport> {
    let partitions = set.units.iter().filter(|(unit, _)| matches!(unit, Unit::Partition(..)));
    let report = |(unit, assigned): (&Unit, &AssignedUnit)| UnitReport {
        unit: unit.clone(),
        number: assigned.number,
        state: UnitState::Running,
        reason: reason.to_owned(),
        message: String::new(),
        partition: Some(PartitionFigures::default()),
    };
    partitions.map(report).collect()
}

#[tokio::test]
async fn five_thousand_topics_at_once_are_planned_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    make_flow(&node, "f").await;
    let mut worker = Worker::register(&node, "s1", store::Role::Source, 20_000).await;
    let _kept = worker.keep(&node).await;
    let set = worker.set("the topology unit", |set| set.units.len() == 1).await;
    crate::session::claim(&node, &worker).await;
    let number = set.units.values().next().unwrap().number;
    let entry = |n: usize| store::TopicEntry {
        topic: format!("t{n}"),
        target_topic: format!("uk.t{n}"),
        source_topic_id: vec![1; 16],
        target_topic_id: vec![2; 16],
        starts: vec![store::PartitionStart::default(); 2],
        ..Default::default()
    };
    let request = mesh::ReportInventoryRequest {
        worker_id: worker.id.clone(),
        session: worker.session,
        flow_id: "f".into(),
        number,
        topics: (0..5_000).map(entry).collect(),
        ..Default::default()
    };
    let answer = node.sessions().report_inventory(request.clone()).await.unwrap().into_inner();
    assert!(answer.refused.is_empty());
    worker.set("every partition", |set| numbers(set).len() == 10_000).await;
    // The same again changes nothing, and a page of the list is a page.
    let before = node.mesh().get_mesh(v1::GetMeshRequest {}).await.unwrap().into_inner();
    node.sessions().report_inventory(request).await.unwrap();
    let topics =
        v1::ListFlowTopicsRequest { parent: "flows/f".into(), page_size: 10_000, ..Default::default() };
    let page = node.flows().list_flow_topics(topics).await.unwrap().into_inner();
    assert_eq!((page.topics.len(), page.next_page_token.is_empty()), (1_000, false));
    let after = node.mesh().get_mesh(v1::GetMeshRequest {}).await.unwrap().into_inner();
    assert_eq!(before.leader_id, after.leader_id, "the leader did not stumble over it");
    node.stop().await;
}
