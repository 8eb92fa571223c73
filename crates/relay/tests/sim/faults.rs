//! What goes on around the relay: traffic into the source, and faults.

use mirrormesh_relay::answer::Answer;

use crate::kinds::Stored;
use crate::knobs::Fault;
use crate::parts::{Event, Fetched};
use crate::world::{World, topic_id};

impl World {
    pub fn traffic(&mut self) {
        if self.produced < self.knobs.records {
            self.produce();
            let tick = self.rng.within(1, self.knobs.tick_ms);
            self.at(tick, Event::Traffic);
        }
    }

    pub fn produce(&mut self) {
        let now = self.now;
        let open = self.source.open_transactions();
        let transactional = self.rng.percent(self.knobs.transactions);
        if !open.is_empty() && self.rng.percent(40) {
            let pid = self.rng.pick(&open);
            let commit = !self.rng.percent(self.knobs.aborts);
            self.source.finish(pid, commit, now as i64);
            self.say(|| format!("source: transaction of {pid} ends, commit {commit}"));
        }
        let batches = if self.rng.percent(10) { self.rng.within(3, 12) } else { 1 };
        for _ in 0..batches {
            let records = self.records();
            let pid = transactional.then(|| 100 + self.rng.below(3) as i64);
            self.produced += records.len();
            self.source.append(&records, pid, now as i64);
            let end = self.source.end;
            self.say(|| format!("source: {} records up to {end}, transaction {pid:?}", records.len()));
        }
        if self.rng.percent(90) {
            self.source.high_watermark = self.source.end;
        }
    }

    fn records(&mut self) -> Vec<(u32, i64, u32)> {
        let count = self.rng.within(1, self.knobs.batch_records);
        let old = self.rng.percent(self.knobs.old);
        let future = self.knobs.facts.target_after_max_ms != i64::MAX && self.rng.permille(20);
        let large = self.rng.permille(if self.knobs.facts.target_bytes_max < 10_000 { 10 } else { 0 });
        let now = self.now as i64;
        let mut records = Vec::new();
        for i in 0..count {
            let time = match (old, future) {
                (true, _) if self.rng.percent(5) => -1,
                (true, _) => now - self.rng.within(1, 40) as i64 * 3_600_000,
                (_, true) => now + 2 * 3_600_000,
                _ => now - self.rng.below(5_000) as i64,
            };
            let size = if large && i == 0 {
                self.knobs.facts.target_bytes_max as u64
            } else {
                self.rng.below(self.knobs.record_bytes)
            };
            records.push((self.rng.below(self.knobs.keys) as u32, time, size as u32));
        }
        records
    }

    /// A fault strikes; it counts if traffic flows.
    pub fn fault(&mut self) {
        if self.healing {
            return;
        }
        let next = self.rng.within(1, 2 * self.knobs.fault_every_ms);
        self.at(next, Event::Fault);
        let fault = self.rng.pick(&self.knobs.faults.clone());
        if self.strike(fault) {
            self.say(|| format!("FAULT {fault:?}"));
            self.happened.insert(fault);
            let flows =
                self.now - self.last_append < 3_000 || self.connections.iter().any(|c| !c.due.is_empty());
            if flows {
                self.fired.push(fault);
            }
        }
    }

