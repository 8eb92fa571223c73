//! The life of a service process, from its arguments to its exit code.
//!
//! Owns the order: arguments, settings, telemetry, signals, HTTP port, the service itself, and the
//! way back. It must not know what the service does; it gets settings and a [`ServiceContext`].

use crate::cli::{CommonArgs, CommonCommand, HealthcheckArgs, ServiceCli};
use crate::env::Env;
use crate::error_chain::Chain;
use crate::http::{self, Health, HttpServer};
use crate::settings::{self, Layers, SettingsError};
use crate::shutdown::Shutdown;
use crate::telemetry::{LogSettings, Telemetry, TelemetrySettings};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::error::Error;
use std::fmt::Write as _;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// How long a service may take to stop before it is left behind.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How long tasks that nobody waited for may keep the process.
const RUNTIME_STOP_MAX: Duration = Duration::from_secs(1);

/// How many threads tokio's runtimes have, where it is set.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// Exit code for arguments or settings that cannot be used, as clap has it.
const EXIT_USAGE: u8 = 2;

/// Settings that every service has; to be flattened into its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonSettings {
    /// The log on stderr.
    pub log: LogSettings,
    /// Where metrics and health are served over HTTP.
    pub metrics_listen: String,
}

impl Default for CommonSettings {
    fn default() -> Self {
        Self { log: LogSettings::default(), metrics_listen: "127.0.0.1:9404".to_owned() }
    }
}

impl CommonSettings {
    /// What its keys mean.
    pub const MEANINGS: &'static [Meaning] = &[
        (
            "log.filter",
            "What the log shows: a level (off, error, warn, info, debug, trace), or levels by target such \
             as `info,mirrormesh_source=debug`.",
        ),
        ("log.format", "How log lines look: `text`, or `json` with one object per line."),
        (
            "metrics_listen",
            "Where `/metrics`, `/health/live` and `/health/ready` are served over HTTP, `host:port`; port \
             0 takes a free one.",
        ),
    ];
}

/// A key of the settings by its path with dots, and what it means.
pub type Meaning = (&'static str, &'static str);

/// What the settings of a service must offer.
pub trait ServiceSettings: Serialize + DeserializeOwned + Default {
    /// Key paths below which any key is allowed.
    const FREE_KEYS: &'static [&'static str] = &[];

    /// The part that every service has.
    fn common(&self) -> &CommonSettings;

    /// What tells this process from others of its kind.
    fn instance(&self) -> String;

    /// What each key means, for `--help` and the documentation.
    fn meanings() -> Vec<Meaning> {
        CommonSettings::MEANINGS.to_vec()
    }
}

/// The keys of a service's settings as `--help` shows them.
pub fn settings_help<S: ServiceSettings>() -> String {
    let meanings = S::meanings();
    let mut text =
        "Settings, as --set KEY=VALUE, variable of the environment, or key of the settings file:\n"
            .to_owned();
    for key in settings::keys(&S::default()).unwrap_or_default() {
        let meaning = meanings.iter().find(|(path, _)| *path == key.path).map_or("", |(_, meaning)| meaning);
        let _infallible = writeln!(
            text,
            "\n  {} [{}] [default: {}]\n          {meaning}",
            key.path, key.variable, key.default
        );
    }
    text
}

/// What a program is.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInfo {
    /// The binary's name, also `service.name` in telemetry.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Its version.
    pub version: &'static str,
    /// How many threads run its tasks.
    pub threads: Threads,
}

/// How many threads run the tasks of a process. tokio's own variable, `TOKIO_WORKER_THREADS`, goes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One for each core.
    PerCore,
    /// One for two cores. For tasks that pass small pieces of work to each other all the time: to wake another thread
    /// for a piece costs more than the piece. Work that takes long has to go aside (`tokio::task::block_in_place`).
    PerTwoCores,
}

impl Threads {
    fn runtime(self) -> io::Result<Runtime> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if self == Self::PerTwoCores && std::env::var_os(WORKER_THREADS).is_none() {
            let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            builder.worker_threads(cores.div_ceil(2));
        }
        builder.enable_all().build()
    }
}

/// What a running service gets besides its settings. Clones share everything.
#[derive(Debug, Clone)]
pub struct ServiceContext {
    /// Says when to stop.
    pub shutdown: Shutdown,
    /// Where it registers its checks.
    pub health: Health,
    /// Where it gets its meters.
    pub telemetry: Telemetry,
    /// Where metrics and health are served.
    pub metrics_address: SocketAddr,
}

/// The whole `main` of a service: arguments and environment of the process, `run`, an exit code
/// (0 stopped in good order, 1 failed, 2 arguments or settings refused).
///
/// `run` must end soon after the context's shutdown is cancelled; after 10 s it is left behind.
pub fn run_service<S, F, R, E>(info: ServiceInfo, run: F) -> ExitCode
where
    S: ServiceSettings,
    F: FnOnce(S, ServiceContext) -> R,
    R: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let help = settings_help::<S>();
    let cli = match ServiceCli::parse_for((info.name, info.about, info.version), help, std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    // With an address the check needs no settings: one image can check any of its services.
    if let Some(CommonCommand::Healthcheck(HealthcheckArgs { address: Some(address) })) = &cli.command {
        return healthcheck(info.name, address);
    }
    let env = Env::process();
    let settings: S = match load_settings(&cli.common, env.clone()) {
        Ok(settings) => settings,
        Err(error) => return complain(info.name, &error, EXIT_USAGE),
    };
    let common = settings.common().clone();
    match cli.command {
        Some(CommonCommand::Healthcheck(_)) => healthcheck(info.name, &common.metrics_listen),
        None => {
            let instance = settings.instance();
            host(info, &common, &instance, env, |context| run(settings, context))
        }
    }
}

