//! Batches that can't pass as they are: split, rebuilt, put together, very large. Compared record by record.

use anyhow::{Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Isolation, Plain};
use mirrormesh_proto::v1;
use mirrormesh_testkit::broker::batch::Batch;
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::{Topic, create_topics};
use mirrormesh_testkit::workload::Codec;

use rdkafka::Timestamp;

use crate::disk;
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

/// A record's key, value and headers.
type Content = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

/// Content and timestamp of all records in partition 0.
async fn held(bootstrap: &str, topic: &str) -> Result<Vec<(Content, Timestamp)>> {
    let records = probe::records(bootstrap, topic, 0, Isolation::Uncommitted).await?;
    Ok(records.into_iter().map(|(_, r)| ((r.key, r.value, r.headers), r.timestamp)).collect())
}

/// Both sides hold the same, times in milliseconds included, whoever set them.
async fn same(rig: &Rig, topic: &str) -> Result<usize> {
    let (source, target) = (held(&rig.source, topic).await?, held(&rig.target, topic).await?);
    ensure!(
        source.len() == target.len(),
        "{} records on the source, {} on the target",
        source.len(),
        target.len()
    );
    let differs =
        source.iter().zip(&target).position(|(s, t)| s.0 != t.0 || s.1.to_millis() != t.1.to_millis());
    ensure!(differs.is_none(), "record {differs:?} differs");
    Ok(source.len())
}

/// How many batches went this way, by all source workers.
async fn sent(rig: &Rig, path: &str) -> Result<f64> {
    let label = format!("path=\"{path}\"");
    let mut batches = 0.0;
    for worker in rig.mesh.worker_names().iter().filter(|name| name.starts_with("source")) {
        batches += metric(rig, worker, "mirrormesh_batches_total{", &label).await?;
    }
    Ok(batches)
}

/// The batches of this codec, by its number.
fn packed(batches: &[Batch], number: usize) -> impl Iterator<Item = &Batch> {
    batches.iter().filter(move |batch| usize::try_from(batch.header.codec()) == Ok(number))
}

