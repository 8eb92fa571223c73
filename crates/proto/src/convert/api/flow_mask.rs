//! Updates of flows by field mask (AIP-134, AIP-161).
//!
//! An update is made on the flow as users see it, and the result is read as a new flow would be: there is one set of
//! rules, and what is not named keeps its value.

use mirrormesh_core::flow::FlowSpec;
use prost_types::FieldMask;

use super::flow::flow_spec;
use super::flow_view::spec_to_api;
use super::mask;
use crate::error::{Faults, Violations};
use crate::v1::{self, naming::Policy, start::At};

/// Fields that the mesh sets (AIP-203).
const OUTPUT_ONLY: [&str; 6] =
    ["state", "conditions", "generation", "progress", "create_time", "update_time"];

/// The specification after an update (AIP-134).
///
/// The fields that the mask names get the update's values, or their defaults where the update leaves them out. Without a
/// mask, the fields that the update fills are changed and all others keep their values. `*` means all fields that can be
/// changed; `source`, `target` and `naming` can't, so there they keep their values unless the update has them. A value
/// that differs there comes through: core refuses it and says so. Paths that can't be used are faults of `update_mask`.
pub fn apply_flow_mask(
    present: &FlowSpec,
    update: &v1::Flow,
    mask: Option<&FieldMask>,
) -> Result<FlowSpec, Violations> {
    let mut faults = Faults::new();
    let mut merged = spec_to_api(present);
    let filled = mask::filled(update);
    for path in mask::named(mask).unwrap_or(&filled) {
        let snake = mask::snake_case(path);
        if !mask::is_address(&snake) && !set(&mut merged, update, &snake) {
            faults.push("update_mask", mask::refusal(path, "flow", &OUTPUT_ONLY));
        }
    }
    let spec = faults.keep(flow_spec(&merged));
    faults.finish_with(spec)
}

/// Sets what one path names; `false` if there is no such path.
fn set(merged: &mut v1::Flow, update: &v1::Flow, path: &str) -> bool {
    match path {
        "*" => set_all(merged, update),
        "source" => merged.source.clone_from(&update.source),
        "target" => merged.target.clone_from(&update.target),
        "topics" => merged.topics.clone_from(&update.topics),
        "groups" => merged.groups.clone_from(&update.groups),
        "naming" => merged.naming.clone_from(&update.naming),
        "start" => merged.start.clone_from(&update.start),
        "records" => merged.records.clone_from(&update.records),
        "checkpoints" => merged.checkpoints.clone_from(&update.checkpoints),
        "heartbeats" => merged.heartbeats.clone_from(&update.heartbeats),
        "topic_creation" => merged.topic_creation.clone_from(&update.topic_creation),
        "discovery_interval" => merged.discovery_interval.clone_from(&update.discovery_interval),
        "shared_target" => merged.shared_target = update.shared_target,
        "adopt" => merged.adopt = update.adopt,
        _ => {
            return set_option(merged, update, path)
                || set_selection(merged, update, path)
                || set_member(merged, update, path);
        }
    }
    true
}

fn set_all(merged: &mut v1::Flow, update: &v1::Flow) {
    let present = std::mem::replace(merged, update.clone());
    if merged.source.is_empty() {
        merged.source = present.source;
    }
    if merged.target.is_empty() {
        merged.target = present.target;
    }
    if merged.naming.as_ref().is_none_or(|naming| naming.policy.is_none()) {
        merged.naming = present.naming;
    }
}

