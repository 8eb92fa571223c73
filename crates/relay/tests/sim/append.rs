//! Appends on their way to the target and answers back: connections, the broker's queue, replication, ghosts.

use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_core::report::Delivery;
use mirrormesh_relay::answer::Answer;
use mirrormesh_relay::machine::Append;

use crate::check::{Appending, Claim};
use crate::parts::{Connection, Event, Request, Waiting};
use crate::record::Rec;
use crate::source::Gone;
use crate::target::Appended;
use crate::world::World;

const REQUEST_TIMEOUT_MS: u64 = 5_000;
const ACK_TIMEOUT_MS: u64 = 3_000;

impl World {
    pub fn send(&mut self, o: usize, append: Append) {
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
            delivery,
            timestamps,
            append_time,
            by_name: self.knobs.by_name && delivery != Delivery::ExactlyOnce,
            lost: false,
            stale: false,
        };
        self.say(|| format!("owner {o} appends {id}, {} bytes, {path:?}, {delivery:?}", batch.body.len()));
        self.request(o, Request { id, batch, claim, target_topic });
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
    }

    fn connection(&mut self, o: usize) -> usize {
        if let Some(c) = self.owners[o].connection.filter(|c| self.connections[*c].open) {
            return c;
        }
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
            answers_lost: false,
            muted_until: 0,
            taken: None,
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

    /// The broker takes the next request of a connection, once the one before has its answer and no quota mutes it.
    pub fn process(&mut self, c: usize) {
        let connection = &self.connections[c];
        if connection.waiting.is_some() || connection.inbox.is_empty() {
            return;
        }
        if connection.muted_until > self.now {
            return self.at(connection.muted_until - self.now, Event::Process(c));
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
        if !self.knobs.by_name && request.target_topic != self.target.topic {
            return self.answer_later(c, request.id, refused(100));
        }
        if std::mem::take(&mut self.refuse_and_check) {
            self.target.expire(self.now as i64);
            return self.answer_later(c, request.id, refused(19));
        }
        if (self.not_enough_from..self.not_enough_until).contains(&self.now) {
            return self.answer_later(c, request.id, refused(19));
        }
        self.process_append(c, &request);
    }

    fn process_append(&mut self, c: usize, request: &Request) {
        let (id, batch) = (request.id, &request.batch);
        match self.target.append(&batch.header, &batch.body, self.now as i64) {
            Appended::Refused(code) => {
                self.say(|| format!("target refuses {id} of connection {c} with {code}"));
                self.answer_later(c, id, Answer::Refused { code, message: "refused".to_owned() });
            }
            Appended::Old { base } => {
                let end = base + i64::from(last_delta(batch)) + 1;
                self.say(|| format!("target has {id} of connection {c} at {base} already"));
                self.wait_for_replicas(c, Waiting { id, base, end, old: true });
            }
            Appended::New { base, armed } => {
                self.say(|| format!("target appends {id} of connection {c} at {base}, armed {armed}"));
                self.checked(c, request, armed);
                let end = self.replicate();
                if self.hiccup(5) {
                    self.answer_later(c, id, Answer::Refused { code: 20, message: "refused".to_owned() });
                } else {
                    self.wait_for_replicas(c, Waiting { id, base, end, old: false });
                }
            }
        }
    }

    /// What was just written gets to the replicas after a while; the end of the log.
    fn replicate(&mut self) -> i64 {
        let (epoch, end) = (self.target.leader_epoch, self.target.end);
        let delay = if self.now < self.stalled_until { self.stalled_until - self.now } else { self.delay() };
        self.at(delay, Event::Replicated(epoch, end));
        end
    }

    /// The target took a batch: judges it by what its sender said when it sent it.
    fn checked(&mut self, c: usize, request: &Request, armed: bool) {
        let o = self.connections[c].owner;
        let by = self.checker.last_by.replace(o);
        self.last_append = self.now;
        if request.target_topic != self.target.topic {
            // Written by name into another topic: it has to be noticed, nothing else can be asked of it.
            self.checker.target_lost = true;
            return;
        }
        let mut claim = request.claim;
        let present = self.raft.owner;
        let ended = claim.generation != self.raft.detail.begun.generation;
        claim.stale = o != present || !self.connections[c].open || ended;
        let batch = self.target.log.last().unwrap();
        let records = batch.records.clone();
        let truncated = |rec: &Rec| self.source.infos[rec.uid as usize].gone == Some(Gone::Truncated);
        // A fencing append lets zombie requests behind it pass until the next generation's first append.
        let shared = ended || self.raft.begun_by != Some(present);
        claim.lost = shared && records.iter().all(|(_, rec)| truncated(rec));
        let zombie = o != present || !self.connections[c].open;
        self.count(c, request.id, armed, zombie);
        let forgot = !armed && (zombie || by.is_some_and(|by| by != o));
        if forgot {
            self.untold_again = Some((c, u64::MAX));
        }
        let untold = self.untold_again.is_some_and(|(of, last)| of == c && request.id <= last);
        // Others may have appended between two batches of a zombie's pipeline.
        let behind_forgotten = untold && zombie;
        let woken = forgot || behind_forgotten || (o != present || untold) && self.checker.last_again();
        let sure =
            armed && !behind_forgotten && !self.target.facts.source_compacted && !self.checker.last_again();
        let excused = claim.delivery == Delivery::ExactlyOnce && woken;
        if excused {
            // A zombie request, or one behind another owner's, finds that the target dropped the state that held when it was
            // sent. Nobody could say so any more, and what follows in the same pipeline fits then. It must be announced.
            claim.delivery = Delivery::TargetMayForget;
        }
        let before = self.checker.doubles;
        let bounds = self.target.facts.timestamps(self.now);
        let among_others = woken && !self.raft.rules.sole_writer;
        let how = Appending { armed, sure, among_others, bounds };
        self.checker.appended(&records, &claim, how, &self.source);
        let doubles = self.checker.doubles - before;
        if doubles > 0 {
            self.counts.forgotten_zombies += u64::from(excused);
            self.say(|| format!("DOUBLES: {doubles} more, {:?} of owner {o}", claim.delivery));
        }
        if records.first().is_some_and(|(_, rec)| rec.uid < self.checker.newest()) {
            let uids: Vec<_> = records.iter().map(|r| r.1.uid).collect();
            self.say(|| format!("{:?} are {uids:?}", records.first().map(|r| r.0)));
        }
    }

    fn count(&mut self, c: usize, id: u64, armed: bool, zombie: bool) {
        let behind = self.connections[c].taken.filter(|taken| *taken < id);
        self.counts.zombies += u64::from(zombie);
        if !armed {
            self.counts.unarmed += 1;
            self.counts.in_pipelines += u64::from(behind.is_some());
            self.counts.holes += u64::from(behind.is_some_and(|taken| taken + 1 < id));
        }
        self.connections[c].taken = Some(id);
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
        let now = self.now;
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
