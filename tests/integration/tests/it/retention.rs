//! Retention on both sides: on the target it takes what would tell how far the flow was, on the source what was to be
//! mirrored.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Isolation, Plain, Record};
use mirrormesh_proto::v1::{self, record_options::LossPolicy};
use mirrormesh_testkit::topics::{Topic, create_topic, create_topics};

use crate::forgetful;
use crate::rig::{PATIENCE, Rig, die_while_writing, event, event_of, identity, now_ms, unique};

/// Records that are told apart, the time apart too.
fn numbered(numbers: std::ops::Range<usize>, first_ms: i64) -> Vec<Plain> {
    let record = |n: usize| Plain {
        key: Some(format!("key {n}").into_bytes()),
        value: Some(format!("record {n} {}", "x".repeat(n % 50)).into_bytes()),
        timestamp_ms: first_ms + i64::try_from(n).unwrap_or(0),
    };
    numbers.map(record).collect()
}

fn whole(records: &[Plain]) -> Vec<Record> {
    records.iter().cloned().map(Record::from).collect()
}

/// What the target holds from an offset on, which is its first one.
async fn held_from(rig: &Rig, topic: &str, offset: i64) -> Result<Vec<Record>> {
    let held = probe::records(&rig.target, topic, 0, Isolation::Uncommitted).await?;
    ensure!(held.first().is_none_or(|(first, _)| *first == offset), "it begins at {:?}", held.first());
    Ok(held.into_iter().map(|(_, record)| record).collect())
}

