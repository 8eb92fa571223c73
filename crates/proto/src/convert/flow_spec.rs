//! The stored form of a flow's specification: the message of the API, with every default filled in.
//!
//! Versions before stored the specification field by field, and had two options that are gone. That form is read for ever
//! and not written any more.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use mirrormesh_core::flow::{
    FlowSpec, LossPolicy, Naming, OversizedPolicy, RetiredOptions, StartAt, TimestampPolicy,
};
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::throttle::Throttle;

use super::api::spec_to_api;
use super::parts::{each, flag, id, required};
use super::store::replication_factor;
use crate::error::ConvertError;
use crate::store;
use crate::v1::{self, record_options::Isolation};

impl From<&FlowSpec> for store::FlowSpec {
    fn from(spec: &FlowSpec) -> Self {
        Self {
            flow: Some(spec_to_api(spec)),
            strict_delivery: spec.retired.strict_delivery,
            at_least_once: spec.retired.at_least_once,
            ..Self::default()
        }
    }
}

impl TryFrom<store::FlowSpec> for FlowSpec {
    type Error = ConvertError;

    fn try_from(stored: store::FlowSpec) -> Result<Self, ConvertError> {
        let retired =
            RetiredOptions { strict_delivery: stored.strict_delivery, at_least_once: stored.at_least_once };
        match stored.flow {
            Some(flow) => Ok(Self { retired, ..from_message(flow).map_err(|fault| fault.within("flow"))? }),
            None => from_fields(stored),
        }
    }
}

/// The specification in a message that [`spec_to_api`] made. Limits are those of whoever wrote it: what was valid once stays
/// readable when they change.
fn from_message(flow: v1::Flow) -> Result<FlowSpec, ConvertError> {
    let cluster = |name: &str, field: &str| {
        let text =
            name.strip_prefix("clusters/").ok_or_else(|| ConvertError::new(field, "names no cluster"))?;
        id(text, field)
    };
    let (source, target) = (cluster(&flow.source, "source")?, cluster(&flow.target, "target")?);
    let topics = required(flow.topics, "topics")?;
    let groups = required(flow.groups, "groups")?;
    let records = required(flow.records, "records")?;
    let checkpoints = required(flow.checkpoints, "checkpoints")?;
    let heartbeats = required(flow.heartbeats, "heartbeats")?;
    let creation = required(flow.topic_creation, "topic_creation")?;
    let naming = match required(required(flow.naming, "naming")?.policy, "naming.policy")? {
        v1::naming::Policy::Prefix(prefix) => Naming::Prefix { separator: prefix.separator },
        v1::naming::Policy::Identity(v1::IdentityNaming {}) => Naming::Identity,
        v1::naming::Policy::Rename(rename) => Naming::Rename(rename.topics),
    };
    let start = start(required(flow.start, "start")?)?;
    Ok(FlowSpec {
        topics_include: shown_patterns(topics.include),
        topics_exclude: shown_patterns(topics.exclude),
        groups_include: shown_patterns(groups.include),
        groups_exclude: shown_patterns(groups.exclude),
        naming,
        start,
        records_enabled: required(records.enabled, "records.enabled")?,
        read_uncommitted: match Isolation::try_from(records.isolation) {
            Ok(Isolation::ReadCommitted) => false,
            Ok(Isolation::ReadUncommitted) => true,
            Ok(Isolation::Unspecified) | Err(_) => {
                return Err(unknown(records.isolation, "records.isolation"));
            }
        },
        heartbeat_topics: required(records.heartbeat_topics, "records.heartbeat_topics")?,
        checkpoints_enabled: required(checkpoints.enabled, "checkpoints.enabled")?,
        checkpoint_interval_ms: interval_ms(checkpoints.interval, "checkpoints.interval")?,
        heartbeats_enabled: required(heartbeats.enabled, "heartbeats.enabled")?,
        heartbeat_interval_ms: interval_ms(heartbeats.interval, "heartbeats.interval")?,
        replication_factor: replication_factor(
            creation.replication_factor,
            "topic_creation.replication_factor",
        )?,
        internal_replication_factor: replication_factor(
            creation.internal_replication_factor,
            "topic_creation.internal_replication_factor",
        )?,
        discovery_interval_ms: interval_ms(flow.discovery_interval, "discovery_interval")?,
        shared_target: flow.shared_target,
        // The numbers of these policies are the same as in the stored form before.
        on_loss: loss(records.on_loss, "records.on_loss")?,
        on_loss_by_topic: loss_by_topic(records.on_loss_by_topic)?,
        on_oversized: oversized(records.on_oversized, "records.on_oversized")?,
        timestamps: timestamps(records.timestamps, "records.timestamps")?,
        require_exactly_once: records.require_exactly_once,
        skip_mirrored: !required(records.forward_mirrored, "records.forward_mirrored")?,
        adopt: flow.adopt,
        throttle: throttle(records.throttle.map(stored_throttle)),
        throttle_by_topic: throttle_by_topic(
            records
                .throttle_by_topic
                .into_iter()
                .map(|(topic, limit)| (topic, stored_throttle(limit)))
                .collect(),
        )?,
        // What came later has its default.
        ..FlowSpec::new(source, target)
    })
}

