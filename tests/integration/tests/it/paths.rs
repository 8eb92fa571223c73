//! Batches that can't pass as they are: split, rebuilt, put together, very large. Compared record by record.

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_proto::v1;
use mirrormesh_testkit::topics::{Topic, create_topics};
use mirrormesh_testkit::workload::Codec;

use crate::rig::{Rig, event, identity, metric, now_ms, plan, produce, random_bytes, unique};

/// Makes the topic on both sides, each with its own settings.
async fn topics(rig: &Rig, name: &str, source: &[(&str, &str)], target: &[(&str, &str)]) -> Result<()> {
    for (bootstrap, settings) in [(&rig.source, source), (&rig.target, target)] {
        let topic = settings.iter().fold(Topic::new(name, 1), |topic, (k, v)| topic.setting(*k, *v));
        create_topics(bootstrap, &[topic]).await?;
    }
    Ok(())
}

fn plain(n: usize, value: Vec<u8>, timestamp_ms: i64) -> Plain {
    Plain { key: Some(format!("key {n}").into_bytes()), value: Some(value), timestamp_ms }
}

async fn same(rig: &Rig, topic: &str) -> Result<usize> {
    let (source, target) = (probe::read(&rig.source, topic).await?, probe::read(&rig.target, topic).await?);
    ensure!(
        source.len() == target.len(),
        "{} records on the source, {} on the target",
        source.len(),
        target.len()
    );
    let differs = source.iter().zip(&target).position(|(s, t)| s != t);
    ensure!(differs.is_none(), "record {differs:?} differs");
    Ok(source.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_larger_than_the_target_takes_are_split() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    for codec in [Codec::None, Codec::Zstd, Codec::Snappy] {
        let topic = unique("split");
        topics(&rig, &topic, &[], &[("max.message.bytes", "5000")]).await?;
        produce(&rig.source, vec![plan(&topic, 1, 5_000, codec)], None).await?.finish().await?;
        let id = unique("flow");
        rig.api.create_flow(&id, identity(&[&topic])).await?;
        rig.flow = id;
        rig.caught_up(1).await?;
        ensure!(same(&rig, &topic).await? == 5_000);
    }
    ensure!(metric(&rig, "source-1", "mirrormesh_batches_total{", "path=\"split\"").await? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_stops_or_is_skipped_by_name() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("oversized");
    topics(&rig, &topic, &[], &[("max.message.bytes", "5000")]).await?;
    let now = now_ms();
    let records: Vec<Plain> =
        (0..300).map(|n| plain(n, random_bytes(if n == 150 { 20_000 } else { 100 }), now)).collect();
    probe::send(&rig.source, &[], &topic, records.clone()).await?;
    rig.mirror(&[&topic]).await?;
    let stopped = event(&mut rig, "RECORD_TOO_LARGE").await?;
    ensure!((stopped.from_offset, stopped.to_offset) == (Some(150), Some(151)), "{stopped:?}");
    rig.arrived(&[&topic], 150).await?;

    let options = v1::RecordOptions {
        on_oversized: v1::record_options::OversizedPolicy::Skip.into(),
        heartbeat_topics: Some(false),
        ..v1::RecordOptions::default()
    };
    rig.set_records(options).await?;
    let skipped = event(&mut rig, "RECORD_SKIPPED").await?;
    ensure!((skipped.from_offset, skipped.count) == (Some(150), Some(1)), "{skipped:?}");
    rig.arrived(&[&topic], 299).await?;
    let mut wanted = records;
    wanted.remove(150);
    ensure!(probe::read(&rig.target, &topic).await? == wanted);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_the_source_set_are_kept() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("times");
    topics(&rig, &topic, &[("message.timestamp.type", "LogAppendTime")], &[]).await?;
    produce(&rig.source, vec![plan(&topic, 1, 3_000, Codec::Lz4)], None).await?.finish().await?;
    rig.mirror(&[&topic]).await?;
    rig.caught_up(1).await?;
    ensure!(same(&rig, &topic).await? == 3_000, "timestamps are compared too");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_sets_its_own_times_gets_the_same_records() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("own-times");
    topics(&rig, &topic, &[], &[("message.timestamp.type", "LogAppendTime")]).await?;
    produce(&rig.source, vec![plan(&topic, 1, 3_000, Codec::Lz4)], None).await?.finish().await?;
    rig.mirror(&[&topic]).await?;
    rig.caught_up(1).await?;
    let content = |records: Vec<Plain>| records.into_iter().map(|r| (r.key, r.value)).collect::<Vec<_>>();
    let (source, target) = (probe::read(&rig.source, &topic).await?, probe::read(&rig.target, &topic).await?);
    ensure!(target.len() == 3_000 && content(source) == content(target));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_batches_are_put_together() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = unique("small");
        let now = now_ms();
        topics(&rig, &topic, &[], &[]).await?;
        let records =
            (0..2_000).map(|n| plain(n, random_bytes(100), now + i64::try_from(n).unwrap_or(0))).collect();
        let one_each = [("batch.num.messages", "1"), ("linger.ms", "0"), ("compression.codec", codec)];
        probe::send(&rig.source, &one_each, &topic, records).await?;
        let id = unique("flow");
        rig.api.create_flow(&id, identity(&[&topic])).await?;
        rig.flow = id;
        rig.caught_up(1).await?;
        ensure!(same(&rig, &topic).await? == 2_000);
    }
    ensure!(metric(&rig, "source-1", "mirrormesh_batches_total{", "path=\"coalesced\"").await? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_37_mb_pass_where_both_sides_allow_them() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("large");
    let allowed = [("max.message.bytes", "40000000")];
    topics(&rig, &topic, &allowed, &allowed).await?;
    let now = now_ms();
    let sizes = [10, 37_000_000, 100, 20_000_000, 37_000_000];
    let records = sizes.iter().enumerate().map(|(n, size)| plain(n, random_bytes(*size), now)).collect();
    let settings = [("message.max.bytes", "50000000"), ("queue.buffering.max.kbytes", "300000")];
    probe::send(&rig.source, &settings, &topic, records).await?;
    rig.mirror(&[&topic]).await?;
    rig.caught_up(1).await?;
    ensure!(same(&rig, &topic).await? == sizes.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_that_the_target_refuses_stop_or_are_moved() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("refused-times");
    let loose = [("message.timestamp.after.max.ms", "9223372036854775807")];
    topics(&rig, &topic, &loose, &[("message.timestamp.before.max.ms", "86400000")]).await?;
    let now = now_ms();
    let day = 86_400_000;
    // The second lies outside of what the target takes, in the middle of a batch of which the first does not.
    let times = [now, now - 2 * day, now - 1_000];
    let records: Vec<Plain> = times.iter().enumerate().map(|(n, t)| plain(n, random_bytes(50), *t)).collect();
    probe::send(&rig.source, &[("linger.ms", "200")], &topic, records.clone()).await?;
    rig.mirror(&[&topic]).await?;
    let stopped = event(&mut rig, "TIMESTAMP_REFUSED").await?;
    ensure!(stopped.from_offset == Some(0), "{stopped:?}");
    ensure!(probe::read(&rig.target, &topic).await?.is_empty());

    let options = v1::RecordOptions {
        timestamps: v1::record_options::TimestampPolicy::Clamp.into(),
        heartbeat_topics: Some(false),
        ..v1::RecordOptions::default()
    };
    rig.set_records(options).await?;
    rig.arrived(&[&topic], 3).await?;
    let arrived = probe::read(&rig.target, &topic).await?;
    let content = |records: &[Plain]| records.iter().map(|r| r.value.clone()).collect::<Vec<_>>();
    ensure!(content(&arrived) == content(&records));
    ensure!(arrived[0].timestamp_ms == now && arrived[2].timestamp_ms == now - 1_000, "{arrived:?}");
    ensure!(arrived[1].timestamp_ms > now - day - 1_000, "moved to the nearest time that is taken");
    Ok(())
}
