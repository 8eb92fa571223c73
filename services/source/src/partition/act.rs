//! Carrying out the machine's actions, and bringing it what came of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrormesh_core::control::GenerationRequest;
use mirrormesh_core::format::batch::BatchHeader;
use mirrormesh_core::position::{PositionKey, PositionValue};
use mirrormesh_kafka::backoff::pause_after;
use mirrormesh_kafka::{Error, ErrorCode};
use mirrormesh_relay::answer::Answer;
use mirrormesh_relay::machine::{Action, Append, Beginning};
use mirrormesh_relay::path::Path;
use mirrormesh_runtime::clock::now_ms;
use mirrormesh_worker::{CoordinatorError, Failure};
use rand::Rng as _;
use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::{PartitionUnit, Turn};
use crate::fetcher::{Fetched, PAGES_WAITING, Subscription};
use crate::sender;
use crate::throttle::{Arrived, Intake};

/// Pause before a position is recovered again, growing to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What says that a partition holds up others on its connection.
const SLOW: [&str; 2] = ["REQUEST_TIMED_OUT", "NOT_ENOUGH_REPLICAS"];

impl PartitionUnit {
    pub(super) async fn act(&mut self, action: Action) -> Turn {
        match action {
            Action::Ask { id, ask } => {
                let probe = self.probe();
                self.underway.asking = Some(Box::pin(async move { (id, probe.ask(ask).await) }));
            }
            Action::Fetch { offset, read_committed, last_epoch } => {
                // Boxed, as it is rare: a unit's task is as large as all that it may wait for.
                Box::pin(self.fetch(offset, read_committed, last_epoch)).await;
            }
            Action::StopFetching => self.lines.pages = None,
            Action::Append(append) => self.append(append).await,
            Action::Write(records) => self.write(records),
            Action::Begin(beginning) => self.begin(&beginning),
            Action::Notice(notice) => {
                let event = self.event(&notice);
                tracing::warn!(flow = %self.context.flow_id, subject = event.subject, reason = event.reason,
                    message = event.message, "notice");
                self.context.coordinator.report_events([event]);
            }
            Action::Skipped(skip) => self.link.metrics.skipped(&self.flow_label, skip.name()),
            Action::Broken { reason, leader_moved } => Box::pin(self.broken(reason, leader_moved)).await,
            Action::Wait { attempt, .. } => {
                self.lines.pages = None;
                self.say();
                let wait = back_off(attempt);
                self.underway.waiting = Some(Box::pin(tokio::time::sleep(wait)));
            }
            Action::Stopped(stop) => self.stopped(&stop),
            Action::Released => {
                self.say();
                return Turn::Ends;
            }
        }
        Turn::GoesOn
    }

    /// Subscribes at the source's leader, and takes the connection to the target's.
    async fn fetch(&mut self, offset: i64, read_committed: bool, last_epoch: i32) {
        let stop = self.context.stop.clone();
        let connected = tokio::select! {
            connected = self.connect(offset, read_committed, last_epoch) => connected,
            () = stop.cancelled() => Ok(()),
        };
        if let Err(error) = connected {
            let failure = self.probe().explain(Failure::from(error)).await;
            self.relay.source_failed(&failure.reason, &failure.message);
        }
        self.say();
    }

    async fn connect(&mut self, offset: i64, read_committed: bool, last_epoch: i32) -> Result<(), Error> {
        let detail = self.relay.detail();
        let target_topic = detail.target_topic.clone();
        let topic_id = detail.source_topic_id.0;
        let source = self.link.source.leader(self.topic.as_str(), self.partition).await?;
        let target = self.link.target.leader(target_topic.as_str(), self.partition).await?;
        let fetcher = self.link.fetcher(source.node_id, read_committed);
        self.lines.sender = Some(self.link.sender(&target, target_topic.as_str(), self.partition, self.slow));
        self.lines.row = Arc::default();
        self.slow = false;
        let (page_sender, pages) = mpsc::channel(PAGES_WAITING);
        fetcher
            .subscribe(Subscription {
                topic: self.topic.shared(),
                topic_id,
                partition: self.partition,
                offset,
                leader_epoch: source.leader_epoch,
                last_epoch,
                end: Arc::clone(&self.end),
                throttle: Arc::clone(&self.throttle),
                memory: Arc::clone(&self.memory),
                pages: page_sender,
            })
            .await;
        self.lines.fetcher = Some(fetcher);
        self.lines.pages = Some(Intake::new(pages, Arc::clone(&self.throttle)));
        Ok(())
    }

    async fn append(&mut self, mut append: Append) {
        self.tally.sent(append.path.name());
        if let Some(header) = BatchHeader::parse(&append.batch.header) {
            self.tally.stamped(append.id, header.base_timestamp);
        }
        if let (true, Some(fetcher)) = (append.path != Path::Passthrough, &self.lines.fetcher) {
            // It was made here: no frame holds it, so nobody has charged it yet.
            append.batch.body = self.memory.made(append.batch.body, fetcher.wake());
        }
        let (answers, row) = (self.lines.answers.clone(), Arc::clone(&self.lines.row));
        let reply = sender::Reply::new(append.id, answers, row, append.batch.body.len());
        let detail = self.relay.detail();
        let batch = sender::QueuedBatch {
            topic: detail.target_topic.shared(),
            topic_id: detail.target_topic_id.0,
            partition: self.partition,
            batch: append.batch,
            reply,
        };
        match &self.lines.sender {
            Some(sender) => sender.append(batch).await,
            // Its reply answers that it was not sent.
            None => drop(batch),
        }
    }

