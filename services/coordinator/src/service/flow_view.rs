//! What is known of a flow right now: its state, its conditions, its progress.
//!
//! Pure: made from the replicated state and the leader's soft state at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use mirrormesh_core::control::{ControlState, FlowRecord, TopicEntry};
use mirrormesh_core::ids::{FlowId, TopicName};
use mirrormesh_core::report::{Delivery as Guarantee, UnitState};
use mirrormesh_core::unit::{Role, Unit};
use mirrormesh_proto::convert::api::{
    FlowStatus, flow_to_api, flow_topic_name, generation_to_api, timestamp,
};
use mirrormesh_proto::v1::{self, flow::State, flow_partition};
use mirrormesh_runtime::clock::now_ms;
use tokio::time::Instant;

use crate::leader::{Lead, Tracked, Waiting, to_f64};

/// A unit may wait this long for a worker before that is called a problem: planning takes a moment.
const PLACING_TIME: Duration = Duration::from_secs(5);
/// Conditions shown of one flow; a flow with thousands of broken partitions has one problem, not thousands.
const CONDITIONS_MAX: usize = 100;

/// One moment.
#[derive(Debug)]
pub(super) struct View<'a> {
    lead: &'a Lead,
    state: &'a ControlState,
    now: Instant,
    now_ms: u64,
}

impl<'a> View<'a> {
    /// This moment.
    pub(super) fn now(lead: &'a Lead, state: &'a ControlState) -> Self {
        Self { lead, state, now: Instant::now(), now_ms: now_ms() }
    }

    /// A flow as users see it.
    pub(super) fn flow(&self, id: &FlowId, record: &FlowRecord) -> v1::Flow {
        let waiting = self.lead.placement.of_flow(id);
        let (conditions, settled, progress) = self.lead.progress.with_flow(id, |units| {
            let settled = units.values().filter(|unit| unit.report.state != UnitState::Resyncing).count();
            (self.conditions(id, units, &waiting), settled, self.sum(record, units))
        });
        let state = match (record.paused, self.state.is_quiet(id)) {
            (true, true) => State::Paused,
            (true, false) => State::Pausing,
            (false, _) if !conditions.is_empty() => State::Degraded,
            (false, _) if settled < wanted_count(record) => State::Starting,
            (false, _) if record.spec.records_enabled && record.generation.is_none() => State::Starting,
            (false, _) => State::Running,
        };
        let progress = record.spec.records_enabled.then(|| progress.finish());
        // What was wrong before the pause is no concern while nothing is to run.
        let conditions = if record.paused { Vec::new() } else { conditions };
        flow_to_api(id, record, FlowStatus { state, conditions, progress })
    }

    fn sum(&self, record: &FlowRecord, units: &BTreeMap<Unit, Tracked>) -> Sums {
        let mut sums = Sums::default();
        for unit in units.values() {
            if matches!(unit.report.unit, Unit::Partition(..)) {
                sums.add(Some(unit), self.now, self.now_ms);
            }
        }
        let known = sums.partitions;
        for _ in known..partition_count(record) {
            sums.add(None, self.now, self.now_ms);
        }
        sums
    }

    fn conditions(
        &self,
        id: &FlowId,
        units: &BTreeMap<Unit, Tracked>,
        waiting: &[(Role, Waiting)],
    ) -> Vec<v1::Condition> {
        let unplaced = waiting
            .iter()
            .filter(|(_, waiting)| self.now.saturating_duration_since(waiting.since) >= PLACING_TIME)
            .map(|(role, waiting)| self.no_worker(*role, *waiting));
        let refused = self.lead.refusals.of_flow(id).into_iter().map(|(topic, refusal)| {
            condition(refusal.reason, &refusal.message, topic.to_string(), refusal.since_ms)
        });
        let faulty = units.values().filter_map(unit_condition);
        let mut all = unplaced.chain(refused).chain(faulty);
        let mut shown: Vec<v1::Condition> = all.by_ref().take(CONDITIONS_MAX).collect();
        let left_out = all.count();
        if left_out > 0 {
            let message = format!("{left_out} more conditions are not shown: mend these first");
            shown.push(condition("MORE_CONDITIONS", &message, String::new(), self.now_ms));
        }
        shown
    }

    fn no_worker(&self, role: Role, waiting: Waiting) -> v1::Condition {
        let name = role_name(role);
        let present = self.state.workers.values().any(|worker| worker.role == role && !worker.draining);
        let units = waiting.units;
        let message = if present {
            format!(
                "{units} units wait since all {name} workers are full: start another one or raise `capacity`"
            )
        } else {
            format!("{units} units wait since no {name} worker is registered: start mirrormesh-{name}")
        };
        condition("NO_WORKER", &message, String::new(), waiting.since_ms)
    }

