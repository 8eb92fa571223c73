//! Generations of partitions: how they begin, who may begin them, and that none comes twice.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::control::{GenerationRequest, SeenTopic};
use crate::flow::LossPolicy;

/// A request as the first owner of a partition would make it.
pub(super) fn begin(flow: &str, topic: &str, partition: i32) -> GenerationRequest {
    GenerationRequest {
        flow: flow_id(flow),
        topic: topic_name(topic),
        partition,
        number: 0,
        after: generation(7, 0),
        offered: None,
        start: start(50, 40),
        events: vec![lost()],
    }
}

fn generation(producer_id: i64, epoch: i16) -> Generation {
    Generation { producer_id, epoch }
}

fn lost() -> Event {
    Event {
        flow: flow_id("f"),
        time_ms: 1,
        reason: "RETENTION_OVERRUN".to_owned(),
        message: String::new(),
        subject: "t/1".to_owned(),
        from_offset: Some(10),
        to_offset: Some(50),
        count: Some(40),
        sequence: 0,
    }
}

/// A world in which worker `a` runs `f`'s partition `t/1`, with its assignment's number.
fn owned() -> (World, u64) {
    let mut world = World::running();
    world.run(assign(&[(partition("f", "t", 1), "a")]));
    let number = world.number(&partition("f", "t", 1));
    (world, number)
}

fn begun(world: &World, number: i32) -> Option<PartitionGeneration> {
    world.state.flows[&flow_id("f")].begun(&topic_name("t"), number)
}

/// What the worker is told about a partition.
fn assigned(world: &World, number: i32) -> PartitionGeneration {
    let set = world.state.assignment_of(&worker_id("a"), &Weights::default());
    set.units[&partition("f", "t", number)].partition.clone().unwrap().begun
}

#[test]
fn a_generation_begins_once_and_only_for_the_present_owner() {
    let (mut world, number) = owned();
    let first = || GenerationRequest { number, ..begin("f", "t", 1) };
    let later = |epoch| GenerationRequest { after: generation(7, epoch), start: start(60, 50), ..first() };
    let transcript = world.transcript(
        [
            GenerationRequest { flow: flow_id("none"), ..first() },
            GenerationRequest { topic: topic_name("u"), ..first() },
            GenerationRequest { partition: 2, ..first() },
            GenerationRequest { partition: -1, ..first() },
            GenerationRequest { number: number + 1, ..first() },
            GenerationRequest { partition: 0, ..first() },
            first(),
            first(),
            // The same epoch again, but from elsewhere: another owner's idea of the same step.
            GenerationRequest { start: start(51, 40), ..first() },
            later(5),
            later(1),
            later(1),
            // The answer to the first one came late: it is over.
            first(),
        ]
        .map(CommandKind::BeginGeneration),
    );
    let expected = "\
BeginGeneration r8 NotFound FLOW_NOT_FOUND name
BeginGeneration r8 NotFound PARTITION_NOT_FOUND partition
BeginGeneration r8 NotFound PARTITION_NOT_FOUND partition
BeginGeneration r8 NotFound PARTITION_NOT_FOUND partition
BeginGeneration r8 Aborted ASSIGNMENT_OUTDATED number
BeginGeneration r8 Aborted ASSIGNMENT_OUTDATED number
BeginGeneration r10 generation 7/1 from 50
BeginGeneration r10 generation 7/1 from 50
BeginGeneration r10 Aborted GENERATION_OUTDATED after
BeginGeneration r10 Aborted GENERATION_OUTDATED after
BeginGeneration r12 generation 7/2 from 60
BeginGeneration r12 generation 7/2 from 60
BeginGeneration r12 Aborted GENERATION_OUTDATED after
";
    assert_eq!(transcript, expected);
    let counts: Vec<_> = world.state.events.iter().map(|event| (event.sequence, event.count)).collect();
    assert_eq!(counts, [(1, Some(40)), (2, Some(40))], "one event a step, none for repeats and refusals");
    assert_eq!(assigned(&world, 1), begun(&world, 1).unwrap());
    world.run(assign(&[(partition("f", "t", 0), "a")]));
    let untouched = PartitionGeneration { generation: generation(7, 0), start: start(0, 0) };
    assert_eq!(assigned(&world, 0), untouched, "other partitions stay in the flow's");
}

