//! What can go wrong, and what that means for the caller.
//!
//! Owns the error type of the crate and its classes. Every variant names the broker, the request or the partition it is
//! about. Must not know any caller's policy: it says what happened and whether a request may have had an effect.

mod code;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use code::ErrorCode;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The same call may succeed later: back off and repeat. See [`Error::outcome_unknown`] before repeating a call
    /// that changes something.
    Retriable,
    /// Somebody newer has taken our place: stop.
    Fenced,
    /// The cluster refused this very request; repeating it changes nothing.
    Rejected,
    /// Nothing of this kind can work here: wrong settings, a peer that is no Kafka broker, a missing protocol version.
    Fatal,
}

/// A failed call. Cheap to clone, because everyone who waited for one connection attempt gets its error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A setting that cannot be used.
    #[error("setting {property} cannot be used: {problem}")]
    Config {
        /// The setting, as the user writes it.
        property: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// No connection could be opened.
    #[error("cannot connect to {broker}: {source}")]
    Connect {
        /// `host:port`.
        broker: Arc<str>,
        /// Why.
        source: Arc<io::Error>,
    },
    /// No connection could be opened in time.
    #[error("cannot connect to {broker}: no answer within {} ms", timeout.as_millis())]
    ConnectTimeout {
        /// `host:port`.
        broker: Arc<str>,
        /// The time it had.
        timeout: Duration,
    },
    /// A broker of another cluster answered than the one that is expected. Nothing was sent but the question.
    #[error(
        "{broker} is no broker of {cluster}: the Kafka cluster id there is {found}, expected is {expected}"
    )]
    ClusterChanged {
        /// `host:port`.
        broker: Arc<str>,
        /// What the expected cluster is called.
        cluster: Arc<str>,
        /// Kafka's id of the expected cluster.
        expected: Arc<str>,
        /// Kafka's id of the cluster that answered.
        found: Arc<str>,
    },
    /// None of the brokers that could be asked answered.
    #[error("no broker answered {api}; tried {tried}; the last error was: {last}")]
    NoBroker {
        /// The request.
        api: &'static str,
        /// The addresses, bootstrap servers last.
        tried: String,
        /// What the last one ended with.
        last: Box<Self>,
    },
    /// The cluster's metadata has no such broker.
    #[error("broker {node_id} is not in the cluster's metadata")]
    UnknownBroker {
        /// Its id.
        node_id: i32,
    },
    /// The connection was closed before the request was queued: it was not sent.
    #[error("{api} was not sent to {broker}: the connection was closed: {reason}")]
    Closed {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: &'static str,
        /// Why it was closed.
        reason: Arc<str>,
    },
    /// The connection ended before the answer came. **The outcome is unknown.**
    #[error("{broker} did not answer {api} before the connection ended: {reason}")]
    Disconnected {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: &'static str,
        /// Why it ended.
        reason: Arc<str>,
    },
    /// No answer came in time, so the connection was closed. **The outcome is unknown.**
    #[error("{broker} did not answer {api} within {} ms", timeout.as_millis())]
    Timeout {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: &'static str,
        /// The time it had.
        timeout: Duration,
    },
    /// As many requests are unanswered as the limits allow: it was not sent.
    #[error("{api} was not sent to {broker}: {in_flight_max} requests are unanswered")]
    Overloaded {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: &'static str,
        /// The limit.
        in_flight_max: usize,
    },
    /// An answer that is no valid answer. The request may have had its effect.
    #[error("{broker} sent a bad answer to {api} version {version}: {problem}")]
    Malformed {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: &'static str,
        /// Its version.
        version: i16,
        /// What is wrong with it.
        problem: String,
    },
    /// No version of a request that both sides know.
    #[error("{broker} does not know a usable version of {api}: we need {ours}, it has {theirs}")]
    Unsupported {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: &'static str,
        /// What we could use.
        ours: String,
        /// What it offers.
        theirs: String,
    },
    /// We were asked to send something that cannot be sent. Nothing was sent.
    #[error("{api} cannot be sent: {problem}")]
    Request {
        /// The request.
        api: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A broker refused a whole request.
    #[error("{broker} refused {api}: {code}{}", suffix(message.as_ref()))]
    Broker {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: &'static str,
        /// Kafka's code.
        code: ErrorCode,
        /// The broker's words, if any.
        message: Option<Arc<str>>,
    },
    /// A request was refused for a topic.
    #[error("{api} was refused for topic {topic}: {code}{}", suffix(message.as_ref()))]
    Topic {
        /// The topic.
        topic: Arc<str>,
        /// The request.
        api: &'static str,
        /// Kafka's code.
        code: ErrorCode,
        /// The broker's words, if any.
        message: Option<Arc<str>>,
    },
    /// A request was refused for a partition.
    #[error("{api} was refused for {topic}-{partition}: {code}{}", suffix(message.as_ref()))]
    Partition {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// The request.
        api: &'static str,
        /// Kafka's code.
        code: ErrorCode,
        /// The broker's words, if any.
        message: Option<Arc<str>>,
    },
    /// A request was refused for a consumer group.
    #[error("{api} was refused for group {group}: {code}{}", suffix(message.as_ref()))]
    Group {
        /// The group.
        group: Arc<str>,
        /// The request.
        api: &'static str,
        /// Kafka's code.
        code: ErrorCode,
        /// The broker's words, if any.
        message: Option<Arc<str>>,
    },
    /// A partition has no leader now, or does not exist.
    #[error("{topic}-{partition} has no leader: {code}")]
    NoLeader {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What the metadata says about it.
        code: ErrorCode,
    },
    /// A call with retries ran out of time.
    #[error("{operation} did not succeed within {} ms; the last error was: {last}", timeout.as_millis())]
    Deadline {
        /// The call.
        operation: &'static str,
        /// The time it had.
        timeout: Duration,
        /// What the last try ended with.
        last: Box<Self>,
    },
    /// A record batch that cannot be decoded or encoded.
    #[error("record batch at offset {base_offset} cannot be used: {problem}")]
    Batch {
        /// Its base offset.
        base_offset: i64,
        /// What is wrong with it.
        problem: String,
    },
    /// A log ends before what has been read of it: it was truncated or made anew.
    #[error(
        "{topic}-{partition} ends at {end} but was read up to {position}: it was truncated or created anew"
    )]
    LogTruncated {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// The next offset to be read.
        position: i64,
        /// Where the log ends.
        end: i64,
    },
    /// librdkafka failed.
    #[error("librdkafka could not {operation} {topic}: {problem}")]
    Librdkafka {
        /// What it was to do.
        operation: &'static str,
        /// The topic.
        topic: Arc<str>,
        /// Its words.
        problem: String,
        /// What to do about it.
        class: Class,
    },
}

