//! What passing a batch costs this process, measured while it runs.
//!
//! Owns the processor's clock and what was sent since it was looked at last; the arithmetic is core's. Whoever brings
//! counts looks at the clock once a second has passed: nothing runs while nothing is sent.

use std::time::{Duration, Instant};

use mirrormesh_relay::economy::{PassingCost, Spent};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// How long is measured at a time.
const STEP: Duration = Duration::from_secs(1);
/// What was measured over a much longer time tells of idleness.
const STEP_MAX: Duration = Duration::from_secs(3);

/// The measurement that all partitions of a worker share.
#[derive(Debug)]
pub(crate) struct Costs {
    // Lock: held for some arithmetic, a few times a second by each busy partition.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cost: PassingCost,
    sent: Spent,
    since: Instant,
    cpu: Duration,
}

impl Costs {
    pub(crate) fn new() -> Self {
        let (cost, sent) = (PassingCost::default(), Spent::default());
        Self { state: Mutex::new(State { cost, sent, since: Instant::now(), cpu: cpu_time() }) }
    }

    /// Batches that went as they were, batches that were made here, bytes of both. Says what passing one costs, ns.
    pub(crate) fn sent(&self, passed: u64, made: u64, bytes: u64) -> u64 {
        let mut state = self.state.lock();
        state.sent.passed += passed;
        state.sent.made += made;
        state.sent.bytes += bytes;
        let elapsed = state.since.elapsed();
        if elapsed >= STEP {
            let cpu = cpu_time();
            if elapsed <= STEP_MAX {
                let cpu_ns = cpu.saturating_sub(state.cpu).as_nanos();
                let spent = Spent { cpu_ns: u64::try_from(cpu_ns).unwrap_or(u64::MAX), ..state.sent };
                state.cost.seen(spent);
            }
            (state.sent, state.since, state.cpu) = (Spent::default(), Instant::now(), cpu);
        }
        state.cost.ns()
    }
}

/// Processor time of the whole process so far.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_goes_on_with_work() {
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time() > before);
    }

    #[test]
    fn a_second_of_passing_is_measured_and_idleness_is_not() {
        let costs = Costs::new();
        let first = costs.sent(0, 0, 0);
        let back = |costs: &Costs, by: Duration| {
            let mut state = costs.state.lock();
            state.since = state.since.checked_sub(by).unwrap();
            state.cpu = Duration::ZERO;
        };
        // Much was done for few batches: passing is dear.
        back(&costs, STEP);
        let dear = costs.sent(1_000, 0, 0);
        assert_ne!(dear, first);
        back(&costs, STEP_MAX + STEP);
        assert_eq!(costs.sent(1_000, 0, 0), dear, "too long ago");
        back(&costs, STEP);
        assert_eq!(costs.sent(0, 1_000, 0), dear, "nothing passed");
    }
}
