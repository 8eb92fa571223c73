//! What the world consists of beside its brokers: events, requests, connections, owners, the Raft log.

use std::collections::VecDeque;

use mirrormesh_core::format::batch::StampedBatch;
use mirrormesh_core::ids::{TopicId, TopicName};
use mirrormesh_core::position::{PositionKey, PositionValue};
use mirrormesh_core::stop::Stop;
use mirrormesh_core::unit::{Generation, PartitionDetail, PartitionGeneration};
use mirrormesh_relay::answer::Answer;
use mirrormesh_relay::machine::{Ask, Beginning, Notice, Relay, Rules, Told};
use mirrormesh_relay::page::SourcePage;

use crate::check::Claim;
use crate::source::Source;
use crate::target::Target;
use crate::world::PRODUCER;

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
    AskAt(usize, u64, Ask),
    Told(usize, u64, Told),
    FetchAt(usize, u64),
    Fetched(usize, u64, Fetched),
    Arrive(usize, Request),
    Process(usize),
    Respond(usize, u64, Answer),
    TimeOut(usize, u64),
    AckTimeOut(usize, u64),
    Replicated(i32, i64),
    ConnectionDied(usize),
    WriteAt(usize, Vec<(PositionKey, Option<PositionValue>)>, bool),
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
    pub batch: StampedBatch,
    pub claim: Claim,
    pub target_topic: TopicId,
}

#[derive(Debug)]
pub struct Waiting {
    pub id: u64,
    pub base: i64,
    pub end: i64,
    /// It stood there already.
    pub old: bool,
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
    /// A quota mutes it: until then the broker reads nothing from it.
    pub muted_until: u64,
    /// The last append of it that the target took.
    pub taken: Option<u64>,
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
    pub relay: Relay,
    pub rules: Rules,
    pub alive: bool,
    pub paused_until: u64,
    pub skew: i64,
    pub connection: Option<usize>,
    pub leader_epoch: i32,
    pub fetching: Option<Fetching>,
    pub stopped: Option<Stop>,
    pub released: bool,
    /// The target's log as it was when its ends were reported.
    pub version: u64,
    /// The generation of the target's newest record of ours at that time.
    pub newest: Option<Generation>,
    /// It said since then that records may come again.
    pub unsure: bool,
    /// Ends of the target offsets of which it said so at any time: it says the same once.
    pub said: Vec<i64>,
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

impl Raft {
    pub fn new(source: &Source, target: &Target, begun: PartitionGeneration, rules: Rules) -> Self {
        let detail = PartitionDetail {
            target_topic: TopicName::new("t").unwrap(),
            source_topic_id: source.topic,
            target_topic_id: target.topic,
            begun,
        };
        Self { number: 0, owner: 0, detail, rules, producers: PRODUCER, before: None, begun_by: None }
    }
}
