//! `fuzz`: the decoders under libFuzzer, from the seeds in `fuzz/seeds`.
//!
//! Owns the order of steps and the limits of a run. Needs cargo-fuzz.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, find_program, show};

const TARGETS: [&str; 3] = ["batches", "contents", "answers"];
/// For all of a run, and for one allocation, MB.
const MEMORY_LIMITS: [&str; 2] = ["-rss_limit_mb=512", "-malloc_limit_mb=64"];

/// Runs one target, or each.
pub(crate) fn run(root: &Path, target: Option<&str>, runs: u64) -> Result<ExitCode> {
    if find_program("cargo-fuzz").is_none() {
        bail!("cargo-fuzz is missing: install it with `cargo install cargo-fuzz --locked`");
    }
    let targets = match target {
        None => TARGETS.to_vec(),
        Some(target) if TARGETS.contains(&target) => vec![target],
        Some(target) => bail!("there is no target {target}; there are {}", TARGETS.join(", ")),
    };
    let directory = root.join("fuzz");
    for target in targets {
        plant(&directory, target)?;
        // Without a sanitizer, which would take a nightly toolchain.
        show(
            cargo(&directory)
                .args(["fuzz", "run", "-s", "none", "--release", target, "--", &format!("-runs={runs}")])
                .args(MEMORY_LIMITS),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the seeds of a target into its corpus.
fn plant(directory: &Path, target: &str) -> Result<()> {
    let seeds = directory.join("seeds").join(target).with_extension("txt");
    let text = fs::read_to_string(&seeds).with_context(|| format!("cannot read {}", seeds.display()))?;
    let corpus = directory.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    for (line, number) in text.lines().zip(1..) {
        let seed = line.split_once(' ').and_then(|(name, hex)| Some((name, bytes(hex)?)));
        let (name, bytes) =
            seed.with_context(|| format!("{}, line {number}: no name and hex bytes", seeds.display()))?;
        let file = corpus.join(name);
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|two| two.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read() {
        assert_eq!(bytes("00ff1a"), Some(vec![0, 0xff, 0x1a]));
        assert_eq!(bytes(""), Some(vec![]));
        assert_eq!((bytes("abc"), bytes("0g")), (None, None));
    }
}
