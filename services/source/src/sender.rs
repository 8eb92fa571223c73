//! One task per target broker connection: packs batches of many partitions into requests and hands answers back.
//!
//! Owns the produce connection and the row of requests in flight; knows nothing about sequences. Batches of one
//! partition leave in the order in which they came, one per request, and their
//! answers come back in the same order.

mod ack_time;
mod lanes;
mod outcome;
mod pace;
mod packing;
mod patience;
mod reply;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_kafka::wire::Answer as Answered;
use mirrormesh_kafka::wire::produce::{ProduceEntry, ProduceRecords, ProduceRequest, ProduceResponse};
use mirrormesh_kafka::{Client, Connection, ConnectionRole, Error, ErrorCode};
use mirrormesh_relay::answer::Answer;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use ack_time::AckTime;
pub(crate) use lanes::Lanes;
use outcome::{Waiting, distribute};
use pace::{Pace, Ticket};
use packing::{Packing, Place};
use patience::{PROBE_TIMEOUT, Patience, Silence};
pub(crate) use reply::{Reply, Row};

/// Batches waiting to be packed, and as many on their way to the task; then partitions wait.
const WAITING_MAX: usize = 256;
/// How often it is looked whether a broker is silent, while requests are in flight.
const LOOK: Duration = Duration::from_millis(500);

/// One batch to append.
#[derive(Debug)]
pub(crate) struct QueuedBatch {
    /// Target topic.
    pub(crate) topic: Arc<str>,
    /// Its id.
    pub(crate) topic_id: [u8; 16],
    /// The partition.
    pub(crate) partition: i32,
    /// The batch.
    pub(crate) batch: StampedBatch,
    /// Where the answer goes.
    pub(crate) reply: Reply,
}

/// How quickly a broker acknowledges, as the senders know who share it.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledging {
    // Held for some arithmetic per request.
    patience: Arc<Mutex<Patience>>,
}

impl Acknowledging {
    pub(crate) fn new() -> Self {
        Self { patience: Arc::new(Mutex::new(Patience::new(Instant::now().into_std()))) }
    }

    fn lock(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock()
    }
}

/// The way to a sender.
#[derive(Debug)]
pub(crate) struct Sender {
    appends: mpsc::Sender<QueuedBatch>,
    acknowledging: Acknowledging,
    ack_time: Arc<AckTime>,
    _task: AbortOnDropHandle<()>,
}

impl Sender {
    /// Starts the task.
    pub(crate) fn start(
        client: Client,
        node_id: i32,
        lane: ConnectionRole,
        acknowledging: Acknowledging,
    ) -> Self {
        let (appends, receiver) = mpsc::channel(WAITING_MAX);
        let ack_time = Arc::new(AckTime::default());
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = Task {
            client,
            node_id,
            lane,
            connection: None,
            in_flight: VecDeque::new(),
            packing: Packing::default(),
            appends: receiver,
            pace: Pace::default(),
            acknowledging: acknowledging.clone(),
            silence: Silence::new(Instant::now().into_std()),
            overdue: patience::OVERDUE_MIN,
            ack_time: Arc::clone(&ack_time),
            looks,
            probe: None,
            muted_until: None,
            gathered: false,
        };
        Self { appends, acknowledging, ack_time, _task: AbortOnDropHandle::new(tokio::spawn(task.run())) }
    }

    /// The time in which the broker acknowledges one batch while further requests wait there, ns; 0 if none wait.
    pub(crate) fn ack_ns(&self) -> u64 {
        self.ack_time.ns()
    }

    /// A partition is about to come that its broker was slow with.
    pub(crate) fn expect_slow(&self) {
        self.acknowledging.lock().expect_slow(Instant::now().into_std());
    }

    /// The task has ended: nothing can be sent through it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.appends.is_closed()
    }

    /// Hands over a batch; waits while too many wait. A batch that can't be handed over is answered `NotSent`.
    pub(crate) async fn append(&self, append: QueuedBatch) {
        // The error holds the batch, whose reply answers when it is dropped.
        drop(self.appends.send(append).await);
    }
}

/// A request on its way. Fields are dropped in this order, which is the order of the answers.
struct InFlight {
    waiting: Vec<Waiting>,
    /// Batches that were not sent because an earlier batch of their partition failed. They are answered behind this
    /// request, which holds an earlier batch of the same partition.
    unsent: Vec<Reply>,
    answer: Answered<ProduceResponse>,
    ticket: Ticket,
}