#[test]
fn a_new_owner_fences_the_one_before() {
    let (mut world, number) = owned();
    let unit = partition("f", "t", 1);
    world.run(released("a", &[(unit.clone(), number)]));
    world.run(register("b", Role::Source));
    world.run(assign(&[(unit.clone(), "b")]));
    let now = world.number(&unit);
    let request = |number| CommandKind::BeginGeneration(GenerationRequest { number, ..begin("f", "t", 1) });
    assert_eq!(shown(&world.run(request(number))), "Aborted ASSIGNMENT_OUTDATED number");
    assert_eq!(shown(&world.run(request(now))), "generation 7/1 from 50");
}

#[test]
fn where_epochs_end_a_new_producer_id_goes_on() {
    let (mut world, number) = owned();
    let entry = world.state.flows.get_mut(&flow_id("f")).unwrap().topics.get_mut(&topic_name("t")).unwrap();
    let last = PartitionGeneration { generation: generation(8, i16::MAX), start: start(5, 5) };
    entry.generations.insert(1, last);
    let request = |offered| {
        let after = last.generation;
        CommandKind::BeginGeneration(GenerationRequest { number, after, offered, ..begin("f", "t", 1) })
    };
    let transcript = world.transcript([
        request(None),
        request(Some(8)),
        request(Some(7)),
        request(Some(9)),
        request(Some(9)),
    ]);
    let expected = "\
BeginGeneration r8 FailedPrecondition EPOCHS_EXHAUSTED offered
BeginGeneration r8 InvalidArgument PRODUCER_ID_USED offered
BeginGeneration r8 InvalidArgument PRODUCER_ID_USED offered
BeginGeneration r10 generation 9/0 from 50
BeginGeneration r10 generation 9/0 from 50
";
    assert_eq!(transcript, expected);
}

#[test]
fn a_flow_made_again_goes_on_in_its_generations() {
    let (mut world, number) = owned();
    let request = GenerationRequest { number, ..begin("f", "t", 1) };
    world.run(CommandKind::BeginGeneration(request));
    let before = begun(&world, 1);
    world.run(delete_flow("f"));
    world.run(put_flow("f", spec("uk", "hq"), true));
    assert_eq!(begun(&world, 1), before);
    world.run(delete_flow("f"));
    let over = CommandKind::PutFlow {
        id: flow_id("f"),
        spec: spec("uk", "hq"),
        create: true,
        start_over: true,
        guard: WriteGuard::default(),
    };
    world.run(over);
    assert_eq!(begun(&world, 1), None, "it starts over");
}

#[test]
fn what_counts_is_the_flows_word_and_stays_within_a_generation() {
    let mut world = World::running();
    let number = world.number(&topology("f"));
    let changed = FlowSpec { read_uncommitted: true, ..spec("uk", "hq") };
    world.run(put_flow("f", changed, false));
    world.run(inventory("f", number, vec![entry("t", "uk.t", 3), entry("u", "uk.u", 1)]));
    let topics = &world.state.flows[&flow_id("f")].topics;
    let counted = |topic: &str| {
        topics[&topic_name(topic)].starts.iter().map(|s| s.read_uncommitted).collect::<Vec<_>>()
    };
    assert_eq!(counted("t"), [false, false, true]);
    assert_eq!(counted("u"), [true]);
}

/// `f` follows topics that are made again.
fn following() -> (World, u64) {
    let (mut world, number) = owned();
    world.run(put_flow("f", FlowSpec { on_loss: LossPolicy::Continue, ..spec("uk", "hq") }, false));
    (world, number)
}

fn remade(partitions: i64, source: u8, target: u8) -> TopicEntry {
    TopicEntry {
        source_topic_id: TopicId([source; 16]),
        target_topic_id: TopicId([target; 16]),
        starts: (0..partitions).map(|n| start(0, 100 + n)).collect(),
        ..entry("t", "uk.t", 0)
    }
}

