//! What units say about themselves: the newest report of each, and which ones changed.
//!
//! Owns coalescing; knows nothing about how reports travel. 10,000 units must cost little: a unit writes under its
//! own lock, and the list of changed units is only touched when a unit changed for the first time since the last
//! report was sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mirrormesh_core::report::{PartitionFigures, UnitReport, UnitState};
use mirrormesh_core::unit::Unit;
use mirrormesh_runtime::complaint::Complaint;
use parking_lot::Mutex;

use crate::kafka::Failure;

/// Longest message kept, in characters: reports of thousands of units share one gRPC message.
const MESSAGE_CHARS_MAX: usize = 500;

/// Where one unit says what it is doing; cheap to clone.
#[derive(Debug, Clone)]
pub struct ReportHandle {
    slot: Arc<Slot>,
    board: Arc<Board>,
}

#[derive(Debug)]
struct Slot {
    report: Mutex<UnitReport>,
    complaint: Mutex<Complaint>,
    changed: AtomicBool,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Board {
    slots: Mutex<BTreeMap<Unit, Arc<Slot>>>,
    changed: Mutex<Vec<Arc<Slot>>>,
}

impl ReportHandle {
    /// Says what the unit is doing. `reason` is a stable name of what is wrong and `message` says what to do about it;
    /// both are empty when nothing is. Only the newest report is kept.
    pub fn set(
        &self,
        state: UnitState,
        reason: &str,
        message: &str,
        partition: impl Into<Option<PartitionFigures>>,
    ) {
        let partition = partition.into();
        {
            let mut report = self.slot.report.lock();
            let same = report.state == state
                && report.reason == reason
                && report.partition == partition
                && report.message.chars().eq(message.chars().take(MESSAGE_CHARS_MAX));
            if same {
                return;
            }
            report.state = state;
            reason.clone_into(&mut report.reason);
            report.message = message.chars().take(MESSAGE_CHARS_MAX).collect();
            report.partition = partition;
        }
        self.mark();
    }

    /// Says that something failed in a way that may pass. Returns whether that is worth a line in the log: it has
    /// lasted for some seconds, and was not logged for this reason yet.
    pub fn backoff(&self, failure: &Failure) -> bool {
        self.set(UnitState::Backoff, &failure.reason, &failure.message, None);
        self.slot.complaint.lock().failed(&failure.reason, Instant::now())
    }

    /// Says that the unit does its work. Returns whether that is news.
    pub fn running(&self, message: &str) -> bool {
        let before = self.newest();
        self.set(UnitState::Running, "", message, None);
        self.slot.complaint.lock().passed();
        before.state != UnitState::Running
    }

    /// The newest report.
    pub fn newest(&self) -> UnitReport {
        self.slot.report.lock().clone()
    }