/// Waits until a partition ends there.
async fn ends_at(rig: &Rig, bootstrap: &str, topic: &str, end: i64) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let ends = probe::end_offsets(bootstrap, topic).await?;
        if ends.first() >= Some(&end) {
            return Ok(());
        }
        let late = tokio::time::Instant::now() >= deadline;
        ensure!(!late, "{topic} ends at {ends:?}, not at {end}\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Retention takes all that the target holds of a topic while nobody has the partition; then the flow goes on.
async fn goes_on_behind_the_targets_retention(rig: &mut Rig, forgotten: bool, died: bool) -> Result<()> {
    let (topic, now) = (unique("target-retention"), now_ms() - 10_000);
    create_topic(&rig.source, &topic, 1).await?;
    let records = numbered(0..2_000, now);
    let (begin, rest) = records.split_at(500);
    probe::send(&rig.source, &[], &topic, begin.to_vec()).await?;
    let id = unique("flow");
    rig.api.create_flow(&id, identity(&[&topic])).await?;
    rig.flow = id;
    rig.arrived(&[&topic], 500).await?;
    if died {
        die_while_writing(rig, &topic, rest.to_vec()).await?;
    } else {
        rig.pause().await?;
        probe::send(&rig.source, &[], &topic, rest.to_vec()).await?;
    }
    let taken = probe::end_offsets(&rig.target, &topic).await?.first().copied().context("no partition")?;
    probe::delete_records(&rig.target, &topic, 0, taken).await?;
    if forgotten {
        forgetful::forgotten(rig, &topic).await?;
    }
    if died {
        rig.mesh.start_worker("source-1")?;
    } else {
        let id = rig.flow.clone();
        rig.api.resume_flow(&id).await?;
    }
    ends_at(rig, &rig.target, &topic, 2_000).await?;
    rig.caught_up(1).await?;
    let ends = probe::offsets(&rig.target, &topic).await?;
    let wanted = records.get(usize::try_from(taken)?..).context("too many were taken")?;
    let mut held = held_from(rig, &topic, taken).await?;
    if forgotten && died {
        // Nothing tells how much of what was written behind the last position was there: it is mirrored again, and said.
        let again = held.len().saturating_sub(wanted.len());
        held.drain(..again);
        if again > 0 {
            event_of(rig, "RECORDS_DOUBLED", &topic).await?;
        }
    } else {
        ensure!(ends == [(taken, 2_000)], "{ends:?}, and {taken} were taken");
    }
    ensure!(held == whole(wanted), "others than those behind {taken}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_retains_nothing_is_gone_on_with_exactly() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    for died in [false, true] {
        goes_on_behind_the_targets_retention(&mut rig, false, died).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_forgot_and_retains_nothing_loses_nothing() -> Result<()> {
    let mut rig = forgetful::rig(1).await?;
    for died in [false, true] {
        goes_on_behind_the_targets_retention(&mut rig, true, died).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_brokers_own_retention_took_is_a_named_gap() -> Result<()> {
    let mut rig = forgetful::rig(2).await?;
    let (topic, old) = (unique("retained"), now_ms() - 3_600_000);
    create_topic(&rig.source, &topic, 1).await?;
    let records = numbered(0..1_200, old);
    let part = |range| records.get(range).map(<[Plain]>::to_vec).context("no such records");
    probe::send(&rig.source, &[], &topic, part(0..100)?).await?;
    let options = v1::RecordOptions {
        on_loss: LossPolicy::Continue.into(),
        heartbeat_topics: Some(false),
        ..v1::RecordOptions::default()
    };
    let id = rig.flow.clone();
    rig.api.create_flow(&id, v1::Flow { records: Some(options), ..identity(&[&topic]) }).await?;
    rig.arrived(&[&topic], 100).await?;
    rig.pause().await?;
    probe::send(&rig.source, &[], &topic, part(100..1_100)?).await?;
    // All are older than that.
    probe::set_topic(&rig.source, &topic, &[("retention.ms", "60000")]).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while probe::offsets(&rig.source, &topic).await? != [(1_100, 1_100)] {
        ensure!(tokio::time::Instant::now() < deadline, "the broker deletes nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    probe::set_topic(&rig.source, &topic, &[("retention.ms", "-1")]).await?;
    probe::send(&rig.source, &[], &topic, part(1_100..1_200)?).await?;
    let mut watch = rig.api.watch_flow(&id).await?;
    rig.api.resume_flow(&id).await?;
    let gap = event(&mut rig, "RETENTION_OVERRUN").await?;
    ensure!((gap.from_offset, gap.to_offset, gap.count) == (Some(100), Some(1_100), Some(1_000)), "{gap:?}");
    rig.arrived(&[&topic], 200).await?;
    let mut wanted = part(0..100)?;
    wanted.extend(part(1_100..1_200)?);
    ensure!(held_from(&rig, &topic, 0).await? == whole(&wanted));

    // Who watches the flow was told the same.
    let told = async {
        while let Some(message) = watch.message().await? {
            if let Some(told) = message.events.into_iter().find(|e| e.reason == "RETENTION_OVERRUN") {
                return Ok(told);
            }
        }
        anyhow::bail!("the watch ended")
    };
    let told = tokio::time::timeout(PATIENCE, told).await.context("the watch does not tell")??;
    ensure!(told == gap, "{told:?}, and {gap:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_about_a_loss_is_said_for_each_topic() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (stops, goes_on) = (unique("stops"), unique("goes-on"));
    let now = now_ms() - 10_000;
    for topic in [&stops, &goes_on] {
        create_topic(&rig.source, topic, 1).await?;
        probe::send(&rig.source, &[], topic, numbered(0..50, now)).await?;
    }
    let options = v1::RecordOptions {
        on_loss_by_topic: [(goes_on.clone(), LossPolicy::Continue.into())].into(),
        heartbeat_topics: Some(false),
        ..v1::RecordOptions::default()
    };
    let id = rig.flow.clone();
    let flow = v1::Flow { records: Some(options), ..identity(&[&stops, &goes_on]) };
    rig.api.create_flow(&id, flow).await?;
    rig.arrived(&[&stops], 50).await?;
    rig.arrived(&[&goes_on], 50).await?;
    rig.pause().await?;
    for topic in [&stops, &goes_on] {
        probe::send(&rig.source, &[], topic, numbered(50..100, now)).await?;
        probe::delete_records(&rig.source, topic, 0, 60).await?;
    }
    rig.api.resume_flow(&id).await?;
    rig.arrived(&[&goes_on], 90).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let partition = rig.partition(&stops, 0).await?;
        if partition.state() == v1::flow_partition::State::Stopped {
            ensure!(partition.reason.starts_with("RETENTION_OVERRUN"), "{partition:?}");
            break;
        }
        ensure!(tokio::time::Instant::now() < deadline, "never stopped: {partition:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut wanted = numbered(0..50, now);
    ensure!(held_from(&rig, &stops, 0).await? == whole(&wanted));
    wanted.extend(numbered(60..100, now));
    ensure!(held_from(&rig, &goes_on, 0).await? == whole(&wanted));
    let lost = rig.api.flow_events(&id).await?.events;
    let mut lost: Vec<_> = lost.into_iter().filter(|event| event.reason == "RETENTION_OVERRUN").collect();
    lost.sort_by_key(|event| event.subject.clone());
    let mut wanted = [format!("{goes_on}/0"), format!("{stops}/0")];
    wanted.sort();
    ensure!(lost.iter().map(|event| event.subject.clone()).eq(wanted), "{lost:#?}");
    ensure!(lost.iter().all(|e| (e.from_offset, e.to_offset) == (Some(50), Some(60))), "{lost:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_comes_near_is_told_before_anything_is_lost() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (topic, now) = (unique("near"), now_ms() - 10_000);
    create_topic(&rig.source, &topic, 1).await?;
    let records = numbered(0..1_000, now);
    let (begin, rest) = records.split_at(100);
    probe::send(&rig.source, &[], &topic, begin.to_vec()).await?;
    let id = rig.flow.clone();
    rig.mirror(&[&topic]).await?;
    rig.arrived(&[&topic], 100).await?;
    rig.api.pause_flow_topic(&id, &topic, &[]).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.partition(&topic, 0).await?.state() != v1::flow_partition::State::Paused {
        ensure!(tokio::time::Instant::now() < deadline, "never paused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    probe::send(&rig.source, &[], &topic, rest.to_vec()).await?;
    probe::delete_records(&rig.source, &topic, 0, 95).await?;
    rig.api.resume_flow_topic(&id, &topic, &[]).await?;
    let near = event(&mut rig, "RETENTION_NEAR").await?;
    ensure!((near.from_offset, near.to_offset, near.count) == (Some(95), Some(100), Some(5)), "{near:?}");
    rig.arrived(&[&topic], 1_000).await?;
    ensure!(held_from(&rig, &topic, 0).await? == whole(&records));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_wait_until_retention_may_take_them_are_told_before_it_does() -> Result<()> {
    const RETENTION_MS: i64 = 3_600_000;
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("ageing");
    let kept = Topic::new(&topic, 1).setting("retention.ms", RETENTION_MS.to_string());
    create_topics(&rig.source, &[kept]).await?;
    // Nothing was deleted yet, so that no offset tells; a twentieth of their time is left.
    let records = numbered(0..1_000, now_ms() - RETENTION_MS / 20 * 19);
    probe::send(&rig.source, &[("batch.num.messages", "100")], &topic, records.clone()).await?;
    let throttle = Some(v1::Throttle { bytes_per_second: None, records_per_second: Some(1) });
    let options = v1::RecordOptions { throttle, ..v1::RecordOptions::default() };
    let flow = v1::Flow { records: Some(options), ..identity(&[&topic]) };
    let id = rig.flow.clone();
    rig.api.create_flow(&id, flow).await?;
    let near = event(&mut rig, "RETENTION_NEAR").await?;
    ensure!(near.subject == format!("{topic}/0") && near.to_offset == Some(1_000), "{near:?}");
    ensure!(near.count == near.from_offset.map(|from| 1_000 - from), "{near:?}");
    Ok(())
}