#[test]
fn a_topic_made_again_is_followed_in_new_generations_where_the_flow_says_so() {
    let (mut world, number) = following();
    world.run(CommandKind::BeginGeneration(GenerationRequest { number, ..begin("f", "t", 1) }));
    let topology_number = world.number(&topology("f"));
    let mut tell = |entry: TopicEntry| shown(&world.run(inventory("f", topology_number, vec![entry])));
    assert_eq!(tell(remade(2, 9, 2)), "inventory refused []");
    assert_eq!(tell(remade(2, 9, 2)), "inventory refused []", "known by now");
    let epochs = |world: &World| -> Vec<_> {
        (0..3).map(|p| begun(world, p).map(|b| (b.generation.epoch, b.start.target_offset))).collect()
    };
    assert_eq!(epochs(&world), [Some((1, 100)), Some((2, 101)), None], "old owners are fenced");
    let said: Vec<_> = world.state.events.iter().map(|e| (e.reason.as_str(), e.subject.as_str())).collect();
    assert_eq!(said, [("RETENTION_OVERRUN", "t/1"), ("SOURCE_RECREATED", "t")]);

    // Fewer partitions: the one that is gone keeps its generation, for the case that the topic grows to it again.
    world.run(inventory("f", topology_number, vec![remade(1, 9, 8)]));
    assert_eq!(epochs(&world), [Some((2, 100)), None, None]);
    assert_eq!(world.state.events.back().unwrap().reason, "TARGET_RECREATED");
    world.run(inventory("f", topology_number, vec![remade(3, 9, 8)]));
    assert_eq!(epochs(&world), [Some((2, 100)), Some((3, 101)), Some((0, 102))]);
    // An owner from before can begin nothing.
    let late = GenerationRequest { number, after: generation(7, 1), ..begin("f", "t", 1) };
    assert_eq!(shown(&world.run(CommandKind::BeginGeneration(late))), "Aborted GENERATION_OUTDATED after");
}

#[test]
fn a_policy_of_one_topic_goes_before_the_flows() {
    let (mut world, _) = following();
    let by_topic = BTreeMap::from([(topic_name("t"), LossPolicy::StopPartition)]);
    let kept = FlowSpec { on_loss: LossPolicy::Continue, on_loss_by_topic: by_topic, ..spec("uk", "hq") };
    world.run(put_flow("f", kept, false));
    let number = world.number(&topology("f"));
    let before = world.state.clone();
    assert_eq!(
        shown(&world.run(inventory("f", number, vec![remade(2, 9, 2)]))),
        "inventory refused [t SOURCE_RECREATED]"
    );
    assert_eq!(world.state, before, "and nothing is said again and again");
}

#[test]
fn a_topic_made_again_whose_epochs_ran_out_is_refused() {
    let (mut world, _) = following();
    let entry = world.state.flows.get_mut(&flow_id("f")).unwrap().topics.get_mut(&topic_name("t")).unwrap();
    entry
        .generations
        .insert(0, PartitionGeneration { generation: generation(8, i16::MAX), start: start(5, 5) });
    let number = world.number(&topology("f"));
    let answer = world.run(inventory("f", number, vec![remade(2, 9, 2)]));
    assert_eq!(shown(&answer), "inventory refused [t SOURCE_RECREATED]");
}

fn deselected(number: u64) -> CommandKind {
    let change = InventoryChange { removed_topics: vec![topic_name("t")], ..InventoryChange::default() };
    CommandKind::PutInventory { flow: flow_id("f"), number, change }
}

#[test]
fn a_topic_that_is_selected_again_goes_on_where_it_was() {
    let (mut world, number) = owned();
    world.run(CommandKind::BeginGeneration(GenerationRequest { number, ..begin("f", "t", 1) }));
    let before = world.state.flows[&flow_id("f")].topics.clone();
    let number = world.number(&topology("f"));
    world.run(deselected(number));
    assert_eq!(begun(&world, 1), None);
    assert!(!world.state.wanted(&partition("f", "t", 1)));
    // A flow that is made again meanwhile does not mirror it either, and does not forget it.
    world.run(delete_flow("f"));
    world.run(put_flow("f", spec("uk", "hq"), true));
    assert_eq!(begun(&world, 1), None);
    let other = TopicEntry { source_topic_id: TopicId([9; 16]), ..entry("t", "uk.t", 2) };
    let refused = world.run(inventory("f", number, vec![other]));
    assert_eq!(shown(&refused), "inventory refused [t SOURCE_RECREATED]");
    world.run(inventory(
        "f",
        number,
        vec![TopicEntry { starts: vec![start(70, 70); 2], ..entry("t", "uk.t", 2) }],
    ));
    let record = &world.state.flows[&flow_id("f")];
    assert_eq!((&record.topics, record.dropped.len()), (&before, 0));
}

