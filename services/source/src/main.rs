//! The source service as a process.

use std::process::ExitCode;

use mirrormesh_runtime::service::{ServiceInfo, Threads, run_service};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "mirrormesh-source",
        about: "Finds topics, keeps target topics in step, relays records.",
        version: env!("CARGO_PKG_VERSION"),
        threads: Threads::PerTwoCores,
    };
    run_service(info, mirrormesh_source::run)
}
