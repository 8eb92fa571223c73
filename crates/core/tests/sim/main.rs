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
mod comes_back;
mod faults;
mod knobs;
mod late;
mod lost_end;
mod record;
mod returns;
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
/// Seeds that found something once, of those that no run repeats otherwise.
const FOUND: &[u64] = &[
    20_000_107,
    20_011_403,
    20_016_427,
    20_030_675,
    20_038_347,
    20_040_581,
    20_040_930,
    20_044_144,
    20_047_278,
    20_050_627,
    20_060_243,
    20_060_496,
    20_069_963,
    20_073_321,
    20_076_660,
    20_077_563,
    20_098_681,
    20_099_483,
    22_652,
    30_551,
    36_260,
    37_571,
    57_180,
    58_747,
    30_003_664,
    30_014_338,
    30_014_620,
    30_015_409,
    30_025_369,
    40_013_129,
    40_034_413,
    40_035_672,
    40_062_289,
    40_070_989,
    40_097_577,
    60_045_123,
    60_054_936,
    60_056_648,
    60_074_428,
    60_077_327,
    60_077_974,
    80_002_506,
    80_020_976,
    80_081_709,
    80_091_079,
    80_095_107,
    100_081_831,
    80_026_588,
    80_032_089,
    100_020_165,
    100_035_789,
    120_042_148,
    120_060_141,
    100_066_218,
    120_060_484,
    100_031_620,
    100_012_781,
    120_003_615,
    80_033_391,
    140_007_397,
    140_051_213,
    140_083_659,
    140_067_822,
    150_009_570,
    164_051_332,
    182_014_434,
    182_025_023,
    182_026_196,
    190_040_903,
    1_000_040_504,
    1_001_144_283,
    1_003_026_782,
    1_005_047_658,
    1_006_021_861,
];
/// Strict worlds of every run, from [`knobs::STRICT_SEEDS`] on.
const STRICT: u64 = 150;
/// Seeds that found something once in worlds that may be strict.
const FOUND_STRICT: &[u64] = &[
    200_019_708,
    300_000_041,
    300_000_574,
    300_000_886,
    300_000_982,
    300_112_026,
    300_117_414,
    300_124_244,
    300_002_235,
    300_005_245,
    300_507_791,
    300_517_788,
    306_015_908,
    312_007_091,
];
/// Worlds of every run whose strays come late, from [`knobs::LATE_SEEDS`] on.
const LATE: u64 = 60;
/// Worlds of every run whose source loses its end with a connection, from the first of [`knobs::LOST_END_SEEDS`] on.
const LOST_END: u64 = 100;
/// Seeds that found something once in such worlds.
const FOUND_LOST_END: &[u64] = &[
    700_000_308,
    700_002_998,
    700_003_220,
    700_003_686,
    700_006_046,
    700_006_987,
    700_021_054,
    700_024_596,
    700_036_496,
    730_041_676,
    732_000_700,
];
/// Worlds of every run whose source goes back to what it had lost, from the first of [`knobs::RETURN_SEEDS`] on.
const RETURN: u64 = 100;
/// Seeds that found something once in such worlds.
const FOUND_RETURN: &[u64] = &[
    800_006_254,
    800_006_854,
    800_010_391,
    800_010_799,
    800_016_306,
    800_017_110,
    800_018_320,
    800_031_719,
    800_032_628,
    800_033_105,
    850_017_771,
    860_004_155,
    802_019_643,
    803_016_285,
    804_033_883,
];
/// Worlds of every run whose target loses its end and comes back, from the first of [`knobs::COME_BACK_SEEDS`] on.
const COME_BACK: u64 = 100;
/// Seeds that found something once in such worlds.
const FOUND_COME_BACK: &[u64] = &[
    1_100_001_260,
    1_100_001_541,
    1_100_002_072,
    1_100_004_103,
    1_100_005_182,
    1_100_015_346,
    1_100_021_492,
];
/// Worlds of every run whose target gives out no producer ids, from the first of [`knobs::UNNUMBERED_SEEDS`] on.
const UNNUMBERED: u64 = 150;
/// Seeds that found something once in such worlds.
const FOUND_UNNUMBERED: &[u64] = &[920_002_767, 937_000_072];
/// Seeds of every run that no run had before. Few: about one of 400,000 still found something open when it was last looked.
const FRESH: u64 = 100;

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
    let tally = run_all((0..FIXED).chain(FOUND.iter().copied()));
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    assert!(tally.counted * 2 > FIXED, "too few seeds have traffic and faults: {tally}");
}

#[test]
fn strict_seeds() {
    let seeds = knobs::STRICT_SEEDS..knobs::STRICT_SEEDS + STRICT;
    let tally = run_all(seeds.chain(FOUND_STRICT.iter().copied()));
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    let (seeds, markers, _) = tally.strict;
    assert!(seeds >= STRICT && markers > 10 * seeds, "too few markers: {tally}");
}

#[test]
fn late_seeds() {
    let tally = run_all(knobs::LATE_SEEDS..knobs::LATE_SEEDS + LATE);
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    assert!(tally.strays > LATE && tally.strict.1 > 10 * LATE, "too few strays: {tally}");
}

#[test]
fn lost_end_seeds() {
    let first = knobs::LOST_END_SEEDS.start;
    let tally = run_all((first..first + LOST_END).chain(FOUND_LOST_END.iter().copied()));
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    let ends = tally.struck.get(&knobs::Fault::SourceTruncate);
    assert!(ends.is_some_and(|ends| *ends > LOST_END / 4), "too few ends were lost: {tally}");
}

#[test]
fn return_seeds() {
    let first = knobs::RETURN_SEEDS.start;
    let tally = run_all((first..first + RETURN).chain(FOUND_RETURN.iter().copied()));
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    let returns = tally.struck.get(&knobs::Fault::SourceReturn);
    assert!(returns.is_some_and(|returns| *returns > RETURN / 2), "too few returns: {tally}");
}

#[test]
fn come_back_seeds() {
    let first = knobs::COME_BACK_SEEDS.start;
    let tally = run_all((first..first + COME_BACK).chain(FOUND_COME_BACK.iter().copied()));
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    let losses = tally.struck.get(&knobs::Fault::TargetTruncate);
    assert!(losses.is_some_and(|losses| *losses > COME_BACK / 2), "too few losses: {tally}");
}

#[test]
fn unnumbered_seeds() {
    let first = knobs::UNNUMBERED_SEEDS.start;
    let tally = run_all((first..first + UNNUMBERED).chain(FOUND_UNNUMBERED.iter().copied()));
    println!("{tally}");
    assert!(tally.failures.is_empty(), "{tally}");
    assert!(tally.faults > 2 * UNNUMBERED, "too few faults struck while records flowed: {tally}");
    assert!(tally.doubles > 0, "nothing was ever doubled and said: {tally}");
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
