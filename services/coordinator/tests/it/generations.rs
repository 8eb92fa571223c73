//! Generations of partitions, through the Raft log of a coordinator.

use mirrormesh_core::control::GenerationRequest;
use mirrormesh_core::ids::{FlowId, TopicName};
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::{Generation, PartitionGeneration, PartitionStart, WorkerAssignment};
use mirrormesh_proto::{mesh, store, v1};
use tonic::{Code, Status};

use crate::harness::{Node, reason, single};
use crate::session::{Worker, first_partition, running_flow};

fn lost() -> Event {
    Event {
        flow: FlowId::new("f").unwrap(),
        time_ms: 5,
        reason: "RETENTION_OVERRUN".into(),
        message: "40 records are gone".into(),
        subject: "t/0".into(),
        from_offset: Some(10),
        to_offset: Some(50),
        count: Some(40),
        sequence: 0,
    }
}

fn request(worker: &Worker, number: u64, after: Generation) -> mesh::BeginGenerationRequest {
    let request = GenerationRequest {
        flow: FlowId::new("f").unwrap(),
        topic: TopicName::new("t").unwrap(),
        partition: 0,
        number,
        after,
        offered: None,
        start: PartitionStart { source_offset: 50, target_offset: 10, ..PartitionStart::default() },
        events: vec![lost()],
    };
    let (worker_id, session) = (worker.id.clone(), worker.session);
    mesh::BeginGenerationRequest { worker_id, session, begin: Some((&request).into()) }
}

async fn ask(node: &Node, request: mesh::BeginGenerationRequest) -> Result<PartitionGeneration, Status> {
    let response = node.sessions().begin_generation(request).await?.into_inner();
    Ok(PartitionGeneration::try_from(response).unwrap())
}

async fn refused(node: &Node, request: mesh::BeginGenerationRequest) -> (Code, String) {
    let status = ask(node, request).await.unwrap_err();
    (status.code(), reason(&status))
}

async fn events(node: &Node, filter: &str) -> Result<Vec<v1::FlowEvent>, Status> {
    let list =
        v1::ListFlowEventsRequest { parent: "flows/f".into(), filter: filter.into(), ..Default::default() };
    Ok(node.flows().list_flow_events(list).await?.into_inner().events)
}

#[tokio::test]
async fn a_partition_begins_a_generation_through_the_log_and_only_for_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 1).await;
    let (unit, assigned) = set.units.iter().find(|(_, assigned)| assigned.partition.is_some()).unwrap();
    let first = assigned.partition.clone().unwrap().begun.generation;
    let begun = ask(&node, request(&worker, assigned.number, first)).await.unwrap();
    assert_eq!((begun.generation.producer_id, begun.generation.epoch), (7, 1));
    assert_eq!(ask(&node, request(&worker, assigned.number, first)).await.unwrap(), begun, "a repeat");
    let follows = |set: &WorkerAssignment| set.units[unit].partition.as_ref().unwrap().begun == begun;
    worker.set("the generation in the assignment", follows).await;
    assert_eq!(first_partition(&node).await.generation.unwrap().epoch, Some(1));
    let told: Vec<_> = events(&node, "").await.unwrap().into_iter().map(|e| (e.reason, e.count)).collect();
    assert_eq!(told, [("RETENTION_OVERRUN".to_owned(), Some(40))], "once");

    let outdated = request(&worker, assigned.number + 1, begun.generation);
    assert_eq!(refused(&node, outdated).await, (Code::Aborted, "ASSIGNMENT_OUTDATED".into()));
    let skipped = request(&worker, assigned.number, Generation { epoch: 5, ..first });
    assert_eq!(refused(&node, skipped).await, (Code::Aborted, "GENERATION_OUTDATED".into()));
    // The same worker begins a new session: what its predecessor still sends is not heard.
    let stale = request(&worker, assigned.number, begun.generation);
    Worker::register(&node, "s1", store::Role::Source, 100).await;
    assert_eq!(refused(&node, stale).await, (Code::Aborted, "SESSION_OUTDATED".into()));
    node.stop().await;
}

#[tokio::test]
async fn events_are_filtered_by_subject_and_reason() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (worker, set) = running_flow(&node, 1).await;
    let assigned = set.units.values().find(|assigned| assigned.partition.is_some()).unwrap();
    let first = assigned.partition.clone().unwrap().begun.generation;
    ask(&node, request(&worker, assigned.number, first)).await.unwrap();
    for (filter, count) in [
        (r#"subject = "t/0""#, 1),
        (r#"subject = "t/1""#, 0),
        (r#"subject = "t/*" AND reason = RETENTION_OVERRUN"#, 1),
        (r#"subject = "t/*" AND reason = TRUNCATED"#, 0),
    ] {
        assert_eq!(events(&node, filter).await.unwrap().len(), count, "{filter}");
    }
    assert_eq!(events(&node, "x").await.unwrap_err().code(), Code::InvalidArgument);
    node.stop().await;
}
