//! A strict fake of a Kafka cluster, in this process, for tests that must see into a broker or make it misbehave.
//!
//! Owns the broker's half of Kafka's protocol: every check that a real broker makes of a produced batch, what it
//! remembers of producers, log ends and high watermark apart, leader epochs, transactions, compaction, retention, and
//! faults by script. What it answers is held against real brokers by the conformance suite (`tests/it/conformance`):
//! the same cases run against this fake and against Kafka 4.3 and 3.9. Must not know the product.
//!
//! What is not there: groups, transaction coordinators (transactions are written with their batches and
//! `WriteTxnMarkers` or [`FakeCluster::append_marker`]), fetch sessions, ACLs, TLS, SASL, segments.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use mirrormesh_testkit::broker::{Api, FakeCluster, FakeSpec, Fault, Rule};
//! let cluster = FakeCluster::start(FakeSpec::new("target").nodes(3)).await?;
//! cluster.create_topic("t", 1, 3, &[("min.insync.replicas", "2")])?;
//! // The next two produce requests for t-0 are handled, but their answers are lost with their connections.
//! let lost = cluster.script(Rule::new(Api::Produce, Fault::DropAnswer).partition("t", 0).times(2));
//! // ... let the product work against cluster.bootstrap() ...
//! assert_eq!(cluster.fired(lost), 2);
//! let view = cluster.partition("t", 0)?;
//! assert_eq!(view.log_end, view.high_watermark);
//! # Ok(())
//! # }
//! ```

mod api;
pub mod batch;
mod call;
mod clean;
mod code;
pub mod codec;
mod config;
mod control;
mod fault;
mod log;
mod net;
mod partition;
mod producers;
pub mod records;
mod spec;
mod state;
mod topics;
mod validate;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use crate::ports::PortLease;

pub use fault::{Api, Fault, Rule, RuleId};
pub use log::{Aborted, Marker};
pub use producers::ProducerState;
pub use spec::FakeSpec;
pub use view::PartitionView;

use state::{NodeState, Shared, State};

/// A running fake cluster. Its nodes listen on ports of this machine; they end when it is dropped.
#[derive(Debug)]
pub struct FakeCluster {
    shared: Arc<Shared>,
    nodes: BTreeMap<i32, FakeNode>,
    /// Listeners, with their connections inside, and the clock's tick.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct FakeNode {
    lease: PortLease,
    listener: Mutex<Option<AbortHandle>>,
}

impl FakeCluster {
    /// Starts the nodes; their ids begin at 1. Must be called on a tokio runtime, which then runs them.
    pub async fn start(spec: FakeSpec) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        for id in 1..=spec.nodes {
            nodes.insert(id, FakeNode { lease: PortLease::reserve()?, listener: Mutex::default() });
        }
        let states = nodes.iter().map(|(id, node)| {
            (*id, NodeState { port: node.lease.port(), up: false, crashed: false, paused_since: None })
        });
        let state = State {
            version: spec.version,
            cluster_id: spec.cluster_id,
            nodes: states.collect(),
            topics: BTreeMap::new(),
            properties: spec.properties,
            next_producer_id: 1000,
            faults: fault::Faults::default(),
            clock: state::Clock::default(),
        };
        let cluster = Self { shared: Arc::new(Shared::new(state)), nodes, tasks: Mutex::default() };
        for id in 1..=spec.nodes {
            cluster.listen(id).await?;
        }
        cluster.spawn(net::tick(Arc::clone(&cluster.shared)));
        Ok(cluster)
    }

    /// Bootstrap servers: all nodes, up or not.
    pub fn bootstrap(&self) -> String {
        self.nodes.values().map(|node| node.lease.address()).collect::<Vec<_>>().join(",")
    }

    /// `host:port` of a node.
    pub fn address(&self, node: i32) -> Result<String> {
        Ok(self.node(node)?.lease.address())
    }

    fn node(&self, node: i32) -> Result<&FakeNode> {
        self.nodes.get(&node).with_context(|| format!("the fake cluster has no node {node}"))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.tasks.lock().spawn(task)
    }

    async fn listen(&self, id: i32) -> Result<()> {
        let node = self.node(id)?;
        // The old listener's socket is closed when its task has ended, which takes a moment.
        let old = node.listener.lock().take();
        while old.as_ref().is_some_and(|old| !old.is_finished()) {
            tokio::task::yield_now().await;
        }
        let listener = TcpListener::bind(node.lease.address())
            .await
            .with_context(|| format!("fake node {id} cannot listen at {}", node.lease.address()))?;
        let handle = self.spawn(net::listen(listener, Arc::clone(&self.shared), id));
        *node.listener.lock() = Some(handle);
        self.shared.change(|state| {
            if let Some(node) = state.nodes.get_mut(&id) {
                node.up = true;
            }
        });
        Ok(())
    }

    fn hang_up(&self, id: i32) -> Result<()> {
        let node = self.node(id)?;
        if let Some(handle) = node.listener.lock().as_ref() {
            handle.abort();
        }
        Ok(())
    }
}