/// Fields of the option messages.
fn set_option(merged: &mut v1::Flow, update: &v1::Flow, path: &str) -> bool {
    let records = merged.records.get_or_insert_default();
    let checkpoints = merged.checkpoints.get_or_insert_default();
    let heartbeats = merged.heartbeats.get_or_insert_default();
    let creation = merged.topic_creation.get_or_insert_default();
    let new_records = update.records.clone().unwrap_or_default();
    let new_checkpoints = update.checkpoints.unwrap_or_default();
    let new_heartbeats = update.heartbeats.unwrap_or_default();
    let new_creation = update.topic_creation.unwrap_or_default();
    match path {
        "records.enabled" => records.enabled = new_records.enabled,
        "records.isolation" => records.isolation = new_records.isolation,
        "records.on_loss" => records.on_loss = new_records.on_loss,
        "records.on_loss_by_topic" => records.on_loss_by_topic = new_records.on_loss_by_topic,
        "records.on_oversized" => records.on_oversized = new_records.on_oversized,
        "records.timestamps" => records.timestamps = new_records.timestamps,
        "records.forward_mirrored" => records.forward_mirrored = new_records.forward_mirrored,
        "records.require_exactly_once" => {
            records.require_exactly_once = new_records.require_exactly_once;
        }
        "records.throttle" => records.throttle = new_records.throttle,
        "records.throttle.bytes_per_second" => {
            records.throttle.get_or_insert_default().bytes_per_second =
                new_records.throttle.unwrap_or_default().bytes_per_second;
        }
        "records.throttle.records_per_second" => {
            records.throttle.get_or_insert_default().records_per_second =
                new_records.throttle.unwrap_or_default().records_per_second;
        }
        "records.throttle_by_topic" => records.throttle_by_topic = new_records.throttle_by_topic,
        "records.heartbeat_topics" => records.heartbeat_topics = new_records.heartbeat_topics,
        "checkpoints.enabled" => checkpoints.enabled = new_checkpoints.enabled,
        "checkpoints.interval" => checkpoints.interval = new_checkpoints.interval,
        "heartbeats.enabled" => heartbeats.enabled = new_heartbeats.enabled,
        "heartbeats.interval" => heartbeats.interval = new_heartbeats.interval,
        "topic_creation.replication_factor" => creation.replication_factor = new_creation.replication_factor,
        "topic_creation.internal_replication_factor" => {
            creation.internal_replication_factor = new_creation.internal_replication_factor;
        }
        _ => return false,
    }
    true
}

/// Lists of patterns.
fn set_selection(merged: &mut v1::Flow, update: &v1::Flow, path: &str) -> bool {
    let topics = merged.topics.get_or_insert_default();
    let groups = merged.groups.get_or_insert_default();
    let new_topics = update.topics.clone().unwrap_or_default();
    let new_groups = update.groups.clone().unwrap_or_default();
    match path {
        "topics.include" => topics.include = new_topics.include,
        "topics.exclude" => topics.exclude = new_topics.exclude,
        "groups.include" => groups.include = new_groups.include,
        "groups.exclude" => groups.exclude = new_groups.exclude,
        _ => return false,
    }
    true
}

/// Members of oneofs.
fn set_member(merged: &mut v1::Flow, update: &v1::Flow, path: &str) -> bool {
    let policy = &mut merged.naming.get_or_insert_default().policy;
    let new_policy = update.naming.as_ref().and_then(|naming| naming.policy.as_ref());
    let at = &mut merged.start.get_or_insert_default().at;
    let new_at = update.start.as_ref().and_then(|start| start.at.as_ref());
    match path {
        "naming.prefix" | "naming.prefix.separator" => {
            replace(policy, new_policy, |policy| matches!(policy, Policy::Prefix(_)));
        }
        "naming.identity" => replace(policy, new_policy, |policy| matches!(policy, Policy::Identity(_))),
        "naming.rename" | "naming.rename.topics" => {
            replace(policy, new_policy, |policy| matches!(policy, Policy::Rename(_)));
        }
        "start.earliest" => replace(at, new_at, |at| matches!(at, At::Earliest(_))),
        "start.latest" => replace(at, new_at, |at| matches!(at, At::Latest(_))),
        "start.timestamp" => replace(at, new_at, |at| matches!(at, At::Timestamp(_))),
        _ => return false,
    }
    true
}

/// Sets a member of a oneof if the update has it; otherwise clears it, if it is the one that is set.
fn replace<T: Clone>(present: &mut Option<T>, update: Option<&T>, is_member: impl Fn(&T) -> bool) {
    match update {
        Some(update) if is_member(update) => *present = Some(update.clone()),
        _ if present.as_ref().is_some_and(&is_member) => *present = None,
        _ => {}
    }
}