    fn write(&mut self, records: Vec<(PositionKey, Option<PositionValue>)>) {
        let link = Arc::clone(&self.link);
        self.underway.writing = Some(Box::pin(async move { link.positions.write(records).await }));
    }

    fn begin(&mut self, beginning: &Beginning) {
        tracing::info!(flow = %self.context.flow_id, topic = %self.topic, partition = self.partition,
            source_offset = beginning.start.source_offset, target_offset = beginning.start.target_offset,
            "beginning a generation");
        tracing::debug!(?beginning, "the generation");
        let request = GenerationRequest {
            flow: self.context.flow_id.clone(),
            topic: self.topic.clone(),
            partition: self.partition,
            number: self.context.assigned.number,
            after: beginning.after,
            offered: beginning.offered,
            start: beginning.start,
            events: beginning.notices.iter().map(|notice| self.event(notice)).collect(),
        };
        let (coordinator, span) = (self.context.coordinator.clone(), self.start.span());
        let begin = async move {
            coordinator.begin_generation(&request).await.map_err(|error| match error {
                CoordinatorError::Outdated { reason, message }
                | CoordinatorError::Refused { reason, message, .. } => (reason, message),
                CoordinatorError::Cancelled => ("STOPPING".to_owned(), "the unit is to stop".to_owned()),
            })
        };
        self.underway.beginning = Some(Box::pin(begin.instrument(span)));
    }

    async fn broken(&mut self, reason: &'static str, leader_moved: bool) {
        tracing::info!(flow = %self.context.flow_id, topic = %self.topic, partition = self.partition, reason,
            "appends interrupted: recovering the position");
        self.link.metrics.resync(&self.flow_label, reason);
        self.slow = SLOW.contains(&reason);
        let target_topic = self.relay.detail().target_topic.clone();
        if leader_moved {
            self.link.target.invalidate(target_topic.as_str(), self.partition);
        }
        // A refusal may come from settings that changed since they were read.
        self.link.target_settings.outdate(target_topic.as_str()).await;
        self.say();
    }

    pub(super) fn answered(&mut self, id: u64, answer: &Answer) {
        self.tally.answered();
        if !matches!(answer, Answer::Appended { .. }) {
            tracing::debug!(flow = %self.context.flow_id, topic = %self.topic, partition = self.partition,
                ?answer, "append failed");
        }
        let (before, now) = (self.relay.totals(), now_ms());
        self.tally.settled(id, matches!(answer, Answer::Appended { .. }), now);
        self.relay.answer(id, answer, now);
        if self.relay.has_failed() {
            // Also after an append that stands elsewhere than expected, which the sender takes for a good one.
            self.lines.row.fail();
        }
        let (records, bytes) = self.relay.totals();
        if records > before.0 {
            self.start.mirrored();
        }
        self.tally.mirrored(records - before.0, bytes - before.1);
    }

    pub(super) fn written(&mut self, written: &Result<(), Failure>) {
        if let Err(error) = written {
            self.link.metrics.position_failed(&self.flow_label);
            if self.link.positions_line.may_log(Instant::now()) {
                tracing::warn!(flow = %self.context.flow_id, topic = %self.topic, partition = self.partition, %error,
                    "positions can't be written; later ones make up for it");
            }
        }
        self.position_fault = written.as_ref().err().map(ToString::to_string);
        self.relay.written(written.is_ok(), now_ms());
        // Nothing may follow for long.
        self.say();
    }

    pub(super) fn fetched(&mut self, arrived: Arrived) {
        if matches!(arrived, Arrived::Waits) {
            return self.say();
        }
        if let Some(fetcher) = &self.lines.fetcher {
            fetcher.taken();
        }
        match arrived {
            Arrived::Waits => {}
            Arrived::Now(Fetched::Page(page)) => {
                let only_end = page.records.is_empty();
                self.relay.fetched(page, &self.codecs);
                if only_end {
                    // Nothing else follows that would tell it.
                    self.say();
                }
            }
            Arrived::Now(Fetched::Refused(code)) => self.refused(code),
            Arrived::Now(Fetched::Lost(message)) => self.lost("SOURCE_UNREACHABLE", &message),
            Arrived::Ended => self.lost("SOURCE_UNREACHABLE", "the fetch ended"),
        }
    }

    fn refused(&mut self, code: ErrorCode) {
        match code {
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                self.lines.pages = None;
                self.relay.out_of_range();
            }
            code if code.is_leader_error() => {
                self.lost("SOURCE_LEADER_MOVED", &format!("the source broker answers {code}"));
            }
            code => self.lost("SOURCE_ERROR", &format!("the source broker answers {code}")),
        }
    }

    fn lost(&mut self, reason: &str, message: &str) {
        self.lines.pages = None;
        self.link.source.invalidate(self.topic.as_str(), self.partition);
        self.relay.source_failed(reason, message);
    }
}

fn back_off(attempt: u32) -> Duration {
    // Partitions that lost the same broker must not come back together.
    let part = rand::rng().random_range(0.5..=1.0);
    pause_after(attempt.saturating_add(1), BACKOFF_MIN, BACKOFF_MAX).mul_f64(part)
}
