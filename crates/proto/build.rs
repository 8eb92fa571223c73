//! Generates Rust code and descriptor sets from the `.proto` files, without `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

/// Where the `.proto` files are, seen from this crate.
const ROOT: &str = "../../proto";

/// What users may see: described by reflection.
const PUBLIC: [&str; 5] = [
    "mirrormesh/v1/cluster.proto",
    "mirrormesh/v1/flow.proto",
    "mirrormesh/v1/flow_service.proto",
    "mirrormesh/v1/mesh.proto",
    "mirrormesh/v1/worker.proto",
];

/// What coordinators and workers say to each other, and what is stored.
const INTERNAL: [&str; 6] = [
    "mirrormesh/mesh/v1/raft_service.proto",
    "mirrormesh/mesh/v1/worker_session_service.proto",
    "mirrormesh/store/v1/position.proto",
    "mirrormesh/store/v1/raft.proto",
    "mirrormesh/store/v1/registry.proto",
    "mirrormesh/store/v1/state.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile(PUBLIC, [Path::new(ROOT)])?;
    fs::write(out.join("public_descriptors.bin"), public.encode_to_vec())?;

    let all = protox::compile(PUBLIC.into_iter().chain(INTERNAL), [Path::new(ROOT)])?;
    fs::write(out.join("mesh_descriptors.bin"), all.encode_to_vec())?;

    // A type's name goes into the fingerprint of a request: two requests can have the same bytes.
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .bytes(".mirrormesh.mesh.v1.RaftMessage")
        // Equal messages must have equal bytes: they are compared, hashed and used as keys of a compacted topic.
        .btree_map(".")
        .compile_fds_with_config(all, config)?;
    Ok(())
}
