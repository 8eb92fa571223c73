//! Kafka's ids of clusters: reported by workers, shown, changed by users.

use mirrormesh_proto::{mesh, store, v1};
use prost_types::FieldMask;
use tonic::Code;

use crate::harness::{Node, reason, single};
use crate::session::{Worker, running_flow};

async fn reported(node: &Node, worker: &Worker, cluster: &str, found: &str) -> String {
    let request = mesh::ReportClusterRequest {
        worker_id: worker.id.clone(),
        session: worker.session,
        cluster_id: cluster.into(),
        kafka_cluster_id: found.into(),
    };
    node.sessions().report_cluster(request).await.unwrap().into_inner().kafka_cluster_id
}

async fn shown(node: &Node, cluster: &str) -> String {
    let request = v1::GetClusterRequest { name: format!("clusters/{cluster}") };
    node.clusters().get_cluster(request).await.unwrap().into_inner().kafka_cluster_id
}

fn accept(cluster: &str, id: &str) -> v1::UpdateClusterRequest {
    v1::UpdateClusterRequest {
        cluster: Some(v1::Cluster {
            name: format!("clusters/{cluster}"),
            kafka_cluster_id: id.into(),
            ..v1::Cluster::default()
        }),
        update_mask: Some(FieldMask { paths: vec!["kafka_cluster_id".into()] }),
        ..v1::UpdateClusterRequest::default()
    }
}

#[tokio::test]
async fn first_cluster_id_is_kept_shown_and_assigned() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 1).await;
    let _lease = worker.keep(&node).await;
    assert!(set.clusters.values().all(|spec| spec.kafka_cluster_id.is_none()));
    assert_eq!(shown(&node, "uk").await, "");

    assert_eq!(reported(&node, &worker, "uk", "first").await, "first");
    assert_eq!(reported(&node, &worker, "uk", "second").await, "first", "the answer is what is kept");
    let listed = node.clusters().list_clusters(v1::ListClustersRequest::default()).await.unwrap();
    let ids: Vec<_> =
        listed.into_inner().clusters.into_iter().map(|c| (c.name, c.kafka_cluster_id)).collect();
    assert_eq!(ids, [("clusters/hq".into(), String::new()), ("clusters/uk".into(), "first".to_owned())]);
    let set = worker
        .set("the id in the assignment", |set| {
            set.clusters.values().any(|spec| spec.kafka_cluster_id.as_deref() == Some("first"))
        })
        .await;
    assert_eq!(set.units.len(), 2);

    // It survives a restart.
    let node = Node::start(node.stop().await).await;
    crate::harness::leader(&[&node]).await;
    assert_eq!(shown(&node, "uk").await, "first");
    node.stop().await;
}

#[tokio::test]
async fn user_accepts_another_cluster_id_or_forgets_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, _) = running_flow(&node, 1).await;
    let _lease = worker.keep(&node).await;
    reported(&node, &worker, "uk", "first").await;

    // Nothing but a mask that names the field changes it.
    let other = v1::UpdateClusterRequest {
        cluster: Some(v1::Cluster {
            name: "clusters/uk".into(),
            bootstrap_servers: vec!["localhost:9093".into()],
            kafka_cluster_id: "second".into(),
            ..v1::Cluster::default()
        }),
        ..v1::UpdateClusterRequest::default()
    };
    node.clusters().update_cluster(other).await.unwrap();
    assert_eq!(shown(&node, "uk").await, "first");

    let accepted = node.clusters().update_cluster(accept("uk", "second")).await.unwrap().into_inner();
    assert_eq!(accepted.kafka_cluster_id, "second");
    assert_eq!(accepted.bootstrap_servers, ["localhost:9093"]);
    worker
        .set("the accepted id", |set| {
            set.clusters.values().any(|spec| spec.kafka_cluster_id.as_deref() == Some("second"))
        })
        .await;
    node.clusters().update_cluster(accept("uk", "")).await.unwrap();
    assert_eq!(shown(&node, "uk").await, "");
    assert_eq!(reported(&node, &worker, "uk", "third").await, "third", "learned afresh");

    let wrong = node.clusters().update_cluster(accept("uk", "no id")).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong:?}");
    node.stop().await;
}

#[tokio::test]
async fn cluster_id_is_taken_from_present_sessions_only() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (old, _) = running_flow(&node, 1).await;
    let _new = Worker::register(&node, &old.id, store::Role::Source, 100).await;
    let request = mesh::ReportClusterRequest {
        worker_id: old.id.clone(),
        session: old.session,
        cluster_id: "uk".into(),
        kafka_cluster_id: "x".into(),
    };
    let refused = node.sessions().report_cluster(request).await.unwrap_err();
    assert!(reason(&refused).starts_with("SESSION_"), "{refused:?}");
    assert_eq!(shown(&node, "uk").await, "");
    node.stop().await;
}
