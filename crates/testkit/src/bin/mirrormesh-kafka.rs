//! Real Kafka by hand: `fetch` gets the jars, `up` runs a cluster until it is told to end.
#![allow(clippy::print_stdout, reason = "its output is for the person or script that called it")]

use std::io::Write as _;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use mirrormesh_testkit::jars::{self, KafkaVersion};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec, Compiler};

/// Runs real Kafka brokers from Maven's jars.
#[derive(Debug, Parser)]
#[command(name = "mirrormesh-kafka", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Gets the jars of all versions, or of one.
    Fetch {
        /// Only this version.
        #[arg(long, value_enum)]
        version: Option<Version>,
    },
    /// Starts a cluster, prints `bootstrap=HOST:PORT,...` and runs until Ctrl-C or SIGTERM. Its data is removed then.
    Up {
        /// A name for messages.
        #[arg(default_value = "kafka")]
        name: String,
        /// Which Kafka.
        #[arg(long, value_enum, default_value = "4.3")]
        version: Version,
        /// How many brokers: 1 or 3.
        #[arg(long, default_value_t = 1)]
        brokers: usize,
        /// Each broker's largest heap in MiB.
        #[arg(long, default_value_t = 1024)]
        heap_mb: u32,
        /// A server property, `name=value`.
        #[arg(long = "property", value_parser = parse_property)]
        properties: Vec<(String, String)>,
        /// Leave data and logs behind.
        #[arg(long)]
        keep: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    /// Kafka 4.3.
    #[value(name = "4.3")]
    V4_3,
    /// Kafka 3.9.
    #[value(name = "3.9")]
    V3_9,
}

impl From<Version> for KafkaVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::V4_3 => Self::V4_3,
            Version::V3_9 => Self::V3_9,
        }
    }
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not name=value"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    match Arguments::parse().command {
        Command::Fetch { version } => {
            let versions = version.map_or_else(|| KafkaVersion::ALL.to_vec(), |version| vec![version.into()]);
            for version in versions {
                let jars = tokio::task::spawn_blocking(move || jars::ensure(version)).await??;
                println!("Kafka {version}: {}", jars.root().display());
            }
            Ok(())
        }
        Command::Up { name, version, brokers, heap_mb, properties, keep } => {
            let mut spec = ClusterSpec::new(name).version(version.into()).brokers(brokers).heap_mb(heap_mb);
            spec = spec.compiler(Compiler::Full);
            spec.properties.extend(properties);
            spec.keep = keep;
            up(spec).await
        }
    }
}

async fn up(spec: ClusterSpec) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let cluster = tokio::select! {
        started = Cluster::start(spec) => started?,
        _ = terminate.recv() => return Ok(()),
        interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
    };
    let pids: Vec<_> = (0..cluster.broker_count()).filter_map(|broker| cluster.pid(broker)).collect();
    println!("directory={}", cluster.directory().display());
    println!("pids={}", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    println!("bootstrap={}", cluster.bootstrap());
    std::io::stdout().flush()?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}
