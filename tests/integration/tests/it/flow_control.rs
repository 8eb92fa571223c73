//! Lag that means something, throttles and pauses, each with records that are counted.

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::MeshSpec;
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_proto::v1::{self, Outlook, flow_partition::State};
use mirrormesh_testkit::java::Program;
use mirrormesh_testkit::kafka::Cluster;
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::{Topic, create_topics};
use mirrormesh_testkit::workload::{Codec, TopicPlan};
use tokio::time::{Duration, Instant, sleep};

use crate::rig::{PATIENCE, Rig, identity, metric, now_ms, plan, produce, random_bytes, unique};

/// Waits until a partition is as wished.
pub(crate) async fn partition(
    rig: &mut Rig,
    topic: &str,
    number: i32,
    what: &str,
    wished: impl Fn(&v1::FlowPartition) -> bool,
) -> Result<v1::FlowPartition> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = rig.partition(topic, number).await;
        match found {
            Ok(found) if wished(&found) => return Ok(found),
            other => {
                let late = Instant::now() >= deadline;
                ensure!(!late, "{what}: {topic}/{number} is {other:#?}\n{}", rig.mesh.log_tails());
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Records and bytes of lag in four views.
type Lags = [(Option<i64>, Option<i64>); 4];

/// Records and bytes of lag, as `GetFlow`, `ListFlowTopics`, `WatchFlow` and the worker's metrics show them.
async fn everywhere(rig: &mut Rig, topic: &str) -> Result<Lags> {
    let id = rig.flow.clone();
    let lag = |p: v1::Progress| (p.lag_records, p.lag_bytes);
    let flow = rig.api.flow(&id).await?.progress.context("no progress")?;
    let topics = rig.api.flow_topics(&id).await?.topics;
    let listed = topics.first().and_then(|topic| topic.progress).context("no topic")?;
    let watched = rig.api.watch_flow(&id).await?.message().await?.context("the watch ended")?;
    let watched = watched.flow.and_then(|flow| flow.progress).context("no progress")?;
    let label = format!("topic=\"{topic}\"");
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers")]
    let gauge = |value: f64| Some(value as i64);
    let records = gauge(metric(rig, "source-1", "mirrormesh_lag_records", &label).await?);
    let bytes = gauge(metric(rig, "source-1", "mirrormesh_lag_bytes", &label).await?);
    Ok([lag(flow), lag(listed), lag(watched), (records, bytes)])
}

/// The lag is this many records wherever it is shown, and the bytes are the same everywhere. Views are read one after
/// the other, and a report is a second old at most: they have some time to agree.
async fn agree(rig: &mut Rig, topic: &str, records: i64) -> Result<()> {
    agreed(rig, topic, records, |lags| lags.iter().all(|lag| *lag == lags[0] && lag.1 > Some(0))).await
}

/// The same where no record was read yet that bytes could be estimated by.
async fn agree_on_records(rig: &mut Rig, topic: &str, records: i64) -> Result<()> {
    agreed(rig, topic, records, |_| true).await
}

async fn agreed(rig: &mut Rig, topic: &str, records: i64, also: impl Fn(&Lags) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = everywhere(rig, topic).await?;
        if shown.iter().all(|(shown, _)| *shown == Some(records)) && also(&shown) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{records} records are left, but {shown:?}\n{}",
            rig.mesh.log_tails()
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_partition_shows_how_far_its_source_goes_on() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("stopped-lag");
    create_topics(&rig.source, &[Topic::new(&topic, 1)]).await?;
    create_topics(&rig.target, &[Topic::new(&topic, 1).setting("max.message.bytes", "5000")]).await?;
    let now = now_ms();
    let record = |n: usize, bytes| Plain {
        key: Some(format!("key {n}").into_bytes()),
        value: Some(random_bytes(bytes)),
        timestamp_ms: now - 60_000,
    };
    let records = (0..300).map(|n| record(n, if n == 150 { 20_000 } else { 100 })).collect();
    probe::send(&rig.source, &[], &topic, records).await?;
    rig.mirror(&[&topic]).await?;
    partition(&mut rig, &topic, 0, "stopped", |p| p.state() == State::Stopped).await?;
    agree(&mut rig, &topic, 150).await?;
    // It does not fetch any more: what is produced now is seen all the same, and it never catches up by itself.
    probe::send(&rig.source, &[], &topic, (300..305).map(|n| record(n, 100)).collect()).await?;
    agree(&mut rig, &topic, 155).await?;
    let shown = rig.partition(&topic, 0).await?;
    ensure!((shown.outlook(), shown.eta_seconds) == (Outlook::FallingBehind, None), "{shown:#?}");
    ensure!(shown.lag_seconds.is_some_and(|age| (60.0..3_600.0).contains(&age)), "{shown:#?}");
    let age = now_ms() / 1_000 - shown.progress_time.context("no time")?.seconds;
    ensure!(age <= 5, "the numbers are {age} s old");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_holds_and_is_lifted_without_anything_being_started_anew() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("throttled");
    let produced = produce(&rig.source, vec![plan(&topic, 2, 2_000, Codec::None)], None)
        .await?
        .finish()
        .await?
        .records();
    let throttle = v1::Throttle { bytes_per_second: None, records_per_second: Some(1) };
    let options = |throttle| v1::RecordOptions {
        heartbeat_topics: Some(false),
        throttle,
        ..v1::RecordOptions::default()
    };
    let flow = v1::Flow { records: Some(options(Some(throttle))), ..identity(&[&topic]) };
    let id = rig.flow.clone();
    rig.api.create_flow(&id, flow).await?;

    // One page passes, since nothing is owed yet; the other waits for as many seconds as the first has records.
    let deadline = Instant::now() + PATIENCE;
    let held = loop {
        let mut held = Vec::new();
        for number in 0..2 {
            if let Ok(p) = rig.partition(&topic, number).await
                && p.reason.starts_with("THROTTLED: ")
            {
                held.push(p);
            }
        }
        if let [held] = &held[..] {
            break held.clone();
        }
        ensure!(Instant::now() < deadline, "{held:#?}\n{}", rig.mesh.log_tails());
        sleep(Duration::from_millis(100)).await;
    };
    ensure!(held.state() == State::Running && held.reason.contains("1 records/s"), "{held:#?}");
    let ends = probe::end_offsets(&rig.source, &topic).await?;
    let left = *ends.get(usize::try_from(held.partition)?).context("no such partition")?;
    ensure!(held.lag_records == Some(left), "{held:#?} of {left}");
    // The page that passed arrives, so that what is left is the same wherever it is shown.
    agree_on_records(&mut rig, &topic, left).await?;
    let shown = rig.api.flow(&id).await?;
    ensure!(shown.conditions.is_empty(), "nothing is wrong with it: {:#?}", shown.conditions);
    let before = rig.generation(&topic, held.partition).await?;

    rig.set_records(options(None)).await?;
    rig.caught_up(2).await?;
    rig.equal(&[&topic], produced).await?;
    let after = rig.partition(&topic, held.partition).await?;
    ensure!(after.generation == Some(before) && after.worker == held.worker, "{after:#?}");
    ensure!((after.records, after.resyncs) == (left, held.resyncs), "it was started anew: {after:#?}");
    ensure!(metric(&rig, "source-1", "mirrormesh_throttle_time", "flow=").await? > 0.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_partition_waits_while_others_go_on_and_goes_on_exactly() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("paused");
    let mut produced =
        produce(&rig.source, vec![plan(&topic, 2, 1_000, Codec::Lz4)], None).await?.finish().await?.records();
    rig.mirror(&[&topic]).await?;
    rig.caught_up(2).await?;
    let id = rig.flow.clone();
    let before = rig.generation(&topic, 0).await?;
    rig.api.pause_flow_topic(&id, &topic, &[0]).await?;
    partition(&mut rig, &topic, 0, "paused", |p| p.state() == State::Paused).await?;
    let held = probe::end_offsets(&rig.target, &topic).await?;
    produced +=
        produce(&rig.source, vec![plan(&topic, 2, 1_000, Codec::Lz4)], None).await?.finish().await?.records();
    let ends = probe::end_offsets(&rig.source, &topic).await?;
    let end = ends.get(1).copied().context("no partition 1")?;
    partition(&mut rig, &topic, 1, "caught up", |p| p.source_offset == Some(end)).await?;
    let now = probe::end_offsets(&rig.target, &topic).await?;
    ensure!(now.first() == held.first() && now.get(1) > held.get(1), "{held:?} became {now:?}");
    ensure!(rig.partition(&topic, 0).await?.worker.is_empty(), "nobody has it");

    rig.api.resume_flow_topic(&id, &topic, &[]).await?;
    rig.caught_up(2).await?;
    ensure!(rig.generation(&topic, 0).await? == before, "it goes on where it was");
    rig.equal(&[&topic], produced).await
}

/// What is produced to the topic now, and where its partitions end then.
async fn more(rig: &Rig, topic: &str) -> Result<(u64, Vec<i64>)> {
    let run = produce(&rig.source, vec![plan(topic, 2, 500, Codec::Lz4)], None).await?;
    let records = run.finish().await?.records();
    Ok((records, probe::end_offsets(&rig.source, topic).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_piles_up_behind_a_pause_shows_everywhere_and_nobody_copies_it() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("piled-up");
    let (mut produced, copied) = more(&rig, &topic).await?;
    rig.mirror(&[&topic]).await?;
    rig.caught_up(2).await?;
    agreed(&mut rig, &topic, 0, |lags| lags.iter().all(|lag| lag.1 == Some(0))).await?;
    let id = rig.flow.clone();
    let begun = (rig.generation(&topic, 0).await?, rig.generation(&topic, 1).await?);

    // One partition: the other goes on.
    rig.api.pause_flow_topic(&id, &topic, &[0]).await?;
    partition(&mut rig, &topic, 0, "seen while paused", |p| {
        p.state() == State::Paused && p.lag_records == Some(0)
    })
    .await?;
    let (records, ends) = more(&rig, &topic).await?;
    produced += records;
    agree(&mut rig, &topic, ends[0] - copied[0]).await?;
    let shown = rig.partition(&topic, 0).await?;
    ensure!(shown.worker.is_empty() && shown.state() == State::Paused, "somebody runs it: {shown:#?}");
    ensure!((shown.outlook(), shown.eta_seconds) == (Outlook::FallingBehind, None), "{shown:#?}");
    ensure!(shown.source_offset == Some(copied[0]) && shown.source_end_offset == Some(ends[0]), "{shown:#?}");
    // The workload's timestamps go back for an hour.
    ensure!(shown.lag_seconds.is_some_and(|age| (1.0..7_200.0).contains(&age)), "{shown:#?}");
    let age = now_ms() / 1_000 - shown.progress_time.context("no time")?.seconds;
    ensure!(age <= 5, "the numbers are {age} s old");
    ensure!(rig.partition(&topic, 1).await?.lag_records == Some(0), "the other one goes on");

    // The whole topic, then the flow instead of it.
    rig.api.pause_flow_topic(&id, &topic, &[]).await?;
    let second = ends[1];
    let (records, ends) = more(&rig, &topic).await?;
    produced += records;
    agree(&mut rig, &topic, ends[0] - copied[0] + ends[1] - second).await?;
    rig.pause().await?;
    rig.api.resume_flow_topic(&id, &topic, &[]).await?;
    let (records, ends) = more(&rig, &topic).await?;
    produced += records;
    agree(&mut rig, &topic, ends[0] - copied[0] + ends[1] - second).await?;
    let flow = rig.api.flow(&id).await?;
    ensure!(flow.state() == v1::flow::State::Paused, "{flow:#?}");
    ensure!(probe::end_offsets(&rig.target, &topic).await? == [copied[0], second], "it was copied");

    rig.api.resume_flow(&id).await?;
    rig.caught_up(2).await?;
    agree_on_records(&mut rig, &topic, 0).await?;
    ensure!(begun == (rig.generation(&topic, 0).await?, rig.generation(&topic, 1).await?), "it goes on");
    rig.equal(&[&topic], produced).await
}

/// Sets a broker's quota for what a client may send.
async fn quota(target: &Cluster, client: &str, bytes_per_second: u64) -> Result<()> {
    let setting = format!("producer_byte_rate={bytes_per_second}");
    let arguments = ["--bootstrap-server", &target.bootstrap(), "--alter", "--add-config", &setting];
    let entity = ["--entity-type", "clients", "--entity-name", client];
    let command = Program::new(target.jars(), "kafka.admin.ConfigCommand").args(arguments).args(entity);
    command.options(["-Xmx128m", "-XX:TieredStopAtLevel=1"]).run_ok(b"", PATIENCE).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_mutes_the_flow_is_waited_for() -> Result<()> {
    let pair = shared_pair().await?;
    let mut rig = Rig::between(&pair.source, &pair.target, MeshSpec::default()).await?;
    let topic = unique("muted");
    quota(&pair.target, &format!("mirrormesh-target-{}", rig.flow), 200_000).await?;
    // Twenty seconds' worth; brokers look back for ten, and mute who sent too much for longer than a request may take.
    let records = TopicPlan::new(&topic, 2, 4_000).value_bytes(1_000).random();
    let produced = produce(&rig.source, vec![records], None).await?.finish().await?.records();
    let began = Instant::now();
    rig.mirror(&[&topic]).await?;
    rig.arrived(&[&topic], produced).await?;
    let took = began.elapsed();
    rig.caught_up(2).await?;
    rig.equal(&[&topic], produced).await?;
    let resyncs = metric(&rig, "source-1", "mirrormesh_resyncs", "").await?;
    println!("4 MB in {took:?} at 200 kB/s, {resyncs} resyncs");
    ensure!(took > Duration::from_secs(5), "{took:?}: the broker did not throttle");
    ensure!(resyncs == 0.0, "{resyncs} resyncs: a muted connection was taken for a broken one");
    Ok(())
}
