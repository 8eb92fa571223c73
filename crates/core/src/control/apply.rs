//! `apply`: the one function that changes the replicated state, for what users write.
//!
//! Total and deterministic: the same commands in the same order give the same state on every coordinator.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{Command, CommandKind, Reply, WriteGuard};
use super::error::{Reject, RejectCode, flow_not_found, reject};
use super::state::{
    ClusterRecord, ControlState, EVENTS_MAX, FlowRecord, REQUESTS_MAX, RETIRED_MAX, RequestRecord,
    RetiredFlow, SeenTopics,
};
use crate::flow::FlowSpec;
use crate::identity::is_kafka_cluster_id;
use crate::ids::{ClusterId, FlowId};
use crate::report::Event;
use crate::unit::ClusterSpec;

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer.
    pub reply: Reply,
    /// The state changed; watchers should look.
    pub changed: bool,
}

impl ControlState {
    /// Carries out one command. A refusal changes nothing.
    pub fn apply(&mut self, command: &Command) -> Applied {
        let before = self.revision;
        let result = self.dispatch(command.at_ms, &command.kind);
        let reply = match result {
            Ok(reply) => reply,
            Err(reject) => Reply::Rejected(reject),
        };
        Applied { reply, changed: self.revision != before }
    }

    pub(super) fn bump(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn dispatch(&mut self, now: u64, kind: &CommandKind) -> Result<Reply, Reject> {
        match kind {
            CommandKind::PutCluster { id, spec, create, guard } => {
                self.put_cluster(now, id, spec, *create, guard)
            }
            CommandKind::ReportCluster { id, kafka_cluster_id } => {
                self.report_cluster(now, id, kafka_cluster_id)
            }
            CommandKind::DeleteCluster { id, guard } => self.delete_cluster(id, guard),
            CommandKind::PutFlow { id, spec, create, start_over, guard } => {
                if *create {
                    self.create_flow(now, id, spec, *start_over, guard)
                } else {
                    self.update_flow(now, id, spec, guard)
                }
            }
            CommandKind::DeleteFlow { id, guard } => self.delete_flow(id, guard),
            CommandKind::SetPaused { id, paused, guard } => self.set_paused(now, id, *paused, guard),
            CommandKind::SetTopicPaused { id, topic, partitions, paused, guard } => {
                self.set_topic_paused(now, (id, topic), partitions, *paused, guard)
            }
            CommandKind::ClaimProducer { flow, generation } => self.claim_producer(flow, *generation),
            CommandKind::NameMesh { mesh_id } => Ok(self.name_mesh(mesh_id)),
            CommandKind::BeginGeneration(request) => self.begin_generation(request),
            CommandKind::PutInventory { flow, number, change } => {
                self.put_inventory(now, flow, *number, change)
            }
            CommandKind::RegisterWorker { worker, role, capacity, version } => {
                Ok(self.register_worker(now, worker, *role, *capacity, version))
            }
            CommandKind::ExpireWorker { worker, session } => Ok(self.expire_worker(worker, *session)),
            CommandKind::DrainWorker { worker } => self.drain_worker(worker),
            CommandKind::ApplyPlan { steps } => Ok(self.apply_plan(steps)),
            CommandKind::ReleaseUnits { worker, units } => Ok(self.release_units(worker, units)),
            CommandKind::RecordEvents { events } => Ok(self.record_events(events)),
        }
    }

    /// Was this request answered already? Then nothing is done again. The resource is returned as it is now, which
    /// differs from the first answer only if somebody changed it since.
    pub(super) fn repeated(&self, guard: &WriteGuard) -> Result<bool, Reject> {
        if guard.request_id.is_empty() {
            return Ok(false);
        }
        match self.requests.iter().find(|r| r.request_id == guard.request_id) {
            None => Ok(false),
            Some(known) if known.fingerprint == guard.fingerprint => Ok(true),
            Some(_) => Err(reject(
                RejectCode::InvalidArgument,
                "REQUEST_ID_REUSED",
                "request_id",
                format!("request_id {:?} was used for another request: make a new one", guard.request_id),
            )),
        }
    }

    pub(super) fn remember(&mut self, guard: &WriteGuard) {
        if guard.request_id.is_empty() {
            return;
        }
        self.requests.push_back(RequestRecord {
            request_id: guard.request_id.clone(),
            fingerprint: guard.fingerprint,
            revision: self.revision,
        });
        while self.requests.len() > REQUESTS_MAX {
            self.requests.pop_front();
        }
    }

    fn check_etag(guard: &WriteGuard, actual: u64, what: &str) -> Result<(), Reject> {
        match guard.expected_revision {
            Some(expected) if expected != actual => Err(reject(
                RejectCode::Aborted,
                "ETAG_MISMATCH",
                "etag",
                format!("{what} was changed since etag {expected}: read it again (it is {actual} now)"),
            )),
            _ => Ok(()),
        }
    }

    fn put_cluster(
        &mut self,
        now: u64,
        id: &ClusterId,
        spec: &ClusterSpec,
        create: bool,
        guard: &WriteGuard,
    ) -> Result<Reply, Reject> {
        let known = self.clusters.get(id).cloned();
        if self.repeated(guard)? {
            return known
                .map(|record| Reply::Cluster(id.clone(), Box::new(record)))
                .ok_or_else(|| cluster_not_found(id));
        }
        let created_ms = match (&known, create) {
            (Some(_), true) => {
                return Err(reject(
                    RejectCode::AlreadyExists,
                    "CLUSTER_EXISTS",
                    "cluster_id",
                    format!("clusters/{id} exists already: update it, or choose another id"),
                ));
            }
            (None, false) => return Err(cluster_not_found(id)),
            (Some(record), false) => {
                Self::check_etag(guard, record.revision, &format!("clusters/{id}"))?;
                record.created_ms
            }
            (None, true) => now,
        };
        self.check_cluster(id, spec)?;
        let revision = self.bump();
        let record = ClusterRecord { spec: spec.clone(), created_ms, updated_ms: now, revision };
        self.clusters.insert(id.clone(), record.clone());
        self.remember(guard);
        Ok(Reply::Cluster(id.clone(), Box::new(record)))
    }

    /// The first report wins: a later one that differs changes nothing, and its sender sees that in the answer.
    fn report_cluster(&mut self, now: u64, id: &ClusterId, kafka_id: &str) -> Result<Reply, Reject> {
        if !is_kafka_cluster_id(kafka_id) {
            return Err(reject(
                RejectCode::InvalidArgument,
                "CLUSTER_ID_INVALID",
                "kafka_cluster_id",
                format!("clusters/{id} can't have the Kafka cluster id {kafka_id:?}"),
            ));
        }
        let revision = self.revision + 1;
        let record = self.clusters.get_mut(id).ok_or_else(|| cluster_not_found(id))?;
        let unknown = record.spec.kafka_cluster_id.is_none();
        if unknown {
            record.spec.kafka_cluster_id = Some(kafka_id.to_owned());
            record.updated_ms = now;
            record.revision = revision;
        }
        let reply = Reply::Cluster(id.clone(), Box::new(record.clone()));
        if unknown {
            self.bump();
        }
        Ok(reply)
    }

    fn delete_cluster(&mut self, id: &ClusterId, guard: &WriteGuard) -> Result<Reply, Reject> {
        if self.repeated(guard)? {
            return Ok(Reply::Done);
        }
        let record = self.clusters.get(id).ok_or_else(|| cluster_not_found(id))?;
        Self::check_etag(guard, record.revision, &format!("clusters/{id}"))?;
        let user = self.flows.iter().find(|(_, flow)| flow.spec.source == *id || flow.spec.target == *id);
        if let Some((flow, _)) = user {
            return Err(reject(
                RejectCode::FailedPrecondition,
                "CLUSTER_IN_USE",
                "name",
                format!("clusters/{id} is used by flows/{flow}: delete the flow first"),
            ));
        }
        self.clusters.remove(id);
        self.bump();
        self.remember(guard);
        Ok(Reply::Done)
    }

    fn create_flow(
        &mut self,
        now: u64,
        id: &FlowId,
        spec: &FlowSpec,
        start_over: bool,
        guard: &WriteGuard,
    ) -> Result<Reply, Reject> {
        if self.repeated(guard)? {
            return self.flow_reply(id);
        }
        if self.flows.contains_key(id) {
            return Err(reject(
                RejectCode::AlreadyExists,
                "FLOW_EXISTS",
                "flow_id",
                format!("flows/{id} exists already: update it, or choose another id"),
            ));
        }
        self.check_flow(id, spec)?;
        let retired = self.take_retired(id, spec, start_over);
        let revision = self.bump();
        let (generation, topics, dropped) =
            retired.map_or_else(Default::default, |r| (r.generation, r.topics, r.dropped));
        let record = FlowRecord {
            spec: spec.clone(),
            paused: false,
            generation,
            created_ms: now,
            updated_ms: now,
            revision,
            topics,
            dropped,
            groups: BTreeSet::new(),
            event_sequence: 0,
            paused_topics: BTreeMap::new(),
            seen: SeenTopics::default(),
        };
        self.flows.insert(id.clone(), record);
        self.remember(guard);
        self.flow_reply(id)
    }

    /// A deleted flow of the same id, source, target and naming goes on where it was. A different one must not: its
    /// positions say nothing about the new target topics. Starting over needs a new producer id, which the worker
    /// asks the target for, so the old generation's sequences can't be mistaken for the new one's.
    fn take_retired(&mut self, id: &FlowId, spec: &FlowSpec, start_over: bool) -> Option<RetiredFlow> {
        let index = self.retired.iter().position(|r| r.id == *id)?;
        let retired = self.retired.remove(index)?;
        let same = retired.spec.source == spec.source
            && retired.spec.target == spec.target
            && retired.spec.naming == spec.naming;
        (same && !start_over).then_some(retired)
    }

    fn update_flow(
        &mut self,
        now: u64,
        id: &FlowId,
        spec: &FlowSpec,
        guard: &WriteGuard,
    ) -> Result<Reply, Reject> {
        if self.repeated(guard)? {
            return self.flow_reply(id);
        }
        let record = self.flows.get(id).ok_or_else(|| flow_not_found(id))?;
        Self::check_etag(guard, record.revision, &format!("flows/{id}"))?;
        let immutable = [
            ("flow.source", record.spec.source == spec.source),
            ("flow.target", record.spec.target == spec.target),
            ("flow.naming", record.spec.naming == spec.naming),
        ];
        if let Some((field, _)) = immutable.iter().find(|(_, same)| !same) {
            return Err(reject(
                RejectCode::FailedPrecondition,
                "FIELD_IMMUTABLE",
                field,
                format!("{field} of flows/{id} can't be changed: delete the flow and create it again"),
            ));
        }
        self.check_flow(id, spec)?;
        let revision = self.bump();
        if let Some(record) = self.flows.get_mut(id) {
            record.spec = spec.clone();
            record.updated_ms = now;
            record.revision = revision;
        }
        self.remember(guard);
        self.flow_reply(id)
    }

    fn delete_flow(&mut self, id: &FlowId, guard: &WriteGuard) -> Result<Reply, Reject> {
        if self.repeated(guard)? {
            return Ok(Reply::Done);
        }
        let record = self.flows.get(id).ok_or_else(|| flow_not_found(id))?;
        Self::check_etag(guard, record.revision, &format!("flows/{id}"))?;
        if let Some(record) = self.flows.remove(id) {
            self.retired.push_back(RetiredFlow {
                id: id.clone(),
                spec: record.spec,
                generation: record.generation,
                topics: record.topics,
                dropped: record.dropped,
            });
            while self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
        }
        self.events.retain(|event| event.flow != *id);
        // Its units are let go, also where a flow of the same id is created before anybody plans: what they report is
        // about the deleted flow.
        for (unit, owner) in &mut self.owners {
            owner.releasing |= unit.flow() == id;
        }
        self.bump();
        self.remember(guard);
        Ok(Reply::Done)
    }

    fn set_paused(
        &mut self,
        now: u64,
        id: &FlowId,
        paused: bool,
        guard: &WriteGuard,
    ) -> Result<Reply, Reject> {
        if self.repeated(guard)? {
            return self.flow_reply(id);
        }
        let revision = self.revision + 1;
        let record = self.flows.get_mut(id).ok_or_else(|| flow_not_found(id))?;
        Self::check_etag(guard, record.revision, &format!("flows/{id}"))?;
        if record.paused != paused {
            record.paused = paused;
            record.updated_ms = now;
            record.revision = revision;
            self.bump();
        }
        self.remember(guard);
        self.flow_reply(id)
    }

    /// Every coordinator that comes to lead a nameless mesh offers an id; the first in the log is everybody's.
    fn name_mesh(&mut self, mesh_id: &str) -> Reply {
        if self.mesh_id.is_empty() && !mesh_id.is_empty() {
            mesh_id.clone_into(&mut self.mesh_id);
            self.bump();
        }
        Reply::Done
    }

    pub(super) fn record_events(&mut self, events: &[Event]) -> Reply {
        for event in events {
            let Some(flow) = self.flows.get_mut(&event.flow) else { continue };
            flow.event_sequence += 1;
            self.events.push_back(Event { sequence: flow.event_sequence, ..event.clone() });
            self.bump();
        }
        while self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
        Reply::Done
    }

    pub(super) fn flow_reply(&self, id: &FlowId) -> Result<Reply, Reject> {
        self.flows
            .get(id)
            .map(|record| Reply::Flow(id.clone(), Box::new(record.clone())))
            .ok_or_else(|| flow_not_found(id))
    }
}

fn cluster_not_found(id: &ClusterId) -> Reject {
    reject(RejectCode::NotFound, "CLUSTER_NOT_FOUND", "name", format!("clusters/{id} does not exist"))
}
