//! Sessions of workers, with a worker that does only what the test says.

use std::time::{Duration, Instant};

use mirrormesh_core::ids::FlowId;
use mirrormesh_core::report::{Delivery, PartitionFigures, UnitReport, UnitState};
use mirrormesh_core::unit::{Unit, WorkerAssignment};
use mirrormesh_proto::v1::{self, flow::State, flow_partition};
use mirrormesh_proto::{mesh, store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

use crate::harness::{Node, flow_request, make_flow, reason, single, soon};

/// A worker's session.
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) session: u64,
    assignments: Streaming<mesh::WatchAssignmentsResponse>,
    reports: mpsc::Sender<mesh::ReportProgressRequest>,
    acknowledged: Streaming<mesh::ReportProgressResponse>,
    sequence: u64,
}

impl Worker {
    /// Offers to answer questions: what each answer begins with, where answers go, and the questions.
    pub(crate) async fn serve_queries(
        &self,
        node: &Node,
    ) -> (
        mesh::ServeQueriesRequest,
        mpsc::Sender<mesh::ServeQueriesRequest>,
        Streaming<mesh::ServeQueriesResponse>,
    ) {
        let (answers, receiver) = mpsc::channel(4);
        let first = mesh::ServeQueriesRequest {
            worker_id: self.id.clone(),
            session: self.session,
            ..mesh::ServeQueriesRequest::default()
        };
        answers.send(first.clone()).await.unwrap();
        let questions = node.sessions().serve_queries(ReceiverStream::new(receiver)).await.unwrap();
        (first, answers, questions.into_inner())
    }

    pub(crate) async fn register(node: &Node, id: &str, role: store::Role, capacity: i32) -> Self {
        let request =
            mesh::RegisterRequest { worker_id: id.into(), role: role.into(), capacity, version: "1".into() };
        let opened = node.sessions().register(request).await.unwrap().into_inner();
        assert_eq!(opened.lease_ms, 3_000);
        let session = opened.session;
        let watch = mesh::WatchAssignmentsRequest { worker_id: id.into(), session };
        let assignments = node.sessions().watch_assignments(watch).await.unwrap().into_inner();
        let (reports, receiver) = mpsc::channel(16);
        let stream = node.sessions().report_progress(ReceiverStream::new(receiver)).await.unwrap();
        Self { id: id.into(), session, assignments, reports, acknowledged: stream.into_inner(), sequence: 0 }
    }

    /// Renews the lease beside everything else, as long as what is returned lives: how long a test takes must not decide.
    pub(crate) async fn keep(&self, node: &Node) -> AbortOnDropHandle<()> {
        let (reports, receiver) = mpsc::channel(1);
        let mut acknowledged =
            node.sessions().report_progress(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let (worker_id, session) = (self.id.clone(), self.session);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(500));
            for sequence in 1.. {
                ticks.tick().await;
                let report = mesh::ReportProgressRequest {
                    worker_id: worker_id.clone(),
                    session,
                    sequence,
                    ..mesh::ReportProgressRequest::default()
                };
                if reports.send(report).await.is_err() || !matches!(acknowledged.message().await, Ok(Some(_)))
                {
                    return;
                }
            }
        }))
    }

    /// The next set in which `done` finds what it looks for.
    pub(crate) async fn set(
        &mut self,
        what: &str,
        done: impl Fn(&WorkerAssignment) -> bool,
    ) -> WorkerAssignment {
        let wait = async {
            loop {
                let set = self.assignments.message().await.unwrap().unwrap();
                let set = WorkerAssignment::try_from(set).unwrap();
                if done(&set) {
                    return set;
                }
            }
        };
        soon(what, wait).await
    }

    /// Sends a report and waits until it is acknowledged.
    pub(crate) async fn report(
        &mut self,
        units: &[UnitReport],
        released: &[(Unit, u64)],
    ) -> Result<(), Status> {
        self.sequence += 1;
        let report = mesh::ReportProgressRequest {
            worker_id: self.id.clone(),
            session: self.session,
            sequence: self.sequence,
            units: units.iter().map(Into::into).collect(),
            released: released.iter().map(Into::into).collect(),
        };
        self.reports.send(report).await.map_err(|_| Status::unavailable("closed"))?;
        match self.acknowledged.message().await? {
            Some(response) => {
                assert_eq!(response.sequence, self.sequence);
                Ok(())
            }
            None => Err(Status::unavailable("ended")),
        }
    }
}

