//! The world: everything in one place, driven by one queue of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_core::ids::{FlowId, TopicId, TopicName};
use mirrormesh_core::relay::answer::Answer;
use mirrormesh_core::relay::machine::{Ask, Beginning, Notice, Relay, Rules, Told};
use mirrormesh_core::relay::page::SourcePage;
use mirrormesh_core::relay::position::{PositionKey, PositionValue};
use mirrormesh_core::relay::registry::Registry;
use mirrormesh_core::relay::stop::Stop;
use mirrormesh_core::report::Delivery;
use mirrormesh_core::unit::{Generation, PartitionDetail, PartitionGeneration, PartitionStart};

use crate::check::{Checker, Claim, LIVENESS};
use crate::knobs::{Fault, Knobs};
use crate::late::Late;
use crate::rng::Rng;
use crate::source::Source;
use crate::target::Target;

pub const START_MS: u64 = 1_700_000_000_000;
/// So many events no seed needs.
const EVENTS_MAX: u64 = 2_000_000;
pub const PRODUCER: i64 = 4_000;

pub type Begun = Result<PartitionGeneration, (String, String)>;

/// What happens at a time.
#[derive(Debug)]
pub enum Event {
    /// Records come into the source.
    Traffic,
    Fault,
    ExpiryCheck,
    /// An owner looks at its clock.
    Tick(usize),
    AskAt(usize, Ask),
    Told(usize, Told),
    FetchAt(usize, u64),
    Fetched(usize, u64, Fetched),
    Arrive(usize, Request),
    Process(usize),
    Respond(usize, u64, Answer),
    TimeOut(usize, u64),
    AckTimeOut(usize, u64),
    Replicated(i32, i64),
    ConnectionDied(usize),
    WriteAt(usize, Vec<(PositionKey, PositionValue)>, bool),
    Written(usize, bool),
    BeginAt(usize, Beginning),
    Begun(usize, Begun),
    Resume(usize),
    LookAtTopics,
    /// The mesh gives the partition to a new owner.
    Assign,
    /// An owner learns that it was replaced, or is asked to let go.
    Stop(usize),
    /// A person looks at a stopped partition.
    Operate(usize),
}

#[derive(Debug)]
pub enum Fetched {
    Page(Box<SourcePage>),
    OutOfRange,
    Failed,
}

#[derive(Debug)]
pub struct Request {
    pub id: u64,
    pub order: Order,
}

/// What the broker is to write.
#[derive(Debug)]
pub enum Order {
    Append {
        batch: StampedBatch,
        claim: Claim,
        target_topic: TopicId,
    },
    /// A marker of this producer; by topic name.
    Mark(Generation),
}

#[derive(Debug)]
pub struct Waiting {
    pub id: u64,
    pub base: i64,
    pub end: i64,
    pub old: bool,
    /// It is a marker.
    pub marker: bool,
}

/// A connection to the target's leader.
#[derive(Debug)]
pub struct Connection {
    pub owner: usize,
    pub process: u32,
    pub leader_epoch: i32,
    pub open: bool,
    pub due: VecDeque<u64>,
    pub inbox: VecDeque<Request>,
    pub waiting: Option<Waiting>,
    pub last_arrival: u64,
    pub last_answer: u64,
    /// Requests that were on their way when it was given up and still arrive; when.
    pub ghosts: (u64, u64),
    pub answers_lost: bool,
}

