//! The worker's lease: does the coordinator still count this worker among the living?
//!
//! Owns the deadline; knows nothing about sessions. The lease counts from the moment at which an acknowledged report
//! was sent, so the worker never believes longer in it than the coordinator does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A unit's view of the lease; cheap to clone.
#[derive(Debug, Clone)]
pub struct Lease(watch::Receiver<Option<Instant>>);

impl Lease {
    /// The lease holds now.
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|end| Instant::now() < end)
    }

    /// Returns once the lease does not hold: at once if it does not now.
    pub async fn lost(&self) {
        let mut ends = self.0.clone();
        loop {
            let end = *ends.borrow_and_update();
            let Some(end) = end else { return };
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                changed = ends.changed() => if changed.is_err() {
                    // Nobody renews it any more; it still runs to its end.
                    tokio::time::sleep_until(end).await;
                    return;
                },
            }
        }
    }

    /// Returns once the lease holds: at once if it holds now. Never returns when the worker has ended.
    pub async fn regained(&self) {
        let mut ends = self.0.clone();
        loop {
            if ends.borrow_and_update().is_some_and(|end| Instant::now() < end) {
                return;
            }
            if ends.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The side that renews.
#[derive(Debug)]
pub(crate) struct LeaseClock(watch::Sender<Option<Instant>>);

impl LeaseClock {
    /// A lease that does not hold yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// A view for units.
    pub(crate) fn lease(&self) -> Lease {
        Lease(self.0.subscribe())
    }

    /// A report sent at `sent` was acknowledged. Never shortens the lease.
    pub(crate) fn renew(&self, sent: Instant, length: Duration) {
        let end = sent + length;
        self.0.send_if_modified(|known| {
            let later = known.is_none_or(|known| known < end);
            if later {
                *known = Some(end);
            }
            later
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_renews_and_comes_back() {
        let clock = LeaseClock::new();
        let lease = clock.lease();
        assert!(!lease.holds());
        lease.lost().await;

        let begin = Instant::now();
        clock.renew(begin, Duration::from_secs(3));
        assert!(lease.holds());
        lease.regained().await;
        clock.renew(begin + Duration::from_secs(1), Duration::from_secs(3));
        clock.renew(begin, Duration::from_secs(1));
        lease.lost().await;
        assert_eq!(begin.elapsed(), Duration::from_secs(4), "an older acknowledgement does not shorten it");
        assert!(!lease.holds());

        let waiting = lease.clone();
        let regained = tokio::spawn(async move { waiting.regained().await });
        clock.renew(Instant::now(), Duration::from_secs(3));
        regained.await.unwrap();
    }
}
