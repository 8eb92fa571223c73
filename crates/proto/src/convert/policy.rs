//! The stored form of policies. What an earlier version did not write has the default.

use std::collections::BTreeMap;

use mirrormesh_core::flow::{LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_core::ids::TopicName;

use super::parts::{each, id};
use crate::error::ConvertError;
use crate::store;

impl From<LossPolicy> for store::LossPolicy {
    fn from(policy: LossPolicy) -> Self {
        match policy {
            LossPolicy::StopPartition => Self::StopPartition,
            LossPolicy::Continue => Self::Continue,
        }
    }
}

impl From<OversizedPolicy> for store::OversizedPolicy {
    fn from(policy: OversizedPolicy) -> Self {
        match policy {
            OversizedPolicy::StopPartition => Self::StopPartition,
            OversizedPolicy::Skip => Self::Skip,
        }
    }
}

impl From<TimestampPolicy> for store::TimestampPolicy {
    fn from(policy: TimestampPolicy) -> Self {
        match policy {
            TimestampPolicy::Keep => Self::Keep,
            TimestampPolicy::Clamp => Self::Clamp,
        }
    }
}

fn unknown(value: i32, field: &str) -> ConvertError {
    ConvertError::new(field, format!("{value} is not a policy that this version knows"))
}

pub(super) fn loss(value: i32, field: &str) -> Result<LossPolicy, ConvertError> {
    match store::LossPolicy::try_from(value) {
        Ok(store::LossPolicy::Unspecified) => Ok(LossPolicy::default()),
        Ok(store::LossPolicy::StopPartition) => Ok(LossPolicy::StopPartition),
        Ok(store::LossPolicy::Continue) => Ok(LossPolicy::Continue),
        Err(_) => Err(unknown(value, field)),
    }
}

pub(super) fn loss_by_topic(
    map: BTreeMap<String, i32>,
) -> Result<BTreeMap<TopicName, LossPolicy>, ConvertError> {
    let pair = |(topic, value): (String, i32)| Ok((id(topic, "")?, loss(value, "")?));
    Ok(BTreeMap::from_iter(each(map, "on_loss_by_topic", pair)?))
}

pub(super) fn oversized(value: i32, field: &str) -> Result<OversizedPolicy, ConvertError> {
    match store::OversizedPolicy::try_from(value) {
        Ok(store::OversizedPolicy::Unspecified) => Ok(OversizedPolicy::default()),
        Ok(store::OversizedPolicy::StopPartition) => Ok(OversizedPolicy::StopPartition),
        Ok(store::OversizedPolicy::Skip) => Ok(OversizedPolicy::Skip),
        Err(_) => Err(unknown(value, field)),
    }
}

pub(super) fn timestamps(value: i32, field: &str) -> Result<TimestampPolicy, ConvertError> {
    match store::TimestampPolicy::try_from(value) {
        Ok(store::TimestampPolicy::Unspecified) => Ok(TimestampPolicy::default()),
        Ok(store::TimestampPolicy::Keep) => Ok(TimestampPolicy::Keep),
        Ok(store::TimestampPolicy::Clamp) => Ok(TimestampPolicy::Clamp),
        Err(_) => Err(unknown(value, field)),
    }
}
