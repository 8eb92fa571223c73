//! Tests of the supervisor, with paused time and without a coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::{ClusterId, TopicId, TopicName};
use mirrormesh_core::unit::{
    AssignedFlow, ClusterSpec, Generation, PartitionDetail, PartitionGeneration, PartitionStart,
    ThrottleShares,
};
use tokio::sync::mpsc;

use super::*;
use crate::events::EventQueue;
use crate::lease::LeaseClock;
use crate::link;

/// What a unit of the test does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Habit {
    /// Runs until it is asked to stop, then drains this long.
    Drains(Duration),
    /// Panics at once, this often; then as `Drains(0)`.
    Panics(usize),
    /// Panics when it is asked to stop.
    PanicsInDrain,
}

struct Units {
    habits: BTreeMap<Unit, Habit>,
    starts: Mutex<BTreeMap<Unit, usize>>,
    /// Traces that units were started in.
    traces: Arc<Mutex<Vec<Option<String>>>>,
    /// Epochs that units were started in.
    epochs: Arc<Mutex<Vec<i16>>>,
    said: mpsc::UnboundedSender<(Unit, &'static str)>,
    running: Arc<AtomicUsize>,
}

struct CountDown(Arc<AtomicUsize>);

impl Drop for CountDown {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl UnitFactory for Units {
    fn start(&self, unit: Unit, context: UnitContext) -> BoxFuture<'static, ()> {
        let start = {
            let mut starts = self.starts.lock().unwrap();
            let start = starts.entry(unit.clone()).or_default();
            *start += 1;
            *start
        };
        self.traces.lock().unwrap().push(context.trace.clone());
        if let Some(detail) = &context.assigned.partition {
            self.epochs.lock().unwrap().push(detail.begun.generation.epoch);
        }
        let habit = self.habits.get(&unit).copied().unwrap_or(Habit::Drains(Duration::ZERO));
        let said = self.said.clone();
        self.running.fetch_add(1, Ordering::SeqCst);
        let count = CountDown(Arc::clone(&self.running));
        async move {
            let _count = count;
            context.report.set(UnitState::Running, "", "", None);
            said.send((unit.clone(), "started")).unwrap();
            if matches!(habit, Habit::Panics(times) if start <= times) {
                panic!("as the test wants it");
            }
            context.stop.cancelled().await;
            said.send((unit.clone(), "asked to stop")).unwrap();
            assert_ne!(habit, Habit::PanicsInDrain, "as the test wants it");
            if let Habit::Drains(time) = habit {
                tokio::time::sleep(time).await;
            }
            said.send((unit, "drained")).unwrap();
        }
        .boxed()
    }
}

struct Bench {
    desired: watch::Sender<Arc<WorkerAssignment>>,
    said: mpsc::UnboundedReceiver<(Unit, &'static str)>,
    reports: Reports,
    releases: Releases,
    epochs: Arc<Mutex<Vec<i16>>>,
    traces: Arc<Mutex<Vec<Option<String>>>>,
    running: Arc<AtomicUsize>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _slot: link::LinkSlot,
}

fn bench(habits: impl IntoIterator<Item = (Unit, Habit)>) -> Bench {
    let (sender, said) = mpsc::unbounded_channel();
    let (slot, metrics) = (link::slot(), Metrics::none());
    let events = Arc::new(EventQueue::new(metrics.clone()));
    let (reports, releases, running) =
        (Reports::default(), Releases::default(), Arc::new(AtomicUsize::new(0)));
    let (epochs, traces) = (Arc::<Mutex<Vec<i16>>>::default(), Arc::<Mutex<Vec<Option<String>>>>::default());
    let factory = Units {
        epochs: Arc::clone(&epochs),
        traces: Arc::clone(&traces),
        habits: habits.into_iter().collect(),
        starts: Mutex::default(),
        said: sender,
        running: Arc::clone(&running),
    };
    let supervisor = Supervisor::new(Surroundings {
        factory: Arc::new(factory),
        coordinator: CoordinatorHandle::new(slot.links(), events),
        reports: reports.clone(),
        releases: releases.clone(),
        lease: LeaseClock::new().lease(),
        metrics,
        patience: Patience::default(),
    });
    let (desired, stop) = (watch::Sender::new(Arc::default()), CancellationToken::new());
    let task = tokio::spawn(supervisor.run(desired.subscribe(), stop.clone()));
    Bench { desired, said, reports, releases, epochs, traces, running, stop, task, _slot: slot }
}

impl Bench {
    fn desire(&self, units: &[(&Unit, u64)]) {
        self.desire_with(units, |_| {});
    }

