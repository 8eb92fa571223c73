//! Several coordinators: forwarding, failover, handover, membership.

use std::time::{Duration, Instant};

use mirrormesh_coordinator::Settings;
use mirrormesh_proto::{mesh as wire, store, v1};
use tonic::Code;

use crate::harness::{
    Node, cluster_request, flow_request, leader, make_flow, mesh, reason, settings, single, soon, until,
};

fn split(nodes: Vec<Node>, leader: u64) -> (Node, Vec<Node>) {
    let (mut leaders, others): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| node.settings.node_id == leader);
    (leaders.remove(0), others)
}

#[tokio::test]
async fn any_coordinator_serves_any_call_and_a_killed_leader_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = mesh(&directory, 3).await;
    let id = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let (first, followers) = split(nodes, id);
    make_flow(&followers[0], "through-a-follower").await;
    let name = || v1::GetFlowRequest { name: "flows/through-a-follower".into() };
    for node in [&first, &followers[0], &followers[1]] {
        assert!(node.flows().get_flow(name()).await.is_ok(), "a read sees every acknowledged write");
    }
    // Errors keep their details on the way, and streams go through.
    let status = followers[1].flows().create_flow(flow_request("through-a-follower")).await.unwrap_err();
    assert_eq!(reason(&status), "FLOW_EXISTS");
    let watch = v1::WatchFlowRequest { name: "flows/through-a-follower".into(), include_topics: false };
    let mut stream = followers[1].flows().watch_flow(watch).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());

    // Writes under way while the leader dies: what was acknowledged must be there.
    let mut acknowledged = Vec::new();
    let mut writer = followers[0].clusters();
    for number in 0..5 {
        writer.create_cluster(cluster_request(&format!("before-{number}"), 1000 + number)).await.unwrap();
        acknowledged.push(format!("clusters/before-{number}"));
    }
    let killed = first.kill();
    let begin = Instant::now();
    let mut number = 0;
    until("the API answers again", Duration::from_secs(10), || {
        number += 1;
        let mut writer = followers[0].clusters();
        async move { writer.create_cluster(cluster_request(&format!("after-{number}"), 2000 + number)).await.ok() }
    })
    .await;
    let outage = begin.elapsed();
    assert!(outage < Duration::from_secs(3), "the API answered again after {outage:?}");
    eprintln!("outage after the death of the leader: {outage:?}");
    let ends = async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    };
    let end = soon("the watch ends", ends).await;
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    for name in acknowledged {
        followers[1].clusters().get_cluster(v1::GetClusterRequest { name }).await.unwrap();
    }

    let back = Node::start(killed).await;
    let all = [&back, &followers[0], &followers[1]];
    assert_ne!(leader(&all).await, 0);
    assert!(back.flows().get_flow(name()).await.is_ok(), "the one that came back forwards, too");
    for node in followers.into_iter().chain([back]) {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_and_workers_are_sent_to_the_leader() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = mesh(&directory, 3).await;
    let id = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let (first, followers) = split(nodes, id);
    let register = || wire::RegisterRequest {
        worker_id: "w".into(),
        role: store::Role::Source.into(),
        capacity: 1,
        version: String::new(),
    };
    let status = followers[0].sessions().register(register()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "NOT_LEADER".into()));
    let address = status.metadata().get("mirrormesh-leader").unwrap().to_str().unwrap();
    assert_eq!(address, first.bound.mesh.to_string());

    let to = followers[0].settings.node_id;
    let mesh = first.mesh().transfer_leadership(v1::TransferLeadershipRequest { id: to }).await.unwrap();
    assert_eq!(mesh.into_inner().leader_id, to);
    until("the new leader takes sessions", Duration::from_secs(5), || {
        let mut sessions = followers[0].sessions();
        async move { sessions.register(register()).await.ok() }
    })
    .await;

    // The leader leaves in good order: nobody waits for its lease.
    let (leaving, mut rest) = split(followers, to);
    rest.push(first);
    leaving.stop().await;
    let begin = Instant::now();
    let all: Vec<_> = rest.iter().collect();
    assert_ne!(leader(&all).await, to);
    assert!(begin.elapsed() < Duration::from_millis(850), "shorter than a lease: {:?}", begin.elapsed());
    for node in rest {
        node.stop().await;
    }
}

#[tokio::test]
async fn members_are_added_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let first = single(&directory).await;
    make_flow(&first, "f").await;
    let second = Node::start(Settings { join: true, ..settings(2, &directory) }).await;
    let status = second.flows().get_flow(v1::GetFlowRequest { name: "flows/f".into() }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "NO_LEADER".into()));

    let member = |node: &Node| v1::Member {
        id: node.settings.node_id,
        mesh_address: node.bound.mesh.to_string(),
        api_address: node.bound.api.to_string(),
        voter: true,
    };
    let add = v1::AddMemberRequest { member: Some(member(&second)) };
    let mesh = first.mesh().add_member(add.clone()).await.unwrap().into_inner();
    assert_eq!(mesh.members, [member(&first), member(&second)]);
    assert_eq!(first.mesh().add_member(add).await.unwrap_err().code(), Code::AlreadyExists);
    assert!(second.flows().get_flow(v1::GetFlowRequest { name: "flows/f".into() }).await.is_ok());

    let mesh = first.mesh().remove_member(v1::RemoveMemberRequest { id: 2 }).await.unwrap().into_inner();
    assert_eq!(mesh.members, [member(&first)]);
    let status = first.mesh().remove_member(v1::RemoveMemberRequest { id: 2 }).await.unwrap_err();
    assert_eq!(reason(&status), "MEMBER_NOT_FOUND");
    let status = first.mesh().remove_member(v1::RemoveMemberRequest { id: 1 }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "LAST_MEMBER".into()));
    assert!(status.message().contains("AddMember"), "{}", status.message());
    // With the second one gone, the first needs nobody's vote.
    second.kill();
    first.clusters().create_cluster(cluster_request("alone", 1)).await.unwrap();
    first.stop().await;
}

#[tokio::test]
async fn a_mesh_of_its_own_is_not_taken_over_by_another() {
    let directory = tempfile::tempdir().unwrap();
    let first = single(&directory).await;
    let second = Node::start(settings(2, &directory)).await;
    leader(&[&second]).await;
    second.clusters().create_cluster(cluster_request("precious", 1)).await.unwrap();
    let member = v1::Member {
        id: 2,
        mesh_address: second.bound.mesh.to_string(),
        api_address: second.bound.api.to_string(),
        voter: true,
    };
    let mut adding = first.mesh();
    let add = adding.add_member(v1::AddMemberRequest { member: Some(member) });
    assert!(tokio::time::timeout(Duration::from_secs(2), add).await.is_err(), "it never catches up");
    let get = v1::GetClusterRequest { name: "clusters/precious".into() };
    assert!(second.clusters().get_cluster(get).await.is_ok(), "what it acknowledged is still there");
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn a_leader_that_moved_announces_its_new_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let before = node.bound;
    let settings = node.stop().await;
    // Port 0 again: other ports, unless chance wants it otherwise.
    let node = Node::start(settings).await;
    leader(&[&node]).await;
    let address = node.bound.api.to_string();
    until("new address", Duration::from_secs(5), || {
        let mut mesh = node.mesh();
        let address = address.clone();
        async move {
            let mesh = mesh.get_mesh(v1::GetMeshRequest {}).await.ok()?.into_inner();
            mesh.members.first().filter(|member| member.api_address == address).map(|_| ())
        }
    })
    .await;
    assert_ne!(before.api, node.bound.api);
    node.stop().await;
}
