//! The two tasks of a connection: one writes requests, one hands out answers.
//!
//! Owns the socket's two halves and the queue between them. Each request is passed to the reader before its bytes are
//! written, so both sides see the same order, which is the order in which a broker answers; no lock is needed.
//!
//! Invariant: an answer is never skipped. What does not fit ends the connection. Must not know what requests mean.
//!
//! A broker handles the requests of a connection one after the other. So the time of a request counts from the last answer
//! on the connection, if that came after the request was sent: until then the broker worked on an earlier request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame::{FrameReader, write_segments};
use super::transport::{Transport, Writer};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::memory::Share;

/// Requests are gathered for one write up to this many segments.
const GATHERED_SEGMENTS_MAX: usize = 256;

/// A broker that throttles leaves requests unread for so long at most before they count as lost.
const MUTED_MAX: Duration = Duration::from_mins(1);

/// How and whether a connection has ended; shared with its tasks.
pub(crate) struct End {
    pub(crate) token: CancellationToken,
    pub(crate) reason: OnceLock<Arc<str>>,
    /// One per request in flight.
    pub(crate) slots: Arc<Semaphore>,
    started: Instant,
    /// The broker reads no requests until then, in milliseconds since the start.
    muted_until_ms: AtomicU64,
}

/// A request on its way to the writer.
pub(crate) struct Queued {
    pub(crate) segments: Vec<Bytes>,
    pub(crate) awaited: Awaited,
}

/// A request whose answer the reader has to expect.
pub(crate) struct Awaited {
    api: &'static str,
    correlation: i32,
    timeout: Duration,
    deadline: Instant,
    /// The deadline is not moved beyond this, however long the broker throttles.
    latest: Instant,
    sender: oneshot::Sender<Result<Bytes>>,
    /// Given back when the request is answered or given up.
    _slot: OwnedSemaphorePermit,
}

impl End {
    /// Ends the connection; the first reason stays.
    pub(crate) fn now(&self, reason: &str) {
        self.reason.get_or_init(|| reason.into());
        self.slots.close();
        self.token.cancel();
    }

    /// The broker has answered that it throttles: it answers nothing more for so long, and what was sent before it said so
    /// waits there.
    pub(crate) fn muted_for(&self, throttle: Duration) {
        if !throttle.is_zero() {
            let until = self.started.elapsed().saturating_add(throttle.min(MUTED_MAX));
            let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
            self.muted_until_ms.fetch_max(until_ms, Ordering::Relaxed);
        }
    }

