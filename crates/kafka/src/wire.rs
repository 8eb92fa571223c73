//! Kafka's wire protocol over one connection: frames, versions, pipelining, and the two requests that carry records.
//!
//! Owns sockets and bytes. Must not know which broker leads what: routing is [`crate::client`]'s.

pub mod conn;
pub mod fetch;
pub mod fetch_session;
pub mod produce;

mod answer;
pub(crate) mod api;
pub(crate) mod decode;
mod frame;
mod link;
mod opening;
mod request;
pub(crate) mod shape;
#[cfg(test)]
pub(crate) mod testing;
mod transport;
pub(crate) mod versions;

pub use answer::Answer;

/// A topic id as it stands on the wire; all zeroes is no id.
pub type TopicId = [u8; 16];

/// The topic id that means "none".
pub const NO_TOPIC_ID: TopicId = [0; 16];
