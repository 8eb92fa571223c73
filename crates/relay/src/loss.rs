//! Records that the source no longer has, and histories that parted: what it is called and where it goes on.

use mirrormesh_core::flow::LossPolicy;
use mirrormesh_core::stop::{Stop, StopReason};

/// A loss, or a divergence of the two histories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What and where, worded for a stop.
    pub stop: Stop,
    /// Source offset to go on from, where the policy says so.
    pub go_on: i64,
    /// The leader epoch that reaches to there in the history that is left, if it is known.
    pub epoch: Option<i32>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handling {
    /// Stop the partition.
    Stop(Stop),
    /// Record the event and begin a new generation there.
    GoOn(Loss),
}

impl Loss {
    /// The source no longer has (`place < log_start`) or does not have yet (`place > log_end`) the wanted offset;
    /// `None` if it has it after all.
    pub fn out_of_range(place: i64, log_start: i64, log_end: i64) -> Option<Self> {
        if place < log_start {
            let message = format!(
                "the source deleted offsets {place} to {log_start} before they were mirrored: these records are lost \
                 for the target; raise the source's retention and set records.on_loss to CONTINUE to go on without them"
            );
            let stop = Stop::new(StopReason::RetentionOverrun, message).at(place, Some(log_start));
            return Some(Self { stop: stop.counting(log_start - place), go_on: log_start, epoch: None });
        }
        if place > log_end {
            let message = format!(
                "the source ends at {log_end}, but offsets up to {place} were mirrored: the source lost records in an \
                 unclean election, and the target still has them; set records.on_loss to CONTINUE to go on from {log_end}"
            );
            let stop = Stop::new(StopReason::SourceTruncated, message).at(log_end, Some(place));
            return Some(Self { stop: stop.counting(place - log_end), go_on: log_end, epoch: None });
        }
        None
    }

    /// The source deleted offsets up to its log start, and the target what would tell how far the mirror was.
    pub fn deleted_on_both(from: i64, log_start: i64, go_on: i64) -> Self {
        let message = format!(
            "the source deleted its records before {log_start}, and the target those that tell how far the mirror was: \
             records from {from} on may be lost for the target, and records from {go_on} on may come there again; raise \
             the retention of both and set records.on_loss to CONTINUE to go on from {go_on}"
        );
        let stop = Stop::new(StopReason::RetentionOverrun, message).at(from, Some(log_start.max(from)));
        Self { stop, go_on, epoch: None }
    }

    /// The source's history ends before the place that was mirrored (KIP-320).
    ///
    /// `epoch`: the leader epoch that reaches to that end there, -1 if it is not known.
    pub fn diverged(epoch: i32, end: i64, mirrored: i64) -> Self {
        let message = format!(
            "the source's history changed: the epoch of the last mirrored batch ends at {end}, but offsets up to \
             {mirrored} at least were mirrored; the target holds records that the source lost in an unclean election, and holds \
             them twice if the source gets them back; set records.on_loss to CONTINUE to go on from {end}"
        );
        let stop = Stop::new(StopReason::SourceDiverged, message).at(end, Some(mirrored));
        Self {
            stop: stop.counting(mirrored - end),
            go_on: end,
            epoch: Some(epoch).filter(|epoch| *epoch >= 0),
        }
    }

    /// The source has other records from offset `end` on than what was mirrored from there, under the same leader epoch.
    pub fn differs(epoch: i32, end: i64, mirrored: i64) -> Self {
        let message = format!(
            "the source holds other records than what was mirrored from offset {end} to {mirrored}: it was probably restored \
             from an older copy and has taken new records since; those on the target may not exist on the source any more; \
             compare the two topics, then set records.on_loss to CONTINUE to go on from {end}"
        );
        let stop = Stop::new(StopReason::SourceDiverged, message).at(end, Some(mirrored));
        Self {
            stop: stop.counting(mirrored - end),
            go_on: end,
            epoch: Some(epoch).filter(|epoch| *epoch >= 0),
        }
    }

    /// As the policy says.
    pub fn handle(self, policy: LossPolicy) -> Handling {
        match policy {
            LossPolicy::StopPartition => Handling::Stop(self.stop),
            LossPolicy::Continue => Handling::GoOn(self),
        }
    }
}

/// Retention is near: how many records lie between the source's log start and the place, when those are less than a
/// tenth of what is still to be mirrored and something was deleted already.
pub fn retention_margin(place: i64, log_start: i64, log_end: i64) -> Option<i64> {
    let (margin, behind) = (place - log_start, log_end - place);
    (log_start > 0 && margin >= 0 && behind > 0 && margin < behind / 10).then_some(margin)
}

/// How long the source still keeps a record with this timestamp, ms, when that is less than a tenth of its retention.
/// Kafka deletes by timestamps, once a segment holds none that is younger: this is when it may begin to.
pub fn retention_left_ms(timestamp_ms: i64, retention_ms: i64, now_ms: u64) -> Option<i64> {
    let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let left = timestamp_ms.saturating_add(retention_ms).saturating_sub(now);
    (left < retention_ms / 10).then_some(left.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_have_exact_offsets() {
        let loss = Loss::out_of_range(5, 9, 20).unwrap();
        assert_eq!(
            (loss.stop.reason, loss.stop.count, loss.go_on),
            (StopReason::RetentionOverrun, Some(4), 9)
        );
        assert_eq!((loss.stop.from_offset, loss.stop.to_offset), (Some(5), Some(9)));
        let loss = Loss::out_of_range(25, 9, 20).unwrap();
        assert_eq!((loss.stop.reason, loss.go_on), (StopReason::SourceTruncated, 20));
        assert_eq!(Loss::out_of_range(9, 9, 20), None);
        assert_eq!(Loss::out_of_range(20, 9, 20), None);
        assert!(
            matches!(Loss::diverged(3, 7, 10).handle(LossPolicy::Continue), Handling::GoOn(l) if l.go_on == 7)
        );
        assert!(matches!(Loss::diverged(3, 7, 10).handle(LossPolicy::StopPartition), Handling::Stop(_)));
    }

    #[test]
    fn the_margin_counts_only_when_something_is_deleted_and_much_is_left() {
        assert_eq!(retention_margin(105, 100, 1_000), Some(5));
        assert_eq!(retention_margin(105, 0, 1_000), None, "nothing was deleted yet");
        assert_eq!(retention_margin(500, 100, 1_000), None);
        assert_eq!(retention_margin(105, 100, 105), None, "caught up");
    }

    #[test]
    fn a_record_is_near_its_end_in_the_last_tenth_of_its_time() {
        assert_eq!(retention_left_ms(10_000, 1_000, 10_900), None);
        assert_eq!(retention_left_ms(10_000, 1_000, 10_901), Some(99));
        assert_eq!(retention_left_ms(10_000, 1_000, 99_000), Some(0), "only its segment keeps it");
        assert_eq!(retention_left_ms(10_000, i64::MAX, 99_000), None, "nothing is deleted");
    }
}
