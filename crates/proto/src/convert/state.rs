//! The stored form of the replicated state: what a snapshot holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use mirrormesh_core::control::{
    ClusterRecord, ControlState, FlowRecord, RequestRecord, RetiredFlow, SeenTopics, TopicEntry, TopicPause,
};
use mirrormesh_core::flow::FlowSpec;
use mirrormesh_core::ids::{ClusterId, FlowId, GroupId, TopicName, WorkerId};
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::{Owner, Unit, WorkerRecord};
use prost::Message;

use super::parts::{decode, each, id, ids, inner, optional, partition, role};
use crate::error::ConvertError;
use crate::store;

/// The bytes of a state; equal states have equal bytes.
pub fn encode_state(state: &ControlState) -> Vec<u8> {
    store::State::from(state).encode_to_vec()
}

/// A state from its bytes, of this or any earlier version; unknown fields are ignored.
pub fn decode_state(bytes: &[u8]) -> Result<ControlState, ConvertError> {
    let state: store::State = decode("state", bytes)?;
    ControlState::try_from(state).map_err(|fault| fault.within("state"))
}

impl From<&ControlState> for store::State {
    fn from(state: &ControlState) -> Self {
        Self {
            revision: state.revision,
            assignment_number: state.assignment_number,
            session_number: state.session_number,
            clusters: state.clusters.iter().map(|(id, record)| cluster_to_store(id, record)).collect(),
            flows: state.flows.iter().map(|(id, record)| flow_to_store(id, record)).collect(),
            retired: state.retired.iter().map(Into::into).collect(),
            workers: state.workers.iter().map(|(id, record)| worker_to_store(id, record)).collect(),
            owners: state.owners.iter().map(|(unit, owner)| owner_to_store(unit, owner)).collect(),
            events: state.events.iter().map(Into::into).collect(),
            requests: state.requests.iter().map(Into::into).collect(),
            mesh_id: state.mesh_id.clone(),
        }
    }
}

impl TryFrom<store::State> for ControlState {
    type Error = ConvertError;

    fn try_from(state: store::State) -> Result<Self, ConvertError> {
        let events = each(state.events, "events", Event::try_from)?;
        let requests = state.requests.into_iter().map(RequestRecord::from).collect();
        Ok(Self {
            revision: state.revision,
            assignment_number: state.assignment_number,
            session_number: state.session_number,
            clusters: unique(each(state.clusters, "clusters", cluster_from_store)?, "clusters")?,
            flows: unique(each(state.flows, "flows", flow_from_store)?, "flows")?,
            retired: each(state.retired, "retired", RetiredFlow::try_from)?.into(),
            workers: unique(each(state.workers, "workers", worker_from_store)?, "workers")?,
            owners: unique(each(state.owners, "owners", owner_from_store)?, "owners")?,
            events: events.into(),
            requests,
            mesh_id: state.mesh_id,
        })
    }
}

/// A map from a list in which no key may come twice.
fn unique<K: Ord + Display, V>(list: Vec<(K, V)>, field: &str) -> Result<BTreeMap<K, V>, ConvertError> {
    let mut map = BTreeMap::new();
    for (key, value) in list {
        if map.contains_key(&key) {
            return Err(ConvertError::new(field, format!("{key} comes twice")));
        }
        map.insert(key, value);
    }
    Ok(map)
}

/// Earlier versions did not write what counts in a generation: then it is what the flow copies.
fn topics(
    mut list: Vec<store::TopicEntry>,
    field: &str,
    spec: &FlowSpec,
) -> Result<BTreeMap<TopicName, TopicEntry>, ConvertError> {
    for start in list.iter_mut().flat_map(|entry| &mut entry.starts) {
        start.read_uncommitted.get_or_insert(spec.read_uncommitted);
    }
    let named = |entry| TopicEntry::try_from(entry).map(|entry| (entry.topic.clone(), entry));
    unique(each(list, field, named)?, field)
}

fn cluster_to_store(id: &ClusterId, record: &ClusterRecord) -> store::ClusterRecord {
    store::ClusterRecord {
        cluster_id: id.to_string(),
        spec: Some((&record.spec).into()),
        created_ms: record.created_ms,
        updated_ms: record.updated_ms,
        revision: record.revision,
    }
}

fn cluster_from_store(record: store::ClusterRecord) -> Result<(ClusterId, ClusterRecord), ConvertError> {
    let value = ClusterRecord {
        spec: inner(record.spec, "spec")?,
        created_ms: record.created_ms,
        updated_ms: record.updated_ms,
        revision: record.revision,
    };
    Ok((id(&record.cluster_id, "cluster_id")?, value))
}

fn flow_to_store(id: &FlowId, record: &FlowRecord) -> store::FlowRecord {
    store::FlowRecord {
        flow_id: id.to_string(),
        spec: Some((&record.spec).into()),
        paused: record.paused,
        generation: record.generation.as_ref().map(Into::into),
        created_ms: record.created_ms,
        updated_ms: record.updated_ms,
        revision: record.revision,
        topics: record.topics.values().map(Into::into).collect(),
        dropped: record.dropped.values().map(Into::into).collect(),
        groups: record.groups.iter().map(ToString::to_string).collect(),
        event_sequence: record.event_sequence,
        paused_topics: record.paused_topics.iter().map(pause_to_store).collect(),
        seen: record.seen.topics.iter().map(|(topic, count)| (topic.to_string(), *count)).collect(),
        seen_all: record.seen.complete,
    }
}

