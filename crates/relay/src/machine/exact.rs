//! Records that wait, because they can't be mirrored exactly once and the flow requires that
//! (`records.require_exactly_once`).
//!
//! The target drops the state of a producer whose last batch is older than `producer.id.expiration.ms`. Behind such a batch
//! it accepts any sequence, so a repeat is not refused. A compacted source has no fixed content: a second owner may read
//! other records at the same place.

use super::outgoing::Outgoing;
use super::stream::{After, Stream, Waits};
use super::{Facts, Setup};

/// The look at the target's log end counts as fresh for so long.
const FRESH_MS: u64 = 60_000;
/// `producer.id.expiration.ms` is an INT.
const SETTING_MAX_MS: i64 = i32::MAX as i64;
/// What is added to the value that is printed, so that the records don't outgrow it at once.
const HEADROOM_MS: i64 = 24 * 3_600_000;

/// What may become of the next batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exact {
    /// It may go.
    Goes,
    /// It waits until something changes.
    Waits,
    /// The target's log end has to be looked at first: the producer state may have expired since.
    LooksFirst,
}

impl Stream {
    /// Whether this batch can be mirrored exactly once. `looked`: the log end was looked at for it already.
    pub(super) fn exact(&mut self, outgoing: &Outgoing, setup: &Setup, looked: bool, now_ms: u64) -> Exact {
        let max_timestamp = outgoing.batch.header.max_timestamp;
        let waits = if !self.facts.content_fixed() {
            Some(compacted(setup))
        } else if !self.window.leaves_armed(max_timestamp, now_ms) {
            let oldest =
                self.queue.oldest_batch_ms().map_or(max_timestamp, |oldest| oldest.min(max_timestamp));
            Some(expired(outgoing, oldest, self.facts, setup, now_ms))
        } else {
            None
        };
        if let Some(waits) = waits {
            if self.waits.as_ref().is_none_or(|known| known.reason != waits.reason) {
                self.waits = Some(waits);
            }
            return Exact::Waits;
        }
        self.waits = None;
        if self.window.is_armed(now_ms) || !self.window.is_empty() {
            return Exact::Goes;
        }
        let fresh = now_ms.saturating_sub(self.looked_ms) < FRESH_MS;
        // A throttle may hold back a page for longer: one look for a batch has to be enough, or it is looked for ever.
        if self.window.is_untouched() && (fresh || looked) {
            return Exact::Goes;
        }
        self.break_off(After::Locate { reason: "PRODUCER_STATE_EXPIRED", leader_moved: false });
        Exact::LooksFirst
    }
}

fn compacted(setup: &Setup) -> Waits {
    let message = format!(
        "the source topic {} is compacted, so a second owner could read other records at the same place: exactly once can't be \
         kept, and nothing is mirrored; set records.require_exactly_once to false to mirror it, with doubles detected and \
         reported",
        setup.topic
    );
    Waits { reason: "CONTENT_NOT_FIXED", message, reported: false }
}