    fn desire_with(&self, units: &[(&Unit, u64)], change: impl FnOnce(&mut AssignedFlow)) {
        let (uk, hq) = (ClusterId::new("uk").unwrap(), ClusterId::new("hq").unwrap());
        let cluster = ClusterSpec {
            bootstrap_servers: vec!["a:1".into()],
            properties: BTreeMap::new(),
            kafka_cluster_id: None,
        };
        let mut flow = AssignedFlow {
            spec: FlowSpec::new(uk.clone(), hq.clone()),
            generation: None,
            mesh_id: String::new(),
            clusters: BTreeSet::new(),
            shares: ThrottleShares::default(),
        };
        change(&mut flow);
        let number = |number| AssignedUnit { number, partition: None };
        self.desired.send_replace(Arc::new(WorkerAssignment {
            revision: 1,
            clusters: [(uk, cluster.clone()), (hq, cluster)].into(),
            flows: [(FlowId::new("f").unwrap(), flow)].into(),
            units: units.iter().map(|(unit, n)| ((*unit).clone(), number(*n))).collect(),
            traces: [(FlowId::new("f").unwrap(), "00-trace".to_owned())].into(),
        }));
    }

    /// One unit under number 1, whose partition is in this epoch.
    fn desire_in_epoch(&self, unit: &Unit, epoch: i16) {
        self.desire(&[(unit, 1)]);
        let mut set = WorkerAssignment::clone(&self.desired.borrow());
        let detail = PartitionDetail {
            target_topic: TopicName::new("uk.t").unwrap(),
            source_topic_id: TopicId([1; 16]),
            target_topic_id: TopicId([2; 16]),
            begun: PartitionGeneration {
                generation: Generation { producer_id: 7, epoch },
                start: PartitionStart::default(),
            },
        };
        set.units.get_mut(unit).unwrap().partition = Some(detail);
        self.desired.send_replace(Arc::new(set));
    }

    async fn said(&mut self) -> (Unit, &'static str) {
        tokio::time::timeout(Duration::from_mins(2), self.said.recv()).await.expect("nothing said").unwrap()
    }

