//! What is lost is named, with exact offsets; what happens next is the flow's policy.

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Isolation, Plain, Record};
use mirrormesh_proto::v1;
use mirrormesh_testkit::topics::create_topic;
use mirrormesh_testkit::workload::Codec;

use crate::faults::{ENDLESS, RATE, under_load};
use crate::rig::{
    PATIENCE, Rig, event, exactly, identity, now_ms, plan, produce, random_bytes, unique, with_headers,
};

/// Records that tell their number, made in the last seconds, each at a time of its own.
pub(crate) fn numbered(from: usize, to: usize) -> Vec<Plain> {
    let first_ms = now_ms() - 10_000;
    let record = |n: usize| Plain {
        key: Some(format!("k{n}").into_bytes()),
        value: Some(format!("record {n}").into_bytes()),
        timestamp_ms: first_ms + i64::try_from(n).unwrap_or(0),
    };
    (from..to).map(record).collect()
}

/// A flow with unchanged names that goes on behind losses.
pub(crate) fn continues(include: &[&str]) -> v1::Flow {
    let records = v1::RecordOptions {
        on_loss: v1::record_options::LossPolicy::Continue.into(),
        heartbeat_topics: Some(false),
        ..v1::RecordOptions::default()
    };
    v1::Flow { records: Some(records), ..identity(include) }
}

