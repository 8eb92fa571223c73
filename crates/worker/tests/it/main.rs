//! A whole worker against a coordinator that the test controls.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::or_fun_call,
    reason = "a test that meets what it doesn't expect fails"
)]

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::Fake;
use futures::FutureExt;
use futures::future::BoxFuture;
use mirrormesh_core::control::{GenerationRequest, InventoryChange};
use mirrormesh_core::flow::{FlowSpec, PreviewQuestion};
use mirrormesh_core::ids::{ClusterId, FlowId, GroupId, TopicName};
use mirrormesh_core::paused::{PausedFigures, PausedSet};
use mirrormesh_core::report::{Event, UnitState};
use mirrormesh_core::unit::{ClusterSpec, Generation, PartitionGeneration, PartitionStart, Role, Unit};
use mirrormesh_proto::convert::session::Question;
use mirrormesh_proto::mesh::{PausedQuery, ServeQueriesResponse};
use mirrormesh_runtime::env::Env;
use mirrormesh_runtime::http::Health;
use mirrormesh_runtime::service::ServiceContext;
use mirrormesh_runtime::shutdown::Shutdown;
use mirrormesh_runtime::telemetry::{LogSettings, Telemetry, TelemetrySettings};
use mirrormesh_worker::{
    ClusterCheck, CoordinatorError, CoordinatorHandle, Lease, QueryHandler, UnitContext, UnitFactory,
    WorkerSettings, run_worker,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

const TIMEOUT: Duration = Duration::from_secs(20);
const RUNNING: i32 = 2;

/// Units that say what they do, and drain when the test lets them.
#[derive(Default)]
struct Units {
    contexts: Mutex<BTreeMap<Unit, UnitContext>>,
    changed: watch::Sender<()>,
    /// Units hold their drain back until this is notified, while it is set.
    hold: AtomicBool,
    let_go: Notify,
    panics: AtomicUsize,
}

impl UnitFactory for Shared {
    fn start(&self, unit: Unit, context: UnitContext) -> BoxFuture<'static, ()> {
        let units = Arc::clone(&self.0);
        async move {
            let left = units.panics.load(Ordering::SeqCst);
            units.panics.store(left.saturating_sub(1), Ordering::SeqCst);
            assert_eq!(left, 0, "as the test wants it");
            context.report.set(UnitState::Running, "", "", None);
            units.contexts.lock().unwrap().insert(unit.clone(), context.clone());
            units.changed.send_replace(());
            context.stop.cancelled().await;
            if units.hold.load(Ordering::SeqCst) {
                units.let_go.notified().await;
            }
            units.contexts.lock().unwrap().remove(&unit);
            units.changed.send_replace(());
        }
        .boxed()
    }

    fn queries(&self) -> Option<Arc<dyn QueryHandler>> {
        Some(Arc::new(Doubles))
    }
}

/// A factory of our own type, so that the test can hold the other end.
struct Shared(Arc<Units>);

struct Doubles;

impl QueryHandler for Doubles {
    fn paused(&self, set: PausedSet) -> BoxFuture<'_, Result<PausedFigures, String>> {
        async move {
            let unknown = set.flow.as_str() == "unknown";
            if unknown { Err("no such flow".to_owned()) } else { Ok(PausedFigures::default()) }
        }
        .boxed()
    }
}

struct Worker {
    units: Arc<Units>,
    context: ServiceContext,
    task: JoinHandle<()>,
}

impl Worker {
    fn start(coordinators: &[SocketAddr]) -> Self {
        let settings = WorkerSettings {
            coordinators: coordinators.iter().map(ToString::to_string).collect(),
            worker_id: "w".to_owned(),
            capacity: 7,
            ..WorkerSettings::default()
        };
        let telemetry = TelemetrySettings {
            service_name: "test".to_owned(),
            service_instance: "w".to_owned(),
            service_version: "0".to_owned(),
            log: LogSettings::default(),
            env: Env::default(),
        };
        let (telemetry, _, _) = Telemetry::assemble(&telemetry).unwrap();
        let context = ServiceContext {
            shutdown: Shutdown::new(),
            health: Health::new(),
            telemetry,
            metrics_address: (Ipv4Addr::LOCALHOST, 0).into(),
        };
        let units = Arc::new(Units::default());
        let factory = Arc::new(Shared(Arc::clone(&units)));
        let running = context.clone();
        let task = tokio::spawn(async move {
            run_worker(Role::Source, &settings, factory, &running).await.unwrap();
        });
        Self { units, context, task }
    }