/// The settings of a service, from its arguments and `env`.
pub fn load_settings<S: ServiceSettings>(args: &CommonArgs, env: Env) -> Result<S, SettingsError> {
    let layers = Layers {
        file: args.config.clone(),
        env,
        flags: args.set.clone(),
        free: S::FREE_KEYS.iter().map(|&key| key.to_owned()).collect(),
        ..Layers::new(&S::default())?
    };
    let settings: S = settings::load(&layers)?;
    settings
        .common()
        .log
        .check()
        .map_err(|message| SettingsError::Refused { faults: vec![settings::Fault::Invalid { message }] })?;
    Ok(settings)
}

/// The `healthcheck` subcommand: 0 if the process at `address` is ready, 1 if not.
pub fn healthcheck(name: &str, address: &str) -> ExitCode {
    let answer = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match answer.map(|runtime| runtime.block_on(http::ready(address))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => complain(name, &error, 1),
        Err(error) => complain(name, &error, 1),
    }
}

/// Hosts `run` in this process: a runtime, telemetry, signals and the HTTP port around it. For
/// programs whose arguments are their own; the others use [`run_service`].
pub fn host<F, R, E>(info: ServiceInfo, common: &CommonSettings, instance: &str, env: Env, run: F) -> ExitCode
where
    F: FnOnce(ServiceContext) -> R,
    R: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let runtime = match info.threads.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return complain(info.name, &error, 1),
    };
    let telemetry = TelemetrySettings {
        service_name: info.name.to_owned(),
        service_instance: instance.to_owned(),
        service_version: info.version.to_owned(),
        log: common.log.clone(),
        env,
    };
    let code = runtime.block_on(async {
        let telemetry = match Telemetry::init(&telemetry) {
            Ok(telemetry) => telemetry,
            Err(error) => return complain(info.name, &error, EXIT_USAGE),
        };
        let code = live(info, common, telemetry.clone(), run).await;
        if let Err(error) = telemetry.shutdown().await {
            warn!(%error, "telemetry ended badly");
        }
        code
    });
    runtime.shutdown_timeout(RUNTIME_STOP_MAX);
    code
}

async fn live<F, R, E>(info: ServiceInfo, common: &CommonSettings, telemetry: Telemetry, run: F) -> ExitCode
where
    F: FnOnce(ServiceContext) -> R,
    R: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let exported: Vec<String> = telemetry.exported().iter().map(ToString::to_string).collect();
    info!(service = info.name, version = info.version, exported = exported.join(","), "starting");
    let shutdown = Shutdown::new();
    let _signals = match shutdown.on_signals() {
        Ok(signals) => signals,
        Err(error) => return failed("cannot handle signals", &error),
    };
    let health = Health::new();
    let registry = telemetry.registry().clone();
    let server = match HttpServer::bind(&common.metrics_listen, registry, health.clone()).await {
        Ok(server) => server,
        Err(error) => return failed("cannot start", &error),
    };
    let metrics_address = server.local_addr();
    // The port answers until the service has stopped, so it has a shutdown of its own.
    let http_shutdown = Shutdown::new();
    let http = AbortOnDrop(tokio::spawn(server.serve(http_shutdown.clone())));
    let stopped = run_bounded(
        run(ServiceContext { shutdown: shutdown.clone(), health, telemetry, metrics_address }),
        &shutdown,
    )
    .await;
    shutdown.trigger();
    http_shutdown.trigger();
    http.join().await;
    match stopped {
        Ok(()) => {
            info!(service = info.name, "stopped");
            ExitCode::SUCCESS
        }
        Err(error) => failed("the service ended", error.as_ref()),
    }
}

/// Runs the service, and leaves it behind where it does not stop in time.
async fn run_bounded<R, E>(running: R, shutdown: &Shutdown) -> Result<(), Box<dyn Error + Send + Sync>>
where
    R: Future<Output = Result<(), E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(STOP_MAX).await;
    };
    tokio::select! {
        result = running => result.map_err(Into::into),
        () = overdue => Err(format!("it did not stop within {} s", STOP_MAX.as_secs()).into()),
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    async fn join(mut self) {
        if let Err(error) = (&mut self.0).await {
            warn!(%error, "the HTTP port ended badly");
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn failed(what: &str, error: &(dyn Error + 'static)) -> ExitCode {
    error!(error = %Chain(error), "{what}");
    ExitCode::FAILURE
}

/// Settings or arguments that can't be used: tells the operator on stderr; the exit code says so too.
pub fn refuse(name: &str, error: &(dyn Error + 'static)) -> ExitCode {
    complain(name, error, EXIT_USAGE)
}

/// Tells the operator on stderr, while there is no log yet.
fn complain(name: &str, error: &(dyn Error + 'static), code: u8) -> ExitCode {
    // With stderr closed there is nobody left to tell.
    drop(writeln!(io::stderr(), "{name}: {}", Chain(error)));
    ExitCode::from(code)
}
