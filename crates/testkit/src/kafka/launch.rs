//! The command line of a broker.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::archive;
use super::spec::{ClusterSpec, Compiler};
use crate::jars::JarDir;
use crate::java::Runtime;
use crate::process::Launch;

/// The command line of a broker whose data and properties are in `directory`.
pub(super) fn launch(jars: &JarDir, spec: &ClusterSpec, directory: &Path) -> Result<Launch> {
    let mut options = vec![format!("-Xmx{}m", spec.heap_mb), format!("-Xms{}m", (spec.heap_mb / 2).max(128))];
    match spec.compiler {
        Compiler::Quick => options.extend(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"].map(String::from)),
        Compiler::Full => options.push("-XX:+UseG1GC".to_owned()),
    }
    options.extend(archive::archive_option(jars)?);
    broker(jars, options, directory)
}

/// As [`launch`], with just these options of the virtual machine.
pub(super) fn broker(jars: &JarDir, options: Vec<String>, directory: &Path) -> Result<Launch> {
    Ok(Launch::new(Runtime::find()?.program(), log_file(directory))
        .args(options)
        .args(["-XX:-UsePerfData", "-Djava.awt.headless=true"])
        .arg(format!("-XX:ErrorFile={}", directory.join("crash.log").display()))
        .arg(jars.logging_argument())
        .arg(format!("-Dkafka.logs.dir={}", directory.display()))
        .arg("-cp")
        .arg(jars.class_path())
        .arg("kafka.Kafka")
        .arg(properties_file(directory).display().to_string())
        .current_dir(directory))
}

pub(super) fn log_file(directory: &Path) -> PathBuf {
    directory.join("broker.log")
}

pub(super) fn properties_file(directory: &Path) -> PathBuf {
    directory.join("server.properties")
}
