//! What every test needs: a pair of clusters, a mesh of its own, topics of its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::probe::{Plain, Record};
use mirrormesh_integration::{Api, Mesh, MeshSpec, probe};
use mirrormesh_proto::v1;
use mirrormesh_proto::v1::flow_partition::Delivery;
use mirrormesh_testkit::checker::{self, TopicPair};
use mirrormesh_testkit::kafka::Cluster;
use mirrormesh_testkit::process::Signal;
use mirrormesh_testkit::topics::create_topic;
use mirrormesh_testkit::workload::{Codec, Run, TopicPlan, Workload};

/// Long enough for a slow machine; no test is decided by time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A mesh between two clusters. The folder goes when the test passed.
pub(crate) struct Rig {
    pub(crate) mesh: Mesh,
    pub(crate) api: Api,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) flow: String,
    folder: PathBuf,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How records are sent that come in small batches.
pub(crate) const FIVE_A_BATCH: [(&str, &str); 2] = [("batch.num.messages", "5"), ("linger.ms", "50")];

/// Records so old that are told apart by keys in their order, too large to be put together.
pub(crate) fn large(numbers: std::ops::Range<usize>, age_ms: i64) -> Vec<Plain> {
    let record = |n: usize| Plain {
        key: Some(format!("{n:06}").into_bytes()),
        value: Some(random_bytes(1_000 + n % 100)),
        timestamp_ms: now_ms() - age_ms,
    };
    numbers.map(record).collect()
}

/// These with headers: one that tells them apart, one without a value, one name twice; every fifth has none.
pub(crate) fn with_headers(records: Vec<Plain>) -> Vec<Record> {
    let headed = |(n, plain): (usize, Plain)| {
        let mut record = Record::from(plain);
        if n % 5 != 4 {
            let values = [("n", Some(n.to_string())), ("null", None), ("n", Some("again".to_owned()))];
            record.headers =
                values.map(|(name, value)| (name.to_owned(), value.map(String::into_bytes))).into();
        }
        record
    };
    records.into_iter().enumerate().map(headed).collect()
}

/// The same records in the same order, with all that is in them.
pub(crate) fn exactly(found: &[Record], wanted: &[Record]) -> Result<()> {
    let differs = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
    let at = differs.unwrap_or_else(|| found.len().min(wanted.len()));
    let (count, of) = (found.len(), wanted.len());
    let (found_there, wanted_there) = (found.get(at), wanted.get(at));
    ensure!(
        found == wanted,
        "{count} records, {of} wanted; number {at} is {found_there:?}, wanted {wanted_there:?}"
    );
    Ok(())
}

