//! The stored form of commands: what the Raft log holds.

use mirrormesh_core::control::{
    Command, CommandKind, GenerationRequest, InventoryChange, SeenTopic, TopicEntry, WriteGuard,
};
use mirrormesh_core::ids::{ClusterId, FlowId};
use mirrormesh_core::plan::PlanStep;
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::{ClusterSpec, Unit};
use prost::Message;

use super::parts::{decode, each, id, ids, inner, partition, required, role, texts};
use crate::error::ConvertError;
use crate::store::{self, command::Kind};

/// The bytes of a command.
pub fn encode_command(command: &Command) -> Vec<u8> {
    store::Command::from(command).encode_to_vec()
}

/// A command from its bytes, of this or any earlier version; unknown fields are ignored, unknown kinds are not.
pub fn decode_command(bytes: &[u8]) -> Result<Command, ConvertError> {
    let command: store::Command = decode("command", bytes)?;
    Command::try_from(command).map_err(|fault| fault.within("command"))
}

impl From<&WriteGuard> for store::WriteGuard {
    fn from(guard: &WriteGuard) -> Self {
        Self {
            request_id: guard.request_id.clone(),
            fingerprint: guard.fingerprint,
            // 0 is stored for "any". No resource has the revision 0, so a guard that asks for it must stay one that
            // never matches.
            expected_revision: match guard.expected_revision {
                None => 0,
                Some(0) => u64::MAX,
                Some(revision) => revision,
            },
        }
    }
}

impl TryFrom<store::WriteGuard> for WriteGuard {
    type Error = ConvertError;

    fn try_from(guard: store::WriteGuard) -> Result<Self, ConvertError> {
        Ok(Self {
            request_id: guard.request_id,
            fingerprint: guard.fingerprint,
            expected_revision: (guard.expected_revision != 0).then_some(guard.expected_revision),
        })
    }
}

impl From<&Command> for store::Command {
    fn from(command: &Command) -> Self {
        Self { at_ms: command.at_ms, kind: Some(kind_to_store(&command.kind)) }
    }
}

impl TryFrom<store::Command> for Command {
    type Error = ConvertError;

    fn try_from(command: store::Command) -> Result<Self, ConvertError> {
        Ok(Self { at_ms: command.at_ms, kind: kind_from_store(required(command.kind, "kind")?)? })
    }
}

fn kind_to_store(kind: &CommandKind) -> Kind {
    match kind {
        CommandKind::PutCluster { id, spec, create, guard } => {
            Kind::PutCluster(cluster_to_store(id, spec, *create, guard))
        }
        CommandKind::ReportCluster { id, kafka_cluster_id } => Kind::ReportCluster(store::ReportCluster {
            cluster_id: id.to_string(),
            kafka_cluster_id: kafka_cluster_id.clone(),
        }),
        CommandKind::DeleteCluster { id, guard } => Kind::DeleteCluster(store::DeleteCluster {
            cluster_id: id.to_string(),
            guard: Some(guard.into()),
        }),
        CommandKind::PutFlow { id, spec, create, start_over, guard } => Kind::PutFlow(store::PutFlow {
            flow_id: id.to_string(),
            spec: Some(spec.into()),
            create: *create,
            start_over: *start_over,
            guard: Some(guard.into()),
        }),
        CommandKind::DeleteFlow { id, guard } => {
            Kind::DeleteFlow(store::DeleteFlow { flow_id: id.to_string(), guard: Some(guard.into()) })
        }
        CommandKind::SetPaused { id, paused, guard } => Kind::SetPaused(store::SetPaused {
            flow_id: id.to_string(),
            paused: *paused,
            guard: Some(guard.into()),
        }),
        CommandKind::SetTopicPaused { id, topic, partitions, paused, guard } => {
            Kind::SetTopicPaused(store::SetTopicPaused {
                flow_id: id.to_string(),
                topic: topic.to_string(),
                partitions: partitions.clone(),
                paused: *paused,
                guard: Some(guard.into()),
            })
        }
        CommandKind::ClaimProducer { flow, generation } => Kind::ClaimProducer(store::ClaimProducer {
            flow_id: flow.to_string(),
            generation: Some(generation.into()),
        }),
        CommandKind::NameMesh { mesh_id } => Kind::NameMesh(store::NameMesh { mesh_id: mesh_id.clone() }),
        CommandKind::BeginGeneration(request) => Kind::BeginGeneration(request.into()),
        CommandKind::PutInventory { flow, number, change } => {
            Kind::PutInventory(inventory_to_store(flow, *number, change))
        }
        CommandKind::RegisterWorker { worker, role, capacity, version } => {
            Kind::RegisterWorker(store::RegisterWorker {
                worker_id: worker.to_string(),
                role: store::Role::from(*role).into(),
                capacity: *capacity,
                version: version.clone(),
            })
        }
        CommandKind::ExpireWorker { worker, session } => {
            Kind::ExpireWorker(store::ExpireWorker { worker_id: worker.to_string(), session: *session })
        }
        CommandKind::DrainWorker { worker } => {
            Kind::DrainWorker(store::DrainWorker { worker_id: worker.to_string() })
        }
        CommandKind::ApplyPlan { steps } => Kind::ApplyPlan(plan_to_store(steps)),
        CommandKind::ReleaseUnits { worker, units } => {
            let units = units.iter().map(|(unit, number)| released_to_store(unit, *number)).collect();
            Kind::ReleaseUnits(store::ReleaseUnits { worker_id: worker.to_string(), units })
        }
        CommandKind::RecordEvents { events } => {
            Kind::RecordEvents(store::RecordEvents { events: events.iter().map(Into::into).collect() })
        }
    }
}

