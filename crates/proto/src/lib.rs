//! The wire: code generated from `proto/`, and the only conversions between it and `mirrormesh-core`.
//!
//! Owns generated messages, clients and servers, the checks of everything that enters as a message, the mapping of
//! refusals to gRPC statuses, and the stored form of commands, state and positions.
//!
//! Must not know: handlers, Raft, Kafka clients, storage. Nothing here does IO or reads a clock.
//!
//! Invariants: a domain value that comes out of a conversion is valid; one answer names every fault of a request;
//! what any earlier version stored decodes for ever; no message repeats the value of a secret.

pub mod convert;
mod error;
pub mod filter;
mod fingerprint;
pub mod page;
mod status;

pub use error::{ConvertError, Faults, Violations};
pub use fingerprint::fingerprint;
pub use status::{DOMAIN, status_of};

/// Generated code in the module tree that its own `super::` paths need.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    clippy::use_self,
    elided_lifetimes_in_paths,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code keeps the habits of its generators"
)]
mod pb {
    pub mod mirrormesh {
        pub mod v1 {
            tonic::include_proto!("mirrormesh.v1");
        }
        pub mod mesh {
            pub mod v1 {
                tonic::include_proto!("mirrormesh.mesh.v1");
            }
        }
        pub mod store {
            pub mod v1 {
                tonic::include_proto!("mirrormesh.store.v1");
            }
        }
    }
}

/// `mirrormesh.v1`: the public API.
pub use pb::mirrormesh::v1;

/// `mirrormesh.mesh.v1`: between coordinators and workers.
pub use pb::mirrormesh::mesh::v1 as mesh;

/// `mirrormesh.store.v1`: what is stored.
pub use pb::mirrormesh::store::v1 as store;

/// Encoded `FileDescriptorSet` of the public API, for reflection.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public_descriptors.bin"));

/// Encoded `FileDescriptorSet` of the google.rpc types that stand in the details of an error (`ErrorInfo`, `BadRequest`,
/// `RetryInfo` and others), for reflection: without them a client can't show the details.
pub const ERROR_DETAIL_DESCRIPTORS: &[u8] = tonic_types::pb::FILE_DESCRIPTOR_SET;

/// Encoded `FileDescriptorSet` of every package: the public API, the mesh's own services and the stored messages.
pub const MESH_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mesh_descriptors.bin"));
