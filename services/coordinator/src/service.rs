//! The gRPC services: thin handlers between messages and the one door to Raft.
//!
//! Each handler reads the request (all its faults at once), asks or proposes, and shows the result. Rules are core's,
//! conversions proto's, statuses `status`'s.

mod cluster;
mod flow;
mod flow_view;
mod mesh;
mod preview;
mod session;
pub(crate) mod status;
mod sums;
mod watch;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::control::{Command, CommandKind, ControlState, Reply};
use mirrormesh_runtime::clock::now_ms;
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::leader::Lead;
use crate::raft::RaftHandle;

pub(crate) use cluster::Clusters;
pub(crate) use flow::Flows;
pub(crate) use flow_view::{FlowFigures, flow_figures};
pub(crate) use mesh::MeshMembers;
pub(crate) use session::Sessions;
pub(crate) use worker::Workers;

/// How long a call waits for this coordinator to begin leading, or for one that does.
pub(crate) const LEADER_WAIT: Duration = Duration::from_secs(2);
/// An update that is overtaken by another one is made again on the newer values, at most this often.
const OVERTAKEN_MAX: usize = 8;

/// What every handler needs; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The door to Raft.
    pub(crate) raft: RaftHandle,
    /// The present leadership of this coordinator, if it leads.
    pub(crate) leads: Receiver<Option<Arc<Lead>>>,
    /// Cancelled when the coordinator stops serving.
    pub(crate) stopping: CancellationToken,
}

impl Context {
    /// The present leadership; waits for a short while for one that is about to begin.
    async fn lead(&self) -> Result<Arc<Lead>, Status> {
        let mut leads = self.leads.clone();
        let wait = async {
            let mut leadership = self.raft.watch_leadership();
            tokio::select! {
                lead = leads.wait_for(Option::is_some) => lead.map_or(None, |lead| lead.clone()),
                _ = leadership.wait_for(|now| now.leader.is_some() && !now.is_self) => None,
                () = self.stopping.cancelled() => None,
            }
        };
        match tokio::time::timeout(LEADER_WAIT, wait).await {
            Ok(Some(lead)) => Ok(lead),
            _ if self.stopping.is_cancelled() => Err(status::stopping()),
            _ => Err(status::elsewhere(&self.raft.leadership())),
        }
    }

    /// The state with everything that was acknowledged before, and the leadership that it was read in.
    async fn read(&self) -> Result<(Arc<Lead>, Arc<ControlState>), Status> {
        let lead = self.lead().await?;
        let state = self.raft.read().await.map_err(|fault| status::raft(&fault))?;
        Ok((lead, state))
    }

    /// Has a command carried out.
    async fn write(&self, kind: CommandKind) -> Result<Reply, Status> {
        self.lead().await?;
        status::accepted(self.raft.propose(kind).await.map_err(|fault| status::raft(&fault))?)
    }

    /// What a command would do: answer and state after it; nothing is changed.
    async fn rehearse(&self, kind: CommandKind) -> Result<(Reply, ControlState), Status> {
        let (_, state) = self.read().await?;
        let mut state = ControlState::clone(&state);
        let applied = state.apply(&Command { at_ms: now_ms(), kind });
        Ok((status::accepted(applied.reply)?, state))
    }
}

/// One page of a list that is sorted by name: entries behind `start`, and the last name if more follow.
fn page<'a, T>(
    entries: impl Iterator<Item = (&'a str, T)>,
    start: Option<&str>,
    size: usize,
) -> (Vec<T>, Option<&'a str>) {
    let mut behind = entries.skip_while(|(name, _)| start.is_some_and(|start| *name <= start));
    let mut page = Vec::new();
    let mut last = None;
    for (name, entry) in behind.by_ref().take(size) {
        page.push(entry);
        last = Some(name);
    }
    (page, last.filter(|_| behind.next().is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_the_last_one_has_no_token() {
        let names = ["a", "b", "c"];
        let entries = || names.iter().map(|name| (*name, *name));
        assert_eq!(page(entries(), None, 2), (vec!["a", "b"], Some("b")));
        assert_eq!(page(entries(), Some("b"), 2), (vec!["c"], None));
        assert_eq!(page(entries(), Some("bb"), 1), (vec!["c"], None), "a deleted name is no obstacle");
        assert_eq!(page(entries(), None, 3), (vec!["a", "b", "c"], None));
        assert_eq!(page(entries(), Some("z"), 3), (vec![], None));
    }
}
