//! The heartbeat service as a process.

use std::process::ExitCode;

use mirrormesh_runtime::service::{ServiceInfo, run_service};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "mirrormesh-heartbeat",
        about: "Writes heartbeats of flows to their targets.",
        version: env!("CARGO_PKG_VERSION"),
    };
    run_service(info, mirrormesh_heartbeat::run)
}
