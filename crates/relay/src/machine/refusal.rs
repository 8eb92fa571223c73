//! What follows a batch that was not appended, and what is said of it.

use mirrormesh_core::stop::StopReason;

use super::stream::After;
use super::{Action, Notice, Phase, Refused, Relay, Stop, TimestampPolicy};
use crate::answer::Verdict;
use crate::path::timestamp_refused;
use crate::rebuild::Oversized;

/// A batch that the target fails on is tried so often, with growing waits, before it is taken for unreadable.
const CONTENT_REFUSALS_MAX: u32 = 8;

/// A refusal that must not come for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) what: Refused,
    /// n at that time.
    pub(super) count: i64,
    pub(super) times: u32,
}

impl Relay {
    pub(super) fn failed(&mut self, verdict: Verdict) {
        let (what, leader_moved, back_off, reason) = match verdict {
            Verdict::Stop(stop) => {
                if let Phase::Streaming(stream) = &mut self.phase {
                    stream.break_off_failed(After::Stop(stop));
                }
                return;
            }
            Verdict::Resync { refused, leader_moved, back_off, reason } => {
                (refused, leader_moved, back_off, reason)
            }
        };
        let Phase::Streaming(stream) = &mut self.phase else { return };
        let place = stream.window.acked();
        let times = match self.refusal {
            Some(r) if r.what == what && r.count == place.count => r.times + 1,
            _ => 1,
        };
        if what != Refused::Nothing {
            self.refusal = Some(Refusal { what, count: place.count, times });
        }
        let stop = match what {
            Refused::Size => {
                // It goes on with smaller batches.
                stream.window.refused().into_iter().for_each(|batch| self.sizes.refused(batch));
                None
            }
            Refused::Timestamp if times > 1 || self.setup.rules.timestamps == TimestampPolicy::Keep => {
                Some(timestamp_refused(place.source, place.source + 1))
            }
            Refused::Timestamp => {
                self.clamp = true;
                None
            }
            Refused::Checksum => {
                // From now on records are checked before they are sent: if the source's are damaged, that is said.
                self.check = true;
                None
            }
            Refused::Content if times > CONTENT_REFUSALS_MAX => Some(unreadable_there(place.source)),
            Refused::Nothing | Refused::Sequence | Refused::Content => None,
        };
        stream.break_off_failed(match stop {
            Some(stop) => After::Stop(stop),
            None if back_off || leader_moved || times > 1 && what != Refused::Size => {
                self.pending.push_back(Action::Broken { reason, leader_moved });
                self.figures.resyncs += 1;
                let message = "the target can't take records now; trying again".to_owned();
                After::Wait { reason: reason.to_owned(), message }
            }
            None => After::Locate { reason, leader_moved },
        });
    }
}

/// What a place that can't be found now waits for.
pub(super) fn explain(reason: &str) -> &'static str {
    match reason {
        "SOURCE_TOPIC_MISSING" => {
            "the source topic does not exist: create it again, or exclude it from the flow"
        }
        "TARGET_TOPIC_MISSING" => "the target topic does not exist: it was deleted behind the flow's back",
        "TARGET_NOT_SETTLED" => "the target's log end is not replicated yet: waiting for its replicas",
        "SOURCE_NOT_SETTLED" => "the source does not show yet what was mirrored: waiting for its replicas",
        _ => "trying again",
    }
}

fn unreadable_there(offset: i64) -> Stop {
    Stop::new(
        StopReason::TargetRefused,
        format!(
            "the target fails on the batch that begins at source offset {offset}, again and again: its records may be \
             damaged behind a right checksum; look at the target broker's log, then pause and resume the flow"
        ),
    )
    .at(offset, None)
}

pub(super) fn too_large(oversized: Oversized, bytes_max: usize) -> Stop {
    let offset = oversized.offset;
    Stop::new(
        StopReason::RecordTooLarge,
        format!(
            "the record at source offset {offset} is larger than the target takes ({bytes_max} bytes): raise \
             max.message.bytes on the target topic, or set records.on_oversized to SKIP on the flow, then pause and \
             resume the flow"
        ),
    )
    .at(offset, Some(offset + 1))
    .counting(1)
}

pub(super) fn skipped(oversized: Oversized, bytes_max: usize) -> Notice {
    let Oversized { offset, bytes } = oversized;
    Notice {
        reason: "RECORD_SKIPPED",
        message: format!(
            "the record at source offset {offset} takes {bytes} bytes and the target takes {bytes_max}: it was left out, \
             as the flow says"
        ),
        from_offset: Some(offset),
        to_offset: Some(offset + 1),
        count: Some(1),
    }
}
