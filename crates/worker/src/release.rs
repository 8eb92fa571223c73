//! Units that were drained: told to the coordinator until it acknowledges, and never started again.
//!
//! Owns the promise behind `released`: a unit will not be touched any more under that number. An older set of
//! assignments that still holds it may arrive later, so the numbers are remembered for a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::unit::Unit;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long after the acknowledgement an older set could still arrive; far beyond any stream's delay.
const REMEMBER: Duration = Duration::from_mins(10);

/// The shared list of released units; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Releases(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    units: Mutex<BTreeMap<(Unit, u64), Option<Instant>>>,
    added: Notify,
    acknowledged: Notify,
}

impl Releases {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Unit, u64), Option<Instant>>> {
        self.0.units.lock()
    }

    /// The unit was drained.
    pub(crate) fn add(&self, unit: Unit, number: u64) {
        self.lock().insert((unit, number), None);
        self.0.added.notify_one();
    }

    /// Returns when something was added since the last time.
    pub(crate) async fn added(&self) {
        self.0.added.notified().await;
    }

    /// Must not be started again under this number.
    pub(crate) fn contains(&self, unit: &Unit, number: u64) -> bool {
        self.lock().contains_key(&(unit.clone(), number))
    }

    /// What the coordinator has not acknowledged yet.
    pub(crate) fn unacknowledged(&self) -> Vec<(Unit, u64)> {
        self.lock()
            .iter()
            .filter(|(_, acked)| acked.is_none())
            .map(|(released, _)| released.clone())
            .collect()
    }

    /// The coordinator knows of these; those acknowledged long ago are forgotten.
    pub(crate) fn acknowledge(&self, released: &[(Unit, u64)]) {
        let now = Instant::now();
        let mut units = self.lock();
        for entry in released {
            if let Some(acked) = units.get_mut(entry) {
                acked.get_or_insert(now);
            }
        }
        units.retain(|_, acked| acked.is_none_or(|acked| now.duration_since(acked) < REMEMBER));
        self.0.acknowledged.notify_waiters();
    }

    /// Returns once the coordinator has acknowledged everything.
    pub(crate) async fn settled(&self) {
        loop {
            let acknowledged = self.0.acknowledged.notified();
            if self.lock().values().all(Option::is_some) {
                return;
            }
            acknowledged.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::ids::FlowId;

    #[tokio::test(start_paused = true)]
    async fn released_units_are_told_until_acknowledged_and_remembered_after() {
        let releases = Releases::default();
        let unit = Unit::Topology(FlowId::new("f").unwrap());
        releases.add(unit.clone(), 3);
        releases.added().await;
        assert_eq!(releases.unacknowledged(), [(unit.clone(), 3)]);
        assert!(releases.contains(&unit, 3) && !releases.contains(&unit, 4));

        releases.acknowledge(&[(unit.clone(), 3)]);
        assert!(releases.unacknowledged().is_empty());
        assert!(releases.contains(&unit, 3), "an older set may still arrive");
        tokio::time::advance(REMEMBER).await;
        releases.acknowledge(&[]);
        assert!(!releases.contains(&unit, 3));
    }
}
