//! The stream of reports: what changed, what was released; each report renews the lease.
//!
//! Owns pace, sequence numbers and what is still unacknowledged; knows nothing about units.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mirrormesh_core::report::UnitReport;
use mirrormesh_core::unit::Unit;
use mirrormesh_proto::mesh::ReportProgressRequest;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::lease::LeaseClock;
use crate::link::Link;
use crate::release::Releases;
use crate::report::{Reports, cut};
use crate::wire;

/// Time between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Reports handed to the transport but not sent yet, at most; more would only grow old there.
const CHANNEL_MAX: usize = 4;
/// About how large one report gets; half of what gRPC takes, since sizes are estimated.
const REPORT_BYTES_MAX: usize = 2 << 20;
/// Released units in one report at most.
const RELEASED_MAX: usize = 2_000;
/// A stream that is not accepted in this time is given up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// What is reported, over all streams of a worker.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) reports: Reports,
    pub(crate) releases: Releases,
    pub(crate) clock: LeaseClock,
}

/// One report on its way.
#[derive(Debug)]
struct Sent {
    sequence: u64,
    at: Instant,
    released: Vec<(Unit, u64)>,
}

/// One stream of reports.
struct Stream<'a> {
    progress: &'a Progress,
    link: Link,
    sender: mpsc::Sender<ReportProgressRequest>,
    /// Reports that wait for room in the channel.
    outbox: VecDeque<Vec<UnitReport>>,
    sequence: u64,
    unacknowledged: VecDeque<Sent>,
}

impl Progress {
    /// Reports in this session until the stream ends, and says how it ended. `lease` is how long one acknowledged
    /// report holds; a stream that acknowledges nothing for that long is given up.
    pub(crate) async fn run(&self, link: Link, lease: Duration) -> Status {
        let (sender, receiver) = mpsc::channel(CHANNEL_MAX);
        let mut stream = Stream {
            progress: self,
            link: link.clone(),
            sender,
            outbox: cut(self.reports.take_all(), REPORT_BYTES_MAX).into(),
            sequence: 0,
            unacknowledged: VecDeque::new(),
        };
        // The first report is there before the call is made: a server may wait for it before it answers.
        stream.flush();
        let open = wire::report_progress(link, ReceiverStream::new(receiver));
        let mut acks = match tokio::time::timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(acks)) => acks,
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("the stream of reports was not accepted in time"),
        };
        let mut tick = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    if stream.unacknowledged.front().is_some_and(|sent| sent.at.elapsed() >= lease) {
                        return Status::deadline_exceeded("reports are not acknowledged any more");
                    }
                    if stream.outbox.is_empty() {
                        stream.outbox = cut(self.reports.take_changed(), REPORT_BYTES_MAX).into();
                    }
                    stream.flush();
                }
                () = self.releases.added() => stream.flush(),
                ack = acks.message() => match ack {
                    Ok(Some(ack)) => {
                        stream.acknowledged(wire::acknowledged(ack), lease);
                        stream.flush();
                    }
                    Ok(None) => return Status::unavailable("the coordinator ended the stream of reports"),
                    Err(status) => return status,
                },
            }
        }
    }
}

impl Stream<'_> {
    /// Hands over what waits while there is room. Units that were released are told at once, in a report of their own
    /// if none waits.
    fn flush(&mut self) {
        let mut released = self.newly_released();
        while !(self.outbox.is_empty() && released.is_empty()) {
            let Ok(permit) = self.sender.try_reserve() else { return };
            let units = self.outbox.pop_front().unwrap_or_default();
            let rest = released.split_off(released.len().min(RELEASED_MAX));
            self.sequence += 1;
            permit.send(wire::progress(&self.link, self.sequence, units, released.clone()));
            self.unacknowledged.push_back(Sent { sequence: self.sequence, at: Instant::now(), released });
            released = rest;
        }
    }

    /// What was released and is not on its way in this stream.
    fn newly_released(&self) -> Vec<(Unit, u64)> {
        let all = self.progress.releases.unacknowledged();
        let sent: BTreeSet<&(Unit, u64)> =
            self.unacknowledged.iter().flat_map(|sent| &sent.released).collect();
        all.into_iter().filter(|released| !sent.contains(released)).collect()
    }

    /// Reports are acknowledged in order: one acknowledgement stands for all before it.
    fn acknowledged(&mut self, sequence: u64, lease: Duration) {
        while self.unacknowledged.front().is_some_and(|sent| sent.sequence <= sequence) {
            let Some(sent) = self.unacknowledged.pop_front() else { return };
            self.progress.releases.acknowledge(&sent.released);
            self.progress.clock.renew(sent.at, lease);
        }
    }
}
