//! The project's tasks: `cargo xtask verify|fix|test|demo|bench|kafka|fuzz|planted`.
//!
//! Owns how the project is checked, tested and tried. It needs cargo and a C compiler and nothing else to be built, so
//! that it can say (or install) what the rest needs.
#![allow(clippy::print_stdout, reason = "a task talks to the person or script that called it")]

mod circles;
mod deps;
mod fuzz;
mod planted;
mod prereq;
mod process;
mod reasons;
mod source_text;
mod test_report;
mod test_run;
mod tidy;
mod tools;
mod try_out;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Tasks of this project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Checks everything that can be checked without running the product; changes nothing.
    Verify {
        /// Some of the steps; without one, all.
        steps: Vec<String>,
    },
    /// Formats the code and applies clippy's suggestions.
    Fix,
    /// Runs all tests; the last line says `N passed, N failed, N skipped`.
    Test {
        /// Arguments for `cargo test`, and after a further `--` for the test binaries.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Shows the product at work between two real Kafka clusters.
    Demo {
        /// Arguments of the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measures the product beside MirrorMaker 2.
    Bench {
        /// Arguments of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Real Kafka by hand: `fetch` gets the jars, `up NAME` runs a broker until Ctrl-C.
    Kafka {
        /// `fetch` or `up`, and their arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Fuzzes the decoders of foreign bytes.
    Fuzz {
        /// The target; without one, each.
        target: Option<String>,
        /// Inputs to try for each.
        #[arg(long, default_value_t = 10_000_000)]
        runs: u64,
    },
    /// Plants bugs in a copy of the relay, one at a time, and counts the seeds of the simulation that notice each.
    Planted {
        /// Some of the table in crates/relay/tests/sim/PLANTED.md; without one, all.
        names: Vec<String>,
        /// So many fresh seeds for each bug.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let root = workspace_root()?;
    match Arguments::parse().task {
        Task::Verify { steps } => verify::verify(&root, &steps),
        Task::Fix => verify::fix(&root),
        Task::Test { arguments } => test_run::run(&root, &arguments),
        Task::Demo { arguments } => try_out::demo(&root, &arguments),
        Task::Bench { arguments } => try_out::bench(&root, &arguments),
        Task::Kafka { arguments } => try_out::kafka(&root, &arguments),
        Task::Fuzz { target, runs } => fuzz::run(&root, target.as_deref(), runs),
        Task::Planted { names, seeds } => planted::run(&root, &names, seeds),
    }
}

/// The directory two levels above this crate's; cargo tells where that is.
fn workspace_root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root =
        manifest.ancestors().nth(2).map(Path::to_path_buf).context("this crate is not in a workspace")?;
    root.join("Cargo.lock")
        .is_file()
        .then_some(())
        .with_context(|| format!("{} has no Cargo.lock", root.display()))?;
    Ok(root)
}
