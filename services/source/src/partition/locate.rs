//! Finding the place: asks what core's resync machine wants to know until it is satisfied.

use mirrormesh_core::relay::journal::Journal;
use mirrormesh_core::relay::resync::{Found, Resync, Step};
use mirrormesh_core::relay::stop::Stop;
use mirrormesh_kafka::{Error, ErrorCode};
use mirrormesh_runtime::clock::now_ms;

use super::{Located, PartitionUnit};

/// Why the place was not found.
pub(super) enum Failure {
    /// It can't be: somebody has to act.
    Stop(Stop),
    /// Not now: a stable name and what is wrong.
    Again(String, String),
}

impl Failure {
    /// A broker's error code.
    pub(super) fn broker(reason: &'static str, topic: &str, code: ErrorCode) -> Self {
        Self::Again(reason.to_owned(), format!("{topic}: the broker answers {code}"))
    }
}

impl Failure {
    /// Something that may pass.
    pub(super) fn again(reason: &str, message: &str) -> Self {
        Self::Again(reason.to_owned(), message.to_owned())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        mirrormesh_worker::Failure::from(error).into()
    }
}

impl From<mirrormesh_worker::Failure> for Failure {
    fn from(failure: mirrormesh_worker::Failure) -> Self {
        Self::Again(failure.reason, failure.message)
    }
}

impl PartitionUnit {
    /// Finds the place anew. Nothing of this partition is in flight meanwhile.
    pub(super) async fn locate(&mut self) -> Result<Located, Failure> {
        let mut resync = Resync::new(self.generation, self.detail.clone());
        let mut stored = None;
        loop {
            match resync.step().clone() {
                Step::Identity => {
                    let (source, target) = self.ask_identity().await?;
                    resync.identity(source, target);
                }
                Step::Positions => {
                    let load = self.link.positions.load(
                        self.detail.target_topic_id,
                        self.partition,
                        self.generation.producer_id,
                    );
                    let loaded = load.await?;
                    resync.positions(loaded.positions.iter().map(|(_, position)| position.clone()).collect());
                    stored = Some(loaded);
                }
                Step::TargetEnds => {
                    let (log_start, log_end, high_watermark) = self.ask_target_ends().await?;
                    resync.target_ends(log_start, log_end, high_watermark);
                }
                Step::TargetTail(offset) => resync.target_tail(self.ask_target_tail(offset).await?),
                Step::TargetScan { from, to } => resync.target_scan(&self.ask_target_scan(from, to).await?),
                Step::SourceHistory(epoch) => resync.source_history(self.ask_source_history(epoch).await?),
                Step::SourceRead(from) => resync.source_read(&self.ask_source_read(from).await?),
                Step::Done(found) => return Ok(self.located(found, stored.unwrap_or_default())),
                Step::Stop(stop) => return Err(Failure::Stop(stop)),
                Step::Again(reason) => {
                    return Err(Failure::Again(reason.to_owned(), explain(reason).to_owned()));
                }
            }
        }
    }

    fn located(&mut self, found: Found, stored: crate::positions::Stored) -> Located {
        if let Some((from, to)) = found.truncated {
            let message = format!(
                "the target lost its offsets {from} to {to}, which were acknowledged: they are mirrored again from \
                 the source; check the target's replication and unclean elections"
            );
            let event = self.event("TARGET_TRUNCATED", &message, None, None);
            self.context.coordinator.report_events(vec![event]);
        }
        let newest = stored
            .positions
            .iter()
            .filter(|(_, p)| p.generation == self.generation)
            .max_by_key(|(_, p)| p.count);
        let mut journal = Journal::new(stored.last_chunk, newest.map(|(slot, _)| *slot));
        let now = now_ms();
        for mirrored in &found.replay {
            journal.mirrored(mirrored, now);
        }
        if found.position.is_none() {
            // So that a next owner finds a place even before the first batch is acknowledged.
            journal.passed(now);
        }
        self.figures.source_offset = found.place.source;
        self.figures.target_offset = found.place.target;
        tracing::debug!(
            flow = %self.context.flow_id, topic = %self.topic, partition = self.partition,
            n = found.place.count, source = found.place.source, target = found.place.target,
            replayed = found.replay.len(), sole_writer = found.sole_writer, "place found"
        );
        Located { found, journal }
    }
}

fn explain(reason: &str) -> &'static str {
    match reason {
        "SOURCE_TOPIC_MISSING" => {
            "the source topic does not exist: create it again, or exclude it from the flow"
        }
        "TARGET_TOPIC_MISSING" => "the target topic does not exist: it was deleted behind the flow's back",
        "TARGET_NOT_SETTLED" => "the target's log end is not replicated yet: waiting for its replicas",
        _ => "trying again",
    }
}
