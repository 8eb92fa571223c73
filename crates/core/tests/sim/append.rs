//! Appends on their way to the target and answers back: connections, the broker's queue, replication, ghosts.

use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_core::ids::TopicId;
use mirrormesh_core::relay::answer::Answer;
use mirrormesh_core::relay::machine::Append;
use mirrormesh_core::report::Delivery;
use mirrormesh_core::unit::Generation;

use crate::check::Claim;
use crate::record::Rec;
use crate::source::Gone;
use crate::target::Appended;
use crate::world::{Connection, Event, Order, Request, Waiting, World};

const REQUEST_TIMEOUT_MS: u64 = 5_000;
const ACK_TIMEOUT_MS: u64 = 3_000;

impl World {
    pub fn send(&mut self, o: usize, append: Append<()>) {
        let Append { id, batch, path, .. } = append;
        let now = self.owner_now(o);
        *self.paths.entry(path.name()).or_default() += 1;
        let delivery = self.owners[o].relay.figures(now).delivery;
        self.owners[o].sent = true;
        let generation = self.owners[o].relay.generation().generation;
        let source_topic = self.owners[o].relay.detail().source_topic_id;
        let target_topic = self.owners[o].relay.detail().target_topic_id;
        let timestamps = crate::check::timestamps(self.owners[o].rules);
        let append_time = self.target.facts.target_append_time;
        let claim = Claim {
            generation,
            source_topic,
            delivery: promised(delivery),
            marked: delivery == Delivery::Marked,
            timestamps,
            append_time,
            by_name: self.knobs.by_name && delivery != Delivery::ExactlyOnce,
            lost: false,
            stale: false,
        };
        if o == self.raft.owner {
            self.last_said = claim.delivery;
        }
        self.say(|| format!("owner {o} appends {id}, {} bytes, {path:?}, {delivery:?}", batch.body.len()));
        self.request(o, Request { id, order: Order::Append { batch, claim, target_topic } });
    }

    pub fn mark(&mut self, o: usize, id: u64) {
        let generation = self.owners[o].relay.generation().generation;
        self.say(|| format!("owner {o} marks {id}: {generation:?}"));
        self.owners[o].sent = true;
        self.request(o, Request { id, order: Order::Mark(generation) });
    }

    fn request(&mut self, o: usize, request: Request) {
        let c = self.connection(o);
        let id = request.id;
        self.connections[c].due.push_back(id);
        let delay = self.delay();
        let arrival = self.connections[c].last_arrival.max(self.now + delay);
        self.connections[c].last_arrival = arrival;
        self.at(arrival - self.now, Event::Arrive(c, request));
        self.at(REQUEST_TIMEOUT_MS, Event::TimeOut(c, id));
        self.lose(c);
    }

    fn connection(&mut self, o: usize) -> usize {
        if let Some(c) = self.owners[o].connection.filter(|c| self.connections[*c].open) {
            return c;
        }
        let answers_lost = false;
        self.connections.push(Connection {
            owner: o,
            process: self.target.process,
            leader_epoch: self.owners[o].leader_epoch,
            open: true,
            due: std::collections::VecDeque::new(),
            inbox: std::collections::VecDeque::new(),
            waiting: None,
            last_arrival: 0,
            last_answer: 0,
            ghosts: (0, 0),
            answers_lost,
        });
        let c = self.connections.len() - 1;
        self.owners[o].connection = Some(c);
        c
    }

    pub fn arrive(&mut self, c: usize, request: Request) {
        let connection = &mut self.connections[c];
        if !connection.open {
            let (left, when) = connection.ghosts;
            if left == 0 {
                return;
            }
            if self.knobs.late {
                connection.ghosts.0 -= 1;
                return self.hold(when, c, request);
            }
            if when > self.now {
                let sequence = self.sequence + 1;
                self.sequence = sequence;
                self.queue.insert((when, sequence), Event::Arrive(c, request));
                return;
            }
            connection.ghosts.0 -= 1;
            self.say(|| format!("a ghost of connection {c} arrives: {}", request.id));
        }
        self.connections[c].inbox.push_back(request);
        self.process(c);
    }

    /// The broker takes the next request of a connection, once the one before has its answer.
    pub fn process(&mut self, c: usize) {
        if self.connections[c].waiting.is_some() {
            return;
        }
        let Some(request) = self.connections[c].inbox.pop_front() else { return };
        if self.connections[c].process != self.target.process {
            // The broker that had this connection is gone.
            self.connections[c].inbox.clear();
            self.at(0, Event::ConnectionDied(c));
            return;
        }
        let refused = |code| Answer::Refused { code, message: "refused".to_owned() };
        if self.connections[c].leader_epoch != self.target.leader_epoch {
            return self.answer_later(c, request.id, refused(6));
        }
        let Request { id, order } = request;
        if let Order::Append { target_topic, .. } = &order
            && !self.knobs.by_name
            && *target_topic != self.target.topic
        {
            return self.answer_later(c, id, refused(100));
        }
        if self.now < self.not_enough_until {
            return self.answer_later(c, id, refused(19));
        }
        match order {
            Order::Append { batch, claim, target_topic } => {
                self.strays_before(c);
                self.process_append(c, id, &batch, (claim, target_topic));
            }
            Order::Mark(generation) => self.process_marker(c, id, generation),
        }
    }