fn cluster_to_store(
    id: &ClusterId,
    spec: &ClusterSpec,
    create: bool,
    guard: &WriteGuard,
) -> store::PutCluster {
    store::PutCluster {
        cluster_id: id.to_string(),
        spec: Some(spec.into()),
        create,
        guard: Some(guard.into()),
    }
}

fn inventory_to_store(flow: &FlowId, number: u64, change: &InventoryChange) -> store::PutInventory {
    store::PutInventory {
        flow_id: flow.to_string(),
        number,
        topics: change.topics.iter().map(Into::into).collect(),
        removed_topics: texts(&change.removed_topics),
        groups: texts(&change.groups),
        removed_groups: texts(&change.removed_groups),
        seen: change.seen.iter().map(Into::into).collect(),
        seen_all: change.seen_all,
    }
}

fn released_to_store(unit: &Unit, number: u64) -> store::ReleasedOwner {
    store::ReleasedOwner { unit: Some(unit.into()), number }
}

/// Releases and assignments are stored apart and come back with the releases first. That is the same plan: a plan has
/// at most one step per unit, steps of different units do not depend on each other's kind, and the assignments keep
/// their order, from which their numbers follow.
fn plan_to_store(steps: &[PlanStep]) -> store::ApplyPlan {
    let mut plan = store::ApplyPlan::default();
    for step in steps {
        match step {
            PlanStep::Assign(unit, worker) => {
                plan.assign
                    .push(store::AssignStep { unit: Some(unit.into()), worker_id: worker.to_string() });
            }
            PlanStep::Release(unit) => plan.release.push(unit.into()),
        }
    }
    plan
}

fn kind_from_store(kind: Kind) -> Result<CommandKind, ConvertError> {
    let (field, result) = match kind {
        Kind::PutCluster(put) => ("put_cluster", put_cluster(put)),
        Kind::ReportCluster(report) => ("report_cluster", report_cluster(report)),
        Kind::DeleteCluster(delete) => ("delete_cluster", delete_cluster(delete)),
        Kind::PutFlow(put) => ("put_flow", put_flow(put)),
        Kind::DeleteFlow(delete) => ("delete_flow", delete_flow(delete)),
        Kind::SetPaused(set) => ("set_paused", set_paused(set)),
        Kind::SetTopicPaused(set) => ("set_topic_paused", set_topic_paused(set)),
        Kind::ClaimProducer(claim) => ("claim_producer", claim_producer(&claim)),
        Kind::NameMesh(store::NameMesh { mesh_id }) => ("name_mesh", Ok(CommandKind::NameMesh { mesh_id })),
        Kind::BeginGeneration(begin) => ("begin_generation", begin_generation(begin)),
        Kind::PutInventory(put) => ("put_inventory", put_inventory(put)),
        Kind::RegisterWorker(register) => ("register_worker", register_worker(register)),
        Kind::ExpireWorker(expire) => ("expire_worker", expire_worker(&expire)),
        Kind::DrainWorker(drain) => ("drain_worker", drain_worker(&drain)),
        Kind::ApplyPlan(plan) => ("apply_plan", apply_plan(plan)),
        Kind::ReleaseUnits(release) => ("release_units", release_units(release)),
        Kind::RecordEvents(record) => ("record_events", record_events(record)),
    };
    result.map_err(|fault| fault.within(field))
}

fn put_cluster(put: store::PutCluster) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::PutCluster {
        id: id(&put.cluster_id, "cluster_id")?,
        spec: inner(put.spec, "spec")?,
        create: put.create,
        guard: inner(put.guard, "guard")?,
    })
}

fn report_cluster(report: store::ReportCluster) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::ReportCluster {
        id: id(&report.cluster_id, "cluster_id")?,
        kafka_cluster_id: report.kafka_cluster_id,
    })
}

