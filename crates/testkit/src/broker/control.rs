//! What a test does to a fake cluster behind the clients' backs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use uuid::Uuid;

use super::batch::Batch;
use super::fault::{Api, Rule, RuleId};
use super::log::Marker;
use super::partition::Partition;
use super::state::State;
use super::view::PartitionView;
use super::{FakeCluster, config, topics};

/// Faults.
impl FakeCluster {
    /// Adds a rule. Of the rules with the same scope the oldest one strikes, until it is used up.
    pub fn script(&self, rule: Rule) -> RuleId {
        self.shared.change(|state| state.faults.add(rule))
    }

    /// Takes a rule back.
    pub fn unscript(&self, rule: RuleId) {
        self.shared.change(|state| state.faults.remove(rule));
    }

    /// Takes all rules back.
    pub fn clear_script(&self) {
        self.shared.change(|state| state.faults.clear());
    }

    /// How often a rule struck.
    pub fn fired(&self, rule: RuleId) -> u32 {
        self.shared.look(|state| state.faults.fired(rule))
    }

    /// How many requests of a kind came, struck ones included.
    pub fn requests(&self, api: Api) -> u64 {
        self.shared.look(|state| state.faults.requests(api))
    }

    /// Returns when `done` says so; woken by every change. An error after `timeout`.
    pub async fn wait_until(&self, timeout: Duration, done: impl Fn(&Self) -> bool) -> Result<()> {
        let mut bell = self.shared.bell();
        tokio::time::timeout(timeout, async {
            while !done(self) {
                // The bell lives as long as the cluster.
                let _ = bell.changed().await;
            }
        })
        .await
        .context("the fake cluster did not come to the state that was waited for")
    }
}

/// Nodes.
impl FakeCluster {
    /// The node is gone with its connections; others take over its partitions if they are in sync.
    pub fn stop_node(&self, node: i32) -> Result<()> {
        self.hang_up(node)?;
        self.shared.change(|state| {
            let found = state.nodes.get_mut(&node).context("no such node")?;
            found.up = false;
            found.paused_since = None;
            Ok(())
        })
    }

    /// The node is back with the same address. Where it holds the only replica, the broker's memory is made anew from
    /// the log, as after a crash: producers of which nothing is left, and expired
    /// ones, are forgotten; of the others only the last batch is recognised as a repeat.
    pub async fn start_node(&self, node: i32) -> Result<()> {
        self.shared.change(|state| {
            let (now_ms, expiration_ms) = (state.now_ms(), state.expiration_ms());
            let partitions = state.topics.values_mut().flat_map(|topic| &mut topic.partitions);
            for partition in partitions.filter(|partition| partition.replicas == [node]) {
                partition.log.restart(now_ms, expiration_ms);
            }
        });
        self.listen(node).await
    }

    /// The node stands still: it takes connections and bytes and does nothing. After `replica.lag.time.max.ms` its
    /// replicas count as out of sync.
    pub fn pause_node(&self, node: i32) -> Result<()> {
        self.set_pause(node, Some(Instant::now()))
    }

    /// The node goes on.
    pub fn resume_node(&self, node: i32) -> Result<()> {
        self.set_pause(node, None)
    }

    fn set_pause(&self, node: i32, since: Option<Instant>) -> Result<()> {
        self.shared.change(|state| {
            state.nodes.get_mut(&node).context("no such node")?.paused_since = since;
            Ok(())
        })
    }
}

