//! What the units of one flow share in one worker: clients, fetchers, senders, the positions topic.
//!
//! Lives as long as one unit holds it; its tasks end with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use mirrormesh_core::ids::{FlowId, TopicName};
use mirrormesh_core::unit::{AssignedFlow, ClusterSpec};
use mirrormesh_kafka::client::metadata::Leader;
use mirrormesh_kafka::memory::{Budget, Share};
use mirrormesh_kafka::{Client, ConnectionRole};
use mirrormesh_runtime::complaint::OncePerMinute;
use mirrormesh_worker::{ClusterCheck, Failure, FlowView, client_config, cluster_name};
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::Settings;
use crate::ends::EndWatch;
use crate::facts::SettingsCache;
use crate::fetcher::{Fetcher, FetcherLimits};
use crate::internal::InternalWriter;
use crate::memory::PartitionMemory;
use crate::metrics::Metrics;
use crate::positions::{PositionReader, PositionStore};
use crate::registry::{Registries, RegistryStore};
use crate::sender::{Acknowledging, Lanes, Sender};
use crate::throttle::{PartitionThrottle, Throttles, TopicRow};

/// A link is shared by units of one flow with the same clusters.
pub(crate) type LinkKey = (FlowId, ClusterSpec, ClusterSpec);

/// The link.
#[derive(Debug)]
pub(crate) struct FlowLink {
    /// Whether both clusters are known; nothing is written before.
    pub(crate) clusters: ClusterCheck,
    /// The source cluster.
    pub(crate) source: Client,
    /// The target cluster.
    pub(crate) target: Client,
    /// Settings of source topics.
    pub(crate) source_settings: SettingsCache,
    /// Settings of target topics and brokers.
    pub(crate) target_settings: SettingsCache,
    /// Counts changes of either.
    pub(crate) settings_changes: watch::Sender<u64>,
    /// The flow's positions.
    pub(crate) positions: PositionStore,
    /// Who writes to the source cluster.
    pub(crate) source_registry: RegistryStore,
    /// Who writes to the target cluster.
    pub(crate) target_registry: RegistryStore,
    /// Writes to internal topics of the target.
    pub(crate) writer: Arc<InternalWriter>,
    /// Ends of source partitions that don't fetch.
    pub(crate) ends: EndWatch,
    /// Limits a line of the log that all partitions may write: positions can't be written.
    pub(crate) positions_line: OncePerMinute,
    /// Limits a line of the log that all partitions may write: they wait.
    pub(crate) waiting_line: OncePerMinute,
    /// How fast it may copy.
    pub(crate) throttles: Arc<Throttles>,
    /// Instruments.
    pub(crate) metrics: Arc<Metrics>,
    /// For single questions, apart from what is fetched for mirroring: that may wait for a target that is stalled.
    pub(crate) question_memory: Share,
    limits: FetcherLimits,
    // Locks: held only to look up or insert, never over an await.
    fetchers: Mutex<HashMap<(i32, bool), Arc<Fetcher>>>,
    senders: Mutex<HashMap<(i32, ConnectionRole), Arc<Sender>>>,
    /// Which of them a partition goes through.
    lanes: Mutex<Lanes>,
    /// How quickly each target broker acknowledges partitions that it is not slow with.
    acknowledging: Mutex<HashMap<i32, Acknowledging>>,
    topic_rows: Mutex<BTreeMap<TopicName, Weak<TopicRow>>>,
}

/// A client of one end of a flow, which messages call `name`; it connects when it is used.
pub(crate) fn client(role: &str, name: &str, flow: &FlowId, spec: &ClusterSpec) -> Result<Client, Failure> {
    Ok(Client::new(client_config(name, spec, &format!("mirrormesh-{role}-{flow}"))?)?)
}

