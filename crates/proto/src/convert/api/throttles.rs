//! Throttles as users send and see them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;

use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::throttle::Throttle;

use crate::error::Faults;
use crate::v1;

/// Below 1 KiB/s a single usual batch takes minutes, above 1 TiB/s nothing is limited: neither can be meant.
const BYTES: RangeInclusive<i64> = 1 << 10..=1 << 40;
/// The same for records.
const RECORDS: RangeInclusive<i64> = 1..=1_000_000_000;
/// Topics with a throttle of their own at most.
const TOPICS_MAX: usize = 10_000;
/// Where they are, in a request.
const BY_TOPIC: &str = "flow.records.throttle_by_topic";

pub(super) fn read(throttle: Option<&v1::Throttle>, field: &str, faults: &mut Faults) -> Throttle {
    let Some(throttle) = throttle else { return Throttle::NONE };
    let mut limit = |value: Option<i64>, allowed: RangeInclusive<i64>, name: &str| {
        let value = value?;
        if !allowed.contains(&value) {
            let (min, max) = (allowed.start(), allowed.end());
            faults.push(
                format!("{field}.{name}"),
                format!(
                    "{value} is not between {min} and {max}: leave it out for no limit, or pause what is to stand still"
                ),
            );
        }
        u64::try_from(value).ok().and_then(NonZeroU64::new)
    };
    Throttle {
        bytes_per_second: limit(throttle.bytes_per_second, BYTES, "bytes_per_second"),
        records_per_second: limit(throttle.records_per_second, RECORDS, "records_per_second"),
    }
}

pub(super) fn by_topic(
    topics: &BTreeMap<String, v1::Throttle>,
    faults: &mut Faults,
) -> BTreeMap<TopicName, Throttle> {
    if topics.len() > TOPICS_MAX {
        faults.push(BY_TOPIC, format!("holds {} topics, at most {TOPICS_MAX} are allowed", topics.len()));
        return BTreeMap::new();
    }
    let mut throttles = BTreeMap::new();
    for (topic, throttle) in topics {
        let shown: String = topic.chars().take(249).collect();
        let field = format!("{BY_TOPIC}[{shown:?}]");
        let throttle = read(Some(throttle), &field, faults);
        match TopicName::new(topic) {
            // A topic that nothing is said of has no throttle of its own.
            Ok(_) if throttle == Throttle::NONE => {}
            Ok(topic) => drop(throttles.insert(topic, throttle)),
            Err(invalid) => faults.push(field, invalid.to_string()),
        }
    }
    throttles
}

/// The throttles of a specification.
pub(super) fn show(spec: &FlowSpec, records: &mut v1::RecordOptions) {
    let limit = |value: Option<NonZeroU64>| value.map(|value| i64::try_from(value.get()).unwrap_or(i64::MAX));
    let shown = |throttle: &Throttle| v1::Throttle {
        bytes_per_second: limit(throttle.bytes_per_second),
        records_per_second: limit(throttle.records_per_second),
    };
    records.throttle = Some(&spec.throttle).filter(|throttle| **throttle != Throttle::NONE).map(shown);
    let by_topic = spec.throttle_by_topic.iter();
    records.throttle_by_topic =
        by_topic.map(|(topic, throttle)| (topic.to_string(), shown(throttle))).collect();
}
