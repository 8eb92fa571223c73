//! What a newcomer meets in the first hour: one process, its log, its status, its metrics, its settings.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::mesh::{binary, free_ports};
use mirrormesh_integration::probe::{self, Plain};
use mirrormesh_integration::{Api, MeshSpec};
use mirrormesh_proto::v1::{self, Outlook, flow::State};
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::process::{Launch, Process};
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::{Topic, create_topic, create_topics};
use tokio::time::{Instant, sleep, timeout};

use crate::collector::Collector;
use crate::rig::{PATIENCE, Rig, identity, now_ms, unique};

/// The process with all four roles.
struct Standalone {
    process: Process,
    api: Api,
    metrics: String,
    folder: PathBuf,
}

impl Standalone {
    /// Starts it with further settings and variables, and makes two clusters known to it.
    async fn start(clusters: (&str, &str), set: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("mirrormesh-it-{}", unique("newcomer")));
        std::fs::create_dir_all(&folder)?;
        let ports = free_ports(3)?;
        let at = |index: usize| format!("127.0.0.1:{}", ports[index]);
        let mut launch = Launch::new(binary("mirrormesh")?, folder.join("log")).arg("run");
        let own = [
            format!("data_dir={}", folder.join("data").display()),
            format!("api_listen={}", at(0)),
            format!("mesh_listen={}", at(1)),
            format!("metrics_listen={}", at(2)),
        ];
        for setting in own.iter().map(String::as_str).chain(set.iter().copied()) {
            launch = launch.args(["--set", setting]);
        }
        for (name, value) in variables {
            launch = launch.env(*name, *value);
        }
        let mut started = Self { process: launch.spawn()?, api: Api::new(&[at(0)])?, metrics: at(2), folder };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = started.api.mesh().await {
            ensure!(Instant::now() < deadline, "{error}\n{}", started.process.log_tail(40));
            sleep(Duration::from_millis(50)).await;
        }
        started.api.create_cluster("uk", clusters.0).await?;
        started.api.create_cluster("hq", clusters.1).await?;
        Ok(started)
    }

    /// Between the clusters that all tests share.
    async fn shared(set: &[&str]) -> Result<Self> {
        let pair = shared_pair().await?;
        Self::start((&pair.source.bootstrap(), &pair.target.bootstrap()), set, &[]).await
    }

    async fn wait(&mut self, flow: &str, what: &str, wished: impl Fn(&v1::Flow) -> bool) -> Result<v1::Flow> {
        let waited = self.api.wait_for_flow(flow, what, PATIENCE, wished).await;
        waited.with_context(|| self.process.log_tail(40))
    }

    /// What `/metrics` shows.
    async fn scrape(&self) -> Result<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&self.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Lines of the log at warning or worse.
    fn warnings(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.folder.join("log"))?;
        let bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
        Ok(log.lines().filter(bad).map(str::to_owned).collect())
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _gone = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The value of a series: of the first line that begins with `name` and holds all labels.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let wanted = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
    metrics.lines().find(wanted)?.rsplit(' ').next()?.parse().ok()
}

fn numbered(count: usize) -> Vec<Plain> {
    let now = now_ms();
    let record =
        |n: usize| Plain { key: None, value: Some(format!("record {n}").into_bytes()), timestamp_ms: now };
    (0..count).map(record).collect()
}

fn caught_up(flow: &v1::Flow) -> bool {
    let of = |progress: &v1::Progress| {
        progress.partitions > 0
            && progress.partitions == progress.partitions_running
            && progress.lag_records == Some(0)
    };
    flow.progress.as_ref().is_some_and(of)
}

