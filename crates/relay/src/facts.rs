//! Settings of the two partitions that the relay depends on, as the brokers tell them.
//!
//! They can change at any time: they are read before a place is looked for and again while records flow.

/// Timestamps are moved no closer than this to what the target would refuse.
const EDGE_MS: i64 = 5 * 60_000;

/// `message.timestamp.type` and friends of the target, and what the source may do to its content.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The source's `cleanup.policy` holds `compact`: its content may change under the relay.
    pub source_compacted: bool,
    /// The source's `retention.ms`: it deletes records so long after their timestamps; `i64::MAX` where it never does.
    pub source_retention_ms: i64,
    /// The source's brokers know topics by name only when records are fetched (before Kafka 3.1): what was made again under
    /// the same name may be read for the old topic until it is noticed.
    pub source_by_name: bool,
    /// The target's `cleanup.policy` holds `compact`: records of ours may go from the middle.
    pub target_compacted: bool,
    /// The target's `max.message.bytes`, for a whole batch.
    pub target_bytes_max: usize,
    /// The target sets its own timestamps (`message.timestamp.type=LogAppendTime`).
    pub target_append_time: bool,
    /// The target's `message.timestamp.before.max.ms`.
    pub target_before_max_ms: i64,
    /// The target's `message.timestamp.after.max.ms`.
    pub target_after_max_ms: i64,
    /// The target's `producer.id.expiration.ms`: so long after the timestamp of its last batch it forgets a producer.
    pub target_expiration_ms: i64,
}

impl Facts {
    /// What Kafka has by default; taken where a broker doesn't tell.
    pub const DEFAULT: Self = Self {
        source_compacted: false,
        source_retention_ms: i64::MAX,
        source_by_name: false,
        target_compacted: false,
        target_bytes_max: 1_048_588,
        target_append_time: false,
        target_before_max_ms: i64::MAX,
        target_after_max_ms: i64::MAX,
        target_expiration_ms: 24 * 3_600_000,
    };

    /// The n-th mirrored record is the same for every worker at any time, as far as the source's
    /// settings decide it. Gaps and skips begin generations of their own and so never lie inside one.
    pub fn content_fixed(&self) -> bool {
        !self.source_compacted
    }

    /// The timestamps that the target takes at this time: first and last; `None` if it takes all or sets its own.
    pub fn timestamps(&self, now_ms: u64) -> Option<(i64, i64)> {
        if self.target_append_time
            || (self.target_before_max_ms == i64::MAX && self.target_after_max_ms == i64::MAX)
        {
            return None;
        }
        let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
        Some((
            now.saturating_sub(self.target_before_max_ms).max(0),
            now.saturating_add(self.target_after_max_ms),
        ))
    }

    /// The timestamps that the target still takes when a batch arrives there: the edges of what it takes now are moved
    /// in, since clocks differ and the oldest one allowed grows older on its way.
    pub fn timestamps_for_sure(&self, now_ms: u64) -> Option<(i64, i64)> {
        let margin = |range: i64| if range == i64::MAX { 0 } else { EDGE_MS.min(range / 4) };
        let (first, last) = self.timestamps(now_ms)?;
        let first = first.saturating_add(margin(self.target_before_max_ms));
        let last = last.saturating_sub(margin(self.target_after_max_ms));
        Some((first.min(last), last))
    }
}
