//! The newest report of each unit, with rates: soft state of one leadership.
//!
//! Invariant: only a unit's present owner, under the present assignment number, is heard. Nothing here enters the
//! Raft log; a new leader learns it anew within seconds, since the first report of a stream holds all units.

use std::collections::BTreeMap;

use mirrormesh_core::control::ControlState;
use mirrormesh_core::ids::{FlowId, WorkerId};
use mirrormesh_core::lag::Pace;
use mirrormesh_core::report::{UnitReport, UnitState};
use mirrormesh_core::throttle::{Need, Weights};
use mirrormesh_core::unit::Unit;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::Instant;

use super::rates::Rate;

/// Rates below this do not weigh, in bytes per second.
const WEIGHT_FROM: f64 = 16.0 * 1024.0;
/// Each step of the weight is this many times the rate of the one before.
const WEIGHT_STEP: f64 = 4.0;
/// A rate must leave its step by this factor before the weight follows: plans must not flap.
const WEIGHT_MARGIN: f64 = 1.5;

/// What a partition says that is slow because it was asked to be: nothing is wrong with it.
pub(crate) const THROTTLED: &str = "THROTTLED";

/// What is known of one unit.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    /// Its newest report.
    pub(crate) report: UnitReport,
    /// When state, reason or message were first as they are, ms since 1970.
    pub(crate) since_ms: u64,
    /// Records mirrored.
    pub(crate) records: Rate,
    /// Bytes mirrored.
    pub(crate) bytes: Rate,
    /// Place in the source partition.
    pub(crate) place: Rate,
    /// End of the source partition.
    pub(crate) end: Rate,
    weight_step: u32,
}

impl Tracked {
    fn new(report: UnitReport, now: Instant, now_ms: u64) -> Self {
        let mut tracked = Self {
            report,
            since_ms: now_ms,
            records: Rate::default(),
            bytes: Rate::default(),
            place: Rate::default(),
            end: Rate::default(),
            weight_step: 0,
        };
        tracked.observe(now);
        tracked
    }

    fn update(&mut self, report: UnitReport, now: Instant, now_ms: u64) {
        let same = self.report.state == report.state
            && self.report.reason == report.reason
            && self.report.message == report.message;
        if !same {
            self.since_ms = now_ms;
        }
        self.report = report;
        self.observe(now);
    }

    fn observe(&mut self, now: Instant) {
        let Some(figures) = self.report.partition else { return };
        self.records.observe(now, figures.records);
        self.bytes.observe(now, figures.bytes);
        self.place.observe(now, figures.source_offset);
        if let Some(end) = figures.source_end_offset {
            self.end.observe(now, end);
        }
    }

    /// How fast the mirror moves on and the source grows; `None` until both were watched for long enough.
    pub(crate) fn pace(&self, now: Instant) -> Option<Pace> {
        let known = self.place.is_settled(now) && self.end.is_settled(now);
        known.then(|| Pace { mirrored: self.place.at(now), produced: self.end.at(now) })
    }

    /// What it needs of a throttle; `None` until its rates are known.
    fn need(&self, now: Instant) -> Option<Need> {
        let known = self.bytes.is_known(now) && self.records.is_known(now);
        known.then(|| Need {
            waits: self.report.state == UnitState::Running && self.report.reason == THROTTLED,
            bytes_per_second: whole(self.bytes.at(now)),
            records_per_second: whole(self.records.at(now)),
        })
    }

    /// The unit's weight for the planner: a power of 4 by bytes per second, 1 for quiet ones.
    fn weight(&mut self, now: Instant) -> u64 {
        let rate = self.bytes.at(now);
        let (low, high) = (weight_step(rate / WEIGHT_MARGIN), weight_step(rate * WEIGHT_MARGIN));
        self.weight_step = self.weight_step.clamp(low, high);
        4_u64.saturating_pow(self.weight_step)
    }
}

/// Rates are neither negative nor near 2^53.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, rounded up")]
fn whole(rate: f64) -> u64 {
    rate.ceil() as u64
}

fn weight_step(rate: f64) -> u32 {
    let (mut step, mut limit) = (0, WEIGHT_FROM);
    while rate >= limit && step < 20 {
        step += 1;
        limit *= WEIGHT_STEP;
    }
    step
}

type Flows = BTreeMap<FlowId, BTreeMap<Unit, Tracked>>;

/// The reports of all units.
#[derive(Debug)]
pub(crate) struct Progress {
    flows: Mutex<Flows>,
    changes: watch::Sender<u64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { flows: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock()
    }

