//! How cost grows with partitions and with flows, at the same total rate: CPU, memory, connections and latency.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::idle::{create, topics, wait_running};
use super::ours::{Ours, identity};
use super::results::Values;
use super::rig::Rig;
use super::stream::{Load, Spot, Stream, spots};
use crate::load;
use crate::measure::{sockets, usage};

/// The name of this measurement.
pub(crate) const NAME: &str = "cost";
/// What is the same at all points.
pub(crate) const ABOUT: &str = "One source service, 5,000 records of 1 KB a second in all, spread evenly.";
const RECORDS_PER_SECOND: u64 = 5_000;
const START_LIMIT: Duration = Duration::from_mins(5);
const WARM_UP: Duration = Duration::from_secs(10);
/// The first record of each partition has both brokers write a checkpoint through to the disk.
const SETTLE_LIMIT: Duration = Duration::from_mins(5);
const MEASURED: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_mins(1);
/// The partitions that are spread over the flows.
const FLOW_PARTITIONS: i32 = 64;

/// One point: so many partitions in all, spread over so many flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) partitions: i32,
    pub(crate) flows: i32,
}

/// All points: flows at the same number of partitions, then partitions at one flow. In this order: what many partitions
/// leave in the registry and in the positions topics is read by every later flow.
pub(crate) fn points(partitions_max: i32) -> Vec<Point> {
    let partitions = [1, 10, 100, 1_000, 10_000].into_iter().filter(|&p| p <= partitions_max);
    let flows = [1, 4, 16].map(|flows| Point { partitions: FLOW_PARTITIONS, flows });
    flows.into_iter().chain(partitions.map(|partitions| Point { partitions, flows: 1 })).collect()
}

/// Measures one point with a mesh of its own.
pub(crate) async fn run(rig: &Rig, point: Point) -> Result<Values> {
    let (serial, route) = (rig.serial(), rig.direct());
    let mut flows = Vec::new();
    for n in 0..point.flows {
        let prefix = format!("cost{serial}x{n}");
        let made = topics(&prefix, point.partitions / point.flows);
        create(rig, &made).await?;
        flows.push((prefix, made));
    }
    let mut ours = Ours::start(rig, serial, &route).await?;
    for (prefix, _) in &flows {
        ours.flow(prefix, &format!("{prefix}-.*"), identity()).await?;
    }
    for (prefix, made) in &flows {
        let partitions = made.iter().map(|(_, count)| count).sum();
        wait_running(&mut ours, prefix, partitions, START_LIMIT).await?;
    }
    let names: Vec<&(String, i32)> = flows.iter().flat_map(|(_, made)| made).collect();
    let places: Vec<_> = names.iter().map(|(name, count)| (name.clone(), name.clone(), *count)).collect();
    let outcome = measure(&ours, rig, spots(&places));
    let mut values = ours.explain(outcome)?;
    values.extend([("partitions", f64::from(point.partitions)), ("flows", f64::from(point.flows))]);
    ours.end()?;
    let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    load::delete_topics(&route.source, &names).await?;
    load::delete_topics(&route.target, &names).await?;
    Ok(values)
}

fn measure(ours: &Ours, rig: &Rig, spots: Vec<Spot>) -> Result<Values> {
    let longest = WARM_UP * 3 + SETTLE_LIMIT + MEASURED + END_LIMIT;
    let mut stream = Stream::start(&rig.direct(), spots, (Load::Drip, RECORDS_PER_SECOND), longest)?;
    stream.read_target();
    std::thread::sleep(WARM_UP);
    stream.settle(RECORDS_PER_SECOND, SETTLE_LIMIT)?;
    std::thread::sleep(WARM_UP);
    let (before, at, from) = (usage(ours.pid)?, Instant::now(), stream.sent());
    std::thread::sleep(MEASURED);
    let (after, seconds, to) = (usage(ours.pid)?, at.elapsed().as_secs_f64(), stream.sent());
    let connections = sockets(ours.pid)?;
    let rate = (to - from) as f64 / seconds;
    if rate < 0.9 * RECORDS_PER_SECOND as f64 {
        bail!("the load had its records taken at {rate:.0} a second only: the brokers are at their end");
    }
    let mut values = stream.finish(from..to, END_LIMIT)?;
    values.extend([
        ("cpu_percent", 100.0 * after.since(before).cpu_s() / seconds),
        ("resident_mb", after.resident_bytes as f64 / 1e6),
        ("peak_mb", after.peak_bytes as f64 / 1e6),
        ("sockets", connections as f64),
        ("records_per_s", rate),
    ]);
    Ok(values)
}
