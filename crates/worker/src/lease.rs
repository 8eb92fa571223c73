//! The worker's lease: does the coordinator still count this worker among the living?
//!
//! Owns the deadline; knows nothing about sessions. The lease counts from the moment at which an acknowledged report
//! was sent, so the worker never believes longer in it than the coordinator does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// What everybody who looks at the lease shares. Views are woken when it begins to hold and when it ends, not by each
/// renewal: thousands of units wait on it.
#[derive(Debug, Clone, Copy)]
struct State {
    end: Option<Instant>,
    /// It was not said to have ended.
    held: bool,
}

impl State {
    fn holds(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| now < end)
    }
}

/// A unit's view of the lease; cheap to clone.
#[derive(Debug, Clone)]
pub struct Lease(watch::Receiver<State>);

impl Lease {
    /// The lease holds now.
    pub fn holds(&self) -> bool {
        self.0.borrow().holds(Instant::now())
    }

    /// Returns once the lease does not hold: at once if it does not now.
    pub async fn lost(&self) {
        let mut states = self.0.clone();
        if !self.holds() {
            return;
        }
        if states.wait_for(|state| !state.held).await.is_err() {
            // Nobody renews it any more; it still runs to its end.
            let end = states.borrow().end;
            if let Some(end) = end {
                tokio::time::sleep_until(end).await;
            }
        }
    }

    /// Returns once the lease holds: at once if it holds now. Never returns when the worker has ended.
    pub async fn regained(&self) {
        let mut states = self.0.clone();
        if states.wait_for(|state| state.holds(Instant::now())).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The side that renews.
#[derive(Debug)]
pub(crate) struct LeaseClock {
    states: watch::Sender<State>,
    _keeper: AbortOnDropHandle<()>,
}

impl LeaseClock {
    /// A lease that does not hold yet. Must be called within a runtime: a task says when the lease ends.
    pub(crate) fn new() -> Self {
        let states = watch::Sender::new(State { end: None, held: false });
        let keeper = tokio::spawn(keep(states.clone()));
        Self { states, _keeper: AbortOnDropHandle::new(keeper) }
    }

    /// A view for units.
    pub(crate) fn lease(&self) -> Lease {
        Lease(self.states.subscribe())
    }

    /// A report sent at `sent` was acknowledged. Never shortens the lease.
    pub(crate) fn renew(&self, sent: Instant, length: Duration) {
        let (now, end) = (Instant::now(), sent + length);
        self.states.send_if_modified(|state| {
            let held = state.held && state.holds(now);
            state.end = state.end.max(Some(end));
            state.held = state.holds(now);
            held != state.held
        });
    }
}

/// Says when the lease has ended.
async fn keep(states: watch::Sender<State>) {
    let mut seen = states.subscribe();
    loop {
        let State { end, held } = *seen.borrow_and_update();
        match end.filter(|_| held) {
            Some(end) => tokio::time::sleep_until(end).await,
            None => drop(seen.changed().await),
        }
        let now = Instant::now();
        states.send_if_modified(|state| {
            let ended = state.held && !state.holds(now);
            state.held &= !ended;
            ended
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

    #[tokio::test(start_paused = true)]
    async fn views_are_woken_when_it_begins_and_ends_but_not_by_renewals() {
        let clock = LeaseClock::new();
        let mut view = clock.lease().0;
        clock.renew(Instant::now(), Duration::from_secs(3));
        assert!(view.has_changed().unwrap(), "it holds now");
        view.mark_unchanged();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            clock.renew(Instant::now(), Duration::from_secs(3));
        }
        assert!(!view.has_changed().unwrap());
        tokio::time::sleep(Duration::from_millis(3_001)).await;
        assert!(view.has_changed().unwrap() && !view.borrow_and_update().held, "it has ended");
        clock.renew(Instant::now(), Duration::from_secs(3));
        assert!(view.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_right_after_its_end_wakes_who_waits_for_it() {
        let clock = LeaseClock::new();
        clock.renew(Instant::now(), Duration::from_secs(3));
        // The clock goes on without the keeper being run, as after a process was stopped.
        tokio::time::advance(Duration::from_secs(4)).await;
        let lease = clock.lease();
        lease.lost().await;
        let waiting = lease.clone();
        let mut regained = std::pin::pin!(waiting.regained());
        assert!(futures::poll!(&mut regained).is_pending());
        clock.renew(Instant::now(), Duration::from_secs(3));
        regained.await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_to_its_end_when_nobody_is_left_to_renew_it() {
        let clock = LeaseClock::new();
        let (lease, begin) = (clock.lease(), Instant::now());
        clock.renew(begin, Duration::from_secs(3));
        drop(clock);
        lease.lost().await;
        assert_eq!(begin.elapsed(), Duration::from_secs(3));
    }
}
