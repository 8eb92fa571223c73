//! What a broker's answer to an append means (exactly-once.md 7).

use super::stop::{Stop, StopReason};

/// The answer to one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Appended, now or before.
    Appended {
        /// Where the broker says the batch begins.
        base_offset: i64,
    },
    /// Refused with this Kafka error.
    Refused {
        /// Error code.
        code: i16,
        /// What the broker says about it, if anything.
        message: String,
    },
    /// The connection ended or no answer came in time: it may or may not have been appended.
    Lost,
    /// It never left this process.
    NotSent,
}

/// What to do about a refusal or a lost answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Find the place anew and go on.
    Resync {
        /// The target refused the sequence; a settled place must not be refused again and again.
        sequence_refused: bool,
        /// The leader may have moved: ask for it again.
        leader_moved: bool,
        /// Wait before trying again: the cluster has to recover first.
        back_off: bool,
        /// What to show meanwhile: a stable name.
        reason: &'static str,
    },
    /// Stop the partition.
    Stop(Stop),
}

fn resync(reason: &'static str) -> Verdict {
    Verdict::Resync { sequence_refused: false, leader_moved: false, back_off: false, reason }
}

fn moved(reason: &'static str) -> Verdict {
    Verdict::Resync { sequence_refused: false, leader_moved: true, back_off: false, reason }
}

fn waiting(reason: &'static str) -> Verdict {
    Verdict::Resync { sequence_refused: false, leader_moved: false, back_off: true, reason }
}

/// Judges an answer that is not an append. `from` and `to` are the source offsets of the batch.
pub fn judge(answer: &Answer, from: i64, to: i64) -> Verdict {
    let (code, message) = match answer {
        Answer::Refused { code, message } => (*code, message.as_str()),
        Answer::Lost => return resync("ANSWER_LOST"),
        Answer::NotSent | Answer::Appended { .. } => return resync("NOT_SENT"),
    };
    let stop = |reason, text: String| Verdict::Stop(Stop::new(reason, text).at(from, Some(to)));
    match code {
        45 | 46 | 59 => Verdict::Resync {
            sequence_refused: true,
            leader_moved: false,
            back_off: false,
            reason: "SEQUENCE_REFUSED",
        },
        3 | 5 | 6 | 8 | 9 | 56 | 74 | 75 | 100 | 103 => moved("LEADER_MOVED"),
        7 => resync("REQUEST_TIMED_OUT"),
        19 | 20 => waiting("NOT_ENOUGH_REPLICAS"),
        2 => waiting("CORRUPT_MESSAGE"),
        47 | 90 => stop(
            StopReason::Fenced,
            "the target saw a newer epoch of this flow's producer: another mesh or an older mirror of the same flow \
             writes here; stop it, then pause and resume the flow"
                .to_owned(),
        ),
        10 | 18 => stop(
            StopReason::BatchTooLarge,
            format!(
                "source offsets {from} to {to} are one batch that is larger than the target takes: raise \
                 max.message.bytes on the target topic, then pause and resume the flow"
            ),
        ),
        17 | 32 | 43 | 44 | 76 | 87 => stop(
            StopReason::TargetRefused,
            format!("the target refuses the batch of source offsets {from} to {to} with error {code}: {message}"),
        ),
        29 | 31 => waiting("TARGET_NOT_AUTHORIZED"),
        _ => waiting("TARGET_ERROR"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: i16) -> Verdict {
        judge(&Answer::Refused { code, message: String::new() }, 5, 9)
    }

    #[test]
    fn answers_are_judged_as_the_contract_says() {
        assert!(matches!(code(45), Verdict::Resync { sequence_refused: true, .. }));
        assert!(matches!(code(6), Verdict::Resync { leader_moved: true, .. }));
        assert!(matches!(code(19), Verdict::Resync { back_off: true, .. }));
        assert!(matches!(code(47), Verdict::Stop(Stop { reason: StopReason::Fenced, .. })));
        assert!(matches!(
            code(10),
            Verdict::Stop(Stop { reason: StopReason::BatchTooLarge, from_offset: Some(5), .. })
        ));
        assert!(matches!(code(87), Verdict::Stop(Stop { reason: StopReason::TargetRefused, .. })));
        assert!(matches!(code(32), Verdict::Stop(Stop { reason: StopReason::TargetRefused, .. })));
        assert!(matches!(judge(&Answer::Lost, 0, 1), Verdict::Resync { .. }));
    }
}