impl Error {
    /// What a caller should do.
    pub fn class(&self) -> Class {
        match self {
            Self::Config { .. } | Self::Malformed { .. } | Self::Unsupported { .. } => Class::Fatal,
            // The expected cluster may come back: callers wait and try again, but say first what is wrong.
            Self::ClusterChanged { .. }
            | Self::Request { .. }
            | Self::Batch { .. }
            | Self::LogTruncated { .. } => Class::Rejected,
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::UnknownBroker { .. }
            | Self::Closed { .. }
            | Self::Disconnected { .. }
            | Self::Timeout { .. }
            | Self::Overloaded { .. }
            | Self::NoLeader { .. } => Class::Retriable,
            Self::NoBroker { last, .. } | Self::Deadline { last, .. } => last.class(),
            Self::Broker { code, .. }
            | Self::Topic { code, .. }
            | Self::Partition { code, .. }
            | Self::Group { code, .. } => code.class(),
            Self::Librdkafka { class, .. } => *class,
        }
    }

    /// Whether the request may have been carried out although no usable answer came.
    ///
    /// False means it certainly was not sent or was answered with a refusal.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Disconnected { .. } | Self::Timeout { .. } | Self::Malformed { .. } => true,
            Self::NoBroker { last, .. } | Self::Deadline { last, .. } => last.outcome_unknown(),
            Self::Librdkafka { class, .. } => *class == Class::Retriable,
            Self::Broker { code, .. } | Self::Topic { code, .. } | Self::Partition { code, .. } => {
                *code == ErrorCode::REQUEST_TIMED_OUT
            }
            _ => false,
        }
    }

    /// Kafka's code, if a broker answered with one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Broker { code, .. }
            | Self::Topic { code, .. }
            | Self::Partition { code, .. }
            | Self::Group { code, .. }
            | Self::NoLeader { code, .. } => Some(*code),
            Self::NoBroker { last, .. } | Self::Deadline { last, .. } => last.code(),
            _ => None,
        }
    }

    /// The [`Error::ClusterChanged`] behind the error, if there is one.
    pub fn changed_cluster(&self) -> Option<&Self> {
        match self {
            Self::ClusterChanged { .. } => Some(self),
            Self::NoBroker { last, .. } | Self::Deadline { last, .. } => last.changed_cluster(),
            _ => None,
        }
    }

    /// Whether the broker could not be reached or was lost, so that another one may be asked.
    pub(crate) fn is_connection_error(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::ConnectTimeout { .. }
                | Self::Closed { .. }
                | Self::Disconnected { .. }
                | Self::Timeout { .. }
                | Self::UnknownBroker { .. }
        )
    }
}