fn report(unit: &Unit, number: u64, state: UnitState) -> UnitReport {
    let (reason, message) = (String::new(), String::new());
    UnitReport { unit: unit.clone(), number, state, reason, message, partition: None }
}

fn topology() -> Unit {
    Unit::Topology(FlowId::new("f").unwrap())
}

fn number_of(set: &WorkerAssignment, unit: &Unit) -> u64 {
    set.units[unit].number
}

fn topic(name: &str, target: &str, partitions: usize) -> store::TopicEntry {
    store::TopicEntry {
        topic: name.into(),
        target_topic: target.into(),
        source_topic_id: vec![1; 16],
        target_topic_id: vec![2; 16],
        starts: vec![store::PartitionStart::default(); partitions],
        ..Default::default()
    }
}

pub(crate) async fn claim(node: &Node, worker: &Worker) {
    let generation = Some(store::Generation { producer_id: 7, epoch: 0 });
    let (worker_id, session) = (worker.id.clone(), worker.session);
    let request = mesh::ClaimProducerRequest { worker_id, session, flow_id: "f".into(), generation };
    let claimed = node.sessions().claim_producer(request).await.unwrap().into_inner();
    assert_eq!(claimed.generation, generation);
}

async fn inventory(
    node: &Node,
    worker: &Worker,
    number: u64,
    topics: Vec<store::TopicEntry>,
) -> Result<Vec<mesh::RefusedTopic>, Status> {
    let request = mesh::ReportInventoryRequest {
        worker_id: worker.id.clone(),
        session: worker.session,
        flow_id: "f".into(),
        number,
        topics,
        ..Default::default()
    };
    Ok(node.sessions().report_inventory(request).await?.into_inner().refused)
}

/// A flow with one topic of so many partitions, all of it run by one worker.
pub(crate) async fn running_flow(node: &Node, partitions: usize) -> (Worker, WorkerAssignment) {
    make_flow(node, "f").await;
    let mut worker = Worker::register(node, "s1", store::Role::Source, 100).await;
    let set = worker.set("the topology unit", |set| set.units.contains_key(&topology())).await;
    claim(node, &worker).await;
    let number = number_of(&set, &topology());
    let refused = inventory(node, &worker, number, vec![topic("t", "uk.t", partitions)]).await.unwrap();
    assert!(refused.is_empty());
    let set = worker.set("all partitions", |set| set.units.len() == partitions + 1).await;
    (worker, set)
}