/// A name that no other test uses.
pub(crate) fn unique(word: &str) -> String {
    format!("{word}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

impl Rig {
    /// A mesh between the clusters that all tests share.
    pub(crate) async fn shared(spec: MeshSpec) -> Result<Self> {
        let pair = mirrormesh_testkit::shared::shared_pair().await?;
        Self::between(&pair.source, &pair.target, spec).await
    }

    /// A mesh between two clusters, with both made known to it.
    pub(crate) async fn between(source: &Cluster, target: &Cluster, spec: MeshSpec) -> Result<Self> {
        Self::at(("uk", source.bootstrap()), ("hq", target.bootstrap()), spec).await
    }

    /// A mesh between two addresses, under these names.
    pub(crate) async fn at(source: (&str, String), target: (&str, String), spec: MeshSpec) -> Result<Self> {
        let flow = unique("flow");
        let folder = std::env::temp_dir().join(format!("mirrormesh-it-{flow}"));
        let mesh = Mesh::start(&folder, &spec).await?;
        let mut api = mesh.api()?;
        for (name, bootstrap) in [&source, &target] {
            api.create_cluster(name, bootstrap).await?;
        }
        let (source, target) = (source.1, target.1);
        Ok(Self { mesh, api, source, target, flow, folder })
    }

    /// Starts a flow with unchanged names for these topics.
    pub(crate) async fn mirror(&mut self, include: &[&str]) -> Result<v1::Flow> {
        let flow = identity(include);
        Ok(self.api.create_flow(&self.flow.clone(), flow).await?)
    }

    /// Waits until every partition runs and nothing is left to copy.
    pub(crate) async fn caught_up(&mut self, partitions: i64) -> Result<()> {
        let caught_up = |flow: &v1::Flow| {
            flow.progress.as_ref().is_some_and(|p| {
                p.partitions == partitions && p.partitions_running == partitions && p.lag_records == Some(0)
            })
        };
        let flow = self.flow.clone();
        let waited = self.api.wait_for_flow(&flow, "caught up", PATIENCE, caught_up).await;
        if let Err(error) = waited {
            let topics = self.api.flow_topics(&flow).await;
            return Err(error.context(format!("{topics:#?}\n{}", self.mesh.log_tails())));
        }
        Ok(())
    }

    /// Waits until the target holds so many records in these topics.
    pub(crate) async fn arrived(&self, topics: &[&str], records: u64) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // A broker that is down for the test's purpose gives no count.
            let count = probe::count(&self.target, topics).await.unwrap_or(0);
            if count >= records {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "{count} of {records} records arrived\n{}",
                self.mesh.log_tails()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Pauses the flow and waits until nothing of it runs.
    pub(crate) async fn pause(&mut self) -> Result<()> {
        let id = self.flow.clone();
        self.api.pause_flow(&id).await?;
        let paused = |flow: &v1::Flow| flow.state() == v1::flow::State::Paused;
        self.api.wait_for_flow(&id, "paused", PATIENCE, paused).await.map(drop)
    }

    /// Sets the flow's record options.
    pub(crate) async fn set_records(&mut self, options: v1::RecordOptions) -> Result<()> {
        let name = format!("flows/{}", self.flow);
        let flow = v1::Flow { name, records: Some(options), ..v1::Flow::default() };
        Ok(self.api.update_flow(flow, &["records"]).await.map(drop)?)
    }

    /// One partition as the API shows it.
    pub(crate) async fn partition(&mut self, topic: &str, partition: i32) -> Result<v1::FlowPartition> {
        let topics = self.api.flow_topics(&self.flow.clone()).await?.topics;
        let name = format!("flows/{}/topics/{topic}", self.flow);
        let found = topics.into_iter().find(|t| t.name == name).with_context(|| format!("no {name}"))?;
        let found = found.partitions.into_iter().find(|p| p.partition == partition);
        found.with_context(|| format!("no partition {partition} of {name}"))
    }

    /// Waits until the status says how the first partition of a topic is delivered, and why.
    pub(crate) async fn delivered(&mut self, topic: &str, delivery: Delivery, reason: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let partition = self.partition(topic, 0).await?;
            if (partition.delivery(), partition.delivery_reason.as_str()) == (delivery, reason) {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "never {reason}: {partition:#?}\n{}",
                self.mesh.log_tails()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The worker that has a partition now.
    pub(crate) async fn owner(&mut self, topic: &str, partition: i32) -> Result<String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let worker = self.partition(topic, partition).await?.worker;
            if let Some(name) = worker.strip_prefix("workers/") {
                return Ok(name.to_owned());
            }
            ensure!(tokio::time::Instant::now() < deadline, "{topic}/{partition} has no worker");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The generation under which a partition is written now.
    pub(crate) async fn generation(&mut self, topic: &str, partition: i32) -> Result<v1::Generation> {
        self.partition(topic, partition).await?.generation.context("no generation")
    }

    /// Both clusters hold the same in these topics, record by record, and not nothing.
    pub(crate) async fn equal(&self, topics: &[&str], records: u64) -> Result<()> {
        let pairs: Vec<TopicPair> = topics.iter().map(|&t| TopicPair::same(t)).collect();
        let comparison =
            checker::compare(&self.source, &self.target, &pairs, &checker::Options::default()).await?;
        ensure!(comparison.is_equal(), "{comparison}\n{}", self.mesh.log_tails());
        let compared = comparison.totals.matched;
        ensure!(compared == records, "{compared} records compared, {records} expected");
        Ok(())
    }

    /// Partition 0 of the target holds these records in this order and nothing else, whatever the source holds by now.
    pub(crate) async fn holds_exactly(&self, topic: &str, wanted: &[Record]) -> Result<()> {
        exactly(&probe::read_whole(&self.target, topic).await?, wanted).with_context(|| topic.to_owned())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _gone = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Waits for an event of the flow with this reason.
pub(crate) async fn event(rig: &mut Rig, reason: &str) -> Result<v1::FlowEvent> {
    event_where(rig, reason, |_| true).await
}

/// Waits for an event of the flow with this reason about this topic, or a partition of it.
pub(crate) async fn event_of(rig: &mut Rig, reason: &str, topic: &str) -> Result<v1::FlowEvent> {
    event_where(rig, reason, |e| e.subject.split('/').next() == Some(topic)).await
}

async fn event_where(
    rig: &mut Rig,
    reason: &str,
    wanted: impl Fn(&v1::FlowEvent) -> bool,
) -> Result<v1::FlowEvent> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let id = rig.flow.clone();
    loop {
        let events = rig.api.flow_events(&id).await?.events;
        if let Some(event) = events.iter().find(|e| e.reason == reason && wanted(e)) {
            return Ok(event.clone());
        }
        let late = tokio::time::Instant::now() >= deadline;
        ensure!(!late, "no event {reason}, but {events:#?}\n{}", rig.mesh.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Kills the only worker while records flow, so that its positions are behind what it mirrored.
pub(crate) async fn die_while_writing(rig: &mut Rig, topic: &str, records: Vec<Plain>) -> Result<()> {
    die_while_writing_whole(rig, topic, records.into_iter().map(Record::from).collect()).await
}

/// As [`die_while_writing`], with headers.
pub(crate) async fn die_while_writing_whole(rig: &mut Rig, topic: &str, records: Vec<Record>) -> Result<()> {
    let before = probe::count(&rig.target, &[topic]).await?;
    let source = rig.source.clone();
    let settings = [("batch.size", "200"), ("linger.ms", "0")];
    let sending = probe::send_records(&source, &settings, (topic, 0), records);
    let dying = async {
        rig.arrived(&[topic], before + 20).await?;
        rig.mesh.signal_worker("source-1", Signal::Kill)
    };
    let (sent, died) = tokio::join!(sending, dying);
    sent?;
    died
}

/// Reads one figure of a worker's `/metrics`, summed over the lines that begin with `name` and hold `label`.
pub(crate) async fn metric(rig: &Rig, worker: &str, name: &str, label: &str) -> Result<f64> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = rig.mesh.worker_metrics(worker).context("no such worker")?;
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    let values = lines.filter_map(|line| line.rsplit(' ').next());
    Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Bytes that don't compress, the same for the same length.
pub(crate) fn random_bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ length as u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A flow with unchanged names.
pub(crate) fn identity(include: &[&str]) -> v1::Flow {
    v1::Flow {
        source: "clusters/uk".to_owned(),
        target: "clusters/hq".to_owned(),
        topics: Some(v1::TopicSelection {
            include: include.iter().map(|&s| s.to_owned()).collect(),
            exclude: Vec::new(),
        }),
        naming: Some(v1::Naming { policy: Some(v1::naming::Policy::Identity(v1::IdentityNaming {})) }),
        records: Some(v1::RecordOptions { heartbeat_topics: Some(false), ..v1::RecordOptions::default() }),
        discovery_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..v1::Flow::default()
    }
}

/// A topic's plan: records of every kind.
pub(crate) fn plan(name: &str, partitions: i32, records: u64, codec: Codec) -> TopicPlan {
    TopicPlan::new(name, partitions, records).codec(codec).value_bytes(100).mixed()
}

/// Makes the topics that are missing and starts producing.
pub(crate) async fn produce(bootstrap: &str, topics: Vec<TopicPlan>, rate: Option<u64>) -> Result<Run> {
    let seed = u64::from(NUMBER.fetch_add(1, Ordering::Relaxed)) + 1_000;
    println!("workload seed {seed}");
    let mut workload = Workload::new(seed);
    for plan in topics {
        if probe::end_offsets(bootstrap, &plan.name).await?.is_empty() {
            create_topic(bootstrap, &plan.name, plan.partitions).await?;
        }
        workload = workload.topic(plan);
    }
    if let Some(rate) = rate {
        workload = workload.rate(rate);
    }
    // Recent, so that targets surely remember who wrote; and no two workloads of one topic alike.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    workload.first_timestamp_ms(i64::try_from(now)? - 3_600_000).start(bootstrap)
}
