//! The grpcurl that runs the command lines of the documents.
//!
//! Owns its version. A machine without Go runs all other tests.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{find_program, show};

/// The module and its version; the module proxy checks its sum.
const MODULE: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3";
/// What a test that looks for it calls it.
const NAME: &str = "grpcurl";

/// Makes sure that grpcurl is on the `PATH` or in `target/tools`; or says in one line why it is not.
pub(crate) fn ensure(target: &Path) -> Result<(), String> {
    let tools = target.join("tools");
    if find_program(NAME).is_some() || tools.join(NAME).is_file() {
        return Ok(());
    }
    let Some(go) = find_program("go") else {
        return Err(format!("neither {NAME} nor go is on the PATH: `go install {MODULE}`"));
    };
    println!("{NAME} is missing; installing {MODULE} to {}", tools.display());
    let mut install = Command::new(go);
    install.args(["install", MODULE]).env("GOBIN", &tools).stdin(Stdio::null());
    show(&mut install).map_err(|error| format!("{NAME} could not be installed: {error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_there_is_not_installed_again() {
        let target = std::env::temp_dir().join(format!("xtask-grpcurl-{}", std::process::id()));
        std::fs::create_dir_all(target.join("tools")).unwrap();
        std::fs::write(target.join("tools").join(NAME), "").unwrap();
        assert_eq!(ensure(&target), Ok(()));
        std::fs::remove_dir_all(&target).unwrap();
    }
}
