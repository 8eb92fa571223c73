//! How far behind partitions are that nobody runs since they are paused: soft state of one leadership.
//!
//! Owns who is asked and when: a source worker looks at the clusters, the same one as long as it answers. Nothing here
//! enters the Raft log; a new leader asks anew at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use mirrormesh_core::control::{ControlState, TopicEntry};
use mirrormesh_core::ids::{FlowId, TopicName, WorkerId};
use mirrormesh_core::paused::{PausedFigures, PausedSet};
use mirrormesh_core::report::PartitionFigures;
use mirrormesh_core::unit::Role;
use mirrormesh_runtime::clock::now_ms;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Lead;
use crate::queries::QueryFault;
use crate::raft::RaftHandle;

/// How often a flow is asked about. What is shown is at most this old, a tick and an answer's time more.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked which flows are due; one with a partition that nobody looked at yet is due with each.
const TICK: Duration = Duration::from_millis(500);
/// What was seen this long ago is old, and no lag any more.
const OLD_AFTER_MS: u64 = 4_000;
/// Changes that come together are looked at together.
const GATHERING: Duration = Duration::from_millis(100);
/// How long an answer is waited for: the first one takes the longest, since the worker connects and reads positions.
const WAIT: Duration = Duration::from_secs(5);
/// Partitions in one question.
const PARTITIONS_MAX: usize = 5_000;

/// What was seen of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// How far it is.
    figures: PartitionFigures,
    /// When somebody was asked, ms since 1970: it is not older.
    at_ms: u64,
}

impl Look {
    /// The figures as they count now: an old end is said to be old.
    pub(crate) fn figures(&self, now_ms: u64) -> PartitionFigures {
        let old = now_ms.saturating_sub(self.at_ms) >= OLD_AFTER_MS;
        let since = i64::try_from(self.at_ms).ok().filter(|_| old);
        PartitionFigures { stale_since_ms: self.figures.stale_since_ms.or(since), ..self.figures }
    }

    /// When it was so, ms since 1970.
    pub(crate) fn at_ms(&self) -> u64 {
        self.at_ms
    }
}

/// What was seen of a flow's paused partitions. One that is not paused any more may still be in it.
pub(crate) type Looks = BTreeMap<TopicName, BTreeMap<i32, Look>>;

/// What was seen of all paused partitions.
#[derive(Debug, Default)]
pub(crate) struct Paused(Mutex<BTreeMap<FlowId, Arc<Looks>>>);

impl Paused {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<FlowId, Arc<Looks>>> {
        self.0.lock()
    }

    /// Of one flow.
    pub(crate) fn of_flow(&self, flow: &FlowId) -> Arc<Looks> {
        self.lock().get(flow).cloned().unwrap_or_default()
    }

    /// A worker looked. What it left out stays as it was seen before, and grows old.
    fn seen(&self, flow: &FlowId, figures: PausedFigures, at_ms: u64) {
        let mut looks = (*self.of_flow(flow)).clone();
        for (topic, partition, figures) in figures {
            looks.entry(topic).or_default().insert(partition, Look { figures, at_ms });
        }
        self.lock().insert(flow.clone(), Arc::new(looks));
    }

    /// Forgets everything but what is paused still.
    fn retain(&self, state: &ControlState) {
        self.lock().retain(|flow, looks| {
            let Some(record) = state.flows.get(flow) else { return false };
            let is_gone = |(topic, looks): (&TopicName, &BTreeMap<i32, Look>)| {
                looks.keys().any(|partition| !record.is_paused(topic, *partition))
                    || !record.topics.contains_key(topic)
            };
            if looks.iter().any(is_gone) {
                let looks = Arc::make_mut(looks);
                looks.retain(|topic, looks| {
                    looks.retain(|partition, _| record.is_paused(topic, *partition));
                    !looks.is_empty() && record.topics.contains_key(topic)
                });
            }
            !looks.is_empty()
        });
    }
}

/// When a flow is asked about again.
#[derive(Debug, Default)]
struct Turn {
    asked: Option<Instant>,
    asking: bool,
    /// Grows when a worker does not answer: then it is the next one's turn.
    worker: usize,
}

/// What came of asking.
type Outcome = (FlowId, Result<(), QueryFault>);

