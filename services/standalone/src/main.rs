//! `mirrormesh`: the four roles in one process, a mesh of one.

mod config;
mod roles;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use config::Settings;
use mirrormesh_runtime::cli::{CommonArgs, HealthcheckArgs};
use mirrormesh_runtime::env::Env;
use mirrormesh_runtime::service::{
    ServiceInfo, ServiceSettings as _, Threads, healthcheck, host, load_settings, refuse, settings_help,
};

/// Mirrors Kafka clusters: the whole mesh in one process.
#[derive(Debug, Parser)]
#[command(name = "mirrormesh", version)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the mesh until interrupted.
    Run {
        /// Settings file (.yaml, .yml, .toml or .json); the same as --config.
        file: Option<PathBuf>,
        /// Where decisions are kept.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Ask a running mesh whether it is ready; exit code 0 if it is, 1 if not.
    Healthcheck(HealthcheckArgs),
}

const INFO: ServiceInfo = ServiceInfo {
    name: "mirrormesh",
    about: "Mirrors Kafka clusters: the whole mesh in one process.",
    version: env!("CARGO_PKG_VERSION"),
    threads: Threads::PerCore,
};

/// The arguments of the process; `--help` describes the settings too, also behind `run`.
fn arguments() -> Cli {
    let help = settings_help::<Settings>();
    let command = Cli::command().after_long_help(help.clone());
    let command = command.mut_subcommand("run", |run| run.after_long_help(help));
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn main() -> ExitCode {
    let Cli { mut common, command } = arguments();
    if let Command::Run { file, data_dir } = &command {
        common.config = file.clone().or(common.config);
        common.set.extend(data_dir.iter().map(|dir| ("data_dir".to_owned(), dir.display().to_string())));
    }
    let settings: Settings = match load_settings(&common, Env::process()) {
        Ok(settings) => settings,
        Err(error) => return refuse(INFO.name, &error),
    };
    match command {
        Command::Run { .. } => {
            let instance = settings.instance();
            host(INFO, &settings.common().clone(), &instance, Env::process(), |context| {
                roles::run(settings, context)
            })
        }
        Command::Healthcheck(args) => {
            let own = || settings.common().metrics_listen.clone();
            healthcheck(INFO.name, &args.address.unwrap_or_else(own))
        }
    }
}