    async fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&BTreeMap<Unit, UnitContext>) -> Option<T>,
    ) -> T {
        let mut changed = self.units.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = look(&self.units.contexts.lock().unwrap()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(TIMEOUT, waiting)
            .await
            .unwrap_or_else(|_| panic!("{what} did not happen in time"))
    }

    /// Waits until exactly these units run.
    async fn runs(&self, units: &[&Unit]) {
        self.until("the units", |running| running.keys().eq(units.iter().copied()).then_some(())).await;
    }

    async fn context_of(&self, unit: &Unit) -> UnitContext {
        self.until("the unit", |running| running.get(unit).cloned()).await
    }

    async fn coordinator_of(&self, unit: &Unit) -> CoordinatorHandle {
        self.context_of(unit).await.coordinator
    }

    async fn lease_of(&self, unit: &Unit) -> Lease {
        self.context_of(unit).await.lease
    }

    async fn stop(self) {
        self.context.shutdown.trigger();
        tokio::time::timeout(TIMEOUT, self.task).await.unwrap().unwrap();
    }
}

fn flow() -> FlowId {
    FlowId::new("f").unwrap()
}

fn topology() -> Unit {
    Unit::Topology(flow())
}

fn partition(partition: i32) -> Unit {
    Unit::Partition(flow(), TopicName::new("t").unwrap(), partition)
}

fn event(time_ms: u64) -> Event {
    Event {
        flow: flow(),
        time_ms,
        reason: "TEST".to_owned(),
        message: String::new(),
        subject: String::new(),
        from_offset: None,
        to_offset: None,
        count: None,
        sequence: 0,
    }
}

#[tokio::test]
async fn a_worker_registers_follows_its_set_and_says_goodbye() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    let (unit, other) = (topology(), partition(3));
    fake.desire(1, &[(&unit, 1), (&other, 2)]);
    worker.runs(&[&unit, &other]).await;
    fake.until("reports", |told| (told.report_of(&other.to_string())?.0 == RUNNING).then_some(())).await;
    {
        let told = fake.told();
        let registered = &told.registered[0];
        assert_eq!((registered.worker_id.as_str(), registered.role, registered.capacity), ("w", 1, 7));
        assert!(!registered.version.is_empty());
        let sequences: Vec<u64> = told.reports.iter().map(|report| report.sequence).collect();
        assert!(sequences.iter().copied().eq(1..=sequences.len() as u64), "{sequences:?}");
    }
    assert!(worker.context.health.report().checks[0].reason.is_none());
    fake.desire(2, &[(&unit, 1)]);
    worker.runs(&[&unit]).await;
    fake.until("a release", |told| (told.released() == [(other.to_string(), 2)]).then_some(())).await;
    // An older set changes nothing.
    fake.desire(1, &[]);
    fake.desire(3, &[(&unit, 1)]);
    worker.runs(&[&unit]).await;

    worker.stop().await;
    let told = fake.told();
    assert_eq!(told.released().last(), Some(&(unit.to_string(), 1)));
    assert_eq!(
        told.registered.last().map(|registered| registered.capacity),
        Some(0),
        "it takes nothing any more"
    );
}

