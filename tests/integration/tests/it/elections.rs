//! Clusters of several brokers: elections that lose records on either side, and replicas that fall behind.
//!
//! Node ids are those of the brokers plus one.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_proto::v1::flow_partition::State;
use mirrormesh_proto::v1::{FlowEvent, FlowPartition};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::{Topic, create_topic, create_topics};
use mirrormesh_testkit::workload::Codec;
use tokio::time::{Duration, Instant, sleep};

use crate::faults::{ENDLESS, RATE, under_load};
use crate::flow_control::partition;
use crate::loss::{continues, numbered};
use crate::rig::{PATIENCE, Rig, event_of, identity, plan, produce, unique};

fn three(name: &str) -> ClusterSpec {
    ClusterSpec::new(name).brokers(3).heap_mb(300)
}

/// Partition 0 on nodes 1 and 2, where one that missed records may lead if nobody else is left.
fn unclean(name: &str) -> Topic {
    Topic::on(name, &[&[1, 2]]).setting("unclean.leader.election.enable", "true")
}

/// Waits until partition 0 is led by a node, with exactly these in sync.
async fn led(bootstrap: &str, topic: &str, leader: i32, in_sync: &[i32]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = probe::leadership(bootstrap, topic, 0).await;
        if seen.as_ref().is_ok_and(|(node, nodes)| *node == leader && nodes == in_sync) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{topic}: {leader} of {in_sync:?} was to lead, but {seen:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Only node 1 is in sync: what is appended from now on, it alone has.
async fn alone(cluster: &Cluster, topics: &[&str]) -> Result<()> {
    cluster.stop(1).await?;
    for topic in topics {
        led(&cluster.bootstrap(), topic, 1, &[1]).await?;
    }
    Ok(())
}

/// Node 1 is gone with what it alone had, and node 2 leads.
async fn elected(cluster: &Cluster, topics: &[&str]) -> Result<()> {
    for topic in topics {
        led(&cluster.bootstrap(), topic, 2, &[2]).await?;
        let end = probe::end_offsets(&cluster.bootstrap(), topic).await?;
        ensure!(end == [100], "{topic} was to end where node 2 was stopped, not at {end:?}");
    }
    Ok(())
}

async fn pause(rig: &mut Rig, topic: &str) -> Result<()> {
    let id = rig.flow.clone();
    rig.api.pause_flow_topic(&id, topic, &[0]).await?;
    partition(rig, topic, 0, "paused", |p| p.state() == State::Paused).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_loses_in_an_unclean_election_is_mirrored_again() -> Result<()> {
    let target = Cluster::start(three("target")).await?;
    let mut rig = Rig::between(&shared_pair().await?.source, &target, MeshSpec::default()).await?;
    // One keeps its owner over the loss; of the other, only its positions tell how far it was.
    let (live, paused) = (unique("live"), unique("paused"));
    let topics = [live.as_str(), paused.as_str()];
    for topic in topics {
        create_topic(&rig.source, topic, 1).await?;
        create_topics(&rig.target, &[unclean(topic)]).await?;
        probe::send(&rig.source, &[], topic, numbered(0, 100)).await?;
    }
    rig.mirror(&topics).await?;
    rig.caught_up(2).await?;
    alone(&target, &topics).await?;
    for topic in topics {
        probe::send(&rig.source, &[], topic, numbered(100, 300)).await?;
    }
    rig.arrived(&topics, 600).await?;
    rig.caught_up(2).await?;
    pause(&mut rig, &paused).await?;

    target.kill(0)?;
    target.start_broker(1)?;
    elected(&target, &topics).await?;
    for topic in topics {
        probe::send(&rig.source, &[], topic, numbered(300, 400)).await?;
    }
    let id = rig.flow.clone();
    rig.api.resume_flow_topic(&id, &paused, &[0]).await?;
    rig.arrived(&topics, 800).await?;
    rig.caught_up(2).await?;
    for topic in topics {
        let told = event_of(&mut rig, "TARGET_TRUNCATED", topic).await?;
        ensure!(told.count == Some(200), "offsets 100 to 300 were lost: {told:?}");
    }
    rig.equal(&topics, 800).await
}

/// Records of one topic as they were sent.
struct Sent {
    topic: String,
    /// More than the source lost: without leader epochs, nothing would tell.
    longer: bool,
    continues: bool,
    first: Vec<Plain>,
    then: Vec<Plain>,
}

/// Four topics, two with each policy, mirrored up to offset 300 from node 1, which is gone then; node 2 has 100.
async fn parted(rig: &mut Rig, source: &Cluster) -> Result<(Vec<Sent>, [String; 2])> {
    let mut all = Vec::new();
    for continues in [false, true] {
        for longer in [false, true] {
            let topic = unique(if longer { "longer" } else { "shorter" });
            create_topics(&rig.source, &[unclean(&topic)]).await?;
            let (first, then) = (numbered(0, 300), numbered(500, if longer { 900 } else { 560 }));
            probe::send(&rig.source, &[], &topic, first[..100].to_vec()).await?;
            all.push(Sent { topic, longer, continues, first, then });
        }
    }
    let flows = [unique("stops"), unique("continues")];
    let named = |continues| all.iter().filter(move |s| s.continues == continues).map(|s| s.topic.as_str());
    rig.api.create_flow(&flows[0], identity(&named(false).collect::<Vec<_>>())).await?;
    rig.api.create_flow(&flows[1], continues(&named(true).collect::<Vec<_>>())).await?;
    let topics: Vec<&str> = all.iter().map(|s| s.topic.as_str()).collect();
    alone(source, &topics).await?;
    for sent in &all {
        probe::send(&rig.source, &[], &sent.topic, sent.first[100..].to_vec()).await?;
    }
    rig.arrived(&topics, 1_200).await?;
    for flow in &flows {
        rig.flow.clone_from(flow);
        rig.caught_up(2).await?;
        for sent in all.iter().filter(|s| s.longer && s.continues == (*flow == flows[1])) {
            pause(rig, &sent.topic).await?;
        }
    }
    source.kill(0)?;
    source.start_broker(1)?;
    elected(source, &topics).await?;
    Ok((all, flows))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_loses_in_an_unclean_election_is_named_and_never_skipped_over() -> Result<()> {
    let source = Cluster::start(three("source")).await?;
    let spec = MeshSpec { sources: 2, ..MeshSpec::default() };
    let mut rig = Rig::between(&source, &shared_pair().await?.target, spec).await?;
    let (all, flows) = parted(&mut rig, &source).await?;
    for sent in &all {
        probe::send(&rig.source, &[], &sent.topic, sent.then.clone()).await?;
        if sent.longer {
            rig.api.resume_flow_topic(&flows[usize::from(sent.continues)], &sent.topic, &[0]).await?;
        }
    }
    let mut wanted = BTreeMap::new();
    for sent in &all {
        rig.flow.clone_from(&flows[usize::from(sent.continues)]);
        let told = event_of(&mut rig, "SOURCE_DIVERGED", &sent.topic).await?;
        ensure!((told.from_offset, told.to_offset) == (Some(100), Some(300)), "{told:?}");
        ensure!(told.count == Some(200), "{told:?}");
        let mut records = sent.first.clone();
        if sent.continues {
            records.extend(sent.then.clone());
        } else {
            let stopped = |p: &FlowPartition| p.state() == State::Stopped;
            let shown = partition(&mut rig, &sent.topic, 0, "stopped", stopped).await?;
            ensure!(shown.reason.starts_with("SOURCE_DIVERGED"), "{shown:?}");
        }
        rig.arrived(&[&sent.topic], records.len() as u64).await?;
        wanted.insert(sent.topic.clone(), records);
    }
    // The place behind the loss is the same for other owners.
    rig.mesh.signal_worker("source-1", Signal::Kill)?;
    for sent in all.iter().filter(|s| s.continues) {
        let more = numbered(900, 950);
        probe::send(&rig.source, &[], &sent.topic, more.clone()).await?;
        let records = wanted.get_mut(&sent.topic).context("sent")?;
        records.extend(more);
        rig.arrived(&[&sent.topic], records.len() as u64).await?;
    }
    for (topic, records) in &wanted {
        let found = probe::read(&rig.target, topic).await?;
        ensure!(found == *records, "{topic}: {} records, {} wanted", found.len(), records.len());
    }
    Ok(())
}

/// The source has what it lost before, and lost what it got since: node 1 is back, and never saw what node 2 took.
async fn back(source: &Cluster, topics: &[&str]) -> Result<()> {
    source.kill(1)?;
    source.start_broker(0)?;
    for topic in topics {
        led(&source.bootstrap(), topic, 1, &[1]).await?;
        let end = probe::end_offsets(&source.bootstrap(), topic).await?;
        ensure!(end == [300], "{topic} was to end where node 1 was killed, not at {end:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_gets_back_in_a_second_unclean_election_is_mirrored_too() -> Result<()> {
    let source = Cluster::start(three("source")).await?;
    let mut rig = Rig::between(&source, &shared_pair().await?.target, MeshSpec::default()).await?;
    // Node 2 gets more than node 1 had, or less.
    let (longer, shorter) = (unique("longer"), unique("shorter"));
    let topics = [longer.as_str(), shorter.as_str()];
    let (first, second, more) = (numbered(0, 300), numbered(500, 900), numbered(900, 950));
    let then = |topic: &str| second[..if topic == longer { 400 } else { 60 }].to_vec();
    for topic in topics {
        create_topics(&rig.source, &[unclean(topic)]).await?;
        probe::send(&rig.source, &[], topic, first[..100].to_vec()).await?;
    }
    let flow = rig.flow.clone();
    rig.api.create_flow(&flow, continues(&topics)).await?;
    alone(&source, &topics).await?;
    for topic in topics {
        probe::send(&rig.source, &[], topic, first[100..200].to_vec()).await?;
    }
    rig.arrived(&topics, 400).await?;
    rig.caught_up(2).await?;
    for topic in topics {
        // Of what node 1 alone has, the last hundred are mirrored by nobody yet.
        pause(&mut rig, topic).await?;
        probe::send(&rig.source, &[], topic, first[200..].to_vec()).await?;
    }
    source.kill(0)?;
    source.start_broker(1)?;
    elected(&source, &topics).await?;
    for topic in topics {
        probe::send(&rig.source, &[], topic, then(topic)).await?;
        rig.api.resume_flow_topic(&flow, topic, &[0]).await?;
        let told = event_of(&mut rig, "SOURCE_DIVERGED", topic).await?;
        ensure!((told.from_offset, told.to_offset) == (Some(100), Some(200)), "{told:?}");
    }
    rig.arrived(&topics, 400 + 460).await?;
    rig.caught_up(2).await?;

    back(&source, &topics).await?;
    rig.arrived(&topics, 400 + 460 + 400).await?;
    for topic in topics {
        // It stands there twice, and somebody says so.
        event_of(&mut rig, "RECORDS_DOUBLED", topic).await?;
        probe::send(&rig.source, &[], topic, more.clone()).await?;
    }
    rig.arrived(&topics, 400 + 460 + 400 + 100).await?;
    for topic in topics {
        let wanted = [&first[..200], &then(topic), &first[100..], &more].concat();
        let found = probe::read(&rig.target, topic).await?;
        ensure!(found == wanted, "{topic}: {} records, {} wanted", found.len(), wanted.len());
    }
    Ok(())
}

/// Ends of the partitions on both sides; the source's first, so that it is behind if anything.
async fn ends(rig: &Rig, topic: &str) -> Result<(Vec<i64>, Vec<i64>)> {
    let source = probe::end_offsets(&rig.source, topic).await?;
    Ok((source, probe::end_offsets(&rig.target, topic).await?))
}

/// Partitions 1 and 2 get everything that the source has by now, and partition 0 does not.
async fn others_go_on(rig: &Rig, topic: &str) -> Result<()> {
    let (wanted, _) = ends(rig, topic).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (source, target) = ends(rig, topic).await?;
        if (1..3).all(|p| target[p] >= wanted[p]) {
            ensure!(target[0] < source[0], "partition 0 was not held: {source:?} {target:?}");
            return Ok(());
        }
        let late = Instant::now() >= deadline;
        ensure!(!late, "held up too: {wanted:?}, {target:?}\n{}", rig.mesh.log_tails());
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a worker, another one than `not` if that is given, says that the end of partition 0 is not settled. If
/// nothing came between the replica's last fetch and its leaving the set, as on a machine that is slow just then, all of
/// the log is settled and nothing more is taken.
async fn unsettled(rig: &mut Rig, topic: &str, not: &str) -> Result<String> {
    let waits =
        |reason: &str| reason.starts_with("TARGET_NOT_SETTLED") || reason.starts_with("NOT_ENOUGH_REPLICAS");
    let wished = |p: &FlowPartition| waits(&p.reason) && !p.worker.is_empty() && p.worker != not;
    Ok(partition(rig, topic, 0, "waiting for replicas", wished).await?.worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stands_still_holds_its_partition_only_and_loses_and_doubles_nothing() -> Result<()> {
    let target = Cluster::start(three("target")).await?;
    let spec = MeshSpec { sources: 2, ..MeshSpec::default() };
    let mut rig = Rig::between(&shared_pair().await?.source, &target, spec).await?;
    let topic = unique("held");
    create_topic(&rig.source, &topic, 3).await?;
    // Partition 1 has the same leader as partition 0, and shares its connection.
    let layout = Topic::on(&topic, &[&[1, 2], &[1, 3], &[3, 1]]).setting("min.insync.replicas", "2");
    create_topics(&rig.target, &[layout]).await?;
    let running = produce(&rig.source, vec![plan(&topic, 3, ENDLESS, Codec::Lz4)], Some(RATE)).await?;
    rig.mirror(&[&topic]).await?;
    under_load(&rig, &topic, 8_000, &running).await?;

    target.pause(1)?;
    others_go_on(&rig, &topic).await?;
    let owner = unsettled(&mut rig, &topic, "").await?;
    others_go_on(&rig, &topic).await?;
    // Another owner finds what was appended and never acknowledged.
    let name = owner.strip_prefix("workers/").context("a worker's name")?;
    rig.mesh.signal_worker(name, Signal::Kill)?;
    unsettled(&mut rig, &topic, &owner).await?;
    others_go_on(&rig, &topic).await?;
    rig.mesh.start_worker(name)?;
    target.resume(1)?;
    let (source, _) = ends(&rig, &topic).await?;
    let so_far = u64::try_from(source.iter().sum::<i64>())?;
    under_load(&rig, &topic, so_far + 4_000, &running).await?;

    running.stop();
    let produced = running.finish().await?.records();
    rig.arrived(&[&topic], produced).await?;
    rig.caught_up(3).await?;
    rig.equal(&[&topic], produced).await
}

/// Waits until all partitions have both replicas in sync, on a cluster that is whole.
async fn in_sync(cluster: &Cluster, topic: &str) -> Result<()> {
    cluster.wait_ready(PATIENCE).await?;
    let deadline = Instant::now() + PATIENCE;
    for number in 0..3 {
        loop {
            let seen = probe::leadership(&cluster.bootstrap(), topic, number).await;
            if seen.as_ref().is_ok_and(|(leader, nodes)| *leader > 0 && nodes.len() == 2) {
                break;
            }
            ensure!(Instant::now() < deadline, "{topic}/{number} is not in sync: {seen:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_move_on_both_sides_lose_and_double_nothing() -> Result<()> {
    let (source, target) =
        tokio::try_join!(Cluster::start(three("source")), Cluster::start(three("target")))?;
    let mut rig = Rig::between(&source, &target, MeshSpec::default()).await?;
    let topic = unique("moving");
    for bootstrap in [&rig.source, &rig.target] {
        create_topics(bootstrap, &[Topic::on(&topic, &[&[1, 2], &[2, 3], &[3, 1]])]).await?;
    }
    let running = produce(&rig.source, vec![plan(&topic, 3, ENDLESS, Codec::Lz4)], Some(RATE)).await?;
    rig.mirror(&[&topic]).await?;
    under_load(&rig, &topic, 4_000, &running).await?;
    let before = rig.generation(&topic, 0).await?;
    // Each round leaves every partition one replica at least that has everything.
    for (round, killed) in [false, true].into_iter().enumerate() {
        let (on_target, on_source) = if killed { (1, 0) } else { (0, 1) };
        let mut enough = 12_000 + 20_000 * round as u64;
        let mut ended = Vec::new();
        for (cluster, partition) in [(&target, on_target), (&source, on_source)] {
            // Usually the first replica leads; on a slow machine, brokers may have missed each other before.
            in_sync(cluster, &topic).await?;
            let (leader, _) = probe::leadership(&cluster.bootstrap(), &topic, partition).await?;
            let broker = usize::try_from(leader - 1)?;
            if killed {
                cluster.kill(broker)?;
            } else {
                cluster.stop(broker).await?;
            }
            under_load(&rig, &topic, enough, &running).await?;
            enough += 8_000;
            ended.push((cluster, broker));
        }
        for (cluster, broker) in ended {
            cluster.start_broker(broker)?;
            in_sync(cluster, &topic).await?;
        }
    }
    running.stop();
    let produced = running.finish().await?.records();
    rig.arrived(&[&topic], produced).await?;
    rig.caught_up(3).await?;
    rig.equal(&[&topic], produced).await?;
    // Where a connection to the target broke shortly before, a source with a new leader is read on under the next epoch.
    let after = rig.generation(&topic, 0).await?;
    ensure!(after.producer_id == before.producer_id && after.epoch >= before.epoch, "{before:?} {after:?}");
    let id = rig.flow.clone();
    let events = rig.api.flow_events(&id).await?.events;
    let lost = |e: &&FlowEvent| e.reason.ends_with("TRUNCATED") || e.reason.ends_with("DIVERGED");
    ensure!(events.iter().find(lost).is_none(), "nothing was lost: {events:#?}");
    Ok(())
}
