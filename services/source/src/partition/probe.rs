//! Single questions to the two clusters, as core's resync machine asks them.

use mirrormesh_core::format::batch::{BatchHeader, body_crc, split};
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::relay::reader::{Aborted, FetchReader, Judgement, unreadable};
use mirrormesh_core::relay::resync::{SourceItem, TargetBatch};
use mirrormesh_core::relay::stop::{Stop, StopReason};
use mirrormesh_kafka::admin::{EpochQuery, OffsetQuery, OffsetSpec};
use mirrormesh_kafka::client::metadata::Leader;
use mirrormesh_kafka::wire::fetch::{FetchPartition, FetchRequest, FetchedPartition};
use mirrormesh_kafka::{Client, Error, ErrorCode};
use std::sync::Arc;
use std::time::Duration;

use super::PartitionUnit;
use super::locate::Failure;

/// Connection for questions, apart from those that carry records.
const LANE: u32 = 200;
/// Bytes asked for at a time.
const READ_BYTES: i32 = 4 << 20;
/// How long a broker may hold a question.
const WAIT: Duration = Duration::from_millis(100);

/// One side's partition.
struct Place<'a> {
    client: &'a Client,
    topic: &'a str,
    partition: i32,
}

impl Place<'_> {
    async fn leader(&self) -> Result<Leader, Error> {
        self.client.leader(self.topic, self.partition).await
    }

    async fn fetch(&self, offset: i64, read_committed: bool) -> Result<FetchedPartition, Failure> {
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
                last_fetched_epoch: -1,
                max_bytes: READ_BYTES,
            }],
        };
        let response = self.client.connection(leader.node_id, LANE).await?.fetch(&request).await?;
        let fetched = response.partitions.into_iter().find(|p| p.partition == self.partition);
        fetched.ok_or_else(|| {
            Failure::again("FETCH_INCOMPLETE", "the broker left the partition out of its answer")
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
            Some(a) => Err(Failure::broker("LIST_OFFSETS_FAILED", self.topic, a.error)),
            None => Err(Failure::again("LIST_OFFSETS_FAILED", "the broker gave no answer")),
        }
    }
}

