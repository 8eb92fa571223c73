//! Flows as users send them.
//!
//! Owns defaults (those of `FlowSpec::new`) and limits.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use mirrormesh_core::flow::{FlowSpec, Naming, StartAt};
use mirrormesh_core::ids::{ClusterId, TopicName};

use super::patterns::Names;
use super::time::{DURATION_MAX_MS, Interval, timestamp_ms};
use super::{parse_name, patterns, policies, throttles};
use crate::convert::store::replication_factor;
use crate::error::{Faults, Violations};
use crate::v1;

/// How often discovery may run, in ms: from once a second to once a day, since new topics wait for it.
const DISCOVERY_MS: RangeInclusive<u64> = 1_000..=86_400_000;
/// How often checkpoints may be written, in ms.
const CHECKPOINT_MS: RangeInclusive<u64> = 1_000..=DURATION_MAX_MS;
/// How often heartbeats may be written, in ms.
const HEARTBEAT_MS: RangeInclusive<u64> = 100..=DURATION_MAX_MS;
/// Topics in a rename map at most.
const RENAMES_MAX: usize = 10_000;
/// Longest separator, in characters.
const SEPARATOR_CHARS_MAX: usize = 16;

/// The specification in a flow, with every default filled in, or all faults; fields are named `flow.…`. `name` and
/// output fields are ignored.
pub fn flow_spec(flow: &v1::Flow) -> Result<FlowSpec, Violations> {
    let mut faults = Faults::new();
    let source = faults.keep(parse_name::<ClusterId>("clusters", &flow.source, "flow.source"));
    let target = faults.keep(parse_name::<ClusterId>("clusters", &flow.target, "flow.target"));
    if let (Some(source), Some(target)) = (&source, &target)
        && source == target
    {
        faults.push("flow.target", format!("must differ from flow.source, both are clusters/{source}"));
    }
    // Defaults do not depend on the clusters: the other fields are read even if these are at fault.
    let placeholder = || ClusterId::new("unnamed").ok();
    let named = source.or_else(placeholder).zip(target.or_else(placeholder));
    let spec = named.map(|(source, target)| read(flow, FlowSpec::new(source, target), &mut faults));
    faults.finish_with(spec)
}

fn read(flow: &v1::Flow, default: FlowSpec, faults: &mut Faults) -> FlowSpec {
    let topics = flow.topics.clone().unwrap_or_default();
    let groups = flow.groups.clone().unwrap_or_default();
    let records = flow.records.clone().unwrap_or_default();
    let checkpoints = flow.checkpoints.unwrap_or_default();
    let heartbeats = flow.heartbeats.unwrap_or_default();
    let creation = flow.topic_creation.unwrap_or_default();
    let interval = |default_ms, allowed_ms| Interval { default_ms, allowed_ms };
    let mut list = |patterns: &[String], names: Names, default: Vec<String>, field| {
        patterns::read(patterns, names, || default, field, faults)
    };
    FlowSpec {
        topics_include: list(&topics.include, Names::Topics, default.topics_include, "flow.topics.include"),
        topics_exclude: list(&topics.exclude, Names::Topics, default.topics_exclude, "flow.topics.exclude"),
        groups_include: list(&groups.include, Names::Groups, default.groups_include, "flow.groups.include"),
        groups_exclude: list(&groups.exclude, Names::Groups, default.groups_exclude, "flow.groups.exclude"),
        naming: naming(flow.naming.as_ref(), faults).unwrap_or(default.naming),
        start: start(flow.start.as_ref(), faults).unwrap_or(default.start),
        records_enabled: records.enabled.unwrap_or(default.records_enabled),
        read_uncommitted: read_uncommitted(records.isolation, faults),
        on_loss: policies::loss(records.on_loss, "flow.records.on_loss", faults),
        on_loss_by_topic: policies::loss_by_topic(&records.on_loss_by_topic, faults),
        on_oversized: policies::oversized(records.on_oversized, faults),
        timestamps: policies::timestamps(records.timestamps, faults),
        throttle: throttles::read(records.throttle.as_ref(), "flow.records.throttle", faults),
        throttle_by_topic: throttles::by_topic(&records.throttle_by_topic, faults),
        heartbeat_topics: records.heartbeat_topics.unwrap_or(default.heartbeat_topics),
        checkpoints_enabled: checkpoints.enabled.unwrap_or(default.checkpoints_enabled),
        checkpoint_interval_ms: interval(default.checkpoint_interval_ms, CHECKPOINT_MS).read(
            checkpoints.interval.as_ref(),
            "flow.checkpoints.interval",
            faults,
        ),
        heartbeats_enabled: heartbeats.enabled.unwrap_or(default.heartbeats_enabled),
        heartbeat_interval_ms: interval(default.heartbeat_interval_ms, HEARTBEAT_MS).read(
            heartbeats.interval.as_ref(),
            "flow.heartbeats.interval",
            faults,
        ),
        replication_factor: faults
            .keep(replication_factor(creation.replication_factor, "flow.topic_creation.replication_factor"))
            .flatten(),
        internal_replication_factor: faults
            .keep(replication_factor(
                creation.internal_replication_factor,
                "flow.topic_creation.internal_replication_factor",
            ))
            .flatten(),
        discovery_interval_ms: interval(default.discovery_interval_ms, DISCOVERY_MS).read(
            flow.discovery_interval.as_ref(),
            "flow.discovery_interval",
            faults,
        ),
        shared_target: flow.shared_target,
        require_exactly_once: records.require_exactly_once,
        retired: default.retired,
        skip_mirrored: !records.forward_mirrored.unwrap_or(!default.skip_mirrored),
        adopt: flow.adopt,
        source: default.source,
        target: default.target,
    }
}