/// A broker's words as the end of a message.
fn suffix(message: Option<&Arc<str>>) -> String {
    message.filter(|message| !message.is_empty()).map(|message| format!(": {message}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_where_and_why() {
        let error = Error::Partition {
            topic: "orders".into(),
            partition: 3,
            api: "Produce",
            code: ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            message: Some("expected 5".into()),
        };
        assert_eq!(
            error.to_string(),
            "Produce was refused for orders-3: OUT_OF_ORDER_SEQUENCE_NUMBER (45): expected 5"
        );
        assert_eq!(error.class(), Class::Rejected);
        assert!(!error.outcome_unknown());
    }

    #[test]
    fn a_lost_answer_is_an_unknown_outcome_through_wrappers_too() {
        let lost = Error::Timeout { broker: "b:1".into(), api: "Produce", timeout: Duration::from_secs(5) };
        let wrapped = Error::Deadline {
            operation: "creating topics",
            timeout: Duration::from_secs(15),
            last: Box::new(lost),
        };
        assert!(wrapped.outcome_unknown());
        assert_eq!(wrapped.class(), Class::Retriable);
        let unsent = Error::Closed { broker: "b:1".into(), api: "Produce", reason: "closed".into() };
        assert!(!unsent.outcome_unknown());
    }

    #[test]
    fn another_cluster_shows_through_wrappers() {
        let changed = Error::ClusterChanged {
            broker: "b:1".into(),
            cluster: "clusters/uk".into(),
            expected: "right".into(),
            found: "wrong".into(),
        };
        assert_eq!(changed.class(), Class::Rejected);
        assert!(!changed.outcome_unknown());
        let wrapped = Error::NoBroker { api: "Metadata", tried: "b:1".into(), last: Box::new(changed) };
        let message = wrapped.changed_cluster().unwrap().to_string();
        for part in ["b:1", "clusters/uk", "right", "wrong"] {
            assert!(message.contains(part), "{message}");
        }
    }

    /// Results are passed by value everywhere: the error must not make them large.
    #[test]
    fn errors_are_small() {
        assert!(size_of::<Error>() <= 96, "{}", size_of::<Error>());
    }
}
