//! The checkpoint service as a process.

use std::process::ExitCode;

use mirrormesh_runtime::service::{ServiceInfo, Threads, run_service};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "mirrormesh-checkpoint",
        about: "Translates committed offsets of consumer groups and writes checkpoints.",
        version: env!("CARGO_PKG_VERSION"),
        threads: Threads::PerCore,
    };
    run_service(info, mirrormesh_checkpoint::run)
}