/// Runs as long as this coordinator leads.
pub(super) async fn run(raft: RaftHandle, lead: Arc<Lead>) {
    let mut states = raft.watch_states();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turns: BTreeMap<FlowId, Turn> = BTreeMap::new();
    let mut asking: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        lead.paused.retain(&state);
        for (flow, turn) in due(&state, &lead.paused, &mut turns) {
            let workers = source_workers(&state, turn.worker);
            let Some(set) = state.paused_set(&flow).filter(|_| !workers.is_empty()) else { continue };
            turn.asking = true;
            turn.asked = Some(Instant::now());
            let lead = Arc::clone(&lead);
            asking.push(Box::pin(async move {
                let outcome = ask(&lead, &workers, set).await;
                (flow, outcome)
            }));
        }
        tokio::select! {
            changed = states.changed() => {
                if changed.is_err() {
                    return;
                }
                sleep(GATHERING).await;
            }
            _ = ticks.tick() => {}
            Some((flow, outcome)) = asking.next(), if !asking.is_empty() => {
                let Some(turn) = turns.get_mut(&flow) else { continue };
                turn.asking = false;
                if let Err(error) = outcome {
                    tracing::debug!(%flow, %error, "paused partitions were not looked at");
                    turn.worker = turn.worker.wrapping_add(1);
                }
            }
        }
    }
}

/// Flows whose time has come, and those with a paused partition that nobody looked at yet.
fn due<'a>(
    state: &ControlState,
    paused: &Paused,
    turns: &'a mut BTreeMap<FlowId, Turn>,
) -> Vec<(FlowId, &'a mut Turn)> {
    let now = Instant::now();
    let mut known = BTreeMap::new();
    for (flow, record) in &state.flows {
        let looks = paused.of_flow(flow);
        let mut partitions = state.paused_partitions(flow, record).peekable();
        if partitions.peek().is_none() {
            continue;
        }
        let is_new = |(entry, partition): (&TopicEntry, i32)| {
            looks.get(&entry.topic).is_none_or(|looks| !looks.contains_key(&partition))
        };
        known.insert(flow.clone(), partitions.any(is_new));
    }
    turns.retain(|flow, turn| turn.asking || known.contains_key(flow));
    for (index, flow) in known.keys().enumerate() {
        // Flows begin with different workers.
        turns.entry(flow.clone()).or_insert_with(|| Turn { worker: index, ..Turn::default() });
    }
    let rest = |has_new: &bool| if *has_new { TICK } else { ASK_EVERY };
    let is_due = |turn: &Turn, rest| turn.asked.is_none_or(|asked| now.duration_since(asked) >= rest);
    turns
        .iter_mut()
        .filter(|(flow, turn)| {
            !turn.asking && known.get(*flow).is_some_and(|has_new| is_due(turn, rest(has_new)))
        })
        .map(|(flow, turn)| (flow.clone(), turn))
        .collect()
}

/// The workers that can look, in the order in which they are asked.
fn source_workers(state: &ControlState, first: usize) -> Vec<WorkerId> {
    let of_role = state.workers.iter().filter(|(_, worker)| worker.role == Role::Source);
    let mut workers: Vec<WorkerId> = of_role.map(|(id, _)| id.clone()).collect();
    let first = first.checked_rem(workers.len()).unwrap_or(0);
    workers.rotate_left(first);
    workers
}

/// Asks the first worker that takes questions now.
async fn ask(lead: &Lead, workers: &[WorkerId], set: PausedSet) -> Result<(), QueryFault> {
    let mut fault = Ok(());
    for worker in workers {
        match ask_one(lead, worker, &set).await {
            Err(error @ (QueryFault::NotConnected(_) | QueryFault::Busy(_))) => fault = Err(error),
            outcome => return outcome,
        }
    }
    fault
}

async fn ask_one(lead: &Lead, worker: &WorkerId, set: &PausedSet) -> Result<(), QueryFault> {
    for partitions in set.partitions.chunks(PARTITIONS_MAX) {
        let part = PausedSet { partitions: partitions.to_vec(), ..set.clone() };
        let at_ms = now_ms();
        let figures = lead.queries.paused(worker, part, WAIT).await?;
        lead.paused.seen(&set.flow, figures, at_ms);
    }
    Ok(())
}
