//! One task per target broker connection: packs batches of many partitions into requests and hands answers back.
//!
//! Owns the produce connection and the row of requests in flight; knows nothing about sequences. Batches of one
//! partition leave in the order in which they came, one per request (kafka-relay-rules 2.3, check 1), and their
//! answers come back in the same order.

mod pace;
mod packing;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_core::relay::answer::Answer;
use mirrormesh_kafka::wire::Answer as Answered;
use mirrormesh_kafka::wire::produce::{
    ProduceEntry, ProduceRequest, ProduceResponse, ProducedPartition, RawBatch,
};
use mirrormesh_kafka::{Client, Connection, Error};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use pace::{Pace, Ticket};
use packing::Packing;

/// Batches waiting to be packed, and as many on their way to the task; then partitions wait.
const WAITING_MAX: usize = 256;
/// How long a broker may wait for its replicas.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// One batch to append.
#[derive(Debug)]
pub(crate) struct Append {
    /// Target topic.
    pub(crate) topic: Arc<str>,
    /// Its id.
    pub(crate) topic_id: [u8; 16],
    /// The partition.
    pub(crate) partition: i32,
    /// Number of the batch in its window.
    pub(crate) id: u64,
    /// The batch.
    pub(crate) batch: StampedBatch,
    /// Where the answer goes. Unbounded, but a window never has more in flight than it may.
    pub(crate) answers: mpsc::UnboundedSender<(u64, Answer)>,
}

/// The way to a sender.
#[derive(Debug)]
pub(crate) struct Sender {
    appends: mpsc::Sender<Append>,
    _task: AbortOnDropHandle<()>,
}

impl Sender {
    /// Starts the task.
    pub(crate) fn start(client: Client, node_id: i32, lane: u32) -> Self {
        let (appends, receiver) = mpsc::channel(WAITING_MAX);
        let task = Task {
            client,
            node_id,
            lane,
            connection: None,
            appends: receiver,
            packing: Packing::default(),
            in_flight: VecDeque::new(),
            pace: Pace::default(),
            muted_until: None,
            gathered: false,
        };
        Self { appends, _task: AbortOnDropHandle::new(tokio::spawn(task.run())) }
    }

    /// Hands over a batch; waits while too many wait.
    pub(crate) async fn append(&self, append: Append) {
        if let Err(refused) = self.appends.send(append).await {
            let append = refused.0;
            let _gone = append.answers.send((append.id, Answer::NotSent));
        }
    }
}

/// Who waits for one entry of a request.
struct Waiting {
    topic: Arc<str>,
    topic_id: [u8; 16],
    partition: i32,
    id: u64,
    answers: mpsc::UnboundedSender<(u64, Answer)>,
}

/// A request on its way.
struct InFlight {
    waiting: Vec<Waiting>,
    /// `None` if nothing was sent: it stands here so that answers keep their order.
    answer: Option<Answered<ProduceResponse>>,
    ticket: Ticket,
}