/// If the task ends, dropping it answers all batches, oldest first: the order of the three fields that hold batches is
/// the order of sending.
struct Task {
    /// Oldest first; a broker answers in this order.
    in_flight: VecDeque<InFlight>,
    packing: Packing,
    appends: mpsc::Receiver<QueuedBatch>,
    client: Client,
    node_id: i32,
    lane: ConnectionRole,
    connection: Option<Connection>,
    pace: Pace,
    acknowledging: Acknowledging,
    silence: Silence,
    /// So long a silence is unusual.
    overdue: Duration,
    ack_time: Arc<AckTime>,
    looks: Interval,
    /// The broker is asked on another connection whether it works: when, and what comes of it.
    probe: Option<(Instant, BoxFuture<'static, Result<(), Error>>)>,
    /// The broker throttles us until then: it has muted the connection, and what is sent meanwhile only waits there.
    muted_until: Option<Instant>,
    /// Other partitions were given the time to hand over what they have.
    gathered: bool,
}

impl Task {
    async fn run(mut self) {
        let mut open = true;
        while open || !self.packing.is_empty() || !self.in_flight.is_empty() {
            let muted = self.muted_until;
            let may_send = muted.is_none() && !self.packing.is_empty() && self.allows_one_more();
            tokio::select! {
                biased;
                (settled, result) = answered(&mut self.in_flight), if !self.in_flight.is_empty() => {
                    self.settle(settled, result);
                }
                () = tokio::time::sleep_until(muted.unwrap_or_else(Instant::now)), if muted.is_some() => {
                    self.muted_until = None;
                }
                append = self.appends.recv(), if open && self.packing.len() < WAITING_MAX => match append {
                    Some(append) => self.gather(append),
                    None => open = false,
                },
                (asked, result) = probed(&mut self.probe), if self.probe.is_some() => {
                    self.learn(asked, &result);
                }
                _ = self.looks.tick(), if !self.in_flight.is_empty() && self.probe.is_none() => self.look(),
                () = std::future::ready(()), if may_send => self.send_or_gather().await,
            }
        }
    }

    /// While the oldest request takes unusually long, no further ones are sent: each would hold a batch of the partition
    /// that is slow, and the broker would wait for that partition once per request.
    fn allows_one_more(&self) -> bool {
        let now = Instant::now().into_std();
        self.pace.allows(self.in_flight.len())
            && (self.in_flight.is_empty() || !self.silence.is_longer_than(self.overdue, now))
    }

    fn settle(&mut self, settled: InFlight, result: Result<ProduceResponse, Error>) {
        let now = Instant::now().into_std();
        match &result {
            Ok(response) => {
                let waited = self.pace.answered(settled.ticket, now);
                let late =
                    response.partitions.iter().filter(|p| p.error == ErrorCode::REQUEST_TIMED_OUT).count();
                let took = self.silence.took(settled.ticket.at, now);
                self.ack_time.seen(waited.then_some(took), settled.waiting.len());
                let mut patience = self.acknowledging.lock();
                patience.answered(took, late, response.partitions.len(), now);
                self.overdue = patience.overdue(now);
                drop(patience);
                self.silence.ended(now);
                if !response.throttle.is_zero() {
                    self.muted_until = Some(Instant::now() + response.throttle);
                }
            }
            Err(_) => self.pace.lost(settled.ticket),
        }
        let failed = distribute(settled.waiting, result);
        drop(settled.unsent);
        for place in failed {
            self.refuse_waiting(&place);
        }
    }

    fn gather(&mut self, first: QueuedBatch) {
        let mut next = Some(first);
        while let Some(append) = next {
            if append.reply.row().is_failed() {
                let place = (append.topic, append.partition);
                self.refuse_waiting(&place);
                self.refuse(&place, append.reply);
            } else {
                self.packing.push(append);
            }
            next = if self.packing.len() < WAITING_MAX { self.appends.try_recv().ok() } else { None };
        }
    }

    /// Refuses the batches of a partition that wait behind a failed one.
    fn refuse_waiting(&mut self, place: &Place) {
        for append in self.packing.take_failed(place) {
            self.refuse(place, append.reply);
        }
    }

    /// Answers a batch `NotSent`, once all batches of the partition that were sent before it have their answers.
    fn refuse(&mut self, place: &Place, reply: Reply) {
        reply.row().fail();
        let holds = |w: &Waiting| w.partition == place.1 && w.topic == place.0;
        match self.in_flight.iter_mut().rev().find(|request| request.waiting.iter().any(holds)) {
            Some(request) => request.unsent.push(reply),
            None => reply.give(Answer::NotSent),
        }
    }

    /// Finds out about a broker that does not answer: one that is slow keeps its connection, and answers there in the end.
    fn look(&mut self) {
        if self.silence.wants_probe(Instant::now().into_std()) {
            let (client, node_id) = (self.client.clone(), self.node_id);
            let asking = Box::pin(async move { client.probe(node_id, PROBE_TIMEOUT).await });
            self.probe = Some((Instant::now(), asking));
        }
    }