    fn muted_until(&self) -> Instant {
        self.started + Duration::from_millis(self.muted_until_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn reason(&self) -> Arc<str> {
        self.reason.get().map_or_else(|| "its tasks ended".into(), Arc::clone)
    }
}

impl Awaited {
    /// Due `timeout` after the last answer on the connection, or as long after the end of a throttling.
    pub(crate) fn new(
        (api, correlation): (&'static str, i32),
        timeout: Duration,
        sender: oneshot::Sender<Result<Bytes>>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let deadline = Instant::now() + timeout;
        let latest = deadline + MUTED_MAX;
        Self { api, correlation, timeout, deadline, latest, sender, _slot: slot }
    }
}

/// Starts both tasks. Requests go out in the order in which they are put on the returned queue.
pub(crate) fn start(
    broker: &Arc<str>,
    limits: &Limits,
    transport: Transport,
    memory: Option<Share>,
) -> (mpsc::UnboundedSender<Queued>, Arc<End>, [AbortHandle; 2]) {
    let (queue, queued) = mpsc::unbounded_channel();
    let (awaiting, awaited) = mpsc::unbounded_channel();
    let end = Arc::new(End {
        token: CancellationToken::new(),
        reason: OnceLock::new(),
        slots: Arc::new(Semaphore::new(limits.in_flight_max.min(Semaphore::MAX_PERMITS))),
        started: Instant::now(),
        muted_until_ms: AtomicU64::new(0),
    });
    let reader = Reader {
        frames: FrameReader::new(transport.reader, limits.frame_bytes_max, memory),
        awaited,
        broker: Arc::clone(broker),
        waiting: VecDeque::new(),
        answered: Instant::now(),
        end: Arc::clone(&end),
    };
    let writing = tokio::spawn(write_until_end(transport.writer, queued, awaiting, Arc::clone(&end)));
    let reading = tokio::spawn(reader.run());
    (queue, end, [writing.abort_handle(), reading.abort_handle()])
}

/// The writer's task.
async fn write_until_end(
    mut writer: Writer,
    mut queued: mpsc::UnboundedReceiver<Queued>,
    awaiting: mpsc::UnboundedSender<Awaited>,
    end: Arc<End>,
) {
    tokio::select! {
        biased;
        () = end.token.cancelled() => {}
        reason = write_requests(&mut writer, &mut queued, &awaiting) => end.now(&reason),
    }
}

/// Writes what is queued until that is of no more use; returns why.
async fn write_requests(
    writer: &mut Writer,
    queued: &mut mpsc::UnboundedReceiver<Queued>,
    awaiting: &mpsc::UnboundedSender<Awaited>,
) -> String {
    let mut segments = VecDeque::new();
    while let Some(first) = queued.recv().await {
        let mut next = Some(first);
        while let Some(request) = next {
            // Before the bytes go out: an answer must not come earlier than the reader knows of it.
            if awaiting.send(request.awaited).is_err() {
                return "its reader ended".to_owned();
            }
            segments.extend(request.segments);
            next = if segments.len() < GATHERED_SEGMENTS_MAX { queued.try_recv().ok() } else { None };
        }
        if let Err(error) = write_segments(writer, &mut segments).await {
            return format!("writing failed: {error}");
        }
    }
    "all handles to it were dropped".to_owned()
}

/// The reader's task.
struct Reader {
    frames: FrameReader,
    awaited: mpsc::UnboundedReceiver<Awaited>,
    broker: Arc<str>,
    /// Unanswered requests, oldest first.
    waiting: VecDeque<Awaited>,
    /// When the last answer came.
    answered: Instant,
    end: Arc<End>,
}

impl Reader {
    async fn run(mut self) {
        let end = Arc::clone(&self.end);
        tokio::select! {
            biased;
            () = end.token.cancelled() => {}
            reason = self.read_answers() => end.now(&reason),
        }
        // Dropping the unanswered requests tells their senders.
    }

    /// Hands out answers until the connection is of no more use; returns why.
    async fn read_answers(&mut self) -> String {
        let alarm = tokio::time::sleep_until(far_future());
        tokio::pin!(alarm);
        let mut awaiting = true;
        loop {
            // A timer is only moved forward in time when it rings, which is rarer than answers are.
            let deadline = self.waiting.iter().map(|request| request.deadline).min();
            if let Some(deadline) =
                deadline.filter(|deadline| *deadline < alarm.deadline() || alarm.is_elapsed())
            {
                alarm.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                request = self.awaited.recv(), if awaiting => match request {
                    Some(request) => self.waiting.push_back(request),
                    None => awaiting = false,
                },
                frame = self.frames.next() => {
                    let frame = match frame {
                        Ok(frame) => frame,
                        Err(error) => return error.0,
                    };
                    if let Err(reason) = self.hand_out(frame) {
                        return reason;
                    }
                }
                () = &mut alarm => {
                    if let Some(reason) = self.expire() {
                        return reason;
                    }
                    if self.waiting.is_empty() {
                        alarm.as_mut().reset(far_future());
                    }
                }
            }
        }
    }

    fn hand_out(&mut self, frame: Bytes) -> Result<(), String> {
        let correlation = frame.first_chunk::<4>().map(|id| i32::from_be_bytes(*id));
        let Some(correlation) = correlation else { return Err("an answer has no correlation id".to_owned()) };
        let request = self.waiting.pop_front().or_else(|| self.awaited.try_recv().ok());
        let Some(request) = request else {
            return Err(format!("an answer with correlation id {correlation} came that nobody waits for"));
        };
        if request.correlation != correlation {
            let expected = request.correlation;
            let reason = format!("an answer has correlation id {correlation}, {expected} is the next one");
            // Before the request is dropped: its sender shall see why.
            self.end.now(&reason);
            return Err(reason);
        }
        self.answered = Instant::now();
        // Nobody may be interested any more; the answer had to be taken off the wire all the same.
        drop(request.sender.send(Ok(frame)));
        Ok(())
    }

    /// Tells the requests whose time is over; the others learn that the connection ended.
    fn expire(&mut self) -> Option<String> {
        let now = Instant::now();
        if self.frames.is_held() {
            // The broker has answered; it is we who don't read.
            for request in &mut self.waiting {
                request.deadline = request.deadline.max(now + request.timeout);
            }
            return None;
        }
        let muted_until = self.end.muted_until();
        for request in &mut self.waiting {
            let throttled = request.latest.min(muted_until + request.timeout);
            request.deadline = request.deadline.max(throttled).max(self.answered + request.timeout);
        }
        let late = self.waiting.iter().find(|request| request.deadline <= now)?;
        let reason = format!("{} was not answered within {} ms", late.api, late.timeout.as_millis());
        // Before any request is dropped: their senders shall see why.
        self.end.now(&reason);
        for request in std::mem::take(&mut self.waiting) {
            if request.deadline <= now {
                drop(request.sender.send(Err(Error::Timeout {
                    broker: Arc::clone(&self.broker),
                    api: request.api,
                    timeout: request.timeout,
                })));
            }
        }
        Some(reason)
    }
}

/// Beyond any deadline (limits allow an hour), near enough for every clock.
fn far_future() -> Instant {
    Instant::now() + Duration::from_hours(365 * 24)
}
