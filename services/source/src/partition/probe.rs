//! Single questions to the two clusters, as the relay machine asks them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mirrormesh_core::epochs::EpochEnd;
use mirrormesh_core::ids::{ClusterId, FlowId, TopicId, TopicName};
use mirrormesh_core::registry::WriterKey;
use mirrormesh_core::unit::PartitionDetail;
use mirrormesh_kafka::admin::{EpochQuery, OffsetQuery, OffsetSpec};
use mirrormesh_kafka::client::metadata::Leader;
use mirrormesh_kafka::memory::Share;
use mirrormesh_kafka::wire::fetch::{FetchPartition, FetchRequest, FetchedPartition};
use mirrormesh_kafka::{Client, ConnectionRole, Error, ErrorCode};
use mirrormesh_relay::facts::Facts;
use mirrormesh_relay::machine::{Ask, Told};
use mirrormesh_relay::page::SourcePage;
use mirrormesh_relay::resync::Step;
use mirrormesh_worker::Failure;

use crate::facts::facts;
use crate::fetcher::page_of;
use crate::link::FlowLink;
use crate::topology::no_producer_id;

/// Bytes asked for at a time.
const READ_BYTES: i32 = 4 << 20;
/// How long a broker may hold a question.
const WAIT: Duration = Duration::from_millis(100);
/// How often and how long the target's high watermark is waited for until it reaches the log end that was seen.
const SETTLE_TRIES: u32 = 20;
const SETTLE_WAIT: Duration = Duration::from_millis(10);

/// Failures that a deleted topic may be behind.
const MAY_BE_MISSING: [&str; 5] = [
    "UNKNOWN_TOPIC_OR_PARTITION",
    "UNKNOWN_TOPIC_ID",
    "SETTINGS_UNKNOWN",
    "LIST_OFFSETS_FAILED",
    "SOURCE_FETCH_FAILED",
];

/// One side's partition.
struct Place<'a> {
    client: &'a Client,
    memory: &'a Share,
    topic: &'a str,
    partition: i32,
}

impl Place<'_> {
    async fn leader(&self) -> Result<Leader, Error> {
        self.client.leader(self.topic, self.partition).await
    }

    /// `last_epoch`: of what is before that, as far as it was read; -1 where it was not.
    async fn fetch(
        &self,
        offset: i64,
        read_committed: bool,
        last_epoch: i32,
    ) -> Result<FetchedPartition, Failure> {
        let leader = self.leader().await?;
        let request = FetchRequest {
            max_wait: WAIT,
            min_bytes: 1,
            max_bytes: READ_BYTES,
            read_committed,
            partitions: vec![FetchPartition {
                topic: Arc::from(self.topic),
                topic_id: leader.topic_id,
                partition: self.partition,
                offset,
                leader_epoch: leader.leader_epoch,
                last_fetched_epoch: last_epoch,
                max_bytes: READ_BYTES,
            }],
        };
        let response = self
            .client
            .connection_within(leader.node_id, ConnectionRole::Recovery, self.memory)
            .await?
            .fetch(&request)
            .await?;
        let fetched = response.partitions.into_iter().find(|p| p.partition == self.partition);
        fetched.ok_or_else(|| {
            Failure::new("FETCH_INCOMPLETE", "the broker left the partition out of its answer")
        })
    }

    async fn offset(&self, spec: OffsetSpec) -> Result<i64, Failure> {
        let leader = self.leader().await?;
        let query = OffsetQuery {
            topic: Arc::from(self.topic),
            partition: self.partition,
            spec,
            leader_epoch: leader.leader_epoch,
        };
        let answer = self.client.list_offsets(&[query], false).await?.into_iter().next();
        match answer {
            Some(a) if a.error.is_ok() => Ok(a.offset),
            Some(a) => Err(broker("LIST_OFFSETS_FAILED", self.topic, a.error)),
            None => Err(Failure::new("LIST_OFFSETS_FAILED", "the broker gave no answer")),
        }
    }
}

fn broker(reason: &'static str, topic: &str, code: ErrorCode) -> Failure {
    Failure::new(reason, format!("{topic}: the broker answers {code}"))
}

fn check(fetched: &FetchedPartition, reason: &'static str, topic: &str) -> Result<(), Failure> {
    if fetched.error.is_ok() { Ok(()) } else { Err(broker(reason, topic, fetched.error)) }
}

/// Who asks about which partition.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) link: Arc<FlowLink>,
    pub(super) topic: TopicName,
    pub(super) partition: i32,
    pub(super) detail: PartitionDetail,
    pub(super) clusters: Clusters,
}

/// The flow and its two clusters, for messages.
#[derive(Debug, Clone)]
pub(super) struct Clusters {
    pub(super) flow: FlowId,
    pub(super) source: ClusterId,
    pub(super) target: ClusterId,
}

