//! Which Kafka cluster is meant: one cluster under two addresses, another cluster at a known address, two meshes that name
//! each other alike.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe;
use mirrormesh_proto::v1;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::topics::create_topic;

use crate::loops::from;
use crate::rig::{PATIENCE, Rig, event, identity, unique};

/// Several scans of every unit: what does not happen in this time does not happen.
const QUIET: Duration = Duration::from_secs(6);

/// A flow of all topics with prefixed names.
fn prefixed(source: &str, target: &str) -> v1::Flow {
    v1::Flow {
        source: format!("clusters/{source}"),
        target: format!("clusters/{target}"),
        topics: Some(v1::TopicSelection { include: vec![".*".to_owned()], exclude: Vec::new() }),
        discovery_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..v1::Flow::default()
    }
}

fn condition<'a>(flow: &'a v1::Flow, reason: &str) -> Option<&'a v1::Condition> {
    flow.conditions.iter().find(|condition| condition.reason == reason)
}

/// Waits until the flow has a condition with this reason.
async fn has_condition(rig: &mut Rig, reason: &str, limit: Duration) -> Result<v1::Condition> {
    let id = rig.flow.clone();
    let flow = rig.api.wait_for_flow(&id, reason, limit, |flow| condition(flow, reason).is_some()).await;
    let flow = flow.with_context(|| rig.mesh.log_tails())?;
    condition(&flow, reason).cloned().context("it was there")
}

/// Waits until the flow has no condition with this reason.
async fn lost_condition(rig: &mut Rig, reason: &str) -> Result<()> {
    let id = rig.flow.clone();
    let gone = format!("no {reason}");
    let waited = rig.api.wait_for_flow(&id, &gone, PATIENCE, |flow| condition(flow, reason).is_none()).await;
    waited.map(drop).with_context(|| rig.mesh.log_tails())
}

/// Topics that people see: not those of Kafka and the mesh.
async fn users_topics(bootstrap: &str) -> Result<BTreeSet<String>> {
    let all = probe::topics(bootstrap).await?;
    Ok(all.into_iter().filter(|name| !name.starts_with("__") && !name.ends_with(".internal")).collect())
}

