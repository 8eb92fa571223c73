//! All kinds of faults in one run, from a fresh seed each time: the short form of `cargo xtask bench faults`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::faults::{self, Kind, Options};

use crate::rig::unique;

/// One of each kind; the choices are the seed's, so a failure can be had again with
/// `cargo xtask bench faults --brokers 1 --partitions 4 --records 40000 --rate 2000 --faults 11 --seed …`.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_every_kind_lose_double_change_and_reorder_nothing() -> Result<()> {
    let seed = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() % 1_000_000_000)?;
    println!("chaos seed {seed}");
    let folder = std::env::temp_dir().join(format!("mirrormesh-it-{}", unique("chaos")));
    let options = Options {
        seed,
        records: 40_000,
        faults: u32::try_from(Kind::ALL.len())?,
        partitions: 4,
        brokers: 1,
        workers: 3,
        rate: 2_000,
        record_age: Duration::ZERO,
        expiration_check: None,
        folder: folder.clone(),
        say: |text| println!("{text}"),
    };
    let report = faults::run(&options).await.with_context(|| format!("seed {seed}"))?;
    println!("{report}");
    ensure!(report.passed(), "seed {seed}\n{report}");
    let idle: Vec<_> = report.faults.iter().filter(|(_, count)| count.struck == 0).collect();
    ensure!(report.faults.len() == Kind::ALL.len() && idle.len() <= 3, "too few kinds struck: {idle:?}");
    std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
}
