//! From exec to the first mirrored record: the flow is stored, the brokers are warm, the target topic does not exist.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::ours::{Ours, rename};
use super::results::Values;
use super::rig::Rig;
use crate::load::{self, Counter, DataSet, Fill};

/// The name of this measurement.
pub(crate) const NAME: &str = "first";
const LIMIT: Duration = Duration::from_mins(1);
const LOOK_STEP: Duration = Duration::from_millis(2);

/// What is to be copied first.
fn data() -> DataSet {
    DataSet {
        topic: "data-first".to_owned(),
        partitions: 4,
        records: 1_000,
        value_bytes: 1_000,
        batch_bytes: 65_536,
        batch_records: 1_000,
        codec: "none",
        fill: Fill::Random,
        age: Duration::ZERO,
    }
}

/// Makes the data.
pub(crate) async fn prepare(rig: &Rig, seed: u64) -> Result<()> {
    let (bootstrap, set) = (rig.source.direct_bootstrap(), data());
    load::create_topic(&bootstrap, &set.topic, set.partitions).await?;
    tokio::task::spawn_blocking(move || load::produce(&bootstrap, &set, seed)).await?
}

/// One run.
pub(crate) async fn run(rig: &Rig) -> Result<Values> {
    let (serial, set) = (rig.serial(), data());
    let target_topic = format!("first-{serial}");
    let mut ours = Ours::without_worker(rig, serial, &rig.direct()).await?;
    ours.flow("bench", &set.topic, rename(&set.topic, &target_topic)).await?;
    let mut counter = Counter::new(&rig.target.direct_bootstrap(), &target_topic, set.partitions)?;
    // The counter's own connection is made before the clock runs.
    counter.count()?;
    let began = Instant::now();
    ours.start_worker()?;
    while counter.count()? == 0 {
        if began.elapsed() > LIMIT {
            return ours.explain(Err(anyhow::anyhow!("no record within {LIMIT:?}")));
        }
        std::thread::sleep(LOOK_STEP);
    }
    let seconds = began.elapsed().as_secs_f64();
    while counter.count()? < set.records {
        if began.elapsed() > LIMIT {
            bail!("the rest did not come within {LIMIT:?}");
        }
        std::thread::sleep(LOOK_STEP);
    }
    ours.end()?;
    load::delete_topics(&rig.target.direct_bootstrap(), &[&target_topic]).await?;
    Ok(Values::from([("to_first_s", seconds)]))
}
