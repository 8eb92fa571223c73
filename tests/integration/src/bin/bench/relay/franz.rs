//! The franz-go loop: a Go program of this repository (`tests/peers/franzgo`), built here where Go is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use mirrormesh_testkit::process::{Launch, Process};

use super::rig::Rig;

/// The program's source, from this package.
const SOURCE: &str = "../peers/franzgo";

/// Why it cannot run on this machine, if it cannot.
pub(crate) fn missing() -> Option<String> {
    let found = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    (!found).then(|| "`go version` does not work here: install Go (https://go.dev/dl)".to_owned())
}

/// Builds it. Go keeps what it has compiled, so only the first time takes long.
pub(crate) fn build(rig: &Rig) -> Result<PathBuf> {
    let program = rig.folder().join("franzgo");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(SOURCE);
    let output = Command::new("go")
        // Git's state is of no use in the program, and asking for it fails in some checkouts.
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .current_dir(&source)
        .output()
        .context("cannot run `go build`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`go build` in {} failed: {}", source.display(), said.trim());
    }
    Ok(program)
}

/// Starts it; it stays until it is killed.
pub(crate) fn start(rig: &Rig, program: &Path, serial: u32, arguments: &[&str]) -> Result<Process> {
    let log = rig.folder().join(format!("franzgo-{serial}.log"));
    Launch::new(program, log).args(arguments.iter().copied()).arg("--stay").spawn()
}
