//! `apply`: what each command answers and does, as transcripts, and what holds after any commands.

mod adoption;
mod any;
mod generations;
mod identity;
mod rings;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{
    Command, CommandKind, ControlState, InventoryChange, RETIRED_MAX, Reply, TopicEntry, WriteGuard,
};
use crate::flow::{FlowSpec, Naming};
use crate::ids::{ClusterId, FlowId, GroupId, TopicId, TopicName, WorkerId};
use crate::plan::PlanStep;
use crate::report::Event;
use crate::throttle::Weights;
use crate::unit::{ClusterSpec, Generation, PartitionGeneration, PartitionStart, Role, Unit};

fn cluster_id(id: &str) -> ClusterId {
    ClusterId::new(id).unwrap()
}

fn flow_id(id: &str) -> FlowId {
    FlowId::new(id).unwrap()
}

fn topic_name(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn worker_id(id: &str) -> WorkerId {
    WorkerId::new(id).unwrap()
}

fn put_cluster(id: &str, server: &str, create: bool) -> CommandKind {
    let spec = ClusterSpec {
        bootstrap_servers: vec![server.to_owned()],
        properties: BTreeMap::new(),
        kafka_cluster_id: None,
    };
    CommandKind::PutCluster { id: cluster_id(id), spec, create, guard: WriteGuard::default() }
}

fn delete_cluster(id: &str) -> CommandKind {
    CommandKind::DeleteCluster { id: cluster_id(id), guard: WriteGuard::default() }
}

fn spec(source: &str, target: &str) -> FlowSpec {
    FlowSpec::new(cluster_id(source), cluster_id(target))
}

fn put_flow(id: &str, spec: FlowSpec, create: bool) -> CommandKind {
    CommandKind::PutFlow { id: flow_id(id), spec, create, start_over: false, guard: WriteGuard::default() }
}

fn delete_flow(id: &str) -> CommandKind {
    CommandKind::DeleteFlow { id: flow_id(id), guard: WriteGuard::default() }
}

fn pause(id: &str, paused: bool) -> CommandKind {
    CommandKind::SetPaused { id: flow_id(id), paused, guard: WriteGuard::default() }
}

fn register(worker: &str, role: Role) -> CommandKind {
    CommandKind::RegisterWorker { worker: worker_id(worker), role, capacity: 10, version: "1".to_owned() }
}

fn claim(flow: &str, producer_id: i64) -> CommandKind {
    CommandKind::ClaimProducer { flow: flow_id(flow), generation: Generation { producer_id, epoch: 0 } }
}

fn start(source_offset: i64, target_offset: i64) -> PartitionStart {
    PartitionStart { source_offset, target_offset, ..PartitionStart::default() }
}

fn entry(topic: &str, target: &str, partitions: i64) -> TopicEntry {
    TopicEntry {
        topic: topic_name(topic),
        target_topic: topic_name(target),
        source_topic_id: TopicId([1; 16]),
        target_topic_id: TopicId([2; 16]),
        starts: (0..partitions).map(|n| start(n, 0)).collect(),
        generations: BTreeMap::new(),
        earliest: Vec::new(),
    }
}

fn inventory(flow: &str, number: u64, topics: Vec<TopicEntry>) -> CommandKind {
    let change = InventoryChange { topics, ..InventoryChange::default() };
    CommandKind::PutInventory { flow: flow_id(flow), number, change }
}

fn topology(flow: &str) -> Unit {
    Unit::Topology(flow_id(flow))
}

fn partition(flow: &str, topic: &str, number: i32) -> Unit {
    Unit::Partition(flow_id(flow), topic_name(topic), number)
}

fn assign(units: &[(Unit, &str)]) -> CommandKind {
    let steps =
        units.iter().map(|(unit, worker)| PlanStep::Assign(unit.clone(), worker_id(worker))).collect();
    CommandKind::ApplyPlan { steps }
}

fn release(units: &[Unit]) -> CommandKind {
    CommandKind::ApplyPlan { steps: units.iter().cloned().map(PlanStep::Release).collect() }
}

fn released(worker: &str, units: &[(Unit, u64)]) -> CommandKind {
    CommandKind::ReleaseUnits { worker: worker_id(worker), units: units.to_vec() }
}

/// A state that writes down what happens to it.
#[derive(Default)]
struct World {
    state: ControlState,
    now_ms: u64,
}

impl World {
    fn run(&mut self, kind: CommandKind) -> Reply {
        self.now_ms += 1;
        self.state.apply(&Command { at_ms: self.now_ms, kind }).reply
    }

    /// Runs commands; one line each: command, revision after it, answer.
    fn transcript(&mut self, kinds: impl IntoIterator<Item = CommandKind>) -> String {
        let mut text = String::new();
        for kind in kinds {
            let name = kind.name();
            let reply = self.run(kind);
            writeln!(text, "{name} r{} {}", self.state.revision, shown(&reply)).unwrap();
        }
        text
    }

    /// Two clusters and a flow `f` between them.
    fn with_flow() -> Self {
        let mut world = Self::default();
        for kind in [put_cluster("uk", "uk:1", true), put_cluster("hq", "hq:1", true)] {
            world.run(kind);
        }
        world.run(put_flow("f", spec("uk", "hq"), true));
        world
    }

    /// `f` with a producer id, a source worker `a` that has the topology unit, and a topic of two partitions.
    fn running() -> Self {
        let mut world = Self::with_flow();
        world.run(register("a", Role::Source));
        world.run(assign(&[(topology("f"), "a")]));
        world.run(claim("f", 7));
        let number = world.number(&topology("f"));
        world.run(inventory("f", number, vec![entry("t", "uk.t", 2)]));
        world
    }

    fn number(&self, unit: &Unit) -> u64 {
        self.state.owners[unit].number
    }
}

fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".to_owned(),
        Reply::Cluster(id, record) => format!("cluster {id} etag {}", record.revision),
        Reply::Flow(id, record) => {
            let paused = if record.paused { " paused" } else { "" };
            format!("flow {id} etag {}{paused}", record.revision)
        }
        Reply::Generation(generation) => {
            format!("generation {}/{}", generation.producer_id, generation.epoch)
        }
        Reply::PartitionGeneration(PartitionGeneration { generation, start }) => {
            format!("generation {}/{} from {}", generation.producer_id, generation.epoch, start.source_offset)
        }
        Reply::Inventory(refused) => {
            let refused: Vec<_> =
                refused.iter().map(|(topic, reason, _)| format!("{topic} {reason}")).collect();
            format!("inventory refused [{}]", refused.join(", "))
        }
        Reply::Session(session) => format!("session {session}"),
        Reply::Rejected(reject) => format!("{:?} {} {}", reject.code, reject.reason, reject.field),
    }
}

