//! What a run is like: chosen once from the seed.

use mirrormesh_core::flow::{LossPolicy, OversizedPolicy, TimestampPolicy};
use mirrormesh_relay::facts::Facts;
use mirrormesh_relay::machine::Rules;
use mirrormesh_relay::window::Limits;

use crate::kinds::Stored;
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
    NotEnoughAtCheck,
    AnswersLost,
    Throttle,
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
    PositionsLost,
    Stored,
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
    Fault::Throttle,
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
    /// A flow from the target writes to the source too.
    pub loops: bool,
    /// Packed batches on the source, of a hundred.
    pub packed: u64,
    /// How the target stores batches.
    pub stored: Stored,
    /// Looks at positions that get an old state of them, of a hundred.
    pub stale_positions: u64,
    /// Nothing fails that no fault of a script lets fail.
    pub calm: bool,
    /// The source loses its end whenever batches are lost.
    pub loses_end: bool,
    /// The target's leader is the same as before after a loss (`comes_back.rs`).
    pub comes_back: bool,
}

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
            require_exactly_once: false,
            sole_writer: rng.percent(80),
        };
        let limits = Limits {
            batches_max: rng.pick(&[1, 2, 5, 8, 64]),
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
            expiry_check_ms: rng.pick(&[500, 2_000, 10_000, 600_000]),
            by_name: rng.percent(20),
            first_source: rng.pick(&[0, 0, 7, 1_000]),
            first_target: rng.pick(&[0, 0, 0, 5]),
            clock_skew_ms: rng.pick(&[0, 50, 60_000]),
            fault_every_ms: rng.pick(&[300, 700, 1_500]),
            ghost_ms: rng.pick(&[100, 2_000, 15_000]),
            faults: Vec::new(),
            last_epoch: rng.percent(4),
            loops: false,
            packed: 0,
            stored: Stored::AsSent,
            stale_positions: 0,
            calm: false,
            loses_end: false,
            comes_back: false,
        };
        knobs.choose_faults(rng);
        knobs
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
