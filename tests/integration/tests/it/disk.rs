//! What lies on a broker's disk: batches as the log holds them, which no client shows.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use mirrormesh_testkit::broker::batch::{Batch, split};
use mirrormesh_testkit::kafka::Cluster;

/// A cleaner may take a file away while the folder is read.
const ATTEMPTS: usize = 20;

fn attempt(folder: &PathBuf) -> Result<Vec<Batch>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            segments.push(path);
        }
    }
    segments.sort();
    let mut batches = Vec::new();
    for segment in segments {
        let bytes = std::fs::read(&segment)?;
        batches.extend(split(bytes.into()).map_err(|_| anyhow!("{} holds no batches", segment.display()))?);
    }
    Ok(batches)
}

/// All batches of a partition on the cluster's first broker, as of now.
pub(crate) async fn batches(cluster: &Cluster, topic: &str, partition: i32) -> Result<Vec<Batch>> {
    let folder = cluster.directory().join("broker-0/data").join(format!("{topic}-{partition}"));
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match attempt(&folder) {
            Ok(batches) => return Ok(batches),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Err(last.unwrap_or_else(|| anyhow!("not tried")))
}
