//! Scripted worlds: every fault stands in the script, so a change of the code doesn't move them as it moves seeds.

use mirrormesh_core::flow::{LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_relay::facts::Facts;
use mirrormesh_relay::machine::Rules;
use mirrormesh_relay::window::Limits;

use crate::kinds::Stored;
use crate::knobs::{Fault, Knobs};
use crate::parts::Event;
use crate::rng::Rng;
use crate::world::World;

/// An owner that died is replaced after so long.
const LEASE_MS: u64 = 500;

impl Knobs {
    /// Default settings on both sides, and nothing happens by itself. Everything takes `delay_ms` from one place to
    /// another.
    pub fn plain() -> Self {
        Self {
            records: usize::MAX,
            facts: Facts::DEFAULT,
            rules: Rules {
                read_uncommitted: false,
                on_loss: LossPolicy::Continue,
                on_oversized: OversizedPolicy::Skip,
                timestamps: TimestampPolicy::Keep,
                skip_mirrored: false,
                require_exactly_once: false,
                sole_writer: true,
            },
            limits: Limits { batches_max: 64, bytes_max: 8 << 20 },
            append_time: false,
            transactions: 0,
            aborts: 0,
            batch_records: 1,
            record_bytes: 8,
            keys: 1,
            old: 0,
            tick_ms: 1,
            fetch_bytes: 20_000,
            delay_ms: 2,
            expiry_check_ms: u64::MAX,
            by_name: false,
            first_source: 0,
            first_target: 0,
            clock_skew_ms: 0,
            fault_every_ms: u64::MAX,
            ghost_ms: 0,
            faults: Vec::new(),
            last_epoch: false,
            loops: false,
            packed: 0,
            stored: Stored::AsSent,
            stale_positions: 0,
            calm: true,
            loses_end: false,
            comes_back: false,
        }
    }
}

/// A scripted world. `SIM_TRACE=1` shows what happens in it.
pub struct Scene {
    pub world: World,
    keys: u32,
}

impl Scene {
    /// Begins with an owner that has mirrored `records` records, each in a batch of its own and so many hours old.
    pub fn new(change: impl FnOnce(&mut Knobs), records: usize, hours: i64) -> Self {
        let mut knobs = Knobs::plain();
        change(&mut knobs);
        let trace = std::env::var_os("SIM_TRACE").is_some();
        let world = World::with(knobs, (Rng::new(1), Rng::new(2)), trace);
        let mut scene = Self { world, keys: 1 };
        scene.world.at(0, Event::Assign);
        scene.wait(100);
        for _ in 0..records {
            scene.produce(1, hours);
            scene.wait(2);
        }
        // Long enough that the position is written.
        scene.wait(8_000);
        scene
    }

    pub fn wait(&mut self, ms: u64) {
        let until = self.world.now + ms;
        while self.world.queue.first_key_value().is_some_and(|((time, _), _)| *time <= until)
            && self.world.step()
        {}
        self.world.now = self.world.now.max(until);
    }

    /// Time passes until so many appends of the owner have no answer.
    pub fn until_in_flight(&mut self, appends: usize) {
        let in_flight = |world: &World| {
            let c = world.owners[world.raft.owner].connection;
            c.is_some_and(|c| world.connections[c].due.len() >= appends)
        };
        let until = self.world.now + 5_000;
        while !in_flight(&self.world) && self.world.now < until && self.world.step() {}
        assert!(in_flight(&self.world), "{appends} appends are never in flight together");
    }

    /// A batch of records that are so many hours old, each with a key of its own.
    pub fn produce(&mut self, records: u32, hours: i64) {
        let keys = self.keys..self.keys + records;
        self.keys = keys.end;
        self.produce_keys(keys, hours);
    }

    /// Batches of one record each.
    pub fn produce_each(&mut self, batches: usize, hours: i64) {
        for _ in 0..batches {
            self.produce(1, hours);
        }
    }

    /// A batch of records with these keys.
    pub fn produce_keys(&mut self, keys: impl Iterator<Item = u32>, hours: i64) {
        let time = self.world.now as i64 - hours * 3_600_000;
        let size = self.world.knobs.record_bytes as u32;
        let records: Vec<_> = keys.map(|key| (key, time, size)).collect();
        self.world.source.append(&records, None, self.world.now as i64);
        self.world.source.high_watermark = self.world.source.end;
    }

    fn connection(&self) -> usize {
        let owner = &self.world.owners[self.world.raft.owner];
        owner.connection.expect("the owner has a connection")
    }

    /// The broker reads nothing from the owner's connection for so long.
    pub fn mute(&mut self, ms: u64) {
        let c = self.connection();
        self.world.connections[c].muted_until = self.world.now + ms;
    }

    /// The owner loses its connection. So many requests of it still arrive, that much later.
    pub fn cut(&mut self, zombies: u64, after_ms: u64) {
        let c = self.connection();
        self.world.next_ghosts = Some((zombies, after_ms));
        self.world.cut(c);
    }

    /// The owner dies, and another one gets the partition. So many requests still arrive, that much later.
    pub fn crash(&mut self, zombies: u64, after_ms: u64) {
        self.world.next_ghosts = Some((zombies, after_ms));
        let owner = self.world.raft.owner;
        self.world.kill(owner);
        self.world.at(LEASE_MS, Event::Assign);
    }

    /// The check for expired producers runs.
    pub fn check_expired(&mut self) {
        let now = self.world.now as i64;
        self.world.target.expire(now);
    }

    /// An unclean election on the source: its last records are gone.
    pub fn source_loses(&mut self, records: i64) {
        let at = self.world.source.end - records;
        self.world.source.truncate(at);
        self.world.checker.source_cut = true;
        self.world.happened.insert(Fault::SourceTruncate);
    }

    /// An unclean election on the target: its last records are gone.
    pub fn target_loses(&mut self, records: i64) {
        let at = self.world.target.end - records;
        self.world.checker.target_lost = true;
        self.world.happened.insert(Fault::TargetTruncate);
        self.world.elect(at);
    }

    /// Everything arrives and is judged; how many records stood twice.
    pub fn end(mut self) -> (u32, World) {
        self.world.end();
        let violation = &self.world.checker.violation;
        assert!(violation.is_none(), "{violation:?}");
        (self.world.checker.doubles, self.world)
    }
}
