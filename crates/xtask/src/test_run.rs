//! `test`: builds everything, runs every test binary one after the other, and sums up.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::prereq::{self, Purpose};
use crate::process::{cargo, describe, show, target_directory};
use crate::test_report::Report;
use crate::tools;

/// Lines that are read and not yet shown.
const LINES_MAX: usize = 1024;
/// How long after the end of `cargo test` its output may stay silent: a process that a test left behind holds the
/// pipe open, and must not hold us.
const SILENCE: Duration = Duration::from_secs(2);

/// Runs all tests. The exit code and the last line tell the same.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    prereq::ensure(Purpose::Kafka)?;
    let mut report = Report::default();
    if let Err(why) = tools::grpcurl(root) {
        report.skip(format!("the grpcurl commands of README.md, deploy and docs: {why}"));
    }
    let built = show(cargo(root).args(["build", "--workspace", "--bins"]));
    let succeeded = match built {
        Ok(()) => run_tests(root, arguments, &mut report)?,
        Err(error) => {
            println!("error: {error:#}");
            false
        }
    };
    report.finish(succeeded);
    println!("\n{}", report.summary());
    let (_, failed, _) = report.counts();
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Streams the output to the terminal, a log and the report; whether cargo succeeded.
fn run_tests(root: &Path, arguments: &[String], report: &mut Report) -> Result<bool> {
    let target = target_directory(root)?;
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let path = target.join("test.log");
    let mut log = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    // Both outputs through one pipe: results are told on one, binaries on the other, and their order matters.
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = cargo(root);
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .env("CARGO_TERM_COLOR", "never")
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer);
    println!("{} (log: {})", describe(&command), path.display());
    let mut child = command.spawn().with_context(|| format!("cannot run `{}`", describe(&command)))?;
    // Our own copies of the writing end: without this the pipe would never end.
    drop(command);
    let (sender, lines) = mpsc::sync_channel(LINES_MAX);
    std::thread::Builder::new()
        .name("test output".to_owned())
        .spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        })
        .context("cannot start a thread")?;
    let mut status = None;
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                writeln!(log, "{line}").with_context(|| format!("cannot write {}", path.display()))?;
                report.line(&line);
            }
            Err(RecvTimeoutError::Timeout) if status.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {
                status = child.try_wait().context("cannot wait for the tests")?;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = status
        .map_or_else(|| child.wait(), Ok)
        .map_err(|error| anyhow!("cannot wait for the tests: {error}"))?;
    Ok(status.success())
}