/// One thing that can happen to a partition's generation.
#[derive(Debug, Clone)]
enum Step {
    /// A request after the present generation, or after one that many steps before it.
    Begin { back: usize, offer: bool, place: i64 },
    /// The last request again.
    Again,
    /// The topic is made again.
    Remade,
    /// The topic is deselected, and perhaps made again before it comes back.
    Deselected { remade: bool },
    /// The owner changes.
    Moved,
    /// The flow is deleted and created again.
    FlowMadeAgain,
    /// The present epoch is the last one.
    NearEnd,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, any::<bool>(), 0..4_i64).prop_map(|(back, offer, place)| Step::Begin { back, offer, place }),
        2 => Just(Step::Again),
        1 => Just(Step::Remade),
        1 => any::<bool>().prop_map(|remade| Step::Deselected { remade }),
        1 => Just(Step::Moved),
        1 => Just(Step::FlowMadeAgain),
        1 => Just(Step::NearEnd),
    ]
}

/// A world in which any steps may happen, and what it has given out.
struct Long {
    world: World,
    given: Vec<PartitionGeneration>,
    last: Option<GenerationRequest>,
    fresh_producer_id: i64,
    source_id: u8,
}

impl Long {
    fn new() -> Self {
        let (world, _) = following();
        let given = vec![begun(&world, 1).unwrap()];
        Self { world, given, last: None, fresh_producer_id: 100, source_id: 1 }
    }

    fn owner_number(&mut self) -> u64 {
        let unit = partition("f", "t", 1);
        self.world.run(assign(&[(topology("f"), "a"), (unit.clone(), "a")]));
        self.world.number(&unit)
    }

