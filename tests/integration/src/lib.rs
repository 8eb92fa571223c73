//! Runs real services against real Kafka: for the demo, the benchmarks and the integration tests.
//!
//! Owns starting, finding and killing processes of the mesh; knows the public API only.

pub mod api;
pub mod faults;
pub mod mesh;
pub mod probe;

pub use api::Api;
pub use mesh::{Mesh, MeshSpec};