/// A topic with 50 records, mirrored by a flow of its own, and the records.
async fn mirrored(rig: &mut Rig, word: &str, policy_continues: bool) -> Result<(String, Vec<Record>)> {
    let (topic, records) = (unique(word), with_headers(numbered(0, 50)));
    create_topic(&rig.source, &topic, 1).await?;
    probe::send_records(&rig.source, &[], (&topic, 0), records.clone()).await?;
    let id = unique("flow");
    let flow = if policy_continues { continues(&[&topic]) } else { identity(&[&topic]) };
    rig.api.create_flow(&id, flow).await?;
    rig.flow = id;
    rig.caught_up(1).await?;
    Ok((topic, records))
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_outran_the_flow_is_a_named_gap_and_the_rest_follows() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let (topic, all) = (unique("gap"), with_headers(numbered(0, 260)));
    create_topic(&rig.source, &topic, 1).await?;
    probe::send_records(&rig.source, &[], (&topic, 0), all[..100].to_vec()).await?;
    let id = rig.flow.clone();
    rig.api.create_flow(&id, continues(&[&topic])).await?;
    rig.caught_up(1).await?;
    rig.pause().await?;
    probe::send_records(&rig.source, &[], (&topic, 0), all[100..200].to_vec()).await?;
    probe::delete_records(&rig.source, &topic, 0, 150).await?;
    rig.api.resume_flow(&id).await?;
    let gap = event(&mut rig, "RETENTION_OVERRUN").await?;
    ensure!((gap.from_offset, gap.to_offset, gap.count) == (Some(100), Some(150), Some(50)), "{gap:?}");
    rig.arrived(&[&topic], 150).await?;

    // The place behind the gap is the same for another owner: kill the one that has it.
    let owner = rig.owner(&topic, 0).await?;
    rig.mesh.signal_worker(&owner, mirrormesh_testkit::process::Signal::Kill)?;
    probe::send_records(&rig.source, &[], (&topic, 0), all[200..].to_vec()).await?;
    rig.arrived(&[&topic], 210).await?;
    rig.holds_exactly(&topic, &[&all[..100], &all[150..]].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_topic_made_again_stops_or_is_mirrored_anew() -> Result<()> {
    source_again(&mut Rig::shared(MeshSpec::default()).await?).await
}

/// A source topic is deleted and made again, under both policies.
pub(crate) async fn source_again(rig: &mut Rig) -> Result<()> {
    for policy_continues in [false, true] {
        let (topic, mut wanted) = mirrored(rig, "source-again", policy_continues).await?;
        probe::delete_topic(&rig.source, &topic).await?;
        create_topic(&rig.source, &topic, 1).await?;
        let again = with_headers(numbered(500, 620));
        probe::send_records(&rig.source, &[], (&topic, 0), again.clone()).await?;
        event(rig, "SOURCE_RECREATED").await?;
        if policy_continues {
            rig.arrived(&[&topic], 170).await?;
            wanted.extend(again);
        }
        rig.holds_exactly(&topic, &wanted).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_topic_made_again_stops_or_is_filled_anew() -> Result<()> {
    target_again(&mut Rig::shared(MeshSpec::default()).await?, false).await
}

/// A target topic is deleted and made again, under both policies. Where brokers take appends by name only (before Kafka
/// 4.1), what is sent before the mesh has seen it lands in the new topic: that and nothing else may stand first there.
pub(crate) async fn target_again(rig: &mut Rig, by_name: bool) -> Result<()> {
    for policy_continues in [false, true] {
        let (topic, mut whole) = mirrored(rig, "target-again", policy_continues).await?;
        probe::delete_topic(&rig.target, &topic).await?;
        // The mesh itself may be quicker: it makes topics that are missing.
        if let Err(error) = create_topic(&rig.target, &topic, 1).await {
            ensure!(format!("{error:#}").contains("TopicAlreadyExists"), "{error:#}");
        }
        let sent = with_headers(numbered(50, 80));
        probe::send_records(&rig.source, &[], (&topic, 0), sent.clone()).await?;
        event(rig, "TARGET_RECREATED").await?;
        if policy_continues {
            whole.extend(sent.clone());
            ending_with(rig, &topic, &sent[29], whole.len()).await?;
        } else {
            whole.clear();
            rig.pause().await?;
        }
        let found = probe::read_whole(&rig.target, &topic).await?;
        let stray = found.len().checked_sub(whole.len()).context("records are missing")?;
        ensure!(stray == 0 || by_name, "{stray} landed in another topic");
        ensure!(sent.starts_with(&found[..stray]), "what was not sent lately stands first");
        exactly(&found[stray..], &whole)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_otherwise_begins_a_generation_and_loses_nothing() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("otherwise");
    let transactional = || plan(&topic, 1, 2_000, Codec::Lz4).transactions(50, 0.3);
    let first = produce(&rig.source, vec![transactional()], None).await?.finish().await?;
    rig.mirror(&[&topic]).await?;
    rig.caught_up(1).await?;
    let boundary = probe::end_offsets(&rig.source, &topic).await?[0];
    let before = rig.generation(&topic, 0).await?;
    let options = v1::RecordOptions {
        isolation: v1::record_options::Isolation::ReadUncommitted.into(),
        heartbeat_topics: Some(false),
        ..v1::RecordOptions::default()
    };
    rig.set_records(options).await?;
    // What comes before the new generation is still read the old way, aborted records left out.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.generation(&topic, 0).await?.epoch <= before.epoch {
        ensure!(tokio::time::Instant::now() < deadline, "no new generation after {before:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let second = produce(&rig.source, vec![transactional()], None).await?.finish().await?;
    ensure!(first.aborted > 0 && second.aborted > 0);
    let wanted = first.records() + second.records() + second.aborted;
    rig.arrived(&[&topic], wanted).await?;
    rig.caught_up(1).await?;
    ensure!(probe::count(&rig.target, &[&topic]).await? == wanted);
    // Committed records up to the new generation, and from there on all.
    let mut wanted = probe::records(&rig.source, &topic, 0, Isolation::Committed).await?;
    wanted.retain(|(offset, _)| *offset < boundary);
    let all = probe::records(&rig.source, &topic, 0, Isolation::Uncommitted).await?;
    wanted.extend(all.into_iter().filter(|(offset, _)| *offset >= boundary));
    let found = probe::records(&rig.target, &topic, 0, Isolation::Uncommitted).await?;
    let differs = found.iter().zip(&wanted).find(|((_, found), (_, wanted))| found != wanted);
    ensure!(found.len() == wanted.len() && differs.is_none(), "{} records, {differs:?}", found.len());
    let after = rig.generation(&topic, 0).await?;
    ensure!(after.epoch > before.epoch && after.producer_id == before.producer_id, "{before:?} {after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_is_shown_as_what_holds_the_flow() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (topic, all) = (unique("hanging"), with_headers(numbered(0, 40)));
    create_topic(&rig.source, &topic, 1).await?;
    probe::send_records(&rig.source, &[], (&topic, 0), all[..20].to_vec()).await?;
    let open = probe::open_transaction(&rig.source, &topic, 30).await?;
    probe::send_records(&rig.source, &[], (&topic, 0), all[20..].to_vec()).await?;
    rig.mirror(&[&topic]).await?;
    rig.arrived(&[&topic], 20).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let partition = rig.partition(&topic, 0).await?;
        if partition.reason.starts_with("HELD_BY_OPEN_TRANSACTION") {
            ensure!(partition.held_records == Some(50), "{partition:?}");
            break;
        }
        ensure!(tokio::time::Instant::now() < deadline, "{partition:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ensure!(probe::count(&rig.target, &[&topic]).await? == 20, "nothing behind it is mirrored");
    open.abort().await?;
    rig.arrived(&[&topic], 40).await?;
    rig.holds_exactly(&topic, &all).await
}

/// Records of which a throttled flow copies only some before anything else happens.
fn many() -> Vec<Record> {
    let first_ms = now_ms() - 30_000;
    let record = |n: usize| Plain {
        key: Some(format!("k{n}").into_bytes()),
        value: Some([format!("old {n} ").as_bytes(), &random_bytes(300)].concat()),
        timestamp_ms: first_ms + i64::try_from(n).unwrap_or(0),
    };
    with_headers((0..20_000).map(record).collect())
}

/// Waits until partition 0 of the target has so many records at least and ends with this one; all that is there.
async fn ending_with(rig: &Rig, topic: &str, last: &Record, at_least: usize) -> Result<Vec<Record>> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = probe::read_whole(&rig.target, topic).await?;
        if found.len() >= at_least && found.last() == Some(last) {
            return Ok(found);
        }
        let late = tokio::time::Instant::now() >= deadline;
        ensure!(!late, "{} records, {:?} is last\n{}", found.len(), found.last(), rig.mesh.log_tails());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_topic_made_again_while_it_is_copied_is_never_mixed_with_the_old_one() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    for policy_continues in [false, true] {
        let (topic, old, new) = (unique("source-mid"), many(), with_headers(numbered(0, 300)));
        create_topic(&rig.source, &topic, 1).await?;
        probe::send_records(&rig.source, &[("batch.size", "16384")], (&topic, 0), old.clone()).await?;
        let flow = if policy_continues { continues(&[&topic]) } else { identity(&[&topic]) };
        let mut slowly = flow.records.clone().unwrap_or_default();
        let options = slowly.clone();
        slowly.throttle = Some(v1::Throttle { bytes_per_second: Some(100_000), records_per_second: None });
        rig.flow = unique("flow");
        let id = rig.flow.clone();
        rig.api.create_flow(&id, v1::Flow { records: Some(slowly), ..flow }).await?;
        rig.arrived(&[&topic], 1).await?;

        probe::delete_topic(&rig.source, &topic).await?;
        create_topic(&rig.source, &topic, 1).await?;
        probe::send_records(&rig.source, &[], (&topic, 0), new.clone()).await?;
        let told = event(&mut rig, "SOURCE_RECREATED").await?;
        ensure!(told.subject.starts_with(&topic), "{told:?}");
        rig.set_records(options).await?;
        let found = if policy_continues {
            ending_with(&rig, &topic, &new[299], new.len()).await?
        } else {
            rig.pause().await?;
            probe::read_whole(&rig.target, &topic).await?
        };
        let from_new = if policy_continues { new.len() } else { 0 };
        let copied = found.len().checked_sub(from_new).context("records are missing")?;
        ensure!(copied > 0 && copied < old.len(), "{copied} were copied before: it struck nothing");
        ensure!(found[..copied] == old[..copied], "the first {copied} are not the old topic's first");
        ensure!(found[copied..] == new[..from_new], "behind {copied} is not the new topic");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_topic_made_again_under_load_stops_or_is_filled_anew() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    for policy_continues in [false, true] {
        let topic = unique("target-mid");
        let running = produce(&rig.source, vec![plan(&topic, 2, ENDLESS, Codec::Lz4)], Some(RATE)).await?;
        let flow = if policy_continues { continues(&[&topic]) } else { identity(&[&topic]) };
        rig.flow = unique("flow");
        let id = rig.flow.clone();
        rig.api.create_flow(&id, flow).await?;
        under_load(&rig, &topic, 4_000, &running).await?;
        probe::delete_topic(&rig.target, &topic).await?;
        // The mesh itself may be quicker: it makes topics that are missing.
        if let Err(error) = create_topic(&rig.target, &topic, 2).await {
            ensure!(format!("{error:#}").contains("TopicAlreadyExists"), "{error:#}");
        }
        let told = event(&mut rig, "TARGET_RECREATED").await?;
        ensure!(told.subject.starts_with(&topic), "{told:?}");
        if policy_continues {
            under_load(&rig, &topic, 10_000, &running).await?;
        } else {
            // It stays so while much more is to be mirrored.
            let more = running.progress().acknowledged() + 3 * RATE;
            while running.progress().acknowledged() < more {
                ensure!(!running.is_done(), "the workload ended");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            for number in 0..2 {
                let shown = rig.partition(&topic, number).await?;
                ensure!(shown.reason.starts_with("TARGET_RECREATED"), "{shown:?}");
            }
        }
        running.stop();
        let produced = running.finish().await?.records();
        if !policy_continues {
            rig.pause().await?;
            let ends = probe::end_offsets(&rig.target, &topic).await?;
            ensure!(ends == [0, 0], "nothing lands in another topic: {ends:?}");
            // It stopped for good reason, and nothing is lost by that: told to go on, it fills the new topic.
            rig.api.resume_flow(&id).await?;
            rig.set_records(continues(&[&topic]).records.unwrap_or_default()).await?;
        }
        rig.arrived(&[&topic], produced).await?;
        rig.caught_up(2).await?;
        rig.equal(&[&topic], produced).await?;
    }
    Ok(())
}
