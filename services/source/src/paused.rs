//! Looks how far behind paused partitions are, for the coordinator: nobody runs them.
//!
//! Owns clients that only read: the source's ends, the first records that wait, the positions on the target. Must not
//! write anything, anywhere, and must not run when nobody asks. What a place or a lag is, is core's.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use mirrormesh_core::ids::{FlowId, TopicId, TopicName};
use mirrormesh_core::paused::{PausedFigures, PausedSet};
use mirrormesh_core::report::PartitionFigures;
use mirrormesh_core::unit::{PartitionDetail, PartitionGeneration};
use mirrormesh_kafka::wire::fetch::{FetchPartition, FetchRequest};
use mirrormesh_kafka::{Client, ConnectionRole};
use mirrormesh_relay::machine::SourceEnds;
use mirrormesh_relay::paused::{self, Sample};
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::Failure;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::ends::ends_of;
use crate::fetcher::page_of;
use crate::lag_board::LagSlot;
use crate::link::{LinkKey, client};
use crate::metrics::Metrics;
use crate::positions::PositionReader;

/// A partition that was not asked about for so long is forgotten.
const KEPT: Duration = Duration::from_secs(5);
/// How often it is looked what is to be forgotten, and what has become old.
const TICK: Duration = Duration::from_secs(1);
/// What was seen this long ago is old; with the tick until that is said, it makes 5 s.
const OLD_AFTER_MS: u64 = 4_000;
/// Places and topic ids are looked up again after this time: an owner that was lost may still have written a position.
const PLACES_FOR: Duration = Duration::from_secs(30);
/// How long looking them up may take before the look goes on with what is known.
const PLACES_WAIT: Duration = Duration::from_secs(3);
/// Partitions of which first records are read in one look, how many at a time, and how long that may take in all.
const SAMPLES_MAX: usize = 200;
const SAMPLES_AT_A_TIME: usize = 4;
const SAMPLES_WAIT: Duration = Duration::from_millis(500);
/// Bytes of first records; a broker sends one whole batch in any case.
const SAMPLE_BYTES: i32 = 64 << 10;

type Key = (TopicName, i32);

type Flows = Mutex<HashMap<LinkKey, Arc<Onlooker>>>;

/// Who looks at which flows now.
#[derive(Debug)]
pub(crate) struct Onlookers {
    metrics: Arc<Metrics>,
    // Lock: held only to look up, insert and remove.
    flows: Arc<Flows>,
}

impl Onlookers {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, flows: Arc::default() }
    }

    /// How far behind are the partitions? What can't be looked at is left out.
    pub(crate) async fn paused(&self, set: PausedSet) -> Result<PausedFigures, Failure> {
        self.of(&set)?.look(set).await
    }

    fn of(&self, set: &PausedSet) -> Result<Arc<Onlooker>, Failure> {
        let key = (set.flow.clone(), set.source.clone(), set.target.clone());
        let mut flows = self.flows.lock();
        if let Some(onlooker) = flows.get(&key) {
            return Ok(Arc::clone(onlooker));
        }
        let onlooker = Arc::new(Onlooker::new(set, Arc::clone(&self.metrics))?);
        flows.insert(key.clone(), Arc::clone(&onlooker));
        tokio::spawn(forget(Arc::downgrade(&self.flows), key, Arc::downgrade(&onlooker)));
        Ok(onlooker)
    }
}

/// Forgets what nobody asks about any more, and with the last of it the onlooker.
async fn forget(flows: Weak<Flows>, key: LinkKey, onlooker: Weak<Onlooker>) {
    loop {
        tokio::time::sleep(TICK).await;
        let (Some(flows), Some(onlooker)) = (flows.upgrade(), onlooker.upgrade()) else { return };
        let mut flows = flows.lock();
        if onlooker.is_idle(Instant::now(), now_ms()) {
            flows.remove(&key);
            return;
        }
    }
}

/// What is known of one paused partition.
#[derive(Debug)]
struct Seen {
    asked: Instant,
    revision: u64,
    begun: PartitionGeneration,
    /// Next source and target offset; `None` while it is not known.
    place: Option<(i64, i64)>,
    /// When it was looked up last, in vain or not.
    placed: Option<Instant>,
    sample: Option<Sample>,
    /// What was seen last, and when, ms since 1970.
    figures: Option<(PartitionFigures, u64)>,
    slot: Option<LagSlot>,
}

impl Seen {
    fn new(revision: u64, begun: PartitionGeneration) -> Self {
        let asked = Instant::now();
        Self { asked, revision, begun, place: None, placed: None, sample: None, figures: None, slot: None }
    }