    /// What came of a probe. A broker that does not answer there either loses its connection at once.
    fn learn(&mut self, asked: Instant, result: &Result<(), Error>) {
        match result {
            Ok(()) => self.silence.probed(Instant::now().into_std()),
            // A connection that ended says nothing of the broker: it is probed again.
            Err(Error::Disconnected { .. }) => {}
            Err(error) if self.silence.lasts_since(asked.into_std()) => {
                let Some(connection) = &self.connection else { return };
                tracing::info!(broker = connection.broker(), %error,
                    "giving up a connection: the broker answers nothing, on another connection neither");
                connection.close_because("the broker answered nothing, on another connection neither");
            }
            Err(_) => {}
        }
    }

    /// While something is on its way anyway, whoever is about to hand over a batch may do so first: a request costs both
    /// sides much more than another partition in it.
    async fn send_or_gather(&mut self) {
        self.gathered = !self.gathered && !self.in_flight.is_empty();
        if self.gathered {
            return tokio::task::yield_now().await;
        }
        let connection = self.connection().await;
        self.send(connection).await;
    }

    async fn connection(&mut self) -> Result<Connection, Error> {
        if let Some(connection) = self.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        // What is in flight on the connection that ended has failed, though its answers were not looked at yet: nothing
        // of the same partitions may go out on the next connection.
        for waiting in self.in_flight.iter().flat_map(|request| &request.waiting) {
            waiting.reply.row().fail();
        }
        self.connection = None;
        let connection = self.client.connection(self.node_id, self.lane).await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// The broker can't be reached: everything that waits is answered at once, not request by request.
    fn refuse_all(&mut self) {
        loop {
            let packed = self.packing.take();
            if packed.is_empty() {
                return;
            }
            for append in packed {
                let place = (append.topic, append.partition);
                self.refuse(&place, append.reply);
                self.refuse_waiting(&place);
            }
        }
    }

    async fn send(&mut self, connection: Result<Connection, Error>) {
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(node = self.node_id, %error, "the broker can't be reached");
                return self.refuse_all();
            }
        };
        let mut packed = self.packing.take();
        for append in packed.extract_if(.., |append| append.reply.row().is_failed()) {
            let place = (append.topic, append.partition);
            self.refuse(&place, append.reply);
            self.refuse_waiting(&place);
        }
        if packed.is_empty() {
            return;
        }
        let (entries, mut waiting): (Vec<_>, Vec<_>) = packed.into_iter().map(split).unzip();
        let now = Instant::now().into_std();
        let request = ProduceRequest { timeout: self.acknowledging.lock().timeout(now), entries };
        match connection.produce_enqueue(&request).await {
            Ok(answer) => {
                for w in &mut waiting {
                    w.reply.leaves();
                }
                if self.in_flight.is_empty() {
                    self.silence.ended(now);
                }
                let ticket = self.pace.sent(self.in_flight.len(), now);
                self.in_flight.push_back(InFlight { waiting, unsent: Vec::new(), answer, ticket });
            }
            Err(error) => {
                tracing::debug!(node = self.node_id, %error, "produce request was not sent");
                for w in waiting {
                    let place = (w.topic, w.partition);
                    self.refuse(&place, w.reply);
                    self.refuse_waiting(&place);
                }
            }
        }
    }
}

/// A batch as it goes out, and who waits for its answer.
fn split(append: QueuedBatch) -> (ProduceEntry, Waiting) {
    let QueuedBatch { topic, topic_id, partition, batch, reply } = append;
    let records = ProduceRecords::new(Bytes::copy_from_slice(&batch.header), batch.body);
    let entry = ProduceEntry { topic: Arc::clone(&topic), topic_id, partition, records };
    (entry, Waiting { topic, topic_id, partition, reply })
}

/// Takes off the oldest request once its answer has come or its connection has ended.
async fn answered(in_flight: &mut VecDeque<InFlight>) -> (InFlight, Result<ProduceResponse, Error>) {
    poll_fn(|context| {
        let Some(oldest) = in_flight.front_mut() else { return Poll::Pending };
        let result = ready!(Pin::new(&mut oldest.answer).poll(context));
        in_flight.pop_front().map_or(Poll::Pending, |settled| Poll::Ready((settled, result)))
    })
    .await
}

/// Waits for what comes of a probe, and takes the probe off.
async fn probed(
    probe: &mut Option<(Instant, BoxFuture<'static, Result<(), Error>>)>,
) -> (Instant, Result<(), Error>) {
    let Some((asked, asking)) = probe else { return std::future::pending().await };
    let done = (*asked, asking.await);
    *probe = None;
    done
}

#[cfg(test)]
mod tests;
