//! `WatchFlow`: a flow as it changes.
//!
//! Owns the stream's contract: a snapshot first, then what changed, at most one message a second, and one at least
//! every [`SILENCE_MAX`]. A reader that is slow gets fewer messages, never older ones.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use mirrormesh_core::control::ControlState;
use mirrormesh_core::ids::FlowId;
use mirrormesh_proto::convert::api::{event_to_api, timestamp};
use mirrormesh_proto::v1::{Flow, FlowEvent, FlowPartition, FlowTopic, Progress, WatchFlowResponse};
use mirrormesh_runtime::clock::now_ms;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::flow_view::View;
use super::{Context, status};
use crate::leader::Lead;

/// Least time between two messages.
const SPACING: Duration = Duration::from_secs(1);
/// Longest time without a message; the contract says 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Follows a flow in one leadership.
pub(super) fn flow(
    context: &Context,
    lead: Arc<Lead>,
    id: FlowId,
    include_topics: bool,
) -> impl Stream<Item = Result<WatchFlowResponse, Status>> + Send + 'static {
    let feed = Feed {
        states: context.raft.watch_states(),
        reports: lead.progress.watch(),
        stopping: context.stopping.clone(),
        lead,
        id,
        include_topics,
        sent: None,
        ended: false,
    };
    futures::stream::unfold(feed, |mut feed| async move {
        if feed.ended {
            return None;
        }
        let message = feed.next().await;
        feed.ended = message.is_err();
        Some((message, feed))
    })
}

/// What was sent last.
#[derive(Debug)]
struct Sent {
    at: Instant,
    flow: Flow,
    topics: Vec<FlowTopic>,
    event_sequence: u64,
}

#[derive(Debug)]
struct Feed {
    states: Receiver<Arc<ControlState>>,
    reports: Receiver<u64>,
    lead: Arc<Lead>,
    stopping: CancellationToken,
    id: FlowId,
    include_topics: bool,
    sent: Option<Sent>,
    ended: bool,
}

impl Feed {
    async fn next(&mut self) -> Result<WatchFlowResponse, Status> {
        if let Some(sent) = &self.sent {
            let spaced = sent.at + SPACING;
            self.unless_over(sleep_until(spaced)).await?;
        }
        loop {
            let state = Arc::clone(&self.states.borrow_and_update());
            self.reports.mark_unchanged();
            if let Some(message) = self.message(&state)? {
                return Ok(message);
            }
            self.changed().await?;
        }
    }

    /// Waits for a reason to look again.
    async fn changed(&mut self) -> Result<(), Status> {
        // Ages grow and rates fall without any report.
        let tick = Instant::now() + SPACING;
        tokio::select! {
            changed = self.states.changed() => changed.map_err(|_| status::stopping()),
            changed = self.reports.changed() => changed.map_err(|_| status::leader_changed()),
            () = sleep_until(tick) => Ok(()),
            () = self.lead.ended.cancelled() => Err(over(&self.stopping)),
            () = self.stopping.cancelled() => Err(status::stopping()),
        }
    }

    async fn unless_over(&self, wait: impl Future<Output = ()>) -> Result<(), Status> {
        tokio::select! {
            () = wait => Ok(()),
            () = self.lead.ended.cancelled() => Err(over(&self.stopping)),
            () = self.stopping.cancelled() => Err(status::stopping()),
        }
    }

    /// The next message, if there is something to say.
    fn message(&mut self, state: &ControlState) -> Result<Option<WatchFlowResponse>, Status> {
        let record = state.flows.get(&self.id).ok_or_else(|| status::flow_not_found(&self.id))?;
        let view = View::now(&self.lead, state);
        let flow = view.flow(&self.id, record);
        let topics = if self.include_topics {
            view.topics(&self.id, record, record.topics.values())
        } else {
            Vec::new()
        };
        let now = Instant::now();
        let events = match &self.sent {
            Some(sent) => {
                let same = is_same(&sent.flow, &flow)
                    && sent.topics.len() == topics.len()
                    && sent.topics.iter().zip(&topics).all(|(sent, topic)| is_same_topic(sent, topic));
                if same && sent.event_sequence == record.event_sequence && now < sent.at + SILENCE_MAX {
                    return Ok(None);
                }
                events_since(state, &self.id, sent.event_sequence)
            }
            None => Vec::new(),
        };
        let message = WatchFlowResponse {
            revision: i64::try_from(state.revision).unwrap_or(i64::MAX),
            time: Some(timestamp(now_ms())),
            flow: Some(flow.clone()),
            topics: topics.clone(),
            events,
        };
        self.sent = Some(Sent { at: now, flow, topics, event_sequence: record.event_sequence });
        Ok(Some(message))
    }
}

/// That time has passed is no change: the same figures, only newer, are not sent again.
fn is_same(sent: &Flow, flow: &Flow) -> bool {
    let timeless = |flow: &Flow| Flow { progress: flow.progress.map(untimed), ..flow.clone() };
    timeless(sent) == timeless(flow)
}

fn is_same_topic(sent: &FlowTopic, topic: &FlowTopic) -> bool {
    let timeless = |p: &FlowPartition| FlowPartition { progress_time: None, ..p.clone() };
    sent.name == topic.name
        && sent.target_topic == topic.target_topic
        && sent.progress.map(untimed) == topic.progress.map(untimed)
        && sent.partitions.len() == topic.partitions.len()
        && sent.partitions.iter().zip(&topic.partitions).all(|(a, b)| timeless(a) == timeless(b))
}

fn untimed(progress: Progress) -> Progress {
    Progress { progress_time: None, ..progress }
}

fn events_since(state: &ControlState, id: &FlowId, sequence: u64) -> Vec<FlowEvent> {
    state
        .events
        .iter()
        .filter(|event| event.flow == *id && event.sequence > sequence)
        .map(event_to_api)
        .collect()
}

fn over(stopping: &CancellationToken) -> Status {
    if stopping.is_cancelled() { status::stopping() } else { status::leader_changed() }
}
