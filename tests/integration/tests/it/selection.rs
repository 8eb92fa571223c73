//! Which topics a flow selects, and what it says about those that it leaves out.

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe;
use mirrormesh_proto::v1;
use mirrormesh_testkit::topics::create_topic;
use mirrormesh_testkit::workload::Codec;
use tonic_types::StatusExt as _;

use crate::rig::{PATIENCE, Rig, identity, plan, produce, unique};

/// The text of the only condition.
fn message(flow: &v1::Flow) -> &str {
    flow.conditions.first().map_or("", |condition| condition.message.as_str())
}

/// Has a flow this condition, and no other?
fn having(reason: &'static str) -> impl Fn(&v1::Flow) -> bool {
    move |flow| {
        flow.conditions.len() == 1 && flow.conditions.iter().all(|condition| condition.reason == reason)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_only_end_in_heartbeats_are_ordinary() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let word = unique("device");
    let topics =
        [format!("{word}-heartbeats"), format!("heartbeats-{word}"), format!("hq.{word}-heartbeats")];
    let plans = topics.iter().map(|topic| plan(topic, 1, 50, Codec::None)).collect();
    let produced = produce(&rig.source, plans, None).await?.finish().await?.records();
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let include: Vec<String> = vec![format!(".*{word}.*")];
    rig.mirror(&include.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    rig.caught_up(3).await?;
    rig.equal(&names, produced).await?;
    ensure!(probe::end_offsets(&rig.target, &format!("uk.{word}-heartbeats")).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_is_a_condition_until_a_topic_matches() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let word = unique("ordeal");
    for place in ["eu", "us"] {
        create_topic(&rig.source, &format!("{word}.{place}"), 1).await?;
    }
    let typo = word.replacen("ordeal", "ordael", 1);
    rig.mirror(&[&format!("{typo}.*")]).await?;
    let id = rig.flow.clone();
    let flow = rig.api.wait_for_flow(&id, "a condition", PATIENCE, having("NO_TOPIC_SELECTED")).await?;
    let said = message(&flow);
    ensure!(said.contains(&format!("{word}.eu")) && said.contains(&format!("{word}.us")), "{said}");

    create_topic(&rig.source, &format!("{typo}.late"), 1).await?;
    rig.caught_up(1).await?;
    rig.api.wait_for_flow(&id, "no condition", PATIENCE, |flow| flow.conditions.is_empty()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_topic_that_is_left_out_is_a_condition() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (good, internal) = (unique("good"), format!("{}-internal", unique("named")));
    for topic in [&good, &internal] {
        create_topic(&rig.source, topic, 1).await?;
    }
    rig.mirror(&[&good, &internal]).await?;
    let id = rig.flow.clone();
    let flow = rig.api.wait_for_flow(&id, "a condition", PATIENCE, having("TOPIC_LEFT_OUT")).await?;
    let said = message(&flow);
    ensure!(said.starts_with(&internal) && said.contains("internal topics are never mirrored"), "{said}");

    let name = format!("flows/{id}");
    let topics = Some(v1::TopicSelection { include: vec![good.clone()], exclude: Vec::new() });
    // No mask: the selection changes, and nothing else does.
    let updated = rig.api.update_flow(v1::Flow { name, topics, ..v1::Flow::default() }, &[]).await?;
    ensure!(
        updated.naming == identity(&[]).naming
            && updated.records.is_some_and(|r| r.heartbeat_topics == Some(false))
    );
    rig.api.wait_for_flow(&id, "no condition", PATIENCE, |flow| flow.conditions.is_empty()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_shows_what_the_flow_then_does() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let word = unique("seen");
    let (plain, old, alone) = (word.clone(), format!("{word}.old"), unique("unseen"));
    for topic in [&plain, &old, &alone] {
        create_topic(&rig.source, topic, 2).await?;
    }
    let mut flow = identity(&[&format!("{word}.*")]);
    if let Some(topics) = flow.topics.as_mut() {
        topics.exclude = vec![".*old".to_owned()];
    }
    // The worker's stream of questions is opened beside the others.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let previewed = loop {
        match rig.api.preview(flow.clone()).await {
            Ok(previewed) => break previewed.topics,
            Err(status) => {
                ensure!(tokio::time::Instant::now() < deadline, "{status:?}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    };
    let of = |name: &str| previewed.iter().find(|topic| topic.topic == name).context("every topic is listed");
    let shown = of(&plain)?;
    ensure!(
        (shown.target_topic.as_str(), shown.reason.as_str(), shown.partitions) == (&*plain, "", 2),
        "{shown:?}"
    );
    ensure!(of(&old)?.reason == "EXCLUDED" && of(&old)?.message.contains(".*old"), "{:?}", of(&old)?);
    ensure!(of(&alone)?.reason == "NOT_SELECTED", "{:?}", of(&alone)?);

    let id = rig.flow.clone();
    rig.api.create_flow(&id, flow).await?;
    rig.caught_up(2).await?;
    let mirrored: Vec<String> =
        rig.api.flow_topics(&id).await?.topics.into_iter().map(|t| t.target_topic).collect();
    let promised: Vec<String> = previewed
        .iter()
        .filter(|topic| topic.reason.is_empty())
        .map(|topic| topic.target_topic.clone())
        .collect();
    ensure!(mirrored == promised, "{mirrored:?} {promised:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_without_a_worker_says_what_to_start() -> Result<()> {
    let mut rig =
        Rig::shared(MeshSpec { sources: 0, checkpoints: 0, heartbeats: 0, ..MeshSpec::default() }).await?;
    let status = rig.api.preview(identity(&["a"])).await.err().context("nobody can look")?;
    ensure!(status.code() == tonic::Code::Unavailable, "{status:?}");
    ensure!(status.get_details_error_info().is_some_and(|info| info.reason == "NO_WORKER"), "{status:?}");
    ensure!(status.message().contains("start mirrormesh-source"), "{status:?}");
    Ok(())
}
