//! Leases of worker sessions: soft state of one leadership, on the monotonic clock.
//!
//! Invariant: a worker that this leader has not heard of has a full lease from the moment it was first looked at, so a
//! new leader never ends a session that it merely does not know yet.

use std::collections::BTreeMap;
use std::time::Duration;

use mirrormesh_core::ids::WorkerId;
use mirrormesh_core::unit::WorkerRecord;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// How long a session lives after the last report.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// The leases.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<BTreeMap<WorkerId, Lease>>);

#[derive(Debug, Clone, Copy)]
struct Lease {
    session: u64,
    ends: Instant,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Lease>> {
        self.0.lock()
    }

    /// The session was heard of now.
    pub(crate) fn renew(&self, worker: &WorkerId, session: u64, now: Instant) {
        self.lock().insert(worker.clone(), Lease { session, ends: now + LEASE });
    }

    /// When each worker was last heard of.
    pub(crate) fn heard(&self) -> Vec<(WorkerId, Instant)> {
        let heard = |lease: &Lease| lease.ends.checked_sub(LEASE);
        self.lock().iter().filter_map(|(worker, lease)| Some((worker.clone(), heard(lease)?))).collect()
    }

    /// Sessions whose lease is over, and when to look again.
    pub(crate) fn expired<'a>(
        &self,
        workers: impl Iterator<Item = (&'a WorkerId, &'a WorkerRecord)>,
        now: Instant,
    ) -> (Vec<(WorkerId, u64)>, Instant) {
        let mut leases = self.lock();
        let mut kept = BTreeMap::new();
        let mut expired = Vec::new();
        let mut next = now + LEASE;
        for (worker, record) in workers {
            let known = leases.remove(worker).filter(|lease| lease.session == record.session);
            let lease = known.unwrap_or(Lease { session: record.session, ends: now + LEASE });
            if lease.ends <= now {
                expired.push((worker.clone(), lease.session));
            } else {
                next = next.min(lease.ends);
            }
            kept.insert(worker.clone(), lease);
        }
        *leases = kept;
        (expired, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::unit::Role;

    fn record(session: u64) -> WorkerRecord {
        WorkerRecord {
            role: Role::Source,
            capacity: 1,
            version: String::new(),
            session,
            draining: false,
            registered_ms: 0,
        }
    }

    #[test]
    fn unknown_workers_get_a_full_lease_and_silent_ones_expire() {
        let (leases, begin) = (Leases::default(), Instant::now());
        let at = |ms| begin + Duration::from_millis(ms);
        let worker = WorkerId::new("w").unwrap();
        let workers = BTreeMap::from([(worker.clone(), record(7))]);
        assert_eq!(leases.expired(workers.iter(), at(0)), (vec![], at(3_000)), "first seen now");
        assert_eq!(leases.expired(workers.iter(), at(2_999)), (vec![], at(3_000)));
        leases.renew(&worker, 7, at(2_999));
        assert_eq!(leases.expired(workers.iter(), at(5_998)), (vec![], at(5_999)));
        assert_eq!(leases.expired(workers.iter(), at(5_999)).0, [(worker.clone(), 7)]);
        // A report of an older session renews nothing.
        leases.renew(&worker, 6, at(6_000));
        let newer = BTreeMap::from([(worker, record(8))]);
        assert_eq!(
            leases.expired(newer.iter(), at(6_000)),
            (vec![], at(9_000)),
            "a new session has a full lease"
        );
    }
}