#[test]
fn clusters() {
    let transcript = World::default().transcript([
        put_cluster("uk", "uk:1", true),
        put_cluster("uk", "uk:1", true),
        put_cluster("uk", "uk:2", false),
        put_cluster("us", "us:1", false),
        put_cluster("hq", "hq:1", true),
        put_flow("f", spec("uk", "hq"), true),
        delete_cluster("uk"),
        put_cluster("hq", "uk:2", false),
        delete_flow("f"),
        delete_cluster("uk"),
        delete_cluster("uk"),
    ]);
    let expected = "\
PutCluster r1 cluster uk etag 1
PutCluster r1 AlreadyExists CLUSTER_EXISTS cluster_id
PutCluster r2 cluster uk etag 2
PutCluster r2 NotFound CLUSTER_NOT_FOUND name
PutCluster r3 cluster hq etag 3
PutFlow r4 flow f etag 4
DeleteCluster r4 FailedPrecondition CLUSTER_IN_USE name
PutCluster r4 FailedPrecondition SOURCE_IS_TARGET cluster.bootstrap_servers
DeleteFlow r5 done
DeleteCluster r6 done
DeleteCluster r6 NotFound CLUSTER_NOT_FOUND name
";
    assert_eq!(transcript, expected);
}

#[test]
fn flows() {
    let renamed = FlowSpec { naming: Naming::Identity, ..spec("uk", "hq") };
    let slower = FlowSpec { discovery_interval_ms: 9_000, ..spec("uk", "hq") };
    let shared = || FlowSpec { shared_target: true, ..spec("uk", "hq") };
    let transcript = World::with_flow().transcript([
        put_flow("f", spec("uk", "hq"), true),
        put_flow("g", spec("uk", "hq"), true),
        put_flow("g", spec("uk", "uk"), true),
        put_flow("g", spec("uk", "none"), true),
        put_flow("f", renamed, false),
        put_flow("f", slower, false),
        put_flow("h", spec("uk", "hq"), false),
        pause("f", true),
        pause("f", true),
        pause("f", false),
        put_flow("f", shared(), false),
        put_flow("g", shared(), true),
        delete_flow("f"),
        delete_flow("f"),
    ]);
    let expected = "\
PutFlow r3 AlreadyExists FLOW_EXISTS flow_id
PutFlow r3 FailedPrecondition TARGET_TOPIC_CONFLICT flow.topics
PutFlow r3 InvalidArgument SOURCE_IS_TARGET flow.target
PutFlow r3 InvalidArgument CLUSTER_NOT_FOUND flow.target
PutFlow r3 FailedPrecondition FIELD_IMMUTABLE flow.naming
PutFlow r4 flow f etag 4
PutFlow r4 NotFound FLOW_NOT_FOUND name
SetPaused r5 flow f etag 5 paused
SetPaused r5 flow f etag 5 paused
SetPaused r6 flow f etag 6
PutFlow r7 flow f etag 7
PutFlow r8 flow g etag 8
DeleteFlow r9 done
DeleteFlow r9 NotFound FLOW_NOT_FOUND name
";
    assert_eq!(transcript, expected);
}

