//! Rules between resources: what a write must not do to the rest of the state.

use std::collections::BTreeSet;

use super::error::{Reject, RejectCode, reject};
use super::state::ControlState;
use crate::flow::FlowSpec;
use crate::ids::{ClusterId, FlowId};
use crate::unit::ClusterSpec;

impl ControlState {
    /// A cluster that is changed must not become the other end of one of its flows.
    pub(super) fn check_cluster(&self, id: &ClusterId, spec: &ClusterSpec) -> Result<(), Reject> {
        let servers = sorted_servers(spec);
        let same = |other: &ClusterId| {
            other != id && self.clusters.get(other).is_some_and(|c| servers == sorted_servers(&c.spec))
        };
        let looped = self.flows.iter().find(|(_, flow)| {
            let FlowSpec { source, target, .. } = &flow.spec;
            (source == id && same(target)) || (target == id && same(source))
        });
        match looped {
            None => Ok(()),
            Some((flow, _)) => Err(reject(
                RejectCode::FailedPrecondition,
                "SOURCE_IS_TARGET",
                "cluster.bootstrap_servers",
                format!(
                    "flows/{flow} would copy a cluster to itself: both of its clusters have these servers"
                ),
            )),
        }
    }

    /// Rules between a flow and the rest of the state.
    pub(super) fn check_flow(&self, id: &FlowId, spec: &FlowSpec) -> Result<(), Reject> {
        if spec.source == spec.target {
            return Err(reject(
                RejectCode::InvalidArgument,
                "SOURCE_IS_TARGET",
                "flow.target",
                format!("flow.target must differ from flow.source, both are clusters/{}", spec.source),
            ));
        }
        for (field, cluster) in [("flow.source", &spec.source), ("flow.target", &spec.target)] {
            if !self.clusters.contains_key(cluster) {
                return Err(reject(
                    RejectCode::InvalidArgument,
                    "CLUSTER_NOT_FOUND",
                    field,
                    format!("{field} names clusters/{cluster}, which does not exist: create it first"),
                ));
            }
        }
        let same_address = |a: &ClusterId, b: &ClusterId| {
            let servers = |id: &ClusterId| self.clusters.get(id).map(|c| sorted_servers(&c.spec));
            servers(a).is_some_and(|s| Some(s) == servers(b))
        };
        if same_address(&spec.source, &spec.target) {
            return Err(reject(
                RejectCode::InvalidArgument,
                "SOURCE_IS_TARGET",
                "flow.target",
                format!(
                    "clusters/{} and clusters/{} have the same bootstrap servers: a flow can't copy a cluster to itself",
                    spec.source, spec.target
                ),
            ));
        }
        let conflict = self.flows.iter().find(|(other_id, other)| {
            *other_id != id
                && !(spec.shared_target && other.spec.shared_target)
                && spec.surely_overlaps(&other.spec)
        });
        if let Some((other, _)) = conflict {
            return Err(reject(
                RejectCode::FailedPrecondition,
                "TARGET_TOPIC_CONFLICT",
                "flow.topics",
                format!(
                    "flows/{other} writes the same topics on clusters/{}: change flow.topics or flow.naming, or set \
                     shared_target on both",
                    spec.target
                ),
            ));
        }
        self.check_rings(id, spec)
    }
}

/// First contact points in an order that does not depend on how they were written down.
fn sorted_servers(spec: &ClusterSpec) -> BTreeSet<&String> {
    spec.bootstrap_servers.iter().collect()
}
