//! The world: everything in one place, driven by one queue of events.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::ids::{FlowId, TopicId};
use mirrormesh_core::position::{PositionKey, PositionValue};
use mirrormesh_core::registry::Registry;
use mirrormesh_core::unit::{Generation, PartitionGeneration, PartitionStart};

use crate::check::{Checker, LIVENESS};
use crate::kinds::Kind;
use crate::knobs::{Fault, Knobs};
use crate::parts::{Connection, Event, Owner, Raft};
use crate::rng::Rng;
use crate::source::Source;
use crate::target::Target;

pub const START_MS: u64 = 1_700_000_000_000;
/// So many events no seed needs.
const EVENTS_MAX: u64 = 2_000_000;
pub const PRODUCER: i64 = 4_000;

/// How often things happened that a run has to show to be worth anything.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Appends that the target took although it had dropped the producer's state.
    pub unarmed: u64,
    /// Those of them that followed another of the same pipeline.
    pub in_pipelines: u64,
    /// Those that were taken while an earlier one of the pipeline was not.
    pub holes: u64,
    /// Requests of replaced owners and of connections that were given up, which were appended.
    pub zombies: u64,
    /// Those of them whose sender said that it mirrors exactly once, and which stand twice since the target forgot it.
    pub forgotten_zombies: u64,
}

pub struct World {
    pub trace: bool,
    pub rng: Rng,
    /// Numbers that only some kinds of worlds draw.
    pub apart: Rng,
    pub knobs: Knobs,
    pub now: u64,
    pub queue: BTreeMap<(u64, u64), Event>,
    pub sequence: u64,
    pub source: Source,
    pub target: Target,
    pub raft: Raft,
    /// The topic of positions: all writes, in order.
    pub positions: Vec<(PositionKey, Option<PositionValue>)>,
    /// The target's.
    pub registry: Registry,
    pub owners: Vec<Owner>,
    pub connections: Vec<Connection>,
    pub checker: Checker,
    pub sessions: u64,
    /// How many requests of the next connection that is given up still arrive, and when.
    pub next_ghosts: Option<(u64, u64)>,
    /// Until when the target lacks replicas, is slow in replicating, and answers are lost.
    pub not_enough_from: u64,
    pub not_enough_until: u64,
    /// The next request is refused, and then the check for expired producers runs.
    pub refuse_and_check: bool,
    /// When the next such check runs.
    pub next_check: u64,
    pub stalled_until: u64,
    pub writes_fail_until: u64,
    pub slow_until: u64,
    pub produced: usize,
    pub healing: bool,
    pub last_append: u64,
    /// The connection of an append that the target took since another owner's had made it forget, and the last one that was
    /// sent there before its owner could know.
    pub untold_again: Option<(usize, u64)>,
    pub fired: Vec<Fault>,
    pub happened: BTreeSet<Fault>,
    pub ended: Option<&'static str>,
    pub events: u64,
    pub topics: u8,
    pub paths: BTreeMap<&'static str, u64>,
    /// What the run shows of itself.
    pub counts: Counts,
}

pub fn topic_id(n: u8) -> TopicId {
    TopicId([n; 16])
}

fn first_generation(knobs: &Knobs) -> Generation {
    let epoch = if knobs.last_epoch { i16::MAX - 1 } else { 0 };
    Generation { producer_id: PRODUCER, epoch }
}

