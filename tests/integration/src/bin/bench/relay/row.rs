//! The rows: what copies the data, each in a process of its own, and one run of one of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use mirrormesh_testkit::process::{Launch, Process};

use super::franz;
use super::mm2::Mm2;
use super::ours::{Ours, rename};
use super::results::Values;
use super::rig::{Look, Rig, Route, figures, watch};
use super::sets::Set;
use crate::floor::Ends;
use crate::load::{self, Counter, DataSet};

/// What copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Row {
    /// The source service.
    Source,
    /// The source service with the same data, but timestamps of now.
    SourceNew,
    /// The rdkafka loop with batches of 1 MB.
    Rdkafka,
    /// The rdkafka loop with batches as large as the source's.
    RdkafkaSame,
    /// The franz-go loop with batches of 1 MB.
    Franz,
    /// The franz-go loop with batches as large as the source's.
    FranzSame,
    /// MirrorMaker 2.
    Mm2,
    /// Our client without any safety.
    Bare,
    /// A TCP relay without Kafka.
    Floor,
}

impl Row {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 9] = [
        Self::Source,
        Self::SourceNew,
        Self::Rdkafka,
        Self::RdkafkaSame,
        Self::Franz,
        Self::FranzSame,
        Self::Mm2,
        Self::Bare,
        Self::Floor,
    ];

    /// Its name in arguments and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::SourceNew => "source-new",
            Self::Rdkafka => "rdkafka",
            Self::RdkafkaSame => "rdkafka-same",
            Self::Franz => "franz",
            Self::FranzSame => "franz-same",
            Self::Mm2 => "mm2",
            Self::Bare => "bare",
            Self::Floor => "floor",
        }
    }

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Source => "source service",
            Self::SourceNew => "source service, new records",
            Self::Rdkafka => "rdkafka loop, 1 MB batches",
            Self::RdkafkaSame => "rdkafka loop, same batches",
            Self::Franz => "franz-go loop, 1 MB batches",
            Self::FranzSame => "franz-go loop, same batches",
            Self::Mm2 => "MirrorMaker 2",
            Self::Bare => "bare relay",
            Self::Floor => "floor: TCP relay",
        }
    }

    /// Why it cannot run on this machine, if it cannot.
    pub(crate) fn missing(self) -> Option<String> {
        matches!(self, Self::Franz | Self::FranzSame).then(franz::missing).flatten()
    }
}

/// One run of a row over a data set that lies in the source cluster.
pub(crate) async fn run(rig: &Rig, row: Row, set: &Set) -> Result<Values> {
    let (route, data) = (rig.route(set.delay), &set.data);
    let batch_bytes = data.batch_bytes.to_string();
    let same_batches = ["--batch-bytes", &batch_bytes];
    match row {
        Row::Source => source(rig, data, &route).await,
        Row::SourceNew => source(rig, &data.new_records(), &route).await,
        Row::Mm2 => mm2(rig, data, &route, set.mm2_stretch).await,
        Row::Floor => floor(rig, data),
        Row::Rdkafka => rdkafka(rig, data, &route, &[]).await,
        Row::RdkafkaSame => rdkafka(rig, data, &route, &same_batches).await,
        Row::Franz => franz(rig, data, &route, &[]).await,
        Row::FranzSame => franz(rig, data, &route, &same_batches).await,
        Row::Bare => {
            child(rig, data, &route, &[], |serial, arguments| myself(rig, "bare-relay", serial, arguments))
                .await
        }
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
    let watched = watch(&mut counter(rig, &target_topic, set)?, set, ours.pid, began, None);
    let mut values = ours.explain(watched)?;
    values.extend(ours.figures().await?);
    ours.end()?;
    load::delete_topics(&rig.target.direct_bootstrap(), &[&target_topic]).await?;
    Ok(values)
}

async fn mm2(rig: &Rig, set: &DataSet, route: &Route, stretch: Option<Duration>) -> Result<Values> {
    let began = Instant::now();
    let mm2 = Mm2::start(rig, &set.topic, route, set.codec, set.partitions)?;
    let target_topic = mm2.target_topic(&set.topic);
    let watched = watch(&mut counter(rig, &target_topic, set)?, set, mm2.pid(), began, stretch);
    let values = mm2.explain(watched)?;
    drop(mm2);
    load::delete_topics(&rig.target.direct_bootstrap(), &[&target_topic]).await?;
    Ok(values)
}

pub(super) fn myself(rig: &Rig, name: &str, serial: u32, arguments: &[&str]) -> Result<Process> {
    let log = rig.folder().join(format!("{name}-{serial}.log"));
    Launch::new(std::env::current_exe()?, log).arg(name).args(arguments.iter().copied()).spawn()
}

async fn rdkafka(rig: &Rig, set: &DataSet, route: &Route, more: &[&str]) -> Result<Values> {
    let more = [more, &["--codec", set.codec]].concat();
    child(rig, set, route, &more, |serial, arguments| myself(rig, "rdkafka-loop", serial, arguments)).await
}

async fn franz(rig: &Rig, set: &DataSet, route: &Route, more: &[&str]) -> Result<Values> {
    let program = franz::build(rig)?;
    let more = [more, &["--compression", set.codec]].concat();
    child(rig, set, route, &more, |serial, arguments| franz::start(rig, &program, serial, arguments)).await
}

/// A row that is a program which copies one topic; `start` gets the serial number and the arguments.
async fn child(
    rig: &Rig,
    set: &DataSet,
    route: &Route,
    more: &[&str],
    start: impl FnOnce(u32, &[&str]) -> Result<Process>,
) -> Result<Values> {
    let serial = rig.serial();
    let target_topic = format!("child-{serial}");
    let direct = rig.target.direct_bootstrap();
    let topic = load::keeps_all(&target_topic, set.partitions).replicas(rig.replicas);
    load::create(&direct, &topic).await?;
    let (partitions, records) = (set.partitions.to_string(), set.records.to_string());
    let mut arguments = vec!["--source", &route.source, "--target", &route.target];
    arguments.extend(["--topic", &set.topic, "--target-topic", &target_topic]);
    arguments.extend(["--partitions", &partitions, "--records", &records]);
    arguments.extend(more);
    let began = Instant::now();
    let process = start(serial, &arguments)?;
    let watched = watch(&mut counter(rig, &target_topic, set)?, set, process.pid(), began, None);
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
    ends.pass(set.bytes(), || first = Some(Look::now(process.pid(), 0)))?;
    let last = Look::now(process.pid(), set.records)?;
    let first = first.unwrap_or_else(|| Look::now(process.pid(), 0))?;
    Ok(figures(set, began, first, last))
}
