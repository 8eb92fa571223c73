//! Previews: who is asked, how pages are cut, and what the mesh itself adds to what a worker sees.

use mirrormesh_core::flow::{PreviewPage, PreviewQuestion, PreviewedTopic};
use mirrormesh_core::ids::TopicName;
use mirrormesh_proto::convert::session::{Question, preview_answer};
use mirrormesh_proto::{mesh, v1};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use crate::harness::{Node, make_flow, reason, single, until};
use crate::session::{Worker, running_flow};

/// A source topic that the worker sees; `left_out` is the reason.
fn seen(topic: &str, target: &str, left_out: Option<&str>) -> PreviewedTopic {
    PreviewedTopic {
        topic: TopicName::new(topic).unwrap(),
        partitions: 3,
        target: TopicName::new(target).ok(),
        left_out: left_out.map(|reason| (reason.to_owned(), "why".to_owned())),
    }
}

/// Answers questions as long as it lives; an error is what the worker says instead.
async fn answering(
    node: &Node,
    worker: &Worker,
    answer: impl Fn(PreviewQuestion) -> Result<PreviewPage, String> + Send + 'static,
) -> AbortOnDropHandle<()> {
    let (first, answers, mut questions) = worker.serve_queries(node).await;
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(Some(query)) = questions.message().await {
            let query_id = query.query_id;
            let Ok(Question::Preview(question)) = Question::try_from(query) else { continue };
            let mut message = mesh::ServeQueriesRequest { query_id, ..first.clone() };
            match answer(*question) {
                Ok(page) => message.preview = Some(preview_answer(page)),
                Err(error) => message.error = error,
            }
            if answers.send(message).await.is_err() {
                return;
            }
        }
    }))
}

async fn preview(
    node: &Node,
    request: v1::PreviewFlowTopicsRequest,
) -> Result<v1::PreviewFlowTopicsResponse, Status> {
    node.flows().preview_flow_topics(request).await.map(tonic::Response::into_inner)
}

fn of(name: &str) -> v1::PreviewFlowTopicsRequest {
    v1::PreviewFlowTopicsRequest { name: name.into(), ..Default::default() }
}

fn draft(source: &str) -> v1::PreviewFlowTopicsRequest {
    let flow = v1::Flow { source: source.into(), target: "clusters/hq".into(), ..v1::Flow::default() };
    v1::PreviewFlowTopicsRequest { flow: Some(flow), ..Default::default() }
}

#[tokio::test]
async fn what_the_mesh_knows_is_added_to_what_a_worker_sees() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    // The flow mirrors `t` to `uk.t`.
    let (worker, _) = running_flow(&node, 1).await;
    let _kept = worker.keep(&node).await;
    let _answers = answering(&node, &worker, |question| {
        assert_eq!((question.spec.source.as_str(), question.limit), ("uk", 50));
        assert!(question.clusters.len() == 2 && !question.mesh_id.is_empty());
        let topics = vec![
            seen("a", "", Some("NOT_SELECTED")),
            seen("s", "uk.t", None),
            seen("t", "uk.t", Some("FLOW_CLAIMED")),
            seen("z", "uk.z", None),
        ];
        Ok(PreviewPage { topics, more: false })
    })
    .await;
    let shown = |response: v1::PreviewFlowTopicsResponse| -> Vec<(String, String, String)> {
        assert!(response.next_page_token.is_empty());
        response.topics.into_iter().map(|t| (t.topic, t.target_topic, t.reason)).collect()
    };
    let row = |topic: &str, target: &str, reason: &str| (topic.into(), target.into(), reason.into());
    let ready = || async { preview(&node, of("flows/f")).await.ok() };
    let existing = until("an answer", std::time::Duration::from_secs(20), ready).await;
    let conflict = "TARGET_TOPIC_CONFLICT";
    let rows = [
        row("a", "", "NOT_SELECTED"),
        row("s", "uk.t", conflict),
        row("t", "uk.t", ""),
        row("z", "uk.z", ""),
    ];
    assert_eq!(shown(existing), rows);
    // Another flow can't have what this one writes.
    let other = shown(preview(&node, draft("clusters/uk")).await.unwrap());
    assert_eq!(other[1], row("s", "uk.t", conflict));
    assert_eq!(other[2], row("t", "uk.t", "FLOW_CLAIMED"));
    // An update of the flow itself can.
    let mut update = draft("clusters/uk");
    update.flow.as_mut().unwrap().name = "flows/f".into();
    assert_eq!(shown(preview(&node, update).await.unwrap())[2], row("t", "uk.t", ""));
    node.stop().await;
}

#[tokio::test]
async fn previews_come_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (worker, _) = running_flow(&node, 1).await;
    let _kept = worker.keep(&node).await;
    let _answers = answering(&node, &worker, |question| {
        let all = ["a", "b", "c"].map(|name| seen(name, &format!("uk.{name}"), None));
        let limit = usize::try_from(question.limit).unwrap();
        let behind = all.into_iter().filter(|topic| topic.topic.as_str() > question.after.as_str());
        let mut topics: Vec<_> = behind.take(limit + 1).collect();
        let more = topics.len() > limit;
        topics.truncate(limit);
        Ok(PreviewPage { topics, more })
    })
    .await;
    let page =
        |token: String| v1::PreviewFlowTopicsRequest { page_size: 2, page_token: token, ..of("flows/f") };
    let ready = || async { preview(&node, page(String::new())).await.ok() };
    let first = until("an answer", std::time::Duration::from_secs(20), ready).await;
    assert_eq!(first.topics.iter().map(|t| &*t.topic).collect::<Vec<_>>(), ["a", "b"]);
    let last = preview(&node, page(first.next_page_token.clone())).await.unwrap();
    assert_eq!((last.topics.len(), &*last.topics[0].topic, &*last.next_page_token), (1, "c", ""));
    let foreign = v1::PreviewFlowTopicsRequest { page_token: first.next_page_token, ..draft("clusters/uk") };
    let status = preview(&node, foreign).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "a token of another list");
    node.stop().await;
}

#[tokio::test]
async fn what_keeps_a_preview_from_being_made_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    make_flow(&node, "f").await;
    let status = preview(&node, of("flows/f")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "NO_WORKER".into()));
    assert!(status.message().contains("start mirrormesh-source"), "{status:?}");
    for (request, code, why) in [
        (of("flows/none"), Code::NotFound, "FLOW_NOT_FOUND"),
        (draft("clusters/us"), Code::NotFound, "CLUSTER_NOT_FOUND"),
    ] {
        let status = preview(&node, request).await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (code, why));
    }
    let both = v1::PreviewFlowTopicsRequest { name: "flows/f".into(), ..draft("clusters/uk") };
    for request in [both, v1::PreviewFlowTopicsRequest::default()] {
        assert_eq!(preview(&node, request).await.unwrap_err().code(), Code::InvalidArgument);
    }

    let worker = Worker::register(&node, "s1", mirrormesh_proto::store::Role::Source, 10).await;
    let _kept = worker.keep(&node).await;
    let unreachable = |_| Err("CLUSTER_UNREACHABLE: clusters/uk: no route".to_owned());
    let _answers = answering(&node, &worker, unreachable).await;
    let ready =
        || async { preview(&node, of("flows/f")).await.err().filter(|status| reason(status) != "NO_WORKER") };
    let status = until("an answer", std::time::Duration::from_secs(20), ready).await;
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "CLUSTER_UNREACHABLE".into()));
    assert_eq!(status.message(), "clusters/uk: no route");
    node.stop().await;
}
