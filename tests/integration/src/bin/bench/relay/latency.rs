//! Added latency at a steady rate, of the source service and of MirrorMaker 2, and of the bare relay: what brokers and
//! clients on the same cores take whoever mirrors.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::mm2::Mm2;
use super::ours::{Ours, rename};
use super::results::Values;
use super::rig::{Rig, Route};
use super::row::{Row, myself};
use super::stream::{Load, Stream, spots};
use crate::load::{self, Counter};

/// The name of this measurement.
pub(crate) const NAME: &str = "latency";
const PARTITIONS: i32 = 4;
/// From when what had waited has been worked off to the first record that counts: Java compiles what it runs.
const WARM_UP: Duration = Duration::from_secs(5);
const START_LIMIT: Duration = Duration::from_mins(2);
/// From the last record that counts until all have been read.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) records_per_second: u64,
    pub(crate) measured: Duration,
}

/// One run of a mirror.
pub(crate) async fn run(rig: &Rig, row: Row, plan: Plan) -> Result<Values> {
    let (serial, route) = (rig.serial(), rig.direct());
    let topic = format!("latency-{serial}");
    load::create_topic(&route.source, &topic, PARTITIONS).await?;
    let (values, target_topic) = match row {
        Row::Source => {
            let target_topic = format!("latency-copy-{serial}");
            let mut ours = Ours::start(rig, serial, &route).await?;
            ours.flow("latency", &topic, rename(&topic, &target_topic)).await?;
            let outcome = measure(&route, &topic, &target_topic, plan);
            let values = ours.explain(outcome)?;
            ours.end()?;
            (values, target_topic)
        }
        Row::Mm2 => {
            let mm2 = Mm2::start(rig, &topic, &route, "none", PARTITIONS)?;
            let target_topic = mm2.target_topic(&topic);
            let outcome = measure(&route, &topic, &target_topic, plan);
            (mm2.explain(outcome)?, target_topic)
        }
        Row::Bare => {
            let target_topic = format!("latency-bare-{serial}");
            load::create_topic(&route.target, &target_topic, PARTITIONS).await?;
            let (partitions, endless) = (PARTITIONS.to_string(), u64::MAX.to_string());
            let mut arguments = vec!["--source", &route.source, "--target", &route.target];
            arguments.extend(["--topic", &topic, "--target-topic", &target_topic]);
            arguments.extend(["--partitions", &partitions, "--records", &endless]);
            let process = myself(rig, "bare-relay", serial, &arguments)?;
            let outcome = measure(&route, &topic, &target_topic, plan);
            (outcome.map_err(|error| error.context(process.log_tail(10)))?, target_topic)
        }
        other => bail!("latency is not measured for {}", other.name()),
    };
    load::delete_topics(&route.source, &[&topic]).await?;
    load::delete_topics(&route.target, &[&target_topic]).await?;
    Ok(values)
}

/// Produces, reads on both sides and compares.
fn measure(route: &Route, topic: &str, target_topic: &str, plan: Plan) -> Result<Values> {
    let spots = spots(&[(topic.to_owned(), target_topic.to_owned(), PARTITIONS)]);
    let longest = START_LIMIT + WARM_UP + plan.measured + END_LIMIT;
    let began = Instant::now();
    let mut stream = Stream::start(route, spots, (Load::Rdkafka, plan.records_per_second), longest)?;
    let mut counter = Counter::new(&route.target, target_topic, PARTITIONS)?;
    while counter.count()? == 0 {
        if began.elapsed() > START_LIMIT {
            bail!("no record arrived within {START_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    stream.read_target();
    while stream.behind() > plan.records_per_second {
        if began.elapsed() > START_LIMIT {
            bail!("{} records behind after {START_LIMIT:?}", stream.behind());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(WARM_UP);
    let from = stream.sent();
    std::thread::sleep(plan.measured);
    let to = stream.sent();
    stream.finish(from..to, END_LIMIT)
}
