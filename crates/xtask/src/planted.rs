//! Planted bugs: each patch of the simulation's table breaks the relay in one way, and its seed has to notice.
//!
//! The core is copied under `target/planted` with a workspace of its own, so that nothing here is ever changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, show};

const SIMULATION: &str = "crates/core/tests/sim";

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Bug {
    name: String,
    invariant: String,
    seed: u64,
}

/// Plants every bug of the table, or the one named, and says what caught it.
pub(crate) fn run(root: &Path, name: Option<&str>) -> Result<ExitCode> {
    let table = root.join(SIMULATION).join("PLANTED.md");
    let text = fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let bugs = bugs(&text)?;
    let chosen: Vec<_> = bugs.iter().filter(|bug| name.is_none_or(|name| name == bug.name)).collect();
    if chosen.is_empty() {
        bail!("{} names no bug {:?}", table.display(), name.unwrap_or("at all"));
    }
    let copy = copy_workspace(root)?;
    let mut failed = 0;
    for bug in &chosen {
        let sound = caught(&copy, bug.seed)?;
        if let Some(invariant) = sound {
            println!(
                "{:26} seed {:<8} NOT SOUND: without the bug it reports {invariant}",
                bug.name, bug.seed
            );
            failed += 1;
        }
    }
    for bug in &chosen {
        restore(root, &copy)?;
        let patch = root.join(SIMULATION).join("planted").join(format!("{}.patch", bug.name));
        // Outside of any repository, or git would leave out what it takes for another directory's files.
        let ceiling = copy.parent().unwrap_or(&copy);
        show(
            Command::new("git")
                .args(["apply".as_ref(), patch.as_os_str()])
                .current_dir(&copy)
                .env("GIT_CEILING_DIRECTORIES", ceiling),
        )?;
        let verdict = match caught(&copy, bug.seed)? {
            Some(invariant) if invariant == bug.invariant => "caught".to_owned(),
            Some(invariant) => format!("CAUGHT BY {invariant} INSTEAD OF {}", bug.invariant),
            None => "NOT CAUGHT".to_owned(),
        };
        failed += u32::from(verdict != "caught");
        println!("{:26} seed {:<8} {:22} {verdict}", bug.name, bug.seed, bug.invariant);
    }
    println!("{} bugs planted, {failed} problems", chosen.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether each bug of the table can still be planted, and no patch is left over; says how many there are.
pub(crate) fn check(root: &Path) -> Result<usize> {
    let simulation = root.join(SIMULATION);
    let bugs = bugs(&fs::read_to_string(simulation.join("PLANTED.md"))?)?;
    for bug in &bugs {
        let patch = simulation.join("planted").join(format!("{}.patch", bug.name));
        let apply = ["apply".as_ref(), "--check".as_ref(), patch.as_os_str()];
        show(Command::new("git").args(apply).current_dir(root))
            .with_context(|| format!("{} can't be planted any more: write its patch anew", bug.name))?;
    }
    let patches = fs::read_dir(simulation.join("planted"))?.count();
    if patches != bugs.len() {
        bail!("{patches} patches, {} rows in PLANTED.md: each needs the other", bugs.len());
    }
    Ok(patches)
}

/// The rows: `| name | what it does | invariant | seed |`, name and seed in backquotes or not.
fn bugs(table: &str) -> Result<Vec<Bug>> {
    let mut bugs = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, name, _, invariant, seed, ..] = cells.as_slice() else {
            bail!("this row of the table has too few cells: {line}");
        };
        let seed = seed.parse().with_context(|| format!("{seed:?} is no seed, in {line}"))?;
        bugs.push(Bug { name: (*name).to_owned(), invariant: (*invariant).to_owned(), seed });
    }
    Ok(bugs)
}

/// A workspace of the core alone.
fn copy_workspace(root: &Path) -> Result<PathBuf> {
    let copy = root.join("target/planted");
    fs::create_dir_all(&copy)?;
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let (before, rest) = manifest.split_once("members = [").context("Cargo.toml has no members")?;
    let (_, after) = rest.split_once(']').context("the members of Cargo.toml do not end")?;
    let after: Vec<_> = after.lines().filter(|line| !line.starts_with("default-members")).collect();
    let after = after.join("\n");
    fs::write(copy.join("Cargo.toml"), format!("{before}members = [\"crates/core\"]{after}\n"))?;
    for name in ["Cargo.lock", "clippy.toml"] {
        fs::copy(root.join(name), copy.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    restore(root, &copy)?;
    Ok(copy)
}

/// Puts the core there as it is.
fn restore(root: &Path, copy: &Path) -> Result<()> {
    let core = copy.join("crates/core");
    if core.exists() {
        fs::remove_dir_all(&core).with_context(|| format!("cannot remove {}", core.display()))?;
    }
    copy_directory(&root.join("crates/core"), &core)
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            // Written, not copied: cargo goes by the time of the change.
            fs::write(&target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

/// Runs the seed; which invariant it breaks.
fn caught(copy: &Path, seed: u64) -> Result<Option<String>> {
    let package = ["test", "--quiet", "--package", "mirrormesh-core", "--test", "sim"];
    show(cargo(copy).args(package).arg("--no-run").env("CARGO_TARGET_DIR", copy.join("target")))?;
    let output = cargo(copy)
        .args(package)
        .args(["--", "one_seed", "--exact", "--nocapture"])
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env("SIM_SEED", seed.to_string())
        .stderr(Stdio::null())
        .output()
        .context("cannot run the simulation")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let outcome =
        said.lines().find(|line| line.starts_with("Outcome {")).context("the seed says no outcome")?;
    let invariant = outcome.split_once("invariant: \"").and_then(|(_, rest)| rest.split_once('"'));
    Ok(invariant.map(|(invariant, _)| invariant.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let table =
            "# T\n| bug | what | invariant | seed |\n|---|---|---|---|\n| `a_b` | x | I1 no-loss | 17 |\n";
        let bug = Bug { name: "a_b".to_owned(), invariant: "I1 no-loss".to_owned(), seed: 17 };
        assert_eq!(bugs(table).unwrap(), [bug]);
        assert!(bugs("| `a` | x | I1 | one |").is_err());
    }
}
