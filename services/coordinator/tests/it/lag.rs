//! Lag, rates and outlook: the same in every view, and never an old number as if it were new.

use mirrormesh_core::report::{PartitionFigures, UnitReport, UnitState};
use mirrormesh_core::unit::{Unit, WorkerAssignment};
use mirrormesh_proto::v1::{self, Outlook};

use crate::harness::{Node, single, soon};
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
    assert_eq!((sums.lag_records, sums.progress_time.unwrap().seconds), (None, 7), "the oldest of them");
    node.stop().await;
}
