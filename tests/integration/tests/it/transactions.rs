//! Transactions of several producers at once, aborted ones between them: what was committed arrives, and nothing else.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_testkit::broker::batch::{Batch, CONTROL};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::workload::Codec;

use crate::disk;
use crate::rig::{Rig, plan, produce, unique};

/// More than is ever produced; the producers are stopped when the last owner was killed.
const ENDLESS: u64 = 10_000_000;
/// Records a second of each producer.
const RATE: u64 = 400;

/// Batches that stand in the middle of another producer's transaction.
fn interleaved(batches: &[Batch]) -> usize {
    let mut open = BTreeSet::new();
    let mut between = 0;
    for header in batches.iter().map(|batch| batch.header) {
        if header.has(CONTROL) {
            open.remove(&header.producer_id);
        } else {
            open.insert(header.producer_id);
            between += usize::from(open.len() > 1);
        }
    }
    between
}

#[tokio::test(flavor = "multi_thread")]
async fn interleaved_transactions_arrive_without_aborted_ones_whoever_owns_them() -> Result<()> {
    let pair = shared_pair().await?;
    let spec = MeshSpec { sources: 2, ..MeshSpec::default() };
    let mut rig = Rig::between(&pair.source, &pair.target, spec).await?;
    let topic = unique("interleaved");
    let mut running = Vec::new();
    for _ in 0..3 {
        let plan = plan(&topic, 2, ENDLESS, Codec::Lz4).transactions(7, 0.3);
        running.push(produce(&rig.source, vec![plan], Some(RATE)).await?);
    }
    rig.mirror(&[&topic]).await?;
    for (partition, records) in [(0, 1_000), (1, 2_000), (0, 3_000)] {
        rig.arrived(&[&topic], records).await?;
        let owner = rig.owner(&topic, partition).await?;
        ensure!(running.iter().all(|run| !run.is_done()), "a producer ended before the fault");
        rig.mesh.signal_worker(&owner, Signal::Kill)?;
        rig.mesh.start_worker(&owner)?;
    }
    rig.arrived(&[&topic], 4_000).await?;
    let (mut committed, mut aborted) = (0, 0);
    running.iter().for_each(mirrormesh_testkit::workload::Run::stop);
    for run in running {
        let report = run.finish().await?;
        committed += report.records();
        aborted += report.aborted;
    }
    rig.caught_up(2).await?;
    rig.equal(&[&topic], committed).await?;

    let percent = aborted * 100 / (committed + aborted);
    let mut between = 0;
    for partition in 0..2 {
        between += interleaved(&disk::batches(&pair.source, &topic, partition).await?);
    }
    println!("{committed} committed, {aborted} aborted, {between} batches inside of others' transactions");
    ensure!((20..40).contains(&percent), "{percent} % were aborted");
    ensure!(between >= 100, "the transactions came one after the other: {between}");
    Ok(())
}
