//! What all rows share: the two clusters, where things are kept, and the wait for the target.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec, Compiler};

use super::results::Values;
use crate::load::{Counter, DataSet};
use crate::measure::{Usage, usage};

/// How often the target is looked at, for each [`LOOK_PARTITIONS`] partitions: a look asks for every partition.
const LOOK_STEP: Duration = Duration::from_millis(10);
const LOOK_PARTITIONS: u32 = 16;
/// A row that is slower than this is given up.
const BYTES_PER_SECOND_MIN: u64 = 2_000_000;
/// As with bytes, for small records.
const RECORDS_PER_SECOND_MIN: u64 = 2_000;
/// What a row has on top of that to start: Java takes its time on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(2);
const HEAP_MB: u32 = 1_024;

/// Two clusters on this machine. The source has one broker.
pub(crate) struct Rig {
    pub(crate) source: Arc<Cluster>,
    pub(crate) target: Arc<Cluster>,
    /// Replicas of each topic on the target.
    pub(crate) replicas: i32,
    folder: PathBuf,
    serial: Arc<AtomicU32>,
}

/// How far away the clusters are: the delay each way on each of the two legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delay {
    pub(crate) source: Duration,
    pub(crate) target: Duration,
}

/// Nothing is deleted by retention: that is the default of these clusters, for topics that a mirror creates too.
fn spec(name: &str) -> ClusterSpec {
    let spec = ClusterSpec::new(name).heap_mb(HEAP_MB).compiler(Compiler::Full).proxied();
    // What a row wrote is gone before the next one has filled the page cache.
    spec.property("log.segment.delete.delay.ms", "500")
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
        let (source, target) =
            tokio::try_join!(Cluster::start(spec("source")), Cluster::start(spec("target")))?;
        let (source, target) = (Arc::new(source), Arc::new(target));
        Ok(Self { source, target, replicas: 1, folder, serial: Arc::default() })
    }

    /// The same source, and a target of three brokers with three replicas of everything. It ends when it is dropped.
    pub(crate) async fn replicated(&self) -> Result<Self> {
        let spec = spec("target-rf3")
            .brokers(3)
            .property("default.replication.factor", "3")
            .property("min.insync.replicas", "2");
        let target = Arc::new(Cluster::start(spec).await?);
        let (source, serial) = (Arc::clone(&self.source), Arc::clone(&self.serial));
        Ok(Self { source, target, replicas: 3, folder: self.folder.clone(), serial })
    }

    /// Straight to the brokers of a side without delay, else through proxies that delay every byte.
    pub(crate) fn route(&self, delay: Delay) -> Route {
        self.delay(delay);
        let mut route = self.direct();
        if !delay.source.is_zero() {
            route.source = self.source.bootstrap();
        }
        if !delay.target.is_zero() {
            route.target = self.target.bootstrap();
        }
        route
    }

    fn delay(&self, delay: Delay) {
        self.source.proxies().for_each(|proxy| proxy.delay(delay.source));
        self.target.proxies().for_each(|proxy| proxy.delay(delay.target));
    }

    /// Straight to the source, and to the target through a proxy that can be blocked.
    pub(crate) fn blockable(&self) -> Route {
        self.delay(Delay::default());
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

/// One look at the far end: when, what the row had used, and how many records were there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    pub(crate) usage: Usage,
    pub(crate) count: u64,
}

impl Look {
    pub(crate) fn now(pid: u32, count: u64) -> Result<Self> {
        Ok(Self { at: Instant::now(), usage: usage(pid)?, count })
    }
}

/// Waits until the target holds exactly the data set, or until `stretch` is over, counted from the first records seen
/// there. What counts is the stretch from these first records to the last: the start of a Java machine is a figure of its
/// own.
pub(crate) fn watch(
    counter: &mut Counter,
    set: &DataSet,
    pid: u32,
    began: Instant,
    stretch: Option<Duration>,
) -> Result<Values> {
    let least = (set.bytes() / BYTES_PER_SECOND_MIN).max(set.records / RECORDS_PER_SECOND_MIN)
        + START_LIMIT.as_secs();
    let limit = stretch.map_or_else(|| Duration::from_secs(least), |stretch| START_LIMIT + stretch);
    let step = LOOK_STEP * set.partitions.unsigned_abs().div_ceil(LOOK_PARTITIONS);
    let mut first: Option<Look> = None;
    loop {
        let counts = counter.counts()?;
        let count: u64 = counts.iter().sum();
        if count == set.records {
            check_spread(set, &counts)?;
            let first = first.map_or_else(|| Look::now(pid, 0), Ok)?;
            return Ok(figures(set, began, first, Look::now(pid, count)?));
        }
        if count > set.records {
            bail!(
                "the target holds {count} records, but only {} were produced: some are doubled",
                set.records
            );
        }
        let now = Look::now(pid, count)?;
        if let (Some(first), Some(stretch)) = (first, stretch)
            && now.at.duration_since(first.at) >= stretch
        {
            return Ok(figures(set, began, first, now));
        }
        if began.elapsed() > limit {
            bail!("the target holds {count} of {} records after {limit:?}", set.records);
        }
        if first.is_none() && count > 0 {
            first = Some(now);
        }
        std::thread::sleep(step);
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

/// Turns the stretch between two looks at the far end into figures.
pub(crate) fn figures(set: &DataSet, began: Instant, first: Look, last: Look) -> Values {
    let seconds = (last.at - first.at).as_secs_f64();
    // Nearly all was there when it was first looked at: better the whole run than nothing.
    let whole = last.count - first.count < last.count / 10 || seconds <= 0.0;
    let (seconds, records, used) = if whole {
        ((last.at - began).as_secs_f64(), last.count, last.usage)
    } else {
        (seconds, last.count - first.count, last.usage.since(first.usage))
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
        ("peak_mb", last.usage.peak_bytes as f64 / 1e6),
    ])
}
