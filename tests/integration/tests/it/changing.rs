//! Targets that forget: backfills older than they remember producers.

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::workload::{Codec, Workload};

use crate::rig::{PATIENCE, Rig, now_ms, plan, random_bytes, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_older_than_the_target_remembers_is_exact_and_says_so() -> Result<()> {
    let forgetful = ClusterSpec::new("target").property("producer.id.expiration.check.interval.ms", "200");
    let (source, target) =
        tokio::try_join!(Cluster::start(ClusterSpec::new("source")), Cluster::start(forgetful))?;
    let mut rig = Rig::between(&source, &target, MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("backfill");
    let month_ago = now_ms() - 30 * 86_400_000;
    mirrormesh_testkit::topics::create_topic(&rig.source, &topic, 2).await?;
    let workload = Workload::new(77).batch_bytes(3_000).topic(plan(&topic, 2, 40_000, Codec::Lz4));
    let produced = workload.first_timestamp_ms(month_ago).produce(&rig.source).await?.records();
    rig.mirror(&[&topic]).await?;
    let mut seen = false;
    for part in 1..4 {
        rig.arrived(&[&topic], produced * part / 5).await?;
        let partition = rig.partition(&topic, 0).await?;
        seen |= partition.delivery_reason == "TARGET_MAY_FORGET";
        let owner = rig.owner(&topic, 0).await?;
        rig.mesh.signal_worker(&owner, Signal::Kill)?;
        rig.mesh.start_worker(&owner)?;
    }
    rig.caught_up(2).await?;
    seen |= rig.partition(&topic, 0).await?.delivery_reason == "TARGET_MAY_FORGET";
    ensure!(seen, "the status never said that the target may forget");
    rig.equal(&[&topic], produced).await?;

    // Behind the backfill the flow is exactly once again.
    let fresh = Plain { key: None, value: Some(random_bytes(20)), timestamp_ms: now_ms() };
    probe::send(&rig.source, &[], &topic, vec![fresh; 20]).await?;
    rig.arrived(&[&topic], produced + 20).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let partition = rig.partition(&topic, 0).await?;
        if partition.delivery() == mirrormesh_proto::v1::flow_partition::Delivery::ExactlyOnce {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{partition:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
