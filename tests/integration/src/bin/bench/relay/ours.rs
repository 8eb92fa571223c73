//! Our side of the bench: a mesh of real processes with one coordinator and one source service, default settings.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use mirrormesh_integration::{Api, Mesh, MeshSpec};
use mirrormesh_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::results::Values;
use super::rig::{Rig, Route};

const WORKER: &str = "source-1";

/// A running mesh.
pub(crate) struct Ours {
    mesh: Mesh,
    pub(crate) api: Api,
    /// The source service's process.
    pub(crate) pid: u32,
    folder: PathBuf,
}

/// Naming that gives one topic a name of its own.
pub(crate) fn rename(topic: &str, target_topic: &str) -> v1::Naming {
    let topics = [(topic.to_owned(), target_topic.to_owned())].into();
    v1::Naming { policy: Some(v1::naming::Policy::Rename(v1::RenameNaming { topics })) }
}

/// Naming that leaves all names as they are.
pub(crate) fn identity() -> v1::Naming {
    v1::Naming { policy: Some(v1::naming::Policy::Identity(v1::IdentityNaming {})) }
}

impl Ours {
    /// Starts a mesh that knows the clusters `source` and `target`, and its source service.
    pub(crate) async fn start(rig: &Rig, serial: u32, route: &Route) -> Result<Self> {
        let mut ours = Self::without_worker(rig, serial, route).await?;
        ours.start_worker()?;
        Ok(ours)
    }

    /// As [`Self::start`], but the source service does not run yet.
    pub(crate) async fn without_worker(rig: &Rig, serial: u32, route: &Route) -> Result<Self> {
        let folder = rig.folder().join(format!("mesh-{serial}"));
        let spec = MeshSpec { coordinators: 1, sources: 0, checkpoints: 0, heartbeats: 0 };
        let mesh = Mesh::start(&folder, &spec).await?;
        let mut api = mesh.api()?;
        api.create_cluster("source", &route.source).await?;
        api.create_cluster("target", &route.target).await?;
        Ok(Self { mesh, api, pid: 0, folder })
    }

    /// Starts the source service.
    pub(crate) fn start_worker(&mut self) -> Result<()> {
        self.mesh.start_worker(WORKER)?;
        self.pid = self.mesh.worker_pid(WORKER).context("the source service did not start")?;
        Ok(())
    }

    /// Creates a flow from `source` to `target`.
    pub(crate) async fn flow(&mut self, id: &str, include: &str, naming: v1::Naming) -> Result<()> {
        self.flow_to(id, "target", include, naming).await
    }

    /// Creates a flow from `source` to a cluster.
    pub(crate) async fn flow_to(
        &mut self,
        id: &str,
        target: &str,
        include: &str,
        naming: v1::Naming,
    ) -> Result<()> {
        let flow = v1::Flow {
            source: "clusters/source".to_owned(),
            target: format!("clusters/{target}"),
            topics: Some(v1::TopicSelection { include: vec![include.to_owned()], exclude: vec![] }),
            naming: Some(naming),
            ..v1::Flow::default()
        };
        self.api.create_flow(id, flow).await.with_context(|| format!("creating flow {id}"))?;
        Ok(())
    }

    /// Adds what the processes said to a failure.
    pub(crate) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| error.context(format!("the mesh said:\n{}", self.mesh.log_tails())))
    }

    /// What the source service counted: the share of batches that were coalesced, in percent, which shows what it chose
    /// for this data; and how often an answer of the target was lost.
    pub(crate) async fn figures(&self) -> Result<Values> {
        let text = self.metrics().await?;
        let batches = |label| sum(&text, "mirrormesh_batches_total", label);
        let (all, coalesced) = (batches(""), batches("path=\"coalesced\""));
        anyhow::ensure!(
            all > 0.0,
            "the source service has counted no batch: its metrics are named otherwise"
        );
        let lost = sum(&text, "mirrormesh_", "reason=\"ANSWER_LOST\"");
        let share = 100.0 * coalesced / all;
        Ok(Values::from([("batches_out", all), ("coalesced_percent", share), ("answers_lost", lost)]))
    }

    /// The source service's metrics in Prometheus' format.
    async fn metrics(&self) -> Result<String> {
        let address = self.mesh.worker_metrics(WORKER).context("the source service has no metrics")?;
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("asking {address}"))?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Ends all processes and removes what they kept.
    pub(crate) fn end(self) -> Result<()> {
        let Self { mesh, folder, .. } = self;
        drop(mesh);
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }
}

/// The sum of the figures whose line begins with `name` and holds `label`. A counter that never counted has no line.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
