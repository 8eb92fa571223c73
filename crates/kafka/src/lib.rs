//! Kafka for mirrormesh: our own asynchronous wire client for mirrored records, offsets and administration, and a
//! thin use of librdkafka to read the internal topics.
//!
//! Owns connections, routing to leaders and coordinators, request encoding, response decoding and record batches.
//! It is the only crate that names `kafka-protocol` and `rdkafka`; neither shows in its public interface.
//!
//! Must not know: flows, units, positions, or what a refused append means for a relay. It reports what a broker said
//! and whether a request may have had an effect; the callers decide.
//!
//! Everything read from a socket is treated as foreign: lengths are checked before memory is taken, and no input can
//! make a decoder panic.

pub mod admin;
pub mod backoff;
pub mod batch;
pub mod client;
pub mod config;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod internal_writer;
pub mod librdkafka;
pub mod memory;
pub mod wire;

pub use backoff::Backoff;
pub use client::{Client, ConnectionRole};
pub use config::{ClientConfig, ExpectedCluster, Limits};
pub use error::{Class, Error, ErrorCode, Result};
pub use wire::conn::Connection;
