//! Making, growing and removing topics, for requests and tests alike.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::code;
use super::partition::Partition;
use super::state::{State, Topic};

/// Kafka's limit on a topic's name.
const NAME_CHARS_MAX: usize = 249;

/// Replicas for new partitions, in turn over the nodes.
pub(super) fn spread(
    state: &State,
    have: usize,
    partitions: i32,
    replicas: i16,
) -> Result<Vec<Vec<i32>>, i16> {
    let nodes: Vec<i32> = state.nodes.keys().copied().collect();
    let count = usize::try_from(replicas).map_err(|_| code::INVALID_REPLICATION_FACTOR)?;
    if count == 0 || count > nodes.len() {
        return Err(code::INVALID_REPLICATION_FACTOR);
    }
    let partitions = usize::try_from(partitions).map_err(|_| code::INVALID_PARTITIONS)?;
    if partitions == 0 {
        return Err(code::INVALID_PARTITIONS);
    }
    let one =
        |partition: usize| nodes.iter().cycle().skip(partition % nodes.len()).take(count).copied().collect();
    Ok((have..have + partitions).map(one).collect())
}

/// Makes a topic with these replicas of each partition; its id is a new one.
pub(super) fn create(
    state: &mut State,
    name: &str,
    layout: Vec<Vec<i32>>,
    configs: BTreeMap<String, String>,
    validate_only: bool,
) -> Result<(), i16> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty()
        || name.len() > NAME_CHARS_MAX
        || name == "."
        || name == ".."
        || !name.chars().all(allowed)
    {
        return Err(code::INVALID_TOPIC_EXCEPTION);
    }
    if state.topics.contains_key(name) {
        return Err(code::TOPIC_ALREADY_EXISTS);
    }
    if !validate_only {
        let now_ms = state.now_ms();
        let partitions = layout.into_iter().map(|replicas| Partition::new(replicas, now_ms)).collect();
        state.topics.insert(name.to_owned(), Topic { id: Uuid::new_v4(), partitions, configs });
    }
    Ok(())
}

/// Adds partitions until there are `count`.
pub(super) fn grow(state: &mut State, name: &str, count: i32, validate_only: bool) -> Result<(), i16> {
    let topic = state.topics.get(name).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
    let have = topic.partitions.len();
    let replicas = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    let more = count - i32::try_from(have).map_err(|_| code::INVALID_PARTITIONS)?;
    if more <= 0 {
        return Err(code::INVALID_PARTITIONS);
    }
    let layout = spread(state, have, more, i16::try_from(replicas).unwrap_or(1))?;
    let now_ms = state.now_ms();
    if let Some(topic) = state.topics.get_mut(name).filter(|_| !validate_only) {
        topic.partitions.extend(layout.into_iter().map(|replicas| Partition::new(replicas, now_ms)));
    }
    Ok(())
}