impl World {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut knobs = Knobs::new(&mut rng);
        let mut apart = Rng::new(seed ^ 0x7374_7269_6374);
        knobs.become_kind(Kind::of(seed), &mut apart);
        let mut world = Self::with(knobs, (rng, apart), trace);
        world.begin();
        world
    }

    /// A world in which nothing is going to happen yet.
    pub fn with(knobs: Knobs, (mut rng, apart): (Rng, Rng), trace: bool) -> Self {
        let mut source = Source::new(topic_id(1), knobs.append_time, knobs.first_source);
        (source.loops, source.packed) = (knobs.loops, knobs.packed);
        let mut target = Target::new(topic_id(2), knobs.facts, knobs.stored);
        if knobs.first_target > 0 {
            target.foreign(-1, knobs.first_target, START_MS as i64);
            target.high_watermark = target.end;
        }
        if !knobs.calm && rng.percent(50) {
            source.append(&[(1, START_MS as i64, 8)], None, START_MS as i64);
            source.high_watermark = source.end;
        }
        let begun = PartitionGeneration {
            generation: first_generation(&knobs),
            start: PartitionStart {
                source_offset: source.start,
                target_offset: target.end,
                read_uncommitted: knobs.rules.read_uncommitted,
                ..PartitionStart::default()
            },
        };
        let raft = Raft::new(&source, &target, begun, knobs.rules);
        let mut checker = Checker::default();
        checker.begun(begun, &[], &source, target.bytes_min);
        Self {
            trace,
            rng,
            apart,
            knobs,
            now: START_MS,
            queue: BTreeMap::new(),
            sequence: 0,
            source,
            target,
            raft,
            positions: Vec::new(),
            registry: Registry::default(),
            owners: Vec::new(),
            connections: Vec::new(),
            checker,
            sessions: 0,
            next_ghosts: None,
            not_enough_from: 0,
            not_enough_until: 0,
            refuse_and_check: false,
            next_check: u64::MAX,
            stalled_until: 0,
            writes_fail_until: 0,
            slow_until: 0,
            produced: 0,
            healing: false,
            last_append: 0,
            untold_again: None,
            fired: Vec::new(),
            happened: BTreeSet::new(),
            ended: None,
            events: 0,
            topics: 2,
            paths: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    fn begin(&mut self) {
        self.at(0, Event::Assign);
        self.at(1, Event::Traffic);
        self.at(self.knobs.fault_every_ms, Event::Fault);
        let first_check = self.rng.below(self.knobs.expiry_check_ms);
        self.check_in(first_check);
    }

    fn check_in(&mut self, ms: u64) {
        self.next_check = self.now + ms;
        self.at(ms, Event::ExpiryCheck);
    }

    pub fn flow() -> FlowId {
        FlowId::new("f").unwrap()
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now - START_MS, text());
        }
    }

    /// Something happens after so many ms.
    pub fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    /// Something small fails now and then, of a thousand times.
    pub fn hiccup(&mut self, permille: u64) -> bool {
        !self.healing && !self.knobs.calm && self.rng.permille(permille)
    }

    /// Some time on a network.
    pub fn delay(&mut self) -> u64 {
        if self.knobs.calm {
            return self.knobs.delay_ms;
        }
        let most = if self.now < self.slow_until { 800 } else { self.knobs.delay_ms };
        1 + self.rng.below(most)
    }

    pub fn owner_now(&self, o: usize) -> u64 {
        self.now.saturating_add_signed(self.owners[o].skew)
    }

    /// The event belongs to an owner that may be paused or dead.
    fn owner_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Tick(o)
            | Event::Told(o, ..)
            | Event::Fetched(o, ..)
            | Event::Written(o, _)
            | Event::Begun(o, _)
            | Event::Resume(o)
            | Event::Stop(o) => Some(*o),
            Event::Respond(c, ..) | Event::TimeOut(c, _) | Event::ConnectionDied(c) => {
                Some(self.connections[*c].owner)
            }
            _ => None,
        }
    }

    /// One event; false if the run is over.
    pub fn step(&mut self) -> bool {
        if self.checker.violation.is_some() || self.ended.is_some() {
            return false;
        }
        let Some(((time, sequence), event)) = self.queue.pop_first() else { return false };
        self.now = time;
        self.events += 1;
        if self.events > EVENTS_MAX {
            self.checker.fail(LIVENESS, format!("it does not come to an end: {EVENTS_MAX} events"));
            return false;
        }
        if let Some(o) = self.owner_of(&event) {
            let owner = &self.owners[o];
            if !owner.alive {
                return true;
            }
            if owner.paused_until > self.now {
                self.queue.insert((owner.paused_until, sequence), event);
                return true;
            }
        }
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Traffic => self.traffic(),
            Event::Fault => self.fault(),
            Event::ExpiryCheck => {
                if self.target.expire(self.now as i64) {
                    self.say(|| "target drops expired producers".to_owned());
                }
                self.check_in(self.knobs.expiry_check_ms);
            }
            Event::Tick(o) => {
                if !self.owners[o].released && self.owners[o].stopped.is_none() {
                    self.at(50, Event::Tick(o));
                }
                self.drive(o);
            }
            Event::AskAt(o, id, ask) => self.ask_at(o, id, &ask),
            Event::Told(o, id, told) => self.told(o, id, told),
            Event::FetchAt(o, session) => self.fetch_at(o, session),
            Event::Fetched(o, session, fetched) => self.fetched(o, session, fetched),
            Event::Arrive(c, request) => self.arrive(c, request),
            Event::Process(c) => self.process(c),
            Event::Respond(c, id, answer) => self.respond(c, id, &answer),
            Event::TimeOut(c, id) => {
                if self.connections[c].open && self.connections[c].due.contains(&id) {
                    self.say(|| format!("connection {c} times out"));
                    self.cut(c);
                }
            }
            Event::AckTimeOut(c, id) => self.ack_time_out(c, id),
            Event::Replicated(epoch, end) => self.replicated(epoch, end),
            Event::ConnectionDied(c) => self.cut(c),
            Event::WriteAt(o, records, answered) => self.write_at(o, records, answered),
            Event::Written(o, written) => {
                let now = self.owner_now(o);
                self.owners[o].relay.written(written, now);
                self.drive(o);
            }
            Event::BeginAt(o, beginning) => self.begin_at(o, &beginning),
            Event::Begun(o, begun) => {
                self.say(|| format!("owner {o} begun {begun:?}"));
                let now = self.owner_now(o);
                self.owners[o].relay.begun(begun, now);
                self.drive(o);
            }
            Event::Resume(o) => {
                self.owners[o].relay.resume();
                self.drive(o);
            }
            Event::LookAtTopics => self.look_at_topics(),
            Event::Assign => self.assign(),
            Event::Stop(o) => {
                self.say(|| format!("owner {o} is asked to stop"));
                self.owners[o].relay.stop();
                self.drive(o);
            }
            Event::Operate(o) => self.operate(o),
        }
    }
}