    fn process_append(&mut self, c: usize, id: u64, batch: &StampedBatch, claimed: (Claim, TopicId)) {
        let refused = |code| Answer::Refused { code, message: "refused".to_owned() };
        match self.target.append(&batch.header, &batch.body, self.now as i64) {
            Appended::Refused(code) => {
                self.say(|| format!("target refuses {id} of connection {c} with {code}"));
                self.answer_later(c, id, refused(code));
            }
            Appended::Old { base } => {
                let end = base + i64::from(last_delta(batch)) + 1;
                self.say(|| format!("target has {id} of connection {c} at {base} already"));
                self.wait_for_replicas(c, Waiting { id, base, end, old: true, marker: false });
            }
            Appended::New { base, armed } => {
                self.say(|| format!("target appends {id} of connection {c} at {base}, armed {armed}"));
                self.checked((c, id), claimed, armed);
                let end = self.replicate();
                if !self.healing && self.rng.permille(5) {
                    self.answer_later(c, id, refused(20));
                } else {
                    self.wait_for_replicas(c, Waiting { id, base, end, old: false, marker: false });
                }
            }
        }
    }

    fn process_marker(&mut self, c: usize, id: u64, generation: Generation) {
        let base = self.target.end;
        let armed = self.target.producers.contains_key(&generation.producer_id);
        if let Some(code) = self.target.mark(generation.producer_id, generation.epoch, self.now as i64) {
            self.say(|| format!("target refuses marker {id} of connection {c} with {code}"));
            let answer = Answer::Refused { code, message: "refused".to_owned() };
            return self.answer_later(c, id, answer);
        }
        self.say(|| format!("target writes marker {id} of connection {c} at {base}, armed {armed}"));
        self.markers += 1;
        let end = self.replicate();
        self.wait_for_replicas(c, Waiting { id, base, end, old: false, marker: true });
    }

    /// What was just written gets to the replicas after a while; the end of the log.
    fn replicate(&mut self) -> i64 {
        let (epoch, end) = (self.target.leader_epoch, self.target.end);
        let delay = if self.now < self.stalled_until { self.stalled_until - self.now } else { self.delay() };
        self.at(delay, Event::Replicated(epoch, end));
        end
    }

    fn checked(&mut self, (c, id): (usize, u64), (claimed, target_topic): (Claim, TopicId), armed: bool) {
        let o = self.connections[c].owner;
        let by = self.checker.last_by.replace(o);
        self.last_append = self.now;
        if target_topic != self.target.topic {
            // Written by name into another topic: it has to be noticed, nothing else can be asked of it.
            self.checker.target_lost = true;
            return;
        }
        let batch = self.target.log.last().unwrap();
        let records = batch.records.clone();
        let sure = armed && !self.target.facts.source_compacted && !self.checker.last_again();
        let bounds = self.target.facts.timestamps(self.now);
        // Another owner may have brought the target to forget: what the present one says counts as well.
        let mut claim = claimed;
        let present = self.raft.owner;
        let ended = claim.generation != self.raft.detail.begun.generation;
        claim.stale = o != present || !self.connections[c].open || ended;
        let truncated = |rec: &Rec| self.source.infos[rec.uid as usize].gone == Some(Gone::Truncated);
        // An append that hands over lets strays behind it pass until the next generation's first append.
        let shared = ended || self.raft.begun_by != Some(present);
        claim.lost = shared && records.iter().all(|(_, rec)| truncated(rec));
        let now = self.owner_now(present);
        if claim.delivery == Delivery::ExactlyOnce {
            // Of one that died, what it said last stays.
            let alive = self.owners[present].alive;
            let said = if alive { self.owners[present].relay.figures(now).delivery } else { self.last_said };
            claim.delivery = promised(said);
        }
        let forgot = !armed && by.is_some_and(|by| by != o);
        if forgot {
            self.untold_again = Some((c, u64::MAX));
        }
        let untold = self.untold_again.is_some_and(|(of, last)| of == c && id <= last);
        let follows = o != present || untold;
        let woken = forgot || follows && self.checker.last_again();
        if claim.delivery == Delivery::ExactlyOnce && woken && !claim.marked {
            // Another one's old batch made the target forget, and this one knows nothing of it: nobody is left to say so.
            // What follows in the same pipeline fits then.
            claim.delivery = Delivery::TargetMayForget;
        }
        let before = self.checker.doubles;
        self.checker.appended(&records, &claim, armed, sure, &self.source, bounds);
        let (doubles, newest) = (self.checker.doubles, self.checker.newest());
        if doubles > before {
            self.say(|| format!("DOUBLES: {} more, {:?} of owner {o}", doubles - before, claim.delivery));
        }
        if records.first().is_some_and(|(_, rec)| rec.uid < newest) {
            self.say(|| {
                format!(
                    "{:?} are {:?}",
                    records.first().map(|r| r.0),
                    records.iter().map(|r| r.1.uid).collect::<Vec<_>>()
                )
            });
        }
    }

