//! Everything that runs: two clusters behind proxies, a mesh, one flow, one topic, and those who watch.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use mirrormesh_proto::v1;
use mirrormesh_testkit::kafka::{Cluster, ClusterSpec};
use mirrormesh_testkit::topics::{Topic, create_topics};
use mirrormesh_testkit::workload::{Run, TopicPlan, Workload};
use tokio::task::JoinSet;

use super::Options;
use super::arrivals::Arrivals;
use super::brokers::Brokers;
use crate::{Api, Mesh, MeshSpec};

/// The flow.
pub(super) const FLOW: &str = "faults";
/// The topic, on both sides.
pub(super) const TOPIC: &str = "load";
/// Random bytes of a value, behind eight that hold the record's number.
const RANDOM_BYTES: usize = 100;
/// Enough for brokers that do little but write.
const HEAP_MB: u32 = 288;
/// Batches are collected for so long: a partition gets some tens of batches a second.
const LINGER_MS: u32 = 20;
/// More records than any run sends: it is stopped when the faults are over.
const ENDLESS: u64 = 10_000_000_000;
/// The longest that a broker can be told to retain producer state, in milliseconds: 24.8 days.
const EXPIRATION_MS_MAX: i32 = i32::MAX;
/// How long the first records may take, and the last ones until the flow says that they are there.
const PATIENCE: Duration = Duration::from_mins(1);

/// What runs.
pub(super) struct Stage {
    pub(super) mesh: Mesh,
    pub(super) api: Api,
    pub(super) source: Brokers,
    pub(super) target: Brokers,
    pub(super) arrivals: Arrivals,
    pub(super) partitions: Vec<i32>,
    /// Brokers that are down or behind; one at most.
    pub(super) restarts: JoinSet<Result<()>>,
    folder: PathBuf,
    began: Instant,
    say: fn(&str),
}

/// What is left for the comparison.
pub(super) struct Clusters {
    pub(super) source: Arc<Cluster>,
    pub(super) target: Arc<Cluster>,
    pub(super) logs: PathBuf,
}

impl Stage {
    pub(super) async fn set_up(options: &Options) -> Result<Self> {
        let began = Instant::now();
        let root = &options.folder;
        std::fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
        let replicas = options.brokers.min(3);
        let spec = |name: &str| {
            ClusterSpec::new(name)
                .brokers(options.brokers)
                .proxied()
                .heap_mb(HEAP_MB)
                .root(root)
                .property("default.replication.factor", replicas.to_string())
                .property("min.insync.replicas", replicas.min(2).to_string())
        };
        let (mut source, mut target) = (spec("source"), spec("target"));
        if !options.record_age.is_zero() {
            // What is judged is how the target forgets. The load's own producer must not double its old records.
            source = source.property("producer.id.expiration.ms", EXPIRATION_MS_MAX.to_string());
        }
        if let Some(check) = options.expiration_check {
            let name = "producer.id.expiration.check.interval.ms";
            target = target.property(name, check.as_millis().to_string());
        }
        let (source, target) = tokio::try_join!(Cluster::start(source), Cluster::start(target))?;
        let replicas = i32::try_from(replicas)?;
        let topic = Topic::new(TOPIC, options.partitions).replicas(replicas);
        create_topics(&source.direct_bootstrap(), &[topic]).await?;
        let folder = root.join(format!("mesh-{}-{}", options.seed, std::process::id()));
        let spec = MeshSpec { coordinators: 3, sources: options.workers, checkpoints: 0, heartbeats: 0 };
        let mesh = Mesh::start(&folder, &spec).await?;
        let mut api = mesh.api()?;
        api.create_cluster("source", &source.bootstrap()).await?;
        api.create_cluster("target", &target.bootstrap()).await?;
        api.create_flow(FLOW, flow(replicas)).await?;
        let arrivals = Arrivals::watch(&target.direct_bootstrap(), TOPIC, options.partitions)?;
        let stage = Self {
            mesh,
            api,
            source: Brokers::new(Arc::new(source))?,
            target: Brokers::new(Arc::new(target))?,
            arrivals,
            partitions: (0..options.partitions).collect(),
            restarts: JoinSet::new(),
            folder,
            began,
            say: options.say,
        };
        stage.say(&format!(
            "two clusters of {} brokers, 3 coordinators, {} source workers; logs are in {}",
            options.brokers,
            options.workers,
            stage.folder.display()
        ));
        Ok(stage)
    }