fn start(start: v1::Start) -> Result<StartAt, ConvertError> {
    Ok(match required(start.at, "start.at")? {
        v1::start::At::Earliest(v1::Earliest {}) => StartAt::Earliest,
        v1::start::At::Latest(v1::Latest {}) => StartAt::Latest,
        v1::start::At::Timestamp(at) => {
            let ms = at.seconds.saturating_mul(1_000);
            StartAt::Timestamp(ms.saturating_add(i64::from(at.nanos / 1_000_000)))
        }
    })
}

/// A list of patterns as it is shown: the empty pattern alone stands for none.
fn shown_patterns(mut patterns: Vec<String>) -> Vec<String> {
    if patterns == [""] {
        patterns.clear();
    }
    patterns
}

fn interval_ms(interval: Option<prost_types::Duration>, field: &str) -> Result<u64, ConvertError> {
    let interval = required(interval, field)?;
    let seconds = u64::try_from(interval.seconds).ok();
    let rest = u64::try_from(interval.nanos / 1_000_000).ok();
    let ms = seconds.zip(rest).and_then(|(seconds, rest)| seconds.checked_mul(1_000)?.checked_add(rest));
    ms.ok_or_else(|| ConvertError::new(field, "is not a duration in ms"))
}

fn stored_throttle(limit: v1::Throttle) -> store::Throttle {
    let number = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0);
    store::Throttle {
        bytes_per_second: number(limit.bytes_per_second),
        records_per_second: number(limit.records_per_second),
    }
}

/// The specification that an earlier version stored field by field.
fn from_fields(spec: store::FlowSpec) -> Result<FlowSpec, ConvertError> {
    use store::flow_spec as oneof;
    let naming = match required(spec.naming, "naming")? {
        oneof::Naming::PrefixSeparator(separator) => Naming::Prefix { separator },
        oneof::Naming::Identity(set) => flag(set, "identity").map(|()| Naming::Identity)?,
        oneof::Naming::Rename(rename) => Naming::Rename(rename.topics),
    };
    let start = match spec.start {
        None => StartAt::Earliest,
        Some(oneof::Start::StartLatest(set)) => flag(set, "start_latest").map(|()| StartAt::Latest)?,
        Some(oneof::Start::StartTimestampMs(ms)) => StartAt::Timestamp(ms),
    };
    let (source, target) = (id(&spec.source, "source")?, id(&spec.target, "target")?);
    Ok(FlowSpec {
        topics_include: spec.topics_include,
        topics_exclude: spec.topics_exclude,
        groups_include: spec.groups_include,
        groups_exclude: spec.groups_exclude,
        naming,
        start,
        records_enabled: spec.records_enabled,
        read_uncommitted: spec.read_uncommitted,
        heartbeat_topics: spec.heartbeat_topics,
        checkpoints_enabled: spec.checkpoints_enabled,
        checkpoint_interval_ms: spec.checkpoint_interval_ms,
        heartbeats_enabled: spec.heartbeats_enabled,
        heartbeat_interval_ms: spec.heartbeat_interval_ms,
        replication_factor: replication_factor(spec.replication_factor, "replication_factor")?,
        internal_replication_factor: replication_factor(
            spec.internal_replication_factor,
            "internal_replication_factor",
        )?,
        discovery_interval_ms: spec.discovery_interval_ms,
        shared_target: spec.shared_target,
        on_loss: loss(spec.on_loss, "on_loss")?,
        on_loss_by_topic: loss_by_topic(spec.on_loss_by_topic)?,
        on_oversized: oversized(spec.on_oversized, "on_oversized")?,
        timestamps: timestamps(spec.timestamps, "timestamps")?,
        skip_mirrored: spec.skip_mirrored,
        // What was strict is never weakened unseen.
        require_exactly_once: spec.require_exactly_once || spec.strict_delivery,
        retired: RetiredOptions { strict_delivery: spec.strict_delivery, at_least_once: spec.at_least_once },
        adopt: spec.adopt,
        throttle: throttle(spec.throttle),
        throttle_by_topic: throttle_by_topic(spec.throttle_by_topic)?,
        // What came later has its default.
        ..FlowSpec::new(source, target)
    })
}

