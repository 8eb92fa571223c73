//! `apply` for what workers say and what the planner wants: sessions, claims, inventory, assignments.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{InventoryChange, Reply};
use super::error::{Reject, RejectCode, flow_not_found, reject};
use super::recreated::MadeAgain;
use super::state::{ControlState, TopicEntry};
use crate::flow::{FlowSpec, LossPolicy, is_heartbeats};
use crate::ids::{ClusterId, FlowId, TopicName, WorkerId};
use crate::plan::PlanStep;
use crate::unit::{Generation, Owner, Role, Unit, WorkerRecord};

/// Another flow mirrors the heartbeat topic to the same target already. Heartbeats show that the clusters are connected,
/// so that once is enough: this is no fault, and the topic is offered again in case the other flow goes.
pub const HEARTBEATS_SHARED: &str = "HEARTBEATS_SHARED";

/// Why a topic was not taken: stable reason, message.
type Refusal = (&'static str, String);

/// Who writes which topic of a flow's target already.
#[derive(Debug, Default)]
pub struct Written {
    /// The target cluster.
    target: Option<ClusterId>,
    /// What may stand before `heartbeats` in a heartbeat topic's name: these ids, with the separator behind each.
    clusters: BTreeSet<ClusterId>,
    separator: String,
    /// Topics of the flow itself, by their target's name.
    own: BTreeMap<TopicName, TopicName>,
    /// Other flows that write to the same cluster.
    others: BTreeMap<TopicName, FlowId>,
}

impl Written {
    /// Does the flow mirror this topic under this name already?
    pub fn is_own(&self, topic: &TopicName, target_topic: &TopicName) -> bool {
        self.own.get(target_topic) == Some(topic)
    }

    /// Why the flow can't write the topic: a stable name and what to do.
    pub fn conflict(&self, topic: &TopicName, target_topic: &TopicName) -> Option<Refusal> {
        let message = if let Some(other) = self.own.get(target_topic).filter(|other| *other != topic) {
            format!("the flow maps both {other} and {topic} to {target_topic}")
        } else {
            let other = self.others.get(target_topic)?;
            if is_heartbeats(&self.clusters, &self.separator, topic.as_str()) {
                let message = format!("flows/{other} mirrors {topic} to {target_topic} already");
                return Some((HEARTBEATS_SHARED, message));
            }
            format!(
                "{target_topic} on clusters/{} is written by flows/{other} already: exclude the topic, rename it, or \
                 set shared_target on both flows",
                self.target.as_ref()?
            )
        };
        Some(("TARGET_TOPIC_CONFLICT", message))
    }
}

impl ControlState {
    pub(super) fn claim_producer(&mut self, flow: &FlowId, generation: Generation) -> Result<Reply, Reject> {
        let record = self.flows.get_mut(flow).ok_or_else(|| flow_not_found(flow))?;
        if let Some(known) = record.generation {
            return Ok(Reply::Generation(known));
        }
        record.generation = Some(generation);
        self.bump();
        Ok(Reply::Generation(generation))
    }

    pub(super) fn put_inventory(
        &mut self,
        now: u64,
        flow: &FlowId,
        number: u64,
        change: &InventoryChange,
    ) -> Result<Reply, Reject> {
        if !self.flows.contains_key(flow) {
            return Err(flow_not_found(flow));
        }
        let present = [Unit::Topology(flow.clone()), Unit::Groups(flow.clone())]
            .iter()
            .any(|unit| self.owners.get(unit).is_some_and(|owner| owner.number == number));
        if !present {
            return Err(reject(
                RejectCode::Aborted,
                "ASSIGNMENT_OUTDATED",
                "number",
                format!("assignment {number} of flows/{flow} is not the present one"),
            ));
        }
        let mut refused = Vec::new();
        let mut changed = false;
        if let Some(record) = self.flows.get_mut(flow) {
            changed |= record.seen.take(&change.seen, change.seen_all);
        }
        // Once for all of them: thousands of topics may appear at a time.
        let mut written = match self.flows.get(flow) {
            Some(own) => self.written(Some(flow), &own.spec),
            None => Written::default(),
        };
        for entry in &change.topics {
            let before = self.flows.get(flow).and_then(|own| own.topics.get(&entry.topic));
            let before = before.map(|before| before.target_topic.clone());
            let taken = match written.conflict(&entry.topic, &entry.target_topic) {
                Some(refusal) => Err(refusal),
                None => self.put_topic(now, flow, entry),
            };
            match taken {
                Ok(stored) => {
                    changed |= stored;
                    if let Some(before) = before {
                        written.own.remove(&before);
                    }
                    written.own.insert(entry.target_topic.clone(), entry.topic.clone());
                }
                Err((reason, message)) => refused.push((entry.topic.clone(), reason, message)),
            }
        }
        if let Some(record) = self.flows.get_mut(flow) {
            for topic in &change.removed_topics {
                if let Some(entry) = record.topics.remove(topic) {
                    record.dropped.insert(topic.clone(), entry);
                    changed = true;
                }
            }
            for group in &change.groups {
                changed |= record.groups.insert(group.clone());
            }
            for group in &change.removed_groups {
                changed |= record.groups.remove(group);
            }
        }
        if changed {
            self.bump();
        }
        Ok(Reply::Inventory(refused))
    }

    /// Who writes which topic on the target of a flow already; the flow need not exist. Two flows may write one target
    /// topic only if both say so (design 7).
    pub fn written(&self, flow: Option<&FlowId>, spec: &FlowSpec) -> Written {
        let target_of = |entry: &TopicEntry| (entry.target_topic.clone(), entry.topic.clone());
        let own = flow.and_then(|flow| self.flows.get(flow));
        let mut written = Written {
            target: Some(spec.target.clone()),
            clusters: self.clusters.keys().cloned().collect(),
            separator: spec.naming.separator().to_owned(),
            own: own.into_iter().flat_map(|own| own.topics.values().map(target_of)).collect(),
            others: BTreeMap::new(),
        };
        let others = self.flows.iter().rev().filter(|(id, other)| {
            Some(*id) != flow
                && other.spec.target == spec.target
                && !(other.spec.shared_target && spec.shared_target)
        });
        for (id, other) in others {
            written.others.extend(other.topics.values().map(|t| (t.target_topic.clone(), id.clone())));
        }
        written
    }

    /// Stores a topic. Starts that are known stay as they are; a new target name is a new mirror. What counts as a
    /// record is the flow's word, not the worker's.
    fn put_topic(&mut self, now: u64, flow: &FlowId, entry: &TopicEntry) -> Result<bool, Refusal> {
        let Some(record) = self.flows.get_mut(flow) else { return Ok(false) };
        let mut entry = entry.clone();
        // Only a flow that says so goes on from another mesh's generations, and only where it has none of its own.
        entry.generations.retain(|_, begun| record.spec.adopt && begun.start.adopted.is_some());
        let adopted = entry.generations.values().filter_map(|begun| begun.start.adopted).max();
        for start in &mut entry.starts {
            start.read_uncommitted = record.spec.read_uncommitted;
            start.skip_mirrored = record.spec.skip_mirrored;
        }
        let entry = entry.settled(record);
        let is_mirror = |known: &&TopicEntry| known.target_topic == entry.target_topic;
        let present = record.topics.get(&entry.topic).filter(is_mirror);
        let known = present.or_else(|| record.dropped.get(&entry.topic).filter(is_mirror));
        let (next, event) = match known.map(|known| (known, MadeAgain::of(known, &entry))) {
            None => {
                self.assignment_number = self.assignment_number.max(adopted.unwrap_or(0));
                (entry, None)
            }
            Some((known, None)) => (known.clone().found_again(&entry), None),
            Some((known, Some(made_again))) => {
                let follow = record.spec.loss_policy(&entry.topic) == LossPolicy::Continue;
                let next = if follow { entry.succeed(known, record.generation) } else { None };
                let Some(next) = next else { return Err((made_again.reason, made_again.refusal(flow))) };
                (next, Some(made_again.event(flow, now)))
            }
        };
        if present == Some(&next) {
            return Ok(false);
        }
        record.dropped.remove(&next.topic);
        record.topics.insert(next.topic.clone(), next);
        self.record_events(event.as_slice());
        Ok(true)
    }

    pub(super) fn register_worker(
        &mut self,
        now: u64,
        worker: &WorkerId,
        role: Role,
        capacity: u32,
        version: &str,
    ) -> Reply {
        self.session_number += 1;
        let session = self.session_number;
        let record = WorkerRecord {
            role,
            capacity,
            version: version.to_owned(),
            session,
            draining: false,
            registered_ms: now,
        };
        self.workers.insert(worker.clone(), record);
        // A worker that came back in another role can't run what it had.
        self.owners.retain(|unit, owner| owner.worker != *worker || unit.role() == role);
        // A process that began anew does not run what its predecessor was asked to let go, so it would never say
        // that it did. Given back, the unit is asked for again if it still has to move.
        for owner in self.owners.values_mut().filter(|owner| owner.worker == *worker) {
            owner.releasing = false;
        }
        self.bump();
        Reply::Session(session)
    }

    pub(super) fn expire_worker(&mut self, worker: &WorkerId, session: u64) -> Reply {
        if self.workers.get(worker).is_some_and(|w| w.session == session) {
            self.workers.remove(worker);
            self.owners.retain(|_, owner| owner.worker != *worker);
            self.bump();
        }
        Reply::Done
    }

    pub(super) fn drain_worker(&mut self, worker: &WorkerId) -> Result<Reply, Reject> {
        let record = self.workers.get_mut(worker).ok_or_else(|| {
            reject(
                RejectCode::NotFound,
                "WORKER_NOT_FOUND",
                "name",
                format!("workers/{worker} does not exist"),
            )
        })?;
        if !record.draining {
            record.draining = true;
            self.bump();
        }
        Ok(Reply::Done)
    }

    /// Each step is checked against the state as it is now: a plan made from an older state can do no harm.
    pub(super) fn apply_plan(&mut self, steps: &[PlanStep]) -> Reply {
        let mut changed = false;
        for step in steps {
            match step {
                PlanStep::Assign(unit, worker) => {
                    let fits = self.workers.get(worker).is_some_and(|w| w.role == unit.role() && !w.draining);
                    if fits && self.wanted(unit) && !self.owners.contains_key(unit) {
                        self.assignment_number += 1;
                        let owner = Owner {
                            worker: worker.clone(),
                            number: self.assignment_number,
                            releasing: false,
                        };
                        self.owners.insert(unit.clone(), owner);
                        changed = true;
                    }
                }
                PlanStep::Release(unit) => {
                    if let Some(owner) = self.owners.get_mut(unit).filter(|owner| !owner.releasing) {
                        owner.releasing = true;
                        changed = true;
                    }
                }
            }
        }
        if changed {
            self.bump();
        }
        Reply::Done
    }

    pub(super) fn release_units(&mut self, worker: &WorkerId, units: &[(Unit, u64)]) -> Reply {
        let mut changed = false;
        for (unit, number) in units {
            let theirs = self.owners.get(unit).is_some_and(|o| o.worker == *worker && o.number == *number);
            if theirs {
                self.owners.remove(unit);
                changed = true;
            }
        }
        if changed {
            self.bump();
        }
        Reply::Done
    }

    /// Is the unit one that should run now?
    pub fn wanted(&self, unit: &Unit) -> bool {
        let Some(flow) = self.flows.get(unit.flow()).filter(|flow| !flow.paused) else { return false };
        match unit {
            Unit::Topology(_) => flow.spec.records_enabled,
            Unit::Groups(_) => flow.spec.checkpoints_enabled,
            Unit::Heartbeat(_) => flow.spec.heartbeats_enabled,
            Unit::Group(_, group) => flow.spec.checkpoints_enabled && flow.groups.contains(group),
            Unit::Partition(_, topic, partition) => {
                flow.spec.records_enabled
                    && flow.generation.is_some()
                    && !flow.is_paused(topic, *partition)
                    && partition_known(flow.topics.get(topic), *partition)
            }
        }
    }

    /// All units that should run now, in order.
    pub fn wanted_units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        for (id, flow) in &self.flows {
            units.extend([Unit::Topology(id.clone()), Unit::Groups(id.clone()), Unit::Heartbeat(id.clone())]);
            units.extend(flow.groups.iter().map(|group| Unit::Group(id.clone(), group.clone())));
            units.extend(
                flow.topics.values().flat_map(|entry| partition_units(id, &entry.topic, entry.starts.len())),
            );
        }
        units.retain(|unit| self.wanted(unit));
        units
    }
}

fn partition_known(entry: Option<&TopicEntry>, partition: i32) -> bool {
    usize::try_from(partition).is_ok_and(|p| entry.is_some_and(|e| p < e.starts.len()))
}

fn partition_units<'a>(
    flow: &'a FlowId,
    topic: &'a TopicName,
    count: usize,
) -> impl Iterator<Item = Unit> + 'a {
    (0..i32::try_from(count).unwrap_or(i32::MAX)).map(|p| Unit::Partition(flow.clone(), topic.clone(), p))
}
