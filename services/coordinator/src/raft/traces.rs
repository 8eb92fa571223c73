//! The traces that changes of flows belong to, so that what follows from a change continues its trace.
//!
//! Soft state of this coordinator: nothing is decided by it, and it never enters the Raft log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mirrormesh_core::control::CommandKind;
use mirrormesh_core::ids::FlowId;
use parking_lot::Mutex;

/// What follows a change so much later is no part of it.
const KEPT: Duration = Duration::from_mins(10);

/// The traces by flow; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowTraces(Arc<Mutex<BTreeMap<FlowId, (Instant, String)>>>);

impl FlowTraces {
    /// A user's command is proposed in this trace.
    pub(super) fn note(&self, kind: &CommandKind, trace: &str, now: Instant) {
        let (CommandKind::PutFlow { id: flow, .. }
        | CommandKind::SetPaused { id: flow, .. }
        | CommandKind::SetTopicPaused { id: flow, .. }) = kind
        else {
            return;
        };
        let mut traces = self.0.lock();
        traces.retain(|_, (at, _)| now.saturating_duration_since(*at) < KEPT);
        traces.insert(flow.clone(), (now, trace.to_owned()));
    }

    /// The trace of a flow's last change, for a while after it.
    pub(crate) fn of(&self, flow: &FlowId, now: Instant) -> Option<String> {
        let traces = self.0.lock();
        let (at, trace) = traces.get(flow)?;
        (now.saturating_duration_since(*at) < KEPT).then(|| trace.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirrormesh_core::control::WriteGuard;
    use mirrormesh_core::ids::WorkerId;

    #[test]
    fn the_trace_of_the_last_change_holds_for_ten_minutes() {
        let (traces, flow, begin) = (FlowTraces::default(), FlowId::new("f").unwrap(), Instant::now());
        let pause =
            |paused| CommandKind::SetPaused { id: flow.clone(), paused, guard: WriteGuard::default() };
        traces.note(&pause(true), "00-1", begin);
        traces.note(&pause(false), "00-2", begin + Duration::from_mins(1));
        let expire = CommandKind::ExpireWorker { worker: WorkerId::new("w").unwrap(), session: 1 };
        traces.note(&expire, "00-3", begin + Duration::from_secs(61));
        assert_eq!(traces.of(&flow, begin + Duration::from_secs(62)).as_deref(), Some("00-2"));
        assert_eq!(traces.of(&flow, begin + Duration::from_mins(11)), None);
    }
}
