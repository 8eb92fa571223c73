//! Lag, rates and outlook: the same in every view, and never an old number as if it were new.

use std::time::Duration;

use mirrormesh_core::report::{PartitionFigures, UnitReport, UnitState};
use mirrormesh_core::unit::{Unit, WorkerAssignment};
use mirrormesh_proto::convert::session::{Question, paused_answer};
use mirrormesh_proto::mesh;
use mirrormesh_proto::v1::{self, Outlook};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Node, single, soon, until};
use crate::session::{Worker, running_flow};

fn reports(set: &WorkerAssignment, state: UnitState, figures: PartitionFigures) -> Vec<UnitReport> {
    let partitions = set.units.iter().filter(|(unit, _)| matches!(unit, Unit::Partition(..)));
    partitions
        .map(|(unit, assigned)| UnitReport {
            unit: unit.clone(),
            number: assigned.number,
            state,
            reason: String::new(),
            message: String::new(),
            partition: Some(figures),
        })
        .collect()
}

fn figures(end: i64) -> PartitionFigures {
    PartitionFigures {
        source_offset: 90,
        source_end_offset: Some(end),
        oldest_pending_ms: Some(1_000),
        lag_bytes: Some((end - 90) * 100),
        ..PartitionFigures::default()
    }
}

async fn topic(node: &Node) -> v1::FlowTopic {
    let topics = v1::ListFlowTopicsRequest { parent: "flows/f".into(), ..Default::default() };
    node.flows().list_flow_topics(topics).await.unwrap().into_inner().topics.remove(0)
}

async fn flow(node: &Node) -> v1::Progress {
    let request = v1::GetFlowRequest { name: "flows/f".into() };
    node.flows().get_flow(request).await.unwrap().into_inner().progress.unwrap()
}

/// What must be equal wherever it is shown.
fn lag(progress: v1::Progress) -> (Option<i64>, Option<i64>, Outlook) {
    (progress.lag_records, progress.lag_bytes, progress.outlook())
}

#[tokio::test]
async fn partition_topic_flow_and_watch_show_the_same_lag() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 2).await;
    let _kept = worker.keep(&node).await;
    worker.report(&reports(&set, UnitState::Running, figures(100)), &[]).await.unwrap();
    let shown = topic(&node).await;
    let first = &shown.partitions[0];
    assert_eq!((first.lag_records, first.lag_bytes), (Some(10), Some(1_000)));
    assert_eq!((first.outlook(), first.eta_seconds), (Outlook::Unspecified, None), "no rate is known yet");
    assert!(first.lag_seconds.unwrap() > 1e6 && first.progress_time.is_some());
    let expected = (Some(20), Some(2_000), Outlook::Unspecified);
    assert_eq!(lag(shown.progress.unwrap()), expected);
    assert_eq!(lag(flow(&node).await), expected);
    let request = v1::WatchFlowRequest { name: "flows/f".into(), include_topics: true };
    let mut stream = node.flows().watch_flow(request).await.unwrap().into_inner();
    let message = soon("the snapshot", stream.message()).await.unwrap().unwrap();
    assert_eq!(lag(message.flow.unwrap().progress.unwrap()), expected);
    assert_eq!(message.topics[0].partitions[0].lag_bytes, Some(1_000));
    node.stop().await;
}

#[tokio::test]
async fn never_is_told_apart_from_unknown_and_from_caught_up() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 1).await;
    let _kept = worker.keep(&node).await;
    let shown = async |worker: &mut Worker, state, figures| {
        worker.report(&reports(&set, state, figures), &[]).await.unwrap();
        topic(&node).await.partitions[0].clone()
    };
    let stopped = shown(&mut worker, UnitState::Stopped, figures(100)).await;
    assert_eq!((stopped.outlook(), stopped.eta_seconds), (Outlook::FallingBehind, None));
    assert_eq!(flow(&node).await.outlook(), Outlook::FallingBehind);
    let done = shown(&mut worker, UnitState::Running, figures(90)).await;
    assert_eq!(
        (done.outlook(), done.eta_seconds, done.lag_seconds),
        (Outlook::CaughtUp, Some(0.0), Some(0.0))
    );
    node.stop().await;
}

