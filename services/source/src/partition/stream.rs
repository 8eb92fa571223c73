//! Streaming: fetched batches in, appends out, answers back, positions written down.
//!
//! One loop per partition owns all of its state. It ends when it is asked to, or when something breaks; before it
//! returns, every append has its answer.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_core::format::batch::{RawBatch, Stamp, StampedBatch, split};
use mirrormesh_core::relay::answer::{Answer, Verdict};
use mirrormesh_core::relay::journal::{Entry, Journal, Mirrored};
use mirrormesh_core::relay::position::{LastBatch, Position, PositionKey, PositionKind, PositionValue};
use mirrormesh_core::relay::reader::{FetchReader, Judgement, Skip, unreadable};
use mirrormesh_core::relay::stop::{Stop, StopReason};
use mirrormesh_core::relay::window::{Limits, Outcome, Window};
use mirrormesh_core::report::UnitState;
use mirrormesh_kafka::batch::{Codec, Producer, decode_records, encode_records};
use mirrormesh_kafka::{Error, ErrorCode};
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::Failure;
use tokio::sync::mpsc;

use super::locate;
use super::{End, Located, PartitionUnit};
use crate::fetcher::{CHUNKS_WAITING, Chunk, Fetched, Fetcher, Memory, Subscription};
use crate::sender::{Append, Sender};

/// How often figures are reported and positions looked at while something happens.
const TICK: Duration = Duration::from_millis(100);
/// Records of one batch may unfold to so many bytes when a batch must be rebuilt.
const REBUILD_BYTES_MAX: usize = 256 << 20;

/// What a position says of the last batch before there was one.
const NOTHING_MIRRORED: (LastBatch, i32) =
    (LastBatch { count: 0, base_timestamp: 0, max_timestamp: 0, body_crc: 0 }, -1);

type Writing = Pin<Box<dyn Future<Output = (Entry, Result<(), Failure>)> + Send>>;

/// Batches of one fetch that were not sent yet.
struct Current {
    reader: FetchReader,
    batches: VecDeque<RawBatch>,
    /// What follows them can't be read.
    bad: Option<Stop>,
    memory: Memory,
    /// The judged first batch, if the window had no room for it.
    judged: Option<(RawBatch, i64)>,
}

struct Stream<'a> {
    unit: &'a mut PartitionUnit,
    window: Window,
    journal: Journal,
    current: Option<Current>,
    sender: Arc<Sender>,
    answers: mpsc::UnboundedSender<(u64, Answer)>,
    last: Option<(LastBatch, i32)>,
    broken: Option<End>,
    end_offset: i64,
    newest_ms: i64,
}

impl PartitionUnit {
    /// Streams from a settled place.
    pub(super) async fn stream(&mut self, located: Located) -> End {
        match self.open(located).await {
            Ok((stream, fetcher, chunks, answers)) => stream.run(fetcher, chunks, answers).await,
            Err(end) => end,
        }
    }