    /// Topics of a flow as users see them.
    pub(super) fn topics<'b>(
        &self,
        id: &FlowId,
        record: &FlowRecord,
        entries: impl Iterator<Item = &'b TopicEntry>,
    ) -> Vec<v1::FlowTopic> {
        self.lead
            .progress
            .with_flow(id, |units| entries.map(|entry| self.topic(id, record, entry, units)).collect())
    }

    fn topic(
        &self,
        id: &FlowId,
        record: &FlowRecord,
        entry: &TopicEntry,
        units: &BTreeMap<Unit, Tracked>,
    ) -> v1::FlowTopic {
        let mut sums = Sums::default();
        let numbers = 0..i32::try_from(entry.starts.len()).unwrap_or(i32::MAX);
        let partitions = numbers.map(|number| {
            let unit = Unit::Partition(id.clone(), entry.topic.clone(), number);
            let tracked = units.get(&unit);
            sums.add(tracked, self.now, self.now_ms);
            self.partition(record, entry, &unit, number, tracked)
        });
        let partitions = partitions.collect();
        v1::FlowTopic {
            name: flow_topic_name(id, &entry.topic),
            target_topic: entry.target_topic.to_string(),
            partitions,
            progress: Some(sums.finish()),
        }
    }

    fn partition(
        &self,
        record: &FlowRecord,
        entry: &TopicEntry,
        unit: &Unit,
        number: i32,
        tracked: Option<&Tracked>,
    ) -> v1::FlowPartition {
        use flow_partition::{Delivery, State};
        let owner = self.state.owners.get(unit);
        let begun = record.generation.and_then(|generation| entry.begun(generation, number));
        let state = match tracked.map(|tracked| tracked.report.state) {
            None if record.paused || !record.spec.records_enabled => State::Paused,
            None => State::Unspecified,
            Some(UnitState::Resyncing) => State::Resyncing,
            Some(UnitState::Running) => State::Running,
            Some(UnitState::Backoff) => State::Backoff,
            Some(UnitState::Stopped) => State::Stopped,
        };
        let figures = tracked.and_then(|tracked| tracked.report.partition);
        let reason = tracked.map(|tracked| match (&*tracked.report.reason, &*tracked.report.message) {
            ("", "") => held(tracked).unwrap_or_default(),
            (reason, "") => reason.to_owned(),
            (reason, message) => format!("{reason}: {message}"),
        });
        let guarantee = figures.map(|figures| figures.delivery).unwrap_or_default();
        let delivery = match guarantee {
            Guarantee::Unknown => Delivery::Unspecified,
            Guarantee::ExactlyOnce => Delivery::ExactlyOnce,
            Guarantee::TargetMayForget
            | Guarantee::ContentNotFixed
            | Guarantee::SourceByName
            | Guarantee::OtherWriters => Delivery::DetectedOnly,
        };
        let lag = tracked.and_then(|tracked| Lag::of(tracked, self.now_ms));
        v1::FlowPartition {
            partition: number,
            state: state.into(),
            reason: reason.unwrap_or_default(),
            worker: owner.map(|owner| format!("workers/{}", owner.worker)).unwrap_or_default(),
            source_offset: figures.map(|figures| figures.source_offset),
            source_end_offset: figures.and_then(|figures| figures.source_end_offset),
            target_offset: figures.map(|figures| figures.target_offset),
            lag_records: lag.map(|lag| lag.records),
            lag_seconds: lag.map(|lag| lag.seconds),
            records: figures.map(|figures| figures.records).unwrap_or_default(),
            bytes: figures.map(|figures| figures.bytes).unwrap_or_default(),
            delivery: delivery.into(),
            delivery_reason: guarantee.reason().to_owned(),
            resyncs: figures.map(|figures| figures.resyncs).unwrap_or_default(),
            held_records: figures.map(|figures| figures.held_records),
            source_start_offset: figures.and_then(|figures| figures.source_start_offset),
            generation: begun.map(|begun| generation_to_api(begun.generation)),
        }
    }
}

/// Progress of every flow, for metrics.
pub(crate) fn flow_figures(lead: &Lead, state: &ControlState) -> Vec<(FlowId, v1::Progress)> {
    let view = View::now(lead, state);
    let sum = |id: &FlowId, record: &FlowRecord| lead.progress.with_flow(id, |units| view.sum(record, units));
    state.flows.iter().map(|(id, record)| (id.clone(), sum(id, record).finish())).collect()
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Checkpoint => "checkpoint",
        Role::Heartbeat => "heartbeat",
    }
}

fn condition(reason: &str, message: &str, subject: String, since_ms: u64) -> v1::Condition {
    v1::Condition {
        reason: reason.to_owned(),
        message: message.to_owned(),
        subject,
        since: Some(timestamp(since_ms)),
    }
}

/// What a unit says is wrong with it.
fn unit_condition(tracked: &Tracked) -> Option<v1::Condition> {
    let report = &tracked.report;
    let unnamed = match report.state {
        UnitState::Resyncing | UnitState::Running => None,
        UnitState::Backoff => Some("BACKOFF"),
        UnitState::Stopped => Some("STOPPED"),
    };
    let reason = Some(report.reason.as_str()).filter(|reason| !reason.is_empty()).or(unnamed)?;
    let subject = match &report.unit {
        Unit::Topology(_) | Unit::Groups(_) | Unit::Heartbeat(_) => String::new(),
        Unit::Group(_, group) => group.to_string(),
        Unit::Partition(_, topic, partition) => partition_name(topic, *partition),
    };
    Some(condition(reason, &report.message, subject, tracked.since_ms))
}

