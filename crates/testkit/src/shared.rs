//! Clusters that all tests of one binary share.
//!
//! Statics are never dropped: the watchdog process kills these brokers and removes their data when the test binary
//! ends, in whatever way.

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::kafka::{Cluster, ClusterSpec};

/// Two clusters of one broker each.
#[derive(Debug)]
pub struct Pair {
    /// Where records come from.
    pub source: Cluster,
    /// Where records go to.
    pub target: Cluster,
}

impl Pair {
    /// Starts both at once.
    pub async fn start(source: ClusterSpec, target: ClusterSpec) -> Result<Self> {
        let (source, target) = tokio::try_join!(Cluster::start(source), Cluster::start(target))?;
        Ok(Self { source, target })
    }
}

/// The pair of this process, Kafka 4.3, started by the first call. Tests that share it must take topic and group
/// names from [`crate::topics::unique_name`] and must not stop its brokers.
pub async fn shared_pair() -> Result<&'static Pair> {
    static PAIR: OnceCell<Pair> = OnceCell::const_new();
    PAIR.get_or_try_init(|| Pair::start(ClusterSpec::new("source"), ClusterSpec::new("target"))).await
}
