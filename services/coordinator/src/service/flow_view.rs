//! What is known of a flow right now: its state, its conditions, its progress.
//!
//! Pure: made from the replicated state and the leader's soft state at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use mirrormesh_core::control::{ControlState, FlowRecord, TopicEntry};
use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::{FlowId, TopicName, WorkerId};
use mirrormesh_core::report::{Delivery as Guarantee, PartitionFigures, UnitState};
use mirrormesh_core::unit::{Role, Unit};
use mirrormesh_proto::convert::api::{
    FlowStatus, flow_to_api, flow_topic_name, generation_to_api, timestamp,
};
use mirrormesh_proto::v1::{self, flow::State, flow_partition};
use mirrormesh_runtime::clock::now_ms;
use tokio::time::Instant;

use super::sums::{Moment, Standing, Sums, outlook_to_api};
use crate::leader::{Lead, Looks, THROTTLED, Tracked, Waiting};

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
    /// When each worker reported last.
    heard_ms: BTreeMap<WorkerId, u64>,
}

impl<'a> View<'a> {
    /// This moment.
    pub(super) fn now(lead: &'a Lead, state: &'a ControlState) -> Self {
        let (now, now_ms) = (Instant::now(), now_ms());
        let ago = |heard: Instant| {
            now_ms
                .saturating_sub(u64::try_from(now.saturating_duration_since(heard).as_millis()).unwrap_or(0))
        };
        let heard_ms = lead.leases.heard().into_iter().map(|(worker, heard)| (worker, ago(heard))).collect();
        Self { lead, state, now, now_ms, heard_ms }
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now, now_ms: self.now_ms }
    }

    fn standing(&self, unit: &Unit, tracked: Option<&Tracked>) -> Standing {
        let owner = self.state.owners.get(unit);
        let heard_ms = owner.and_then(|owner| self.heard_ms.get(&owner.worker)).copied();
        Standing::of(tracked, self.moment(), heard_ms)
    }

    /// A flow as users see it.
    pub(super) fn flow(&self, id: &FlowId, record: &FlowRecord) -> v1::Flow {
        let waiting = self.lead.placement.of_flow(id);
        let (conditions, settled, progress) = self.lead.progress.with_flow(id, |units| {
            // A unit that is to be let go says nothing about the flow as it is declared now.
            let stays = |unit: &Unit| self.state.owners.get(unit).is_some_and(|owner| !owner.releasing);
            let settled = units
                .iter()
                .filter(|(unit, tracked)| tracked.report.state != UnitState::Resyncing && stays(unit))
                .count();
            (self.conditions(id, units, &waiting), settled, self.sum(id, record, units))
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

    fn sum(&self, id: &FlowId, record: &FlowRecord, units: &BTreeMap<Unit, Tracked>) -> Sums {
        let mut sums = Sums::default();
        for (unit, tracked) in units {
            if matches!(unit, Unit::Partition(..)) {
                sums.add(Some(tracked), &self.standing(unit, Some(tracked)));
            }
        }
        let looks = self.lead.paused.of_flow(id);
        for (entry, number) in self.state.paused_partitions(id, record) {
            if let Some(look) = looks.get(&entry.topic).and_then(|looks| looks.get(&number)) {
                sums.add(None, &Standing::paused(look, self.moment()));
            }
        }
        let known = sums.partitions;
        for _ in known..partition_count(record) {
            sums.add(None, &Standing::UNKNOWN);
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
        let faulty = merged(units.values().filter_map(unit_condition));
        let record = self.state.flows.get(id);
        let retired = record.into_iter().flat_map(|record| retired(&record.spec, record.updated_ms));
        let mut all = retired.chain(unplaced).chain(refused).chain(faulty);
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
        let looks = self.lead.paused.of_flow(id);
        self.lead.progress.with_flow(id, |units| {
            entries.map(|entry| self.topic(id, record, entry, (units, &looks))).collect()
        })
    }

    fn topic(
        &self,
        id: &FlowId,
        record: &FlowRecord,
        entry: &TopicEntry,
        (units, looks): (&BTreeMap<Unit, Tracked>, &Looks),
    ) -> v1::FlowTopic {
        let mut sums = Sums::default();
        let looks = looks.get(&entry.topic);
        let numbers = 0..i32::try_from(entry.starts.len()).unwrap_or(i32::MAX);
        let partitions = numbers.map(|number| {
            let unit = Unit::Partition(id.clone(), entry.topic.clone(), number);
            let tracked = units.get(&unit);
            let look = looks
                .filter(|_| tracked.is_none() && record.is_paused(&entry.topic, number))
                .and_then(|looks| looks.get(&number));
            let standing = match look {
                Some(look) => Standing::paused(look, self.moment()),
                None => self.standing(&unit, tracked),
            };
            sums.add(tracked, &standing);
            let seen = look.map(|look| look.figures(self.now_ms));
            self.partition(record, entry, (&unit, number), (tracked, seen), &standing)
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
        (unit, number): (&Unit, i32),
        (tracked, seen): (Option<&Tracked>, Option<PartitionFigures>),
        standing: &Standing,
    ) -> v1::FlowPartition {
        use flow_partition::{Delivery, State};
        let owner = self.state.owners.get(unit);
        let begun = record.generation.and_then(|generation| entry.begun(generation, number));
        let paused = !record.spec.records_enabled || record.is_paused(&entry.topic, number);
        let state = match tracked.map(|tracked| tracked.report.state) {
            _ if paused && owner.is_some() => State::Pausing,
            _ if paused => State::Paused,
            None => State::Unspecified,
            Some(UnitState::Resyncing) => State::Resyncing,
            Some(UnitState::Running) => State::Running,
            Some(UnitState::Backoff) => State::Backoff,
            Some(UnitState::Stopped) => State::Stopped,
        };
        let figures = seen.or_else(|| tracked?.report.partition);
        let held_by = paused.then(|| paused_by(unit.flow(), record, &entry.topic));
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
        let lag = standing.lag;
        let (outlook, eta_seconds) = outlook_to_api(standing.outlook);
        v1::FlowPartition {
            partition: number,
            state: state.into(),
            reason: held_by.or(reason).unwrap_or_default(),
            worker: owner.map(|owner| format!("workers/{}", owner.worker)).unwrap_or_default(),
            source_offset: figures.map(|figures| figures.source_offset),
            source_end_offset: figures.and_then(|figures| figures.source_end_offset),
            target_offset: figures.map(|figures| figures.target_offset),
            lag_records: lag.map(|lag| lag.records),
            lag_seconds: lag.and_then(|lag| lag.seconds),
            records: figures.map(|figures| figures.records).unwrap_or_default(),
            bytes: figures.map(|figures| figures.bytes).unwrap_or_default(),
            delivery: delivery.into(),
            delivery_reason: guarantee.reason().to_owned(),
            resyncs: figures.map(|figures| figures.resyncs).unwrap_or_default(),
            held_records: figures.map(|figures| figures.held_records),
            source_start_offset: figures.and_then(|figures| figures.source_start_offset),
            generation: begun.map(|begun| generation_to_api(begun.generation)),
            lag_bytes: lag.and_then(|lag| lag.bytes),
            records_per_second: standing.records_rate,
            bytes_per_second: standing.bytes_rate,
            eta_seconds,
            outlook: outlook.into(),
            progress_time: standing.as_of_ms.map(timestamp),
        }
    }
}

/// What metrics show of a flow.
#[derive(Debug)]
pub(crate) struct FlowFigures {
    /// The flow.
    pub(crate) flow: FlowId,
    /// Its state.
    pub(crate) state: State,
    /// How many conditions it has, by reason.
    pub(crate) conditions: BTreeMap<String, u64>,
    /// Its progress; `None` while it mirrors no records.
    pub(crate) progress: Option<v1::Progress>,
}

/// Figures of every flow, for metrics.
pub(crate) fn flow_figures(lead: &Lead, state: &ControlState) -> Vec<FlowFigures> {
    let view = View::now(lead, state);
    let figures = |(id, record): (&FlowId, &FlowRecord)| {
        let shown = view.flow(id, record);
        let mut conditions = BTreeMap::new();
        for condition in &shown.conditions {
            *conditions.entry(condition.reason.clone()).or_default() += 1;
        }
        FlowFigures { flow: id.clone(), state: shown.state(), conditions, progress: shown.progress }
    };
    state.flows.iter().map(figures).collect()
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

/// One condition for one cause: units that say the same are one. Its subject is what they have in common: their topic, or
/// nothing.
fn merged(conditions: impl Iterator<Item = v1::Condition>) -> impl Iterator<Item = v1::Condition> {
    let mut merged: Vec<v1::Condition> = Vec::new();
    let mut known: BTreeMap<(String, String), usize> = BTreeMap::new();
    for next in conditions {
        let cause = (next.reason.clone(), next.message.clone());
        let index = *known.entry(cause).or_insert(merged.len());
        match merged.get_mut(index) {
            Some(present) => join(present, &next),
            None => merged.push(next),
        }
    }
    merged.into_iter()
}

fn join(present: &mut v1::Condition, other: &v1::Condition) {
    let topic = |subject: &str| subject.rsplit_once('/').map_or(subject, |(topic, _)| topic).to_owned();
    let common = topic(&present.subject);
    present.subject = if common == topic(&other.subject) { common } else { String::new() };
    let earlier = other
        .since
        .zip(present.since)
        .is_some_and(|(other, present)| (other.seconds, other.nanos) < (present.seconds, present.nanos));
    if earlier {
        present.since = other.since;
    }
}

/// Options that the flow was stored with by an earlier version and that don't exist any more.
fn retired(spec: &FlowSpec, since_ms: u64) -> Vec<v1::Condition> {
    let options = spec.retired;
    let texts = [
        (
            options.strict_delivery,
            "records.strict_delivery does not exist any more: the flow runs with records.require_exactly_once, so records \
             that the target can't take exactly once wait",
        ),
        (
            options.at_least_once,
            "records.at_least_once does not exist any more: nothing is mirrored to a target that gives out no producer ids",
        ),
    ];
    let set = texts.into_iter().filter(|(set, _)| *set);
    set.map(|(_, text)| {
        let message = format!("{text}; update the flow once, with any field, to clear this condition");
        condition("OPTION_REMOVED", &message, String::new(), since_ms)
    })
    .collect()
}

/// What a unit says is wrong with it.
fn unit_condition(tracked: &Tracked) -> Option<v1::Condition> {
    let report = &tracked.report;
    if report.state == UnitState::Running && report.reason == THROTTLED {
        return None;
    }
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

/// What a partition is paused by, and what resumes it.
fn paused_by(id: &FlowId, record: &FlowRecord, topic: &TopicName) -> String {
    if record.paused {
        let also = if record.paused_topics.contains_key(topic) {
            format!(", and then flows/{id}/topics/{topic}, which is paused too")
        } else {
            String::new()
        };
        format!("FLOW_PAUSED: flows/{id} is paused as a whole: resume it with FlowService/ResumeFlow{also}")
    } else if record.spec.records_enabled {
        format!(
            "TOPIC_PAUSED: flows/{id}/topics/{topic}, or this partition of it, is paused: resume it with \
             FlowService/ResumeFlowTopic"
        )
    } else {
        format!(
            "RECORDS_DISABLED: flows/{id} mirrors no records: set records.enabled with FlowService/UpdateFlow"
        )
    }
}

fn partition_name(topic: &TopicName, partition: i32) -> String {
    format!("{topic}/{partition}")
}

fn partition_count(record: &FlowRecord) -> i64 {
    let count: usize = record.topics.values().map(|entry| entry.starts.len()).sum();
    if record.spec.records_enabled { i64::try_from(count).unwrap_or(i64::MAX) } else { 0 }
}

/// Partitions that are not paused.
fn running_count(record: &FlowRecord) -> usize {
    let running = |entry: &TopicEntry| {
        let numbers = 0..i32::try_from(entry.starts.len()).unwrap_or(i32::MAX);
        numbers.filter(|number| !record.is_paused(&entry.topic, *number)).count()
    };
    record.topics.values().map(running).sum()
}

/// How many units should run, by the same rules as [`ControlState::wanted`].
fn wanted_count(record: &FlowRecord) -> usize {
    let spec = &record.spec;
    let partitions = if record.generation.is_some() { running_count(record) } else { 0 };
    let records = if spec.records_enabled { 1 + partitions } else { 0 };
    let groups = if spec.checkpoints_enabled { 1 + record.groups.len() } else { 0 };
    records + groups + usize::from(spec.heartbeats_enabled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::flow::RetiredOptions;
    use mirrormesh_core::ids::ClusterId;

    #[test]
    fn units_that_say_the_same_are_one_condition() {
        let say = |reason: &str, message: &str, subject: &str, since_ms| {
            condition(reason, message, subject.to_owned(), since_ms)
        };
        let shown: Vec<v1::Condition> = merged(
            [
                say("SOURCE_TOPIC_MISSING", "topic a was deleted", "a/0", 2_000),
                say("SOURCE_TOPIC_MISSING", "topic a was deleted", "a/1", 1_000),
                say("SOURCE_TOPIC_MISSING", "topic b was deleted", "b/0", 3_000),
                say("CLUSTER_UNREACHABLE", "no broker", "a/2", 1_000),
                say("CLUSTER_UNREACHABLE", "no broker", "b/2", 1_000),
                say("STOPPED", "offset 7", "a/3", 1_000),
            ]
            .into_iter(),
        )
        .collect();
        let seen: Vec<(&str, &str)> =
            shown.iter().map(|shown| (shown.reason.as_str(), shown.subject.as_str())).collect();
        let wanted = [
            ("SOURCE_TOPIC_MISSING", "a"),
            ("SOURCE_TOPIC_MISSING", "b/0"),
            ("CLUSTER_UNREACHABLE", ""),
            ("STOPPED", "a/3"),
        ];
        assert_eq!(seen, wanted);
        assert_eq!(shown[0].since, Some(timestamp(1_000)), "since the first of them");
    }

    #[test]
    fn retired_options_are_conditions() {
        let cluster = |id: &str| ClusterId::new(id).unwrap();
        let mut spec = FlowSpec::new(cluster("uk"), cluster("hq"));
        assert!(retired(&spec, 7).is_empty());
        spec.retired = RetiredOptions { strict_delivery: true, at_least_once: true };
        let conditions = retired(&spec, 7);
        assert!(conditions.iter().all(|condition| condition.reason == "OPTION_REMOVED"));
        let messages: Vec<&str> = conditions.iter().map(|condition| &*condition.message).collect();
        assert!(messages[0].contains("records.require_exactly_once"), "{messages:?}");
        assert!(messages[1].contains("records.at_least_once"), "{messages:?}");
    }
}