    /// Takes the reports of a worker; those under an outdated assignment are left out.
    pub(crate) fn update(
        &self,
        state: &ControlState,
        worker: &WorkerId,
        reports: Vec<UnitReport>,
        now: Instant,
        now_ms: u64,
    ) {
        if reports.is_empty() {
            return;
        }
        {
            let mut flows = self.lock();
            for report in reports {
                let present = state
                    .owners
                    .get(&report.unit)
                    .is_some_and(|owner| owner.worker == *worker && owner.number == report.number);
                if !present {
                    continue;
                }
                let units = flows.entry(report.unit.flow().clone()).or_default();
                match units.get_mut(&report.unit) {
                    Some(tracked) if tracked.report.number == report.number => {
                        tracked.update(report, now, now_ms);
                    }
                    _ => {
                        units.insert(report.unit.clone(), Tracked::new(report, now, now_ms));
                    }
                }
            }
        }
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Forgets units whose assignment ended.
    pub(crate) fn forget_outdated(&self, state: &ControlState) {
        let mut flows = self.lock();
        for units in flows.values_mut() {
            units.retain(|unit, tracked| {
                state.owners.get(unit).is_some_and(|owner| owner.number == tracked.report.number)
            });
        }
        flows.retain(|_, units| !units.is_empty());
    }

    /// Reads what is known of a flow's units.
    pub(crate) fn with_flow<T>(&self, flow: &FlowId, read: impl FnOnce(&BTreeMap<Unit, Tracked>) -> T) -> T {
        match self.lock().get(flow) {
            Some(units) => read(units),
            None => read(&BTreeMap::new()),
        }
    }

    /// Wakes when a report came in.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What the partitions of throttled flows weigh where limits are shared.
    pub(crate) fn throttle_weights(&self, state: &ControlState, before: &Weights, now: Instant) -> Weights {
        let flows = self.lock();
        state.throttle_weights(before, |flow, topic, partition| {
            let unit = Unit::Partition(flow.clone(), topic.clone(), partition);
            flows.get(flow)?.get(&unit)?.need(now)
        })
    }

    /// Weights for the planner; units that are left out weigh 1.
    pub(crate) fn weights(&self, now: Instant) -> BTreeMap<Unit, u64> {
        let mut weights = BTreeMap::new();
        for tracked in self.lock().values_mut().flat_map(BTreeMap::values_mut) {
            let weight = tracked.weight(now);
            if weight > 1 {
                weights.insert(tracked.report.unit.clone(), weight);
            }
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::report::PartitionFigures;
    use mirrormesh_core::unit::Owner;
    use std::time::Duration;

    fn unit() -> Unit {
        let topic = mirrormesh_core::ids::TopicName::new("t").unwrap();
        Unit::Partition(FlowId::new("f").unwrap(), topic, 0)
    }

    fn report(number: u64, bytes: i64) -> UnitReport {
        UnitReport {
            unit: unit(),
            number,
            state: UnitState::Running,
            reason: String::new(),
            message: String::new(),
            partition: Some(PartitionFigures { bytes, ..PartitionFigures::default() }),
        }
    }

    fn owned_by(worker: &WorkerId, number: u64) -> ControlState {
        let owner = Owner { worker: worker.clone(), number, releasing: false };
        ControlState { owners: BTreeMap::from([(unit(), owner)]), ..ControlState::default() }
    }

    #[test]
    fn only_the_present_owner_is_heard() {
        let (progress, now) = (Progress::default(), Instant::now());
        let (worker, other) = (WorkerId::new("w").unwrap(), WorkerId::new("x").unwrap());
        let state = owned_by(&worker, 5);
        let known = |progress: &Progress| progress.with_flow(unit().flow(), BTreeMap::len);
        progress.update(&state, &worker, vec![report(4, 1)], now, 1);
        progress.update(&state, &other, vec![report(5, 1)], now, 1);
        assert_eq!(known(&progress), 0);
        progress.update(&state, &worker, vec![report(5, 1)], now, 1);
        assert_eq!(known(&progress), 1);
        progress.forget_outdated(&owned_by(&worker, 6));
        assert_eq!(known(&progress), 0);
    }

    #[test]
    fn since_moves_only_when_state_reason_or_message_do() {
        let (progress, now) = (Progress::default(), Instant::now());
        let worker = WorkerId::new("w").unwrap();
        let state = owned_by(&worker, 1);
        let since = |progress: &Progress| progress.with_flow(unit().flow(), |units| units[&unit()].since_ms);
        progress.update(&state, &worker, vec![report(1, 1)], now, 100);
        progress.update(&state, &worker, vec![report(1, 2)], now, 200);
        assert_eq!(since(&progress), 100);
        let backoff = UnitReport { state: UnitState::Backoff, reason: "X".into(), ..report(1, 2) };
        progress.update(&state, &worker, vec![backoff], now, 300);
        assert_eq!(since(&progress), 300);
    }

    #[test]
    fn weights_are_coarse_and_do_not_flap() {
        let (progress, begin) = (Progress::default(), Instant::now());
        let worker = WorkerId::new("w").unwrap();
        let state = owned_by(&worker, 1);
        let mut bytes = 0;
        let mut at = begin;
        let mut run = |rate: i64, seconds: u32| {
            for _ in 0..seconds {
                at += Duration::from_secs(1);
                bytes += rate;
                progress.update(&state, &worker, vec![report(1, bytes)], at, 0);
            }
            progress.weights(at).get(&unit()).copied().unwrap_or(1)
        };
        assert_eq!(run(1_000, 30), 1);
        assert_eq!(run(2 << 20, 60), 4_u64.pow(4), "from 16 KiB/s each step is four times the one before");
        // Around the border between two steps the weight stays where it was.
        let stays = run(800 << 10, 60);
        assert_eq!(stays, 4_u64.pow(4));
        assert_eq!(run(1_000, 300), 1);
    }
}
