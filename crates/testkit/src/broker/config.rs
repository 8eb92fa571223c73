//! Topic settings: their names, their defaults by version, and the server property each one falls back to.
//!
//! Owns the table. Values are text, as Kafka stores them; a value that is no number counts as the default where a
//! number is needed.

use std::collections::BTreeMap;

use crate::jars::KafkaVersion;

/// A topic setting: name, the server property behind it, default.
struct Setting {
    name: &'static str,
    property: &'static str,
    default: &'static str,
    /// Kafka's number for its type (`DescribeConfigs`).
    kind: i8,
}

const BOOLEAN: i8 = 1;
const STRING: i8 = 2;
const INT: i8 = 3;
const LONG: i8 = 5;
const DOUBLE: i8 = 6;
const LIST: i8 = 7;

const fn setting(name: &'static str, property: &'static str, default: &'static str, kind: i8) -> Setting {
    Setting { name, property, default, kind }
}

const NO_LIMIT: &str = "9223372036854775807";
const SETTINGS: &[Setting] = &[
    setting("cleanup.policy", "log.cleanup.policy", "delete", LIST),
    setting("compression.type", "compression.type", "producer", STRING),
    setting("delete.retention.ms", "log.cleaner.delete.retention.ms", "86400000", LONG),
    setting("file.delete.delay.ms", "log.segment.delete.delay.ms", "60000", LONG),
    setting("flush.messages", "log.flush.interval.messages", NO_LIMIT, LONG),
    setting("flush.ms", "log.flush.interval.ms", NO_LIMIT, LONG),
    setting("follower.replication.throttled.replicas", "", "", LIST),
    setting("index.interval.bytes", "log.index.interval.bytes", "4096", INT),
    setting("leader.replication.throttled.replicas", "", "", LIST),
    setting("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms", NO_LIMIT, LONG),
    setting("max.message.bytes", "message.max.bytes", "1048588", INT),
    setting("message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms", "3600000", LONG),
    setting("message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms", NO_LIMIT, LONG),
    setting("message.timestamp.type", "log.message.timestamp.type", "CreateTime", STRING),
    setting("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio", "0.5", DOUBLE),
    setting("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms", "0", LONG),
    setting("min.insync.replicas", "min.insync.replicas", "1", INT),
    setting("preallocate", "log.preallocate", "false", BOOLEAN),
    setting("retention.bytes", "log.retention.bytes", "-1", LONG),
    setting("retention.ms", "log.retention.ms", "604800000", LONG),
    setting("segment.bytes", "log.segment.bytes", "1073741824", INT),
    setting("segment.index.bytes", "log.index.size.max.bytes", "10485760", INT),
    setting("segment.jitter.ms", "log.roll.jitter.ms", "0", LONG),
    setting("segment.ms", "log.roll.ms", "604800000", LONG),
    setting("unclean.leader.election.enable", "unclean.leader.election.enable", "false", BOOLEAN),
];

/// A setting as `DescribeConfigs` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Effective {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// 1: the topic's own; 4: the server's; 5: Kafka's default.
    pub(super) source: i8,
    pub(super) kind: i8,
}

fn default_of(setting: &Setting, version: KafkaVersion) -> &'static str {
    // Kafka 4.0 began to refuse timestamps from the future.
    if setting.name == "message.timestamp.after.max.ms" && version == KafkaVersion::V3_9 {
        return NO_LIMIT;
    }
    setting.default
}

/// Whether there is such a topic setting.
pub(super) fn is_known(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.name == name)
}

/// Whether the value has the form that the setting needs.
pub(super) fn is_valid(name: &str, value: &str) -> bool {
    SETTINGS.iter().find(|setting| setting.name == name).is_some_and(|setting| match setting.kind {
        BOOLEAN => matches!(value, "true" | "false"),
        INT => value.parse::<i32>().is_ok(),
        LONG => value.parse::<i64>().is_ok(),
        DOUBLE => value.parse::<f64>().is_ok(),
        _ => match name {
            "message.timestamp.type" => matches!(value, "CreateTime" | "LogAppendTime"),
            "cleanup.policy" => value.split(',').all(|word| matches!(word.trim(), "delete" | "compact")),
            _ => true,
        },
    })
}

/// All settings of a topic.
pub(super) fn effective(
    version: KafkaVersion,
    properties: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> Vec<Effective> {
    let one = |setting: &Setting| {
        let (value, source) = match (own.get(setting.name), properties.get(setting.property)) {
            (Some(value), _) => (value.clone(), 1),
            (None, Some(value)) => (value.clone(), 4),
            (None, None) => (default_of(setting, version).to_owned(), 5),
        };
        Effective { name: setting.name, value, source, kind: setting.kind }
    };
    SETTINGS.iter().map(one).collect()
}

/// A number among the server properties.
pub(super) fn number(properties: &BTreeMap<String, String>, name: &str, default: i64) -> i64 {
    properties.get(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}
