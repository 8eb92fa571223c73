//! gRPC servers and channels with the limits and habits that all of them share.
//!
//! Owns limits, deadlines, keepalive, health and reflection. It must not know any service of the
//! product: the caller brings routes and descriptors. Source of the numbers: the hardening and
//! runtime habits of the operators' reference.

mod client;
mod connection;
mod deadline;
mod server;

use std::io;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

pub use client::{ChannelOptions, channel};
pub use server::{GRACE, GrpcServer, ServerLimits};

/// Largest message that a service should take or give, in bytes. To be set on each service and
/// client with `max_decoding_message_size` and `max_encoding_message_size`.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest list of headers that is taken, in bytes.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// Why a server or channel does not work.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The address cannot be bound.
    #[error("cannot listen on the {name} address `{address}`")]
    Bind {
        /// Which listener.
        name: &'static str,
        /// As given.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server ended by itself.
    #[error("the {name} server ended")]
    Serve {
        /// Which listener.
        name: &'static str,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The endpoint is none.
    #[error("`{endpoint}` is no endpoint that can be called")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
    /// Channels need a tokio runtime.
    #[error("a channel must be made inside a tokio runtime")]
    NoRuntime,
    /// The descriptors do not parse: an error of the build.
    #[error("the service descriptors cannot be read: {message}")]
    Descriptors {
        /// What is wrong with them.
        message: String,
    },
}

/// Adds the services that every server has: health (v1) and reflection (v1 and v1alpha, for old
/// tools). Services are "serving" once the reporter says so.
pub fn with_standard_services(
    routes: Routes,
    descriptor_sets: &[&[u8]],
) -> Result<(Routes, HealthReporter), GrpcError> {
    let builder = || {
        descriptor_sets.iter().copied().chain([tonic_health::pb::FILE_DESCRIPTOR_SET]).fold(
            tonic_reflection::server::Builder::configure(),
            tonic_reflection::server::Builder::register_encoded_file_descriptor_set,
        )
    };
    let unreadable =
        |error: tonic_reflection::server::Error| GrpcError::Descriptors { message: error.to_string() };
    let (reporter, health) = tonic_health::server::health_reporter();
    let routes = routes
        .add_service(health)
        .add_service(builder().build_v1().map_err(unreadable)?)
        .add_service(builder().build_v1alpha().map_err(unreadable)?);
    Ok((routes, reporter))
}