/// `None` for the default.
fn naming(naming: Option<&v1::Naming>, faults: &mut Faults) -> Option<Naming> {
    match naming?.policy.as_ref()? {
        v1::naming::Policy::Prefix(prefix) if prefix.separator.is_empty() => None,
        v1::naming::Policy::Prefix(prefix) => {
            check_separator(&prefix.separator, "flow.naming.prefix.separator", faults);
            Some(Naming::Prefix { separator: prefix.separator.clone() })
        }
        v1::naming::Policy::Identity(v1::IdentityNaming {}) => Some(Naming::Identity),
        v1::naming::Policy::Rename(rename) => {
            check_renames(&rename.topics, "flow.naming.rename.topics", faults);
            Some(Naming::Rename(rename.topics.clone()))
        }
    }
}

fn check_separator(separator: &str, field: &str, faults: &mut Faults) {
    if !separator.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        faults.push(field, "may hold only what topic names may: letters, digits, `.`, `_` and `-`");
    } else if separator.len() > SEPARATOR_CHARS_MAX {
        faults.push(field, format!("must have at most {SEPARATOR_CHARS_MAX} characters"));
    }
}

fn check_renames(topics: &BTreeMap<String, String>, field: &str, faults: &mut Faults) {
    if topics.len() > RENAMES_MAX {
        faults.push(field, format!("holds {} topics, at most {RENAMES_MAX} are allowed", topics.len()));
        return;
    }
    let mut sources: BTreeMap<&str, &str> = BTreeMap::new();
    for (source, target) in topics {
        let shown: String = source.chars().take(249).collect();
        let place = format!("{field}[{shown:?}]");
        for (side, name) in [("source", source), ("target", target)] {
            if let Err(invalid) = TopicName::new(name) {
                faults.push(&place, format!("{side} {invalid}"));
            }
        }
        if let Some(other) = sources.insert(target, source) {
            faults.push(place, format!("{other:?} is renamed to {target:?} too: target names must differ"));
        }
    }
}

/// `None` for the default.
fn start(start: Option<&v1::Start>, faults: &mut Faults) -> Option<StartAt> {
    match start?.at.as_ref()? {
        v1::start::At::Earliest(v1::Earliest {}) => Some(StartAt::Earliest),
        v1::start::At::Latest(v1::Latest {}) => Some(StartAt::Latest),
        v1::start::At::Timestamp(at) => {
            timestamp_ms(at, "flow.start.timestamp", faults).map(StartAt::Timestamp)
        }
    }
}

fn read_uncommitted(isolation: i32, faults: &mut Faults) -> bool {
    use v1::record_options::Isolation;
    match Isolation::try_from(isolation) {
        Ok(Isolation::Unspecified | Isolation::ReadCommitted) => false,
        Ok(Isolation::ReadUncommitted) => true,
        Err(_) => {
            faults.push("flow.records.isolation", format!("{isolation} is not an isolation level"));
            false
        }
    }
}