#[test]
fn a_request_is_carried_out_once_and_its_id_means_one_thing() {
    let guarded = |request_id: &str, fingerprint, expected_revision| {
        let guard = WriteGuard { request_id: request_id.to_owned(), fingerprint, expected_revision };
        CommandKind::SetPaused { id: flow_id("f"), paused: true, guard }
    };
    let transcript = World::with_flow().transcript([
        guarded("one", 5, Some(2)),
        guarded("one", 5, Some(3)),
        guarded("one", 5, Some(3)),
        guarded("one", 6, None),
        guarded("", 6, Some(3)),
    ]);
    let expected = "\
SetPaused r3 Aborted ETAG_MISMATCH etag
SetPaused r4 flow f etag 4 paused
SetPaused r4 flow f etag 4 paused
SetPaused r4 InvalidArgument REQUEST_ID_REUSED request_id
SetPaused r4 Aborted ETAG_MISMATCH etag
";
    assert_eq!(transcript, expected);
}

#[test]
fn units_are_released_before_they_are_taken() {
    let mut world = World::running();
    let (first, second) = (partition("f", "t", 0), partition("f", "t", 1));
    let number = world.state.assignment_number;
    let transcript = world.transcript([
        register("b", Role::Source),
        assign(&[(first.clone(), "a"), (second.clone(), "b"), (partition("f", "t", 2), "a")]),
        // A plan made from an older state does no harm.
        assign(&[(first.clone(), "b")]),
        release(std::slice::from_ref(&first)),
        assign(&[(first.clone(), "b")]),
        released("b", &[(first.clone(), number + 1)]),
        released("a", &[(first.clone(), number)]),
        released("a", &[(first.clone(), number + 1)]),
        assign(&[(first.clone(), "b")]),
    ]);
    let expected = "\
RegisterWorker r8 session 2
ApplyPlan r9 done
ApplyPlan r9 done
ApplyPlan r10 done
ApplyPlan r10 done
ReleaseUnits r10 done
ReleaseUnits r10 done
ReleaseUnits r11 done
ApplyPlan r12 done
";
    assert_eq!(transcript, expected);
    assert_eq!(world.state.owners[&first].worker, worker_id("b"));
    assert_eq!(world.number(&first), number + 3, "every assignment has a higher number");
    assert!(!world.state.owners.contains_key(&partition("f", "t", 2)), "there is no such partition");
}