    fn wait_for_replicas(&mut self, c: usize, waiting: Waiting) {
        let id = waiting.id;
        let there = waiting.end <= self.target.high_watermark;
        self.connections[c].waiting = Some(waiting);
        if there {
            self.acknowledge(c);
        } else {
            self.at(ACK_TIMEOUT_MS, Event::AckTimeOut(c, id));
        }
    }

    pub fn ack_time_out(&mut self, c: usize, id: u64) {
        if self.connections[c].waiting.as_ref().is_some_and(|w| w.id == id) {
            self.connections[c].waiting = None;
            self.answer_later(c, id, Answer::Refused { code: 7, message: "timed out".to_owned() });
        }
    }

    fn acknowledge(&mut self, c: usize) {
        let Some(waiting) = self.connections[c].waiting.take() else { return };
        if waiting.marker {
            return self.answer_later(c, waiting.id, Answer::Marked);
        }
        let append_time = waiting.old || self.target.facts.target_append_time;
        self.answer_later(c, waiting.id, Answer::Appended { base_offset: waiting.base, append_time });
    }

    pub fn replicated(&mut self, epoch: i32, end: i64) {
        if epoch != self.target.leader_epoch || end > self.target.end {
            return;
        }
        if self.now < self.stalled_until {
            self.at(self.stalled_until - self.now, Event::Replicated(epoch, end));
            return;
        }
        self.target.high_watermark = self.target.high_watermark.max(end);
        for c in 0..self.connections.len() {
            if self.connections[c].waiting.as_ref().is_some_and(|w| w.end <= self.target.high_watermark) {
                self.acknowledge(c);
            }
        }
    }

    /// Sends an answer and goes on with the next request.
    pub fn answer_later(&mut self, c: usize, id: u64, answer: Answer) {
        let delay = self.delay();
        let connection = &mut self.connections[c];
        let when = connection.last_answer.max(self.now + delay);
        connection.last_answer = when;
        if connection.open && !connection.answers_lost {
            self.at(when - self.now, Event::Respond(c, id, answer));
        }
        if !self.connections[c].inbox.is_empty() {
            self.at(0, Event::Process(c));
        }
    }

    pub fn respond(&mut self, c: usize, id: u64, answer: &Answer) {
        if !self.connections[c].open {
            return;
        }
        let due = self.connections[c].due.pop_front();
        let alone = self.raft.rules.sole_writer;
        let of_this = |(of, last): &&mut (usize, u64)| alone && *of == c && *last == u64::MAX;
        if let Some((_, last)) = self.untold_again.as_mut().filter(of_this) {
            // Its owner knows by now, but for what it sent before. Where others write, it takes what stands between for theirs.
            *last = self.connections[c].due.back().copied().unwrap_or(id);
        }
        assert_eq!(due, Some(id), "the simulation mixes up answers");
        let o = self.connections[c].owner;
        let now = self.owner_now(o);
        self.say(|| format!("owner {o} gets the answer to {id}: {answer:?}"));
        if matches!(answer, Answer::Refused { code: 45, .. }) {
            self.owners[o].refused += 1;
        }
        if matches!(answer, Answer::Appended { .. }) {
            self.owners[o].acked = Some(self.owners[o].relay.generation().generation);
        }
        self.owners[o].relay.answer(id, answer, now);
        self.drive(o);
    }

    /// The owner gives a connection up. What was on its way may still arrive.
    pub fn cut(&mut self, c: usize) {
        if !self.connections[c].open {
            return;
        }
        let chance = (self.rng.below(4), self.rng.below(self.knobs.ghost_ms + 1));
        let batches = self.connections[c].due.len();
        let (most, later) =
            self.next_ghosts.take().or_else(|| self.strays_of_lost_end(batches)).unwrap_or(chance);
        let now = self.now + self.later();
        let connection = &mut self.connections[c];
        connection.open = false;
        connection.ghosts = (most, now + later);
        let due = std::mem::take(&mut connection.due);
        let o = connection.owner;
        if !self.owners[o].alive {
            self.lose_end(o, batches);
            return;
        }
        self.say(|| format!("owner {o} gives up connection {c}, {} answers are due", due.len()));
        let now = self.owner_now(o);
        for id in due {
            self.owners[o].relay.answer(id, &Answer::Lost, now);
        }
        self.lose_end(o, batches);
        self.drive(o);
    }
}

fn last_delta(batch: &StampedBatch) -> i32 {
    let header = &batch.header;
    i32::from_be_bytes([header[23], header[24], header[25], header[26]])
}

/// What a guarantee promises: with a marker before each batch, once is once as well.
fn promised(delivery: Delivery) -> Delivery {
    if delivery == Delivery::Marked { Delivery::ExactlyOnce } else { delivery }
}
