//! The newest desired set of this worker.
//!
//! Owns the fence against older sets; knows nothing about how they are carried out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mirrormesh_core::unit::WorkerAssignment;
use mirrormesh_proto::mesh::WatchAssignmentsResponse;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use crate::wire;

/// The side that receives sets.
#[derive(Debug)]
pub(crate) struct Assignments {
    newest: watch::Sender<Arc<WorkerAssignment>>,
    /// Sets of lower revisions are dropped. A new session begins at 0: it was opened through the Raft log, so what
    /// comes from it is no leftover, even if the mesh has been set up anew.
    floor: AtomicU64,
}

impl Assignments {
    /// An empty set; nothing is published before the first real one.
    pub(crate) fn new() -> Self {
        Self { newest: watch::Sender::new(Arc::default()), floor: AtomicU64::new(0) }
    }

    /// The side that follows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<WorkerAssignment>> {
        self.newest.subscribe()
    }

    /// A session was opened anew.
    pub(crate) fn new_session(&self) {
        self.floor.store(0, Ordering::Relaxed);
    }

    /// Takes sets from a stream until it ends, and says how it ended.
    pub(crate) async fn follow(&self, mut stream: Streaming<WatchAssignmentsResponse>) -> Status {
        loop {
            match stream.message().await {
                Ok(Some(message)) => match wire::assignment(message) {
                    Ok(assignment) => self.offer(assignment),
                    // The units go on with what they have: one bad set must not stop what works.
                    Err(error) => {
                        tracing::error!(error = %error, "the coordinator sent a set that can't be read: left out");
                    }
                },
                Ok(None) => return Status::unavailable("the coordinator ended the stream of assignments"),
                Err(status) => return status,
            }
        }
    }

    fn offer(&self, assignment: WorkerAssignment) {
        let floor = self.floor.fetch_max(assignment.revision, Ordering::Relaxed);
        if assignment.revision < floor {
            tracing::debug!(revision = assignment.revision, floor, "older set of assignments dropped");
            return;
        }
        tracing::debug!(
            revision = assignment.revision,
            units = assignment.units.len(),
            "new set of assignments"
        );
        self.newest.send_replace(Arc::new(assignment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_sets_are_dropped_until_a_new_session() {
        let assignments = Assignments::new();
        let newest = assignments.subscribe();
        let set = |revision| WorkerAssignment { revision, ..WorkerAssignment::default() };
        assignments.offer(set(5));
        assignments.offer(set(4));
        assert_eq!(newest.borrow().revision, 5);
        assignments.new_session();
        assignments.offer(set(2));
        assert_eq!(newest.borrow().revision, 2);
    }
}