#[test]
fn sessions_end_by_their_own_number_and_free_their_units() {
    let mut world = World::running();
    world.run(assign(&[(partition("f", "t", 0), "a")]));
    assert_eq!(world.run(register("a", Role::Source)), Reply::Session(2));
    assert_eq!(world.state.owners.len(), 2, "a new session keeps the units");
    world.run(CommandKind::ExpireWorker { worker: worker_id("a"), session: 1 });
    assert_eq!(
        world.state.owners.len(),
        2,
        "the end of an earlier session says nothing about the present one"
    );
    world.run(CommandKind::ExpireWorker { worker: worker_id("a"), session: 2 });
    assert!(world.state.owners.is_empty() && world.state.workers.is_empty());
}

#[test]
fn a_process_that_began_anew_gets_back_what_its_predecessor_was_to_let_go() {
    let mut world = World::running();
    let unit = partition("f", "t", 0);
    world.run(assign(&[(unit.clone(), "a")]));
    world.run(release(std::slice::from_ref(&unit)));
    assert!(!world.state.assignment_of(&worker_id("a"), &Weights::default()).units.contains_key(&unit));
    world.run(register("a", Role::Source));
    assert!(
        world.state.assignment_of(&worker_id("a"), &Weights::default()).units.contains_key(&unit),
        "otherwise it would never be released, and never run again"
    );
    world.run(register("a", Role::Checkpoint));
    assert!(world.state.owners.is_empty(), "in another role it can run none of it");
}

#[test]
fn topics_are_refused_where_two_would_become_one_or_an_old_one_is_gone() {
    let mut world = World::running();
    let identity = FlowSpec { naming: Naming::Rename(BTreeMap::new()), ..spec("uk", "hq") };
    world.run(put_flow("g", identity, true));
    world.run(assign(&[(topology("g"), "a")]));
    let (f, g) = (world.number(&topology("f")), world.number(&topology("g")));
    let recreated = TopicEntry { source_topic_id: TopicId([9; 16]), ..entry("t", "uk.t", 2) };
    let remade = TopicEntry { target_topic_id: TopicId([9; 16]), ..entry("t", "uk.t", 2) };
    let transcript = world.transcript([
        inventory("f", f + 100, vec![]),
        inventory("none", f, vec![]),
        inventory("f", f, vec![entry("u", "uk.t", 1), entry("v", "uk.v", 1)]),
        inventory("g", g, vec![entry("x", "uk.v", 1)]),
        inventory("f", f, vec![recreated]),
        inventory("f", f, vec![remade]),
        inventory("f", f, vec![entry("t", "uk.t", 2)]),
    ]);
    let expected = "\
PutInventory r9 Aborted ASSIGNMENT_OUTDATED number
PutInventory r9 NotFound FLOW_NOT_FOUND name
PutInventory r10 inventory refused [u TARGET_TOPIC_CONFLICT]
PutInventory r10 inventory refused [x TARGET_TOPIC_CONFLICT]
PutInventory r10 inventory refused [t SOURCE_RECREATED]
PutInventory r10 inventory refused [t TARGET_RECREATED]
PutInventory r10 inventory refused []
";
    assert_eq!(transcript, expected);
}

#[test]
fn starts_that_are_known_stay_and_ids_are_learned_late() {
    let mut world = World::running();
    let number = world.number(&topology("f"));
    let nameless = TopicEntry { source_topic_id: TopicId::default(), ..entry("n", "uk.n", 1) };
    world.run(inventory("f", number, vec![nameless]));
    let grown =
        TopicEntry { starts: vec![start(900, 50), start(901, 50), start(902, 50)], ..entry("t", "uk.t", 3) };
    world.run(inventory("f", number, vec![grown, entry("n", "uk.n", 1)]));
    let topics = &world.state.flows[&flow_id("f")].topics;
    let offsets: Vec<_> = topics[&topic_name("t")].starts.iter().map(|start| start.source_offset).collect();
    assert_eq!(offsets, [0, 1, 902], "every worker must count from the same place");
    assert_eq!(topics[&topic_name("n")].source_topic_id, TopicId([1; 16]));
}

