//! The rows: what copies the data, each in a process of its own, and one run of one of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use mirrormesh_testkit::process::{Launch, Process};

use super::mm2::Mm2;
use super::ours::{Ours, rename};
use super::results::Values;
use super::rig::{First, Rig, Route, figures, watch};
use crate::floor::Ends;
use crate::load::{self, Counter, DataSet};
use crate::measure::usage;

/// What copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Row {
    /// The source service.
    Source,
    /// The rdkafka loop with batches of 1 MB.
    Rdkafka,
    /// The rdkafka loop with batches as large as the source's.
    RdkafkaSame,
    /// MirrorMaker 2.
    Mm2,
    /// Our client without any safety.
    Bare,
    /// A TCP relay without Kafka.
    Floor,
}

impl Row {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 6] =
        [Self::Source, Self::Rdkafka, Self::RdkafkaSame, Self::Mm2, Self::Bare, Self::Floor];

    /// Its name in arguments and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Rdkafka => "rdkafka",
            Self::RdkafkaSame => "rdkafka-same",
            Self::Mm2 => "mm2",
            Self::Bare => "bare",
            Self::Floor => "floor",
        }
    }

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Source => "source service",
            Self::Rdkafka => "rdkafka loop, 1 MB batches",
            Self::RdkafkaSame => "rdkafka loop, same batches",
            Self::Mm2 => "MirrorMaker 2",
            Self::Bare => "bare relay",
            Self::Floor => "floor: TCP relay",
        }
    }
}

/// One run of a row over a data set that lies in the source cluster.
pub(crate) async fn run(rig: &Rig, row: Row, set: &DataSet, delay: Duration) -> Result<Values> {
    let route = rig.route(delay);
    match row {
        Row::Source => source(rig, set, &route).await,
        Row::Mm2 => mm2(rig, set, &route).await,
        Row::Floor => floor(rig, set),
        Row::Rdkafka => {
            let more = ["--codec", set.codec];
            child(rig, "rdkafka-loop", set, &route, &more).await
        }
        Row::RdkafkaSame => {
            let batch_bytes = set.batch_bytes.to_string();
            let more = ["--codec", set.codec, "--batch-bytes", &batch_bytes];
            child(rig, "rdkafka-loop", set, &route, &more).await
        }
        Row::Bare => child(rig, "bare-relay", set, &route, &[]).await,
    }
}

fn counter(rig: &Rig, topic: &str, set: &DataSet) -> Result<Counter> {
    Counter::new(&rig.target.direct_bootstrap(), topic, set.partitions)
}

async fn source(rig: &Rig, set: &DataSet, route: &Route) -> Result<Values> {
    let serial = rig.serial();
    let target_topic = format!("source-{serial}");
    let mut ours = Ours::start(rig, serial, route).await?;
    let began = Instant::now();
    ours.flow("bench", &set.topic, rename(&set.topic, &target_topic)).await?;
    let watched = watch(&mut counter(rig, &target_topic, set)?, set, ours.pid, began);
    let mut values = ours.explain(watched)?;
    values.extend(ours.paths().await?);
    ours.end()?;
    load::delete_topics(&rig.target.direct_bootstrap(), &[&target_topic]).await?;
    Ok(values)
}

async fn mm2(rig: &Rig, set: &DataSet, route: &Route) -> Result<Values> {
    let began = Instant::now();
    let mm2 = Mm2::start(rig, &set.topic, route, set.codec, set.partitions)?;
    let target_topic = mm2.target_topic(&set.topic);
    let watched = watch(&mut counter(rig, &target_topic, set)?, set, mm2.pid(), began);
    let values = mm2.explain(watched)?;
    drop(mm2);
    load::delete_topics(&rig.target.direct_bootstrap(), &[&target_topic]).await?;
    Ok(values)
}

pub(super) fn myself(rig: &Rig, name: &str, serial: u32, arguments: &[&str]) -> Result<Process> {
    let log = rig.folder().join(format!("{name}-{serial}.log"));
    Launch::new(std::env::current_exe()?, log).arg(name).args(arguments.iter().copied()).spawn()
}

/// A row that is this program again, under another command.
async fn child(rig: &Rig, name: &str, set: &DataSet, route: &Route, more: &[&str]) -> Result<Values> {
    let serial = rig.serial();
    let target_topic = format!("{name}-{serial}");
    let direct = rig.target.direct_bootstrap();
    load::create_topic(&direct, &target_topic, set.partitions).await?;
    let (partitions, records) = (set.partitions.to_string(), set.records.to_string());
    let mut arguments = vec!["--source", &route.source, "--target", &route.target];
    arguments.extend(["--topic", &set.topic, "--target-topic", &target_topic]);
    arguments.extend(["--partitions", &partitions, "--records", &records]);
    arguments.extend(more);
    let began = Instant::now();
    let process = myself(rig, name, serial, &arguments)?;
    let watched = watch(&mut counter(rig, &target_topic, set)?, set, process.pid(), began);
    let values = watched.map_err(|error| error.context(process.log_tail(10)))?;
    drop(process);
    load::delete_topics(&direct, &[&target_topic]).await?;
    Ok(values)
}

fn floor(rig: &Rig, set: &DataSet) -> Result<Values> {
    let ends = Ends::listen()?;
    let (from, to) = ends.addresses()?;
    let began = Instant::now();
    let process = myself(rig, "tcp-relay", rig.serial(), &["--from", &from, "--to", &to])?;
    let mut first = None;
    ends.pass(set.bytes(), || first = Some(First::now(process.pid(), 0)))?;
    let end = usage(process.pid())?;
    let first = first.unwrap_or_else(|| First::now(process.pid(), 0))?;
    Ok(figures(set, began, first, end))
}
