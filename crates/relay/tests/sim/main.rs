//! The relay's machine in a simulated world: model brokers, faults, several owners, everything from one seed.
//!
//! `SIM_SEED=n cargo test -p mirrormesh-relay --test sim -- one_seed --nocapture` repeats a seed and shows what happens;
//! `SIM_SEEDS=200000 cargo test --release -p mirrormesh-relay --test sim -- many_seeds --nocapture` runs many: from
//! `SIM_FROM` on, or from the present time on; of one kind of world with `SIM_WORLD` (`kinds.rs`). With `SIM_TRACE` it shows
//! what happens in the first that fail.
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
mod comes_back;
mod doubles;
mod faults;
mod kinds;
mod knobs;
mod lost_end;
mod parts;
mod people;
mod record;
mod returns;
mod rng;
mod run;
mod scene;
mod scenes;
mod shell;
mod source;
mod stored;
mod tally;
mod target;
mod translation;
mod world;

use kinds::Kind;
use knobs::Fault;
use run::run;
use tally::Tally;

/// Seeds of each kind of world in every test run, and seeds that no run had before.
const SEEDS: usize = 120;
const FRESH: u64 = 160;

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

/// The first seeds of a kind.
fn sound(kind: Kind) -> Tally {
    let tally = run_all((0..).filter(|seed| Kind::of(*seed) == kind).take(SEEDS));
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    let seeds = SEEDS as u64;
    assert!(tally.counted * 4 > seeds, "too few seeds have traffic and faults: {tally}");
    assert!(tally.announcements.1 * 2 < SEEDS, "too many announcements of nothing: {tally}");
    tally
}

fn struck(tally: &Tally, fault: Fault) -> usize {
    tally.struck.get(&fault).map_or(0, |count| *count as usize)
}

#[test]
fn any_worlds_are_sound() {
    sound(Kind::Any);
}

#[test]
fn worlds_of_old_records_are_sound() {
    let tally = sound(Kind::Old);
    assert!(
        tally.counts.unarmed > 500 && tally.counts.in_pipelines > 100,
        "the target hardly ever forgets: {tally}"
    );
}

#[test]
fn worlds_whose_source_loses_its_end_are_sound() {
    let tally = sound(Kind::LostEnd);
    assert!(struck(&tally, Fault::SourceTruncate) > SEEDS / 4, "too few ends were lost: {tally}");
}

#[test]
fn worlds_whose_source_goes_back_are_sound() {
    let tally = sound(Kind::Return);
    assert!(struck(&tally, Fault::SourceReturn) > SEEDS / 2, "too few returns: {tally}");
}

#[test]
fn worlds_whose_target_comes_back_are_sound() {
    let tally = sound(Kind::ComeBack);
    assert!(struck(&tally, Fault::TargetTruncate) > SEEDS / 2, "too few losses: {tally}");
}

#[test]
fn worlds_that_lose_positions_are_sound() {
    let tally = sound(Kind::Positions);
    assert!(struck(&tally, Fault::PositionsLost) > SEEDS / 2, "too few losses: {tally}");
}

#[test]
fn worlds_that_recompress_are_sound() {
    let tally = sound(Kind::Recompress);
    assert!(struck(&tally, Fault::Stored) > SEEDS / 2, "the codec hardly ever changes: {tally}");
}

#[test]
fn worlds_that_require_exactly_once_are_sound() {
    sound(Kind::Exact);
}

#[expect(clippy::disallowed_methods, reason = "fresh seeds come from the time; they are printed")]
fn fresh() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_nanos() as u64 & 0x7fff_ffff_ffff
}

#[test]
fn fresh_seeds() {
    let first = fresh();
    println!("fresh seeds from {first} on");
    let tally = run_all(first..first + FRESH);
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
}

/// `SIM_SEED=n`: one seed, with what happens; or several, as `n,m`.
#[test]
fn one_seed() {
    let Ok(seeds) = std::env::var("SIM_SEED") else { return };
    let outcomes: Vec<_> = seeds.split(',').map(|seed| run(seed.parse().unwrap(), true)).collect();
    for outcome in &outcomes {
        println!("{outcome:?}");
    }
    assert!(outcomes.iter().all(|outcome| outcome.violation.is_none()));
}

/// `SIM_SEEDS=n`: many seeds, on all processors.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long it took is for people")]
fn many_seeds() {
    let Some(count) = number("SIM_SEEDS") else { return };
    let from = number("SIM_FROM").unwrap_or_else(fresh);
    let only = std::env::var("SIM_WORLD").ok();
    let only = only.map(|name| Kind::by_name(&name).expect("SIM_WORLD names no kind of world"));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let threads = number("SIM_THREADS").unwrap_or(threads);
    println!("{count} seeds from {from} on");
    let begun = std::time::Instant::now();
    let of_kind = move |seed: &u64| only.is_none_or(|kind| Kind::of(*seed) == kind);
    let parts: Vec<_> = (0..threads)
        .map(|t| {
            let seeds = (from..).filter(of_kind).take(count as usize);
            let mine = seeds.enumerate().filter(move |(i, _)| *i as u64 % threads == t);
            std::thread::spawn(move || run_all(mine.map(|(_, seed)| seed)))
        })
        .collect();
    let mut tally = Tally::default();
    for part in parts {
        tally.join(part.join().unwrap());
    }
    println!("{tally} in {:?}", begun.elapsed());
    if std::env::var_os("SIM_TRACE").is_some() {
        tally.show_failures();
    }
    assert!(tally.failures.is_empty(), "{tally}");
}
