//! Read-only views of the replicated state: what a worker is to run, whether a pause is complete.

use std::collections::BTreeMap;

use super::state::{ControlState, FlowRecord, TopicEntry};
use crate::flow::FlowSpec;
use crate::ids::{FlowId, TopicName, WorkerId};
use crate::paused::PausedSet;
use crate::plan::{Problem, WorkerSlot};
use crate::throttle::{Need, Share, Throttle, TopicNeeds, Weights, weigh};
use crate::unit::{
    AssignedFlow, AssignedUnit, Owner, PartitionDetail, ThrottleShares, Unit, WorkerAssignment,
};

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
    /// The whole desired set of one worker: units that it owns and need not let go. The weights say what throttles are
    /// shared by.
    pub fn assignment_of(&self, worker: &WorkerId, weights: &Weights) -> WorkerAssignment {
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
                clusters: self.clusters.keys().cloned().collect(),
                shares: self.throttle_shares(unit.flow(), &flow.spec, worker, weights),
            });
            let assigned = AssignedUnit { number: owner.number, partition: self.partition_detail(unit) };
            assignment.units.insert(unit.clone(), assigned);
        }
        assignment
    }

    /// A worker's part of the throttles: by what its partitions weigh, those that are let go counted for nobody.
    fn throttle_shares(
        &self,
        id: &FlowId,
        spec: &FlowSpec,
        worker: &WorkerId,
        weights: &Weights,
    ) -> ThrottleShares {
        let mut shares = ThrottleShares::default();
        for (topic, partition, owner) in self.throttled_partitions(id, spec) {
            let is_own = owner.worker == *worker && !owner.releasing;
            let weight = weights.of(id, topic, partition);
            if spec.throttle != Throttle::NONE {
                shares.flow.add(weight.of_flow, is_own);
            }
            if spec.throttle_by_topic.contains_key(topic) {
                shares.topics.entry(topic.clone()).or_default().add(weight.of_topic, is_own);
            }
        }
        // Who has all of it need not know how it is divided, as long as nobody else has a part.
        let whole = |share: &mut Share| {
            if share.part == share.of && share.of > 0 {
                *share = Share { part: 1, of: 1 };
            }
        };
        whole(&mut shares.flow);
        shares.topics.values_mut().for_each(whole);
        shares
    }

    /// The assigned partitions of a flow that has a throttle, its own or of some topic.
    fn throttled_partitions<'a>(
        &'a self,
        id: &'a FlowId,
        spec: &FlowSpec,
    ) -> impl Iterator<Item = (&'a TopicName, i32, &'a Owner)> {
        let throttled = spec.throttle != Throttle::NONE || !spec.throttle_by_topic.is_empty();
        let owners = self.owners.iter().take_while(move |_| throttled);
        owners.filter_map(move |(unit, owner)| match unit {
            Unit::Partition(flow, topic, partition) if flow == id => Some((topic, *partition, owner)),
            _ => None,
        })
    }

    /// What the partitions of throttled flows weigh now. `need` says what one needs, `None` where that is not known.
    pub fn throttle_weights(
        &self,
        before: &Weights,
        mut need: impl FnMut(&FlowId, &TopicName, i32) -> Option<Need>,
    ) -> Weights {
        let mut weights = Weights::default();
        for (id, flow) in &self.flows {
            let spec = &flow.spec;
            let mut topics: BTreeMap<&TopicName, TopicNeeds> = BTreeMap::new();
            for (topic, partition, _) in self.throttled_partitions(id, spec) {
                let needs = topics.entry(topic).or_default();
                needs.throttle = spec.throttle_by_topic.get(topic).copied().unwrap_or_default();
                needs.partitions.insert(partition, need(id, topic, partition));
            }
            weights.put(id, weigh(spec.throttle, &topics, before.of_flow(id)));
        }
        weights
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