#[tokio::test]
async fn a_worker_is_sent_to_the_leader() {
    let (follower, leader) = (Fake::start().await, Fake::start().await);
    follower.told().leader = Some(leader.address.to_string());
    leader.desire(1, &[(&topology(), 1)]);
    let worker = Worker::start(&[follower.address]);
    worker.runs(&[&topology()]).await;
    assert!(follower.told().registered.is_empty());

    // The lead changes: the session goes on, with its number.
    let session = leader.told().sessions["w"];
    follower.told().sessions.insert("w".to_owned(), session);
    follower.told().leader = None;
    follower.desire(2, &[(&topology(), 1), (&partition(0), 2)]);
    leader.told().leader = Some(follower.address.to_string());
    worker.runs(&[&topology(), &partition(0)]).await;
    assert!(follower.told().registered.is_empty(), "known already");
    worker.stop().await;
}

#[tokio::test]
async fn a_release_is_said_only_after_the_drain() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    fake.desire(1, &[(&topology(), 1)]);
    worker.runs(&[&topology()]).await;
    worker.units.hold.store(true, Ordering::SeqCst);
    fake.desire(2, &[]);
    // Two more reports while it drains: none of them may say that it was released.
    let before = fake.told().reports.len();
    fake.until("reports", |told| (told.reports.len() >= before + 2).then_some(())).await;
    assert!(fake.told().released().is_empty());
    worker.units.let_go.notify_one();
    fake.until("a release", |told| (told.released() == [(topology().to_string(), 1)]).then_some(())).await;
    worker.units.hold.store(false, Ordering::SeqCst);
    worker.stop().await;
}

#[tokio::test]
async fn a_panicking_unit_is_reported_and_started_again() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    // The second pause is longer than the time between two reports: this failure is seen for certain.
    worker.units.panics.store(2, Ordering::SeqCst);
    fake.desire(1, &[(&topology(), 1)]);
    let failed = (3, "UNIT_FAILED".to_owned());
    fake.until("a failure", |told| (told.report_of(&topology().to_string())? == failed).then_some(())).await;
    worker.runs(&[&topology()]).await;
    fake.until("a recovery", |told| (told.report_of(&topology().to_string())?.0 == RUNNING).then_some(()))
        .await;
    worker.stop().await;
}

#[tokio::test]
async fn losing_the_coordinator_stops_no_unit_and_loses_nothing() {
    let mut fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    fake.desire(1, &[(&topology(), 1)]);
    worker.runs(&[&topology()]).await;
    let (coordinator, lease) = (worker.coordinator_of(&topology()).await, worker.lease_of(&topology()).await);
    lease.regained().await;
    fake.until("a report", |told| (told.report_of(&topology().to_string())?.0 == RUNNING).then_some(()))
        .await;
    let sent_before = fake.told().reports.len();
    fake.stop().await;
    tokio::time::timeout(Duration::from_secs(5), lease.lost()).await.expect("the lease runs out");
    coordinator.report_events((1..=500).map(event));
    worker.runs(&[&topology()]).await;
    assert!(worker.context.health.report().checks[0].reason.is_some(), "not ready without a coordinator");

    fake.start_again().await;
    fake.until("the events", |told| (told.events.len() == 500).then_some(())).await;
    let times: Vec<u64> = fake.told().events.iter().map(|event| event.time_ms).collect();
    assert!(times.iter().copied().eq(1..=500), "all of them, once, in order");
    lease.regained().await;
    assert_eq!(fake.told().registered.len(), 1, "the session is known still");
    let first = fake.told().reports[sent_before].clone();
    assert_eq!((first.sequence, first.units.len()), (1, 1), "all units");
    worker.stop().await;
}

#[tokio::test]
async fn a_session_that_is_not_known_any_more_is_opened_anew() {
    let mut fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    fake.desire(9, &[(&topology(), 1)]);
    worker.runs(&[&topology()]).await;
    fake.told().sessions.clear();
    fake.stop().await;
    // A mesh that was set up anew counts from the beginning.
    fake.desire(2, &[(&topology(), 1), (&partition(0), 2)]);
    fake.start_again().await;
    worker.runs(&[&topology(), &partition(0)]).await;
    assert_eq!(fake.told().registered.len(), 2);
    worker.stop().await;
}