#[tokio::test]
async fn an_end_that_nobody_can_look_at_is_no_lag_but_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 2).await;
    let _kept = worker.keep(&node).await;
    let mut parts = reports(&set, UnitState::Running, figures(100));
    parts[1].partition = Some(PartitionFigures { stale_since_ms: Some(7_000), ..figures(100) });
    worker.report(&parts, &[]).await.unwrap();
    let shown = topic(&node).await;
    let [fresh, old] = &shown.partitions[..] else { panic!() };
    assert_eq!(fresh.lag_records, Some(10));
    assert_eq!((old.lag_records, old.lag_bytes, old.lag_seconds), (None, None, None));
    assert_eq!((old.outlook(), old.source_end_offset), (Outlook::Unspecified, Some(100)));
    assert_eq!(old.progress_time.unwrap().seconds, 7);
    let sums = shown.progress.unwrap();
    assert_eq!((sums.lag_records, sums.lag_bytes), (Some(10), Some(1_000)), "that of the measured partition");
    assert!(sums.lag_seconds.is_some());
    assert_eq!((sums.partitions, sums.partitions_unmeasured), (2, 1));
    assert_eq!(sums.progress_time.unwrap().seconds, 7, "the oldest of them");
    node.stop().await;
}

/// Answers questions about paused partitions with these figures, as long as it lives and `answering` says so.
async fn onlooker(
    node: &Node,
    worker: &Worker,
    figures: PartitionFigures,
    answering: watch::Receiver<bool>,
) -> AbortOnDropHandle<()> {
    let (first, answers, mut questions) = worker.serve_queries(node).await;
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(Some(question)) = questions.message().await {
            if !*answering.borrow() {
                continue;
            }
            let query_id = question.query_id;
            let Ok(Question::Paused(set)) = Question::try_from(question) else { return };
            assert_eq!(set.positions_topic, "mirrormesh-positions.uk.internal");
            let seen: Vec<_> = set.partitions.into_iter().map(|(t, p, _)| (t, p, figures)).collect();
            let paused = Some(paused_answer(&seen));
            let answer = mesh::ServeQueriesRequest { query_id, paused, ..first.clone() };
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    }))
}

#[tokio::test]
async fn what_waits_behind_a_pause_is_asked_for_shown_everywhere_and_grows_old() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 2).await;
    let _kept = worker.keep(&node).await;
    let (answers, answering) = watch::channel(true);
    let _onlooker = onlooker(&node, &worker, figures(130), answering).await;
    worker.report(&reports(&set, UnitState::Running, figures(100)), &[]).await.unwrap();
    let pause = v1::PauseFlowTopicRequest {
        name: "flows/f/topics/t".into(),
        partitions: vec![1],
        request_id: String::new(),
    };
    node.flows().pause_flow_topic(pause).await.unwrap();
    let is_second = |unit: &Unit| matches!(unit, Unit::Partition(_, _, 1));
    worker.set("one less", |set| !set.units.keys().any(is_second)).await;
    let (unit, owned) = set.units.iter().find(|(unit, _)| is_second(unit)).unwrap();
    worker.report(&[], &[(unit.clone(), owned.number)]).await.unwrap();
    let until = async |what: &str, lag: Option<i64>| {
        let shown = || async {
            let shown = topic(&node).await;
            let paused = &shown.partitions[1];
            (paused.lag_records == lag && paused.worker.is_empty()).then_some(shown)
        };
        until(what, Duration::from_secs(20), shown).await
    };
    let shown = until("the lag of the paused partition", Some(40)).await;
    let paused = &shown.partitions[1];
    assert_eq!((paused.state(), paused.lag_bytes), (v1::flow_partition::State::Paused, Some(4_000)));
    assert_eq!((paused.source_offset, paused.outlook()), (Some(90), Outlook::FallingBehind));
    let expected = (Some(50), Some(5_000), Outlook::FallingBehind);
    assert_eq!(lag(shown.progress.unwrap()), expected, "with the other one's");
    assert_eq!(lag(flow(&node).await), expected);
    let request = v1::WatchFlowRequest { name: "flows/f".into(), include_topics: true };
    let mut stream = node.flows().watch_flow(request).await.unwrap().into_inner();
    let message = soon("the snapshot", stream.message()).await.unwrap().unwrap();
    assert_eq!(lag(message.flow.unwrap().progress.unwrap()), expected);

    // Nobody can look any more: what was seen is no lag, but has its time.
    let seen = paused.progress_time.unwrap();
    answers.send_replace(false);
    let old = until("an old look", None).await;
    assert_eq!(old.partitions[1].source_end_offset, Some(130));
    assert!(old.partitions[1].progress_time.unwrap().seconds >= seen.seconds);
    let sums = flow(&node).await;
    assert_eq!(
        (sums.lag_records, sums.partitions_unmeasured),
        (Some(10), 1),
        "that of the running partition"
    );
    answers.send_replace(true);
    until("a new look", Some(40)).await;
    node.stop().await;
}
