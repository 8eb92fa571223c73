//! A worker's whole desired set.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::ids::{ClusterId, FlowId};
use mirrormesh_core::throttle::Share;
use mirrormesh_core::unit::{
    AssignedFlow, AssignedUnit, ClusterSpec, PartitionDetail, PartitionGeneration, ThrottleShares, Unit,
    WorkerAssignment,
};

use crate::convert::parts::{each, id, inner, optional, topic_id};
use crate::error::ConvertError;
use crate::mesh;

impl From<&WorkerAssignment> for mesh::WatchAssignmentsResponse {
    fn from(assignment: &WorkerAssignment) -> Self {
        let cluster = |(id, spec): (&ClusterId, &ClusterSpec)| mesh::AssignedCluster {
            cluster_id: id.to_string(),
            spec: Some(spec.into()),
        };
        let flow = |(id, flow): (&FlowId, &AssignedFlow)| mesh::AssignedFlow {
            flow_id: id.to_string(),
            spec: Some((&flow.spec).into()),
            generation: flow.generation.as_ref().map(Into::into),
            mesh_id: flow.mesh_id.clone(),
            known_clusters: flow.clusters.iter().map(ToString::to_string).collect(),
            throttle_share: share_to_mesh(flow.shares.flow),
            topic_throttle_shares: flow
                .shares
                .topics
                .iter()
                .filter_map(|(topic, share)| Some((topic.to_string(), share_to_mesh(*share)?)))
                .collect(),
        };
        let unit = |(unit, assigned): (&Unit, &AssignedUnit)| mesh::AssignedUnit {
            unit: Some(unit.into()),
            number: assigned.number,
            partition: assigned.partition.as_ref().map(Into::into),
        };
        Self {
            revision: assignment.revision,
            clusters: assignment.clusters.iter().map(cluster).collect(),
            flows: assignment.flows.iter().map(flow).collect(),
            units: assignment.units.iter().map(unit).collect(),
            traces: assignment.traces.iter().map(|(flow, trace)| (flow.to_string(), trace.clone())).collect(),
        }
    }
}

impl TryFrom<mesh::WatchAssignmentsResponse> for WorkerAssignment {
    type Error = ConvertError;

    fn try_from(response: mesh::WatchAssignmentsResponse) -> Result<Self, ConvertError> {
        let cluster = |cluster: mesh::AssignedCluster| {
            Ok((id(&cluster.cluster_id, "cluster_id")?, inner(cluster.spec, "spec")?))
        };
        let flow = |flow: mesh::AssignedFlow| {
            let assigned = AssignedFlow {
                spec: inner(flow.spec, "spec")?,
                generation: optional(flow.generation, "generation")?,
                mesh_id: flow.mesh_id,
                clusters: BTreeSet::from_iter(each(flow.known_clusters, "known_clusters", |cluster| {
                    id(&cluster, "")
                })?),
                shares: ThrottleShares {
                    flow: share(flow.throttle_share.unwrap_or_default()),
                    topics: BTreeMap::from_iter(each(
                        flow.topic_throttle_shares,
                        "topic_throttle_shares",
                        |(topic, part)| Ok((id(&topic, "")?, share(part))),
                    )?),
                },
            };
            Ok((id(&flow.flow_id, "flow_id")?, assigned))
        };
        let unit = |unit: mesh::AssignedUnit| {
            let assigned =
                AssignedUnit { number: unit.number, partition: optional(unit.partition, "partition")? };
            Ok((inner(unit.unit, "unit")?, assigned))
        };
        Ok(Self {
            revision: response.revision,
            clusters: BTreeMap::from_iter(each(response.clusters, "clusters", cluster)?),
            flows: BTreeMap::from_iter(each(response.flows, "flows", flow)?),
            units: BTreeMap::from_iter(each(response.units, "units", unit)?),
            traces: BTreeMap::from_iter(each(response.traces, "traces", |(flow, trace)| {
                Ok((id(&flow, "")?, trace))
            })?),
        })
    }
}

/// The whole is not said.
fn share_to_mesh(share: Share) -> Option<mesh::ThrottleShare> {
    (share != Share::default()).then_some(mesh::ThrottleShare { part: share.part, of: share.of })
}

fn share(share: mesh::ThrottleShare) -> Share {
    Share { part: share.part, of: share.of }
}

impl From<&PartitionDetail> for mesh::AssignedPartition {
    fn from(detail: &PartitionDetail) -> Self {
        Self {
            target_topic: detail.target_topic.to_string(),
            source_topic_id: detail.source_topic_id.0.to_vec(),
            target_topic_id: detail.target_topic_id.0.to_vec(),
            start: Some((&detail.begun.start).into()),
            generation: Some((&detail.begun.generation).into()),
        }
    }
}

impl TryFrom<mesh::AssignedPartition> for PartitionDetail {
    type Error = ConvertError;

    fn try_from(partition: mesh::AssignedPartition) -> Result<Self, ConvertError> {
        Ok(Self {
            target_topic: id(&partition.target_topic, "target_topic")?,
            source_topic_id: topic_id(&partition.source_topic_id, "source_topic_id")?,
            target_topic_id: topic_id(&partition.target_topic_id, "target_topic_id")?,
            begun: PartitionGeneration {
                generation: inner(partition.generation, "generation")?,
                start: inner(partition.start, "start")?,
            },
        })
    }
}
