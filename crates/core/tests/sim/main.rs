//! The relay's machine in a simulated world: model brokers, faults, several owners, everything from one seed.
//!
//! `SIM_SEED=n cargo test -p mirrormesh-core --test sim -- one_seed --nocapture` repeats a seed and shows what happens;
//! `SIM_SEEDS=100000 cargo test --release -p mirrormesh-core --test sim -- many_seeds --nocapture` runs many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a test"
)]

mod append;
mod check;
mod faults;
mod knobs;
mod record;
mod rng;
mod run;
mod shell;
mod source;
mod target;
mod translation;
mod world;

use run::{Tally, run};

/// Seeds of every run.
const FIXED: u64 = 300;
/// Seeds of every run that no run had before. Few, while about 2 of 10,000 seeds still find something open.
const FRESH: u64 = 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn run_all(seeds: impl IntoIterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        tally.add(run(seed, false));
    }
    tally
}

#[test]
fn fixed_seeds() {
    let tally = run_all(0..FIXED);
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    assert!(tally.counted * 2 > FIXED, "too few seeds have traffic and faults: {tally}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "fresh seeds come from the time; it is printed")]
fn fresh_seeds() {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = since.as_nanos() as u64 & 0x7fff_ffff_ffff;
    println!("fresh seeds from {first} on");
    let tally = run_all(first..first + FRESH);
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
}

/// `SIM_SEED=n`: one seed, with what happens.
#[test]
fn one_seed() {
    let Some(seed) = number("SIM_SEED") else { return };
    let outcome = run(seed, true);
    println!("{outcome:?}");
    assert!(outcome.violation.is_none(), "{outcome:?}");
}

/// `SIM_SEEDS=n`: many seeds, on all processors; from `SIM_FROM` on.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long it took is for people")]
fn many_seeds() {
    let Some(count) = number("SIM_SEEDS") else { return };
    let from = number("SIM_FROM").unwrap_or(1_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let threads = number("SIM_THREADS").unwrap_or(threads);
    let begun = std::time::Instant::now();
    let parts: Vec<_> = (0..threads)
        .map(|t| std::thread::spawn(move || run_all((from..from + count).filter(|s| s % threads == t))))
        .collect();
    let mut tally = Tally::default();
    for part in parts {
        tally.join(part.join().unwrap());
    }
    println!("{tally} in {:?}", begun.elapsed());
    assert!(tally.failures.is_empty(), "{tally}");
}