/// One record after the other in one batch.
async fn send_as_one(rig: &Rig, topic: &str, codec: &str, records: Vec<Plain>) -> Result<()> {
    let count = records.len().to_string();
    let settings =
        [("linger.ms", "2000"), ("batch.num.messages", count.as_str()), ("compression.codec", codec)];
    probe::send(&rig.source, &settings, topic, records).await?;
    let batches = disk::batches(&shared_pair().await?.source, topic, 0).await?;
    ensure!(batches.len() == 1, "{} batches", batches.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_larger_than_the_target_takes_are_split() -> Result<()> {
    const BYTES_MAX: usize = 5_000;
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let names = Codec::ALL.map(|codec| unique(codec.name()));
    let mut plans = Vec::new();
    for (name, codec) in names.iter().zip(Codec::ALL) {
        topics(&rig, name, &[], &[("max.message.bytes", BYTES_MAX.to_string().as_str())]).await?;
        plans.push(plan(name, 1, 3_000, codec));
    }
    produce(&rig.source, plans, None).await?.finish().await?;
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    rig.mirror(&all).await?;
    rig.caught_up(5).await?;
    rig.equal(&all, 15_000).await?;
    ensure!(sent(&rig, "split").await? > 0.0);
    // Of each codec there were batches that the target takes only in pieces.
    let pair = shared_pair().await?;
    for (number, topic) in all.into_iter().enumerate() {
        let source = disk::batches(&pair.source, topic, 0).await?;
        let target = disk::batches(&pair.target, topic, 0).await?;
        let large = packed(&source, number).filter(|batch| batch.bytes.len() > BYTES_MAX).count();
        let pieces = packed(&target, number).count();
        ensure!(large > 0 && pieces >= large, "{topic}: {large} too large, {pieces} on the target");
        ensure!(target.iter().all(|batch| batch.bytes.len() <= BYTES_MAX), "{topic}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_stops_or_is_skipped_by_name() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let topic = unique("oversized");
    topics(&rig, &topic, &[], &[("max.message.bytes", "5000")]).await?;
    let now = now_ms();
    let mut records: Vec<Plain> =
        (0..350).map(|n| plain(n, random_bytes(if n == 150 { 20_000 } else { 100 }), now)).collect();
    let late = records.split_off(300);
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

    // What was left out is left out for another owner too.
    let owner = rig.owner(&topic, 0).await?;
    rig.mesh.signal_worker(&owner, Signal::Kill)?;
    probe::send(&rig.source, &[], &topic, late.clone()).await?;
    rig.arrived(&[&topic], 349).await?;
    wanted.extend(late);
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
    ensure!(sent(&rig, "append_time").await? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_sets_its_own_times_gets_the_same_records() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec { sources: 2, ..MeshSpec::default() }).await?;
    let names = ["CreateTime", "LogAppendTime"].map(|times| (unique("own-times"), times));
    let began = now_ms();
    let mut plans = Vec::new();
    for (name, times) in &names {
        let [source, target] = [*times, "LogAppendTime"].map(|times| [("message.timestamp.type", times)]);
        topics(&rig, name, &source, &target).await?;
        plans.push(plan(name, 1, 3_000, Codec::Lz4));
    }
    produce(&rig.source, plans, None).await?.finish().await?;
    let all: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    rig.mirror(&all).await?;
    rig.caught_up(2).await?;
    for topic in all {
        let (source, target) = (held(&rig.source, topic).await?, held(&rig.target, topic).await?);
        let differs = source.iter().zip(&target).position(|(s, t)| s.0 != t.0);
        ensure!(target.len() == 3_000 && source.len() == 3_000 && differs.is_none(), "{differs:?}");
        let own = |time: &Timestamp| matches!(time, Timestamp::LogAppendTime(ms) if *ms >= began);
        ensure!(target.iter().all(|(_, time)| own(time)), "{:?}", target.first());
    }
    let rebuilt = sent(&rig, "append_time").await?;
    ensure!(rebuilt < 0.5, "{rebuilt} batches were given times for nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_batches_are_put_together() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let mut together = 0.0;
    for (number, codec) in Codec::ALL.into_iter().enumerate() {
        let codec = codec.name();
        let topic = unique("small");
        let now = now_ms();
        topics(&rig, &topic, &[], &[]).await?;
        // What gets no smaller by it, the client does not pack.
        let value = |n: usize| format!("{n:05}").repeat(50).into_bytes();
        let records = (0..2_000).map(|n| plain(n, value(n), now + i64::try_from(n).unwrap_or(0))).collect();
        let one_each = [("batch.num.messages", "1"), ("linger.ms", "0"), ("compression.codec", codec)];
        probe::send(&rig.source, &one_each, &topic, records).await?;
        let batches = disk::batches(&shared_pair().await?.source, &topic, 0).await?;
        ensure!(packed(&batches, number).count() == 2_000, "not all packed by {codec}: {}", batches.len());
        let id = unique("flow");
        rig.api.create_flow(&id, identity(&[&topic])).await?;
        rig.flow = id;
        rig.caught_up(1).await?;
        ensure!(same(&rig, &topic).await? == 2_000);
        let before = std::mem::replace(&mut together, sent(&rig, "coalesced").await?);
        ensure!(together > before, "none was put together with {codec}");
    }
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
async fn batches_that_the_source_broker_packed_are_read() -> Result<()> {
    // Brokers pack with Java's snappy, which has a framing of its own around its blocks.
    const FRAMING: &[u8] = b"\x82SNAPPY\0";
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let (whole, split) = (unique("java-snappy"), unique("java-snappy-split"));
    topics(&rig, &whole, &[("compression.type", "snappy")], &[]).await?;
    topics(&rig, &split, &[("compression.type", "snappy")], &[("max.message.bytes", "5000")]).await?;
    let plans = [&whole, &split].map(|name| plan(name, 1, 3_000, Codec::None));
    produce(&rig.source, plans.into(), None).await?.finish().await?;
    for topic in [&whole, &split] {
        let batches = disk::batches(&shared_pair().await?.source, topic, 0).await?;
        ensure!(!batches.is_empty() && batches.iter().all(|b| b.body().starts_with(FRAMING)), "not by Java");
    }
    rig.mirror(&[&whole, &split]).await?;
    rig.caught_up(2).await?;
    rig.equal(&[&whole, &split], 6_000).await?;
    for path in ["passthrough", "split"] {
        ensure!(sent(&rig, path).await? > 0.0, "{path}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_begins_before_the_flow_does_is_trimmed() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let first_ms = now_ms() - 10_000;
    let records: Vec<Plain> =
        (0..200).map(|n| plain(n, random_bytes(50), first_ms + i64::try_from(n).unwrap_or(0))).collect();
    // Either the source begins inside of the batch, or the user asks for a time that lies there.
    let time = prost_types::Timestamp {
        seconds: (first_ms + 37).div_euclid(1_000),
        nanos: i32::try_from((first_ms + 37).rem_euclid(1_000))? * 1_000_000,
    };
    let by_time = v1::Start { at: Some(v1::start::At::Timestamp(time)) };
    for (deleted, codecs) in [(37, &Codec::ALL[..3]), (0, &Codec::ALL[3..])] {
        let names: Vec<String> = codecs.iter().map(|codec| unique(codec.name())).collect();
        for (name, codec) in names.iter().zip(codecs) {
            topics(&rig, name, &[], &[]).await?;
            send_as_one(&rig, name, codec.name(), records.clone()).await?;
            if deleted > 0 {
                probe::delete_records(&rig.source, name, 0, deleted).await?;
            }
        }
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let start = (deleted == 0).then_some(by_time);
        let id = unique("flow");
        rig.api.create_flow(&id, v1::Flow { start, ..identity(&all) }).await?;
        rig.flow = id;
        rig.caught_up(i64::try_from(all.len())?).await?;
        for topic in all {
            let found = probe::read(&rig.target, topic).await?;
            ensure!(found == records[37..], "{topic}: {} records, not those from 37 on", found.len());
        }
    }
    let trimmed = sent(&rig, "trimmed").await?;
    ensure!((trimmed - 5.0).abs() < 0.1, "{trimmed} batches were trimmed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_that_the_target_refuses_stop_or_are_moved() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let day = 86_400_000;
    let mut clamped = 0.0;
    // How far from now the target takes a timestamp, and one that is farther.
    for (limit, takes, given) in [
        ("message.timestamp.before.max.ms", -day, -2 * day),
        ("message.timestamp.after.max.ms", day, 2 * day),
    ] {
        let topic = unique("refused-times");
        let loose = [("message.timestamp.after.max.ms", "9223372036854775807")];
        topics(&rig, &topic, &loose, &[(limit, "86400000")]).await?;
        let now = now_ms();
        // The second lies outside of what the target takes, in the middle of a batch of which the first does not.
        let times = [now, now + given, now - 1_000];
        let records: Vec<Plain> =
            times.iter().enumerate().map(|(n, t)| plain(n, random_bytes(50), *t)).collect();
        send_as_one(&rig, &topic, "none", records.clone()).await?;
        let id = unique("flow");
        rig.api.create_flow(&id, identity(&[&topic])).await?;
        rig.flow = id;
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
        // The nearest time that is surely taken: five minutes inside of the edge, which moves with the clock.
        let inside = (now + takes - arrived[1].timestamp_ms) * takes.signum();
        ensure!((180_000..420_000).contains(&inside), "moved to {inside} ms inside of the edge");
        // A worker counts its batches when it reports.
        rig.caught_up(1).await?;
        let before = std::mem::replace(&mut clamped, sent(&rig, "clamped").await?);
        ensure!(clamped > before, "{limit}");
    }
    Ok(())
}

/// 100 records of 50 KB text in one batch, which zstd packs to 10 KB, then 3 small ones.
fn unfolding() -> (Vec<Plain>, Vec<Plain>) {
    let large =
        (0..100).map(|n| plain(n, format!("{n:05} lorem ipsum ").repeat(2_900).into_bytes(), now_ms()));
    let small = (100..103).map(|n| plain(n, b"small".to_vec(), now_ms()));
    (large.collect(), small.collect())
}

const ONE_BATCH: [(&str, &str); 4] = [
    ("compression.codec", "zstd"),
    ("linger.ms", "2000"),
    ("batch.size", "8000000"),
    ("message.max.bytes", "9000000"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_fits_as_the_target_stores_it() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let codecs = ["uncompressed", "gzip", "snappy", "lz4"];
    let names: Vec<String> = codecs.iter().map(|codec| unique(&format!("stored-{codec}"))).collect();
    for (name, codec) in names.iter().zip(codecs) {
        let target = [("compression.type", codec), ("max.message.bytes", "1048588")];
        topics(&rig, name, &[("max.message.bytes", "9000000")], &target).await?;
        let (large, small) = unfolding();
        probe::send(&rig.source, &ONE_BATCH, name, large).await?;
        probe::send(&rig.source, &ONE_BATCH, name, small).await?;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut flow = identity(&names);
    flow.records = Some(v1::RecordOptions {
        on_oversized: v1::record_options::OversizedPolicy::Skip.into(),
        ..flow.records.unwrap_or_default()
    });
    rig.api.create_flow(&rig.flow.clone(), flow).await?;
    rig.arrived(&names, 103 * 4).await?;
    for name in &names {
        ensure!(same(&rig, name).await? == 103, "{name}");
    }
    let events = rig.api.flow_events(&rig.flow.clone()).await?.events;
    ensure!(events.iter().all(|event| event.reason != "RECORD_SKIPPED"), "{events:#?}");

    // The setting changes while records flow.
    probe::set_topic(&rig.target, names[3], &[("compression.type", "uncompressed")]).await?;
    let (large, small) = unfolding();
    probe::send(&rig.source, &ONE_BATCH, names[3], large).await?;
    probe::send(&rig.source, &ONE_BATCH, names[3], small).await?;
    rig.arrived(&names[3..], 206).await?;
    ensure!(same(&rig, names[3]).await? == 206, "{}", names[3]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_as_it_is_stored_is_named() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("stored-alone");
    let target = [("compression.type", "uncompressed"), ("max.message.bytes", "100000")];
    topics(&rig, &topic, &[("max.message.bytes", "9000000")], &target).await?;
    let records = (0..5).map(|n| plain(n, vec![b'a'; if n == 3 { 300_000 } else { 50 }], now_ms())).collect();
    probe::send(&rig.source, &ONE_BATCH, &topic, records).await?;
    rig.mirror(&[&topic]).await?;
    let stopped = event(&mut rig, "RECORD_TOO_LARGE").await?;
    ensure!((stopped.from_offset, stopped.count) == (Some(3), Some(1)), "{stopped:?}");
    ensure!(probe::end_offsets(&rig.target, &topic).await? == [3], "what stands before it is there");
    Ok(())
}