/// Why a partition that does all it can is behind nevertheless: the lag counts up to the end of the source partition,
/// which an open transaction keeps from being read.
fn held(tracked: &Tracked) -> Option<String> {
    let figures = tracked.report.partition.filter(|_| tracked.report.state == UnitState::Running)?;
    let end = figures.source_end_offset?;
    let readable = end.saturating_sub(figures.held_records);
    (figures.held_records > 0 && figures.source_offset >= readable).then(|| {
        format!(
            "HELD_BY_OPEN_TRANSACTION: a transaction that is open on the source holds back {} records, from offset \
             {readable} to {end}: they are copied once it ends; `kafka-transactions.sh find-hanging` names one that \
             never will",
            figures.held_records
        )
    })
}

fn partition_name(topic: &TopicName, partition: i32) -> String {
    format!("{topic}/{partition}")
}

fn partition_count(record: &FlowRecord) -> i64 {
    let count: usize = record.topics.values().map(|entry| entry.starts.len()).sum();
    if record.spec.records_enabled { i64::try_from(count).unwrap_or(i64::MAX) } else { 0 }
}

/// How many units should run, by the same rules as [`ControlState::wanted`].
fn wanted_count(record: &FlowRecord) -> usize {
    let spec = &record.spec;
    let partitions = if record.generation.is_some() { partition_count(record) } else { 0 };
    let records = if spec.records_enabled { 1 + usize::try_from(partitions).unwrap_or(0) } else { 0 };
    let groups = if spec.checkpoints_enabled { 1 + record.groups.len() } else { 0 };
    records + groups + usize::from(spec.heartbeats_enabled)
}

/// How far behind one partition is.
#[derive(Debug, Clone, Copy)]
struct Lag {
    records: i64,
    seconds: f64,
}

impl Lag {
    /// `None` until the end of the source partition was seen.
    fn of(tracked: &Tracked, now_ms: u64) -> Option<Self> {
        let figures = tracked.report.partition?;
        let records = figures.source_end_offset?.saturating_sub(figures.source_offset).max(0);
        let pending = figures.oldest_pending_ms.and_then(|ms| u64::try_from(ms).ok());
        let seconds =
            pending.map_or(0.0, |ms| Duration::from_millis(now_ms.saturating_sub(ms)).as_secs_f64());
        Some(Self { records, seconds })
    }
}

/// Sums over partitions.
#[derive(Debug, Default)]
struct Sums {
    partitions: i64,
    running: i64,
    stopped: i64,
    /// Of how many the lag is not known: then neither is the sum.
    unknown: i64,
    records: i64,
    bytes: i64,
    lag_records: i64,
    lag_seconds: f64,
    records_rate: f64,
    bytes_rate: f64,
    /// By how many source offsets per second the lag shrinks.
    gain_rate: f64,
}

impl Sums {
    fn add(&mut self, tracked: Option<&Tracked>, now: Instant, now_ms: u64) {
        self.partitions += 1;
        let lag = tracked.and_then(|tracked| Lag::of(tracked, now_ms));
        match lag {
            Some(lag) => {
                self.lag_records = self.lag_records.saturating_add(lag.records);
                self.lag_seconds = self.lag_seconds.max(lag.seconds);
            }
            None => self.unknown += 1,
        }
        let Some(tracked) = tracked else { return };
        match tracked.report.state {
            UnitState::Running => self.running += 1,
            UnitState::Stopped => self.stopped += 1,
            UnitState::Resyncing | UnitState::Backoff => {}
        }
        if let Some(figures) = tracked.report.partition {
            self.records = self.records.saturating_add(figures.records);
            self.bytes = self.bytes.saturating_add(figures.bytes);
        }
        self.records_rate += tracked.records.at(now);
        self.bytes_rate += tracked.bytes.at(now);
        self.gain_rate += tracked.place.at(now) - tracked.end.at(now);
    }

    fn finish(self) -> v1::Progress {
        let known = self.partitions > 0 && self.unknown == 0;
        let eta = match (known, self.lag_records) {
            (false, _) => None,
            (true, 0) => Some(0.0),
            (true, lag) => (self.gain_rate > 0.001).then(|| to_f64(lag) / self.gain_rate),
        };
        v1::Progress {
            partitions: self.partitions,
            partitions_running: self.running,
            partitions_stopped: self.stopped,
            records: self.records,
            bytes: self.bytes,
            lag_records: known.then_some(self.lag_records),
            lag_seconds: known.then_some(self.lag_seconds),
            records_per_second: self.records_rate,
            bytes_per_second: self.bytes_rate,
            eta_seconds: eta,
        }
    }
}
