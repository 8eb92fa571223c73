//! Thousands of partitions that nobody writes to: what it costs to watch them.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::ours::{Ours, identity};
use super::results::Values;
use super::rig::Rig;
use crate::load;
use crate::measure::{sockets, usage};

/// The name of this measurement.
pub(crate) const NAME: &str = "idle";
/// Partitions of one topic; more in one request than this is hard on a single broker.
const TOPIC_PARTITIONS: i32 = 1_000;
const START_LIMIT: Duration = Duration::from_mins(5);
/// After all are running, until the measurement begins.
const SETTLE: Duration = Duration::from_secs(10);

/// How much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) partitions: i32,
    pub(crate) measured: Duration,
}

/// Names of the topics that hold so many partitions, and how many each has.
pub(crate) fn topics(prefix: &str, partitions: i32) -> Vec<(String, i32)> {
    let whole = (0..partitions / TOPIC_PARTITIONS).map(|n| (n, TOPIC_PARTITIONS));
    let rest = partitions % TOPIC_PARTITIONS;
    let last = (rest > 0).then_some((partitions / TOPIC_PARTITIONS, rest));
    whole.chain(last).map(|(n, count)| (format!("{prefix}-{n}"), count)).collect()
}

/// Makes topics on both sides: what is measured is watching them.
pub(crate) async fn create(rig: &Rig, topics: &[(String, i32)]) -> Result<()> {
    let create = async |bootstrap: String| -> Result<()> {
        for (topic, count) in topics {
            load::create_topic(&bootstrap, topic, *count).await?;
        }
        Ok(())
    };
    tokio::try_join!(create(rig.source.direct_bootstrap()), create(rig.target.direct_bootstrap()))?;
    Ok(())
}

/// One run; the topics are made and removed.
pub(crate) async fn run(rig: &Rig, plan: Plan) -> Result<Values> {
    let serial = rig.serial();
    let prefix = format!("idle{serial}");
    let topics = topics(&prefix, plan.partitions);
    create(rig, &topics).await?;
    let mut ours = Ours::start(rig, serial, &rig.direct()).await?;
    let began = Instant::now();
    ours.flow("idle", &format!("{prefix}-.*"), identity()).await?;
    wait_running(&mut ours, "idle", plan.partitions, START_LIMIT).await?;
    let started_s = began.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let (before, at) = (usage(ours.pid)?, Instant::now());
    tokio::time::sleep(plan.measured).await;
    let after = usage(ours.pid)?;
    let used = after.since(before);
    let values = Values::from([
        ("partitions", f64::from(plan.partitions)),
        ("start_s", started_s),
        ("cpu_percent", 100.0 * used.cpu_s() / at.elapsed().as_secs_f64()),
        ("resident_mb", after.resident_bytes as f64 / 1e6),
        ("peak_mb", after.peak_bytes as f64 / 1e6),
        ("sockets", sockets(ours.pid)? as f64),
    ]);
    ours.end()?;
    let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
    load::delete_topics(&rig.source.direct_bootstrap(), &names).await?;
    load::delete_topics(&rig.target.direct_bootstrap(), &names).await?;
    Ok(values)
}

/// Waits until so many partitions of a flow are running.
pub(crate) async fn wait_running(
    ours: &mut Ours,
    flow: &str,
    partitions: i32,
    limit: Duration,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ours.api.flow(flow).await;
        let running = answer.as_ref().ok().and_then(|f| f.progress.as_ref()).map(|p| p.partitions_running);
        if running == Some(i64::from(partitions)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let problem = format!("{running:?} of {partitions} partitions run after {limit:?}: {answer:?}");
            return ours.explain(Err(anyhow::anyhow!(problem)));
        }
        if let Ok(flow) = &answer
            && flow.progress.as_ref().is_some_and(|p| p.partitions_stopped > 0)
        {
            bail!("partitions stopped: {flow:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