impl Probe {
    /// Finds out what is asked.
    pub(super) async fn ask(self, ask: Ask) -> Told {
        match self.answer(ask).await {
            Ok(told) => told,
            Err(failure) => {
                // Whatever it was, who leads is looked up again before the next try.
                self.link.source.invalidate(self.topic.as_str(), self.partition);
                self.link.target.invalidate(self.detail.target_topic.as_str(), self.partition);
                let failure = Box::pin(self.explain(failure)).await;
                Told::Failed(failure.reason, failure.message)
            }
        }
    }

    /// A failure that may come from a deleted topic is named so, if the topic is gone.
    pub(super) async fn explain(&self, failure: Failure) -> Failure {
        if !MAY_BE_MISSING.contains(&failure.reason.as_str()) {
            return failure;
        }
        if matches!(self.link.source.topic_id(self.topic.as_str()).await, Ok(None)) {
            return self.source_missing();
        }
        if matches!(self.link.target.topic_id(self.detail.target_topic.as_str()).await, Ok(None)) {
            return self.target_missing();
        }
        failure
    }

    fn source_missing(&self) -> Failure {
        let (topic, target) = (&self.topic, &self.detail.target_topic);
        let Clusters { flow, source, target: to } = &self.clusters;
        let message = format!(
            "topic {topic} was deleted on clusters/{source}: {target} on clusters/{to} keeps what was mirrored; create the \
             topic again to mirror on, or add {topic} to topics.exclude of flows/{flow}"
        );
        Failure::new("SOURCE_TOPIC_MISSING", message)
    }

    fn target_missing(&self) -> Failure {
        let target = &self.detail.target_topic;
        let Clusters { flow, target: to, .. } = &self.clusters;
        let message = format!(
            "topic {target} was deleted on clusters/{to}: flows/{flow} creates it again within its discovery interval, \
             unless the cluster refuses; the partitions then stop or begin anew, as records.on_loss says"
        );
        Failure::new("TARGET_TOPIC_MISSING", message)
    }

    async fn answer(&self, ask: Ask) -> Result<Told, Failure> {
        // Each is boxed: a question takes as much memory as it needs, and not as the largest of them needs.
        Ok(match ask {
            Ask::Facts => Told::Facts(Box::pin(self.facts()).await?),
            Ask::SourceEnds => Box::pin(self.source_ends()).await?,
            Ask::NewProducer => match Box::pin(self.link.target.init_producer_id()).await {
                Ok(id) => Told::Producer(id.producer_id),
                Err(error) => {
                    let (reason, message) = no_producer_id(error);
                    return Err(Failure::new(reason, message));
                }
            },
            Ask::Origins(ids) => Box::pin(self.origins(ids)).await?,
            Ask::Registry => Box::pin(self.registry()).await?,
            Ask::Register(records) => {
                Box::pin(self.link.target_registry.write(&self.link.writer, records)).await?;
                Told::Registered
            }
            Ask::Locate(step) => match step {
                Step::Identity => Box::pin(self.identity()).await?,
                Step::Positions => Box::pin(self.positions()).await?,
                Step::TargetEnds => Box::pin(self.target_ends()).await?,
                Step::TargetRead(offset) => Told::TargetRecords(Box::pin(self.target_read(offset)).await?),
                Step::Producer => Told::Remembered(Box::pin(self.producer()).await),
                Step::SourceHistory(epoch) => {
                    Told::SourceHistory(Box::pin(self.source_history(epoch)).await?)
                }
                Step::SourceRead { offset, read_committed, last_epoch } => {
                    Box::pin(self.source_read(offset, read_committed, last_epoch)).await?
                }
                Step::SourceEnds => Box::pin(self.source_ends()).await?,
                Step::Origins(_) | Step::Done(_) | Step::Lost(..) | Step::Stop(_) | Step::Again(_) => {
                    return Err(Failure::new("NOT_A_QUESTION", "the relay asked for nothing"));
                }
            },
        })
    }

