//! Benchmarks, as ratios within one run: the same brokers, the same data, one after the other.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod faults;
mod load;
mod measure;
mod rdkafka_loop;
mod relay;

use std::process::ExitCode;

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
    /// The source service against an rdkafka consume-and-produce loop.
    Relay(relay::Args),
    /// Many faults under load: no record lost, doubled or out of order.
    Faults(faults::Args),
    /// The loop itself, as a process of its own.
    #[command(hide = true)]
    RdkafkaLoop(rdkafka_loop::Args),
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
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: FAIL {error:#}");
            ExitCode::FAILURE
        }
    }
}
