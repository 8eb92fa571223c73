//! The demo: two real Kafka clusters, a whole mesh, real records, two kills, and a proof that the copy is equal.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, reason = "the demo speaks to a person")]

mod act;
mod screen;

use std::process::ExitCode;

use clap::Parser;

/// Shows mirrormesh at work and proves its result.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo xtask demo")]
struct Args {
    /// Records to produce, over all topics.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Leave everything running at the end, and print how to go on.
    #[arg(long)]
    keep: bool,
    /// Seed of the records.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "error,rdkafka=off".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match act::run(&args).await {
        Ok(verdict) => {
            println!("{verdict}");
            if verdict.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("demo: FAIL {}", format!("{error:#}").replace('\n', " | "));
            ExitCode::FAILURE
        }
    }
}