fn delete_cluster(delete: store::DeleteCluster) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::DeleteCluster {
        id: id(&delete.cluster_id, "cluster_id")?,
        guard: inner(delete.guard, "guard")?,
    })
}

fn put_flow(put: store::PutFlow) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::PutFlow {
        id: id(&put.flow_id, "flow_id")?,
        spec: inner(put.spec, "spec")?,
        create: put.create,
        start_over: put.start_over,
        guard: inner(put.guard, "guard")?,
    })
}

fn delete_flow(delete: store::DeleteFlow) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::DeleteFlow { id: id(&delete.flow_id, "flow_id")?, guard: inner(delete.guard, "guard")? })
}

fn set_paused(set: store::SetPaused) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::SetPaused {
        id: id(&set.flow_id, "flow_id")?,
        paused: set.paused,
        guard: inner(set.guard, "guard")?,
    })
}

fn set_topic_paused(set: store::SetTopicPaused) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::SetTopicPaused {
        id: id(&set.flow_id, "flow_id")?,
        topic: id(&set.topic, "topic")?,
        partitions: each(set.partitions, "partitions", |number| partition(number, ""))?,
        paused: set.paused,
        guard: inner(set.guard, "guard")?,
    })
}

fn claim_producer(claim: &store::ClaimProducer) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::ClaimProducer {
        flow: id(&claim.flow_id, "flow_id")?,
        generation: inner(claim.generation, "generation")?,
    })
}

fn begin_generation(begin: store::BeginGeneration) -> Result<CommandKind, ConvertError> {
    begin.try_into().map(CommandKind::BeginGeneration)
}

impl From<&GenerationRequest> for store::BeginGeneration {
    fn from(request: &GenerationRequest) -> Self {
        Self {
            flow_id: request.flow.to_string(),
            topic: request.topic.to_string(),
            partition: request.partition,
            number: request.number,
            after: Some((&request.after).into()),
            offered: request.offered,
            start: Some((&request.start).into()),
            events: request.events.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<store::BeginGeneration> for GenerationRequest {
    type Error = ConvertError;

    fn try_from(begin: store::BeginGeneration) -> Result<Self, ConvertError> {
        Ok(Self {
            flow: id(&begin.flow_id, "flow_id")?,
            topic: id(&begin.topic, "topic")?,
            partition: partition(begin.partition, "partition")?,
            number: begin.number,
            after: inner(begin.after, "after")?,
            offered: begin.offered,
            start: inner(begin.start, "start")?,
            events: each(begin.events, "events", Event::try_from)?,
        })
    }
}

fn put_inventory(put: store::PutInventory) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::PutInventory {
        flow: id(&put.flow_id, "flow_id")?,
        number: put.number,
        change: InventoryChange {
            topics: each(put.topics, "topics", TopicEntry::try_from)?,
            removed_topics: ids(put.removed_topics, "removed_topics")?,
            groups: ids(put.groups, "groups")?,
            removed_groups: ids(put.removed_groups, "removed_groups")?,
            seen: each(put.seen, "seen", SeenTopic::try_from)?,
            seen_all: put.seen_all,
        },
    })
}

fn register_worker(register: store::RegisterWorker) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::RegisterWorker {
        worker: id(&register.worker_id, "worker_id")?,
        role: role(register.role, "role")?,
        capacity: register.capacity,
        version: register.version,
    })
}

fn expire_worker(expire: &store::ExpireWorker) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::ExpireWorker { worker: id(&expire.worker_id, "worker_id")?, session: expire.session })
}

fn drain_worker(drain: &store::DrainWorker) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::DrainWorker { worker: id(&drain.worker_id, "worker_id")? })
}

fn apply_plan(plan: store::ApplyPlan) -> Result<CommandKind, ConvertError> {
    let release = |unit| Unit::try_from(unit).map(PlanStep::Release);
    let assign = |step: store::AssignStep| -> Result<PlanStep, ConvertError> {
        Ok(PlanStep::Assign(inner(step.unit, "unit")?, id(&step.worker_id, "worker_id")?))
    };
    let mut steps = each(plan.release, "release", release)?;
    steps.extend(each(plan.assign, "assign", assign)?);
    Ok(CommandKind::ApplyPlan { steps })
}

fn release_units(release: store::ReleaseUnits) -> Result<CommandKind, ConvertError> {
    let released = |owner: store::ReleasedOwner| Ok((inner(owner.unit, "unit")?, owner.number));
    Ok(CommandKind::ReleaseUnits {
        worker: id(&release.worker_id, "worker_id")?,
        units: each(release.units, "units", released)?,
    })
}

fn record_events(record: store::RecordEvents) -> Result<CommandKind, ConvertError> {
    Ok(CommandKind::RecordEvents { events: each(record.events, "events", Event::try_from)? })
}