impl FlowLink {
    /// Makes the clients; connects to nothing.
    pub(crate) fn new(
        flow_id: &FlowId,
        (flow, changes): (&AssignedFlow, watch::Receiver<Arc<FlowView>>),
        clusters: (&ClusterSpec, &ClusterSpec),
        settings: &Settings,
        budget: &Arc<Budget>,
        metrics: &Arc<Metrics>,
        registries: &Registries,
    ) -> Result<Self, Failure> {
        let source = client("source", &cluster_name(&flow.spec.source), flow_id, clusters.0)?;
        let target = client("target", &cluster_name(&flow.spec.target), flow_id, clusters.1)?;
        let writer = Arc::new(InternalWriter::new(target.clone()));
        let factor = flow.spec.internal_replication_factor;
        let throttles = Arc::new(Throttles::new(
            KeyValue::new("flow", flow_id.as_str().to_owned()),
            changes,
            Arc::clone(metrics),
        ));
        let settings_changes = watch::Sender::new(0);
        let registry = |client: &Client, spec| RegistryStore::new(client.clone(), spec, factor, registries);
        Ok(Self {
            clusters: ClusterCheck::default(),
            positions: PositionStore::new(
                PositionReader::new(flow_id.clone(), flow.spec.positions_topic(), target.clone()),
                factor,
                Arc::clone(&writer),
            ),
            source_registry: registry(&source, clusters.0),
            target_registry: registry(&target, clusters.1),
            writer,
            source_settings: SettingsCache::start(source.clone(), settings_changes.clone()),
            target_settings: SettingsCache::start(target.clone(), settings_changes.clone()),
            settings_changes,
            ends: EndWatch::start(source.clone()),
            positions_line: OncePerMinute::default(),
            waiting_line: OncePerMinute::default(),
            source,
            target,
            throttles: Arc::clone(&throttles),
            topic_rows: Mutex::new(BTreeMap::new()),
            metrics: Arc::clone(metrics),
            question_memory: budget.share(),
            limits: FetcherLimits {
                read_committed: true,
                fetch_bytes: i32::try_from(settings.fetch_bytes).unwrap_or(i32::MAX),
                partition_bytes: i32::try_from(settings.partition_fetch_bytes).unwrap_or(i32::MAX),
                memory: budget.share(),
                throttles,
            },
            fetchers: Mutex::new(HashMap::new()),
            senders: Mutex::new(HashMap::new()),
            lanes: Mutex::default(),
            acknowledging: Mutex::new(HashMap::new()),
        })
    }

    /// The throttles as a partition of this topic meets them.
    pub(crate) fn throttle(&self, topic: &TopicName) -> Arc<PartitionThrottle> {
        let mut rows = self.topic_rows.lock();
        let row = rows.get(topic).and_then(Weak::upgrade).unwrap_or_default();
        rows.insert(topic.clone(), Arc::downgrade(&row));
        Arc::new(PartitionThrottle::new(Arc::clone(&self.throttles), topic.clone(), row))
    }

    /// The memory of one partition.
    pub(crate) fn memory(&self) -> Arc<PartitionMemory> {
        PartitionMemory::new(self.limits.memory.clone())
    }

    /// The fetcher of a source broker, for one way of reading.
    pub(crate) fn fetcher(&self, node_id: i32, read_committed: bool) -> Arc<Fetcher> {
        let mut fetchers = self.fetchers.lock();
        let limits = FetcherLimits { read_committed, ..self.limits.clone() };
        let start = || Arc::new(Fetcher::start(self.source.clone(), node_id, limits));
        Arc::clone(fetchers.entry((node_id, read_committed)).or_insert_with(start))
    }

    /// The sender for a partition of the target that this broker leads. `slow`: the broker was slow with it lately.
    pub(crate) fn sender(&self, leader: &Leader, topic: &str, partition: i32, slow: bool) -> Arc<Sender> {
        let node_id = leader.node_id;
        let place = spread(topic).wrapping_add(u32::from_ne_bytes(partition.to_ne_bytes()));
        let mut lanes = self.lanes.lock();
        let lane = lanes.lane(node_id, leader.replica_set, place, slow);
        drop(lanes);
        let mut senders = self.senders.lock();
        senders.retain(|_, sender| !sender.is_over());
        let start = || {
            // Where partitions are slow, the time-outs of others must not grow with theirs.
            let known = if slow { Acknowledging::new() } else { self.acknowledging(node_id) };
            Arc::new(Sender::start(self.target.clone(), node_id, lane, known))
        };
        let sender = Arc::clone(senders.entry((node_id, lane)).or_insert_with(start));
        if slow {
            sender.expect_slow();
        }
        sender
    }

    fn acknowledging(&self, node_id: i32) -> Acknowledging {
        let mut known = self.acknowledging.lock();
        known.entry(node_id).or_insert_with(Acknowledging::new).clone()
    }
}

/// Any stable hash does; it only spreads topics over lanes.
fn spread(text: &str) -> u32 {
    text.bytes().fold(0, |hash: u32, b| hash.wrapping_mul(31).wrapping_add(u32::from(b)))
}