    fn source(&self) -> Place<'_> {
        let memory = &self.link.question_memory;
        Place { client: &self.link.source, memory, topic: self.topic.as_str(), partition: self.partition }
    }

    fn target(&self) -> Place<'_> {
        let topic = self.detail.target_topic.as_str();
        let memory = &self.link.question_memory;
        Place { client: &self.link.target, memory, topic, partition: self.partition }
    }

    /// Settings of both sides.
    pub(super) async fn facts(&self) -> Result<Facts, Failure> {
        let leader = self.target().leader().await?;
        let topics = (self.topic.as_str(), self.detail.target_topic.as_str());
        let settings = facts(&self.link.source_settings, &self.link.target_settings, topics, leader.node_id);
        Ok(Facts { source_by_name: self.source_by_name().await?, ..settings.await? })
    }

    async fn source_by_name(&self) -> Result<bool, Failure> {
        let leader = self.source().leader().await?;
        let memory = &self.link.question_memory;
        let connection =
            self.link.source.connection_within(leader.node_id, ConnectionRole::Recovery, memory).await?;
        Ok(TopicId(leader.topic_id).is_zero() || !connection.fetches_by_topic_id())
    }

    async fn identity(&self) -> Result<Told, Failure> {
        let (source, target) = tokio::join!(
            self.link.source.topic_id(self.topic.as_str()),
            self.link.target.topic_id(self.detail.target_topic.as_str())
        );
        let (source, target) = (source?.map(TopicId), target?.map(TopicId));
        match (source, target) {
            (None, _) => Err(self.source_missing()),
            (_, None) => Err(self.target_missing()),
            there => Ok(Told::Identity(there.0, there.1)),
        }
    }

    /// Read to its end only now: the batches in question were there before.
    async fn origins(&self, ids: BTreeSet<i64>) -> Result<Told, Failure> {
        let target = self.link.target_registry.cluster_id().await?;
        let place = (&self.topic, self.detail.source_topic_id, self.partition);
        Ok(Told::Origins(self.link.source_registry.origins(ids, place, &target).await?))
    }

    async fn registry(&self) -> Result<Told, Failure> {
        self.link.target_registry.ensure().await?;
        let source = self.link.source_registry.cluster_id().await?;
        let key = WriterKey {
            producer_id: self.detail.begun.generation.producer_id,
            topic: self.detail.target_topic.clone(),
            partition: self.partition,
        };
        let seen = self.link.target_registry.look(|registry| registry.seen(&key, &source)).await?;
        Ok(Told::Registry(Box::new(seen)))
    }

    async fn positions(&self) -> Result<Told, Failure> {
        let load = self.link.positions.load(self.detail.target_topic_id, self.partition);
        Ok(Told::Positions(load.await?))
    }

    /// The log end first: a high watermark that has reached it later makes it a settled end. Where others append all
    /// the time, the two are never equal at one moment.
    async fn target_ends(&self) -> Result<Told, Failure> {
        let place = self.target();
        let log_end = place.offset(OffsetSpec::LogEnd).await?;
        let mut high_watermark = place.offset(OffsetSpec::Latest).await?;
        for _ in 0..SETTLE_TRIES {
            if high_watermark >= log_end {
                break;
            }
            tokio::time::sleep(SETTLE_WAIT).await;
            high_watermark = place.offset(OffsetSpec::Latest).await?;
        }
        let log_start = place.offset(OffsetSpec::Earliest).await?;
        Ok(Told::TargetEnds(log_start, log_end, high_watermark.min(log_end)))
    }

    async fn target_read(&self, offset: i64) -> Result<Bytes, Failure> {
        let fetched = self.target().fetch(offset, false, -1).await?;
        if fetched.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            return Ok(Bytes::new());
        }
        check(&fetched, "TARGET_FETCH_FAILED", self.detail.target_topic.as_str())?;
        Ok(fetched.records)
    }

    /// A target that can't tell (before Kafka 2.8, or not allowed) remembers nothing as far as we know.
    async fn producer(&self) -> Option<(i16, i32)> {
        let topic = self.detail.target_topic.as_str();
        let known = match self.link.target.describe_producers(topic, self.partition).await {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(topic, partition = self.partition, %error, "producers not described");
                return None;
            }
        };
        let ours = known.into_iter().find(|p| p.producer_id == self.detail.begun.generation.producer_id)?;
        Some((i16::try_from(ours.epoch).ok()?, ours.last_sequence))
    }

    async fn source_history(&self, epoch: i32) -> Result<Option<EpochEnd>, Failure> {
        let place = self.source();
        let leader = place.leader().await?;
        let query = EpochQuery {
            topic: self.topic.shared(),
            partition: self.partition,
            leader_epoch: epoch,
            current_leader_epoch: leader.leader_epoch,
        };
        let ends = self.link.source.offset_for_leader_epoch(&[query]).await?;
        let Some(end) = ends.into_iter().next() else {
            return Err(Failure::new("SOURCE_HISTORY_FAILED", "the broker gave no answer"));
        };
        if end.error == ErrorCode::UNSUPPORTED_VERSION {
            return Ok(None);
        }
        if !end.error.is_ok() {
            return Err(broker("SOURCE_HISTORY_FAILED", self.topic.as_str(), end.error));
        }
        let known = (end.end_offset >= 0 && end.leader_epoch >= 0).then_some(end);
        // The broker has checked whose epoch was named to it.
        let leader = leader.leader_epoch;
        Ok(known.map(|end| EpochEnd { epoch: end.leader_epoch, offset: end.end_offset, leader }))
    }

    async fn source_read(&self, from: i64, read_committed: bool, last_epoch: i32) -> Result<Told, Failure> {
        let fetched = self.source().fetch(from, read_committed, last_epoch).await?;
        if fetched.diverging.is_some() {
            return Err(Failure::new(
                "SOURCE_MOVED",
                "the source has another history than what was read before",
            ));
        }
        if fetched.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            return Ok(Told::SourceOutOfRange);
        }
        check(&fetched, "SOURCE_FETCH_FAILED", self.topic.as_str())?;
        let page: SourcePage = page_of(fetched, read_committed);
        Ok(Told::SourcePage(page))
    }

    async fn source_ends(&self) -> Result<Told, Failure> {
        let place = self.source();
        let log_start = place.offset(OffsetSpec::Earliest).await?;
        Ok(Told::SourceEnds(log_start, place.offset(OffsetSpec::LogEnd).await?))
    }
}
