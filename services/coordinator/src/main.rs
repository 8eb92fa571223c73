//! `mirrormesh-coordinator`: settings, telemetry, run, exit code.

use std::process::ExitCode;

use mirrormesh_runtime::service::{ServiceInfo, Threads, run_service};

fn main() -> ExitCode {
    let info = ServiceInfo {
        name: "mirrormesh-coordinator",
        about: "Keeps all decisions of a mirrormesh in a Raft log, plans which worker runs what, serves the API.",
        version: env!("CARGO_PKG_VERSION"),
        threads: Threads::PerCore,
    };
    run_service(info, |settings, context| mirrormesh_coordinator::run(settings, context, |_| {}))
}