    /// Starts the workload, which goes on until it is stopped.
    pub(super) fn produce(&self, options: &Options) -> Result<Run> {
        self.say(&format!("{} records a second, seed {}", options.rate, options.seed));
        let plan = TopicPlan::new(TOPIC, options.partitions, ENDLESS).value_bytes(8 + RANDOM_BYTES).random();
        let mut workload = Workload::new(options.seed).rate(options.rate).linger_ms(LINGER_MS).topic(plan);
        if !options.record_age.is_zero() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
            let first = now.saturating_sub(options.record_age);
            workload = workload.first_timestamp_ms(i64::try_from(first.as_millis())?);
        }
        // Past the proxies: what is cut are connections of the mesh.
        workload.start(&self.source.cluster().direct_bootstrap())
    }

    /// Says something with the time since the beginning.
    pub(super) fn say(&self, text: &str) {
        (self.say)(&format!("[{:7.1}s] {text}", self.began.elapsed().as_secs_f64()));
    }

    pub(super) fn log_tails(&self) -> String {
        self.mesh.log_tails()
    }

    /// Waits until records have arrived in every partition.
    pub(super) async fn wait_until_all_flow(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.partitions.iter().all(|p| self.arrivals.flowed(&[*p], PATIENCE)) {
            if Instant::now() > deadline {
                bail!("not every partition has records on the target after {PATIENCE:?}");
            }
            tokio::time::sleep(super::STEP).await;
        }
        Ok(())
    }

    /// Waits until the flow itself says that nothing is left to copy.
    pub(super) async fn wait_until_caught_up(&mut self) -> Result<()> {
        let partitions = i64::try_from(self.partitions.len())?;
        let caught_up = |flow: &v1::Flow| {
            flow.progress.as_ref().is_some_and(|p| {
                p.partitions == partitions && p.partitions_running == partitions && p.lag_records == Some(0)
            })
        };
        self.api.wait_for_flow(FLOW, "caught up", PATIENCE, caught_up).await.map(drop)
    }

    /// What the flow itself says of its progress, beside what is seen on the target.
    pub(super) async fn own_word(&mut self) -> String {
        match self.api.flow(FLOW).await.map(|flow| flow.progress) {
            Ok(Some(p)) => format!(
                "the flow says: {} of {} partitions run, {:?} records of lag",
                p.partitions_running, p.partitions, p.lag_records
            ),
            Ok(None) => "the flow tells no progress".to_owned(),
            Err(error) => format!("the flow doesn't answer: {error}"),
        }
    }

    /// Ends the mesh and those who watch.
    pub(super) fn keep_clusters_only(self) -> Clusters {
        let (source, target) = (Arc::clone(self.source.cluster()), Arc::clone(self.target.cluster()));
        Clusters { source, target, logs: self.folder }
    }
}

fn flow(replicas: i32) -> v1::Flow {
    v1::Flow {
        source: "clusters/source".to_owned(),
        target: "clusters/target".to_owned(),
        topics: Some(v1::TopicSelection { include: vec![TOPIC.to_owned()], exclude: Vec::new() }),
        naming: Some(v1::Naming { policy: Some(v1::naming::Policy::Identity(v1::IdentityNaming {})) }),
        records: Some(v1::RecordOptions { heartbeat_topics: Some(false), ..v1::RecordOptions::default() }),
        checkpoints: Some(v1::CheckpointOptions { enabled: Some(false), interval: None }),
        heartbeats: Some(v1::HeartbeatOptions { enabled: Some(false), interval: None }),
        topic_creation: Some(v1::TopicCreation {
            replication_factor: replicas,
            internal_replication_factor: replicas,
        }),
        ..v1::Flow::default()
    }
}
