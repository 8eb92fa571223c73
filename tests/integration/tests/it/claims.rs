//! Several meshes on the same clusters: the second one leaves alone what the first one mirrors, and goes on from there
//! if it is told to.

use std::time::Duration;

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe;
use mirrormesh_proto::v1;
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;

use crate::loops::from;
use crate::rig::{PATIENCE, Rig, die_while_writing_whole, event, identity, unique};

async fn partition_stops(rig: &mut Rig, topic: &str, reason: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let partition = rig.partition(topic, 0).await?;
        if partition.state() == v1::flow_partition::State::Stopped && partition.reason.starts_with(reason) {
            return Ok(());
        }
        let late = tokio::time::Instant::now() > deadline;
        ensure!(!late, "not stopped by {reason}: {partition:#?}\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_mesh_finds_the_claim_and_adopts_exactly_where_the_first_one_stopped() -> Result<()> {
    let mut first = Rig::shared(MeshSpec::default()).await?;
    let (topic, all) = (unique("claimed"), from("uk", 3_100));
    create_topic(&first.source, &topic, 1).await?;
    probe::send_records(&first.source, &[], (&topic, 0), all[..500].to_vec()).await?;
    first.mirror(&[&topic]).await?;
    first.caught_up(1).await?;
    let begun = first.generation(&topic, 0).await?;

    // A mesh of its own, and a flow of another name.
    let mut second = Rig::shared(MeshSpec::default()).await?;
    second.mirror(&[&topic]).await?;
    let told = event(&mut second, "FLOW_CLAIMED").await?;
    ensure!(told.message.contains(&format!("flows/{}", first.flow)), "{told:?}");
    ensure!(told.subject == topic, "{told:?}");
    probe::send_records(&first.source, &[], (&topic, 0), all[500..600].to_vec()).await?;
    first.arrived(&[&topic], 600).await?;
    ensure!(second.api.flow_topics(&second.flow.clone()).await?.topics.is_empty(), "left alone");

    die_while_writing_whole(&mut first, &topic, all[600..3_000].to_vec()).await?;
    let name = format!("flows/{}", second.flow);
    let adopting = v1::Flow { name, adopt: true, ..v1::Flow::default() };
    second.api.update_flow(adopting, &["adopt"]).await?;
    second.arrived(&[&topic], 3_000).await?;
    second.caught_up(1).await?;
    first.holds_exactly(&topic, &all[..3_000]).await?;
    let taken = second.generation(&topic, 0).await?;
    ensure!(taken.producer_id == begun.producer_id && taken.epoch > begun.epoch, "{begun:?}, then {taken:?}");
    event(&mut second, "FLOW_ADOPTED").await?;

    // The first one wakes up, and is told who has the topic now.
    first.mesh.start_worker("source-1")?;
    partition_stops(&mut first, &topic, "FLOW_CLAIMED").await?;
    probe::send_records(&first.source, &[], (&topic, 0), all[3_000..].to_vec()).await?;
    second.arrived(&[&topic], 3_100).await?;
    second.caught_up(1).await?;
    first.holds_exactly(&topic, &all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_lost_its_data_goes_on_where_it_was() -> Result<()> {
    let mut lost = Rig::shared(MeshSpec::default()).await?;
    let (topic, all) = (unique("lost-mesh"), from("uk", 2_000));
    create_topic(&lost.source, &topic, 1).await?;
    probe::send_records(&lost.source, &[], (&topic, 0), all[..200].to_vec()).await?;
    lost.mirror(&[&topic]).await?;
    lost.caught_up(1).await?;
    die_while_writing_whole(&mut lost, &topic, all[200..].to_vec()).await?;
    lost.mesh.signal_coordinator(1, Signal::Kill)?;

    // Nothing is left of it but what is on the clusters. The same flow is made again.
    let mut again = Rig::shared(MeshSpec::default()).await?;
    again.flow.clone_from(&lost.flow);
    again.mirror(&[&topic]).await?;
    let told = event(&mut again, "FLOW_CLAIMED").await?;
    ensure!(told.message.contains("adopt"), "{told:?}");
    let id = again.flow.clone();
    again.api.delete_flow(&id).await?;
    again.api.create_flow(&id, v1::Flow { adopt: true, ..identity(&[&topic]) }).await?;
    again.arrived(&[&topic], 2_000).await?;
    again.caught_up(1).await?;
    lost.holds_exactly(&topic, &all).await
}
