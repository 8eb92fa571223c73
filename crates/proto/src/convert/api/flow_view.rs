//! Flows as users see them: every value in effect, so that what is read can be sent back unchanged.

use mirrormesh_core::control::FlowRecord;
use mirrormesh_core::flow::{FlowSpec, Naming, StartAt};
use mirrormesh_core::ids::FlowId;
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::Generation;

use super::time::{duration, timestamp_from};
use super::{etag, patterns, policies, throttles, timestamp};
use crate::v1;

/// What is known of a flow beyond its record; soft state, made by the coordinator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlowStatus {
    /// What the flow is doing.
    pub state: v1::flow::State,
    /// What is wrong, where, and what to do.
    pub conditions: Vec<v1::Condition>,
    /// Sums over all partitions; `None` until some are known.
    pub progress: Option<v1::Progress>,
}

/// A flow with its status.
pub fn flow_to_api(id: &FlowId, record: &FlowRecord, status: FlowStatus) -> v1::Flow {
    v1::Flow {
        name: format!("flows/{id}"),
        state: status.state.into(),
        conditions: status.conditions,
        generation: record.generation.map(generation_to_api),
        progress: status.progress,
        create_time: Some(timestamp(record.created_ms)),
        update_time: Some(timestamp(record.updated_ms)),
        etag: etag(record.revision),
        ..spec_to_api(&record.spec)
    }
}

/// A producer identity as users see it.
pub fn generation_to_api(generation: Generation) -> v1::Generation {
    v1::Generation { producer_id: Some(generation.producer_id), epoch: Some(generation.epoch.into()) }
}

/// A flow with the fields that users write, and nothing else.
pub fn spec_to_api(spec: &FlowSpec) -> v1::Flow {
    use v1::record_options::Isolation;
    let isolation = if spec.read_uncommitted { Isolation::ReadUncommitted } else { Isolation::ReadCommitted };
    let mut records = v1::RecordOptions {
        enabled: Some(spec.records_enabled),
        isolation: isolation.into(),
        heartbeat_topics: Some(spec.heartbeat_topics),
        forward_mirrored: Some(!spec.skip_mirrored),
        require_exactly_once: spec.require_exactly_once,
        ..v1::RecordOptions::default()
    };
    policies::show(spec, &mut records);
    throttles::show(spec, &mut records);
    v1::Flow {
        source: format!("clusters/{}", spec.source),
        target: format!("clusters/{}", spec.target),
        topics: Some(v1::TopicSelection {
            include: patterns::show(&spec.topics_include),
            exclude: patterns::show(&spec.topics_exclude),
        }),
        groups: Some(v1::GroupSelection {
            include: patterns::show(&spec.groups_include),
            exclude: patterns::show(&spec.groups_exclude),
        }),
        naming: Some(v1::Naming { policy: Some(policy(&spec.naming)) }),
        start: Some(v1::Start { at: Some(start(spec.start)) }),
        records: Some(records),
        checkpoints: Some(v1::CheckpointOptions {
            enabled: Some(spec.checkpoints_enabled),
            interval: Some(duration(spec.checkpoint_interval_ms)),
        }),
        heartbeats: Some(v1::HeartbeatOptions {
            enabled: Some(spec.heartbeats_enabled),
            interval: Some(duration(spec.heartbeat_interval_ms)),
        }),
        topic_creation: Some(v1::TopicCreation {
            replication_factor: spec.replication_factor.map_or(0, i32::from),
            internal_replication_factor: spec.internal_replication_factor.map_or(0, i32::from),
        }),
        discovery_interval: Some(duration(spec.discovery_interval_ms)),
        shared_target: spec.shared_target,
        adopt: spec.adopt,
        ..v1::Flow::default()
    }
}

fn policy(naming: &Naming) -> v1::naming::Policy {
    use v1::naming::Policy;
    match naming {
        Naming::Prefix { separator } => Policy::Prefix(v1::PrefixNaming { separator: separator.clone() }),
        Naming::Identity => Policy::Identity(v1::IdentityNaming {}),
        Naming::Rename(topics) => Policy::Rename(v1::RenameNaming { topics: topics.clone() }),
    }
}

fn start(start: StartAt) -> v1::start::At {
    use v1::start::At;
    match start {
        StartAt::Earliest => At::Earliest(v1::Earliest {}),
        StartAt::Latest => At::Latest(v1::Latest {}),
        StartAt::Timestamp(ms) => At::Timestamp(timestamp_from(ms)),
    }
}

/// An event as users see it.
pub fn event_to_api(event: &Event) -> v1::FlowEvent {
    v1::FlowEvent {
        sequence: i64::try_from(event.sequence).unwrap_or(i64::MAX),
        time: Some(timestamp(event.time_ms)),
        reason: event.reason.clone(),
        message: event.message.clone(),
        subject: event.subject.clone(),
        from_offset: event.from_offset,
        to_offset: event.to_offset,
        count: event.count,
    }
}