#[tokio::test]
async fn a_worker_gets_its_units_and_the_flow_shows_what_it_reports() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 2).await;
    assert_eq!(set.clusters.len(), 2);
    assert_eq!(set.flows[topology().flow()].generation.unwrap().producer_id, 7);

    let get = || v1::GetFlowRequest { name: "flows/f".into() };
    let flow = node.flows().get_flow(get()).await.unwrap().into_inner();
    let progress = flow.progress.unwrap();
    assert_eq!((progress.partitions, progress.lag_records), (2, None), "not known is not zero");

    let figures = PartitionFigures {
        source_offset: 90,
        source_end_offset: Some(100),
        target_offset: 90,
        records: 90,
        bytes: 9_000,
        oldest_pending_ms: None,
        resyncs: 1,
        delivery: Delivery::OtherWriters,
        held_records: 0,
        source_start_offset: Some(3),
        lag_bytes: Some(1_000),
        stale_since_ms: None,
    };
    let reports: Vec<UnitReport> = set
        .units
        .iter()
        .map(|(unit, assigned)| UnitReport {
            partition: matches!(unit, Unit::Partition(..)).then_some(figures),
            ..report(unit, assigned.number, UnitState::Running)
        })
        .collect();
    worker.report(&reports, &[]).await.unwrap();
    let progress = node.flows().get_flow(get()).await.unwrap().into_inner().progress.unwrap();
    assert_eq!((progress.partitions_running, progress.records, progress.lag_records), (2, 180, Some(20)));

    // One partition stops: the flow is degraded, and says where and why.
    let stopped = reports.iter().find(|report| report.partition.is_some()).unwrap();
    let broken = UnitReport {
        state: UnitState::Stopped,
        reason: "RETENTION_OVERRUN".into(),
        message: "records are gone".into(),
        ..stopped.clone()
    };
    // An outdated assignment number must not be heard.
    let outdated = UnitReport { number: stopped.number + 1_000, reason: "OUTDATED".into(), ..broken.clone() };
    worker.report(&[broken, outdated], &[]).await.unwrap();
    let flow = node.flows().get_flow(get()).await.unwrap().into_inner();
    assert_eq!(flow.state(), State::Degraded);
    let condition = &flow.conditions[0];
    assert_eq!((&*condition.reason, &*condition.subject), ("RETENTION_OVERRUN", "t/0"));
    let topics = v1::ListFlowTopicsRequest { parent: "flows/f".into(), ..Default::default() };
    let topics = node.flows().list_flow_topics(topics).await.unwrap().into_inner().topics;
    assert_eq!(topics[0].name, "flows/f/topics/t");
    let partitions = &topics[0].partitions;
    assert_eq!(partitions[0].state(), flow_partition::State::Stopped);
    assert_eq!(partitions[1].worker, "workers/s1");
    assert_eq!(partitions[1].delivery(), flow_partition::Delivery::DetectedOnly);
    assert_eq!(
        (&*partitions[1].delivery_reason, partitions[1].source_start_offset),
        ("OTHER_WRITERS", Some(3))
    );
    assert_eq!((&*partitions[1].reason, partitions[1].generation.unwrap().epoch), ("", Some(0)));

    // Two topics onto one target topic: the second is refused, and the flow says so.
    let number = number_of(&set, &topology());
    let refused = inventory(&node, &worker, number, vec![topic("u", "uk.t", 1)]).await.unwrap();
    assert_eq!((refused.len(), &*refused[0].reason), (1, "TARGET_TOPIC_CONFLICT"));
    let flow = node.flows().get_flow(get()).await.unwrap().into_inner();
    assert!(flow.conditions.iter().any(|c| c.reason == "TARGET_TOPIC_CONFLICT" && c.subject == "u"));
    let status = inventory(&node, &worker, number + 1_000, vec![]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "ASSIGNMENT_OUTDATED".into()));
    node.stop().await;
}

pub(crate) async fn first_partition(node: &Node) -> v1::FlowPartition {
    let topics = v1::ListFlowTopicsRequest { parent: "flows/f".into(), ..Default::default() };
    let topics = node.flows().list_flow_topics(topics).await.unwrap().into_inner().topics;
    topics[0].partitions[0].clone()
}

