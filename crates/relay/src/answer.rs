//! What a broker's answer to an append means.

use mirrormesh_core::stop::{Stop, StopReason};

use super::error_code as codes;

/// The answer to one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Appended, now or before.
    Appended {
        /// Where the broker says the batch begins.
        base_offset: i64,
        /// The broker set a time: on a topic that keeps the records' times this says that the batch was there already
        /// (seen on 4.3.1: -1 for an append, a time for a duplicate).
        append_time: bool,
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

/// What of a batch the target refused: the same again would be refused again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Nothing of it.
    Nothing,
    /// Its sequence.
    Sequence,
    /// Its size.
    Size,
    /// A timestamp.
    Timestamp,
    /// Its checksum: damaged on the way, or on the source already.
    Checksum,
    /// Something inside that it could not read, as far as it tells: brokers answer -1 to records that make no sense
    /// behind a right checksum (seen on 3.9 and 4.3). It may be another trouble of the broker's, so it is tried again.
    Content,
}

/// What to do about a refusal or a lost answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Find the place anew and go on.
    Resync {
        /// What was refused, so that it is not tried the same way for ever.
        refused: Refused,
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
    Verdict::Resync { refused: Refused::Nothing, leader_moved: false, back_off: false, reason }
}

fn moved(reason: &'static str) -> Verdict {
    Verdict::Resync { refused: Refused::Nothing, leader_moved: true, back_off: false, reason }
}

fn waiting(reason: &'static str) -> Verdict {
    Verdict::Resync { refused: Refused::Nothing, leader_moved: false, back_off: true, reason }
}

fn refused(refused: Refused, reason: &'static str) -> Verdict {
    Verdict::Resync { refused, leader_moved: false, back_off: false, reason }
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
        codes::OUT_OF_ORDER_SEQUENCE_NUMBER
        | codes::DUPLICATE_SEQUENCE_NUMBER
        | codes::UNKNOWN_PRODUCER_ID => refused(Refused::Sequence, "SEQUENCE_REFUSED"),
        codes::MESSAGE_TOO_LARGE | codes::RECORD_LIST_TOO_LARGE => refused(Refused::Size, "SIZE_REFUSED"),
        codes::INVALID_TIMESTAMP => refused(Refused::Timestamp, "TIMESTAMP_REFUSED"),
        codes::UNKNOWN_SERVER_ERROR => Verdict::Resync {
            refused: Refused::Content,
            leader_moved: false,
            back_off: true,
            reason: "TARGET_ERROR",
        },
        codes::UNKNOWN_TOPIC_OR_PARTITION
        | codes::LEADER_NOT_AVAILABLE
        | codes::NOT_LEADER_OR_FOLLOWER
        | codes::BROKER_NOT_AVAILABLE
        | codes::REPLICA_NOT_AVAILABLE
        | codes::KAFKA_STORAGE_ERROR
        | codes::FENCED_LEADER_EPOCH
        | codes::UNKNOWN_LEADER_EPOCH
        | codes::UNKNOWN_TOPIC_ID
        | codes::INCONSISTENT_TOPIC_ID => moved("LEADER_MOVED"),
        codes::REQUEST_TIMED_OUT => resync("REQUEST_TIMED_OUT"),
        codes::NOT_ENOUGH_REPLICAS | codes::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
            waiting("NOT_ENOUGH_REPLICAS")
        }
        codes::CORRUPT_MESSAGE => Verdict::Resync {
            refused: Refused::Checksum,
            leader_moved: false,
            back_off: true,
            reason: "CORRUPT_MESSAGE",
        },
        codes::INVALID_PRODUCER_EPOCH | codes::PRODUCER_FENCED => stop(
            StopReason::Fenced,
            "the target saw a newer epoch of this flow's producer: another mesh or an older mirror of the same flow \
             writes here; stop it, then pause and resume the flow"
                .to_owned(),
        ),
        codes::INVALID_TOPIC_EXCEPTION
        | codes::UNSUPPORTED_FOR_MESSAGE_FORMAT
        | codes::POLICY_VIOLATION
        | codes::UNSUPPORTED_COMPRESSION_TYPE
        | codes::INVALID_RECORD => stop(
            StopReason::TargetRefused,
            format!("the target refuses the batch of source offsets {from} to {to} with error {code}: {message}"),
        ),
        codes::TOPIC_AUTHORIZATION_FAILED | codes::CLUSTER_AUTHORIZATION_FAILED => {
            waiting("TARGET_NOT_AUTHORIZED")
        }
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
        assert!(matches!(code(45), Verdict::Resync { refused: Refused::Sequence, .. }));
        assert!(matches!(code(6), Verdict::Resync { leader_moved: true, .. }));
        assert!(matches!(code(19), Verdict::Resync { back_off: true, .. }));
        assert!(matches!(code(47), Verdict::Stop(Stop { reason: StopReason::Fenced, .. })));
        assert!(matches!(code(10), Verdict::Resync { refused: Refused::Size, .. }));
        assert!(matches!(code(32), Verdict::Resync { refused: Refused::Timestamp, .. }));
        assert!(matches!(code(87), Verdict::Stop(Stop { reason: StopReason::TargetRefused, .. })));
        // Not appended, and unknown: the log tells, whoever leads the partition by now.
        for number in [3, 56] {
            let verdict = code(number);
            let found_anew = matches!(
                verdict,
                Verdict::Resync { refused: Refused::Nothing, leader_moved: true, back_off: false, .. }
            );
            assert!(found_anew, "{number}: {verdict:?}");
        }
        assert_eq!(code(59), code(45), "it may begin a generation, as 45 does");
        assert!(matches!(judge(&Answer::Lost, 0, 1), Verdict::Resync { .. }));
    }
}
