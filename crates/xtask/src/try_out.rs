//! `demo`, `bench` and `kafka`: builds what they need and becomes the program that does it.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::prereq::{self, Purpose};
use crate::process::{become_program, cargo, show, target_directory};

/// The services, which demo and benchmark start as processes.
const SERVICES: [&str; 5] = [
    "mirrormesh-coordinator",
    "mirrormesh-source",
    "mirrormesh-checkpoint",
    "mirrormesh-heartbeat",
    "mirrormesh-standalone",
];
const INTEGRATION: &str = "mirrormesh-integration";

/// Shows the product at work.
pub(crate) fn demo(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    run(root, "mirrormesh-demo", arguments)
}

/// Measures it.
pub(crate) fn bench(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    run(root, "mirrormesh-bench", arguments)
}

/// Real Kafka by hand. The launcher is built here so that its own output is all that is seen.
pub(crate) fn kafka(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    prereq::ensure(Purpose::Kafka)?;
    let package = ["build", "--quiet", "--package", "mirrormesh-testkit", "--bin", "mirrormesh-kafka"];
    show(cargo(root).args(package))?;
    become_program(Command::new(target_directory(root)?.join("debug/mirrormesh-kafka")).args(arguments))
}

fn run(root: &Path, program: &str, arguments: &[String]) -> Result<ExitCode> {
    prereq::ensure(Purpose::Kafka)?;
    let mut services = cargo(root);
    services.args(["build", "--release", "--bins"]);
    for service in SERVICES {
        services.args(["--package", service]);
    }
    show(&mut services)?;
    show(cargo(root).args(["build", "--release", "--package", INTEGRATION, "--bin", program]))?;
    become_program(Command::new(target_directory(root)?.join("release").join(program)).args(arguments))
}