/// Topics.
impl FakeCluster {
    /// Makes a topic; its id.
    pub fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        replicas: i16,
        configs: &[(&str, &str)],
    ) -> Result<Uuid> {
        for (setting, value) in configs {
            if !config::is_valid(setting, value) {
                bail!("{setting}={value} is no topic setting that the fake broker knows");
            }
        }
        let owned = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.shared.change(|state| {
            let layout = topics::spread(state, 0, partitions, replicas);
            let made = layout.and_then(|layout| topics::create(state, name, layout, owned.collect(), false));
            made.map_err(|code| anyhow::anyhow!("topic {name} cannot be made: error {code}"))?;
            state.topics.get(name).map(|topic| topic.id).context("the topic is not there")
        })
    }

    /// Removes a topic.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.shared.change(|state| state.topics.remove(name).map(drop)).context("no such topic")
    }

    /// Removes a topic and makes it anew, empty, with the same partitions and settings; its new id.
    pub fn recreate_topic(&self, name: &str) -> Result<Uuid> {
        self.shared.change(|state| {
            let old = state.topics.remove(name).context("no such topic")?;
            let layout = old.partitions.into_iter().map(|partition| partition.replicas).collect();
            topics::create(state, name, layout, old.configs, false)
                .map_err(|code| anyhow::anyhow!("topic {name} cannot be made anew: error {code}"))?;
            state.topics.get(name).map(|topic| topic.id).context("the topic is not there")
        })
    }

    /// Changes a topic's setting.
    pub fn set_topic_config(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        if !config::is_valid(name, value) {
            bail!("{name}={value} is no topic setting that the fake broker knows");
        }
        self.shared.change(|state| {
            let topic = state.topics.get_mut(topic).context("no such topic")?;
            topic.configs.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
    }

    /// Changes a server property.
    pub fn set_property(&self, name: &str, value: &str) {
        self.shared.change(|state| state.properties.insert(name.to_owned(), value.to_owned()));
    }
}

/// Partitions.
impl FakeCluster {
    /// What a partition is like now.
    pub fn partition(&self, topic: &str, partition: i32) -> Result<PartitionView> {
        self.shared.look(|state| {
            let id = state.topics.get(topic).map(|topic| topic.id);
            let found = state.partition(topic, partition);
            let (Some(topic_id), Some(found)) = (id, found) else { bail!("no {topic}-{partition}") };
            let log = &found.log;
            Ok(PartitionView {
                topic_id,
                leader: found.leader,
                leader_epoch: found.leader_epoch,
                replicas: found.replicas.clone(),
                isr: found.isr.clone(),
                log_start: log.log_start,
                high_watermark: log.high_watermark,
                last_stable_offset: log.last_stable_offset(),
                log_end: log.log_end,
                epochs: log.epochs.clone(),
                batches: log.batches.iter().cloned().collect(),
                aborted: log.aborted.clone(),
                producers: log.producers.states().clone(),
            })
        })
    }

    /// Moves the leadership to a replica under a new epoch. If it has less of the log, the rest is gone.
    pub fn move_leader(&self, topic: &str, partition: i32, node: i32) -> Result<()> {
        self.with(topic, partition, |_, partition| {
            if !partition.is_replica(node) {
                bail!("node {node} holds no replica");
            }
            partition.lead(node);
            Ok(())
        })
    }

    /// An unclean election: the new leader has the log up to `log_end` only. What its producers were told is gone with
    /// the rest.
    pub fn unclean_election(&self, topic: &str, partition: i32, node: i32, log_end: i64) -> Result<()> {
        self.with(topic, partition, |_, partition| {
            partition.truncate(log_end);
            partition.lead(node);
            partition.isr = vec![node];
            Ok(())
        })
    }

    /// From now on the high watermark stays where it is while appends go on, until [`Self::release_high_watermark`].
    /// Appends that wait for all replicas wait.
    pub fn hold_high_watermark(&self, topic: &str, partition: i32) -> Result<()> {
        self.with(topic, partition, |_, partition| {
            partition.held = true;
            Ok(())
        })
    }

    /// The replicas catch up.
    pub fn release_high_watermark(&self, topic: &str, partition: i32) -> Result<()> {
        self.with(topic, partition, |_, partition| {
            partition.held = false;
            Ok(())
        })
    }

    /// Retention: the log begins at `offset`. Producers are remembered until the broker restarts.
    pub fn retain_from(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        self.with(topic, partition, |_, partition| {
            partition.log.advance_start(offset);
            Ok(())
        })
    }

    /// Runs the cleaner over everything below `to`, whatever the topic's policy.
    pub fn compact(&self, topic: &str, partition: i32, to: i64) -> Result<()> {
        self.with(topic, partition, |_, partition| {
            partition.log.compact(to);
            Ok(())
        })
    }

    /// Appends a batch without any check, as it is but for offset and leader epoch: transactional ones, ones with
    /// gaps, damaged ones. Its base offset.
    pub fn append_batch(&self, topic: &str, partition: i32, batch: &Batch) -> Result<i64> {
        self.with(topic, partition, |_, partition| Ok(partition.log.append(batch, partition.leader_epoch)))
    }

    /// Ends a producer's transaction. Its offset.
    pub fn append_marker(
        &self,
        topic: &str,
        partition: i32,
        producer: (i64, i16),
        marker: Marker,
    ) -> Result<i64> {
        self.with(topic, partition, |now_ms, partition| {
            Ok(partition.log.append_marker(producer, marker, 0, now_ms, partition.leader_epoch))
        })
    }

    /// Forgets a producer, whatever its timestamps; whether it was known.
    pub fn forget_producer(&self, topic: &str, partition: i32, producer_id: i64) -> Result<bool> {
        self.with(topic, partition, |_, partition| Ok(partition.log.producers.forget(producer_id)))
    }

    fn with<R>(
        &self,
        topic: &str,
        index: i32,
        change: impl FnOnce(i64, &mut Partition) -> Result<R>,
    ) -> Result<R> {
        self.shared.change(|state| {
            let now_ms = state.now_ms();
            let partition = state.partition_mut(topic, index);
            change(now_ms, partition.with_context(|| format!("no {topic}-{index}"))?)
        })
    }
}

/// Time.
impl FakeCluster {
    /// The cluster's time in milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.shared.look(State::now_ms)
    }

    /// The cluster's clock stands still at this time; [`Self::advance`] moves it.
    pub fn set_clock(&self, now_ms: i64) {
        self.shared.change(|state| {
            state.clock.fixed_ms = Some(now_ms);
            state.clock.ahead_ms = 0;
        });
    }

    /// The cluster's clock jumps ahead. Producers expire when their check is due (ten minutes apart by default).
    pub fn advance(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.shared.change(|state| state.clock.ahead_ms = state.clock.ahead_ms.saturating_add(ms));
    }

    /// Runs the check for expired producers of all partitions now.
    pub fn expire_producers(&self) {
        self.shared.change(|state| {
            let all: Vec<_> = state
                .topics
                .iter()
                .flat_map(|(name, topic)| (0..).zip(&topic.partitions).map(move |(p, _)| (name.clone(), p)))
                .collect();
            for (topic, partition) in all {
                state.expire_if_due(&topic, partition, true);
            }
        });
    }
}
