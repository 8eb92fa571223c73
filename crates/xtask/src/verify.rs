//! `verify`: every check that doesn't run the product, each with its time. `fix`: what can be mended by machine.
//!
//! All steps run, also after one has failed: one round tells all. Nothing but the target directory is written.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::prereq::{self, Purpose};
use crate::process::{cargo, find_program, show};
use crate::{deps, planted, proto_lint, tidy};

/// A check and what to do when it fails.
struct Step {
    name: &'static str,
    remedy: &'static str,
    /// What it says when it passes.
    run: fn(&Path) -> Result<String>,
}

const STEPS: [Step; 9] = [
    Step { name: "format", remedy: "run `cargo xtask fix`", run: format },
    Step { name: "tidy", remedy: "mend the lines that are named", run: tidy },
    Step {
        name: "dependencies",
        remedy: "the rules and their reasons are in crates/xtask/src/deps.rs",
        run: edges,
    },
    Step { name: "proto", remedy: "mend the lines that are named in proto/", run: protos },
    Step { name: "buf", remedy: "mend what buf names; its rules are in proto/buf.yaml", run: buf },
    Step {
        name: "planted",
        remedy: "see crates/core/tests/sim/PLANTED.md; `cargo xtask planted` shows what catches each",
        run: planted,
    },
    Step { name: "clippy", remedy: "mend it, or run `cargo xtask fix`", run: clippy },
    Step { name: "doc", remedy: "mend the links and comments that rustdoc names", run: doc },
    Step { name: "licences", remedy: "the rules are in deny.toml", run: licences },
];

/// Runs all steps.
pub(crate) fn verify(root: &Path) -> Result<ExitCode> {
    prereq::ensure(Purpose::Build)?;
    run_steps(root, &STEPS)
}

/// Runs the steps about the .proto files.
pub(crate) fn proto(root: &Path) -> Result<ExitCode> {
    let steps = STEPS.iter().filter(|step| matches!(step.name, "proto" | "buf"));
    run_steps(root, steps)
}

/// Formats, and lets clippy mend what it can.
pub(crate) fn fix(root: &Path) -> Result<ExitCode> {
    prereq::ensure(Purpose::Build)?;
    show(cargo(root).args(["fmt", "--all"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    show(cargo(root).args(clippy))?;
    show(cargo(root).args(["fmt", "--all"]))?;
    Ok(ExitCode::SUCCESS)
}

fn run_steps<'a>(root: &Path, steps: impl IntoIterator<Item = &'a Step>) -> Result<ExitCode> {
    let mut failed = Vec::new();
    let mut count = 0;
    for step in steps {
        println!("==> {}", step.name);
        let started = Instant::now();
        let result = (step.run)(root);
        let seconds = started.elapsed().as_secs_f64();
        count += 1;
        match result {
            Ok(said) => println!("    {} passed in {seconds:.1} s: {said}", step.name),
            Err(error) => {
                println!("    {} FAILED in {seconds:.1} s: {error:#}", step.name);
                failed.push(step);
            }
        }
    }
    if failed.is_empty() {
        if count == 0 {
            bail!("no step ran");
        }
        println!("verify: all {count} steps passed");
        return Ok(ExitCode::SUCCESS);
    }
    println!("verify: {} of {count} steps failed", failed.len());
    for step in failed {
        println!("  {}: {}", step.name, step.remedy);
    }
    Ok(ExitCode::FAILURE)
}

fn format(root: &Path) -> Result<String> {
    show(cargo(root).args(["fmt", "--all", "--check"]))?;
    Ok("all code is formatted".to_owned())
}

fn tidy(root: &Path) -> Result<String> {
    judge(&tidy::check(root)?)?;
    Ok("sizes, headers, left-overs, paths, tabs".to_owned())
}

fn edges(root: &Path) -> Result<String> {
    judge(&deps::check(root)?)?;
    Ok("every crate uses only what it may".to_owned())
}

fn protos(root: &Path) -> Result<String> {
    let lint = proto_lint::check(&root.join("proto"))?;
    judge(&lint.violations)?;
    Ok(format!("our own lint over {} files", lint.files))
}

fn buf(root: &Path) -> Result<String> {
    let Some(buf) = find_program("buf") else {
        return Ok("NOT RUN, as there is no buf on the PATH (our own lint ran)".to_owned());
    };
    show(Command::new(buf).arg("lint").current_dir(root.join("proto")).stdin(Stdio::null()))?;
    Ok("buf lint".to_owned())
}

fn planted(root: &Path) -> Result<String> {
    Ok(format!("{} bugs can be planted", planted::check(root)?))
}

fn clippy(root: &Path) -> Result<String> {
    show(cargo(root).args([
        "clippy",
        "--locked",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok("no warnings".to_owned())
}

fn doc(root: &Path) -> Result<String> {
    let arguments = ["doc", "--locked", "--quiet", "--workspace", "--no-deps"];
    show(cargo(root).args(arguments).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok("no warnings".to_owned())
}

/// Advisories are left out: they need a network.
fn licences(root: &Path) -> Result<String> {
    if find_program("cargo-deny").is_none() {
        return Ok("NOT RUN, as cargo-deny is not installed (`cargo install cargo-deny`)".to_owned());
    }
    show(cargo(root).args([
        "deny",
        "--offline",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;
    Ok("cargo-deny: bans, licenses, sources".to_owned())
}

fn judge(violations: &[String]) -> Result<()> {
    if violations.is_empty() {
        return Ok(());
    }
    for violation in violations {
        println!("    {violation}");
    }
    bail!("{} violations", violations.len())
}
