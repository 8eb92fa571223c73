//! What may reach a unit at any time, apart from the records and their answers.
//!
//! Owns the waiting for all of it in one future of its own, which is looked at only when something woke it: a batch that
//! passes costs no look at each of them. Must not know what a signal leads to.

use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::unit::AssignedUnit;
use mirrormesh_worker::Lease;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PartitionUnit;
use crate::ends::{News, SourceEnd};

/// How often a unit says how it stands while nothing happens: whether the target still remembers the flow depends on
/// time.
const QUIET_TICK: Duration = Duration::from_mins(1);

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// The unit is to drain and release; said once.
    Stop,
    /// Whether the lease holds.
    Lease(bool),
    /// What is assigned differs.
    Assigned,
    /// Somebody looked at the source's ends, or nobody could.
    Ends(News),
    /// Settings of a topic or broker changed.
    Settings,
    /// Nothing came for a while.
    Quiet,
}

/// Where signals come from.
#[derive(Debug)]
pub(super) struct Signals {
    stop: CancellationToken,
    stopping: bool,
    lease: Lease,
    holds: bool,
    assigned: watch::Receiver<AssignedUnit>,
    end: Arc<SourceEnd>,
    settings: watch::Receiver<u64>,
    quiet_from: Instant,
}

impl Signals {
    /// Those of one unit.
    pub(super) fn of(unit: &PartitionUnit) -> Self {
        Self {
            stop: unit.context.stop.clone(),
            stopping: false,
            lease: unit.context.lease.clone(),
            holds: true,
            assigned: unit.context.assigned_changes.clone(),
            end: Arc::clone(&unit.end),
            settings: unit.link.settings_changes.subscribe(),
            quiet_from: Instant::now(),
        }
    }

    /// The next signal, with what the one after it comes from.
    pub(super) async fn next(mut self) -> (Self, Signal) {
        let signal = tokio::select! {
            biased;
            () = self.stop.cancelled(), if !self.stopping => {
                self.stopping = true;
                Signal::Stop
            }
            () = lease_changed(&self.lease, self.holds) => {
                self.holds = self.lease.holds();
                Signal::Lease(self.holds)
            }
            Ok(()) = self.assigned.changed() => Signal::Assigned,
            news = self.end.news() => Signal::Ends(news),
            Ok(()) = self.settings.changed() => Signal::Settings,
            () = tokio::time::sleep_until(self.quiet_from + QUIET_TICK) => {
                self.quiet_from = Instant::now();
                Signal::Quiet
            }
        };
        (self, signal)
    }
}

/// Returns when the lease is not what it was.
async fn lease_changed(lease: &Lease, holds: bool) {
    if holds { lease.lost().await } else { lease.regained().await }
}