/// Both sides of a flow are one cluster, under two addresses: it says so and nothing is written, whatever the flow is
/// called on the target.
async fn one_cluster_is_left_alone(flow: v1::Flow) -> Result<()> {
    let cluster = Cluster::start(ClusterSpec::new("alone")).await?;
    let bootstrap = cluster.bootstrap();
    create_topic(&bootstrap, "t", 1).await?;
    probe::send_records(&bootstrap, &[], ("t", 0), from("uk", 100)).await?;
    let before = probe::topics(&bootstrap).await?;
    let other = bootstrap.replace("127.0.0.1", "localhost");
    ensure!(other != bootstrap, "{bootstrap} has another address too");

    let mut rig = Rig::at(("uk", other), ("hq", bootstrap.clone()), MeshSpec::default()).await?;
    let id = rig.flow.clone();
    rig.api.create_flow(&id, flow).await?;
    let condition = has_condition(&mut rig, "SOURCE_IS_TARGET", Duration::from_secs(5)).await?;
    ensure!(condition.message.contains(cluster.cluster_id()), "{condition:?}");
    for name in ["uk", "hq"] {
        let shown = rig.api.cluster(name).await?.kafka_cluster_id;
        ensure!(shown == cluster.cluster_id(), "clusters/{name} has {shown:?}");
    }
    tokio::time::sleep(QUIET).await;
    let after = probe::topics(&bootstrap).await?;
    ensure!(after == before, "{after:?} where there was {before:?}");
    let records = probe::count(&bootstrap, &["t"]).await?;
    ensure!(records == 100, "{records} records in the user's own topic");
    has_condition(&mut rig, "SOURCE_IS_TARGET", Duration::from_secs(5)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cluster_with_prefixed_names_is_left_alone() -> Result<()> {
    one_cluster_is_left_alone(prefixed("uk", "hq")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cluster_with_unchanged_names_is_left_alone() -> Result<()> {
    one_cluster_is_left_alone(identity(&["t"])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn meshes_that_name_each_other_alike_make_no_loops() -> Result<()> {
    let (b, c) =
        tokio::try_join!(Cluster::start(ClusterSpec::new("b")), Cluster::start(ClusterSpec::new("c")))?;
    let (b, c) = (b.bootstrap(), c.bootstrap());
    create_topic(&b, "t", 1).await?;
    probe::send_records(&b, &[], ("t", 0), from("b", 100)).await?;
    let mut meshes = Vec::new();
    for (remote, local) in [(&b, &c), (&c, &b)] {
        let mut rig =
            Rig::at(("remote", remote.clone()), ("local", local.clone()), MeshSpec::default()).await?;
        let id = rig.flow.clone();
        rig.api.create_flow(&id, prefixed("remote", "local")).await?;
        meshes.push(rig);
    }
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    let on_b = names(&["t", "heartbeats", "remote.heartbeats"]);
    let on_c = names(&["heartbeats", "remote.heartbeats", "remote.t"]);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (found_b, found_c) = (users_topics(&b).await?, users_topics(&c).await?);
        let arrived = probe::count(&c, &["remote.t"]).await.unwrap_or(0);
        if found_b.is_superset(&on_b) && found_c.is_superset(&on_c) && arrived == 100 {
            break;
        }
        let late = tokio::time::Instant::now() > deadline;
        let logs = || meshes.iter().map(|rig| rig.mesh.log_tails()).collect::<String>();
        ensure!(!late, "{arrived} records, {found_b:?}, {found_c:?}\n{}", logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(QUIET).await;
    ensure!(users_topics(&b).await? == on_b, "B has {:?}", users_topics(&b).await?);
    ensure!(users_topics(&c).await? == on_c, "C has {:?}", users_topics(&c).await?);
    ensure!(probe::count(&c, &["remote.t"]).await? == 100, "each record once");
    // What is left out is named. The second mesh mirrors from C, where `remote.t` came from B.
    let second = meshes.last_mut().context("there are two")?;
    let told = event(second, "LOOP").await?;
    ensure!(told.message.contains("remote.") && told.message.contains("clusters/local"), "{told:?}");
    Ok(())
}

/// The address of the target belongs to another cluster for a while.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_cluster_at_the_targets_address_gets_nothing() -> Result<()> {
    let (target, foreign) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("target").proxied()),
        Cluster::start(ClusterSpec::new("foreign").property("auto.create.topics.enable", "true"))
    )?;
    let source = Cluster::start(ClusterSpec::new("source")).await?;
    let mut rig = Rig::between(&source, &target, MeshSpec::default()).await?;
    let (topic, later, all) = (unique("moved"), unique("moved"), from("uk", 300));
    create_topic(&rig.source, &topic, 1).await?;
    probe::send_records(&rig.source, &[], (&topic, 0), all[..100].to_vec()).await?;
    rig.mirror(&["moved-.*"]).await?;
    rig.caught_up(1).await?;
    ensure!(rig.api.cluster("hq").await?.kafka_cluster_id == target.cluster_id(), "known from first contact");

    create_topic(&foreign.bootstrap(), &topic, 1).await?;
    probe::send_records(&foreign.bootstrap(), &[], (&topic, 0), from("foreign", 5)).await?;
    let before = probe::topics(&foreign.bootstrap()).await?;
    let home = target.proxy(0)?.server();
    target.proxy(0)?.lead_to(foreign.direct_bootstrap());
    probe::send_records(&rig.source, &[], (&topic, 0), all[100..200].to_vec()).await?;
    create_topic(&rig.source, &later, 1).await?;
    probe::send_records(&rig.source, &[], (&later, 0), all[..10].to_vec()).await?;
    let changed = has_condition(&mut rig, "CLUSTER_CHANGED", PATIENCE).await?;
    for part in [target.cluster_id(), foreign.cluster_id(), "clusters/hq", "UpdateCluster"] {
        ensure!(changed.message.contains(part), "{changed:?}");
    }
    tokio::time::sleep(QUIET).await;
    let after = probe::topics(&foreign.bootstrap()).await?;
    ensure!(after == before, "{after:?} where there was {before:?}\n{}", rig.mesh.log_tails());
    ensure!(probe::count(&foreign.bootstrap(), &[&topic]).await? == 5, "no record there");

    // The right one is back: it goes on by itself.
    target.proxy(0)?.lead_to(home);
    lost_condition(&mut rig, "CLUSTER_CHANGED").await?;
    probe::send_records(&rig.source, &[], (&topic, 0), all[200..].to_vec()).await?;
    rig.arrived(&[&topic, &later], 310).await?;
    rig.caught_up(2).await?;
    rig.holds_exactly(&topic, &all).await?;
    ensure!(probe::count(&foreign.bootstrap(), &[&topic]).await? == 5, "still no record there");

    // A person accepts the other one.
    target.proxy(0)?.lead_to(foreign.direct_bootstrap());
    has_condition(&mut rig, "CLUSTER_CHANGED", PATIENCE).await?;
    let accepted = v1::Cluster {
        name: "clusters/hq".to_owned(),
        kafka_cluster_id: foreign.cluster_id().to_owned(),
        ..v1::Cluster::default()
    };
    rig.api.update_cluster(accepted, &["kafka_cluster_id"]).await?;
    ensure!(rig.api.cluster("hq").await?.kafka_cluster_id == foreign.cluster_id(), "accepted");
    lost_condition(&mut rig, "CLUSTER_CHANGED").await
}

/// The address of the source belongs to another cluster for a while.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_cluster_at_the_sources_address_is_not_read() -> Result<()> {
    let (source, foreign) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("source").proxied()),
        Cluster::start(ClusterSpec::new("foreign"))
    )?;
    let target = Cluster::start(ClusterSpec::new("target")).await?;
    let mut rig = Rig::between(&source, &target, MeshSpec::default()).await?;
    let (topic, all) = (unique("read"), from("uk", 200));
    for bootstrap in [&rig.source, &foreign.bootstrap()] {
        create_topic(bootstrap, &topic, 1).await?;
    }
    probe::send_records(&rig.source, &[], (&topic, 0), all[..100].to_vec()).await?;
    probe::send_records(&foreign.bootstrap(), &[], (&topic, 0), from("foreign", 150)).await?;
    create_topic(&foreign.bootstrap(), "read-foreign", 1).await?;
    rig.mirror(&["read-.*"]).await?;
    rig.caught_up(1).await?;

    let home = source.proxy(0)?.server();
    source.proxy(0)?.lead_to(foreign.direct_bootstrap());
    let changed = has_condition(&mut rig, "CLUSTER_CHANGED", PATIENCE).await?;
    ensure!(changed.message.contains("clusters/uk"), "{changed:?}");
    tokio::time::sleep(QUIET).await;
    rig.holds_exactly(&topic, &all[..100]).await?;
    ensure!(!users_topics(&rig.target).await?.contains("read-foreign"), "nothing of it is created");

    source.proxy(0)?.lead_to(home);
    lost_condition(&mut rig, "CLUSTER_CHANGED").await?;
    probe::send_records(&source.direct_bootstrap(), &[], (&topic, 0), all[100..].to_vec()).await?;
    rig.arrived(&[&topic], 200).await?;
    rig.holds_exactly(&topic, &all).await
}
