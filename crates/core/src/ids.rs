//! Identifiers: one type per noun, checked where they enter.
//!
//! Owns the syntax of ids; knows nothing about what they name.

use std::fmt;
use std::sync::Arc;

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {problem}")]
pub struct InvalidId {
    /// What it was meant to be, e.g. `flow id`.
    pub what: &'static str,
    /// The refused text, cut to 128 characters.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

fn invalid(what: &'static str, value: &str, problem: &'static str) -> InvalidId {
    InvalidId { what, value: value.chars().take(128).collect(), problem }
}

/// Resource ids: letters, digits, `-` and `_`, the first a letter or digit, at most 63. Dots are refused since a
/// cluster's id is the alias in topic names, where the separator is a dot.
fn check_resource_id(what: &'static str, value: &str) -> Result<(), InvalidId> {
    if value.is_empty() {
        return Err(invalid(what, value, "must not be empty"));
    }
    if value.len() > 63 {
        return Err(invalid(what, value, "must have at most 63 characters"));
    }
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(invalid(what, value, "may hold only letters, digits, `-` and `_`"));
    }
    if !value.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) {
        return Err(invalid(what, value, "must begin with a letter or digit"));
    }
    Ok(())
}

/// Kafka's own rule (`org.apache.kafka.common.internals.Topic`).
fn check_topic(what: &'static str, value: &str) -> Result<(), InvalidId> {
    if value.is_empty() || value == "." || value == ".." {
        return Err(invalid(what, value, "must not be empty, `.` or `..`"));
    }
    if value.len() > 249 {
        return Err(invalid(what, value, "must have at most 249 characters"));
    }
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(invalid(what, value, "may hold only letters, digits, `.`, `_` and `-`"));
    }
    Ok(())
}

/// Kafka takes any text as a group id; only emptiness and absurd lengths are refused.
fn check_group(what: &'static str, value: &str) -> Result<(), InvalidId> {
    if value.is_empty() {
        return Err(invalid(what, value, "must not be empty"));
    }
    if value.len() > 32_767 {
        return Err(invalid(what, value, "must have at most 32767 bytes"));
    }
    Ok(())
}

/// Worker ids come from host names: dots and colons are fine.
fn check_worker(what: &'static str, value: &str) -> Result<(), InvalidId> {
    if value.is_empty() || value.len() > 128 {
        return Err(invalid(what, value, "must have 1 to 128 characters"));
    }
    if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':')) {
        return Err(invalid(what, value, "may hold only letters, digits, `.`, `_`, `-` and `:`"));
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps.
            pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidId> {
                let value = value.as_ref();
                $check($what, value)?;
                Ok(Self(Arc::from(value)))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text, shared.
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }
    };
}

id!(
    /// Id of a cluster; also its alias in topic names.
    ClusterId, "cluster id", check_resource_id
);
id!(
    /// Id of a flow.
    FlowId, "flow id", check_resource_id
);
id!(
    /// Name of a Kafka topic.
    TopicName, "topic name", check_topic
);
id!(
    /// Id of a consumer group.
    GroupId, "group id", check_group
);
id!(
    /// Id of a worker process.
    WorkerId, "worker id", check_worker
);

/// Kafka's topic id (KIP-516); zero where the broker has none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// The broker gave no id.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }

    /// Surely another topic: a broker without topic ids (before Kafka 2.8) tells none, which says nothing.
    pub fn differs(self, other: Self) -> bool {
        !self.is_zero() && !other.is_zero() && self != other
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        assert!(ClusterId::new("uk").is_ok());
        assert!(ClusterId::new("uk.eu").is_err());
        assert!(FlowId::new("").is_err());
        assert!(FlowId::new("-a").is_err());
        assert!(FlowId::new("a".repeat(64)).is_err());
        assert!(TopicName::new("orders.v1").is_ok());
        assert!(TopicName::new("..").is_err());
        assert!(TopicName::new("a b").is_err());
        assert!(GroupId::new("any thing/at all").is_ok());
        assert!(WorkerId::new("host.example:1").is_ok());
    }
}