fn reasons(flow: &v1::Flow) -> Vec<&str> {
    flow.conditions.iter().map(|condition| condition.reason.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_traffic_is_caught_up_and_its_rate_ends_with_it() -> Result<()> {
    let mut mesh = Standalone::shared(&[]).await?;
    let (source, topic) = (shared_pair().await?.source.bootstrap(), unique("steady"));
    create_topic(&source, &topic, 1).await?;
    probe::send(&source, &[], &topic, numbered(1)).await?;
    mesh.api.create_flow("f", identity(&[&topic])).await?;
    mesh.wait("f", "caught up", caught_up).await?;
    let sending = async {
        loop {
            if let Err(error) = probe::send(&source, &[("linger.ms", "0")], &topic, numbered(6)).await {
                return error;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    // A row of samples under traffic; a busy machine may spoil some.
    let mut api = mesh.api.clone();
    let sampling = async {
        let deadline = Instant::now() + PATIENCE;
        let mut row = 0;
        while row < 10 {
            let progress = api.flow("f").await?.progress.context("no progress")?;
            let steady = progress.outlook() == Outlook::CaughtUp && progress.records_per_second > 0.0;
            row = if steady { row + 1 } else { 0 };
            ensure!(Instant::now() < deadline, "{progress:#?}");
            sleep(Duration::from_millis(300)).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        error = sending => return Err(error),
        seen = sampling => seen?,
    }
    let ended = |flow: &v1::Flow| {
        let progress = flow.progress.as_ref();
        progress.is_some_and(|p| p.records_per_second == 0.0 && p.outlook() == Outlook::CaughtUp)
    };
    mesh.wait("f", "the rate ends with the traffic", ended).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_source_topic_is_named_and_hides_no_lag() -> Result<()> {
    let mut mesh = Standalone::shared(&[]).await?;
    let source = shared_pair().await?.source.bootstrap();
    let (stays, goes) = (unique("stays"), unique("goes"));
    create_topic(&source, &stays, 1).await?;
    create_topic(&source, &goes, 3).await?;
    for topic in [&stays, &goes] {
        probe::send(&source, &[], topic, numbered(10)).await?;
    }
    mesh.api.create_flow("f", identity(&[&stays, &goes])).await?;
    mesh.wait("f", "caught up", caught_up).await?;
    probe::delete_topic(&source, &goes).await?;
    let missing = |flow: &v1::Flow| reasons(flow).contains(&"SOURCE_TOPIC_MISSING");
    mesh.wait("f", "the deletion is named", missing).await?;
    let unmeasured = |flow: &v1::Flow| flow.progress.as_ref().is_some_and(|p| p.partitions_unmeasured == 3);
    let flow = mesh.wait("f", "what can't be measured is counted", unmeasured).await?;
    let named: Vec<&v1::Condition> =
        flow.conditions.iter().filter(|c| c.reason == "SOURCE_TOPIC_MISSING").collect();
    ensure!(named.len() == 1, "one cause: {named:#?}");
    let wanted = format!("topic {goes} was deleted on clusters/uk");
    ensure!(named[0].message.starts_with(&wanted) && named[0].subject == goes, "{named:#?}");
    ensure!(flow.progress.is_some_and(|progress| progress.lag_records == Some(0)), "the lag of {stays}");

    let metrics = mesh.scrape().await?;
    ensure!(value(&metrics, "mirrormesh_flow_lag_records{", &["flow=\"f\""]) == Some(0.0), "{metrics}");
    ensure!(value(&metrics, "mirrormesh_flow_partitions_unmeasured{", &[]) == Some(3.0), "{metrics}");
    ensure!(value(&metrics, "mirrormesh_flow_state{", &["DEGRADED"]) == Some(1.0), "{metrics}");
    ensure!(value(&metrics, "mirrormesh_flow_state{", &["RUNNING"]) == Some(0.0), "{metrics}");
    ensure!(
        value(&metrics, "mirrormesh_flow_conditions{", &["SOURCE_TOPIC_MISSING"]) == Some(1.0),
        "{metrics}"
    );

    sleep(Duration::from_secs(15)).await;
    let warnings = mesh.warnings()?;
    ensure!(warnings.len() <= 2, "more than a line a minute: {warnings:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_one_unit_a_role_and_texts_that_stand_alone() -> Result<()> {
    let mut mesh = Standalone::shared(&["partition_metrics=true"]).await?;
    let (source, topic) = (shared_pair().await?.source.bootstrap(), unique("metrics"));
    create_topic(&source, &topic, 2).await?;
    probe::send(&source, &[], &topic, numbered(100)).await?;
    mesh.api.create_flow("f", identity(&[&topic])).await?;
    mesh.wait("f", "caught up", caught_up).await?;
    let deadline = Instant::now() + PATIENCE;
    let metrics = loop {
        let metrics = mesh.scrape().await?;
        let observed = value(&metrics, "mirrormesh_replication_latency_seconds_count{", &["flow=\"f\""]);
        if observed.is_some_and(|count| count > 0.0) {
            break metrics;
        }
        ensure!(Instant::now() < deadline, "no latency: {metrics}");
        sleep(Duration::from_millis(200)).await;
    };
    for role in ["source", "checkpoint", "heartbeat"] {
        let label = format!("role=\"{role}\"");
        ensure!(value(&metrics, "mirrormesh_worker_units{", &[&label]).is_some(), "{role}: {metrics}");
        ensure!(value(&metrics, "mirrormesh_worker_session{", &[&label]) == Some(1.0), "{role}: {metrics}");
    }
    ensure!(value(&metrics, "mirrormesh_lag_records{", &["partition=\"1\""]).is_some(), "{metrics}");
    for name in ["mirrormesh_bytes_total{", "mirrormesh_lag_bytes{", "mirrormesh_lag_seconds{"] {
        ensure!(value(&metrics, name, &[]).is_some(), "{name} is missing: {metrics}");
    }
    for line in metrics.lines().filter(|line| line.starts_with("# HELP mirrormesh_")) {
        ensure!(!line.contains("bytes_bytes") && !line.contains("seconds_seconds"), "{line}");
        ensure!(!line.contains("of them") && line.ends_with('.'), "a text that needs another one: {line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_and_a_clean_stop_log_no_warning() -> Result<()> {
    let mut mesh = Standalone::shared(&[]).await?;
    let (source, topic) = (shared_pair().await?.source.bootstrap(), unique("clean"));
    create_topic(&source, &topic, 3).await?;
    probe::send(&source, &[], &topic, numbered(100)).await?;
    mesh.api.create_flow("f", identity(&[&topic])).await?;
    mesh.wait("f", "caught up", caught_up).await?;
    let status = mesh.process.terminate(Duration::from_secs(20)).await?;
    ensure!(status.success(), "{status}");
    let warnings = mesh.warnings()?;
    ensure!(warnings.is_empty(), "{warnings:#?}");
    let log = std::fs::read_to_string(mesh.folder.join("log"))?;
    ensure!(!log.contains("openraft"), "INFO is for operators: {log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_cluster_is_logged_once_per_unit() -> Result<()> {
    let target = shared_pair().await?.target.bootstrap();
    let nobody = format!("127.0.0.1:{}", free_ports(1)?[0]);
    let mut mesh = Standalone::start((&nobody, &target), &[], &[]).await?;
    mesh.api.create_flow("f", identity(&["any"])).await?;
    let unreachable = |flow: &v1::Flow| reasons(flow).contains(&"CLUSTER_UNREACHABLE");
    let flow = mesh.wait("f", "unreachable", unreachable).await?;
    ensure!(flow.state() == State::Degraded, "{flow:#?}");
    sleep(Duration::from_secs(20)).await;
    // The topology, the groups and the heartbeat unit look at the source.
    let warnings = mesh.warnings()?;
    ensure!(!warnings.is_empty() && warnings.len() <= 3, "{warnings:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncreatable_topic_clears_when_the_flow_is_mended() -> Result<()> {
    let mut mesh = Standalone::shared(&[]).await?;
    let (source, topic) = (shared_pair().await?.source.bootstrap(), unique("factor"));
    create_topic(&source, &topic, 1).await?;
    let creation =
        |factor| Some(v1::TopicCreation { replication_factor: factor, ..v1::TopicCreation::default() });
    let flow = v1::Flow { topic_creation: creation(3), ..identity(&[&topic]) };
    mesh.api.create_flow("f", flow).await?;
    let refused = |flow: &v1::Flow| reasons(flow).contains(&"TOPIC_NOT_CREATED");
    mesh.wait("f", "not created", refused).await?;
    sleep(Duration::from_secs(12)).await;
    let warnings = mesh.warnings()?;
    ensure!(warnings.len() == 1, "one line for one reason: {warnings:#?}");
    let mended = v1::Flow { name: "flows/f".into(), topic_creation: creation(1), ..v1::Flow::default() };
    mesh.api.update_flow(mended, &["topic_creation.replication_factor"]).await?;
    let mended = |flow: &v1::Flow| flow.conditions.is_empty() && flow.state() == State::Running;
    mesh.wait("f", "mended", mended).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_flows_share_a_heartbeat_topic_without_a_complaint() -> Result<()> {
    // Clusters of its own: every flow with heartbeats mirrors the topic `heartbeats`.
    let source = Cluster::start(ClusterSpec::new("source").heap_mb(300)).await?;
    let target = Cluster::start(ClusterSpec::new("target").heap_mb(300)).await?;
    let mut mesh = Standalone::start((&source.bootstrap(), &target.bootstrap()), &[], &[]).await?;
    create_topics(
        &source.bootstrap(),
        &[Topic::new("heartbeats", 1), Topic::new("a", 1), Topic::new("b", 1)],
    )
    .await?;
    probe::send(&source.bootstrap(), &[], "heartbeats", numbered(5)).await?;
    let prefixed = |topic: &str| v1::Flow { naming: None, records: None, ..identity(&[topic]) };
    for (id, topic) in [("first", "a"), ("second", "b")] {
        mesh.api.create_flow(id, prefixed(topic)).await?;
        mesh.wait(id, "running", |flow| flow.state() == State::Running).await?;
    }
    sleep(Duration::from_secs(4)).await;
    for id in ["first", "second"] {
        let flow = mesh.api.flow(id).await?;
        ensure!(flow.conditions.is_empty() && flow.state() == State::Running, "{flow:#?}");
    }
    let topics = mesh.api.flow_topics("second").await?.topics;
    ensure!(topics.len() == 1, "the heartbeats are the first flow's: {topics:#?}");
    // The other flow takes them over.
    mesh.api.delete_flow("first").await?;
    let both = |flow: &v1::Flow| flow.progress.as_ref().is_some_and(|progress| progress.partitions == 2);
    mesh.wait("second", "takes the heartbeats over", both).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_clears_within_two_intervals_of_its_cause() -> Result<()> {
    let mut mesh = Standalone::shared(&[]).await?;
    let (source, topic, other) = (shared_pair().await?.source.bootstrap(), unique("both"), unique("other"));
    for topic in [&topic, &other] {
        create_topic(&source, topic, 1).await?;
    }
    mesh.api.create_flow("first", identity(&[&topic])).await?;
    mesh.wait("first", "running", |flow| flow.state() == State::Running).await?;
    // A pattern that overlaps only on the topics that there are.
    let pattern = format!("({topic}|{other})");
    let clash = v1::Flow { topics: identity(&[&pattern]).topics, ..identity(&[]) };
    mesh.api.create_flow("second", clash).await?;
    let conflict = |flow: &v1::Flow| reasons(flow).contains(&"TARGET_TOPIC_CONFLICT");
    let flow = mesh.wait("second", "a conflict", conflict).await?;
    ensure!(reasons(&flow) == ["TARGET_TOPIC_CONFLICT"], "once: {flow:#?}");
    ensure!(!flow.conditions[0].message.contains("more topics"), "{flow:#?}");
    let mended =
        v1::Flow { name: "flows/second".into(), topics: identity(&[&other]).topics, ..v1::Flow::default() };
    mesh.api.update_flow(mended, &["topics.include"]).await?;
    let clear = mesh.wait("second", "clear", |flow| flow.conditions.is_empty());
    timeout(Duration::from_secs(4), clear).await.context("two intervals of a second, and slack")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_start_from_earliest_is_not_near_retention() -> Result<()> {
    let mut rig = Rig::shared(MeshSpec::default()).await?;
    let topic = unique("fresh");
    create_topic(&rig.source, &topic, 1).await?;
    probe::send(&rig.source, &[("batch.num.messages", "10")], &topic, numbered(2_000)).await?;
    probe::delete_records(&rig.source, &topic, 0, 500).await?;
    rig.mirror(&[&topic]).await?;
    rig.caught_up(1).await?;
    let events = rig.api.flow_events(&rig.flow.clone()).await?.events;
    ensure!(events.iter().all(|event| event.reason != "RETENTION_NEAR"), "{events:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_log_settings_are_refused_by_name() -> Result<()> {
    for (setting, key) in [("log.filter=inof", "log.filter"), ("log.format=yaml", "log.format")] {
        let folder = std::env::temp_dir().join(format!("mirrormesh-it-{}", unique("refused")));
        std::fs::create_dir_all(&folder)?;
        let launch = Launch::new(binary("mirrormesh")?, folder.join("log")).args(["run", "--set", setting]);
        let process = launch.spawn()?;
        let status = process.wait(Duration::from_secs(20)).await?;
        let said = process.log_tail(5);
        ensure!(status.code() == Some(2) && said.contains(key), "{status}: {said}");
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_create_flow_to_the_first_batch() -> Result<()> {
    let (collector, pair) = (Collector::start().await?, shared_pair().await?);
    let (source, target) = (pair.source.bootstrap(), pair.target.bootstrap());
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ];
    let mut mesh = Standalone::start((&source, &target), &[], &variables).await?;
    let topic = unique("traced");
    create_topic(&source, &topic, 1).await?;
    probe::send(&source, &[], &topic, numbered(10)).await?;
    mesh.api.create_flow("f", identity(&[&topic])).await?;
    mesh.wait("f", "caught up", caught_up).await?;
    let wanted = ["propose", "plan", "topology scan", "create topics", "partition start", "first batch"];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let spans = collector.spans();
        let call = spans.iter().find(|span| span.name.ends_with("FlowService/CreateFlow"));
        let names: Vec<&str> = call.map_or_else(Vec::new, |call| {
            let same = spans.iter().filter(|span| span.trace_id == call.trace_id);
            same.map(|span| span.name.as_str()).collect()
        });
        if wanted.iter().all(|name| names.contains(name)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the trace has only {names:?}");
        sleep(Duration::from_millis(200)).await;
    }
}
