//! The public API on one coordinator.

use std::collections::BTreeMap;
use std::time::Duration;

use mirrormesh_proto::v1::{self, flow::State};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::{Node, cluster_request, flow_request, make_flow, reason, single, soon, until};

fn named(name: &str) -> v1::GetFlowRequest {
    v1::GetFlowRequest { name: name.into() }
}

#[tokio::test]
async fn state_survives_a_restart_in_good_order_and_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let made = make_flow(&node, "f").await;
    assert_eq!(made.name, "flows/f");
    assert_eq!(made.state(), State::Starting);
    let settings = node.stop().await;
    let node = Node::start(settings).await;
    let read = node.flows().get_flow(named("flows/f")).await.unwrap().into_inner();
    assert_eq!((read.etag, read.create_time), (made.etag, made.create_time));
    node.clusters().create_cluster(cluster_request("third", 9292)).await.unwrap();
    let settings = node.kill();
    let node = Node::start(settings).await;
    let third = v1::GetClusterRequest { name: "clusters/third".into() };
    assert!(node.clusters().get_cluster(third).await.is_ok(), "what was acknowledged survives a kill");
    node.stop().await;
}

#[tokio::test]
async fn all_faults_of_a_request_come_over_the_wire_with_their_fields() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let request = v1::CreateFlowRequest {
        flow_id: "not valid".into(),
        flow: Some(v1::Flow {
            source: "uk".into(),
            target: "clusters/hq".into(),
            topics: Some(v1::TopicSelection { include: vec!["a".into(), "(".into()], exclude: vec![] }),
            ..v1::Flow::default()
        }),
        request_id: "x".repeat(65),
        ..Default::default()
    };
    let status = node.flows().create_flow(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_details_bad_request().unwrap();
    let mut fields: Vec<_> = details.field_violations.into_iter().map(|v| v.field).collect();
    fields.sort();
    assert_eq!(fields, ["flow.source", "flow.topics.include[1]", "flow_id", "request_id"]);

    let status = node.flows().create_flow(flow_request("f")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "CLUSTER_NOT_FOUND".into()));
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "flow.source");

    let status = node.flows().get_flow(named("flows/none")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::NotFound, "FLOW_NOT_FOUND".into()));

    make_flow(&node, "f").await;
    let status = node.flows().create_flow(flow_request("f")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::AlreadyExists, "FLOW_EXISTS".into()));
    let delete = v1::DeleteClusterRequest { name: "clusters/uk".into(), ..Default::default() };
    let status = node.clusters().delete_cluster(delete).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "CLUSTER_IN_USE".into()));
    node.stop().await;
}

#[tokio::test]
async fn writes_can_be_rehearsed_repeated_and_conditional() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let rehearsal = v1::CreateClusterRequest { validate_only: true, ..cluster_request("uk", 9092) };
    assert_eq!(node.clusters().create_cluster(rehearsal).await.unwrap().into_inner().name, "clusters/uk");
    let get = || v1::GetClusterRequest { name: "clusters/uk".into() };
    assert_eq!(node.clusters().get_cluster(get()).await.unwrap_err().code(), Code::NotFound);

    let once = v1::CreateClusterRequest { request_id: "r1".into(), ..cluster_request("uk", 9092) };
    let first = node.clusters().create_cluster(once.clone()).await.unwrap().into_inner();
    let again = node.clusters().create_cluster(once).await.unwrap().into_inner();
    assert_eq!(first, again, "a repeat has no second effect");
    let other = v1::CreateClusterRequest { request_id: "r1".into(), ..cluster_request("hq", 9192) };
    let status = node.clusters().create_cluster(other).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "REQUEST_ID_REUSED".into()));

    let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.into()] });
    let update = |etag: &str, mask| v1::UpdateClusterRequest {
        cluster: Some(v1::Cluster {
            name: "clusters/uk".into(),
            properties: BTreeMap::from([("client.rack".to_owned(), "a".to_owned())]),
            etag: etag.into(),
            ..Default::default()
        }),
        update_mask: mask,
        ..Default::default()
    };
    let updated = node.clusters().update_cluster(update("", mask("properties"))).await.unwrap().into_inner();
    assert_eq!(updated.bootstrap_servers, first.bootstrap_servers, "what the mask leaves out stays");
    assert_eq!(updated.properties.len(), 1);
    let status = node.clusters().update_cluster(update(&first.etag, mask("properties"))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "ETAG_MISMATCH".into()));
    let status = node.clusters().update_cluster(update("", mask("nonsense"))).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "update_mask");
    node.stop().await;
}

