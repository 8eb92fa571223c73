//! A partition: its log and who holds it.
//!
//! Owns leadership, the in-sync set and how far each replica has come. The log exists once: a replica is an offset up
//! to which it has the log, so a leader that has less truncates it.

use std::collections::BTreeMap;

use super::log::Log;

/// What the replicas' nodes are like at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    Down,
    /// Stands still; for a short time it still counts as in sync.
    Paused,
    /// Stands still for so long that it counts as out of sync.
    Lagging,
    Up,
}

/// The partition.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    pub(super) log: Log,
    pub(super) leader: Option<i32>,
    pub(super) leader_epoch: i32,
    pub(super) replicas: Vec<i32>,
    pub(super) isr: Vec<i32>,
    /// How much of the log each replica has.
    ends: BTreeMap<i32, i64>,
    /// The test holds the high watermark where it is.
    pub(super) held: bool,
    /// Until the high watermark has passed it, the newest offset is not told.
    pub(super) epoch_start: i64,
    pub(super) producers_checked_ms: i64,
}

/// What an election depends on besides the partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) unclean: bool,
    /// With fewer replicas in sync the high watermark stays where it is (KIP-966).
    pub(super) in_sync_min: usize,
}

impl Partition {
    pub(super) fn new(replicas: Vec<i32>, now_ms: i64) -> Self {
        let mut log = Log::default();
        log.begin_epoch(0);
        Self {
            log,
            leader: replicas.first().copied(),
            leader_epoch: 0,
            isr: replicas.clone(),
            ends: replicas.iter().map(|replica| (*replica, 0)).collect(),
            replicas,
            held: false,
            epoch_start: 0,
            producers_checked_ms: now_ms,
        }
    }

    /// Elects a leader where there is none that lives, lets replicas catch up, moves the high watermark.
    pub(super) fn settle(&mut self, liveness: impl Fn(i32) -> Liveness, terms: Terms) {
        let led = self.leader.is_some_and(|leader| liveness(leader) != Liveness::Down);
        if !led {
            self.elect(&liveness, terms.unclean);
        }
        let Some(leader) = self.leader else { return };
        let is_out = |replica: i32| matches!(liveness(replica), Liveness::Down | Liveness::Lagging);
        self.isr.retain(|replica| *replica == leader || !is_out(*replica));
        for replica in &self.replicas {
            let follows = liveness(*replica) == Liveness::Up && !self.held;
            if *replica == leader || follows {
                self.ends.insert(*replica, self.log.log_end);
                if !self.isr.contains(replica) {
                    self.isr.push(*replica);
                }
            }
        }
        if self.held || self.isr.len() < terms.in_sync_min {
            return;
        }
        let lowest = self.isr.iter().filter_map(|replica| self.ends.get(replica)).min();
        let reached = lowest.copied().unwrap_or(0).min(self.log.log_end);
        self.log.high_watermark = self.log.high_watermark.max(reached);
    }

    fn elect(&mut self, liveness: &impl Fn(i32) -> Liveness, unclean: bool) {
        let lives = |replica: &&i32| liveness(**replica) != Liveness::Down;
        let clean = self.replicas.iter().filter(lives).find(|replica| self.isr.contains(replica)).copied();
        let any = self.replicas.iter().find(lives).copied();
        match clean.or(if unclean { any } else { None }) {
            Some(next) => {
                self.isr.retain(|replica| liveness(*replica) != Liveness::Down);
                if clean.is_none() {
                    self.isr = vec![next];
                }
                self.lead(next);
            }
            // The last one in sync is waited for.
            None if self.leader.is_some() => {
                self.leader = None;
                self.leader_epoch += 1;
            }
            None => {}
        }
    }

    /// Makes a replica the leader under a new epoch: the log ends where its own does.
    pub(super) fn lead(&mut self, replica: i32) {
        let end = self.ends.get(&replica).copied().unwrap_or(0);
        if end < self.log.log_end {
            self.truncate(end);
        }
        self.leader = Some(replica);
        if !self.isr.contains(&replica) {
            self.isr.push(replica);
        }
        self.leader_epoch += 1;
        self.epoch_start = self.log.log_end;
        self.log.begin_epoch(self.leader_epoch);
    }

    /// Cuts the log off for all replicas.
    pub(super) fn truncate(&mut self, offset: i64) {
        self.log.truncate(offset);
        let end = self.log.log_end;
        self.ends.values_mut().for_each(|own| *own = (*own).min(end));
    }

    /// Whether `replica` holds this partition.
    pub(super) fn is_replica(&self, replica: i32) -> bool {
        self.replicas.contains(&replica)
    }
}