#[tokio::test]
async fn an_open_transaction_is_the_reason_where_nothing_else_is_to_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut worker, set) = running_flow(&node, 1).await;
    let (unit, assigned) = set.units.iter().find(|(_, assigned)| assigned.partition.is_some()).unwrap();
    let shown = async |worker: &mut Worker, source_offset, held_records| {
        let figures = PartitionFigures {
            source_offset,
            source_end_offset: Some(100),
            held_records,
            ..PartitionFigures::default()
        };
        let report =
            UnitReport { partition: Some(figures), ..report(unit, assigned.number, UnitState::Running) };
        worker.report(&[report], &[]).await.unwrap();
        first_partition(&node).await
    };
    let busy = shown(&mut worker, 50, 20).await;
    assert_eq!((&*busy.reason, busy.lag_records), ("", Some(50)), "there is more to read");
    let held = shown(&mut worker, 80, 20).await;
    assert_eq!((held.lag_records, held.held_records), (Some(20), Some(20)), "up to the high watermark");
    let reason = "HELD_BY_OPEN_TRANSACTION: a transaction that is open on the source holds back 20 records, from \
                  offset 80 to 100";
    assert!(held.reason.starts_with(reason), "{}", held.reason);
    let flow = v1::GetFlowRequest { name: "flows/f".into() };
    let flow = node.flows().get_flow(flow).await.unwrap().into_inner();
    assert!(flow.conditions.is_empty(), "nothing is wrong with the flow: {:?}", flow.conditions);
    assert_eq!(shown(&mut worker, 100, 0).await.reason, "");
    node.stop().await;
}

#[tokio::test]
async fn a_silent_worker_loses_its_units_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut silent, set) = running_flow(&node, 4).await;
    let mut other = Worker::register(&node, "s2", store::Role::Source, 100).await;
    silent.report(&[], &[]).await.unwrap();
    let last_heard = Instant::now();
    let takeover = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            other.report(&[], &[]).await.unwrap();
            let listed = node.workers().list_workers(v1::ListWorkersRequest::default()).await.unwrap();
            if listed.into_inner().workers.len() == 1 {
                return other.set("all units", |set| set.units.len() == 5).await;
            }
        }
    };
    let taken = tokio::time::timeout(Duration::from_secs(10), takeover).await.unwrap();
    let elapsed = last_heard.elapsed();
    assert!((Duration::from_millis(2_900)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
    assert!(
        number_of(&taken, &topology()) > number_of(&set, &topology()),
        "a later assignment has a higher number"
    );
    let status = silent.report(&[], &[]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "SESSION_OUTDATED".into()));
    node.stop().await;
}

#[tokio::test]
async fn a_unit_is_taken_only_after_it_was_released() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut first, before) = running_flow(&node, 3).await;
    let mut second = Worker::register(&node, "s2", store::Role::Source, 100).await;
    let drained =
        node.workers().drain_worker(v1::DrainWorkerRequest { name: "workers/s1".into() }).await.unwrap();
    assert!(drained.into_inner().draining);
    first.set("everything is to be let go", |set| set.units.is_empty()).await;
    second.report(&[], &[]).await.unwrap();
    let worker = |name: &str| v1::GetWorkerRequest { name: name.into() };
    let units = node.workers().get_worker(worker("workers/s2")).await.unwrap().into_inner().units;
    assert_eq!(units, 0, "nothing is given before it was released");

    // Half of it, then the rest: each unit goes over by itself.
    let all: Vec<(Unit, u64)> =
        before.units.iter().map(|(unit, assigned)| (unit.clone(), assigned.number)).collect();
    first.report(&[], &all[..2]).await.unwrap();
    let half = second.set("the released half", |set| set.units.len() == 2).await;
    assert!(all[..2].iter().all(|(unit, number)| number_of(&half, unit) > *number));
    // A release under an outdated number frees nothing.
    let outdated: Vec<_> = all[2..].iter().map(|(unit, number)| (unit.clone(), number - 1)).collect();
    first.report(&[], &outdated).await.unwrap();
    first.report(&[], &all[2..]).await.unwrap();
    second.set("all of it", |set| set.units.len() == 4).await;

    // A paused flow is PAUSING until its worker let go, then PAUSED.
    let pause = v1::PauseFlowRequest { name: "flows/f".into(), ..Default::default() };
    let flow = node.flows().pause_flow(pause).await.unwrap().into_inner();
    assert_eq!(flow.state(), State::Pausing);
    second.set("nothing left", |set| set.units.is_empty()).await;
    node.stop().await;
}

