//! What all rows share: the two clusters, where things are kept, and the wait for the target.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec, Compiler};

use super::results::Values;
use crate::load::{Counter, DataSet};
use crate::measure::{Usage, usage};

/// How often the target is looked at.
const LOOK_STEP: Duration = Duration::from_millis(10);
/// A row that is slower than this is given up.
const BYTES_PER_SECOND_MIN: u64 = 2_000_000;
/// As with bytes, for small records.
const RECORDS_PER_SECOND_MIN: u64 = 2_000;
/// What a row has on top of that to start: Java takes its time on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(2);
const HEAP_MB: u32 = 1_024;

/// Two clusters of one broker each, on this machine.
pub(crate) struct Rig {
    pub(crate) source: Cluster,
    pub(crate) target: Cluster,
    folder: PathBuf,
    serial: AtomicU32,
}

/// By which addresses a row reaches the clusters.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) source: String,
    pub(crate) target: String,
}

impl Rig {
    /// Starts the clusters. What rows log is kept in `folder`.
    pub(crate) async fn start(folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let spec = |name: &str| {
            let spec = ClusterSpec::new(name).heap_mb(HEAP_MB).compiler(Compiler::Full).proxied();
            // What a row wrote is gone before the next one has filled the page cache.
            spec.property("log.segment.delete.delay.ms", "500")
        };
        let (source, target) =
            tokio::try_join!(Cluster::start(spec("source")), Cluster::start(spec("target")))?;
        Ok(Self { source, target, folder, serial: AtomicU32::new(0) })
    }

    /// Straight to the brokers, or through proxies that delay every byte.
    pub(crate) fn route(&self, delay_each_way: Duration) -> Route {
        if delay_each_way.is_zero() {
            return self.direct();
        }
        self.delay(delay_each_way);
        Route { source: self.source.bootstrap(), target: self.target.bootstrap() }
    }

    fn delay(&self, each_way: Duration) {
        for proxy in self.source.proxies().chain(self.target.proxies()) {
            proxy.delay(each_way);
        }
    }

    /// Straight to the source, and to the target through a proxy that can be blocked.
    pub(crate) fn blockable(&self) -> Route {
        self.delay(Duration::ZERO);
        Route { source: self.source.direct_bootstrap(), target: self.target.bootstrap() }
    }

    /// Straight to the brokers.
    pub(crate) fn direct(&self) -> Route {
        Route { source: self.source.direct_bootstrap(), target: self.target.direct_bootstrap() }
    }

    /// A number that no other row of this run has.
    pub(crate) fn serial(&self) -> u32 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Where to keep things: logs of rows, also of those that went well.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The moment at which the first records were seen at the far end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct First {
    pub(crate) at: Instant,
    pub(crate) usage: Usage,
    pub(crate) count: u64,
}

impl First {
    pub(crate) fn now(pid: u32, count: u64) -> Result<Self> {
        Ok(Self { at: Instant::now(), usage: usage(pid)?, count })
    }
}

/// Waits until the target holds exactly the data set. What counts is the stretch from the first records seen there to
/// the last: the start of a Java machine is a figure of its own.
pub(crate) fn watch(counter: &mut Counter, set: &DataSet, pid: u32, began: Instant) -> Result<Values> {
    let least = (set.bytes() / BYTES_PER_SECOND_MIN).max(set.records / RECORDS_PER_SECOND_MIN)
        + START_LIMIT.as_secs();
    let limit = Duration::from_secs(least);
    let mut first = None;
    loop {
        let counts = counter.counts()?;
        let count: u64 = counts.iter().sum();
        if count == set.records {
            check_spread(set, &counts)?;
            let first = first.map_or_else(|| First::now(pid, 0), Ok)?;
            return Ok(figures(set, began, first, usage(pid)?));
        }
        if count > set.records {
            bail!(
                "the target holds {count} records, but only {} were produced: some are doubled",
                set.records
            );
        }
        if began.elapsed() > limit {
            bail!("the target holds {count} of {} records after {limit:?}", set.records);
        }
        let now = First::now(pid, count)?;
        if first.is_none() && count > 0 {
            first = Some(now);
        }
        std::thread::sleep(LOOK_STEP);
    }
}

/// Records lie in the partitions that they were in: the n-th one in partition n modulo their number.
fn check_spread(set: &DataSet, counts: &[u64]) -> Result<()> {
    let partitions = u64::try_from(counts.len())?;
    for (partition, &count) in (0_u64..).zip(counts) {
        let produced = (set.records + partitions - 1 - partition) / partitions;
        if count != produced {
            bail!("partition {partition} of the target holds {count} records, the source's holds {produced}");
        }
    }
    Ok(())
}

/// Turns a stretch into figures; `end` is the usage at its end, which is now.
pub(crate) fn figures(set: &DataSet, began: Instant, first: First, end: Usage) -> Values {
    let seconds = first.at.elapsed().as_secs_f64();
    // The set was all there when it was first looked at: better the whole run than nothing.
    let whole = set.records - first.count < set.records / 10 || seconds <= 0.0;
    let (seconds, records, used) = if whole {
        (began.elapsed().as_secs_f64(), set.records, end)
    } else {
        (seconds, set.records - first.count, end.since(first.usage))
    };
    let bytes = records as f64 * set.value_bytes as f64;
    let per_gb = 1e9 / bytes;
    Values::from([
        ("seconds", seconds),
        ("to_first_s", (first.at - began).as_secs_f64()),
        ("mb_per_s", bytes / 1e6 / seconds),
        ("records_per_s", records as f64 / seconds),
        ("core_s_per_gb", used.cpu_s() * per_gb),
        ("user_s_per_gb", used.user_s * per_gb),
        ("core_s_per_mrec", used.cpu_s() * 1e6 / records as f64),
        ("peak_mb", end.peak_bytes as f64 / 1e6),
    ])
}
