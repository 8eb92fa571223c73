//! Benchmarks, as ratios within one run: the same brokers, the same data, one after the other.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod load;
mod measure;
mod rdkafka_loop;
mod relay;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures mirrormesh against other mirrors.
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
    /// The loop itself, as a process of its own.
    #[command(hide = true)]
    RdkafkaLoop(rdkafka_loop::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
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