#[tokio::test]
async fn reports_are_coalesced() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    fake.desire(1, &[(&topology(), 1), (&partition(0), 2)]);
    let context = worker.context_of(&topology()).await;
    fake.until("both units", |told| told.report_of(&partition(0).to_string())).await;
    let before = fake.told().reports.len();
    for i in 0..1_000 {
        context.report.set(UnitState::Running, "", &format!("at {i}"), None);
    }
    let unit = topology().to_string();
    let reports = fake
        .until("the newest", |told| {
            let new: Vec<_> =
                told.reports.get(before..)?.iter().flat_map(|report| report.units.clone()).collect();
            new.iter().any(|report| report.message == "at 999").then_some(new)
        })
        .await;
    assert!(reports.len() <= 2, "{} reports for 1,000 changes", reports.len());
    assert!(reports.iter().all(|report| store_name(report.unit.as_ref()) == unit), "only what changed");
    worker.stop().await;
}

fn store_name(unit: Option<&mirrormesh_proto::store::Unit>) -> String {
    Unit::try_from(unit.unwrap().clone()).unwrap().to_string()
}

#[tokio::test]
async fn units_claim_and_report_and_are_told_when_they_are_outdated() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    fake.desire(1, &[(&topology(), 1)]);
    let coordinator = worker.coordinator_of(&topology()).await;
    let (first, second) = (Generation { producer_id: 4, epoch: 0 }, Generation { producer_id: 5, epoch: 0 });
    assert_eq!(coordinator.claim_producer(&flow(), first).await, Ok(first));
    assert_eq!(coordinator.claim_producer(&flow(), second).await, Ok(first), "the first one wins");

    let start = PartitionStart {
        source_offset: 40,
        target_offset: 30,
        read_uncommitted: true,
        ..PartitionStart::default()
    };
    let request = GenerationRequest {
        flow: flow(),
        topic: TopicName::new("t").unwrap(),
        partition: 2,
        number: 1,
        after: first,
        offered: None,
        start,
        events: vec![event(9)],
    };
    let begun = PartitionGeneration { generation: Generation { epoch: 1, ..first }, start };
    assert_eq!(coordinator.begin_generation(&request).await, Ok(begun));
    let told = GenerationRequest::try_from(fake.told().begun[0].clone()).unwrap();
    assert_eq!(told, request, "nothing is lost on the way");
    fake.told().generation_refused = Some("GENERATION_OUTDATED");
    let outdated = coordinator.begin_generation(&request).await.unwrap_err();
    assert!(matches!(outdated, CoordinatorError::Outdated { reason, .. } if reason == "GENERATION_OUTDATED"));

    let groups = (0..250).map(|i| GroupId::new(format!("g{i}")).unwrap()).collect();
    let change = InventoryChange { groups, ..InventoryChange::default() };
    assert_eq!(coordinator.report_inventory(&flow(), 1, change.clone()).await, Ok(Vec::new()));
    let sizes: Vec<usize> = fake.told().inventories.iter().map(|request| request.groups.len()).collect();
    assert_eq!(sizes, [200, 50]);
    fake.told().inventory_outdated = true;
    let outdated = coordinator.report_inventory(&flow(), 1, change.clone()).await.unwrap_err();
    assert!(matches!(outdated, CoordinatorError::Outdated { .. }), "{outdated}");

    // A call ends when its unit is to stop, even while nobody answers.
    fake.told().leader = Some(fake.address.to_string());
    let waiting = tokio::spawn(async move { coordinator.report_inventory(&flow(), 1, change).await });
    worker.context.shutdown.trigger();
    let ended = tokio::time::timeout(TIMEOUT, waiting).await.unwrap().unwrap();
    assert_eq!(ended, Err(CoordinatorError::Cancelled));
    worker.stop().await;
}

#[tokio::test]
async fn events_are_sent_until_taken_and_a_refused_one_does_not_hold_up_the_others() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    fake.desire(1, &[(&topology(), 1)]);
    let coordinator = worker.coordinator_of(&topology()).await;
    fake.told().events_fail = Some(tonic::Code::Internal);
    fake.told().event_refused = Some(2);
    coordinator.report_events((1..=3).map(event));
    fake.until("a report", |told| (told.reports.len() >= 2).then_some(())).await;
    assert!(fake.told().events.is_empty());
    fake.told().events_fail = None;
    fake.until("the events", |told| (told.events.len() == 2).then_some(())).await;
    let times: Vec<u64> = fake.told().events.iter().map(|event| event.time_ms).collect();
    assert_eq!(times, [1, 3]);
    worker.stop().await;
}

