//! What a test says about the cluster that it wants.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::jars::KafkaVersion;

/// How hard Java's compiler tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compiler {
    /// First tier only: the least CPU for brokers that live for seconds or minutes and do little. The default.
    #[default]
    Quick,
    /// All tiers, as in production: for benchmarks.
    Full,
}

/// What to start. `ClusterSpec::new("source")` is one broker of Kafka 4.3.
///
/// Defaults that differ from Kafka's own, all of which [`Self::property`] can override: no topic is created by use,
/// nothing is deleted by retention (`log.retention.ms=-1`), internal topics have 4 partitions and as many replicas as
/// there are brokers (at most 3), a group's first rebalance doesn't wait, and a dead broker's session is over after
/// 6 s instead of 9 (3 s if it is the only one): a killed broker is taken back only then.
#[derive(Debug, Clone)]
pub struct ClusterSpec {
    /// A short name for messages and directories.
    pub name: String,
    /// 1 or 3, each a controller too.
    pub brokers: usize,
    /// Which Kafka.
    pub version: KafkaVersion,
    /// Server properties that override all others.
    pub properties: BTreeMap<String, String>,
    /// Whether clients reach the brokers through proxies.
    pub proxied: bool,
    /// Each broker's largest heap in MiB.
    pub heap_mb: u32,
    /// How hard Java's compiler tries.
    pub compiler: Compiler,
    /// Whether data and logs stay when the cluster is dropped (also with `MIRRORMESH_KEEP=1`).
    pub keep: bool,
    /// Where the directory for data and logs is made; the system's place for temporary files if not said.
    pub root: Option<PathBuf>,
}

impl ClusterSpec {
    /// One broker of the newest Kafka, 512 MiB of heap, no proxies.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            brokers: 1,
            version: KafkaVersion::default(),
            properties: BTreeMap::new(),
            proxied: false,
            heap_mb: 512,
            compiler: Compiler::default(),
            keep: false,
            root: None,
        }
    }

    /// Sets how many brokers: 1 or 3.
    #[must_use]
    pub fn brokers(mut self, brokers: usize) -> Self {
        self.brokers = brokers;
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn version(mut self, version: KafkaVersion) -> Self {
        self.version = version;
        self
    }

    /// Sets a server property, over any default.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Puts a proxy in front of each broker.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Sets the largest heap of each broker.
    #[must_use]
    pub fn heap_mb(mut self, heap_mb: u32) -> Self {
        self.heap_mb = heap_mb;
        self
    }

    /// Sets how hard Java's compiler tries.
    #[must_use]
    pub fn compiler(mut self, compiler: Compiler) -> Self {
        self.compiler = compiler;
        self
    }

    /// Leaves data and logs behind.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// Makes the directory for data and logs in this one, which must exist.
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let name = &self.name;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            bail!("a cluster's name may hold only letters, digits and `-`: {name:?}");
        }
        if !matches!(self.brokers, 1 | 3) {
            bail!("cluster {name} can have 1 or 3 brokers, not {}", self.brokers);
        }
        if self.heap_mb < 128 {
            bail!("cluster {name}: a broker needs 128 MiB of heap at least, not {}", self.heap_mb);
        }
        Ok(())
    }
}