    async fn open(
        &mut self,
        located: Located,
    ) -> Result<
        (Stream<'_>, Arc<Fetcher>, mpsc::Receiver<Fetched>, mpsc::UnboundedReceiver<(u64, Answer)>),
        End,
    > {
        let lost = |error: Error| {
            let failure = Failure::from(error);
            End::Source(failure.reason, failure.message)
        };
        let source = self.link.source.leader(self.topic.as_str(), self.partition).await.map_err(lost)?;
        let target_topic = self.detail.target_topic.clone();
        let target = self.link.target.leader(target_topic.as_str(), self.partition).await.map_err(lost)?;
        let fetcher = self.link.fetcher(source.node_id);
        let sender = self.link.sender(target.node_id, target_topic.as_str(), self.partition);
        let (chunk_sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        fetcher
            .subscribe(Subscription {
                topic: self.topic.shared(),
                topic_id: self.detail.source_topic_id.0,
                partition: self.partition,
                offset: located.found.place.source,
                leader_epoch: source.leader_epoch,
                chunks: chunk_sender,
            })
            .await;
        let (answers, answer_receiver) = mpsc::unbounded_channel();
        let position = located.found.position.as_ref();
        let newest = located.found.replay.last();
        let newest_batch = newest
            .map(|m| (m.last, m.source_leader_epoch))
            .or_else(|| position.map(|p| (p.last, p.source_leader_epoch)));
        let stream = Stream {
            window: Window::new(located.found.place, located.found.sole_writer, Limits::default()),
            journal: located.journal,
            current: None,
            sender,
            answers,
            last: newest_batch,
            broken: None,
            end_offset: -1,
            newest_ms: -1,
            unit: self,
        };
        Ok((stream, fetcher, chunks, answer_receiver))
    }
}

impl Stream<'_> {
    async fn run(
        mut self,
        fetcher: Arc<Fetcher>,
        chunks: mpsc::Receiver<Fetched>,
        mut answers: mpsc::UnboundedReceiver<(u64, Answer)>,
    ) -> End {
        let mut chunks = Some(chunks);
        let mut writing: Option<Writing> = None;
        let stop = self.unit.context.stop.clone();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.unit.say(UnitState::Running, "", "");
        loop {
            if stop.is_cancelled() {
                self.broken.get_or_insert(End::Released);
            }
            if self.broken.is_some() {
                // Nothing new; what is in flight gets its answers, and what was acknowledged is written down.
                chunks = None;
                self.current = None;
                if self.window.is_empty() && writing.is_none() {
                    if !self.journal.is_dirty() {
                        break;
                    }
                    let entry = self.journal.take();
                    let written = self.write(&entry).await;
                    if let Err(error) = written {
                        tracing::warn!(flow = %self.unit.context.flow_id, topic = %self.unit.topic,
                            partition = self.unit.partition, %error, "position not written; a later owner counts again");
                        break;
                    }
                    continue;
                }
            } else {
                self.send().await;
            }
            let wants_chunk = self.current.is_none() && self.broken.is_none();
            let busy = self.journal.is_dirty() || !self.window.is_empty();
            tokio::select! {
                biased;
                Some((id, answer)) = answers.recv() => {
                    self.answered(id, &answer);
                    while let Ok((id, answer)) = answers.try_recv() {
                        self.answered(id, &answer);
                    }
                }
                arrived = next(&mut chunks), if wants_chunk => {
                    fetcher.taken();
                    self.fetched(arrived).await;
                }
                (entry, written) = finish(&mut writing), if writing.is_some() => {
                    writing = None;
                    self.written(entry, written);
                }
                _ = ticks.tick(), if busy => {
                    self.report();
                    let quiet = self.window.is_empty() && self.current.is_none();
                    if writing.is_none() && self.journal.due(now_ms(), quiet) {
                        let entry = self.journal.take();
                        let write = self.write(&entry);
                        writing = Some(Box::pin(async move { (entry, write.await) }));
                    }
                }
                () = stop.cancelled(), if self.broken.is_none() => {}
            }
        }
        self.report();
        self.broken.unwrap_or(End::Released)
    }

    /// Sends what the window allows.
    async fn send(&mut self) {
        while self.broken.is_none() {
            let Some((batch, place)) = self.next_batch() else { return };
            let now = now_ms();
            let size = u64::try_from(batch.bytes.len()).unwrap_or(u64::MAX);
            if !self.window.may_send(size, now) {
                if let Some(current) = &mut self.current {
                    current.judged = Some((batch, place));
                }
                return;
            }
            let stamp = Stamp {
                producer_id: self.unit.generation.producer_id,
                producer_epoch: self.unit.generation.epoch,
                base_sequence: self.window.next_sequence(),
            };
            let stamped = match self.stamp(&batch, place, stamp) {
                Ok(stamped) => stamped,
                Err(stop) => {
                    self.broken = Some(End::Broken(Verdict::Stop(stop)));
                    return;
                }
            };
            let id = self.window.sent(&batch.header, place, size, stamped.body_crc);
            self.unit.link.metrics.in_flight(&self.unit.flow_label, 1);
            self.newest_ms = self.newest_ms.max(batch.header.max_timestamp);
            let memory = self.current.as_ref().map_or_else(|| Arc::new(None), |c| Arc::clone(&c.memory));
            let append = Append {
                topic: self.unit.detail.target_topic.shared(),
                topic_id: self.unit.detail.target_topic_id.0,
                partition: self.unit.partition,
                id,
                batch: stamped,
                answers: self.answers.clone(),
                memory,
            };
            self.sender.append(append).await;
        }
    }

    /// The next batch to mirror and the source offset from which on, passing over what is left out.
    fn next_batch(&mut self) -> Option<(RawBatch, i64)> {
        loop {
            let place = self.window.next_source();
            let current = self.current.as_mut()?;
            if let Some(judged) = current.judged.take() {
                return Some(judged);
            }
            let Some(batch) = current.batches.pop_front() else {
                if let Some(stop) = current.bad.take() {
                    self.broken = Some(End::Broken(Verdict::Stop(stop)));
                }
                self.current = None;
                return None;
            };
            match current.reader.judge(&batch, place) {
                Judgement::Mirror => {
                    let from = batch.header.base_offset;
                    return Some((batch, from));
                }
                Judgement::Trim(from) => return Some((batch, from)),
                Judgement::Skip(skip) => {
                    if skip != Skip::Before {
                        self.unit.link.metrics.skipped(&self.unit.flow_label, skip_name(skip));
                    }
                    if self.window.passed(batch.header.next_offset()) {
                        self.journal.passed(now_ms());
                        self.unit.figures.source_offset = self.window.acked().source;
                    }
                }
                Judgement::Stop(stop) => {
                    self.broken = Some(End::Broken(Verdict::Stop(stop)));
                    return None;
                }
            }
        }
    }

    fn stamp(&self, batch: &RawBatch, place: i64, stamp: Stamp) -> Result<StampedBatch, Stop> {
        if place <= batch.header.base_offset {
            self.unit.link.metrics.batch(&self.unit.flow_label, "passthrough");
            return batch.stamp(stamp).map_err(|error| unreadable(&error));
        }
        self.unit.link.metrics.batch(&self.unit.flow_label, "trimmed");
        // The checksum is checked before anything inside is looked at.
        batch.stamp(stamp).map_err(|error| unreadable(&error))?;
        let failed = |text: String| {
            Stop::new(
                StopReason::BatchStraddles,
                format!(
                    "the batch of source offsets {} to {} begins before {place}, and can't be cut there: {text}",
                    batch.header.base_offset,
                    batch.header.last_offset()
                ),
            )
            .at(place, Some(batch.header.next_offset()))
        };
        let mut records =
            decode_records(&batch.bytes, REBUILD_BYTES_MAX).map_err(|error| failed(error.to_string()))?;
        records.retain(|record| record.offset >= place);
        let codec = Codec::from_attributes(batch.header.codec())
            .ok_or_else(|| failed(format!("its codec {} is not known", batch.header.codec())))?;
        let rebuilt =
            encode_records(&records, codec, Producer::NONE).map_err(|error| failed(error.to_string()))?;
        let rebuilt = split(rebuilt).next().and_then(Result::ok);
        let rebuilt = rebuilt.ok_or_else(|| failed("the rebuilt batch can't be read".to_owned()))?;
        rebuilt.stamp(stamp).map_err(|error| failed(error.to_string()))
    }

    fn answered(&mut self, id: u64, answer: &Answer) {
        let now = now_ms();
        self.unit.link.metrics.in_flight(&self.unit.flow_label, -1);
        match self.window.answer(id, answer, now) {
            Outcome::Mirrored(mirrored) => self.mirrored(&mirrored, now),
            Outcome::Failed(verdict) => {
                tracing::debug!(flow = %self.unit.context.flow_id, topic = %self.unit.topic,
                    partition = self.unit.partition, ?answer, ?verdict, "append failed");
                self.broken.get_or_insert(End::Broken(verdict));
            }
            Outcome::Drained => {}
        }
    }

    fn mirrored(&mut self, mirrored: &Mirrored, now: u64) {
        self.journal.mirrored(mirrored, now);
        self.last = Some((mirrored.last, mirrored.source_leader_epoch));
        let unit = &mut *self.unit;
        unit.attempts = 0;
        unit.refusals = 0;
        let acked = self.window.acked();
        unit.figures.source_offset = acked.source;
        unit.figures.target_offset = acked.target;
        unit.figures.records += mirrored.segment.count;
        unit.figures.bytes += i64::try_from(mirrored.bytes).unwrap_or(0);
        let records = u64::try_from(mirrored.segment.count).unwrap_or(0);
        unit.link.metrics.mirrored(&unit.flow_label, records, mirrored.bytes);
    }

    async fn fetched(&mut self, fetched: Option<Fetched>) {
        match fetched {
            Some(Fetched::Chunk(chunk)) => self.take(chunk),
            Some(Fetched::Refused(code)) => self.refused(code).await,
            Some(Fetched::Lost(message)) => {
                self.broken = Some(End::Source("SOURCE_UNREACHABLE".to_owned(), message));
            }
            None => {
                self.broken =
                    Some(End::Source("SOURCE_UNREACHABLE".to_owned(), "the fetch ended".to_owned()));
            }
        }
    }

    fn take(&mut self, chunk: Chunk) {
        self.end_offset = chunk.end_offset;
        let mut batches = VecDeque::new();
        let mut bad = None;
        for batch in split(chunk.records) {
            match batch {
                Ok(batch) => batches.push_back(batch),
                Err(error) => bad = Some(unreadable(&error)),
            }
        }
        let reader = FetchReader::new(self.unit.link.read_committed(), chunk.aborted);
        self.current = Some(Current { reader, batches, bad, memory: chunk.memory, judged: None });
        self.report();
    }

    async fn refused(&mut self, code: ErrorCode) {
        let message = format!("the source broker answers {code}");
        self.broken = Some(match code {
            ErrorCode::OFFSET_OUT_OF_RANGE => match self.unit.out_of_range(self.window.next_source()).await {
                Ok(Some(stop)) | Err(locate::Failure::Stop(stop)) => End::Broken(Verdict::Stop(stop)),
                Ok(None) | Err(locate::Failure::Again(..)) => End::Source("SOURCE_MOVED".to_owned(), message),
            },
            code if code.is_leader_error() => End::Source("SOURCE_LEADER_MOVED".to_owned(), message),
            _ => End::Source("SOURCE_ERROR".to_owned(), message),
        });
    }

    /// Writes the acknowledged place down. What is written is fixed now; the future only carries it out.
    fn write(&self, entry: &Entry) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let unit = &self.unit;
        let key = |kind| PositionKey {
            flow: unit.context.flow_id.clone(),
            target_topic_id: unit.detail.target_topic_id,
            partition: unit.partition,
            kind,
        };
        let acked = self.window.acked();
        let (last, source_leader_epoch) = self.last.unwrap_or(NOTHING_MIRRORED);
        let position = Position {
            generation: unit.generation,
            sequence_base: 0,
            count: acked.count,
            source_offset: acked.source,
            source_topic_id: unit.detail.source_topic_id,
            source_leader_epoch,
            target_offset: acked.target,
            target_leader_epoch: -1,
            last,
            skip_version: 0,
            assignment_number: unit.context.assigned.number,
            topic: unit.topic.to_string(),
            target_topic: unit.detail.target_topic.to_string(),
        };
        let producer_id = unit.generation.producer_id;
        let mut records: Vec<(PositionKey, PositionValue)> = entry
            .chunks
            .iter()
            .map(|(chunk, segments)| {
                let kind = PositionKind::Segments { producer_id, chunk: *chunk };
                (key(kind), PositionValue::Segments(segments.clone()))
            })
            .collect();
        let kind = PositionKind::Position { generation: unit.generation, slot: entry.slot };
        records.push((key(kind), PositionValue::Position(position)));
        let link = Arc::clone(&unit.link);
        async move { link.positions.write(records).await }
    }

