//! `verify`: every check that doesn't run the product, each with its time. `fix`: what can be mended by machine.
//!
//! All steps run, also after one has failed: one round tells all. Nothing but the target directory is written.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::prereq::{self, Purpose};
use crate::process::{cargo, show};
use crate::{circles, deps, planted, reasons, tidy, tools};

/// A check and what to do when it fails.
struct Step {
    name: &'static str,
    remedy: &'static str,
    run: fn(&Path) -> Result<Outcome>,
}

/// How a check ended that found nothing wrong.
enum Outcome {
    /// It ran: what it says.
    Passed(String),
    /// It could not run: why. A failure where `CI` is set, since there nobody reads what passed.
    Skipped(String),
}

fn passed(said: impl Into<String>) -> Outcome {
    Outcome::Passed(said.into())
}

const STEPS: [Step; 10] = [
    Step { name: "format", remedy: "run `cargo xtask fix`", run: format },
    Step { name: "tidy", remedy: "mend the lines that are named", run: tidy },
    Step {
        name: "dependencies",
        remedy: "the rules and their reasons are in crates/xtask/src/deps.rs",
        run: edges,
    },
    Step { name: "circles", remedy: "move what both files need into a third one", run: no_circles },
    Step { name: "reasons", remedy: "explain each in docs/, most in docs/conditions.md", run: all_reasons },
    Step { name: "buf", remedy: "mend what buf names; its rules are in proto/buf.yaml", run: buf },
    Step {
        name: "planted",
        remedy: "see crates/relay/tests/sim/PLANTED.md; `cargo xtask planted` shows what catches each",
        run: planted,
    },
    Step { name: "clippy", remedy: "mend it, or run `cargo xtask fix`", run: clippy },
    Step { name: "doc", remedy: "mend the links and comments that rustdoc names", run: doc },
    Step { name: "licences", remedy: "the rules are in deny.toml", run: licences },
];

/// Runs all steps, or those that are named.
pub(crate) fn verify(root: &Path, names: &[String]) -> Result<ExitCode> {
    let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no step {unknown:?}; the steps are: {}", known.join(", "));
    }
    prereq::ensure(Purpose::Build)?;
    let chosen = STEPS.iter().filter(|step| names.is_empty() || names.iter().any(|name| name == step.name));
    let in_ci =
        std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0");
    run_steps(root, chosen, in_ci)
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

fn run_steps<'a>(root: &Path, steps: impl IntoIterator<Item = &'a Step>, in_ci: bool) -> Result<ExitCode> {
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
    let mut count = 0;
    for step in steps {
        println!("==> {}", step.name);
        let started = Instant::now();
        let result = (step.run)(root);
        let seconds = started.elapsed().as_secs_f64();
        count += 1;
        match result {
            Ok(Outcome::Passed(said)) => println!("    {} passed in {seconds:.1} s: {said}", step.name),
            Ok(Outcome::Skipped(why)) if in_ci => {
                println!("    {} FAILED: it could not run, and CI=true: {why}", step.name);
                failed.push(step);
            }
            Ok(Outcome::Skipped(why)) => {
                println!("    {} SKIPPED: {why}", step.name);
                skipped.push(step.name);
            }
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
        match skipped.as_slice() {
            [] => println!("verify: all {count} steps passed"),
            names => println!(
                "verify: {} of {count} steps passed, {} skipped: {}",
                count - names.len(),
                names.len(),
                names.join(", ")
            ),
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("verify: {} of {count} steps failed", failed.len());
    for step in failed {
        println!("  {}: {}", step.name, step.remedy);
    }
    Ok(ExitCode::FAILURE)
}

fn format(root: &Path) -> Result<Outcome> {
    show(cargo(root).args(["fmt", "--all", "--check"]))?;
    Ok(passed("all code is formatted"))
}

fn tidy(root: &Path) -> Result<Outcome> {
    judge(&tidy::check(root)?)?;
    Ok(passed("sizes, headers, left-overs, paths, tabs"))
}

fn edges(root: &Path) -> Result<Outcome> {
    judge(&deps::check(root)?)?;
    Ok(passed("every crate uses only what it may"))
}

fn no_circles(root: &Path) -> Result<Outcome> {
    judge(&circles::check(root)?)?;
    Ok(passed("no two files import each other in a circle"))
}

fn all_reasons(root: &Path) -> Result<Outcome> {
    let found = reasons::check(root)?;
    judge(&found.violations)?;
    Ok(passed(format!("docs/ explains all {} reasons", found.count)))
}

fn buf(root: &Path) -> Result<Outcome> {
    let buf = match tools::buf(root) {
        Ok(buf) => buf,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    show(Command::new(buf).arg("lint").current_dir(root.join("proto")).stdin(Stdio::null()))?;
    Ok(passed("buf lint"))
}

fn planted(root: &Path) -> Result<Outcome> {
    Ok(passed(format!("{} bugs can be planted", planted::check(root)?)))
}

fn clippy(root: &Path) -> Result<Outcome> {
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
    Ok(passed("no warnings"))
}

fn doc(root: &Path) -> Result<Outcome> {
    let arguments = ["doc", "--locked", "--quiet", "--workspace", "--no-deps"];
    show(cargo(root).args(arguments).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(passed("no warnings"))
}

/// Advisories are left out: they need a network.
fn licences(root: &Path) -> Result<Outcome> {
    let deny = match tools::cargo_deny(root) {
        Ok(deny) => deny,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    show(Command::new(deny).current_dir(root).stdin(Stdio::null()).args([
        "--log-level",
        "error",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;
    Ok(passed("cargo-deny: bans, licenses, sources"))
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