    /// Carries a fault out; false if there was nothing to strike.
    fn strike(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Cut | Fault::AnswersLost | Fault::Throttle => self.strike_connection(fault),
            Fault::Crash | Fault::Pause | Fault::DuplicateOwner | Fault::Release | Fault::Rules => {
                self.strike_owner(fault)
            }
            Fault::SourceElect
            | Fault::SourceTruncate
            | Fault::SourceReturn
            | Fault::SourceCompact
            | Fault::SourceRetain
            | Fault::SourceRecreate => self.strike_source(fault),
            Fault::FetchFails => {
                let o = self.raft.owner;
                let Some(session) = self.owners.get(o).and_then(|o| o.fetching.as_ref()).map(|f| f.session)
                else {
                    return false;
                };
                self.at(0, Event::Fetched(o, session, Fetched::Failed));
                true
            }
            Fault::WritesFail => {
                self.writes_fail_until = self.now + self.rng.within(100, 4_000);
                true
            }
            Fault::PositionsLost => self.lose_stored(),
            Fault::Slow => {
                self.slow_until = self.now + self.rng.within(100, 3_000);
                true
            }
            Fault::Stall | Fault::NotEnough | Fault::NotEnoughAtCheck => self.strike_replicas(fault),
            _ => self.strike_target(fault),
        }
    }

    fn strike_connection(&mut self, fault: Fault) -> bool {
        let open: Vec<_> = (0..self.connections.len()).filter(|c| self.connections[*c].open).collect();
        if open.is_empty() {
            return false;
        }
        let c = self.rng.pick(&open);
        if fault == Fault::Cut {
            if self.knobs.facts.source_compacted && self.rng.percent(50) {
                // The cleaner runs while the owner looks for its place, and what was on its way arrives meanwhile.
                let (most, later) = (1 + self.rng.below(3), self.rng.below(24 * self.knobs.delay_ms));
                self.next_ghosts = Some((most, later));
                let end = self.source.end;
                self.source.compact(end, true);
            }
            if self.knobs.facts.target_compacted {
                let replicated = self.target.high_watermark;
                self.target.compact(replicated);
            }
            self.cut(c);
        } else if fault == Fault::Throttle {
            self.connections[c].muted_until = self.now + self.rng.within(100, 8_000);
        } else {
            self.connections[c].answers_lost = true;
        }
        true
    }

    fn strike_owner(&mut self, fault: Fault) -> bool {
        let o = self.raft.owner;
        let Some(owner) = self.owners.get(o) else { return false };
        if !owner.alive || owner.released || owner.stopped.is_some() || owner.paused_until > self.now {
            return false;
        }
        match fault {
            Fault::Crash => {
                self.kill(o);
                let lease = self.rng.within(100, 3_000);
                self.at(lease, Event::Assign);
            }
            Fault::Pause => {
                let (lease, pause) = (self.rng.within(100, 3_000), self.rng.within(10, 8_000));
                self.owners[o].paused_until = self.now + pause;
                if pause > lease {
                    self.at(lease, Event::Assign);
                    let learns = pause + self.rng.within(0, 3_000);
                    self.at(learns, Event::Stop(o));
                }
            }
            Fault::DuplicateOwner => {
                self.at(0, Event::Assign);
                let learns = self.rng.within(0, 4_000);
                self.at(learns, Event::Stop(o));
            }
            Fault::Rules => {
                if self.rng.percent(60) {
                    self.raft.rules.read_uncommitted = !self.raft.rules.read_uncommitted;
                }
                self.owners[o].relay.stop();
                self.drive(o);
            }
            _ => {
                self.owners[o].relay.stop();
                self.drive(o);
            }
        }
        true
    }

    pub fn kill(&mut self, o: usize) {
        self.owners[o].alive = false;
        for c in 0..self.connections.len() {
            if self.connections[c].owner == o {
                self.cut(c);
            }
        }
    }

    fn strike_source(&mut self, fault: Fault) -> bool {
        let (start, end) = (self.source.start, self.source.end);
        let span = (end - start).max(0) as u64;
        match fault {
            Fault::SourceElect => self.source.elect(),
            Fault::SourceTruncate => {
                let at = end - self.rng.within(1, 30.min(span + 1)) as i64;
                if at <= start || self.happened.contains(&Fault::SourceTruncate) && self.rng.percent(70) {
                    return false;
                }
                self.source.truncate(at);
                self.checker.source_cut = true;
                let (end, epoch) = (self.source.end, self.source.epoch);
                self.say(|| format!("source: ends at {end}, epoch {epoch}"));
            }
            Fault::SourceReturn => {
                if !self.source.go_back() {
                    return false;
                }
                (self.checker.source_cut, self.checker.went_back) = (true, true);
                let (end, history) = (self.source.end, self.source.history.clone());
                self.say(|| format!("source: goes back, ends at {end}, epochs {history:?}"));
            }
            Fault::SourceCompact => {
                let upto = end - self.rng.below(20) as i64;
                let keep = self.rng.percent(50);
                self.source.compact(upto, keep);
            }
            Fault::SourceRetain => {
                let at = start + self.rng.below(span / 2 + 1) as i64;
                // Now and then it overtakes the mirror.
                let at = if self.rng.percent(15) { end - self.rng.below(5) as i64 } else { at };
                self.source.retain(at);
                let start = self.source.start;
                self.say(|| format!("source: starts at {start}"));
            }
            _ => {
                if self.happened.contains(&Fault::SourceRecreate) || self.source.infos.len() < 60 {
                    return false;
                }
                self.topics += 1;
                self.source.recreate(topic_id(self.topics));
                self.after_recreation();
                if self.knobs.by_name {
                    let notices = self.rng.within(100, 3_000);
                    self.at(notices, Event::LookAtTopics);
                }
            }
        }
        true
    }

    /// The mesh looks at its topics now and then: whoever mirrors one that was made again has to begin anew.
    pub fn look_at_topics(&mut self) {
        let o = self.raft.owner;
        let Some(owner) = self.owners.get_mut(o) else { return };
        let detail = owner.relay.detail();
        if detail.source_topic_id != self.source.topic || detail.target_topic_id != self.target.topic {
            owner.relay.stop();
            self.drive(o);
            let again = self.rng.within(100, 3_000);
            self.at(again, Event::LookAtTopics);
        }
    }

    /// New records stand in the topic soon, at offsets that were mirrored.
    fn after_recreation(&mut self) {
        self.produced = self.produced.min(self.knobs.records - 60);
        for _ in 0..self.rng.below(40) {
            self.produce();
        }
        self.source.high_watermark = self.source.end;
    }

    fn strike_replicas(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Stall => self.stalled_until = self.now + self.rng.within(100, 6_000),
            Fault::NotEnough => {
                self.not_enough_from = self.now;
                self.not_enough_until = self.now + self.rng.within(10, 1_500);
            }
            _ if self.next_check > self.now + 2_000 => return false,
            _ => {
                // Requests are refused until the check for expired producers runs, and taken again behind it.
                let before = 1 + self.apart.below(2 * self.knobs.delay_ms);
                self.not_enough_from = self.next_check.saturating_sub(before).max(self.now);
                self.not_enough_until = self.next_check;
            }
        }
        true
    }

    fn strike_target(&mut self, fault: Fault) -> bool {
        let (start, end, replicated) = (self.target.start, self.target.end, self.target.high_watermark);
        match fault {
            Fault::Elect => {
                let at = if self.rng.percent(50) { replicated } else { end };
                self.elect(at);
            }
            Fault::Restart => {
                let at = if self.rng.percent(50) { replicated } else { end };
                self.elect(at);
                self.restart();
                for c in 0..self.connections.len() {
                    let delay = self.delay();
                    self.at(delay, Event::ConnectionDied(c));
                }
            }
            Fault::Foreign => {
                let count = self.rng.within(1, 4) as i64;
                self.checker.foreign = true;
                let producer = if self.rng.percent(50) { -1 } else { 77 };
                self.target.foreign(producer, count, self.now as i64);
                let (epoch, end) = (self.target.leader_epoch, self.target.end);
                let delay = self.delay();
                self.at(delay, Event::Replicated(epoch, end));
            }
            Fault::TargetCompact => {
                let upto = replicated - self.rng.below(10) as i64;
                self.target.compact(upto);
            }
            Fault::TargetRetain => {
                let span = (replicated - start).max(0) as u64;
                let at =
                    if self.rng.percent(25) { replicated } else { start + self.rng.below(span + 1) as i64 };
                self.target.retain(at);
            }
            Fault::TargetTruncate => {
                let at = end - self.rng.within(1, 20) as i64;
                let Some(at) = self.target.log.iter().map(|b| b.header.base_offset).find(|b| *b >= at) else {
                    return false;
                };
                self.checker.target_lost = true;
                self.elect(at);
            }
            Fault::TargetRecreate => {
                if self.happened.contains(&Fault::TargetRecreate) || self.checker.records() < 30 {
                    return false;
                }
                self.topics += 1;
                self.target.recreate(topic_id(self.topics));
                self.checker.target_lost = true;
                self.checker.truncated(0, &std::collections::BTreeSet::new());
            }
            Fault::Size => {
                let size = self.rng.pick(&[400, 600, 1_000, 2_000, 6_000]);
                self.target.facts.target_bytes_max = size;
                self.target.bytes_min = self.target.bytes_min.min(size);
            }
            Fault::Stored => {
                self.target.stored = self.apart.pick(&[Stored::AsSent, Stored::Plain, Stored::Packed]);
            }
            _ => return false,
        }
        true
    }

    /// The leader starts anew. Stopped in order, it wrote a snapshot of all producers at its log's end; killed, it has an
    /// older one, and does not know producers of which nothing is retained.
    fn restart(&mut self) {
        self.target.process += 1;
        let (start, end) = (self.target.start, self.target.end);
        let killed = self.rng.percent(30);
        let snapshot =
            if killed { start + self.rng.below((end - start).max(0) as u64 + 1) as i64 } else { end };
        self.target.reload(snapshot, !killed, self.now as i64);
    }

    /// A new leader, whose log ends here.
    pub fn elect(&mut self, at: i64) {
        let at = self
            .target
            .log
            .iter()
            .find(|b| b.header.next_offset() > at)
            .map_or(at, |b| b.header.base_offset.max(at.min(b.header.base_offset)));
        if at < self.target.end {
            // The last snapshot before that place may be any.
            let span = (at - self.target.start).max(0) as u64;
            let snapshot = at - self.rng.pick(&[0, span, span / 2]) as i64;
            self.target.truncate(at, snapshot, self.now as i64);
            let there = self.target.offsets();
            self.checker.truncated(at, &there);
        }
        self.target.leader_epoch += 1;
        let (epoch, end) = (self.target.leader_epoch, self.target.end);
        self.say(|| format!("target: leader epoch {epoch}, log end {end}"));
        let delay = self.delay();
        self.at(delay, Event::Replicated(epoch, end));
        for c in 0..self.connections.len() {
            if let Some(waiting) = self.connections[c].waiting.take() {
                let answer = Answer::Refused { code: 6, message: "moved".to_owned() };
                self.answer_later(c, waiting.id, answer);
            }
        }
        self.come_back();
    }
}