    fn written(&mut self, entry: Entry, written: Result<(), Failure>) {
        if let Err(error) = written {
            tracing::warn!(flow = %self.unit.context.flow_id, topic = %self.unit.topic,
                partition = self.unit.partition, %error, "position not written; trying again");
            self.journal.failed(entry, now_ms());
        }
    }

    fn report(&mut self) {
        let now = now_ms();
        let figures = &mut self.unit.figures;
        figures.source_end_offset = Some(self.end_offset).filter(|end| *end >= 0);
        let behind = self.end_offset > figures.source_offset;
        figures.oldest_pending_ms = (behind && self.newest_ms >= 0).then_some(self.newest_ms);
        figures.exactly_once = self.window.is_armed(now);
        if self.broken.is_none() {
            self.unit.say(UnitState::Running, "", "");
        }
    }
}

fn skip_name(skip: Skip) -> &'static str {
    match skip {
        Skip::Control => "control",
        Skip::Aborted => "aborted",
        Skip::Empty => "empty",
        Skip::Before => "before",
    }
}

async fn next(chunks: &mut Option<mpsc::Receiver<Fetched>>) -> Option<Fetched> {
    match chunks {
        Some(chunks) => chunks.recv().await,
        None => std::future::pending().await,
    }
}

async fn finish(writing: &mut Option<Writing>) -> (Entry, Result<(), Failure>) {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