    fn show(&mut self, now_ms: u64) {
        let (Some(slot), Some((figures, seen_ms))) = (&self.slot, &self.figures) else { return };
        let old = now_ms.saturating_sub(*seen_ms) >= OLD_AFTER_MS;
        let stale_since_ms = i64::try_from(*seen_ms).ok().filter(|_| old);
        slot.set(PartitionFigures { stale_since_ms, ..*figures });
    }
}

/// Looks at the paused partitions of one flow.
#[derive(Debug)]
struct Onlooker {
    flow: FlowId,
    source: Client,
    positions: PositionReader,
    metrics: Arc<Metrics>,
    // Lock: never held over an await.
    seen: Mutex<BTreeMap<Key, Seen>>,
    /// Held by the one look that goes on.
    looking: tokio::sync::Mutex<()>,
}

impl Onlooker {
    /// Connects to nothing yet.
    fn new(set: &PausedSet, metrics: Arc<Metrics>) -> Result<Self, Failure> {
        let target = client("target", &format!("the target of flows/{}", set.flow), &set.flow, &set.target)?;
        let source = client("source", &format!("the source of flows/{}", set.flow), &set.flow, &set.source)?;
        Ok(Self {
            flow: set.flow.clone(),
            source,
            positions: PositionReader::new(set.flow.clone(), set.positions_topic.clone(), target),
            metrics,
            seen: Mutex::new(BTreeMap::new()),
            looking: tokio::sync::Mutex::new(()),
        })
    }

    /// Forgets partitions that were not asked about lately, and shows what is old as such. Returns whether nothing is
    /// left.
    fn is_idle(&self, now: Instant, now_ms: u64) -> bool {
        let mut seen = self.seen.lock();
        seen.retain(|_, seen| now.duration_since(seen.asked) < KEPT);
        for seen in seen.values_mut() {
            seen.show(now_ms);
        }
        seen.is_empty()
    }

    /// One look; what can't be looked at is left out.
    async fn look(&self, set: PausedSet) -> Result<PausedFigures, Failure> {
        self.enter(&set);
        let _alone = self.looking.lock().await;
        if self.begin_places(&set) {
            match timeout(PLACES_WAIT, self.find_places(&set)).await {
                Ok(Ok(())) => {}
                // Places that are known stay as they are: the target need not be up to see how much waits.
                Ok(Err(error)) => {
                    tracing::debug!(flow = %self.flow, %error, "places of paused partitions not read");
                }
                Err(_) => tracing::debug!(flow = %self.flow, "places of paused partitions not read in time"),
            }
        }
        let places = self.places(&set);
        let asked: Vec<_> = places
            .iter()
            .map(|(topic, number, detail, _)| (topic.shared(), *number, !detail.begun.start.read_uncommitted))
            .collect();
        let ends = ends_of(&self.source, &asked).await?;
        let found: Vec<Found> = places
            .into_iter()
            .zip(ends)
            .filter_map(|((topic, number, detail, place), ends)| {
                Some(Found { key: (topic, number), detail, place, ends: ends? })
            })
            .collect();
        let seen_ms = now_ms();
        // What was sampled before the time is over stays.
        drop(timeout(SAMPLES_WAIT, self.sample(&found)).await);
        Ok(self.figures(found, seen_ms))
    }

    fn enter(&self, set: &PausedSet) {
        let mut seen = self.seen.lock();
        for (topic, partition, detail) in &set.partitions {
            let fresh = || Seen::new(set.revision, detail.begun);
            let known = seen.entry((topic.clone(), *partition)).or_insert_with(fresh);
            if (known.revision, known.begun) != (set.revision, detail.begun) {
                // Somebody may have run it since.
                *known = fresh();
            }
            known.asked = Instant::now();
            if known.slot.is_none() {
                known.slot = self.metrics.lag.enter_vacant(&self.flow, topic, *partition);
            }
        }
    }

    /// Whether places are to be looked up, and if so takes note of when.
    fn begin_places(&self, set: &PausedSet) -> bool {
        let now = Instant::now();
        let mut all = self.seen.lock();
        let keys = || set.partitions.iter().map(|(topic, partition, _)| (topic.clone(), *partition));
        let due = keys().filter_map(|key| all.get(&key)).any(|seen| {
            seen.place.is_none() || seen.placed.is_none_or(|at| now.duration_since(at) >= PLACES_FOR)
        });
        for key in keys().filter(|_| due) {
            if let Some(seen) = all.get_mut(&key) {
                seen.placed = Some(now);
            }
        }
        due
    }

