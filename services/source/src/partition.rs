//! One partition unit: carries out what the relay machine asks for.
//!
//! Decides nothing: which record goes where, when, and what an answer means is `relay/machine`. One task per
//! partition owns the machine and everything that is on its way, so that no partition can stop another.

mod act;
mod probe;
mod report;
mod signals;
mod start_trace;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::report::UnitState;
use mirrormesh_core::unit::PartitionGeneration;
use mirrormesh_relay::answer::Answer;
use mirrormesh_relay::facts::Facts;
use mirrormesh_relay::machine::{Relay, Rules, Setup, Told};
use mirrormesh_relay::window::Limits;
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_runtime::complaint::Complaint;
use mirrormesh_worker::{Failure, UnitContext};
use opentelemetry::KeyValue;
use tokio::sync::mpsc;

use crate::codecs::AsideCodecs;
use crate::ends::SourceEnd;
use crate::fetcher::Fetcher;
use crate::lag_board::LagSlot;
use crate::link::FlowLink;
use crate::memory::PartitionMemory;
use crate::metrics::Tally;
use crate::sender::{self, Sender};
use crate::throttle::{Arrived, Intake, PartitionThrottle};
use probe::{Clusters, Probe};
use signals::{Signal, Signals};
use start_trace::StartTrace;

/// How often figures are reported and positions looked at while something happens.
const TICK: Duration = Duration::from_millis(100);
/// Pause after settings that changed could not be read.
const SETTINGS_PAUSE: Duration = Duration::from_secs(1);
/// Records of one batch may unfold to so many bytes when it must be rebuilt.
const REBUILD_BYTES_MAX: usize = 256 << 20;

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;
type Begun = Result<PartitionGeneration, (String, String)>;

/// What is on its way; each at most once.
struct Underway {
    /// The answer comes with the question's id.
    asking: Pending<(u64, Told)>,
    writing: Pending<Result<(), Failure>>,
    beginning: Pending<Begun>,
    waiting: Pending<()>,
    refreshing: Pending<Facts>,
}

/// Where records come from and go to while the machine streams.
struct Lines {
    fetcher: Option<Arc<Fetcher>>,
    pages: Option<Intake>,
    sender: Option<Arc<Sender>>,
    /// The batches since the last position recovery.
    row: Arc<sender::Row>,
    answers: mpsc::UnboundedSender<(u64, Answer)>,
}

impl Drop for Lines {
    /// A unit that is aborted waits for no answer: what it handed over and did not leave yet must not go out any more.
    fn drop(&mut self) {
        self.row.fail();
    }
}

/// One source partition.
pub(crate) struct PartitionUnit {
    context: UnitContext,
    link: Arc<FlowLink>,
    topic: TopicName,
    partition: i32,
    relay: Relay,
    codecs: AsideCodecs,
    flow_label: KeyValue,
    tally: Tally,
    /// The end of the source partition, as it is seen by whomever.
    end: Arc<SourceEnd>,
    /// Where the lag gauges read.
    lag: LagSlot,
    /// How fast it may take what was fetched.
    throttle: Arc<PartitionThrottle>,
    /// What its records are charged to.
    memory: Arc<PartitionMemory>,
    lines: Lines,
    answers: mpsc::UnboundedReceiver<(u64, Answer)>,
    underway: Underway,
    /// The target was slow with this partition: it gets a connection apart from the others for its next stream.
    slow: bool,
    /// Settings changed since they were read.
    outdated: bool,
    /// A newer generation was seen than the one that this unit knows.
    fenced: bool,
    /// Why the last position was not written, until one is.
    position_fault: Option<String>,
    /// What it waits for, and whether that is in the log.
    complaint: Complaint,
    /// Its start in the trace of the flow's change.
    start: StartTrace,
}

/// Whether the unit goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    GoesOn,
    Ends,
}

impl PartitionUnit {
    /// `None` if the assignment lacks what a partition needs, which is said in its report.
    pub(crate) fn new(
        context: UnitContext,
        link: Arc<FlowLink>,
        topic: TopicName,
        partition: i32,
    ) -> Option<Box<Self>> {
        let Some(detail) = context.assigned.partition.clone() else {
            context.report.set(
                UnitState::Stopped,
                "ASSIGNMENT_INCOMPLETE",
                "the assignment lacks the topic's ids or the producer id: all services must have one version",
                None,
            );
            return None;
        };
        let relay = Relay::new(Setup {
            mesh_id: context.flow.mesh_id.clone(),
            source: context.flow.spec.source.clone(),
            flow: context.flow_id.clone(),
            topic: topic.clone(),
            partition,
            number: context.assigned.number,
            detail,
            target_servers: context.target.bootstrap_servers.join(","),
            rules: Rules::of(&context.flow.spec, &topic),
            limits: Limits::default(),
        });
        let flow_label = KeyValue::new("flow", context.flow_id.as_str().to_owned());
        let (answers_in, answers) = mpsc::unbounded_channel();
        let read_committed = !context.flow.spec.read_uncommitted;
        let end = link.ends.watch(topic.shared(), partition, read_committed);
        let throttle = link.throttle(&topic);
        let memory = link.memory();
        let lag = link.metrics.lag.enter(&context.flow_id, &topic, partition);
        // Boxed: a task keeps what it is given twice, before it begins and while it runs.
        Some(Box::new(Self {
            start: StartTrace::begin(&context, &topic, partition),
            context,
            link,
            topic,
            partition,
            relay,
            codecs: AsideCodecs::new(REBUILD_BYTES_MAX),
            flow_label,
            tally: Tally::default(),
            end,
            lag,
            throttle,
            memory,
            lines: Lines {
                fetcher: None,
                pages: None,
                sender: None,
                row: Arc::default(),
                answers: answers_in,
            },
            answers,
            underway: Underway {
                asking: None,
                writing: None,
                beginning: None,
                waiting: None,
                refreshing: None,
            },
            slow: false,
            outdated: false,
            fenced: false,
            position_fault: None,
            complaint: Complaint::default(),
        }))
    }