fn expired(outgoing: &Outgoing, oldest_ms: i64, facts: Facts, setup: &Setup, now_ms: u64) -> Waits {
    let from = outgoing.run.first;
    let now = i64::try_from(now_ms).unwrap_or(i64::MAX);
    let age_ms = now.saturating_sub(oldest_ms);
    // The window relies on a part of the setting only.
    let needed_ms = age_ms.saturating_add(age_ms / 47).saturating_add(HEADROOM_MS);
    let otherwise =
        "or set records.require_exactly_once to false to mirror them, with doubles detected and reported";
    let message = if oldest_ms < 0 {
        format!(
            "the records from source offset {from} on have no timestamp (-1), so the target forgets the flow's producer behind \
             them, whatever its settings are: no setting of the target helps; {otherwise}",
        )
    } else if needed_ms > SETTING_MAX_MS {
        format!(
            "the records from source offset {from} on are up to {} days old, and the target can retain a producer's state for 24.8 \
             days at most (producer.id.expiration.ms is an INT): no setting of the target helps; {otherwise}",
            age_ms / 86_400_000,
        )
    } else {
        format!(
            "the records from source offset {from} on are up to {} hours old, and the target forgets a producer {} hours after its \
             last record: run kafka-configs.sh --bootstrap-server {} --alter --entity-type brokers --entity-default \
             --add-config producer.id.expiration.ms={needed_ms} {otherwise}",
            age_ms / 3_600_000,
            facts.target_expiration_ms / 3_600_000,
            setup.target_servers,
        )
    };
    Waits { reason: "EXACTLY_ONCE_IMPOSSIBLE", message, reported: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::{Bench, RULES};
    use crate::machine::{Action, Ask, Rules};
    use crate::testing::batch_of;
    use mirrormesh_core::flow::TimestampPolicy;
    use mirrormesh_core::format::batch::BatchHeader;
    use mirrormesh_core::format::samples::header;
    use mirrormesh_core::report::UnitState;

    const DAY_MS: u64 = 86_400_000;
    const EXACT: Rules = Rules { require_exactly_once: true, timestamps: TimestampPolicy::Keep, ..RULES };

    fn at(offset: i64, timestamp: i64) -> mirrormesh_core::format::batch::RawBatch {
        let shape = BatchHeader { base_timestamp: timestamp, max_timestamp: timestamp, ..header(offset, 1) };
        batch_of(&[offset], shape, 0)
    }

    fn bench(facts: Facts) -> Bench {
        let mut bench = Bench::new(EXACT);
        bench.now_ms = 400 * DAY_MS;
        assert!(matches!(bench.settle(facts), Some(Action::Fetch { .. })));
        bench
    }

    fn waits(bench: &mut Bench, age_ms: i64) -> String {
        let now = i64::try_from(bench.now_ms).unwrap();
        bench.bring(&[at(0, if age_ms < 0 { -1 } else { now - age_ms })]);
        assert!(!matches!(bench.next(), Some(Action::Append(_))));
        assert!(bench.next().is_none());
        assert!(bench.relay.is_busy(), "the status has to be told");
        bench.relay.figures(bench.now_ms);
        let (state, reason, message) = bench.relay.state();
        assert_eq!((state, reason), (UnitState::Backoff, "EXACTLY_ONCE_IMPOSSIBLE"));
        message.to_owned()
    }

    #[test]
    fn old_records_wait_and_the_setting_is_printed() {
        let three_days = 3 * i64::try_from(DAY_MS).unwrap();
        let message = waits(&mut bench(Facts::DEFAULT), three_days);
        let value = message.split("producer.id.expiration.ms=").nth(1).unwrap().split(' ').next().unwrap();
        let value: i64 = value.parse().unwrap();
        assert!(message.contains("--bootstrap-server hq:9092"), "{message}");
        // With that value they go.
        let mut bench = bench(Facts { target_expiration_ms: value, ..Facts::DEFAULT });
        let now = i64::try_from(bench.now_ms).unwrap();
        bench.bring(&[at(0, now - three_days)]);
        bench.append();
    }

    #[test]
    fn no_setting_helps_where_records_are_too_old_or_untimed() {
        let message = waits(&mut bench(Facts::DEFAULT), 25 * i64::try_from(DAY_MS).unwrap());
        assert!(
            message.contains("no setting of the target helps") && message.contains("25 days"),
            "{message}"
        );
        let message = waits(&mut bench(Facts::DEFAULT), -1);
        assert!(message.contains("no timestamp"), "{message}");
    }

    #[test]
    fn a_compacted_source_waits_with_its_own_reason() {
        let mut bench = bench(Facts { source_compacted: true, ..Facts::DEFAULT });
        let now = i64::try_from(bench.now_ms).unwrap();
        bench.bring(&[at(0, now)]);
        assert!(!matches!(bench.next(), Some(Action::Append(_))));
        assert_eq!(bench.relay.state().1, "CONTENT_NOT_FIXED");
    }

    #[test]
    fn young_records_go_and_a_long_idle_producer_looks_first() {
        let mut bench = bench(Facts::DEFAULT);
        let now = |bench: &Bench| i64::try_from(bench.now_ms).unwrap();
        let young = now(&bench);
        bench.bring(&[at(0, young)]);
        let append = bench.append();
        bench.ack(append.id, 0);
        bench.now_ms += 2 * DAY_MS;
        let young = now(&bench);
        bench.bring(&[at(1, young)]);
        assert!(
            matches!(bench.drain(), Some(Action::Ask { ask: Ask::Facts, .. })),
            "the log end is looked at first"
        );
    }
}
