//! Rings of flows that keep names: a record would go round for ever.
//!
//! A producer id names only the last hop. Between two clusters that is enough: what came from the target is not mirrored
//! back. In a ring of three or more nobody sees that a record began where it is about to go, so
//! at least one of its flows must not forward what was mirrored. Refused is what can't be told to be harmless.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::error::{Reject, RejectCode, reject};
use super::state::ControlState;
use crate::flow::{FlowSpec, NameFilter, Naming};
use crate::ids::{ClusterId, FlowId};

impl ControlState {
    /// The flow must not close a ring of three or more flows that all forward under unchanged names.
    pub(super) fn check_rings(&self, id: &FlowId, spec: &FlowSpec) -> Result<(), Reject> {
        let Some(ring) = self.ring_with(id, spec) else { return Ok(()) };
        let flows: Vec<String> =
            ring.iter().map(|(id, spec)| format!("flows/{id} ({} → {})", spec.source, spec.target)).collect();
        Err(reject(
            RejectCode::FailedPrecondition,
            "MIRROR_RING",
            "flow.records.forward_mirrored",
            format!(
                "{} are a ring in which topics keep their names: records would go round for ever; set \
                 records.forward_mirrored to false on one of them, or on all where every cluster mirrors to every other",
                flows.join(", ")
            ),
        ))
    }

    /// The shortest ring of three or more that the flow closes, in the direction of records.
    fn ring_with<'a>(
        &'a self,
        id: &'a FlowId,
        spec: &'a FlowSpec,
    ) -> Option<Vec<(&'a FlowId, &'a FlowSpec)>> {
        if !forwards(spec) {
            return None;
        }
        let others: Vec<(&FlowId, &FlowSpec)> = self
            .flows
            .iter()
            .filter(|(other, record)| *other != id && forwards(&record.spec) && may_share(spec, &record.spec))
            .map(|(other, record)| (other, &record.spec))
            .collect();
        let (begin, end) = (self.same_as(&spec.target), self.same_as(&spec.source));
        // By which flow a cluster was reached first.
        let mut reached: BTreeMap<&ClusterId, (&FlowId, &FlowSpec)> = BTreeMap::new();
        let mut seen = BTreeSet::from([begin]);
        let mut next = VecDeque::from([begin]);
        while let Some(at) = next.pop_front() {
            for (other, hop) in others.iter().filter(|(_, hop)| self.same_as(&hop.source) == at) {
                let to = self.same_as(&hop.target);
                // Two flows that face each other know what came from where.
                if (at == begin && to == end) || !seen.insert(to) {
                    continue;
                }
                reached.insert(to, (other, hop));
                next.push_back(to);
            }
        }
        let mut ring = Vec::new();
        let mut at = end;
        while at != begin {
            let (other, hop) = reached.get(at)?;
            ring.push((*other, *hop));
            at = self.same_as(&hop.source);
        }
        ring.push((id, spec));
        ring.reverse();
        Some(ring)
    }

    /// Clusters with the same first contact points are one; the first of them stands for all.
    fn same_as<'a>(&'a self, id: &'a ClusterId) -> &'a ClusterId {
        let servers = |id: &ClusterId| {
            let spec = self.clusters.get(id).map(|cluster| &cluster.spec.bootstrap_servers);
            spec.map(|servers| servers.iter().collect::<BTreeSet<_>>())
        };
        let own = servers(id);
        self.clusters.keys().find(|other| own.is_some() && servers(other) == own).unwrap_or(id)
    }
}

/// It carries records on that were mirrored, and they keep their names.
fn forwards(spec: &FlowSpec) -> bool {
    !spec.skip_mirrored && keeps_names(spec)
}

/// It carries records, under the names that they had.
fn keeps_names(spec: &FlowSpec) -> bool {
    spec.records_enabled && !matches!(spec.naming, Naming::Prefix { .. })
}

/// Could a topic go through both? Not if one names its topics one by one and the other selects none of them.
fn may_share(a: &FlowSpec, b: &FlowSpec) -> bool {
    // Names change on the way.
    if [a, b].iter().any(|spec| matches!(spec.naming, Naming::Rename(_))) {
        return true;
    }
    let selects_none_of = |other: &FlowSpec, named: &FlowSpec| {
        let names = &named.topics_include;
        let plain = names
            .iter()
            .all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')));
        let filter = NameFilter::new(&other.topics_include, &other.topics_exclude);
        plain && filter.is_ok_and(|filter| !names.iter().any(|name| filter.matches(name)))
    };
    !selects_none_of(a, b) && !selects_none_of(b, a)
}