#[tokio::test]
async fn a_new_session_ends_the_earlier_one_and_keeps_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut old, before) = running_flow(&node, 2).await;
    let mut new = Worker::register(&node, "s1", store::Role::Source, 100).await;
    let after = new.set("the same units", |set| set.units.len() == 3).await;
    assert_eq!(after.units, before.units, "the same numbers, too: nothing has to restart");
    let status = old.report(&[], &[]).await.unwrap_err();
    assert_eq!(reason(&status), "SESSION_OUTDATED");
    let end = async {
        loop {
            match old.assignments.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    };
    let ended = soon("the earlier session ends", end).await;
    assert_eq!((ended.code(), reason(&ended)), (Code::Aborted, "SESSION_OUTDATED".into()));
    node.stop().await;
}

#[tokio::test]
async fn events_are_kept_and_listed_newest_first() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    make_flow(&node, "f").await;
    let worker = Worker::register(&node, "s1", store::Role::Source, 10).await;
    let event = |number: u64| store::Event {
        flow_id: "f".into(),
        time_ms: number,
        reason: format!("E{number}"),
        ..Default::default()
    };
    let watch = v1::WatchFlowRequest { name: "flows/f".into(), include_topics: false };
    let mut watched = node.flows().watch_flow(watch).await.unwrap().into_inner();
    assert!(watched.message().await.unwrap().unwrap().events.is_empty());
    let (worker_id, session) = (worker.id.clone(), worker.session);
    let request = mesh::ReportEventsRequest { worker_id, session, events: (1..=3).map(event).collect() };
    node.sessions().report_events(request).await.unwrap();
    let shown = async {
        loop {
            let events = watched.message().await.unwrap().unwrap().events;
            if !events.is_empty() {
                return events.into_iter().map(|event| event.reason).collect::<Vec<_>>();
            }
        }
    };
    assert_eq!(soon("the watch shows the events", shown).await, ["E1", "E2", "E3"]);
    let list = |page_token: String| v1::ListFlowEventsRequest {
        parent: "flows/f".into(),
        page_size: 2,
        page_token,
        ..Default::default()
    };
    let first = node.flows().list_flow_events(list(String::new())).await.unwrap().into_inner();
    let reasons =
        |page: &v1::ListFlowEventsResponse| page.events.iter().map(|e| e.reason.clone()).collect::<Vec<_>>();
    assert_eq!(reasons(&first), ["E3", "E2"]);
    let second = node.flows().list_flow_events(list(first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((reasons(&second), second.next_page_token), (vec!["E1".to_owned()], String::new()));
    node.stop().await;
}

#[tokio::test]
async fn units_are_spread_over_workers_within_their_capacity() {
    let directory = tempfile::tempdir().unwrap();
    let node = single(&directory).await;
    let (mut first, mut before) = running_flow(&node, 9).await;
    let mut second = Worker::register(&node, "s2", store::Role::Source, 3).await;
    // The first one lets go of what it is asked to, as a worker would.
    let balanced = async {
        loop {
            tokio::select! {
                set = first.assignments.message() => {
                    let set = WorkerAssignment::try_from(set.unwrap().unwrap()).unwrap();
                    let gone = before.units.iter().filter(|(unit, _)| !set.units.contains_key(unit));
                    let gone: Vec<_> = gone.map(|(unit, assigned)| (unit.clone(), assigned.number)).collect();
                    first.report(&[], &gone).await.unwrap();
                    before = set;
                }
                set = second.assignments.message() => {
                    let units = set.unwrap().unwrap().units.len();
                    assert!(units <= 3, "within capacity");
                    if units == 3 {
                        return;
                    }
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(2), balanced).await.unwrap();
    assert_eq!(before.units.len(), 7);
    // What is new goes where there is room.
    let mut other = flow_request("g");
    let identity = v1::naming::Policy::Identity(v1::IdentityNaming {});
    other.flow.as_mut().unwrap().naming = Some(v1::Naming { policy: Some(identity) });
    node.flows().create_flow(other).await.unwrap();
    first.set("the new topology unit", |set| set.units.len() == 8).await;
    node.stop().await;
}
