//! Bad input: a clear answer that names the field, and nothing lost.

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_proto::v1;
use mirrormesh_testkit::process::Launch;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::rig::{PATIENCE, Rig, identity, unique};

fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default();
    violations.into_iter().map(|v| v.field).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_a_request_is_named() -> Result<()> {
    let mut rig =
        Rig::shared(MeshSpec { sources: 0, checkpoints: 0, heartbeats: 0, ..MeshSpec::default() }).await?;
    let mut bad = identity(&["ok", "or(ders"]);
    bad.target = "clusters/uk".to_owned();
    bad.discovery_interval = Some(prost_types::Duration { seconds: 0, nanos: 1 });
    let status = rig.api.create_flow("bad", bad).await.err().context("it was taken")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    let named = fields(&status);
    for field in ["flow.topics.include[1]", "flow.target", "flow.discovery_interval"] {
        ensure!(named.iter().any(|f| f == field), "{field} is not among {named:?}");
    }

    let mut unknown = identity(&["x"]);
    unknown.source = "clusters/nowhere".to_owned();
    let status = rig.api.create_flow("unknown", unknown).await.err().context("it was taken")?;
    ensure!(status.code() == Code::InvalidArgument && fields(&status) == ["flow.source"], "{status:?}");

    rig.api.create_flow("first", identity(&["orders.*"])).await?;
    let status =
        rig.api.create_flow("second", identity(&["orders.*"])).await.err().context("it was taken")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    let reason = status.get_details_error_info().map(|info| info.reason);
    ensure!(reason.as_deref() == Some("TARGET_TOPIC_CONFLICT"), "{reason:?}");
    let shared = |include: &str| v1::Flow { shared_target: true, ..identity(&[include]) };
    rig.api.create_flow("third", shared("payments.*")).await?;
    rig.api.create_flow("fourth", shared("payments.*")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_nobody_answers_for_is_a_condition() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let nobody = mirrormesh_integration::mesh::free_ports(1)?;
    rig.api.create_cluster("nobody", &format!("127.0.0.1:{}", nobody[0])).await?;
    let mut flow = identity(&["x"]);
    flow.source = "clusters/nobody".to_owned();
    let id = unique("nobody");
    rig.api.create_flow(&id, flow).await?;
    let flow = rig
        .api
        .wait_for_flow(&id, "condition", PATIENCE, |flow| {
            flow.conditions.iter().any(|c| c.reason == "CLUSTER_UNREACHABLE")
        })
        .await?;
    let text = format!("{:?}", flow.conditions);
    ensure!(text.contains(&format!("127.0.0.1:{}", nobody[0])), "the address is not named: {text}");
    ensure!(flow.state() == v1::flow::State::Degraded);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_setting_is_refused_with_the_nearest_one() -> Result<()> {
    let folder = std::env::temp_dir().join(unique("mirrormesh-settings"));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("settings.yaml");
    std::fs::write(&file, "data_dri: here\n")?;
    let binary = mirrormesh_integration::mesh::binary("mirrormesh-coordinator")?;
    let process =
        Launch::new(binary, folder.join("log")).arg("--config").arg(file.display().to_string()).spawn()?;
    let status = process.wait(PATIENCE).await?;
    let log = process.log_tail(5);
    ensure!(!status.success() && log.contains("data_dri") && log.contains("data_dir"), "{status}: {log}");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
