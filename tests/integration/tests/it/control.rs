//! The control plane under faults: leaders killed, followers asked, state kept.

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::api::passing;
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::workload::Codec;

use crate::rig::{Rig, identity, plan, produce, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_no_write_and_stops_no_record() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { coordinators: 3, ..MeshSpec::default() }).await?;
    let topic = unique("leader");
    let running = produce(&rig.source, vec![plan(&topic, 3, 10_000_000, Codec::Lz4)], Some(4_000)).await?;
    rig.mirror(&[&topic]).await?;
    rig.arrived(&[&topic], 2_000).await?;

    let mut acknowledged = Vec::new();
    for round in 0..2 {
        let leader = rig.api.mesh().await?.leader_id;
        rig.mesh.signal_coordinator(leader, Signal::Kill)?;
        ensure!(!running.is_done(), "the workload ended before the fault");
        // Writes go on; what is acknowledged must be there in the end. How long it takes is not asked here.
        let deadline = tokio::time::Instant::now() + crate::rig::PATIENCE;
        while acknowledged.len() < (round + 1) * 5 {
            let id = unique("write");
            match rig.api.create_flow(&id, identity(&[&unique("none")])).await {
                Ok(_) => acknowledged.push(id),
                Err(status) if passing(&status) && tokio::time::Instant::now() < deadline => {}
                Err(status) => return Err(status).with_context(|| rig.mesh.log_tails()),
            }
        }
        rig.mesh.start_coordinator(leader)?;
        wait_for_member(&rig, leader).await?;
    }
    for id in &acknowledged {
        rig.api.flow(id).await?;
    }
    running.stop();
    let produced = running.finish().await?.records();
    rig.arrived(&[&topic], produced).await?;
    rig.caught_up(3).await?;
    rig.equal(&[&topic], produced).await
}

/// Waits until a coordinator answers by itself; a follower forwards, so any answer shows that it is in.
async fn wait_for_member(rig: &Rig, id: u64) -> Result<()> {
    let mut api = rig.mesh.api_of(id)?;
    let deadline = tokio::time::Instant::now() + crate::rig::PATIENCE;
    while api.mesh().await.is_err() {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "coordinator {id} did not come back\n{}",
            rig.mesh.log_tails()
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_coordinator_serves_every_call() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { coordinators: 3, ..MeshSpec::default() }).await?;
    let ids: Vec<u64> = rig.mesh.addresses().iter().map(|a| a.id).collect();
    let leader = rig.api.mesh().await?.leader_id;
    let mut seen = 0;
    for id in ids {
        let mut api = rig.mesh.api_of(id)?;
        let flow = unique("any");
        api.create_flow(&flow, identity(&[&unique("none")])).await?;
        // Linearizable: what one acknowledged, another shows at once.
        rig.api.flow(&flow).await?;
        let mut watch = api.watch_flow(&flow).await?;
        let first = watch.message().await?;
        ensure!(first.is_some_and(|m| m.flow.is_some_and(|f| f.name == format!("flows/{flow}"))));
        api.pause_flow(&flow).await?;
        seen += u32::from(id != leader);
    }
    ensure!(seen == 2, "two followers were asked");
    Ok(())
}