fn unknown(value: i32, field: &str) -> ConvertError {
    ConvertError::new(field, format!("{value} is not a policy that this version knows"))
}

fn loss(value: i32, field: &str) -> Result<LossPolicy, ConvertError> {
    match store::LossPolicy::try_from(value) {
        Ok(store::LossPolicy::Unspecified) => Ok(LossPolicy::default()),
        Ok(store::LossPolicy::StopPartition) => Ok(LossPolicy::StopPartition),
        Ok(store::LossPolicy::Continue) => Ok(LossPolicy::Continue),
        Err(_) => Err(unknown(value, field)),
    }
}

fn loss_by_topic(map: BTreeMap<String, i32>) -> Result<BTreeMap<TopicName, LossPolicy>, ConvertError> {
    let pair = |(topic, value): (String, i32)| Ok((id(topic, "")?, loss(value, "")?));
    Ok(BTreeMap::from_iter(each(map, "on_loss_by_topic", pair)?))
}

fn oversized(value: i32, field: &str) -> Result<OversizedPolicy, ConvertError> {
    match store::OversizedPolicy::try_from(value) {
        Ok(store::OversizedPolicy::Unspecified) => Ok(OversizedPolicy::default()),
        Ok(store::OversizedPolicy::StopPartition) => Ok(OversizedPolicy::StopPartition),
        Ok(store::OversizedPolicy::Skip) => Ok(OversizedPolicy::Skip),
        Err(_) => Err(unknown(value, field)),
    }
}

fn timestamps(value: i32, field: &str) -> Result<TimestampPolicy, ConvertError> {
    match store::TimestampPolicy::try_from(value) {
        Ok(store::TimestampPolicy::Unspecified) => Ok(TimestampPolicy::default()),
        Ok(store::TimestampPolicy::Keep) => Ok(TimestampPolicy::Keep),
        Ok(store::TimestampPolicy::Clamp) => Ok(TimestampPolicy::Clamp),
        Err(_) => Err(unknown(value, field)),
    }
}

fn throttle(throttle: Option<store::Throttle>) -> Throttle {
    let throttle = throttle.unwrap_or_default();
    Throttle {
        bytes_per_second: NonZeroU64::new(throttle.bytes_per_second),
        records_per_second: NonZeroU64::new(throttle.records_per_second),
    }
}

fn throttle_by_topic(
    map: BTreeMap<String, store::Throttle>,
) -> Result<BTreeMap<TopicName, Throttle>, ConvertError> {
    let pair = |(topic, limit): (String, store::Throttle)| Ok((id(topic, "")?, throttle(Some(limit))));
    let mut topics = BTreeMap::from_iter(each(map, "throttle_by_topic", pair)?);
    topics.retain(|_, limit| *limit != Throttle::NONE);
    Ok(topics)
}
