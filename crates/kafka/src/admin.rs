//! Administration over the wire: topics, offsets, producers, groups.
//!
//! Owns these calls as methods of [`crate::Client`]: which broker takes them, what is retried and until when. All have
//! the time of `Limits::admin_timeout`. A call that changes something is repeated only after an answer that says it
//! had no effect. Must not know why a caller asks.

pub mod groups;
pub mod offsets;
pub mod producers;
pub mod topics;

pub use groups::{CommittedOffset, GroupDescription, GroupListing, GroupMember};
pub use offsets::{EpochEndOffset, EpochQuery, ListedOffset, OffsetQuery, OffsetSpec};
pub use producers::{ProducerIdentity, ProducerState};
pub use topics::{ConfigEntry, NewTopic, TopicConfigs, TopicOutcome};

use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;

/// A broker's words, if it has any.
fn words(message: Option<&StrBytes>) -> Option<Arc<str>> {
    message.filter(|message| !message.is_empty()).map(|message| message.as_str().into())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
