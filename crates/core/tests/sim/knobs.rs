//! What a run is like: chosen once from the seed.

use mirrormesh_core::flow::{LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_core::relay::facts::Facts;
use mirrormesh_core::relay::machine::Rules;
use mirrormesh_core::relay::window::Limits;

use crate::rng::Rng;

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Cut,
    Crash,
    Pause,
    DuplicateOwner,
    Release,
    Rules,
    Elect,
    Restart,
    Stall,
    NotEnough,
    AnswersLost,
    Expire,
    Foreign,
    SourceElect,
    SourceTruncate,
    SourceReturn,
    SourceCompact,
    SourceRetain,
    SourceRecreate,
    TargetCompact,
    TargetRetain,
    TargetTruncate,
    TargetRecreate,
    Size,
    FetchFails,
    WritesFail,
    Slow,
}

/// Always possible.
const COMMON: &[Fault] = &[
    Fault::Cut,
    Fault::Cut,
    Fault::Crash,
    Fault::Pause,
    Fault::DuplicateOwner,
    Fault::Release,
    Fault::Elect,
    Fault::Restart,
    Fault::Stall,
    Fault::NotEnough,
    Fault::AnswersLost,
    Fault::Expire,
    Fault::FetchFails,
    Fault::WritesFail,
    Fault::Slow,
    Fault::SourceElect,
];

#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug, Clone)]
pub struct Knobs {
    pub records: usize,
    pub facts: Facts,
    pub rules: Rules,
    pub limits: Limits,
    pub append_time: bool,
    /// Transactional batches, of a hundred.
    pub transactions: u64,
    pub aborts: u64,
    pub batch_records: u64,
    pub record_bytes: u64,
    pub keys: u64,
    /// Records with old timestamps, of a hundred.
    pub old: u64,
    pub tick_ms: u64,
    pub fetch_bytes: usize,
    pub delay_ms: u64,
    pub expiry_check_ms: u64,
    pub by_name: bool,
    pub first_source: i64,
    pub first_target: i64,
    pub clock_skew_ms: u64,
    pub fault_every_ms: u64,
    pub ghost_ms: u64,
    pub faults: Vec<Fault>,
    pub last_epoch: bool,
    /// Strays come later than is waited for them.
    pub late: bool,
    /// The source loses its end whenever batches are lost.
    pub loses_end: bool,
    /// The target's leader is the same as before after a loss (`comes_back.rs`).
    pub comes_back: bool,
}

/// Seeds from here on up to twice as many are strict.
pub const STRICT_SEEDS: u64 = 300_000_000;
/// Seeds from here on to the next hundred million are strict, and strays come late.
pub const LATE_SEEDS: u64 = 600_000_000;
/// The source loses its end with a connection in the worlds of these seeds.
pub const LOST_END_SEEDS: std::ops::Range<u64> = 700_000_000..800_000_000;
/// The source goes back to what it had lost in the worlds of these seeds.
pub const RETURN_SEEDS: std::ops::Range<u64> = 800_000_000..900_000_000;
/// The target gives out no producer ids in the worlds of these seeds, and the flow mirrors at least once.
pub const UNNUMBERED_SEEDS: std::ops::Range<u64> = 900_000_000..1_000_000_000;
/// Worlds whose target loses the end of its log and comes back (`comes_back.rs`).
pub const COME_BACK_SEEDS: std::ops::Range<u64> = 1_100_000_000..1_200_000_000;
/// Of seeds from here on, some are strict.
const MIXED_SEEDS: u64 = 200_000_000;

impl Knobs {
    pub fn new(rng: &mut Rng) -> Self {
        let compacted = rng.percent(25);
        let timestamps = if rng.percent(30) { TimestampPolicy::Clamp } else { TimestampPolicy::Keep };
        let bounded = timestamps == TimestampPolicy::Clamp && rng.percent(60);
        let facts = Facts {
            source_compacted: compacted,
            source_retention_ms: i64::MAX,
            source_by_name: false,
            target_compacted: compacted && rng.percent(60) || rng.percent(8),
            target_bytes_max: rng.pick(&[600, 1_000, 2_000, 6_000, 1_048_588]),
            target_append_time: rng.percent(8),
            target_before_max_ms: if bounded { 3_600_000 } else { i64::MAX },
            target_after_max_ms: if bounded || rng.percent(10) { 3_600_000 } else { i64::MAX },
            target_expiration_ms: 24 * 3_600_000,
        };
        let rules = Rules {
            read_uncommitted: rng.percent(15),
            on_loss: if rng.percent(50) { LossPolicy::Continue } else { LossPolicy::StopPartition },
            on_oversized: if rng.percent(50) {
                OversizedPolicy::Skip
            } else {
                OversizedPolicy::StopPartition
            },
            timestamps,
            skip_mirrored: false,
            strict: false,
            at_least_once: false,
            sole_writer: rng.percent(80),
        };
        let limits = Limits {
            batches_max: rng.pick(&[1, 2, 5, 8, 64]),
            strays_ms: 0,
            bytes_max: rng.pick(&[2_000, 10_000, 8 << 20]),
        };
        let mut knobs = Self {
            records: rng.within(220, 420) as usize,
            facts,
            rules,
            limits,
            append_time: rng.percent(8),
            transactions: rng.pick(&[0, 0, 20, 50, 100]),
            aborts: rng.pick(&[10, 30, 60]),
            batch_records: rng.pick(&[1, 2, 5, 10, 20]),
            record_bytes: rng.pick(&[8, 40, 100, 300]),
            keys: rng.pick(&[5, 30, 200]),
            old: rng.pick(&[0, 0, 0, 5, 50, 100]),
            tick_ms: rng.pick(&[20, 50, 100, 300]),
            fetch_bytes: rng.pick(&[400, 2_000, 20_000]),
            delay_ms: rng.pick(&[2, 10, 50]),
            expiry_check_ms: rng.pick(&[2_000, 10_000, 600_000]),
            by_name: rng.percent(20),
            first_source: rng.pick(&[0, 0, 7, 1_000]),
            first_target: rng.pick(&[0, 0, 0, 5]),
            clock_skew_ms: rng.pick(&[0, 50, 60_000]),
            fault_every_ms: rng.pick(&[300, 700, 1_500]),
            ghost_ms: rng.pick(&[100, 2_000, 15_000]),
            faults: Vec::new(),
            last_epoch: rng.percent(4),
            late: false,
            loses_end: false,
            comes_back: false,
        };
        knobs.choose_faults(rng);
        knobs
    }

