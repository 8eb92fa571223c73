//! Planted bugs: each patch of the simulation's table breaks the relay in one way. How many fresh seeds notice?
//!
//! The pure crates are copied under `target/planted` with a workspace of their own, so that nothing here is ever changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, show};

const SIMULATION: &str = "crates/relay/tests/sim";
/// What the simulation needs.
const CRATES: [&str; 2] = ["crates/core", "crates/relay"];

/// Plants every bug of the table, or those named, and prints a table of what caught them.
pub(crate) fn run(root: &Path, names: &[String], seeds: u64) -> Result<ExitCode> {
    let table = root.join(SIMULATION).join("PLANTED.md");
    let text = fs::read_to_string(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let bugs = bugs(&text)?;
    if let Some(name) = names.iter().find(|name| !bugs.contains(name)) {
        bail!("{} names no bug {name:?}", table.display());
    }
    let chosen: Vec<_> = bugs.iter().filter(|bug| names.is_empty() || names.contains(bug)).collect();
    let copy = copy_workspace(root)?;
    println!("| bug | of {seeds} fresh seeds | scripts | reported as |\n|---|---|---|---|");
    let sound = caught(&copy, seeds)?;
    println!("| none | {} | {} | {} |", sound.seeds, sound.scripts, sound.invariants());
    let mut missed = 0;
    for bug in &chosen {
        restore(root, &copy)?;
        let patch = root.join(SIMULATION).join("planted").join(format!("{bug}.patch"));
        // Outside of any repository, or git would leave out what it takes for another directory's files.
        let ceiling = copy.parent().unwrap_or(&copy);
        show(
            Command::new("git")
                .args(["apply".as_ref(), patch.as_os_str()])
                .current_dir(&copy)
                .env("GIT_CEILING_DIRECTORIES", ceiling),
        )?;
        let caught = caught(&copy, seeds)?;
        missed += u32::from(caught.is_empty());
        println!("| `{bug}` | {} | {} | {} |", caught.seeds, caught.scripts, caught.invariants());
    }
    println!("{} bugs planted, {missed} caught by nothing", chosen.len());
    if !sound.is_empty() {
        println!("without a bug the simulation fails too: mend that first");
    }
    Ok(if missed == 0 && sound.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What noticed a bug.
#[derive(Debug, Default, PartialEq, Eq)]
struct Caught {
    /// Fresh seeds.
    seeds: u64,
    /// Scripted scenes.
    scripts: u64,
    /// The invariants that seeds reported, and how many of them.
    invariants: Vec<(String, u64)>,
}

impl Caught {
    fn is_empty(&self) -> bool {
        self.seeds + self.scripts == 0
    }

    fn invariants(&self) -> String {
        let each = self.invariants.iter().map(|(name, seeds)| format!("{name} ({seeds})"));
        each.collect::<Vec<_>>().join(", ")
    }
}

/// Whether each bug of the table can still be planted, and no patch is left over; says how many there are.
pub(crate) fn check(root: &Path) -> Result<usize> {
    let simulation = root.join(SIMULATION);
    let bugs = bugs(&fs::read_to_string(simulation.join("PLANTED.md"))?)?;
    for bug in &bugs {
        let patch = simulation.join("planted").join(format!("{bug}.patch"));
        let apply = ["apply".as_ref(), "--check".as_ref(), patch.as_os_str()];
        show(Command::new("git").args(apply).current_dir(root))
            .with_context(|| format!("{bug} can't be planted any more: write its patch anew"))?;
    }
    let patches = fs::read_dir(simulation.join("planted"))?.count();
    if patches != bugs.len() {
        bail!("{patches} patches, {} rows in PLANTED.md: each needs the other", bugs.len());
    }
    Ok(patches)
}

/// The names of the table's rows: `| name | what it does | … |`, in backquotes.
fn bugs(table: &str) -> Result<Vec<String>> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, _) = row.split_once('`').with_context(|| format!("this row names no bug: {row}"))?;
        Ok(name.to_owned())
    })
    .collect()
}