impl PartitionUnit {
    fn source_place(&self) -> Place<'_> {
        Place { client: &self.link.source, topic: self.topic.as_str(), partition: self.partition }
    }

    fn target_place(&self) -> Place<'_> {
        Place {
            client: &self.link.target,
            topic: self.detail.target_topic.as_str(),
            partition: self.partition,
        }
    }

    /// Topic ids as the clusters have them now; `None` where a topic does not exist.
    pub(super) async fn ask_identity(&self) -> Result<(Option<TopicId>, Option<TopicId>), Failure> {
        let of = |client: &Client, topic: &str| {
            let (client, topic) = (client.clone(), topic.to_owned());
            async move {
                let topics = client.topics(Some(&[topic.as_str()])).await?;
                let found = topics.into_iter().find(|t| *t.name == *topic);
                match found {
                    Some(t) if t.error.is_ok() => Ok(Some(TopicId(t.topic_id))),
                    Some(t) if t.error != ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => {
                        Err(Failure::broker("METADATA_FAILED", &topic, t.error))
                    }
                    _ => Ok(None),
                }
            }
        };
        let (source, target) = tokio::join!(
            of(&self.link.source, self.topic.as_str()),
            of(&self.link.target, self.detail.target_topic.as_str())
        );
        Ok((source?, target?))
    }

    /// Log start, log end and high watermark of the target, in this order of asking: the end first, so that a high
    /// watermark that has reached it is a settled end.
    pub(super) async fn ask_target_ends(&self) -> Result<(i64, i64, i64), Failure> {
        let place = self.target_place();
        let log_end = place.offset(OffsetSpec::LogEnd).await?;
        let high_watermark = place.offset(OffsetSpec::Latest).await?;
        let log_start = place.offset(OffsetSpec::Earliest).await?;
        Ok((log_start, log_end, high_watermark.min(log_end)))
    }

    /// The target's batch that holds an offset, with the CRC of its body.
    pub(super) async fn ask_target_tail(&self, offset: i64) -> Result<Option<TargetBatch>, Failure> {
        let fetched = self.target_place().fetch(offset, false).await?;
        if fetched.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            return Ok(None);
        }
        check(&fetched, "TARGET_FETCH_FAILED", self.detail.target_topic.as_str())?;
        let batch = split(fetched.records).flatten().find(|b| b.header.next_offset() > offset);
        Ok(batch.map(|b| TargetBatch { header: b.header, body_crc: Some(body_crc(&b.bytes)) }))
    }

    /// All headers of the target between two offsets.
    pub(super) async fn ask_target_scan(&self, from: i64, to: i64) -> Result<Vec<TargetBatch>, Failure> {
        let (mut at, mut batches) = (from, Vec::new());
        while at < to {
            let fetched = self.target_place().fetch(at, false).await?;
            check(&fetched, "TARGET_FETCH_FAILED", self.detail.target_topic.as_str())?;
            let before = at;
            for batch in split(fetched.records) {
                let batch = batch.map_err(|error| Failure::Stop(unreadable(&error)))?;
                if batch.header.next_offset() > at && batch.header.base_offset < to {
                    batches
                        .push(TargetBatch { header: batch.header, body_crc: Some(body_crc(&batch.bytes)) });
                }
                at = at.max(batch.header.next_offset());
            }
            if at == before {
                return Err(Failure::again("TARGET_NOT_SETTLED", "the target's log could not be read"));
            }
        }
        Ok(batches)
    }

    /// Where a leader epoch ends on the source; `None` if the broker can't tell.
    pub(super) async fn ask_source_history(&self, epoch: i32) -> Result<Option<i64>, Failure> {
        let place = self.source_place();
        let leader = place.leader().await?;
        let query = EpochQuery {
            topic: self.topic.shared(),
            partition: self.partition,
            leader_epoch: epoch,
            current_leader_epoch: leader.leader_epoch,
        };
        let ends = self.link.source.offset_for_leader_epoch(&[query]).await?;
        let Some(end) = ends.into_iter().next() else {
            return Err(Failure::again("SOURCE_HISTORY_FAILED", "the broker gave no answer"));
        };
        if end.error == ErrorCode::UNSUPPORTED_VERSION {
            return Ok(None);
        }
        if !end.error.is_ok() {
            return Err(Failure::broker("SOURCE_HISTORY_FAILED", self.topic.as_str(), end.error));
        }
        Ok(Some(end.end_offset).filter(|offset| *offset >= 0))
    }

    /// The source's batches from an offset on, as the relay would treat them.
    pub(super) async fn ask_source_read(&self, from: i64) -> Result<Vec<SourceItem>, Failure> {
        let read_committed = self.link.read_committed();
        let fetched = self.source_place().fetch(from, read_committed).await?;
        if fetched.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            return Err(Failure::Stop(self.out_of_range(from).await?.unwrap_or_else(|| {
                Stop::new(StopReason::PositionUnknown, "the source moved while its place was looked for")
                    .at(from, None)
            })));
        }
        check(&fetched, "SOURCE_FETCH_FAILED", self.topic.as_str())?;
        let aborted = fetched
            .aborted
            .iter()
            .map(|a| Aborted { producer_id: a.producer_id, first_offset: a.first_offset })
            .collect();
        let mut reader = FetchReader::new(read_committed, aborted);
        let (mut place, mut items) = (from, Vec::new());
        for batch in split(fetched.records) {
            let batch = batch.map_err(|error| Failure::Stop(unreadable(&error)))?;
            let header: BatchHeader = batch.header;
            let bytes = u64::try_from(batch.bytes.len()).unwrap_or(u64::MAX);
            match reader.judge(&batch, place) {
                Judgement::Skip(_) => {
                    place = place.max(header.next_offset());
                    items.push(SourceItem::Passed(place));
                }
                Judgement::Mirror => {
                    let crc = body_crc(&batch.bytes);
                    items.push(SourceItem::Mirror { from: header.base_offset, header, body_crc: crc, bytes });
                    place = header.next_offset();
                }
                Judgement::Trim(from) => {
                    let crc = body_crc(&batch.bytes);
                    items.push(SourceItem::Mirror { from, header, body_crc: crc, bytes });
                    place = header.next_offset();
                }
                Judgement::Stop(stop) => return Err(Failure::Stop(stop)),
            }
        }
        Ok(items)
    }

    /// The source no longer has, or not yet has, an offset: which of the two. `None` if it has it after all.
    pub(super) async fn out_of_range(&self, offset: i64) -> Result<Option<Stop>, Failure> {
        let place = self.source_place();
        let log_start = place.offset(OffsetSpec::Earliest).await?;
        let log_end = place.offset(OffsetSpec::LogEnd).await?;
        if offset < log_start {
            let message = format!(
                "the source deleted offsets {offset} to {log_start} before they were mirrored: these records are \
                 lost for the target; raise the source's retention, then delete the flow and create it with \
                 start_over to go on without them"
            );
            return Ok(Some(Stop::new(StopReason::RetentionOverrun, message).at(offset, Some(log_start))));
        }
        if offset > log_end {
            let message = format!(
                "the source ends at {log_end}, but offsets up to {offset} were mirrored: the source lost records in \
                 an unclean election, and the target still has them"
            );
            return Ok(Some(Stop::new(StopReason::SourceTruncated, message).at(log_end, Some(offset))));
        }
        Ok(None)
    }
}

fn check(fetched: &FetchedPartition, reason: &'static str, topic: &str) -> Result<(), Failure> {
    if fetched.error.is_ok() { Ok(()) } else { Err(Failure::broker(reason, topic, fetched.error)) }
}
