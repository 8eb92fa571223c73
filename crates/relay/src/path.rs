//! Which way a batch goes to the target: as it is, or decoded and rebuilt.

use mirrormesh_core::flow::TimestampPolicy;
use mirrormesh_core::format::batch::BatchHeader;
use mirrormesh_core::stop::{Stop, StopReason};

use super::facts::Facts;
use super::rebuild::RebuildPlan;
use super::sizes::Sizes;

/// A way, named as in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// A new header before the same bytes.
    Passthrough,
    /// It begins before the place to go on from.
    Trimmed,
    /// Offsets are left out: a broker refuses gaps.
    Gaps,
    /// It is larger than the target takes.
    Split,
    /// The source set its timestamps: inside it holds others.
    AppendTime,
    /// Timestamps that the target refuses were moved.
    Clamped,
    /// From before Kafka 0.11.
    OldFormat,
    /// Many small ones in one.
    Coalesced,
}

impl Path {
    /// Stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Trimmed => "trimmed",
            Self::Gaps => "gaps",
            Self::Split => "split",
            Self::AppendTime => "append_time",
            Self::Clamped => "clamped",
            Self::OldFormat => "old_format",
            Self::Coalesced => "coalesced",
        }
    }
}

/// What decides, besides the batch.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// What the clusters say.
    pub facts: Facts,
    /// What the user says about timestamps.
    pub timestamps: TimestampPolicy,
    /// What the target's refusals tell of sizes.
    pub sizes: Sizes,
    /// Now, ms since 1970.
    pub now_ms: u64,
}

impl Conditions {
    /// The way of a batch of `bytes` bytes of which records from source offset `from` on count.
    pub fn path(&self, header: &BatchHeader, bytes: usize, from: i64) -> Result<Path, Stop> {
        let clamped = self.needs_clamp(header)?;
        Ok(if !header.is_dense() {
            Path::Gaps
        } else if header.base_offset < from {
            Path::Trimmed
        } else if bytes > self.facts.target_bytes_max
            || self.sizes.cuts(header.codec() != 0, header.base_offset)
        {
            Path::Split
        } else if header.is_log_append_time() && !self.facts.target_append_time {
            Path::AppendTime
        } else if clamped {
            Path::Clamped
        } else {
            Path::Passthrough
        })
    }

    /// The plan for rebuilding.
    pub fn plan(&self, from: i64) -> RebuildPlan {
        let clamp = match self.timestamps {
            TimestampPolicy::Clamp => self.facts.timestamps_for_sure(self.now_ms),
            TimestampPolicy::Keep => None,
        };
        let bytes_max = self.facts.target_bytes_max;
        RebuildPlan {
            from,
            bytes_max,
            plain_bytes_max: self.sizes.plain_bytes_max(bytes_max),
            records_max: self.sizes.records_max(from),
            clamp,
        }
    }

    /// Would the target refuse a timestamp? The header knows the first and the highest; one in between that is lower
    /// than the first is found by the target only. A record without a timestamp (-1) is taken whatever the limits (seen
    /// on 3.9 and 4.3); one in front of a batch leaves only the highest to be looked at.
    fn needs_clamp(&self, header: &BatchHeader) -> Result<bool, Stop> {
        let Some((first, last)) = self.facts.timestamps(self.now_ms) else { return Ok(false) };
        let early = |timestamp: i64| (0..first).contains(&timestamp);
        let refused =
            early(header.base_timestamp) || early(header.max_timestamp) || header.max_timestamp > last;
        if refused && self.timestamps == TimestampPolicy::Keep {
            return Err(timestamp_refused(header.base_offset, header.next_offset()));
        }
        Ok(refused)
    }
}

