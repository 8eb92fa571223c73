//! Policies as users send and see them: what to do about losses, large records, timestamps.

use std::collections::BTreeMap;

use mirrormesh_core::flow::{FlowSpec, LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_core::ids::TopicName;

use crate::error::Faults;
use crate::v1::record_options as api;

/// Topics with a policy of their own at most.
const TOPICS_MAX: usize = 10_000;
/// Where they are, in a request.
const BY_TOPIC: &str = "flow.records.on_loss_by_topic";

pub(super) fn loss(value: i32, field: &str, faults: &mut Faults) -> LossPolicy {
    match api::LossPolicy::try_from(value) {
        Ok(api::LossPolicy::Unspecified | api::LossPolicy::StopPartition) => LossPolicy::StopPartition,
        Ok(api::LossPolicy::Continue) => LossPolicy::Continue,
        Err(_) => {
            faults.push(field, format!("{value} is not a loss policy"));
            LossPolicy::default()
        }
    }
}

pub(super) fn loss_by_topic(
    topics: &BTreeMap<String, i32>,
    faults: &mut Faults,
) -> BTreeMap<TopicName, LossPolicy> {
    if topics.len() > TOPICS_MAX {
        faults.push(BY_TOPIC, format!("holds {} topics, at most {TOPICS_MAX} are allowed", topics.len()));
        return BTreeMap::new();
    }
    let mut policies = BTreeMap::new();
    for (topic, value) in topics {
        let shown: String = topic.chars().take(249).collect();
        let field = format!("{BY_TOPIC}[{shown:?}]");
        let policy = loss(*value, &field, faults);
        match TopicName::new(topic) {
            Ok(topic) => drop(policies.insert(topic, policy)),
            Err(invalid) => faults.push(field, invalid.to_string()),
        }
    }
    policies
}

pub(super) fn oversized(value: i32, faults: &mut Faults) -> OversizedPolicy {
    use api::OversizedPolicy as Policy;
    match Policy::try_from(value) {
        Ok(Policy::Unspecified | Policy::StopPartition) => OversizedPolicy::StopPartition,
        Ok(Policy::Skip) => OversizedPolicy::Skip,
        Err(_) => {
            faults.push("flow.records.on_oversized", format!("{value} is not a policy for large records"));
            OversizedPolicy::default()
        }
    }
}

pub(super) fn timestamps(value: i32, faults: &mut Faults) -> TimestampPolicy {
    use api::TimestampPolicy as Policy;
    match Policy::try_from(value) {
        Ok(Policy::Unspecified | Policy::Keep) => TimestampPolicy::Keep,
        Ok(Policy::Clamp) => TimestampPolicy::Clamp,
        Err(_) => {
            faults.push("flow.records.timestamps", format!("{value} is not a timestamp policy"));
            TimestampPolicy::default()
        }
    }
}

/// The policies of a specification, none left to a default.
pub(super) fn show(spec: &FlowSpec, records: &mut crate::v1::RecordOptions) {
    let loss = |policy| match policy {
        LossPolicy::StopPartition => api::LossPolicy::StopPartition,
        LossPolicy::Continue => api::LossPolicy::Continue,
    };
    records.on_loss = loss(spec.on_loss).into();
    let by_topic = spec.on_loss_by_topic.iter();
    records.on_loss_by_topic =
        by_topic.map(|(topic, policy)| (topic.to_string(), loss(*policy).into())).collect();
    records.on_oversized = match spec.on_oversized {
        OversizedPolicy::StopPartition => api::OversizedPolicy::StopPartition,
        OversizedPolicy::Skip => api::OversizedPolicy::Skip,
    }
    .into();
    records.timestamps = match spec.timestamps {
        TimestampPolicy::Keep => api::TimestampPolicy::Keep,
        TimestampPolicy::Clamp => api::TimestampPolicy::Clamp,
    }
    .into();
}