struct Task {
    client: Client,
    node_id: i32,
    lane: u32,
    connection: Option<Connection>,
    appends: mpsc::Receiver<Append>,
    packing: Packing,
    /// Oldest first; a broker answers in this order.
    in_flight: VecDeque<InFlight>,
    pace: Pace,
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
            let may_send =
                self.pace.allows(self.in_flight.len()) && muted.is_none() && !self.packing.is_empty();
            tokio::select! {
                biased;
                (settled, result) = answered(&mut self.in_flight), if !self.in_flight.is_empty() => {
                    self.settle(&settled, result.as_ref());
                    distribute(settled.waiting, result);
                }
                () = tokio::time::sleep_until(muted.unwrap_or_else(Instant::now)), if muted.is_some() => {
                    self.muted_until = None;
                }
                append = self.appends.recv(), if open && self.packing.len() < WAITING_MAX => match append {
                    Some(append) => self.gather(append),
                    None => open = false,
                },
                () = std::future::ready(()), if may_send => self.send_or_gather().await,
            }
        }
    }

    fn settle(&mut self, settled: &InFlight, result: Option<&Result<ProduceResponse, Error>>) {
        match result {
            Some(Ok(response)) => {
                self.pace.answered(settled.ticket, Instant::now().into_std());
                if !response.throttle.is_zero() {
                    self.muted_until = Some(Instant::now() + response.throttle);
                }
            }
            // Another connection, maybe to another place.
            Some(Err(_)) => self.pace = Pace::default(),
            None => {}
        }
    }

    fn gather(&mut self, first: Append) {
        let mut next = Some(first);
        while let Some(append) = next {
            self.packing.push(append);
            next = if self.packing.len() < WAITING_MAX { self.appends.try_recv().ok() } else { None };
        }
    }

    /// While something is on its way anyway, whoever is about to hand over a batch may do so first: a request costs both
    /// sides much more than another partition in it.
    async fn send_or_gather(&mut self) {
        self.gathered = !self.gathered && !self.in_flight.is_empty();
        if self.gathered {
            return tokio::task::yield_now().await;
        }
        let packed = self.packing.take();
        self.send(packed).await;
    }

    async fn connection(&mut self) -> Result<Connection, Error> {
        if let Some(connection) = self.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = self.client.connection(self.node_id, self.lane).await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    async fn send(&mut self, packed: Vec<Append>) {
        let mut waiting = Vec::with_capacity(packed.len());
        let mut entries = Vec::with_capacity(packed.len());
        for append in packed {
            entries.push(ProduceEntry {
                topic: Arc::clone(&append.topic),
                topic_id: append.topic_id,
                partition: append.partition,
                records: RawBatch::new(Bytes::copy_from_slice(&append.batch.header), append.batch.body),
            });
            waiting.push(Waiting {
                topic: append.topic,
                topic_id: append.topic_id,
                partition: append.partition,
                id: append.id,
                answers: append.answers,
            });
        }
        let request = ProduceRequest { timeout: ACK_TIMEOUT, entries };
        let sent = match self.connection().await {
            Ok(connection) => connection.produce_enqueue(&request).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &sent {
            tracing::debug!(node = self.node_id, %error, "produce request was not sent");
        }
        let ticket = self.pace.sent(self.in_flight.len(), Instant::now().into_std());
        self.in_flight.push_back(InFlight { waiting, answer: sent.ok(), ticket });
    }
}

/// Takes off the oldest request once it is settled, with what came; `None` if nothing was sent.
async fn answered(in_flight: &mut VecDeque<InFlight>) -> (InFlight, Option<Result<ProduceResponse, Error>>) {
    poll_fn(|context| {
        let Some(oldest) = in_flight.front_mut() else { return Poll::Pending };
        let result = match &mut oldest.answer {
            Some(answer) => Some(ready!(Pin::new(answer).poll(context))),
            None => None,
        };
        in_flight.pop_front().map_or(Poll::Pending, |settled| Poll::Ready((settled, result)))
    })
    .await
}

fn distribute(waiting: Vec<Waiting>, result: Option<Result<ProduceResponse, Error>>) {
    let failed = match result {
        Some(Ok(response)) => return hand_out(waiting, &response),
        Some(Err(error)) => {
            tracing::debug!(error = %error, "produce answer lost");
            Answer::Lost
        }
        None => Answer::NotSent,
    };
    for w in waiting {
        let _gone = w.answers.send((w.id, failed.clone()));
    }
}

/// Brokers answer in the order of the request, as a rule; where one does not, its answer is looked for.
fn hand_out(waiting: Vec<Waiting>, response: &ProduceResponse) {
    for (index, w) in waiting.into_iter().enumerate() {
        let ours = |p: &&ProducedPartition| {
            p.partition == w.partition && p.topic_id == w.topic_id && p.topic == w.topic
        };
        let in_place = response.partitions.get(index).filter(ours);
        let answer = match in_place.or_else(|| response.partitions.iter().find(ours)) {
            // The broker said nothing about it: nothing may be concluded.
            None => Answer::Lost,
            Some(p) if p.error.is_ok() => {
                Answer::Appended { base_offset: p.base_offset, append_time: p.log_append_time >= 0 }
            }
            Some(p) => {
                Answer::Refused { code: p.error.0, message: p.error_message.clone().unwrap_or_default() }
            }
        };
        let _gone = w.answers.send((w.id, answer));
    }
}