#[derive(Debug)]
pub struct Fetching {
    pub session: u64,
    pub offset: i64,
    pub committed: bool,
    pub asked: bool,
    /// The source's leader epoch that it began under.
    pub epoch: i32,
    /// Leader epoch of what is before the first offset, as the relay says; not needed behind it, since a new leader ends
    /// the session.
    pub last_epoch: i32,
    /// The topic that it began on.
    pub topic: TopicId,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
pub struct Owner {
    pub number: u64,
    pub relay: Relay<()>,
    pub rules: Rules,
    pub alive: bool,
    pub paused_until: u64,
    pub skew: i64,
    pub connection: Option<usize>,
    pub leader_epoch: i32,
    pub fetching: Option<Fetching>,
    pub stopped: Option<Stop>,
    pub released: bool,
    /// The target's log as it was when its ends were told.
    pub version: u64,
    /// The generation of the target's newest record of ours at that time.
    pub newest: Option<Generation>,
    /// It said since then that records may come again.
    pub unsure: bool,
    /// Own appends since then.
    pub sent: bool,
    pub notices: Vec<Notice>,
    /// Sequences of its appends that the target refused.
    pub refused: u32,
    /// End of what may be read of the source, as it saw it last.
    pub seen_end: i64,
    /// The generation of its last append that was acknowledged.
    pub acked: Option<Generation>,
}

/// The Raft log, as far as it matters here.
#[derive(Debug)]
pub struct Raft {
    pub number: u64,
    pub owner: usize,
    pub detail: PartitionDetail,
    pub rules: Rules,
    pub producers: i64,
    /// The generation before the present one: a repeat is known by it.
    pub before: Option<Generation>,
    /// Who began the present one.
    pub begun_by: Option<usize>,
}

pub struct World {
    pub trace: bool,
    pub rng: Rng,
    /// Numbers that only strict worlds draw.
    pub apart: Rng,
    pub knobs: Knobs,
    pub now: u64,
    pub queue: BTreeMap<(u64, u64), Event>,
    pub sequence: u64,
    pub source: Source,
    pub target: Target,
    pub raft: Raft,
    pub positions: BTreeMap<PositionKey, PositionValue>,
    /// The target's.
    pub registry: Registry,
    pub owners: Vec<Owner>,
    pub connections: Vec<Connection>,
    pub checker: Checker,
    pub sessions: u64,
    /// How many requests of the next connection that is given up still arrive, and when.
    pub next_ghosts: Option<(u64, u64)>,
    /// Until when the target lacks replicas, is slow in replicating, and answers are lost.
    pub not_enough_until: u64,
    pub stalled_until: u64,
    pub writes_fail_until: u64,
    pub slow_until: u64,
    pub produced: usize,
    pub healing: bool,
    pub last_append: u64,
    /// The connection of an append that the target took since another owner's had made it forget, and the last one that was
    /// sent there before its owner could know.
    pub untold_again: Option<(usize, u64)>,
    /// What the owner said of the guarantee when it last appended.
    pub last_said: Delivery,
    pub fired: Vec<Fault>,
    pub happened: BTreeSet<Fault>,
    pub ended: Option<&'static str>,
    pub events: u64,
    pub topics: u8,
    pub paths: BTreeMap<&'static str, u64>,
    /// Markers on the target.
    pub markers: u64,
    /// Strays that are on their way, in worlds where they come late, and how many came.
    pub late: Vec<Late>,
    pub strays: u64,
    /// Until then the target forgets nobody.
    pub quiet_until: u64,
}

pub fn topic_id(n: u8) -> TopicId {
    TopicId([n; 16])
}

impl Raft {
    fn new(source: &Source, target: &Target, begun: PartitionGeneration, rules: Rules) -> Self {
        let detail = PartitionDetail {
            target_topic: TopicName::new("t").unwrap(),
            source_topic_id: source.topic,
            target_topic_id: target.topic,
            begun,
        };
        Self { number: 0, owner: 0, detail, rules, producers: PRODUCER, before: None, begun_by: None }
    }
}

fn first_generation(knobs: &Knobs) -> Generation {
    let epoch = if knobs.last_epoch { i16::MAX - 1 } else { 0 };
    if knobs.rules.at_least_once {
        return Generation { epoch, ..Generation::unnumbered(1) };
    }
    Generation { producer_id: PRODUCER, epoch }
}

impl World {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut knobs = Knobs::new(&mut rng);
        // Drawn from numbers of its own: the other worlds stay what they are.
        let mut apart = Rng::new(seed ^ 0x7374_7269_6374);
        knobs.be_strict(seed, &mut apart);
        let mut source = Source::new(topic_id(1), knobs.append_time, knobs.first_source);
        // Not drawn: the other worlds stay what they are.
        source.loops = seed % 16 == 11;
        let mut target = Target::new(topic_id(2), knobs.facts);
        if knobs.first_target > 0 {
            target.foreign(-1, knobs.first_target, START_MS as i64);
            target.high_watermark = target.end;
        }
        if rng.percent(50) {
            source.append(&[(1, START_MS as i64, 8)], None, START_MS as i64);
            source.high_watermark = source.end;
        }
        let begun = PartitionGeneration {
            generation: first_generation(&knobs),
            start: PartitionStart {
                source_offset: source.start,
                target_offset: target.end,
                read_uncommitted: knobs.rules.read_uncommitted,
                strict: knobs.rules.strict,
                ..PartitionStart::default()
            },
        };
        let raft = Raft::new(&source, &target, begun, knobs.rules);
        let mut checker = Checker::default();
        checker.begun(begun, &[], &source);
        let mut world = Self {
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
            positions: BTreeMap::new(),
            registry: Registry::default(),
            owners: Vec::new(),
            connections: Vec::new(),
            checker,
            sessions: 0,
            next_ghosts: None,
            not_enough_until: 0,
            stalled_until: 0,
            writes_fail_until: 0,
            slow_until: 0,
            produced: 0,
            healing: false,
            last_append: 0,
            untold_again: None,
            last_said: Delivery::Unknown,
            fired: Vec::new(),
            happened: BTreeSet::new(),
            ended: None,
            events: 0,
            topics: 2,
            paths: BTreeMap::new(),
            markers: 0,
            late: Vec::new(),
            strays: 0,
            quiet_until: 0,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.at(0, Event::Assign);
        self.at(1, Event::Traffic);
        self.at(self.knobs.fault_every_ms, Event::Fault);
        let first_check = self.rng.below(self.knobs.expiry_check_ms);
        self.at(first_check, Event::ExpiryCheck);
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

    /// Some time on a network.
    pub fn delay(&mut self) -> u64 {
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
            | Event::Told(o, _)
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
                if self.forgets() {
                    self.say(|| "target forgets producers".to_owned());
                }
                self.at(self.knobs.expiry_check_ms, Event::ExpiryCheck);
            }
            Event::Tick(o) => {
                if !self.owners[o].released && self.owners[o].stopped.is_none() {
                    self.at(50, Event::Tick(o));
                }
                self.drive(o);
            }
            Event::AskAt(o, ask) => self.ask_at(o, &ask),
            Event::Told(o, told) => self.told(o, told),
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