    /// Lets everything run that can run now.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

fn unit(partition: i32) -> Unit {
    Unit::Partition(FlowId::new("f").unwrap(), TopicName::new("t").unwrap(), partition)
}

#[tokio::test(start_paused = true)]
async fn a_unit_is_released_only_once_it_has_drained() {
    let mut bench = bench([(unit(0), Habit::Drains(Duration::from_secs(5)))]);
    bench.desire(&[(&unit(0), 1)]);
    assert_eq!(bench.said().await, (unit(0), "started"));
    assert_eq!(*bench.traces.lock().unwrap(), [Some("00-trace".to_owned())], "of the flow's last change");
    let asked = Instant::now();
    bench.desire(&[]);
    assert_eq!(bench.said().await.1, "asked to stop");
    bench.settle().await;
    assert!(bench.releases.unacknowledged().is_empty(), "it still drains");
    assert_eq!(bench.said().await.1, "drained");
    bench.settle().await;
    assert_eq!(asked.elapsed(), Duration::from_secs(5));
    assert_eq!(bench.releases.unacknowledged(), [(unit(0), 1)]);
    assert!(bench.reports.take_all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_unit_with_a_new_number_is_released_and_started_again() {
    let mut bench = bench([]);
    bench.desire(&[(&unit(0), 1)]);
    assert_eq!(bench.said().await.1, "started");
    bench.desire(&[(&unit(0), 2)]);
    assert_eq!(bench.said().await.1, "asked to stop");
    assert_eq!(bench.said().await.1, "drained");
    assert_eq!(bench.said().await.1, "started");
    assert_eq!(bench.releases.unacknowledged(), [(unit(0), 1)]);
    assert_eq!(bench.reports.take_all()[0].number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_released_number_is_never_started_again() {
    let mut bench = bench([]);
    bench.desire(&[(&unit(0), 1)]);
    assert_eq!(bench.said().await.1, "started");
    bench.desire(&[]);
    assert_eq!(bench.said().await.1, "asked to stop");
    assert_eq!(bench.said().await.1, "drained");
    bench.settle().await;
    // An older set that was on its way.
    bench.desire(&[(&unit(0), 1)]);
    bench.settle().await;
    assert_eq!(bench.running.load(Ordering::SeqCst), 0);
    bench.desire(&[(&unit(0), 2)]);
    assert_eq!(bench.said().await.1, "started");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_what_is_read_restarts_without_a_release() {
    let mut bench = bench([]);
    bench.desire(&[(&unit(0), 1)]);
    assert_eq!(bench.said().await.1, "started");
    bench.desire_with(&[(&unit(0), 1)], |flow| flow.spec.checkpoint_interval_ms = 1);
    bench.settle().await;
    assert!(bench.said.try_recv().is_err(), "nothing that the unit reads has changed");
    bench.desire_with(&[(&unit(0), 1)], |flow| flow.spec.read_uncommitted = true);
    assert_eq!(bench.said().await.1, "asked to stop");
    assert_eq!(bench.said().await.1, "drained");
    assert_eq!(bench.said().await.1, "started");
    assert!(bench.releases.unacknowledged().is_empty(), "nobody may take it meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_fails_goes_on_in_the_newest_generation() {
    let mut bench = bench([(unit(0), Habit::Panics(1))]);
    bench.desire_in_epoch(&unit(0), 0);
    assert_eq!(bench.said().await, (unit(0), "started"));
    bench.settle().await;
    bench.desire_in_epoch(&unit(0), 1);
    assert_eq!(bench.said().await, (unit(0), "started"));
    bench.desire_in_epoch(&unit(0), 2);
    bench.settle().await;
    assert!(bench.said.try_recv().is_err(), "a generation that moved on restarts nothing");
    assert_eq!(*bench.epochs.lock().unwrap(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_unit_is_started_again_with_growing_delays_and_disturbs_nobody() {
    let mut bench = bench([(unit(0), Habit::Panics(3))]);
    bench.desire(&[(&unit(0), 1), (&unit(1), 2)]);
    let begin = Instant::now();
    let mut starts = Vec::new();
    while starts.len() < 4 {
        let (who, what) = bench.said().await;
        assert_eq!(what, "started");
        if who == unit(0) {
            starts.push(begin.elapsed().as_secs());
            bench.settle().await;
            if starts.len() < 4 {
                let reports = bench.reports.take_all();
                assert_eq!(
                    (reports[0].state, reports[0].reason.as_str()),
                    (UnitState::Backoff, "UNIT_FAILED")
                );
                assert!(reports[0].message.contains("as the test wants it"), "{}", reports[0].message);
                assert_eq!(reports[1].state, UnitState::Running);
            }
        }
    }
    assert_eq!(starts, [0, 1, 3, 7]);
    assert_eq!(bench.reports.take_all()[0].state, UnitState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_failed_unit_that_is_not_desired_any_more_is_released_at_once() {
    let mut bench = bench([(unit(0), Habit::Panics(9))]);
    bench.desire(&[(&unit(0), 1)]);
    assert_eq!(bench.said().await.1, "started");
    bench.settle().await;
    bench.desire(&[]);
    bench.settle().await;
    assert_eq!(bench.releases.unacknowledged(), [(unit(0), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_does_not_drain_is_aborted_and_held_back() {
    let mut bench = bench([(unit(0), Habit::Drains(Duration::from_hours(1)))]);
    bench.desire(&[(&unit(0), 1)]);
    assert_eq!(bench.said().await.1, "started");
    bench.desire(&[]);
    assert_eq!(bench.said().await.1, "asked to stop");
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    bench.settle().await;
    assert_eq!(bench.running.load(Ordering::SeqCst), 0, "aborted");
    assert!(bench.releases.unacknowledged().is_empty(), "what it sent may still be on the way");
    assert_eq!(bench.reports.take_all()[0].reason, "DRAIN_TIMED_OUT");
    tokio::time::sleep(Duration::from_secs(10)).await;
    bench.settle().await;
    assert_eq!(bench.releases.unacknowledged(), [(unit(0), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_panics_while_it_drains_is_held_back() {
    let mut bench = bench([(unit(0), Habit::PanicsInDrain)]);
    bench.desire(&[(&unit(0), 1)]);
    assert_eq!(bench.said().await.1, "started");
    bench.desire(&[]);
    assert_eq!(bench.said().await.1, "asked to stop");
    bench.settle().await;
    assert!(bench.releases.unacknowledged().is_empty());
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    bench.settle().await;
    assert_eq!(bench.releases.unacknowledged(), [(unit(0), 1)]);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_what_drains_is_released_and_the_rest_is_left_to_the_lease() {
    let slow = Habit::Drains(Duration::from_hours(1));
    let mut bench = bench([(unit(0), Habit::Drains(Duration::from_secs(2))), (unit(1), slow)]);
    bench.desire(&[(&unit(0), 1), (&unit(1), 2)]);
    bench.said().await;
    bench.said().await;
    bench.settle().await;
    let begin = Instant::now();
    bench.stop.cancel();
    (&mut bench.task).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(8));
    assert_eq!(bench.releases.unacknowledged(), [(unit(0), 1)]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_units_start_and_stop() {
    let bench = bench([]);
    let units: Vec<Unit> = (0..10_000).map(unit).collect();
    let all: Vec<(&Unit, u64)> = units.iter().zip(1..).collect();
    bench.desire(&all);
    while bench.running.load(Ordering::SeqCst) < 10_000 {
        tokio::task::yield_now().await;
    }
    bench.desire(&all[..5_000]);
    while bench.releases.unacknowledged().len() < 5_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.running.load(Ordering::SeqCst), 5_000);
}