    fn begin(&mut self, request: GenerationRequest) {
        self.last = Some(request.clone());
        self.world.run(CommandKind::BeginGeneration(request));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Begin { back, offer, place } => {
                let number = self.owner_number();
                let index = self.given.len().saturating_sub(1 + back);
                self.fresh_producer_id += 1;
                self.begin(GenerationRequest {
                    number,
                    after: self.given[index].generation,
                    offered: offer.then_some(self.fresh_producer_id),
                    start: start(*place, *place),
                    ..begin("f", "t", 1)
                });
            }
            Step::Again => {
                if let Some(request) = self.last.clone() {
                    self.begin(request);
                }
            }
            Step::Remade => {
                self.owner_number();
                self.source_id = self.source_id.wrapping_add(1).max(1);
                let number = self.world.number(&topology("f"));
                self.world.run(inventory("f", number, vec![remade(2, self.source_id, 2)]));
            }
            Step::Deselected { remade: again } => {
                self.owner_number();
                self.source_id = if *again { self.source_id.wrapping_add(1).max(1) } else { self.source_id };
                let number = self.world.number(&topology("f"));
                self.world.run(deselected(number));
                self.world.run(inventory("f", number, vec![remade(2, self.source_id, 2)]));
            }
            Step::Moved => {
                let number = self.owner_number();
                self.world.run(released("a", &[(partition("f", "t", 1), number)]));
            }
            Step::FlowMadeAgain => {
                let spec = self.world.state.flows[&flow_id("f")].spec.clone();
                let units: Vec<_> =
                    self.world.state.owners.iter().map(|(u, owner)| (u.clone(), owner.number)).collect();
                self.world.run(delete_flow("f"));
                self.world.run(released("a", &units));
                self.world.run(put_flow("f", spec, true));
            }
            Step::NearEnd => {
                let flow = self.world.state.flows.get_mut(&flow_id("f")).unwrap();
                let entry = flow.topics.get_mut(&topic_name("t")).unwrap();
                let present = entry.begun(flow.generation.unwrap(), 1).unwrap();
                let generation = Generation { epoch: i16::MAX, ..present.generation };
                if generation != present.generation {
                    entry.generations.insert(1, PartitionGeneration { generation, ..present });
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_generation_is_given_out_twice_and_no_epoch_falls(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut long = Long::new();
        for step in steps {
            long.step(&step);
            // Made again after the last epoch, a deselected topic is refused.
            let Some(now) = begun(&long.world, 1) else { return Ok(()) };
            let last = *long.given.last().unwrap();
            if now == last {
                continue;
            }
            let higher = now.generation.producer_id != last.generation.producer_id
                || now.generation.epoch > last.generation.epoch;
            prop_assert!(higher, "{:?}: {:?} after {:?}", step, now, last);
            let before: BTreeSet<_> = long.given.iter().map(|given| given.generation).collect();
            prop_assert!(!before.contains(&now.generation), "{:?} twice, by {:?}", now, step);
            long.given.push(now);
        }
    }
}

#[test]
fn what_is_paused_and_run_by_nobody_is_told_with_its_generation() {
    let (mut world, number) = owned();
    let set = |world: &World| world.state.paused_set(&flow_id("f")).unwrap();
    let numbers = |world: &World| -> Vec<i32> { set(world).partitions.iter().map(|(_, p, _)| *p).collect() };
    assert!(numbers(&world).is_empty(), "nothing is paused");
    let pause_topic = |partitions: &[i32]| CommandKind::SetTopicPaused {
        id: flow_id("f"),
        topic: topic_name("t"),
        partitions: partitions.to_vec(),
        paused: true,
        guard: WriteGuard::default(),
    };
    world.run(pause_topic(&[1]));
    assert!(numbers(&world).is_empty(), "its owner may still write");
    world.run(released("a", &[(partition("f", "t", 1), number)]));
    assert_eq!(numbers(&world), [1]);
    let (_, _, detail) = set(&world).partitions.remove(0);
    assert_eq!(Some(detail.begun), begun(&world, 1));
    assert_eq!(set(&world).positions_topic, "mirrormesh-positions.uk.internal");
    let before = set(&world).revision;
    world.run(pause_topic(&[]));
    assert_eq!(numbers(&world), [0, 1]);
    assert!(set(&world).revision > before, "a place may be another one after any change");
    world.run(pause("f", true));
    assert_eq!(numbers(&world), [0, 1]);
    assert!(world.state.paused_set(&flow_id("none")).is_none());
}

/// A report of what is there: topic, partitions, whether the flow selects it.
fn seen(topics: &[(&str, i32, bool)], seen_all: bool) -> InventoryChange {
    let seen = topics.iter().map(|(topic, partitions, selected)| SeenTopic {
        topic: topic_name(topic),
        partitions: *partitions,
        selected: *selected,
    });
    InventoryChange { seen: seen.collect(), seen_all, ..InventoryChange::default() }
}

#[test]
fn only_partitions_that_were_seen_begin_where_start_says() {
    let (mut world, number) = owned();
    let number_of_topology = world.number(&topology("f"));
    assert_ne!(number, number_of_topology);
    let mut report = |change| {
        world.run(CommandKind::PutInventory { flow: flow_id("f"), number: number_of_topology, change });
    };
    // The first look comes in two parts; `early` can't be created for long.
    report(seen(&[("early", 2, true)], false));
    report(seen(&[("other", 1, false)], true));
    // `late` appears selected, `found` appears while it is not selected.
    report(seen(&[("late", 1, true), ("found", 1, false), ("early", 3, true)], true));
    let at = |topic: &str, partitions: i64| TopicEntry {
        starts: (0..partitions).map(|p| start(1_000 + p, 0)).collect(),
        earliest: (0..partitions).collect(),
        ..entry(topic, &format!("uk.{topic}"), partitions)
    };
    let topics = vec![at("early", 3), at("other", 1), at("late", 1), at("found", 1)];
    report(InventoryChange { topics, ..InventoryChange::default() });
    let record = &world.state.flows[&flow_id("f")];
    let begins = |topic: &str| -> Vec<i64> {
        record.topics[&topic_name(topic)].starts.iter().map(|start| start.source_offset).collect()
    };
    assert_eq!(begins("early"), [1_000, 1_001, 2], "the third partition appeared later");
    assert_eq!((begins("other"), begins("found")), (vec![1_000], vec![1_000]), "selected by a later update");
    assert_eq!(begins("late"), [0]);
    assert!(record.topics.values().all(|entry| entry.earliest.is_empty()), "nothing of it is stored");
}
