//! The heartbeat service as a process.

use std::process::ExitCode;

use mirrormesh_runtime::service::{ServiceInfo, Threads, run_service};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "mirrormesh-heartbeat",
        about: "Writes heartbeats of flows to their targets.",
        version: env!("CARGO_PKG_VERSION"),
        threads: Threads::PerCore,
    };
    run_service(info, mirrormesh_heartbeat::run)
}