#[tokio::test]
async fn concurrent_masked_updates_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    make_flow(&node, "f").await;
    let update = |path: &str, flow: v1::Flow| {
        let update_mask = Some(prost_types::FieldMask { paths: vec![path.into()] });
        let flow = Some(v1::Flow { name: "flows/f".into(), ..flow });
        v1::UpdateFlowRequest { flow, update_mask, ..Default::default() }
    };
    let topics = v1::TopicSelection { include: vec!["only".into()], exclude: vec![] };
    let a = update("topics.include", v1::Flow { topics: Some(topics), ..Default::default() });
    let off = v1::HeartbeatOptions { enabled: Some(false), interval: None };
    let b = update("heartbeats.enabled", v1::Flow { heartbeats: Some(off), ..Default::default() });
    let c = update("shared_target", v1::Flow { shared_target: true, ..Default::default() });
    let (mut first, mut second, mut third) = (node.flows(), node.flows(), node.flows());
    let (a, b, c) = tokio::join!(first.update_flow(a), second.update_flow(b), third.update_flow(c));
    for updated in [a, b, c] {
        updated.unwrap();
    }
    let flow = node.flows().get_flow(named("flows/f")).await.unwrap().into_inner();
    assert_eq!(flow.topics.unwrap().include, ["only"]);
    assert_eq!(flow.heartbeats.unwrap().enabled, Some(false));
    assert!(flow.shared_target);
    node.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    for (port, id) in (9000..).zip(["c", "a", "b"]) {
        node.clusters().create_cluster(cluster_request(id, port)).await.unwrap();
    }
    let list = |page_token: String| v1::ListClustersRequest { page_size: 2, page_token };
    let first = node.clusters().list_clusters(list(String::new())).await.unwrap().into_inner();
    let names = |page: &v1::ListClustersResponse| {
        page.clusters.iter().map(|cluster| cluster.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&first), ["clusters/a", "clusters/b"]);
    let second = node.clusters().list_clusters(list(first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((names(&second), second.next_page_token), (vec!["clusters/c".to_owned()], String::new()));
    let status = node.clusters().list_clusters(list("garbage".into())).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "page_token");
    node.stop().await;
}

#[tokio::test]
async fn a_watch_shows_a_snapshot_changes_and_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    make_flow(&node, "f").await;
    let watch = v1::WatchFlowRequest { name: "flows/f".into(), include_topics: true };
    let mut stream = node.flows().watch_flow(watch.clone()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.flow.unwrap().state(), State::Starting);
    let pause = v1::PauseFlowRequest { name: "flows/f".into(), ..Default::default() };
    assert_eq!(node.flows().pause_flow(pause).await.unwrap().into_inner().state(), State::Paused);
    let begin = std::time::Instant::now();
    let second = stream.message().await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "a change is shown within about a second");
    assert!(second.revision > first.revision);
    assert_eq!(second.flow.unwrap().state(), State::Paused);

    // No worker at all: after a few seconds that is a condition, with what to do.
    let resume = v1::ResumeFlowRequest { name: "flows/f".into(), ..Default::default() };
    node.flows().resume_flow(resume).await.unwrap();
    let degraded = async {
        loop {
            let flow = stream.message().await.unwrap().unwrap().flow.unwrap();
            if flow.state() == State::Degraded && flow.conditions.len() == 3 {
                return flow;
            }
        }
    };
    let flow = soon("no worker", degraded).await;
    assert!(flow.conditions.iter().all(|condition| condition.reason == "NO_WORKER"));
    assert!(flow.conditions[0].message.contains("start mirrormesh-source"), "{:?}", flow.conditions);

    let delete = v1::DeleteFlowRequest { name: "flows/f".into(), ..Default::default() };
    node.flows().delete_flow(delete).await.unwrap();
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    };
    let end = soon("the deleted flow's stream ends", end).await;
    assert_eq!((end.code(), reason(&end)), (Code::NotFound, "FLOW_NOT_FOUND".into()));
    assert_eq!(node.flows().watch_flow(watch).await.unwrap_err().code(), Code::NotFound);
    node.stop().await;
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions_and_health_answers() {
    use tonic_reflection::pb::{v1 as new, v1alpha as old};
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let expected = ["ClusterService", "FlowService", "MeshService", "WorkerService"];
    let check = |mut names: Vec<String>| {
        names.retain(|name| name.starts_with("mirrormesh.v1."));
        names.sort();
        assert_eq!(names, expected.map(|name| format!("mirrormesh.v1.{name}")));
    };

    let mut client = new::server_reflection_client::ServerReflectionClient::new(node.channel());
    let list = new::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = new::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let stream = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let new::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    check(list.service.into_iter().map(|service| service.name).collect());

    let mut client = old::server_reflection_client::ServerReflectionClient::new(node.channel());
    let list = old::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = old::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let stream = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let old::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    check(list.service.into_iter().map(|service| service.name).collect());

    let mut health = tonic_health::pb::health_client::HealthClient::new(node.channel());
    until("health", Duration::from_secs(5), || {
        let service = "mirrormesh.v1.FlowService".to_owned();
        let mut health = health.clone();
        async move {
            let answer = health.check(tonic_health::pb::HealthCheckRequest { service }).await.ok()?;
            (answer.into_inner().status == 1).then_some(())
        }
    })
    .await;
    let unknown = tonic_health::pb::HealthCheckRequest { service: "unknown".into() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    let report = node.health.report();
    assert_eq!(report.status, mirrormesh_runtime::http::Status::Ok, "{report:?}");
    node.stop().await;
}