    /// From [`STRICT_SEEDS`] on all worlds are strict and have old records; from [`MIXED_SEEDS`] on a third of those that
    /// have old records.
    pub fn be_strict(&mut self, seed: u64, apart: &mut Rng) {
        if UNNUMBERED_SEEDS.contains(&seed) {
            self.rules.at_least_once = true;
            self.wait_for_strays(apart);
            self.fault_every_ms = apart.pick(&[500, 1_500, 5_000]);
            return;
        }
        if LOST_END_SEEDS.contains(&seed) {
            return self.lose_ends(apart);
        }
        if COME_BACK_SEEDS.contains(&seed) {
            return self.come_back(apart);
        }
        if RETURN_SEEDS.contains(&seed) {
            return self.go_back(apart);
        }
        self.late = (LATE_SEEDS..LATE_SEEDS + 100_000_000).contains(&seed);
        if self.late || (STRICT_SEEDS..2 * STRICT_SEEDS).contains(&seed) {
            self.old = apart.pick(&[20, 50, 100, 100]);
            self.expiry_check_ms = apart.pick(&[500, 2_000, 10_000]);
        } else if seed < MIXED_SEEDS || self.old == 0 || !apart.percent(33) {
            return;
        }
        self.rules.strict = true;
        self.wait_for_strays(apart);
    }

    /// Nothing is sent that a stray might double as long as one may come, at least in the worlds that say so.
    pub fn waits(&self) -> bool {
        self.rules.strict || self.rules.at_least_once
    }

    fn wait_for_strays(&mut self, apart: &mut Rng) {
        // Replaced owners send for so long: a pause, until they learn of it, and what waits for replicas.
        self.limits.strays_ms = self.ghost_ms + 20_000;
        // While strays may come nothing old is sent: the traffic lasts longer.
        let batches = 2 * self.records as u64 / (self.batch_records + 1);
        self.tick_ms = 2 * apart.pick(&[100_000, 200_000]) / batches.max(1);
        self.fault_every_ms = apart.pick(&[1_500, 5_000, 20_000]);
        if self.late {
            self.come_late(apart);
        }
    }

    /// Nothing but the marker stands between a stray and a record that stands twice.
    fn come_late(&mut self, apart: &mut Rng) {
        (self.facts.source_compacted, self.facts.target_compacted) = (false, false);
        // Such a target remembers by its own time, and is never marked.
        self.facts.target_append_time = false;
        (self.by_name, self.last_epoch) = (false, false);
        self.old = apart.pick(&[50, 100]);
        self.fault_every_ms = apart.pick(&[20_000, 60_000]);
        self.faults.retain(|fault| COMMON.contains(fault) && !matches!(fault, Fault::Elect | Fault::Restart));
        self.faults.extend([Fault::Cut, Fault::Crash, Fault::Expire]);
    }

    fn choose_faults(&mut self, rng: &mut Rng) {
        let mut faults: Vec<_> = COMMON.iter().copied().filter(|_| rng.percent(60)).collect();
        if !self.rules.sole_writer {
            faults.push(Fault::Foreign);
        }
        if self.facts.source_compacted {
            faults.extend([Fault::SourceCompact; 4]);
        }
        if self.facts.target_compacted {
            faults.extend([Fault::TargetCompact; 4]);
        }
        for (percent, fault) in [
            (15, Fault::SourceTruncate),
            (15, Fault::SourceRetain),
            (15, Fault::TargetRetain),
            (15, Fault::Size),
            (15, Fault::Rules),
            (4, Fault::TargetTruncate),
            (4, Fault::SourceRecreate),
            (4, Fault::TargetRecreate),
            (2, Fault::Foreign),
        ] {
            if rng.percent(percent) {
                faults.push(fault);
            }
        }
        if faults.len() < 3 {
            faults.extend([Fault::Cut, Fault::Crash, Fault::DuplicateOwner]);
        }
        self.faults = faults;
    }
}
