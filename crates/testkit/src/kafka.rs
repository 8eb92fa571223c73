//! Clusters of real Kafka brokers (`KRaft`, each node broker and controller), on this machine.
//!
//! Owns the nodes' processes, ports and data; must not know what is stored in them. A cluster starts in about a
//! second: the formatted directory and Java's parsed classes are kept from the first start (see `prepare.rs`).

mod archive;
mod launch;
mod node;
mod prepare;
mod probe;
mod properties;
mod spec;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::Rng as _;

use crate::jars::{self, JarDir};
use crate::process::Signal;
use crate::proxy::Proxy;
use crate::watchdog::WatchedDirectory;

use node::Node;
pub use spec::{ClusterSpec, Compiler};

/// A started cluster answers within this time even on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// A broker that was told to end has this long; it hands its partitions over first.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often readiness is asked for.
const READY_STEP: Duration = Duration::from_millis(20);
/// If this variable is set, data directories are kept.
const KEEP_VARIABLE: &str = "MIRRORMESH_KEEP";

/// A running cluster. Brokers are counted from 0; their node ids from 1. Dropping it kills the brokers and removes
/// their data.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    id: String,
    jars: JarDir,
    // Brokers die before their data is removed: fields are dropped in this order.
    nodes: Vec<Node>,
    directory: WatchedDirectory,
}

impl Cluster {
    /// Starts the brokers and waits until all of them answer and know each other.
    pub async fn start(spec: ClusterSpec) -> Result<Self> {
        spec.check()?;
        let version = spec.version;
        let jars = tokio::task::spawn_blocking(move || {
            let jars = jars::ensure(version)?;
            prepare::ensure(&jars)?;
            anyhow::Ok(jars)
        })
        .await
        .context("preparing Kafka was interrupted")??;
        let keep = spec.keep || std::env::var_os(KEEP_VARIABLE).is_some_and(|value| !value.is_empty());
        let directory = match &spec.root {
            None => WatchedDirectory::new(&spec.name, keep)?,
            Some(root) => WatchedDirectory::within(root, &spec.name, keep)?,
        };
        let nodes = (0..spec.brokers).map(|_| Node::reserve(spec.proxied)).collect::<Result<Vec<_>>>()?;
        let cluster = Self { spec, id: random_id(), jars, nodes, directory };
        for index in 0..cluster.broker_count() {
            cluster.format(index)?;
            cluster.start_broker(index)?;
        }
        cluster.wait_ready(START_TIMEOUT).await?;
        Ok(cluster)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Kafka's id of the cluster.
    pub fn cluster_id(&self) -> &str {
        &self.id
    }

    /// The jars that it runs on, for tools of the same version.
    pub fn jars(&self) -> &JarDir {
        &self.jars
    }

    /// The directory with the brokers' data and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// How many brokers it has, running or not.
    pub fn broker_count(&self) -> usize {
        self.nodes.len()
    }

    /// Bootstrap servers for clients; through the proxies if there are any.
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(Node::client_address).collect::<Vec<_>>().join(",")
    }

    /// Bootstrap servers past the proxies, for those who check.
    pub fn direct_bootstrap(&self) -> String {
        self.nodes.iter().map(Node::direct_address).collect::<Vec<_>>().join(",")
    }

    /// The proxy in front of a broker; an error if the cluster has none.
    pub fn proxy(&self, broker: usize) -> Result<&Proxy> {
        self.node(broker)?.proxy().with_context(|| format!("cluster {} is not proxied", self.spec.name))
    }

    /// All proxies: none, or one for each broker.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.nodes.iter().filter_map(Node::proxy)
    }

    /// The process id of a broker, if it runs.
    pub fn pid(&self, broker: usize) -> Option<u32> {
        self.nodes.get(broker)?.pid()
    }

    /// SIGKILL: the broker is gone at once, its data stays.
    pub fn kill(&self, broker: usize) -> Result<()> {
        self.node(broker)?.kill()
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&self, broker: usize) -> Result<()> {
        self.node(broker)?.stop(STOP_TIMEOUT).await
    }

    /// SIGSTOP: the broker stands still with its connections open.
    pub fn pause(&self, broker: usize) -> Result<()> {
        self.node(broker)?.signal(Signal::Stop)
    }

    /// SIGCONT after [`Self::pause`].
    pub fn resume(&self, broker: usize) -> Result<()> {
        self.node(broker)?.signal(Signal::Cont)
    }

    /// Starts a broker that was killed or stopped, with the same ports and data; [`Self::wait_ready`] tells when it
    /// is back.
    pub fn start_broker(&self, broker: usize) -> Result<()> {
        let launch = launch::launch(&self.jars, &self.spec, &self.node_directory(broker))?;
        self.node(broker)?.start(&launch)
    }

    /// Waits until every broker that runs answers and names exactly the running ones as the cluster's members. After
    /// a kill the others name the dead one until its session is over (see [`ClusterSpec`]).
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let expected: Vec<i32> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.pid().is_some())
            .filter_map(|(index, _)| i32::try_from(index + 1).ok())
            .collect();
        if expected.is_empty() {
            bail!("no broker of cluster {} runs", self.spec.name);
        }
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.pid().is_some()) {
            self.wait_broker(index, node, &expected, deadline).await?;
        }
        Ok(())
    }

    async fn wait_broker(
        &self,
        index: usize,
        node: &Node,
        expected: &[i32],
        deadline: Instant,
    ) -> Result<()> {
        loop {
            let seen = probe::brokers(&node.direct_address()).await;
            if seen.as_ref().is_ok_and(|brokers| brokers == expected) {
                return Ok(());
            }
            if let Some(status) = node.exit_status() {
                bail!(
                    "{} ended: {status}; its log ends:\n{}",
                    self.describe(index),
                    self.log_tail(index, 30)
                );
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} is not ready in time: brokers wanted {expected:?}, last answer {seen:?}; its log ends:\n{}",
                    self.describe(index),
                    self.log_tail(index, 30)
                );
            }
            tokio::time::sleep(READY_STEP).await;
        }
    }

    /// The last lines of a broker's log, over all its starts.
    pub fn log_tail(&self, broker: usize, lines: usize) -> String {
        let log = launch::log_file(&self.node_directory(broker));
        crate::process::tail(&log, lines)
            .unwrap_or_else(|error| format!("cannot read {}: {error}", log.display()))
    }

    fn format(&self, broker: usize) -> Result<()> {
        let directory = self.node_directory(broker);
        let text = properties::render(&properties::server(&self.spec, &self.nodes, broker, &directory)?);
        prepare::format(&self.jars, &directory, &text, &self.id, broker + 1)
    }

    fn node_directory(&self, broker: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("broker-{broker}"))
    }

    fn node(&self, broker: usize) -> Result<&Node> {
        self.nodes.get(broker).with_context(|| format!("cluster {} has no broker {broker}", self.spec.name))
    }

    fn describe(&self, broker: usize) -> String {
        format!("broker {broker} of cluster {}", self.spec.name)
    }
}

/// A random id as Kafka writes its own: 16 bytes in base64 for URLs without padding, not beginning with `-`.
fn random_id() -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut rng = rand::rng();
    let mut pick = |count: usize| ALPHABET.get(rng.random_range(0..count)).copied().map_or('A', char::from);
    let mut id: String = (0..21).map(|index| pick(if index == 0 { 62 } else { 64 })).collect();
    // 22 characters hold 132 bits, four too many: the last one may only be a multiple of 16.
    id.push(*['A', 'Q', 'g', 'w'].get(rng.random_range(0..4)).unwrap_or(&'A'));
    id
}
