//! MirrorMaker 2 in its dedicated mode, at least once, with the JVM options of `connect-mirror-maker.sh` and no setting
//! but those that a single broker and the bench demand.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use mirrormesh_testkit::java::Program;
use mirrormesh_testkit::process::Process;

use super::rig::{Rig, Route};

/// `connect-mirror-maker.sh` and `kafka-run-class.sh` of Kafka 4.3.
const OPTIONS: [&str; 7] = [
    "-Xms256M",
    "-Xmx2G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

/// A running MirrorMaker 2.
pub(crate) struct Mm2 {
    process: Process,
    alias: String,
}

impl Mm2 {
    /// Starts it. The alias of its source is new each time, so that it finds nothing that an earlier one left.
    pub(crate) fn start(rig: &Rig, topics: &str, route: &Route, codec: &str, tasks: i32) -> Result<Self> {
        let serial = rig.serial();
        let alias = format!("mm2s{serial}");
        let file = rig.folder().join(format!("mm2-{serial}.properties"));
        std::fs::write(&file, properties(&alias, topics, route, codec, tasks)?)
            .with_context(|| format!("writing {}", file.display()))?;
        let process = Program::new(rig.source.jars(), "org.apache.kafka.connect.mirror.MirrorMaker")
            .options(OPTIONS)
            .args([file.display().to_string()])
            .spawn(rig.folder().join(format!("mm2-{serial}.log")))?;
        Ok(Self { process, alias })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How it names a topic on the target.
    pub(crate) fn target_topic(&self, topic: &str) -> String {
        format!("{}.{topic}", self.alias)
    }

    /// Adds what it said to a failure.
    pub(crate) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| error.context(format!("MirrorMaker 2 said:\n{}", self.process.log_tail(10))))
    }
}

fn properties(alias: &str, topics: &str, route: &Route, codec: &str, tasks: i32) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "clusters = {alias}, dst")?;
    writeln!(text, "{alias}.bootstrap.servers = {}", route.source)?;
    writeln!(text, "dst.bootstrap.servers = {}", route.target)?;
    writeln!(text, "{alias}->dst.enabled = true")?;
    writeln!(text, "{alias}->dst.topics = {topics}")?;
    writeln!(text, "dst->{alias}.enabled = false")?;
    writeln!(text, "tasks.max = {tasks}")?;
    if codec != "none" {
        writeln!(text, "dst.producer.compression.type = {codec}")?;
    }
    writeln!(text, "replication.factor = 1")?;
    for topic in ["checkpoints.topic", "heartbeats.topic", "offset-syncs.topic"] {
        writeln!(text, "{topic}.replication.factor = 1")?;
    }
    for storage in ["offset", "status", "config"] {
        writeln!(text, "{storage}.storage.replication.factor = 1")?;
    }
    Ok(text)
}
