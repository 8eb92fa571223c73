//! The source service: finds topics, keeps target topics in step, relays records.
//!
//! Carries out what core decides. Must not know: the coordinator's protocol (the worker crate's business) and how
//! bytes travel to a broker (the kafka crate's).

mod config;
mod factory;
mod fetcher;
mod link;
mod metrics;
mod partition;
mod positions;
mod sender;
mod topology;

pub use config::Settings;