#[tokio::test]
async fn the_coordinators_questions_are_answered() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    fake.until("a session", |told| (!told.reports.is_empty()).then_some(())).await;
    let cluster = || Some(mirrormesh_proto::store::ClusterSpec::default());
    let question = |query_id, flow: &str| ServeQueriesResponse {
        query_id,
        paused: Some(PausedQuery {
            flow_id: flow.to_owned(),
            source: cluster(),
            target: cluster(),
            ..PausedQuery::default()
        }),
        ..ServeQueriesResponse::default()
    };
    // The stream of questions is opened beside the others.
    fake.asked(question(7, "f")).await;
    fake.asked(question(8, "unknown")).await;
    fake.asked(question(9, "no flow name!")).await;
    let uk = || ClusterId::new("uk").unwrap();
    let spec = || ClusterSpec {
        bootstrap_servers: vec!["a:9092".to_owned()],
        properties: BTreeMap::new(),
        kafka_cluster_id: None,
    };
    let preview = PreviewQuestion {
        spec: FlowSpec::new(uk(), ClusterId::new("hq").unwrap()),
        source: spec(),
        target: spec(),
        mesh_id: "m".to_owned(),
        clusters: BTreeSet::from([uk()]),
        after: String::new(),
        limit: 7,
    };
    fake.asked(Question::Preview(Box::new(preview)).to_query(10)).await;
    let answers = fake
        .until("answers", |told| {
            (told.answers.len() == 4).then(|| {
                let mut answers = told.answers.clone();
                answers.sort_by_key(|answer| answer.query_id);
                answers
            })
        })
        .await;
    assert!(answers[0].paused.is_some() && answers[0].error.is_empty(), "{:?}", answers[0]);
    assert_eq!(answers[1].error, "no such flow");
    assert!(answers[2].error.contains("flow_id"), "{}", answers[2].error);
    assert!(
        answers[3].error.contains("clusters/uk"),
        "a service says what it can't answer: {}",
        answers[3].error
    );
    worker.stop().await;
}

/// Nothing is written before both clusters are known and are two.
#[tokio::test]
async fn unit_waits_until_two_clusters_are_known() {
    let fake = Fake::start().await;
    let worker = Worker::start(&[fake.address]);
    let unit = topology();
    fake.desire(1, &[(&unit, 1)]);
    let unknown = worker.context_of(&unit).await;
    let known = |source: &str, target: &str| {
        let mut context = unknown.clone();
        context.source.kafka_cluster_id = Some(source.to_owned());
        context.target.kafka_cluster_id = Some(target.to_owned());
        context
    };
    assert!(ClusterCheck::default().pass(&known("a", "b")).await);

    let waits = async |context: &UnitContext, reason: &str| {
        let check = ClusterCheck::default();
        let said = async {
            while unknown.report.newest().reason != reason {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            passed = check.pass(context) => panic!("it ended: {passed}"),
            () = said => {}
            () = tokio::time::sleep(TIMEOUT) => panic!("never {reason}: {:?}", unknown.report.newest()),
        }
    };
    waits(&known("a", "a"), "SOURCE_IS_TARGET").await;
    let report = unknown.report.newest();
    assert_eq!(report.state, UnitState::Stopped);
    assert!(report.message.contains("clusters/uk") && report.message.contains("clusters/hq"), "{report:?}");
    // Nobody listens at the addresses.
    waits(&unknown, "CLUSTER_UNREACHABLE").await;
    assert_eq!(unknown.report.newest().state, UnitState::Backoff);

    unknown.stop.cancel();
    assert!(!ClusterCheck::default().pass(&known("a", "a")).await, "it is to stop");
    worker.stop().await;
}
