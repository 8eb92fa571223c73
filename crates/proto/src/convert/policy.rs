//! The stored form of policies. What an earlier version did not write has the default.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use mirrormesh_core::flow::{LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::throttle::Throttle;

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

/// No limit is nothing, so that what never had one reads as before.
pub(super) fn throttle_to_store(throttle: Throttle) -> Option<store::Throttle> {
    let number = |limit: Option<NonZeroU64>| limit.map_or(0, NonZeroU64::get);
    (throttle != Throttle::NONE).then(|| store::Throttle {
        bytes_per_second: number(throttle.bytes_per_second),
        records_per_second: number(throttle.records_per_second),
    })
}

pub(super) fn throttle(throttle: Option<store::Throttle>) -> Throttle {
    let throttle = throttle.unwrap_or_default();
    Throttle {
        bytes_per_second: NonZeroU64::new(throttle.bytes_per_second),
        records_per_second: NonZeroU64::new(throttle.records_per_second),
    }
}

pub(super) fn throttle_by_topic(
    map: BTreeMap<String, store::Throttle>,
) -> Result<BTreeMap<TopicName, Throttle>, ConvertError> {
    let pair = |(topic, limit): (String, store::Throttle)| Ok((id(topic, "")?, throttle(Some(limit))));
    let mut topics = BTreeMap::from_iter(each(map, "throttle_by_topic", pair)?);
    topics.retain(|_, limit| *limit != Throttle::NONE);
    Ok(topics)
}
