//! Read-only views of the replicated state: what a worker is to run, whether a pause is complete.

use std::collections::BTreeMap;

use super::state::{ControlState, FlowRecord, TopicEntry};
use crate::flow::FlowSpec;
use crate::ids::{FlowId, WorkerId};
use crate::plan::{Problem, WorkerSlot};
use crate::relay::paused::PausedSet;
use crate::throttle::{Share, Throttle};
use crate::unit::{AssignedFlow, AssignedUnit, PartitionDetail, ThrottleShares, Unit, WorkerAssignment};

impl FlowRecord {
    fn detail(&self, entry: &TopicEntry, partition: i32) -> Option<PartitionDetail> {
        Some(PartitionDetail {
            target_topic: entry.target_topic.clone(),
            source_topic_id: entry.source_topic_id,
            target_topic_id: entry.target_topic_id,
            begun: self.begun(&entry.topic, partition)?,
        })
    }
}

impl ControlState {
    /// The whole desired set of one worker: units that it owns and need not let go.
    pub fn assignment_of(&self, worker: &WorkerId) -> WorkerAssignment {
        let mut assignment = WorkerAssignment { revision: self.revision, ..WorkerAssignment::default() };
        for (unit, owner) in &self.owners {
            if owner.worker != *worker || owner.releasing || !self.wanted(unit) {
                continue;
            }
            let Some(flow) = self.flows.get(unit.flow()) else { continue };
            for id in [&flow.spec.source, &flow.spec.target] {
                if let Some(cluster) = self.clusters.get(id) {
                    assignment.clusters.entry(id.clone()).or_insert_with(|| cluster.spec.clone());
                }
            }
            assignment.flows.entry(unit.flow().clone()).or_insert_with(|| AssignedFlow {
                spec: flow.spec.clone(),
                generation: flow.generation,
                mesh_id: self.mesh_id.clone(),
                shares: self.throttle_shares(unit.flow(), &flow.spec, worker),
            });
            let assigned = AssignedUnit { number: owner.number, partition: self.partition_detail(unit) };
            assignment.units.insert(unit.clone(), assigned);
        }
        assignment
    }

    /// A worker's part of the throttles: by partitions, those that are let go counted for nobody.
    fn throttle_shares(&self, id: &FlowId, spec: &FlowSpec, worker: &WorkerId) -> ThrottleShares {
        let mut shares = ThrottleShares::default();
        let by_topic = &spec.throttle_by_topic;
        if spec.throttle == Throttle::NONE && by_topic.is_empty() {
            return shares;
        }
        for (unit, owner) in &self.owners {
            let Unit::Partition(flow, topic, _) = unit else { continue };
            if flow != id {
                continue;
            }
            let theirs = u32::from(owner.worker == *worker && !owner.releasing);
            let add = |share: &mut Share| {
                share.of = share.of.saturating_add(1);
                share.partitions = share.partitions.saturating_add(theirs);
            };
            if spec.throttle != Throttle::NONE {
                add(&mut shares.flow);
            }
            if by_topic.contains_key(topic) {
                add(shares.topics.entry(topic.clone()).or_default());
            }
        }
        shares
    }

    fn partition_detail(&self, unit: &Unit) -> Option<PartitionDetail> {
        let Unit::Partition(flow, topic, partition) = unit else { return None };
        let record = self.flows.get(flow)?;
        let entry = record.topics.get(topic)?;
        record.detail(entry, *partition)
    }

    /// Partitions that nobody runs since they are paused.
    pub fn paused_partitions<'a>(
        &'a self,
        id: &'a FlowId,
        record: &'a FlowRecord,
    ) -> impl Iterator<Item = (&'a TopicEntry, i32)> {
        let paused = record.spec.records_enabled && (record.paused || !record.paused_topics.is_empty());
        let topics = record.topics.values().take_while(move |_| paused);
        let partitions = topics.flat_map(|entry| {
            let numbers = 0..i32::try_from(entry.starts.len()).unwrap_or(i32::MAX);
            numbers.map(move |number| (entry, number))
        });
        partitions.filter(move |(entry, number)| {
            record.is_paused(&entry.topic, *number)
                && !self.owners.contains_key(&Unit::Partition(id.clone(), entry.topic.clone(), *number))
        })
    }

    /// The same with all that is needed to look how far behind they are; `None` if the flow is unknown.
    pub fn paused_set(&self, id: &FlowId) -> Option<PausedSet> {
        let record = self.flows.get(id)?;
        let cluster = |id| self.clusters.get(id).map(|cluster| cluster.spec.clone());
        let partitions = self.paused_partitions(id, record);
        let partitions = partitions
            .filter_map(|(entry, number)| Some((entry.topic.clone(), number, record.detail(entry, number)?)))
            .collect();
        Some(PausedSet {
            flow: id.clone(),
            source: cluster(&record.spec.source)?,
            target: cluster(&record.spec.target)?,
            positions_topic: record.spec.positions_topic(),
            revision: record.revision,
            partitions,
        })
    }

    /// What the planner is to solve. `weight` is the measured load of a unit, 1 where nothing is known.
    pub fn problem(&self, weight: impl Fn(&Unit) -> u64) -> Problem {
        let workers = self
            .workers
            .iter()
            .map(|(id, w)| WorkerSlot {
                id: id.clone(),
                role: w.role,
                capacity: if w.draining { 0 } else { w.capacity },
            })
            .collect();
        let units = self.wanted_units().into_iter().map(|unit| (weight(&unit).max(1), unit)).collect();
        Problem { workers, units }
    }

    /// Who runs what now, units that are being let go included.
    pub fn present(&self) -> BTreeMap<Unit, WorkerId> {
        self.owners.iter().map(|(unit, owner)| (unit.clone(), owner.worker.clone())).collect()
    }

    /// No worker can write for this flow any more.
    pub fn is_quiet(&self, flow: &FlowId) -> bool {
        !self.owners.keys().any(|unit| unit.flow() == flow)
    }
}
