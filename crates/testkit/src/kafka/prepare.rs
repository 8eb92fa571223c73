//! What makes a start quick: made once per version, kept beside the jars.
//!
//! - `bootstrap.checkpoint`: what Kafka's `StorageTool` writes into a data directory. It holds the feature levels
//!   only, so formatting is a copy of it and a `meta.properties` with the ids; that saves a Java start per broker.
//! - `classes-*.jsa`: an archive of the parsed classes of a broker (class data sharing). It halves the time to start.
//!   It fits only the build of Java that made it, hence the build's number in the name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::jars::JarDir;
use crate::java::Runtime;
use crate::process::Signal;
use crate::watchdog::WatchedDirectory;

use super::archive::archive;
use super::launch;
use super::node::Node;
use super::properties;
use super::spec::ClusterSpec;
use super::{probe, random_id};

const CHECKPOINT: &str = "bootstrap.checkpoint";
/// The training broker has this long to start, and again to write its archive.
const TRAINING_TIMEOUT: Duration = Duration::from_mins(2);
const TRAINING_STEP: Duration = Duration::from_millis(20);

/// Makes what is missing. Blocks; several processes may call it at once.
pub(super) fn ensure(jars: &JarDir) -> Result<()> {
    let archive = archive(jars)?;
    let checkpoint = jars.root().join(CHECKPOINT);
    if checkpoint.is_file() && archive.is_file() {
        return Ok(());
    }
    let _lock = jars.lock()?;
    let directory = WatchedDirectory::new("prepare", false)?;
    if !checkpoint.is_file() {
        make_checkpoint(jars, directory.path(), &checkpoint)?;
    }
    if !archive.is_file() {
        make_archive(jars, directory.path(), &archive)?;
    }
    Ok(())
}

/// Writes a node's properties and its formatted, empty data directory.
pub(super) fn format(
    jars: &JarDir,
    directory: &Path,
    server_properties: &str,
    cluster_id: &str,
    node_id: usize,
) -> Result<()> {
    let data = directory.join("data");
    fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
    fs::write(launch::properties_file(directory), server_properties)
        .context("cannot write server.properties")?;
    fs::copy(jars.root().join(CHECKPOINT), data.join(CHECKPOINT))
        .with_context(|| format!("cannot copy {CHECKPOINT} of Kafka {}", jars.version()))?;
    let meta = BTreeMap::from([
        ("version".to_owned(), "1".to_owned()),
        ("cluster.id".to_owned(), cluster_id.to_owned()),
        ("node.id".to_owned(), node_id.to_string()),
        ("directory.id".to_owned(), random_id()),
    ]);
    fs::write(data.join("meta.properties"), properties::render(&meta)).context("cannot write meta.properties")
}

/// Formats a directory with Kafka's own tool and keeps the file.
fn make_checkpoint(jars: &JarDir, directory: &Path, checkpoint: &Path) -> Result<()> {
    let data = directory.join("formatted");
    let settings = directory.join("format.properties");
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n\
         listeners=DIRECT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=DIRECT\n\
         listener.security.protocol.map=DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n",
        data.display()
    );
    fs::write(&settings, text).context("cannot write the properties for StorageTool")?;
    let output = Command::new(Runtime::find()?.program())
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars.class_path())
        .args(["kafka.tools.StorageTool", "format", "-t", &random_id(), "-c"])
        .arg(&settings)
        .stdin(Stdio::null())
        .output()
        .context("cannot run Kafka's StorageTool")?;
    if !output.status.success() {
        bail!("Kafka's StorageTool failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    move_into_place(&data.join(CHECKPOINT), checkpoint)
}

/// Runs a broker until it answers and lets it write the archive at its end.
fn make_archive(jars: &JarDir, directory: &Path, archive: &Path) -> Result<()> {
    tracing::info!("making the class archive of Kafka {}", jars.version());
    let spec = ClusterSpec::new("training").version(jars.version());
    let nodes = [Node::reserve(false)?];
    let home = directory.join("training");
    let text = properties::render(&properties::server(&spec, &nodes, 0, &home)?);
    format(jars, &home, &text, &random_id(), 1)?;
    let made = directory.join("classes.jsa");
    let options = vec![
        "-Xmx512m".to_owned(),
        "-XX:+UseSerialGC".to_owned(),
        format!("-XX:ArchiveClassesAtExit={}", made.display()),
    ];
    let broker = launch::broker(jars, options, &home)?.spawn()?;
    let address = nodes.iter().map(Node::direct_address).collect::<String>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime to prepare Kafka")?;
    runtime.block_on(async {
        let deadline = Instant::now() + TRAINING_TIMEOUT;
        while probe::brokers(&address).await.ok() != Some(vec![1]) {
            if !broker.is_running() || Instant::now() >= deadline {
                bail!("Kafka {} does not start; its log ends:\n{}", jars.version(), broker.log_tail(30));
            }
            tokio::time::sleep(TRAINING_STEP).await;
        }
        broker.signal(Signal::Term)?;
        broker.wait(TRAINING_TIMEOUT).await
    })?;
    move_into_place(&made, archive)
}

/// Appears whole or not at all.
fn move_into_place(made: &Path, place: &Path) -> Result<()> {
    let mut staging = place.as_os_str().to_owned();
    staging.push(".staging");
    fs::copy(made, &staging).with_context(|| format!("{} was not made", made.display()))?;
    fs::rename(&staging, place).with_context(|| format!("cannot make {}", place.display()))
}
