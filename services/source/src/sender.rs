//! One task per target broker connection: packs batches of many partitions into requests and hands answers back.
//!
//! Owns the produce connection and the row of requests in flight; knows nothing about sequences. Batches of one
//! partition leave in the order in which they came, one per request (kafka-relay-rules 2.3, check 1), and their
//! answers come back in the same order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt};
use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_core::relay::answer::Answer;
use mirrormesh_kafka::wire::produce::{ProduceEntry, ProduceRequest, ProduceResponse, RawBatch};
use mirrormesh_kafka::{Client, Error};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Requests in flight on one connection.
const REQUESTS_MAX: usize = 256;
/// Batches waiting to be packed.
const WAITING_MAX: usize = 256;
/// Record bytes in one request; far below `socket.request.max.bytes` (100 MiB). One larger batch goes alone.
const REQUEST_BYTES_MAX: usize = 4 << 20;
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
        let task =
            Task { client, node_id, lane, appends: receiver, carried: VecDeque::new(), muted_until: None };
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

/// Who waits, and what came: `None` if nothing was sent.
type Settled = (Vec<Waiting>, Option<Result<ProduceResponse, Error>>);
type InFlight = Pin<Box<dyn Future<Output = Settled> + Send>>;

struct Task {
    client: Client,
    node_id: i32,
    lane: u32,
    appends: mpsc::Receiver<Append>,
    /// Batches of partitions that are in the request before already.
    carried: VecDeque<Append>,
    /// The broker throttles us until then: it has muted the connection, and what is sent meanwhile only waits there.
    muted_until: Option<Instant>,
}

impl Task {
    async fn run(mut self) {
        let mut in_flight: FuturesOrdered<InFlight> = FuturesOrdered::new();
        loop {
            let muted = self.muted_until;
            let room = in_flight.len() < REQUESTS_MAX && muted.is_none();
            let first = tokio::select! {
                biased;
                Some((waiting, result)) = in_flight.next(), if !in_flight.is_empty() => {
                    if let Some(Ok(response)) = &result && !response.throttle.is_zero() {
                        self.muted_until = Some(Instant::now() + response.throttle);
                    }
                    distribute(waiting, result);
                    continue;
                }
                () = tokio::time::sleep_until(muted.unwrap_or_else(Instant::now)), if muted.is_some() => {
                    self.muted_until = None;
                    continue;
                }
                () = std::future::ready(()), if room && !self.carried.is_empty() => None,
                append = self.appends.recv(), if room && self.carried.is_empty() => match append {
                    Some(append) => Some(append),
                    None => break,
                },
            };
            let packed = self.pack(first);
            self.send(packed, &mut in_flight).await;
        }
        while let Some((waiting, result)) = in_flight.next().await {
            distribute(waiting, result);
        }
    }

    /// Takes what may go into one request: carried batches first, then new ones, one per partition.
    fn pack(&mut self, first: Option<Append>) -> Vec<Append> {
        let mut packed: Vec<Append> = Vec::new();
        let mut places: HashSet<(Arc<str>, i32)> = HashSet::new();
        let mut bytes = 0;
        let mut carried = VecDeque::new();
        let mut queue = std::mem::take(&mut self.carried);
        queue.extend(first);
        loop {
            let Some(append) = queue.pop_front().or_else(|| {
                // New batches only while few are carried: the channel keeps the rest, and its senders wait.
                (carried.len() < WAITING_MAX && bytes < REQUEST_BYTES_MAX)
                    .then(|| self.appends.try_recv().ok())
                    .flatten()
            }) else {
                break;
            };
            let size = append.batch.body.len();
            let fits = packed.is_empty() || bytes + size <= REQUEST_BYTES_MAX;
            let place = (Arc::clone(&append.topic), append.partition);
            if fits && !places.contains(&place) {
                places.insert(place);
                bytes += size;
                packed.push(append);
            } else {
                // Once one batch of a partition waits, the later ones of the same partition must wait behind it.
                places.insert(place);
                carried.push_back(append);
            }
        }
        self.carried = carried;
        packed
    }

    async fn send(&self, packed: Vec<Append>, in_flight: &mut FuturesOrdered<InFlight>) {
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
        let sent = match self.client.connection(self.node_id, self.lane).await {
            Ok(connection) => connection.produce_enqueue(&request).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(answer) => in_flight.push_back(Box::pin(async move { (waiting, Some(answer.await)) })),
            // Behind what is in flight, so that answers keep their order.
            Err(error) => {
                tracing::debug!(node = self.node_id, error = %error, "produce request was not sent");
                in_flight.push_back(Box::pin(std::future::ready((waiting, None))));
            }
        }
    }
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

fn hand_out(waiting: Vec<Waiting>, response: &ProduceResponse) {
    let mut by_name: HashMap<(Arc<str>, i32), usize> = HashMap::new();
    let mut by_id: HashMap<([u8; 16], i32), usize> = HashMap::new();
    for (index, p) in response.partitions.iter().enumerate() {
        by_name.insert((Arc::clone(&p.topic), p.partition), index);
        by_id.insert((p.topic_id, p.partition), index);
    }
    for w in waiting {
        let named = by_name.get(&(Arc::clone(&w.topic), w.partition));
        let index = named.or_else(|| by_id.get(&(w.topic_id, w.partition)));
        let answer = match index.and_then(|index| response.partitions.get(*index)) {
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