    fn probe(&self) -> Probe {
        Probe {
            link: Arc::clone(&self.link),
            topic: self.topic.clone(),
            partition: self.partition,
            detail: self.relay.detail().clone(),
            clusters: Clusters {
                flow: self.context.flow_id.clone(),
                source: self.context.flow.spec.source.clone(),
                target: self.context.flow.spec.target.clone(),
            },
        }
    }

    /// Runs until asked to stop and drained.
    pub(crate) async fn run(mut self: Box<Self>) {
        let mut rare: FuturesUnordered<_> = [Signals::of(&self).next()].into_iter().collect();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            loop {
                self.relay.waiting(self.lines.row.waiting());
                let Some(action) = self.relay.next(now_ms(), &self.codecs) else { break };
                if self.act(action).await == Turn::Ends {
                    return;
                }
            }
            if self.is_superseded() {
                return;
            }
            self.refresh();
            let (wants, busy) = (self.relay.wants_records(), self.relay.is_busy());
            tokio::select! {
                biased;
                Some((id, answer)) = self.answers.recv() => {
                    self.answered(id, &answer);
                    while let Ok((id, answer)) = self.answers.try_recv() {
                        self.answered(id, &answer);
                    }
                }
                Some((signals, signal)) = rare.next() => {
                    self.signalled(signal);
                    rare.push(signals.next());
                }
                (id, told) = finish(&mut self.underway.asking) => {
                    self.relay.told(id, told, &self.codecs);
                    self.say();
                }
                begun = finish(&mut self.underway.beginning) => {
                    self.fenced = matches!(&begun, Err((reason, _)) if reason == "GENERATION_OUTDATED");
                    self.relay.begun(begun, now_ms());
                    self.say();
                }
                written = finish(&mut self.underway.writing) => self.written(&written),
                () = finish(&mut self.underway.waiting) => self.relay.resume(),
                facts = finish(&mut self.underway.refreshing) => self.relay.facts_now(facts),
                arrived = next(&mut self.lines.pages), if wants => self.fetched(arrived),
                _ = ticks.tick(), if busy => self.say(),
            }
        }
    }

    fn signalled(&mut self, signal: Signal) {
        match signal {
            Signal::Stop => self.relay.stop(),
            Signal::Lease(holds) => self.relay.leased(holds),
            Signal::Ends(news) => self.ends(news),
            Signal::Settings => self.outdated = true,
            Signal::Assigned => {}
            Signal::Quiet => self.say(),
        }
    }

    /// The Raft log has a newer generation of the partition than this unit began with, and the unit can't go on with
    /// its own: it returns, and is started again with what is assigned now.
    fn is_superseded(&self) -> bool {
        if !self.fenced {
            return false;
        }
        let newest = self.context.assigned_changes.borrow();
        let begun = newest.partition.as_ref().map(|detail| detail.begun.generation);
        begun.is_some_and(|begun| begun != self.relay.generation().generation)
    }

    /// Reads the settings if some changed. Elsewhere than in a stream, they are read before the next one begins.
    fn refresh(&mut self) {
        if !self.outdated || self.lines.pages.is_none() || self.underway.refreshing.is_some() {
            return;
        }
        self.outdated = false;
        let probe = self.probe();
        self.underway.refreshing = Some(Box::pin(async move {
            loop {
                match probe.facts().await {
                    Ok(facts) => return facts,
                    Err(_) => tokio::time::sleep(SETTINGS_PAUSE).await,
                }
            }
        }));
    }
}

async fn next(pages: &mut Option<Intake>) -> Arrived {
    match pages {
        Some(intake) => intake.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for what is on its way, if anything is, and takes it off.
async fn finish<T>(pending: &mut Pending<T>) -> T {
    match pending {
        Some(future) => {
            let done = future.await;
            *pending = None;
            done
        }
        None => std::future::pending().await,
    }
}
