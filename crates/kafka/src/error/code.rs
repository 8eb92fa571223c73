//! Kafka's error codes: their numbers, names and what they mean for a client.
//!
//! Owns the table of `org.apache.kafka.common.protocol.Errors` (4.1). Must not know which call got the code.

use std::fmt;

use super::Class;

/// An error code as it stands in a response; 0 is no error. Codes that this version does not know stay numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ErrorCode(pub i16);

macro_rules! codes {
    ($(($name:ident, $code:literal),)*) => {
        #[allow(missing_docs, reason = "the names are Kafka's; Errors.java explains them")]
        impl ErrorCode {
            $(pub const $name: Self = Self($code);)*

            /// Kafka's name for the code, if this version knows it.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    (UNKNOWN_SERVER_ERROR, -1),
    (NONE, 0),
    (OFFSET_OUT_OF_RANGE, 1),
    (CORRUPT_MESSAGE, 2),
    (UNKNOWN_TOPIC_OR_PARTITION, 3),
    (INVALID_FETCH_SIZE, 4),
    (LEADER_NOT_AVAILABLE, 5),
    (NOT_LEADER_OR_FOLLOWER, 6),
    (REQUEST_TIMED_OUT, 7),
    (BROKER_NOT_AVAILABLE, 8),
    (REPLICA_NOT_AVAILABLE, 9),
    (MESSAGE_TOO_LARGE, 10),
    (STALE_CONTROLLER_EPOCH, 11),
    (OFFSET_METADATA_TOO_LARGE, 12),
    (NETWORK_EXCEPTION, 13),
    (COORDINATOR_LOAD_IN_PROGRESS, 14),
    (COORDINATOR_NOT_AVAILABLE, 15),
    (NOT_COORDINATOR, 16),
    (INVALID_TOPIC_EXCEPTION, 17),
    (RECORD_LIST_TOO_LARGE, 18),
    (NOT_ENOUGH_REPLICAS, 19),
    (NOT_ENOUGH_REPLICAS_AFTER_APPEND, 20),
    (INVALID_REQUIRED_ACKS, 21),
    (ILLEGAL_GENERATION, 22),
    (INCONSISTENT_GROUP_PROTOCOL, 23),
    (INVALID_GROUP_ID, 24),
    (UNKNOWN_MEMBER_ID, 25),
    (INVALID_SESSION_TIMEOUT, 26),
    (REBALANCE_IN_PROGRESS, 27),
    (INVALID_COMMIT_OFFSET_SIZE, 28),
    (TOPIC_AUTHORIZATION_FAILED, 29),
    (GROUP_AUTHORIZATION_FAILED, 30),
    (CLUSTER_AUTHORIZATION_FAILED, 31),
    (INVALID_TIMESTAMP, 32),
    (UNSUPPORTED_SASL_MECHANISM, 33),
    (ILLEGAL_SASL_STATE, 34),
    (UNSUPPORTED_VERSION, 35),
    (TOPIC_ALREADY_EXISTS, 36),
    (INVALID_PARTITIONS, 37),
    (INVALID_REPLICATION_FACTOR, 38),
    (INVALID_REPLICA_ASSIGNMENT, 39),
    (INVALID_CONFIG, 40),
    (NOT_CONTROLLER, 41),
    (INVALID_REQUEST, 42),
    (UNSUPPORTED_FOR_MESSAGE_FORMAT, 43),
    (POLICY_VIOLATION, 44),
    (OUT_OF_ORDER_SEQUENCE_NUMBER, 45),
    (DUPLICATE_SEQUENCE_NUMBER, 46),
    (INVALID_PRODUCER_EPOCH, 47),
    (INVALID_TXN_STATE, 48),
    (INVALID_PRODUCER_ID_MAPPING, 49),
    (INVALID_TRANSACTION_TIMEOUT, 50),
    (CONCURRENT_TRANSACTIONS, 51),
    (TRANSACTION_COORDINATOR_FENCED, 52),
    (TRANSACTIONAL_ID_AUTHORIZATION_FAILED, 53),
    (SECURITY_DISABLED, 54),
    (OPERATION_NOT_ATTEMPTED, 55),
    (KAFKA_STORAGE_ERROR, 56),
    (LOG_DIR_NOT_FOUND, 57),
    (SASL_AUTHENTICATION_FAILED, 58),
    (UNKNOWN_PRODUCER_ID, 59),
    (REASSIGNMENT_IN_PROGRESS, 60),
    (DELEGATION_TOKEN_AUTH_DISABLED, 61),
    (DELEGATION_TOKEN_NOT_FOUND, 62),
    (DELEGATION_TOKEN_OWNER_MISMATCH, 63),
    (DELEGATION_TOKEN_REQUEST_NOT_ALLOWED, 64),
    (DELEGATION_TOKEN_AUTHORIZATION_FAILED, 65),
    (DELEGATION_TOKEN_EXPIRED, 66),
    (INVALID_PRINCIPAL_TYPE, 67),
    (NON_EMPTY_GROUP, 68),
    (GROUP_ID_NOT_FOUND, 69),
    (FETCH_SESSION_ID_NOT_FOUND, 70),
    (INVALID_FETCH_SESSION_EPOCH, 71),
    (LISTENER_NOT_FOUND, 72),
    (TOPIC_DELETION_DISABLED, 73),
    (FENCED_LEADER_EPOCH, 74),
    (UNKNOWN_LEADER_EPOCH, 75),
    (UNSUPPORTED_COMPRESSION_TYPE, 76),
    (STALE_BROKER_EPOCH, 77),
    (OFFSET_NOT_AVAILABLE, 78),
    (MEMBER_ID_REQUIRED, 79),
    (PREFERRED_LEADER_NOT_AVAILABLE, 80),
    (GROUP_MAX_SIZE_REACHED, 81),
    (FENCED_INSTANCE_ID, 82),
    (ELIGIBLE_LEADERS_NOT_AVAILABLE, 83),
    (ELECTION_NOT_NEEDED, 84),
    (NO_REASSIGNMENT_IN_PROGRESS, 85),
    (GROUP_SUBSCRIBED_TO_TOPIC, 86),
    (INVALID_RECORD, 87),
    (UNSTABLE_OFFSET_COMMIT, 88),
    (THROTTLING_QUOTA_EXCEEDED, 89),
    (PRODUCER_FENCED, 90),
    (RESOURCE_NOT_FOUND, 91),
    (DUPLICATE_RESOURCE, 92),
    (UNACCEPTABLE_CREDENTIAL, 93),
    (INCONSISTENT_VOTER_SET, 94),
    (INVALID_UPDATE_VERSION, 95),
    (FEATURE_UPDATE_FAILED, 96),
    (PRINCIPAL_DESERIALIZATION_FAILURE, 97),
    (SNAPSHOT_NOT_FOUND, 98),
    (POSITION_OUT_OF_RANGE, 99),
    (UNKNOWN_TOPIC_ID, 100),
    (DUPLICATE_BROKER_REGISTRATION, 101),
    (BROKER_ID_NOT_REGISTERED, 102),
    (INCONSISTENT_TOPIC_ID, 103),
    (INCONSISTENT_CLUSTER_ID, 104),
    (TRANSACTIONAL_ID_NOT_FOUND, 105),
    (FETCH_SESSION_TOPIC_ID_ERROR, 106),
    (INELIGIBLE_REPLICA, 107),
    (NEW_LEADER_ELECTED, 108),
    (OFFSET_MOVED_TO_TIERED_STORAGE, 109),
    (FENCED_MEMBER_EPOCH, 110),
    (UNRELEASED_INSTANCE_ID, 111),
    (UNSUPPORTED_ASSIGNOR, 112),
    (STALE_MEMBER_EPOCH, 113),
    (MISMATCHED_ENDPOINT_TYPE, 114),
    (UNSUPPORTED_ENDPOINT_TYPE, 115),
    (UNKNOWN_CONTROLLER_ID, 116),
    (UNKNOWN_SUBSCRIPTION_ID, 117),
    (TELEMETRY_TOO_LARGE, 118),
    (INVALID_REGISTRATION, 119),
    (TRANSACTION_ABORTABLE, 120),
    (INVALID_RECORD_STATE, 121),
    (SHARE_SESSION_NOT_FOUND, 122),
    (INVALID_SHARE_SESSION_EPOCH, 123),
    (FENCED_STATE_EPOCH, 124),
    (INVALID_VOTER_KEY, 125),
    (DUPLICATE_VOTER, 126),
    (VOTER_NOT_FOUND, 127),
    (INVALID_REGULAR_EXPRESSION, 128),
    (REBOOTSTRAP_REQUIRED, 129),
    (STREAMS_INVALID_TOPOLOGY, 130),
    (STREAMS_INVALID_TOPOLOGY_EPOCH, 131),
    (STREAMS_TOPOLOGY_FENCED, 132),
    (SHARE_SESSION_LIMIT_REACHED, 133),
}

impl ErrorCode {
    /// Whether the request succeeded.
    pub const fn is_ok(self) -> bool {
        self.0 == Self::NONE.0
    }

    /// The code as a result without a value.
    ///
    /// # Errors
    /// Itself, unless it is 0.
    pub const fn ok(self) -> Result<(), Self> {
        if self.is_ok() { Ok(()) } else { Err(self) }
    }

    /// Whether the metadata that led to this broker is out of date or about to be: ask for the leader again.
    ///
    /// What Kafka's client calls `InvalidMetadataException`, with the broker-local failures after which the leader
    /// moves.
    pub const fn is_leader_error(self) -> bool {
        matches!(
            self,
            Self::UNKNOWN_TOPIC_OR_PARTITION
                | Self::LEADER_NOT_AVAILABLE
                | Self::NOT_LEADER_OR_FOLLOWER
                | Self::BROKER_NOT_AVAILABLE
                | Self::REPLICA_NOT_AVAILABLE
                | Self::NETWORK_EXCEPTION
                | Self::KAFKA_STORAGE_ERROR
                | Self::LISTENER_NOT_FOUND
                | Self::FENCED_LEADER_EPOCH
                | Self::UNKNOWN_LEADER_EPOCH
                | Self::UNKNOWN_TOPIC_ID
                | Self::INCONSISTENT_TOPIC_ID
        )
    }

    /// Whether a group's or a transaction's coordinator is elsewhere or not ready: find it again and repeat.
    pub const fn is_coordinator_error(self) -> bool {
        matches!(
            self,
            Self::COORDINATOR_LOAD_IN_PROGRESS | Self::COORDINATOR_NOT_AVAILABLE | Self::NOT_COORDINATOR
        )
    }

    /// Whether the same request may succeed later (`RetriableException` in Kafka's client).
    pub const fn is_retriable(self) -> bool {
        self.is_leader_error()
            || self.is_coordinator_error()
            || matches!(
                self,
                Self::CORRUPT_MESSAGE
                    | Self::REQUEST_TIMED_OUT
                    | Self::NOT_ENOUGH_REPLICAS
                    | Self::NOT_ENOUGH_REPLICAS_AFTER_APPEND
                    | Self::NOT_CONTROLLER
                    | Self::CONCURRENT_TRANSACTIONS
                    | Self::FETCH_SESSION_ID_NOT_FOUND
                    | Self::INVALID_FETCH_SESSION_EPOCH
                    | Self::OFFSET_NOT_AVAILABLE
                    | Self::PREFERRED_LEADER_NOT_AVAILABLE
                    | Self::ELIGIBLE_LEADERS_NOT_AVAILABLE
                    | Self::ELECTION_NOT_NEEDED
                    | Self::UNSTABLE_OFFSET_COMMIT
                    | Self::THROTTLING_QUOTA_EXCEEDED
                    | Self::FETCH_SESSION_TOPIC_ID_ERROR
                    | Self::SHARE_SESSION_NOT_FOUND
                    | Self::INVALID_SHARE_SESSION_EPOCH
                    | Self::SHARE_SESSION_LIMIT_REACHED
            )
    }

    /// What a caller should do about the code; `NONE` counts as retriable, for want of anything to do.
    pub const fn class(self) -> Class {
        match self {
            Self::INVALID_PRODUCER_EPOCH
            | Self::PRODUCER_FENCED
            | Self::FENCED_INSTANCE_ID
            | Self::FENCED_MEMBER_EPOCH => Class::Fenced,
            Self::UNSUPPORTED_VERSION
            | Self::UNSUPPORTED_SASL_MECHANISM
            | Self::ILLEGAL_SASL_STATE
            | Self::SASL_AUTHENTICATION_FAILED
            | Self::INVALID_REQUEST => Class::Fatal,
            code if code.is_ok() || code.is_retriable() => Class::Retriable,
            _ => Class::Rejected,
        }
    }
}

/// `OUT_OF_ORDER_SEQUENCE_NUMBER (45)`, so that both the name and the number can be searched for.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name().unwrap_or("UNKNOWN_ERROR_CODE"), self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<i16> for ErrorCode {
    fn from(code: i16) -> Self {
        Self(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_show() {
        assert_eq!(ErrorCode(45).to_string(), "OUT_OF_ORDER_SEQUENCE_NUMBER (45)");
        assert_eq!(ErrorCode(-1).to_string(), "UNKNOWN_SERVER_ERROR (-1)");
        assert_eq!(ErrorCode(9999).to_string(), "UNKNOWN_ERROR_CODE (9999)");
    }

    /// kafka-protocol's table was generated by other people: both say the same about each code, but for the two that
    /// Kafka's client has made retriable since and the one whose broker has to be looked up anew.
    #[test]
    fn retriability_agrees_with_kafka_protocol() {
        for code in -1..=140_i16 {
            let Some(theirs) = kafka_protocol::error::ResponseError::try_from_code(code) else { continue };
            let ours = ErrorCode(code);
            let known = !matches!(theirs, kafka_protocol::error::ResponseError::Unknown(_));
            assert_eq!(ours.name().is_some(), known, "{ours}");
            if ours == ErrorCode::CONCURRENT_TRANSACTIONS || ours == ErrorCode::BROKER_NOT_AVAILABLE {
                assert!(ours.is_retriable());
            } else {
                assert_eq!(ours.is_retriable(), theirs.is_retriable(), "{ours}");
            }
        }
    }

    #[test]
    fn classes() {
        assert_eq!(ErrorCode::INVALID_PRODUCER_EPOCH.class(), Class::Fenced);
        assert_eq!(ErrorCode::NOT_LEADER_OR_FOLLOWER.class(), Class::Retriable);
        assert_eq!(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER.class(), Class::Rejected);
        assert_eq!(ErrorCode::SASL_AUTHENTICATION_FAILED.class(), Class::Fatal);
        assert_eq!(ErrorCode(9999).class(), Class::Rejected);
    }
}