/// A workspace of the pure crates alone.
fn copy_workspace(root: &Path) -> Result<PathBuf> {
    let copy = root.join("target/planted");
    fs::create_dir_all(&copy)?;
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let (before, rest) = manifest.split_once("members = [").context("Cargo.toml has no members")?;
    let (_, after) = rest.split_once(']').context("the members of Cargo.toml do not end")?;
    let after: Vec<_> = after.lines().filter(|line| !line.starts_with("default-members")).collect();
    let after = after.join("\n");
    fs::write(copy.join("Cargo.toml"), format!("{before}members = {CRATES:?}{after}\n"))?;
    for name in ["Cargo.lock", "clippy.toml"] {
        fs::copy(root.join(name), copy.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    restore(root, &copy)?;
    Ok(copy)
}

/// Puts the crates there as they are.
fn restore(root: &Path, copy: &Path) -> Result<()> {
    for name in CRATES {
        let there = copy.join(name);
        if there.exists() {
            fs::remove_dir_all(&there).with_context(|| format!("cannot remove {}", there.display()))?;
        }
        copy_directory(&root.join(name), &there)?;
    }
    Ok(())
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

/// Runs fresh seeds, and the scripted scenes.
fn caught(copy: &Path, seeds: u64) -> Result<Caught> {
    let package = ["test", "--quiet", "--release", "--package", "mirrormesh-relay", "--test", "sim"];
    let target = copy.join("target");
    show(cargo(copy).args(package).arg("--no-run").env("CARGO_TARGET_DIR", &target))?;
    let said = |tests: &[&str]| -> Result<String> {
        let output = cargo(copy)
            .args(package)
            .arg("--")
            .args(tests)
            .env("CARGO_TARGET_DIR", &target)
            .env("SIM_SEEDS", seeds.to_string())
            .stderr(Stdio::null())
            .output()
            .context("cannot run the simulation")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let many = said(&["many_seeds", "--exact", "--nocapture"])?;
    let mut caught = read_tally(&many)?;
    caught.scripts = failed_tests(&said(&["scenes::"])?).context("the scenes say no result")?;
    Ok(caught)
}

/// Reads the lines `FAILED invariant: n seeds, [...]` that stand behind the number of seeds.
fn read_tally(said: &str) -> Result<Caught> {
    if !said.contains(" seeds, ") {
        bail!("the seeds say no result");
    }
    let mut caught = Caught::default();
    for line in said.lines() {
        let Some((invariant, rest)) = line.strip_prefix("FAILED ").and_then(|line| line.rsplit_once(": "))
        else {
            continue;
        };
        let count = rest.split_once(' ').map_or(rest, |(count, _)| count);
        let count = count.parse().with_context(|| format!("no number of seeds: {line}"))?;
        // The failing test's message repeats what it printed.
        if caught.invariants.iter().any(|(name, _)| name == invariant) {
            continue;
        }
        caught.seeds += count;
        caught.invariants.push((invariant.to_owned(), count));
    }
    Ok(caught)
}

/// The number in `test result: FAILED. 12 passed; 3 failed; …`.
fn failed_tests(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.starts_with("test result:"))?;
    let (before, _) = line.split_once(" failed")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let table = "# T\n| bug | what |\n|---|---|\n| `a_b` | x `c` |\n";
        assert_eq!(bugs(table).unwrap(), ["a_b"]);
        assert!(bugs("| `a | x").is_err());
    }

    #[test]
    fn a_tally_is_read() {
        let said = "20 seeds, 3 counted\nFAILED I1 no-loss: 3 seeds, [1, 2, 3]\nFAILED no panic: 1 seeds, [7]\n\
                    seed 1: I1 no-loss: record 4 is missing\nFAILED I1 no-loss: 3 seeds, [1, 2, 3]\n";
        let caught = read_tally(said).unwrap();
        assert_eq!((caught.seeds, caught.invariants()), (4, "I1 no-loss (3), no panic (1)".to_owned()));
        assert!(read_tally("error").is_err());
        assert_eq!(failed_tests("test result: FAILED. 12 passed; 3 failed; 0 ignored"), Some(3));
    }
}
