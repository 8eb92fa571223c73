//! What every test needs: a pair of clusters, a mesh of its own, topics of its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use mirrormesh_integration::{Api, Mesh, MeshSpec, probe};
use mirrormesh_proto::v1;
use mirrormesh_testkit::checker::{self, TopicPair};
use mirrormesh_testkit::kafka::Cluster;
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
        let flow = unique("flow");
        let folder = std::env::temp_dir().join(format!("mirrormesh-it-{flow}"));
        let mesh = Mesh::start(&folder, &spec).await?;
        let mut api = mesh.api()?;
        let (source, target) = (source.bootstrap(), target.bootstrap());
        api.create_cluster("uk", &source).await?;
        api.create_cluster("hq", &target).await?;
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
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _gone = std::fs::remove_dir_all(&self.folder);
        }
    }
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
