//! Programs of others that checks and tests run: their versions, and how each is installed under `target/tools`.
//!
//! One that is on the `PATH` already is taken as it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::prereq::{self, Purpose};
use crate::process::{cargo, find_program, show, target_directory};

/// The module and its version; the module proxy checks its sum.
const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3";
/// The package on `PyPI`, which holds the program.
const BUF: &str = "buf-bin==1.75.0";
/// The crate and its version.
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");

/// Where programs are installed to.
fn directory(root: &Path) -> Result<PathBuf, String> {
    target_directory(root).map(|target| target.join("tools")).map_err(|error| format!("{error:#}"))
}

/// grpcurl, which runs the command lines of the documents; or in one line why it is not there.
pub(crate) fn grpcurl(root: &Path) -> Result<PathBuf, String> {
    let tools = directory(root)?;
    installed("grpcurl", &tools.join("grpcurl"), || {
        let Some(go) = find_program("go") else {
            return Err(format!("neither grpcurl nor go is on the PATH: `go install {GRPCURL}`"));
        };
        let mut install = Command::new(go);
        install.args(["install", GRPCURL]).env("GOBIN", &tools).stdin(Stdio::null());
        show(&mut install).map_err(|error| format!("{error:#}"))
    })
}

/// buf, which lints the .proto files; or in one line why it is not there.
pub(crate) fn buf(root: &Path) -> Result<PathBuf, String> {
    let python = directory(root)?.join("python");
    let bin = python.join("bin");
    installed("buf", &bin.join("buf"), || {
        let steps = || {
            prereq::ensure(Purpose::Python)?;
            show(Command::new("python3").args(["-m", "venv"]).arg(&python).stdin(Stdio::null()))?;
            let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", BUF];
            show(Command::new(bin.join("python")).args(install).stdin(Stdio::null()))
        };
        steps().map_err(|error| format!("{error:#}"))
    })
}

/// cargo-deny, which checks licences and dependencies; or in one line why it is not there.
pub(crate) fn cargo_deny(root: &Path) -> Result<PathBuf, String> {
    let (name, version) = CARGO_DENY;
    let tools = directory(root)?;
    installed(name, &tools.join("bin").join(name), || {
        // Not optimised: it reads one lock file, and is built again on each fresh machine.
        let mut install = cargo(root);
        install.args(["install", name, "--version", version, "--locked", "--debug", "--no-default-features"]);
        install.args(["--quiet", "--root"]).arg(&tools).env("CARGO_TARGET_DIR", tools.join("build"));
        show(&mut install).map_err(|error| format!("{error:#}"))
    })
}

/// The program on the `PATH`, or the one at `place`, which is installed if it is missing.
fn installed(
    name: &str,
    place: &Path,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<PathBuf, String> {
    if let Some(found) = find_program(name).filter(|found| runs(found)) {
        return Ok(found);
    }
    if !place.is_file() {
        println!("{name} is missing; installing it to {}", place.display());
        install().map_err(|why| format!("{name} could not be installed: {why}"))?;
    }
    if place.is_file() {
        return Ok(place.to_owned());
    }
    Err(format!("{name} was installed, but is not at {}", place.display()))
}

/// A launcher of that name may stand there for a program that is not installed.
fn runs(program: &Path) -> bool {
    let mut version = Command::new(program);
    version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_there_is_not_installed_again() {
        let place = std::env::temp_dir().join(format!("xtask-tools-{}", std::process::id()));
        let never = || Err("installed".to_owned());
        assert!(installed("no-such-program", &place, never).unwrap_err().ends_with("installed"));
        std::fs::write(&place, "").unwrap();
        assert_eq!(installed("no-such-program", &place, never), Ok(place.clone()));
        std::fs::remove_file(&place).unwrap();
        assert!(runs(Path::new("/bin/true")) && !runs(Path::new("/bin/false")));
        let without = installed("no-such-program", &place, || Ok(()));
        assert!(without.unwrap_err().contains("is not at"), "what says that it did must have done it");
    }
}