#[test]
fn the_first_producer_wins_and_a_flow_made_again_goes_on() {
    let mut world = World::running();
    assert_eq!(shown(&world.run(claim("f", 8))), "generation 7/0");
    world.run(delete_flow("f"));
    world.run(put_flow("f", spec("uk", "hq"), true));
    let record = &world.state.flows[&flow_id("f")];
    assert_eq!((record.generation.unwrap().producer_id, record.topics.len()), (7, 1));

    world.run(delete_flow("f"));
    let guard = WriteGuard::default();
    let over = CommandKind::PutFlow {
        id: flow_id("f"),
        spec: spec("uk", "hq"),
        create: true,
        start_over: true,
        guard,
    };
    world.run(over);
    let record = &world.state.flows[&flow_id("f")];
    assert!(record.generation.is_none() && record.topics.is_empty());

    for number in 0..=RETIRED_MAX {
        let id = format!("r{number}");
        world.run(delete_flow("f"));
        world.run(put_flow(&id, spec("uk", "hq"), true));
        world.run(delete_flow(&id));
    }
    assert_eq!(world.state.retired.len(), RETIRED_MAX);
}

#[test]
fn units_of_a_deleted_flow_are_let_go_at_once() {
    let mut world = World::running();
    assert!(!world.state.owners.is_empty());
    world.run(delete_flow("f"));
    world.run(put_flow("f", spec("uk", "hq"), true));
    assert!(world.state.owners.values().all(|owner| owner.releasing), "{:?}", world.state.owners);
    assert!(world.state.assignment_of(&worker_id("a"), &Weights::default()).units.is_empty());
}

#[test]
fn a_heartbeat_topic_is_mirrored_by_one_of_two_flows() {
    let mut world = World::running();
    let only = |topic: &str| FlowSpec { topics_include: vec![topic.to_owned()], ..spec("uk", "hq") };
    world.run(put_flow("f", only("t"), false));
    world.run(put_flow("g", only("other"), true));
    world.run(assign(&[(topology("g"), "a")]));
    let (f, g) = (world.number(&topology("f")), world.number(&topology("g")));
    let transcript = world.transcript([
        inventory("f", f, vec![entry("heartbeats", "uk.heartbeats", 1)]),
        inventory("g", g, vec![entry("heartbeats", "uk.heartbeats", 1)]),
        delete_flow("f"),
        inventory("g", g, vec![entry("heartbeats", "uk.heartbeats", 1)]),
    ]);
    let answers: Vec<&str> =
        transcript.lines().filter_map(|line| line.split_once("refused ")).map(|l| l.1).collect();
    assert_eq!(answers, ["[]", "[heartbeats HEARTBEATS_SHARED]", "[]"]);
}

#[test]
fn a_paused_flow_is_quiet_when_everything_was_released() {
    let mut world = World::running();
    world.run(pause("f", true));
    let all: Vec<_> = world.state.owners.iter().map(|(unit, owner)| (unit.clone(), owner.number)).collect();
    assert!(world.state.assignment_of(&worker_id("a"), &Weights::default()).units.is_empty());
    assert!(!world.state.is_quiet(&flow_id("f")));
    world.run(released("a", &all));
    assert!(world.state.is_quiet(&flow_id("f")));
    assert!(world.state.problem(|_| 1).units.is_empty());
}

#[test]
fn events_are_numbered_by_flow_and_go_with_it() {
    let mut world = World::with_flow();
    let event = |flow: &str, reason: &str| Event {
        flow: flow_id(flow),
        time_ms: 1,
        reason: reason.to_owned(),
        message: String::new(),
        subject: String::new(),
        from_offset: None,
        to_offset: None,
        count: None,
        sequence: 0,
    };
    let events = vec![event("f", "A"), event("none", "B"), event("f", "C")];
    world.run(CommandKind::RecordEvents { events });
    let kept: Vec<_> = world.state.events.iter().map(|e| (e.sequence, e.reason.as_str())).collect();
    assert_eq!(kept, [(1, "A"), (2, "C")]);
    world.run(delete_flow("f"));
    assert!(world.state.events.is_empty());
}