    /// Reads positions, and whether the topics are still those that were mirrored: the ends of another one say nothing.
    async fn find_places(&self, set: &PausedSet) -> Result<(), Failure> {
        let mut names: Vec<&str> = set.partitions.iter().map(|(topic, ..)| topic.as_str()).collect();
        names.dedup();
        let wanted: Vec<(TopicId, i32)> = set
            .partitions
            .iter()
            .map(|(_, partition, detail)| (detail.target_topic_id, *partition))
            .collect();
        let topics = async { self.source.topics(Some(&names)).await.map_err(Failure::from) };
        let (topics, positions) = tokio::try_join!(topics, self.positions.look(&wanted))?;
        let ids: HashMap<&str, TopicId> =
            topics.iter().filter(|t| t.error.is_ok()).map(|t| (&*t.name, TopicId(t.topic_id))).collect();
        let mut seen = self.seen.lock();
        for ((topic, partition, detail), positions) in set.partitions.iter().zip(positions) {
            let Some(known) = seen.get_mut(&(topic.clone(), *partition)) else { continue };
            let same = ids.get(topic.as_str()).is_some_and(|id| !id.differs(detail.source_topic_id));
            known.place = same.then(|| paused::place(detail, &positions));
        }
        Ok(())
    }

    fn places(&self, set: &PausedSet) -> Vec<(TopicName, i32, PartitionDetail, (i64, i64))> {
        let seen = self.seen.lock();
        let place = |(topic, number, detail): &(TopicName, i32, PartitionDetail)| {
            let place = seen.get(&(topic.clone(), *number))?.place?;
            Some((topic.clone(), *number, detail.clone(), place))
        };
        set.partitions.iter().filter_map(place).collect()
    }

    /// Looks at first records where that was not done yet or says too little by now.
    async fn sample(&self, found: &[Found]) {
        let unsampled = |found: &&Found| {
            let (place, end) = (found.place.0, found.ends.end_offset);
            let seen = self.seen.lock();
            let sample = seen.get(&found.key).and_then(|seen| seen.sample);
            end > place && !sample.is_some_and(|sample| sample.serves(place, end))
        };
        let unsampled: Vec<&Found> = found.iter().filter(unsampled).take(SAMPLES_MAX).collect();
        stream::iter(unsampled)
            .for_each_concurrent(SAMPLES_AT_A_TIME, |found| async move {
                match self.fetch(found).await {
                    Ok(sample) => {
                        if let Some(seen) = self.seen.lock().get_mut(&found.key) {
                            seen.sample = sample;
                        }
                    }
                    Err(error) => {
                        self.source.invalidate(found.key.0.as_str(), found.key.1);
                        tracing::debug!(flow = %self.flow, topic = %found.key.0, %error, "first records not read");
                    }
                }
            })
            .await;
    }

    async fn fetch(&self, found: &Found) -> Result<Option<Sample>, Failure> {
        let (topic, partition) = &found.key;
        let leader = self.source.leader(topic.as_str(), *partition).await?;
        let read_committed = !found.detail.begun.start.read_uncommitted;
        let request = FetchRequest {
            max_wait: Duration::ZERO,
            min_bytes: 0,
            max_bytes: SAMPLE_BYTES,
            read_committed,
            partitions: vec![FetchPartition {
                topic: topic.shared(),
                topic_id: leader.topic_id,
                partition: *partition,
                offset: found.place.0,
                leader_epoch: leader.leader_epoch,
                last_fetched_epoch: -1,
                max_bytes: SAMPLE_BYTES,
            }],
        };
        let response =
            self.source.connection(leader.node_id, ConnectionRole::LagProbe).await?.fetch(&request).await?;
        let fetched = response.partitions.into_iter().find(|fetched| fetched.partition == *partition);
        // Out of range: the source deleted what waits, and nothing is known of it. That is said when it is resumed.
        let fetched = fetched.filter(|fetched| fetched.error.is_ok());
        Ok(fetched
            .map(|fetched| Sample::of(&page_of(fetched, read_committed), read_committed, found.place.0)))
    }

    fn figures(&self, found: Vec<Found>, seen_ms: u64) -> PausedFigures {
        let mut all = self.seen.lock();
        let figures = found.into_iter().filter_map(|Found { key, place, ends, .. }| {
            let seen = all.get_mut(&key)?;
            let figures = paused::figures(place, ends, seen.sample.as_ref());
            seen.figures = Some((figures, seen_ms));
            seen.show(seen_ms);
            Some((key.0, key.1, figures))
        });
        figures.collect()
    }
}

/// A partition of which place and ends are known.
struct Found {
    key: Key,
    detail: PartitionDetail,
    place: (i64, i64),
    ends: SourceEnds,
}