    fn mark(&self) {
        if !self.slot.changed.swap(true, Ordering::AcqRel) {
            self.board.changed.lock().push(Arc::clone(&self.slot));
        }
    }
}

/// The newest reports of all units of a worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports(Arc<Board>);

impl Reports {
    /// Opens the report of a unit that is about to start; one of an earlier assignment is closed.
    pub(crate) fn open(&self, unit: &Unit, number: u64) -> ReportHandle {
        let report = UnitReport {
            unit: unit.clone(),
            number,
            state: UnitState::Resyncing,
            reason: String::new(),
            message: String::new(),
            partition: None,
        };
        let slot = Arc::new(Slot {
            report: Mutex::new(report),
            complaint: Mutex::default(),
            changed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        if let Some(old) = self.0.slots.lock().insert(unit.clone(), Arc::clone(&slot)) {
            old.closed.store(true, Ordering::Release);
        }
        let handle = ReportHandle { slot, board: Arc::clone(&self.0) };
        handle.mark();
        handle
    }

    /// Forgets a unit that is gone.
    pub(crate) fn close(&self, unit: &Unit) {
        if let Some(slot) = self.0.slots.lock().remove(unit) {
            slot.closed.store(true, Ordering::Release);
        }
    }

    /// The reports that changed since the last call.
    pub(crate) fn take_changed(&self) -> Vec<UnitReport> {
        let slots = std::mem::take(&mut *self.0.changed.lock());
        let newest = |slot: &Arc<Slot>| {
            // Cleared before it is read: a change that comes in between is reported again, never lost.
            slot.changed.store(false, Ordering::Release);
            (!slot.closed.load(Ordering::Acquire)).then(|| slot.report.lock().clone())
        };
        slots.iter().filter_map(newest).collect()
    }

    /// All reports; what had changed until now needs not be sent again.
    pub(crate) fn take_all(&self) -> Vec<UnitReport> {
        self.take_changed();
        self.0.slots.lock().values().map(|slot| slot.report.lock().clone()).collect()
    }
}

/// Cuts reports into messages of about `bytes_max` each, so that a worker with very many units stays within gRPC's
/// limit. There is always at least one, since an empty report renews the lease too.
pub(crate) fn cut(reports: Vec<UnitReport>, bytes_max: usize) -> Vec<Vec<UnitReport>> {
    let mut messages = Vec::new();
    let mut message = Vec::new();
    let mut bytes = 0;
    for report in reports {
        let size = size_bytes(&report);
        if bytes + size > bytes_max && !message.is_empty() {
            messages.push(std::mem::take(&mut message));
            bytes = 0;
        }
        bytes += size;
        message.push(report);
    }
    messages.push(message);
    messages
}

/// At least what the report takes on the wire.
fn size_bytes(report: &UnitReport) -> usize {
    let names = match &report.unit {
        Unit::Topology(flow) | Unit::Groups(flow) | Unit::Heartbeat(flow) => flow.as_str().len(),
        Unit::Group(flow, group) => flow.as_str().len() + group.as_str().len(),
        Unit::Partition(flow, topic, _) => flow.as_str().len() + topic.as_str().len(),
    };
    // Numbers, tags and lengths take at most this much.
    160 + names + report.reason.len() + report.message.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::ids::{FlowId, TopicName};

    fn unit(partition: i32) -> Unit {
        Unit::Partition(FlowId::new("f").unwrap(), TopicName::new("t").unwrap(), partition)
    }

    #[test]
    fn only_the_newest_of_what_changed_is_taken() {
        let reports = Reports::default();
        let (a, b) = (reports.open(&unit(0), 1), reports.open(&unit(1), 2));
        assert_eq!(reports.take_changed().len(), 2, "new units are changed units");
        assert!(reports.take_changed().is_empty());

        let figures = |records| PartitionFigures { records, ..PartitionFigures::default() };
        for records in 0..100 {
            a.set(UnitState::Running, "", "", figures(records));
        }
        let taken = reports.take_changed();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].partition.unwrap().records, 99);

        a.set(UnitState::Running, "", "", figures(99));
        assert!(reports.take_changed().is_empty(), "the same again is no change");
        b.set(UnitState::Backoff, "CLUSTER_UNREACHABLE", "x", None);
        assert_eq!(reports.take_all().len(), 2);
        assert!(reports.take_changed().is_empty(), "all of them holds the changed ones");
    }

    #[test]
    fn a_closed_unit_says_nothing_more() {
        let reports = Reports::default();
        let old = reports.open(&unit(0), 1);
        let new = reports.open(&unit(0), 2);
        old.set(UnitState::Stopped, "LATE", "from the earlier assignment", None);
        let taken = reports.take_changed();
        assert_eq!(taken.iter().map(|r| r.number).collect::<Vec<_>>(), [2]);
        reports.close(&unit(0));
        new.set(UnitState::Stopped, "LATE", "", None);
        assert!(reports.take_changed().is_empty() && reports.take_all().is_empty());
    }

    #[test]
    fn a_failure_is_reported_at_once_and_logged_when_it_lasts() {
        let handle = Reports::default().open(&unit(0), 1);
        let failure = |reason: &str, message: &str| Failure::new(reason, message);
        assert!(handle.running("") && !handle.running("2 wait"));
        assert!(!handle.backoff(&failure("A", "first")), "it may pass at once");
        assert!(!handle.backoff(&failure("B", "second")));
        let newest = handle.newest();
        assert_eq!((newest.state, newest.message.as_str()), (UnitState::Backoff, "second"));
        assert!(handle.running(""));
    }

    #[test]
    fn long_messages_are_cut() {
        let reports = Reports::default();
        let handle = reports.open(&unit(0), 1);
        let long = "ä".repeat(2_000);
        handle.set(UnitState::Backoff, "R", &long, None);
        assert_eq!(handle.newest().message.chars().count(), MESSAGE_CHARS_MAX);
        reports.take_changed();
        handle.set(UnitState::Backoff, "R", &long, None);
        assert!(reports.take_changed().is_empty(), "compared as it is kept");
    }

    #[test]
    fn many_reports_become_several_messages() {
        let reports = Reports::default();
        for partition in 0..100 {
            reports.open(&unit(partition), 1);
        }
        let messages = cut(reports.take_all(), 2_000);
        assert!(messages.len() > 5);
        assert_eq!(messages.iter().map(Vec::len).sum::<usize>(), 100);
        assert!(messages.iter().all(|m| m.iter().map(size_bytes).sum::<usize>() <= 2_000));
        assert_eq!(cut(Vec::new(), 2_000), [Vec::new()], "an empty report renews the lease");
    }
}
