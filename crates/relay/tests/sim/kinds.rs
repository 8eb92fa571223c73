//! Kinds of worlds. The seed alone decides which kind its world is, so fresh seeds cover all kinds.

use crate::knobs::{Fault, Knobs};
use crate::rng::Rng;

/// What the world of a seed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Any settings and any faults.
    Any,
    /// Old record timestamps, and a target that checks for expired producers often.
    Old,
    /// The source loses the end of its log together with a connection to the target (`lost_end.rs`).
    LostEnd,
    /// The source goes back to what it had lost (`returns.rs`).
    Return,
    /// The target loses the end of its log and the old leader leads again (`comes_back.rs`).
    ComeBack,
    /// Position writes are lost, and old positions are served.
    Positions,
    /// The target stores batches with another codec than they are sent with.
    Recompress,
    /// The flow requires exactly once: records that are too old wait until it doesn't any more.
    Exact,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Any,
        Self::Old,
        Self::LostEnd,
        Self::Return,
        Self::ComeBack,
        Self::Positions,
        Self::Recompress,
        Self::Exact,
    ];

    /// The kind of a seed's world.
    pub fn of(seed: u64) -> Self {
        match seed % 16 {
            0..=4 => Self::Any,
            5 => Self::Exact,
            6..=8 => Self::Old,
            9 | 10 => Self::LostEnd,
            11 => Self::Return,
            12 | 13 => Self::ComeBack,
            14 => Self::Positions,
            _ => Self::Recompress,
        }
    }

    /// As `SIM_WORLD` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Old => "old",
            Self::LostEnd => "lost_end",
            Self::Return => "return",
            Self::ComeBack => "come_back",
            Self::Positions => "positions",
            Self::Recompress => "recompress",
            Self::Exact => "exact",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Knobs {
    /// Changes what was drawn at random into a world of this kind.
    pub fn become_kind(&mut self, kind: Kind, apart: &mut Rng) {
        match kind {
            Kind::Any => self.loops = apart.percent(15),
            Kind::Old => self.old(apart),
            Kind::LostEnd => self.lose_ends(apart),
            Kind::Return => self.go_back(apart),
            Kind::ComeBack => self.come_back(apart),
            Kind::Positions => self.lose_positions(apart),
            Kind::Recompress => self.recompress(apart),
            Kind::Exact => self.exact(apart),
        }
    }

    /// Deep pipelines of old records, and a check for expired producers that often runs between two of them.
    fn old(&mut self, apart: &mut Rng) {
        (self.facts.source_compacted, self.facts.target_compacted) = (false, false);
        (self.facts.target_append_time, self.by_name) = (apart.percent(5), false);
        self.old = apart.pick(&[50, 100, 100]);
        self.expiry_check_ms = apart.pick(&[20, 50, 200, 1_000]);
        self.batch_records = apart.pick(&[1, 2, 5]);
        self.delay_ms = apart.pick(&[10, 50]);
        self.tick_ms = apart.pick(&[20, 50, 100]);
        self.limits.batches_max = apart.pick(&[5, 64]);
        self.limits.bytes_max = 8 << 20;
        self.rules.sole_writer = apart.percent(85);
        let others = [Fault::SourceCompact, Fault::TargetCompact];
        self.faults.retain(|fault| !others.contains(fault));
        self.faults.extend([Fault::Cut, Fault::Cut, Fault::NotEnough, Fault::AnswersLost, Fault::Crash]);
        self.faults.extend([Fault::NotEnoughAtCheck; 6]);
        if !self.rules.sole_writer {
            self.faults.push(Fault::Foreign);
        }
    }

    /// The topic of positions loses what was written last, or an old state of it is served.
    fn lose_positions(&mut self, apart: &mut Rng) {
        self.stale_positions = apart.pick(&[0, 10, 40]);
        self.faults.extend([Fault::PositionsLost; 4]);
        self.faults.extend([Fault::Crash, Fault::DuplicateOwner]);
    }

    /// Batches take more bytes on the target than on their way, or fewer.
    fn recompress(&mut self, apart: &mut Rng) {
        self.packed = apart.pick(&[50, 100]);
        self.stored = apart.pick(&[Stored::Plain, Stored::Plain, Stored::Packed]);
        self.facts.target_bytes_max = apart.pick(&[600, 1_000, 2_000]);
        self.record_bytes = apart.pick(&[100, 300]);
        self.batch_records = apart.pick(&[5, 10, 20]);
        self.faults.push(Fault::Stored);
    }

    /// Few old records, since everything behind the first one waits.
    fn exact(&mut self, apart: &mut Rng) {
        self.rules.require_exactly_once = true;
        (self.facts.source_compacted, self.facts.target_compacted) = (false, false);
        (self.by_name, self.last_epoch) = (false, false);
        self.old = apart.pick(&[1, 2, 3]);
        self.expiry_check_ms = apart.pick(&[50, 500]);
        let others = [Fault::SourceCompact, Fault::TargetCompact];
        self.faults.retain(|fault| !others.contains(fault));
        self.faults.extend([Fault::Cut, Fault::Crash]);
    }
}

/// The target's `compression.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// `producer`: batches are stored as they are sent.
    AsSent,
    /// `uncompressed`.
    Plain,
    /// A codec: batches are stored packed.
    Packed,
}
