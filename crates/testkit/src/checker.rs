//! Are the topics of two clusters the same, record by record?
//!
//! Owns the reading of both sides and the judgement; must not know how records got to the target. It reads with
//! librdkafka, which shares no code with the product's own client, and checks batch checksums on the way. See
//! [`matcher`] for what lost, duplicated, reordered and different mean.

mod announced;
pub mod matcher;
#[cfg(test)]
mod matcher_tests;
mod reader;
pub mod record;
mod repeats;
mod report;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use parking_lot::Mutex;

use matcher::Matcher;
use reader::{Isolation, Reader};
pub use repeats::{Place, Repeats, count_repeats};
pub use report::{Comparison, PartitionComparison};

/// Offsets by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// Ranges of offsets by topic and partition.
pub type Ranges = BTreeMap<(String, i32), Vec<Range<i64>>>;

/// A topic and where its records should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPair {
    /// Topic on the source cluster.
    pub source_topic: String,
    /// Topic on the target cluster.
    pub target_topic: String,
}

impl TopicPair {
    /// Names that differ.
    pub fn new(source_topic: impl Into<String>, target_topic: impl Into<String>) -> Self {
        Self { source_topic: source_topic.into(), target_topic: target_topic.into() }
    }

    /// The same name on both sides.
    pub fn same(topic: impl Into<String>) -> Self {
        let topic = topic.into();
        Self { source_topic: topic.clone(), target_topic: topic }
    }
}

/// What is compared, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// First source offsets; a partition that is not named is read from its beginning.
    pub source_start: Offsets,
    /// Source offsets to stop before; a partition that is not named is read to its last stable offset as of now.
    pub source_end: Offsets,
    /// First target offsets; a partition that is not named is read from its beginning.
    pub target_start: Offsets,
    /// Target offsets to stop before; a partition that is not named is read to its end as of now.
    pub target_end: Offsets,
    /// Target offsets at which the mirror announced copies; see [`Matcher::announcing`].
    pub announced: Ranges,
    /// Records out of place are looked for this far, in records.
    pub window_records: usize,
    /// How long nothing may arrive before the comparison is given up.
    pub stall_timeout: Duration,
    /// How many partitions are read at once.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source_start: Offsets::new(),
            source_end: Offsets::new(),
            target_start: Offsets::new(),
            target_end: Offsets::new(),
            announced: Ranges::new(),
            window_records: matcher::WINDOW_RECORDS,
            stall_timeout: Duration::from_mins(1),
            threads: 3,
        }
    }
}

/// One partition number of one pair; a side without that partition counts as empty.
#[derive(Debug, Clone)]
struct Job {
    pair: TopicPair,
    partition: i32,
    on_source: bool,
    on_target: bool,
}

/// Compares every partition of the pairs: committed records of the source with *all* records of the target.
/// `source` and `target` are bootstrap servers. Memory does not grow with the topics.
pub async fn compare(
    source: &str,
    target: &str,
    pairs: &[TopicPair],
    options: &Options,
) -> Result<Comparison> {
    let (source, target) = (source.to_owned(), target.to_owned());
    let (pairs, options) = (pairs.to_vec(), options.clone());
    tokio::task::spawn_blocking(move || compare_blocking(&source, &target, &pairs, &options))
        .await
        .context("a comparison was interrupted")?
}

/// As [`compare`], blocking the calling thread.
pub fn compare_blocking(
    source: &str,
    target: &str,
    pairs: &[TopicPair],
    options: &Options,
) -> Result<Comparison> {
    let jobs = list_jobs(source, target, pairs)?;
    let threads = options.threads.clamp(1, jobs.len().max(1));
    let queue = Mutex::new(jobs);
    let parts = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| work(source, target, &queue, options))).collect();
        let joined =
            workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a checker panicked"))?);
        joined.collect::<Result<Vec<_>>>()
    })?;
    Ok(Comparison::new(parts.into_iter().flatten().collect()))
}

fn list_jobs(source: &str, target: &str, pairs: &[TopicPair]) -> Result<VecDeque<Job>> {
    let source = Reader::connect("source", source, Isolation::Committed)?;
    let target = Reader::connect("target", target, Isolation::Uncommitted)?;
    let mut jobs = VecDeque::new();
    for pair in pairs {
        let on_source = source.partition_count(&pair.source_topic)?;
        let on_target = target.partition_count(&pair.target_topic)?;
        for partition in 0..on_source.max(on_target) {
            jobs.push_back(Job {
                pair: pair.clone(),
                partition,
                on_source: partition < on_source,
                on_target: partition < on_target,
            });
        }
    }
    if jobs.is_empty() {
        bail!("there is nothing to compare");
    }
    Ok(jobs)
}

fn work(
    source: &str,
    target: &str,
    queue: &Mutex<VecDeque<Job>>,
    options: &Options,
) -> Result<Vec<PartitionComparison>> {
    let mut source = Reader::connect("source", source, Isolation::Committed)?;
    let mut target = Reader::connect("target", target, Isolation::Uncommitted)?;
    let mut done = Vec::new();
    loop {
        let Some(job) = queue.lock().pop_front() else {
            return Ok(done);
        };
        done.push(compare_partition(&mut source, &mut target, job, options)?);
    }
}

fn compare_partition(
    source: &mut Reader,
    target: &mut Reader,
    job: Job,
    options: &Options,
) -> Result<PartitionComparison> {
    let TopicPair { source_topic, target_topic } = &job.pair;
    let up = (source_topic.clone(), job.partition);
    let down = (target_topic.clone(), job.partition);
    // The target's end is asked for after the source's: what is mirrored meanwhile is then not called lost.
    if job.on_source {
        source.open(
            &up,
            options.source_start.get(&up),
            options.source_end.get(&up),
            options.stall_timeout,
        )?;
    }
    if job.on_target {
        target.open(
            &down,
            options.target_start.get(&down),
            options.target_end.get(&down),
            options.stall_timeout,
        )?;
    }
    let announced = options.announced.get(&down).cloned().unwrap_or_default();
    let mut matcher = Matcher::new(options.window_records).announcing(announced);
    let (mut source_open, mut target_open) = (job.on_source, job.on_target);
    while source_open || target_open {
        let up = if source_open { source.next()? } else { None };
        let down = loop {
            let next = if target_open { target.next()? } else { None };
            // Records at announced offsets are no counterparts of what is read beside them.
            match next {
                Some(message) if matcher.take_announced(&record::view(&message)) => {}
                next => break next,
            }
        };
        source_open = up.is_some();
        target_open = down.is_some();
        matcher.push(up.as_ref().map(record::view).as_ref(), down.as_ref().map(record::view).as_ref());
    }
    source.close()?;
    target.close()?;
    Ok(PartitionComparison { pair: Arc::new(job.pair), partition: job.partition, outcome: matcher.finish() })
}
