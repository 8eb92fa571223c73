//! A whole service process: settings, exit codes, health check, end by signal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy takes the helpers of a test binary for production code"
)]

mod support;

use mirrormesh_runtime::cli::CommonArgs;
use mirrormesh_runtime::env::Env;
use mirrormesh_runtime::service::{
    CommonSettings, ServiceContext, ServiceInfo, ServiceSettings, Threads, healthcheck, host, load_settings,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read};
use std::process::ExitCode;
use support::TestChild;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct DemoSettings {
    #[serde(flatten)]
    common: CommonSettings,
    worker_id: String,
    capacity: u32,
}

impl ServiceSettings for DemoSettings {
    fn common(&self) -> &CommonSettings {
        &self.common
    }

    fn instance(&self) -> String {
        self.worker_id.clone()
    }
}

#[test]
fn common_settings_flatten_into_those_of_a_service() {
    let env: Env = [("MIRRORMESH_LOG__FORMAT", "json"), ("MIRRORMESH_CAPACITY", "8")].into_iter().collect();
    let args = CommonArgs { config: None, set: vec![("metrics_listen".into(), "127.0.0.1:0".into())] };
    let settings: DemoSettings = load_settings(&args, env).unwrap();
    assert_eq!(settings.capacity, 8);
    assert_eq!(settings.common.metrics_listen, "127.0.0.1:0");
    assert_eq!(format!("{:?}", settings.common.log.format), "Json");
    let env: Env = [("MIRRORMESH_LOG__LEVEL", "info")].into_iter().collect();
    let refused = load_settings::<DemoSettings>(&CommonArgs::default(), env).unwrap_err();
    assert!(refused.to_string().contains("MIRRORMESH_LOG__LEVEL"), "{refused}");
}

/// A service that is ready at once and ends as `FATE` says.
#[test]
#[ignore = "run by the tests below in a process of its own"]
fn child_service() {
    let info = ServiceInfo { name: "demo", about: "A demo.", version: "1.0.0", threads: Threads::PerCore };
    let common = CommonSettings { metrics_listen: "127.0.0.1:0".into(), ..CommonSettings::default() };
    let code = host(info, &common, "demo-1", Env::process(), serve);
    let code = i32::from(code != ExitCode::SUCCESS);
    println!("\nended {code}");
    std::process::exit(code);
}

async fn serve(context: ServiceContext) -> Result<(), std::io::Error> {
    let check = context.health.check("demo");
    check.set_ok();
    println!("\nready {}", context.metrics_address);
    if std::env::var("FATE").is_ok_and(|fate| fate == "fail") {
        return Err(std::io::Error::other("the disk is full"));
    }
    context.shutdown.cancelled().await;
    Ok(())
}

fn until(lines: &mut impl Iterator<Item = String>, prefix: &str) -> String {
    let mut rest = lines.filter_map(|line| line.strip_prefix(prefix).map(str::to_owned));
    rest.next().unwrap_or_else(|| panic!("no line `{prefix}`"))
}

#[test]
fn a_service_answers_its_health_check_and_stops_on_a_signal() {
    let mut child = TestChild::start("child_service", &[]);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = until(&mut lines, "ready ");
    assert_eq!(healthcheck("demo", &address), ExitCode::SUCCESS);
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    assert_eq!(until(&mut lines, "ended "), "0");
    lines.for_each(drop);
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert_ne!(healthcheck("demo", &address), ExitCode::SUCCESS, "nobody is there any more");
}

#[test]
fn a_service_that_fails_says_why_and_exits_with_1() {
    let mut child = TestChild::start("child_service", &[("FATE", "fail")]);
    let mut log = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(1));
    assert!(log.contains("the disk is full"), "{log}");
}