/// The stop for a timestamp that the target refuses.
pub fn timestamp_refused(from: i64, to: i64) -> Stop {
    Stop::new(
        StopReason::TimestampRefused,
        format!(
            "the target refuses timestamps in the batch of source offsets {from} to {to}: set \
             message.timestamp.before.max.ms and message.timestamp.after.max.ms on the target topic, or \
             records.timestamps to CLAMP on the flow, then pause and resume the flow"
        ),
    )
    .at(from, Some(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::format::samples::header;

    const NOW: u64 = 10_000_000;

    fn conditions(facts: Facts, timestamps: TimestampPolicy) -> Conditions {
        Conditions { facts, timestamps, sizes: Sizes::default(), now_ms: NOW }
    }

    #[test]
    fn each_condition_has_its_path() {
        let c = conditions(Facts::DEFAULT, TimestampPolicy::Keep);
        let h = header(10, 5);
        assert_eq!(c.path(&h, 100, 10).unwrap(), Path::Passthrough);
        assert_eq!(c.path(&h, 100, 12).unwrap(), Path::Trimmed);
        assert_eq!(c.path(&h, 1_048_589, 10).unwrap(), Path::Split);
        let gappy = BatchHeader { count: 3, ..h };
        assert_eq!(c.path(&gappy, 100, 10).unwrap(), Path::Gaps);
        let append_time = BatchHeader { attributes: 8, ..h };
        assert_eq!(c.path(&append_time, 100, 10).unwrap(), Path::AppendTime);
        let own = Facts { target_append_time: true, ..Facts::DEFAULT };
        let c = conditions(own, TimestampPolicy::Keep);
        assert_eq!(c.path(&append_time, 100, 10).unwrap(), Path::Passthrough, "the target sets its own");
    }

    #[test]
    fn timestamps_are_kept_or_moved_as_the_user_says() {
        let facts = Facts { target_after_max_ms: 1_000, ..Facts::DEFAULT };
        let now = i64::try_from(NOW).unwrap();
        let at = |t| BatchHeader { base_timestamp: now, max_timestamp: t, ..header(10, 5) };
        let keep = conditions(facts, TimestampPolicy::Keep);
        assert_eq!(keep.path(&at(now + 1_000), 100, 10).unwrap(), Path::Passthrough);
        let stop = keep.path(&at(now + 1_001), 100, 10).unwrap_err();
        assert_eq!((stop.reason, stop.from_offset), (StopReason::TimestampRefused, Some(10)));
        let clamp = conditions(facts, TimestampPolicy::Clamp);
        assert_eq!(clamp.path(&at(now + 1_001), 100, 10).unwrap(), Path::Clamped);
        assert_eq!(clamp.plan(10).clamp, Some((0, now + 750)), "not at the edge: clocks differ, time passes");
        let old = Facts { target_before_max_ms: 500, ..Facts::DEFAULT };
        let clamp = conditions(old, TimestampPolicy::Clamp);
        let mut h = at(now);
        h.base_timestamp = now - 501;
        assert_eq!(clamp.path(&h, 100, 10).unwrap(), Path::Clamped);
    }

    #[test]
    fn records_without_timestamps_pass_whatever_the_target_takes() {
        let facts = Facts { target_before_max_ms: 500, target_after_max_ms: 1_000, ..Facts::DEFAULT };
        let now = i64::try_from(NOW).unwrap();
        let of =
            |base_timestamp, max_timestamp| BatchHeader { base_timestamp, max_timestamp, ..header(10, 5) };
        for timestamps in [TimestampPolicy::Keep, TimestampPolicy::Clamp] {
            let c = conditions(facts, timestamps);
            assert_eq!(c.path(&of(-1, -1), 100, 10).unwrap(), Path::Passthrough);
            assert_eq!(c.path(&of(-1, now), 100, 10).unwrap(), Path::Passthrough, "some have one");
        }
        let keep = conditions(facts, TimestampPolicy::Keep);
        assert_eq!(keep.path(&of(-1, now - 501), 100, 10).unwrap_err().reason, StopReason::TimestampRefused);
        let default = Facts { target_before_max_ms: i64::MAX, ..facts };
        let keep = conditions(default, TimestampPolicy::Keep);
        assert_eq!(keep.path(&of(-1, -1), 100, 10).unwrap(), Path::Passthrough, "as Kafka 4 has it");
    }
}