fn pause_to_store((topic, pause): (&TopicName, &TopicPause)) -> store::TopicPause {
    let (all, partitions) = match pause {
        TopicPause::All => (true, Vec::new()),
        TopicPause::Partitions(partitions) => (false, partitions.iter().copied().collect()),
    };
    store::TopicPause { topic: topic.to_string(), all, partitions }
}

fn pause_from_store(pause: store::TopicPause) -> Result<(TopicName, TopicPause), ConvertError> {
    let topic = id(&pause.topic, "topic")?;
    if pause.all {
        return Ok((topic, TopicPause::All));
    }
    let partitions = each(pause.partitions, "partitions", |number| partition(number, ""))?;
    Ok((topic, TopicPause::Partitions(BTreeSet::from_iter(partitions))))
}

fn flow_from_store(record: store::FlowRecord) -> Result<(FlowId, FlowRecord), ConvertError> {
    let groups: Vec<GroupId> = ids(record.groups, "groups")?;
    let spec: FlowSpec = inner(record.spec, "spec")?;
    let value = FlowRecord {
        paused: record.paused,
        generation: optional(record.generation, "generation")?,
        created_ms: record.created_ms,
        updated_ms: record.updated_ms,
        revision: record.revision,
        topics: topics(record.topics, "topics", &spec)?,
        dropped: topics(record.dropped, "dropped", &spec)?,
        spec,
        groups: BTreeSet::from_iter(groups),
        event_sequence: record.event_sequence,
        paused_topics: BTreeMap::from_iter(each(record.paused_topics, "paused_topics", pause_from_store)?),
        seen: SeenTopics {
            topics: BTreeMap::from_iter(each(record.seen, "seen", |(topic, count)| {
                Ok((id::<TopicName>(&topic, "topic")?, partition(count, "partitions")?))
            })?),
            complete: record.seen_all,
        },
    };
    Ok((id(&record.flow_id, "flow_id")?, value))
}

impl From<&RetiredFlow> for store::RetiredFlow {
    fn from(retired: &RetiredFlow) -> Self {
        Self {
            flow_id: retired.id.to_string(),
            spec: Some((&retired.spec).into()),
            generation: retired.generation.as_ref().map(Into::into),
            topics: retired.topics.values().map(Into::into).collect(),
            dropped: retired.dropped.values().map(Into::into).collect(),
        }
    }
}

impl TryFrom<store::RetiredFlow> for RetiredFlow {
    type Error = ConvertError;

    fn try_from(retired: store::RetiredFlow) -> Result<Self, ConvertError> {
        let spec: FlowSpec = inner(retired.spec, "spec")?;
        Ok(Self {
            id: id(&retired.flow_id, "flow_id")?,
            generation: optional(retired.generation, "generation")?,
            topics: topics(retired.topics, "topics", &spec)?,
            dropped: topics(retired.dropped, "dropped", &spec)?,
            spec,
        })
    }
}

fn worker_to_store(id: &WorkerId, record: &WorkerRecord) -> store::WorkerRecord {
    store::WorkerRecord {
        worker_id: id.to_string(),
        role: store::Role::from(record.role).into(),
        capacity: record.capacity,
        version: record.version.clone(),
        session: record.session,
        draining: record.draining,
        registered_ms: record.registered_ms,
    }
}

fn worker_from_store(record: store::WorkerRecord) -> Result<(WorkerId, WorkerRecord), ConvertError> {
    let value = WorkerRecord {
        role: role(record.role, "role")?,
        capacity: record.capacity,
        version: record.version,
        session: record.session,
        draining: record.draining,
        registered_ms: record.registered_ms,
    };
    Ok((id(&record.worker_id, "worker_id")?, value))
}

fn owner_to_store(unit: &Unit, owner: &Owner) -> store::OwnerRecord {
    store::OwnerRecord {
        unit: Some(unit.into()),
        worker_id: owner.worker.to_string(),
        number: owner.number,
        releasing: owner.releasing,
    }
}

fn owner_from_store(record: store::OwnerRecord) -> Result<(Unit, Owner), ConvertError> {
    let owner = Owner {
        worker: id(&record.worker_id, "worker_id")?,
        number: record.number,
        releasing: record.releasing,
    };
    Ok((inner(record.unit, "unit")?, owner))
}

impl From<&RequestRecord> for store::RequestRecord {
    fn from(record: &RequestRecord) -> Self {
        Self {
            request_id: record.request_id.clone(),
            fingerprint: record.fingerprint,
            revision: record.revision,
        }
    }
}

impl From<store::RequestRecord> for RequestRecord {
    fn from(record: store::RequestRecord) -> Self {
        Self { request_id: record.request_id, fingerprint: record.fingerprint, revision: record.revision }
    }
}
