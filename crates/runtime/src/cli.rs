//! The command line that all service binaries have in common.
//!
//! Owns the arguments and the `healthcheck` subcommand. It must not know any setting: `--set`
//! takes a key path, and the settings say whether it exists.

use crate::settings::ENV_CONFIG;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Arguments that every service takes.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Settings file (.yaml, .yml, .toml or .json).
    #[arg(long, value_name = "FILE", env = ENV_CONFIG, global = true)]
    pub config: Option<PathBuf>,
    /// One setting, by its path with dots; repeatable, beats environment and file.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, global = true)]
    pub set: Vec<(String, String)>,
}

/// Subcommands that every service has.
#[derive(Debug, Clone, Subcommand)]
pub enum CommonCommand {
    /// Ask a running service whether it is ready; exit code 0 if it is, 1 if not.
    Healthcheck(HealthcheckArgs),
}

/// Arguments of `healthcheck`.
#[derive(Debug, Clone, Default, Args)]
pub struct HealthcheckArgs {
    /// The service's metrics address; by default the one of its settings.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
}

/// The whole command line of a service that has nothing to add.
#[derive(Debug, Clone, Parser)]
pub struct ServiceCli {
    /// The arguments.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<CommonCommand>,
}

impl ServiceCli {
    /// Parses `arguments`, the first of which is the program's name. `--help` and `--version` come
    /// back as errors, whose [`clap::Error::exit`] prints them and ends with the right code. `settings`
    /// describes the keys of the settings, at the end of `--help`.
    pub fn parse_for<I, A>(
        (name, about, version): (&'static str, &'static str, &'static str),
        settings: String,
        arguments: I,
    ) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = A>,
        A: Into<OsString> + Clone,
    {
        let command = Self::command().name(name).bin_name(name).about(about).version(version);
        let command = command.after_long_help(settings);
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<ServiceCli, clap::Error> {
        let all = std::iter::once("demo").chain(arguments.iter().copied());
        ServiceCli::parse_for(("demo", "A demo.", "1.2.3"), "Settings: all.".to_owned(), all)
    }

    #[test]
    fn settings_are_taken_apart_at_the_first_equals_sign() {
        let cli = parse(&["--config", "a.yaml", "--set", "a.b=c=d", "--set", "e="]).unwrap();
        assert_eq!(cli.common.config, Some(PathBuf::from("a.yaml")));
        assert_eq!(cli.common.set, [("a.b".into(), "c=d".into()), ("e".into(), String::new())]);
        assert!(cli.command.is_none());
    }

    #[test]
    fn a_setting_without_key_or_value_is_refused() {
        for bad in ["novalue", "=x", " =x"] {
            assert!(parse(&["--set", bad]).unwrap_err().to_string().contains("KEY=VALUE"), "{bad}");
        }
    }

    #[test]
    fn healthcheck_takes_an_address() {
        let cli = parse(&["healthcheck", "--address", "localhost:9"]).unwrap();
        let Some(CommonCommand::Healthcheck(args)) = cli.command else { panic!("no command") };
        assert_eq!(args.address.as_deref(), Some("localhost:9"));
    }

    #[test]
    fn help_ends_with_the_settings() {
        let help = parse(&["--help"]).unwrap_err().to_string();
        assert!(help.trim_end().ends_with("Settings: all."), "{help}");
    }

    #[test]
    fn version_and_unknown_arguments_come_back_as_errors() {
        let version = parse(&["--version"]).unwrap_err();
        assert_eq!((version.exit_code(), version.to_string().trim()), (0, "demo 1.2.3"));
        assert_eq!(parse(&["--nope"]).unwrap_err().exit_code(), 2);
    }
}
