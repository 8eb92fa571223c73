//! Benchmarks, as ratios within one run: the same brokers, the same data, one after the other.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod bare;
mod faults;
mod floor;
mod load;
mod measure;
mod rdkafka_loop;
mod relay;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Measures mirrormesh against other mirrors, and under faults.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The source service beside MirrorMaker 2, an rdkafka consume-and-produce loop and others.
    Relay(relay::Args),
    /// Many faults under load: no record lost, doubled or out of order.
    Faults(faults::Args),
    /// The loop itself, as a process of its own.
    #[command(hide = true)]
    RdkafkaLoop(rdkafka_loop::Args),
    /// The bare relay, as a process of its own.
    #[command(hide = true)]
    BareRelay(bare::CopyArgs),
    /// The floor's process in the middle.
    #[command(hide = true)]
    TcpRelay(floor::Args),
}

/// The directory that holds `release` and `debug`.
fn target_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("the running program's own path")?;
    let directory = program.ancestors().nth(2).context("the running program is in no folder")?;
    Ok(directory.to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "error,rdkafka=off,librdkafka=off".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("bench: FAIL {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match args.what {
        None => runtime.block_on(relay::run(&relay::Args::default())),
        Some(What::Relay(args)) => runtime.block_on(relay::run(&args)),
        Some(What::Faults(args)) => runtime.block_on(faults::run(&args)),
        Some(What::RdkafkaLoop(args)) => rdkafka_loop::run(&args),
        Some(What::BareRelay(args)) => runtime.block_on(bare::run(&args)),
        Some(What::TcpRelay(args)) => floor::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: FAIL {error:#}");
            ExitCode::FAILURE
        }
    }
}
