//! Field masks (AIP-134, AIP-161): which fields an update changes.
//!
//! Owns what holds for every resource: the spelling of paths, the fields that a request fills, and what is said about a
//! path that can't be used.

use prost_types::FieldMask;

use crate::v1::{self, naming::Policy};

/// Longest part of a path that an answer repeats, in characters.
const SHOWN_CHARS_MAX: usize = 128;
/// Fields that say which resource is meant, and in which state. A mask may name them; they are not changed.
const ADDRESS: [&str; 2] = ["name", "etag"];

/// The paths that a mask names, as users wrote them. `None` if there is no mask: then the update changes the fields that
/// it fills.
pub(super) fn named(mask: Option<&FieldMask>) -> Option<&[String]> {
    mask.map(|mask| mask.paths.as_slice()).filter(|paths| !paths.is_empty())
}

/// A path in the spelling of the `.proto` files: `records.onLoss`, as JSON has it, becomes `records.on_loss`.
pub(super) fn snake_case(path: &str) -> String {
    let mut snake = String::with_capacity(path.len());
    for character in path.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// Does the path (in snake case) name a field that is no value of the resource, such as `etag`?
pub(super) fn is_address(path: &str) -> bool {
    ADDRESS.contains(&path)
}

/// What is said about a path that names no field which can be changed.
pub(super) fn refusal(path: &str, of: &str, output_only: &[&str]) -> String {
    let shown: String = path.chars().take(SHOWN_CHARS_MAX).collect();
    let snake = snake_case(path);
    let first = snake.split('.').next().unwrap_or_default();
    if output_only.contains(&first) {
        return format!("{shown:?} is output only: the mesh sets it, leave it out of the mask");
    }
    format!(
        "{shown:?} is not a field of a {of} that can be changed: give paths such as \
         {{\"paths\":[\"{}\"]}}, without spaces or commas in a path",
        if of == "flow" { "records.on_loss" } else { "bootstrap_servers" }
    )
}

/// Paths of the fields of a flow that the update fills: numbers, texts and switches other than the default, lists and
/// maps with an entry, durations and members of a oneof that are set. A message counts by the fields in it, so an empty
/// one changes nothing.
pub(super) fn filled(update: &v1::Flow) -> Vec<String> {
    let own = [
        ("source", !update.source.is_empty()),
        ("target", !update.target.is_empty()),
        ("naming", policy(update).is_some()),
        ("start", update.start.as_ref().is_some_and(|start| start.at.is_some())),
        ("discovery_interval", update.discovery_interval.is_some()),
        ("shared_target", update.shared_target),
        ("adopt", update.adopt),
    ];
    let all = own.into_iter().chain(selections(update)).chain(records(update)).chain(options(update));
    all.filter(|(_, filled)| *filled).map(|(path, _)| path.to_owned()).collect()
}

fn policy(update: &v1::Flow) -> Option<&Policy> {
    update.naming.as_ref()?.policy.as_ref()
}

type Filled = (&'static str, bool);

fn selections(update: &v1::Flow) -> Vec<Filled> {
    let (topics, groups) = (update.topics.as_ref(), update.groups.as_ref());
    vec![
        ("topics.include", topics.is_some_and(|topics| !topics.include.is_empty())),
        ("topics.exclude", topics.is_some_and(|topics| !topics.exclude.is_empty())),
        ("groups.include", groups.is_some_and(|groups| !groups.include.is_empty())),
        ("groups.exclude", groups.is_some_and(|groups| !groups.exclude.is_empty())),
    ]
}

fn records(update: &v1::Flow) -> Vec<Filled> {
    let Some(records) = &update.records else { return Vec::new() };
    let throttle = records.throttle.unwrap_or_default();
    vec![
        ("records.enabled", records.enabled.is_some()),
        ("records.isolation", records.isolation != 0),
        ("records.heartbeat_topics", records.heartbeat_topics.is_some()),
        ("records.on_loss", records.on_loss != 0),
        ("records.on_loss_by_topic", !records.on_loss_by_topic.is_empty()),
        ("records.on_oversized", records.on_oversized != 0),
        ("records.timestamps", records.timestamps != 0),
        ("records.forward_mirrored", records.forward_mirrored.is_some()),
        ("records.require_exactly_once", records.require_exactly_once),
        ("records.throttle.bytes_per_second", throttle.bytes_per_second.is_some()),
        ("records.throttle.records_per_second", throttle.records_per_second.is_some()),
        ("records.throttle_by_topic", !records.throttle_by_topic.is_empty()),
    ]
}

fn options(update: &v1::Flow) -> Vec<Filled> {
    let checkpoints = update.checkpoints.unwrap_or_default();
    let heartbeats = update.heartbeats.unwrap_or_default();
    let creation = update.topic_creation.unwrap_or_default();
    vec![
        ("checkpoints.enabled", checkpoints.enabled.is_some()),
        ("checkpoints.interval", checkpoints.interval.is_some()),
        ("heartbeats.enabled", heartbeats.enabled.is_some()),
        ("heartbeats.interval", heartbeats.interval.is_some()),
        ("topic_creation.replication_factor", creation.replication_factor != 0),
        ("topic_creation.internal_replication_factor", creation.internal_replication_factor != 0),
    ]
}
