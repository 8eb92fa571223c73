//! The unit that translates one group.
//!
//! Owns when a round is made and how its outcome is told; what a round gives is `rounds`' business.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mirrormesh_core::flow::TopicRules;
use mirrormesh_core::ids::GroupId;
use mirrormesh_kafka::Backoff;
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::{Failure, UnitContext};
use tokio::time::Instant;

use crate::metrics::{GroupGauge, Metrics};
use crate::rounds::Rounds;
use crate::shared::{Registry, Shared};

/// A reading of positions this old is good enough for a round that was not made at a tick.
const FRESH: Duration = Duration::from_secs(1);
/// Pause before the state of the group is read again after a failure, growing to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Checkpoints on their way at a time.
const WRITES_MAX: usize = 100;

/// Translates a group until the unit is to stop.
pub(crate) async fn run(group: GroupId, context: UnitContext, registry: Arc<Registry>, metrics: Metrics) {
    let gauge = metrics.group(&context.flow_id);
    let mut retry = Backoff::new(RETRY_MIN, RETRY_MAX);
    while !context.stop.is_cancelled() {
        let opened = context.stop.run_until_cancelled(Box::pin(open(&group, &context, &registry))).await;
        match opened {
            None => return,
            Some(Ok((shared, rounds))) => {
                return Translating { group, context, shared, rounds, metrics, gauge }.run().await;
            }
            Some(Err(failure)) => {
                context.report.backoff(&failure);
                tracing::debug!(flow = %context.flow_id, %group, %failure, "the group can't be translated yet");
                context.stop.run_until_cancelled(retry.wait()).await;
            }
        }
    }
}

/// The shared parts of the flow, and what was written for the group before.
async fn open(
    group: &GroupId,
    context: &UnitContext,
    registry: &Registry,
) -> Result<(Arc<Shared>, Rounds), Failure> {
    let shared = registry.of(context)?;
    let written = shared.written(group).await?;
    Ok((shared, Rounds::new(group.clone(), written)))
}

struct Translating {
    group: GroupId,
    context: UnitContext,
    shared: Arc<Shared>,
    rounds: Rounds,
    metrics: Metrics,
    gauge: GroupGauge,
}

impl Translating {
    async fn run(mut self) {
        let mut changes = self.context.flow_changes.clone();
        let mut tick = Instant::now().checked_sub(FRESH).unwrap_or_else(Instant::now);
        loop {
            let (spec, clusters) = {
                let view = changes.borrow_and_update();
                (view.flow.spec.clone(), view.flow.clusters.clone())
            };
            let interval = Duration::from_millis(spec.checkpoint_interval_ms.max(1));
            let round = match spec.topic_rules(&clusters) {
                // Boxed: thousands of groups wait most of the time, and then need not hold room for a round.
                Ok(rules) => Box::pin(self.round(&rules, tick)).await,
                Err(error) => Err(Failure::new("PATTERN_INVALID", error.to_string())),
            };
            self.report(round);
            tick = next_tick(self.shared.begun, interval, Instant::now());
            let new_spec = async {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = self.context.stop.cancelled() => return,
                () = tokio::time::sleep_until(tick) => {}
                // The next round follows the new specification at once.
                () = new_spec => tick = Instant::now(),
            }
        }
    }

    /// One round; how many partitions wait for their records. Reading ends when the unit is to stop; writing is
    /// carried through, so that nothing is on the way once the unit is released.
    async fn round(&mut self, rules: &TopicRules, tick: Instant) -> Result<usize, Failure> {
        let time_ms = i64::try_from(now_ms()).unwrap_or(i64::MAX);
        let (shared, group) = (Arc::clone(&self.shared), &self.group);
        let read = async {
            let committed = shared.committed(group).await?;
            shared.refresh_positions(tick).await?;
            Ok::<_, Failure>(committed)
        };
        let Some(committed) = self.context.stop.run_until_cancelled(read).await else { return Ok(0) };
        let round = self
            .rounds
            .round(committed?, rules, |topic, partition, offset| shared.translate(topic, partition, offset));
        for some in round.checkpoints.chunks(WRITES_MAX) {
            let writes = some.iter().map(|checkpoint| shared.write(checkpoint, time_ms));
            for (checkpoint, written) in some.iter().zip(join_all(writes).await) {
                written?;
                self.rounds.written(checkpoint);
                self.metrics.checkpoint_written(&self.context.flow_id);
            }
        }
        Ok(round.pending)
    }

    fn report(&self, round: Result<usize, Failure>) {
        match round {
            Ok(pending) => {
                self.gauge.set(pending);
                let message = match pending {
                    0 => String::new(),
                    _ => format!("{pending} partitions wait for their newest offset to be mirrored"),
                };
                self.context.report.running(&message);
            }
            Err(failure) => {
                // Thousands of groups fail together with their cluster: the report says it, the log only on demand.
                self.context.report.backoff(&failure);
                let (flow, group) = (&self.context.flow_id, &self.group);
                tracing::debug!(%flow, %group, %failure, "a round failed");
            }
        }
    }
}

/// The next whole number of intervals after `begun`, so that all groups of a flow wake together.
fn next_tick(begun: Instant, interval: Duration, now: Instant) -> Instant {
    let passed = now.duration_since(begun).as_nanos();
    let interval = interval.as_nanos().max(1);
    let next = (passed / interval + 1).saturating_mul(interval);
    begun + Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_waiting_group_takes_little_memory() {
        let bytes = bytes_of(run);
        assert!(bytes < 6_000, "{bytes} bytes in each of thousands of tasks");
    }

    #[test]
    fn all_groups_of_a_flow_tick_together() {
        let begun = Instant::now();
        let (interval, ms) = (Duration::from_secs(5), Duration::from_millis);
        for (now, next) in [(0, 5_000), (1, 5_000), (4_999, 5_000), (5_000, 10_000), (12_345, 15_000)] {
            assert_eq!(next_tick(begun, interval, begun + ms(now)), begun + ms(next), "{now}");
        }
    }
}
