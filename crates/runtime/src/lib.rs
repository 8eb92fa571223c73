//! Process plumbing that every mirrormesh binary shares.
//!
//! Owns settings, the command line, telemetry, the health and metrics port, gRPC servers and
//! channels with their limits, signals and the clock. It must not know what the process is for:
//! no flow, no topic, no partition, no generated protocol code. It is also the only place that
//! reads the process environment; everything that depends on it takes an [`env::Env`].

pub mod cli;
pub mod clock;
pub mod complaint;
pub mod env;
pub mod error_chain;
pub mod grpc;
pub mod http;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod trace_context;
