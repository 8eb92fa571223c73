//! Everything that the fake cluster is at one moment, and the clock.
//!
//! Owns nodes, topics and counters. Changed only through [`Shared::change`], which settles the partitions and wakes
//! who waits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use uuid::Uuid;

use crate::jars::KafkaVersion;

use super::codec::Codec;
use super::config;
use super::fault::Faults;
use super::log::Log;
use super::partition::{Liveness, Partition, Terms};
use super::validate::Rules;

/// Kafka's own default: a day.
const EXPIRATION_MS: i64 = 86_400_000;
/// Kafka's own default: ten minutes.
const EXPIRATION_CHECK_MS: i64 = 600_000;
/// Kafka's own default.
const REPLICA_LAG_MS: i64 = 30_000;

/// A broker.
#[derive(Debug, Clone)]
pub(super) struct NodeState {
    pub(super) port: u16,
    pub(super) up: bool,
    /// It went without writing down what it remembers.
    pub(super) crashed: bool,
    pub(super) paused_since: Option<Instant>,
}

/// A topic.
#[derive(Debug, Clone)]
pub(super) struct Topic {
    pub(super) id: Uuid,
    pub(super) partitions: Vec<Partition>,
    pub(super) configs: BTreeMap<String, String>,
}

/// The cluster.
#[derive(Debug)]
pub(super) struct State {
    pub(super) version: KafkaVersion,
    pub(super) cluster_id: String,
    pub(super) nodes: BTreeMap<i32, NodeState>,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) next_producer_id: i64,
    pub(super) faults: Faults,
    pub(super) clock: Clock,
}

/// Where the time comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock {
    /// Stands still at this time.
    pub(super) fixed_ms: Option<i64>,
    pub(super) ahead_ms: i64,
}

impl Clock {
    fn now_ms(self) -> i64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let base = self.fixed_ms.unwrap_or_else(|| i64::try_from(wall).unwrap_or(0));
        base.saturating_add(self.ahead_ms)
    }
}

impl State {
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    pub(super) fn topic_by_id(&self, id: Uuid) -> Option<&str> {
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.as_str())
    }

    pub(super) fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        self.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)
    }

    pub(super) fn partition_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        self.topics.get_mut(topic)?.partitions.get_mut(usize::try_from(partition).ok()?)
    }

    /// The value of a topic's setting; empty if there is no such topic or setting.
    pub(super) fn setting(&self, topic: &str, name: &str) -> String {
        let Some(topic) = self.topics.get(topic) else { return String::new() };
        let all = config::effective(self.version, &self.properties, &topic.configs);
        all.into_iter().find(|setting| setting.name == name).map(|setting| setting.value).unwrap_or_default()
    }

    fn number(&self, topic: &str, name: &str) -> i64 {
        self.setting(topic, name).parse().unwrap_or(0)
    }

    pub(super) fn in_sync_min(&self, topic: &str) -> usize {
        usize::try_from(self.number(topic, "min.insync.replicas")).unwrap_or(1)
    }

    pub(super) fn rules(&self, topic: &str) -> Rules {
        let size = |name| usize::try_from(self.number(topic, name)).unwrap_or(0);
        Rules {
            message_bytes_max: size("max.message.bytes"),
            segment_bytes: size("segment.bytes"),
            compacted: self.is_compacted(topic),
            log_append_time: self.setting(topic, "message.timestamp.type") == "LogAppendTime",
            before_ms_max: self.number(topic, "message.timestamp.before.max.ms"),
            after_ms_max: self.number(topic, "message.timestamp.after.max.ms"),
            codec: Codec::named(&self.setting(topic, "compression.type")),
        }
    }

    pub(super) fn is_compacted(&self, topic: &str) -> bool {
        self.setting(topic, "cleanup.policy").split(',').any(|policy| policy.trim() == "compact")
    }

    pub(super) fn property(&self, name: &str, default: i64) -> i64 {
        config::number(&self.properties, name, default)
    }

    pub(super) fn verifies_transactions(&self) -> bool {
        let value = self.properties.get("transaction.partition.verification.enable");
        value.is_none_or(|value| value != "false")
    }

    pub(super) fn expiration_ms(&self) -> i64 {
        self.property("producer.id.expiration.ms", EXPIRATION_MS)
    }

    /// Forgets silent producers of a partition if a check is due, as the broker's timer would have done by now.
    pub(super) fn expire_if_due(&mut self, topic: &str, partition: i32, force: bool) {
        let (now_ms, expiration_ms) = (self.now_ms(), self.expiration_ms());
        let interval_ms = self.property("producer.id.expiration.check.interval.ms", EXPIRATION_CHECK_MS);
        let Some(partition) = self.partition_mut(topic, partition) else { return };
        if force || now_ms.saturating_sub(partition.producers_checked_ms) >= interval_ms {
            partition.producers_checked_ms = now_ms;
            partition.log.producers.expire(now_ms, expiration_ms);
        }
    }

    pub(super) fn log_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Log> {
        Some(&mut self.partition_mut(topic, partition)?.log)
    }

    fn liveness(&self) -> BTreeMap<i32, Liveness> {
        let lag_max = Duration::from_millis(
            u64::try_from(self.property("replica.lag.time.max.ms", REPLICA_LAG_MS)).unwrap_or(0),
        );
        let of = |node: &NodeState| match node.paused_since {
            _ if !node.up => Liveness::Down,
            Some(since) if since.elapsed() >= lag_max => Liveness::Lagging,
            Some(_) => Liveness::Paused,
            None => Liveness::Up,
        };
        self.nodes.iter().map(|(id, node)| (*id, of(node))).collect()
    }

    fn settle(&mut self) {
        let liveness = self.liveness();
        let names: Vec<_> = self.topics.keys().cloned().collect();
        for name in names {
            let terms = Terms {
                unclean: self.setting(&name, "unclean.leader.election.enable") == "true",
                in_sync_min: self.in_sync_min(&name),
            };
            let Some(topic) = self.topics.get_mut(&name) else { continue };
            for partition in &mut topic.partitions {
                partition.settle(|node| liveness.get(&node).copied().unwrap_or(Liveness::Down), terms);
            }
        }
    }
}

/// The cluster and a bell that rings at every change.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Looks without changing.
    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock())
    }

    /// Changes, settles and wakes.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = {
            let mut state = self.lock();
            let result = change(&mut state);
            state.settle();
            result
        };
        self.changes.send_modify(|count| *count += 1);
        result
    }

    /// Hears of changes from now on.
    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
