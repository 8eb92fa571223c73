//! One value of every kind that is stored, with every field set: what the corpus was made from.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use mirrormesh_core::control::{
    ClusterRecord, Command, CommandKind, ControlState, FlowRecord, GenerationRequest, InventoryChange,
    RequestRecord, RetiredFlow, SeenTopic, SeenTopics, TopicEntry, TopicPause, WriteGuard,
};
use mirrormesh_core::epochs::Epochs;
use mirrormesh_core::flow::{
    FlowSpec, LossPolicy, Naming, OversizedPolicy, RetiredOptions, StartAt, TimestampPolicy,
};
use mirrormesh_core::ids::{ClusterId, FlowId, GroupId, TopicId, TopicName, WorkerId};
use mirrormesh_core::plan::PlanStep;
use mirrormesh_core::position::{LastBatch, Position, PositionKey, PositionKind, PositionValue};
use mirrormesh_core::registry::{Claim, ClaimKey, RegistryKey, RegistryValue, Writer, WriterKey};
use mirrormesh_core::report::Event;
use mirrormesh_core::throttle::Throttle;
use mirrormesh_core::translate::Segment;
use mirrormesh_core::unit::{
    ClusterSpec, Generation, Owner, PartitionGeneration, PartitionStart, Role, Unit, WorkerRecord,
};
use mirrormesh_proto::convert::command::encode_command;
use mirrormesh_proto::convert::position::{encode_key, encode_value};
use mirrormesh_proto::convert::registry::{encode_registry_key, encode_registry_value};
use mirrormesh_proto::convert::state::encode_state;

const AT_MS: u64 = 1_795_000_000_123;

pub(crate) fn cluster(id: &str) -> ClusterId {
    ClusterId::new(id).unwrap()
}

pub(crate) fn flow() -> FlowId {
    FlowId::new("uk-to-hq").unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn group(id: &str) -> GroupId {
    GroupId::new(id).unwrap()
}

fn worker() -> WorkerId {
    WorkerId::new("source-1.example:7").unwrap()
}

pub(crate) fn cluster_spec() -> ClusterSpec {
    ClusterSpec {
        bootstrap_servers: vec!["a.example:9092".into(), "[::1]:9093".into()],
        properties: BTreeMap::from([
            ("sasl.password".into(), "${env:UK_PASSWORD}".into()),
            ("security.protocol".into(), "SASL_SSL".into()),
        ]),
        kafka_cluster_id: Some("MkU3OEVBNTcwNTJENDM2Qk".into()),
    }
}

/// Every field differs from its default and from zero.
pub(crate) fn spec() -> FlowSpec {
    FlowSpec {
        topics_include: vec!["orders.*".into(), "payments".into()],
        topics_exclude: vec!["orders-old".into()],
        groups_include: vec!["shop-.*".into()],
        groups_exclude: vec!["shop-test".into()],
        naming: Naming::Rename(BTreeMap::from([("orders".into(), "uk-orders".into())])),
        start: StartAt::Timestamp(1_700_000_000_001),
        records_enabled: true,
        read_uncommitted: true,
        heartbeat_topics: true,
        checkpoints_enabled: true,
        checkpoint_interval_ms: 6_000,
        heartbeats_enabled: true,
        heartbeat_interval_ms: 2_000,
        replication_factor: Some(3),
        internal_replication_factor: Some(2),
        discovery_interval_ms: 7_000,
        shared_target: true,
        on_loss: LossPolicy::Continue,
        on_loss_by_topic: BTreeMap::from([(topic("payments"), LossPolicy::StopPartition)]),
        on_oversized: OversizedPolicy::Skip,
        timestamps: TimestampPolicy::Clamp,
        skip_mirrored: true,
        require_exactly_once: true,
        adopt: true,
        throttle: throttle(1 << 20, 5_000),
        throttle_by_topic: BTreeMap::from([(topic("payments"), throttle(2_048, 0))]),
        ..FlowSpec::new(cluster("uk"), cluster("hq"))
    }
}

fn throttle(bytes: u64, records: u64) -> Throttle {
    Throttle { bytes_per_second: NonZeroU64::new(bytes), records_per_second: NonZeroU64::new(records) }
}

fn generation() -> Generation {
    Generation { producer_id: 4_711, epoch: 3 }
}

fn partition_generation() -> PartitionGeneration {
    PartitionGeneration {
        generation: Generation { producer_id: 4_711, epoch: 4 },
        start: PartitionStart {
            source_offset: 150,
            target_offset: 57,
            read_uncommitted: true,
            skip_mirrored: true,
            adopted: Some(31),
            source_leader_epoch: Some(3),
            marked: true,
        },
    }
}

fn topic_entry() -> TopicEntry {
    TopicEntry {
        earliest: Vec::new(),
        topic: topic("orders"),
        target_topic: topic("uk-orders"),
        source_topic_id: TopicId([1; 16]),
        target_topic_id: TopicId([2; 16]),
        starts: vec![
            PartitionStart::default(),
            PartitionStart {
                source_offset: 100,
                target_offset: 7,
                read_uncommitted: true,
                ..PartitionStart::default()
            },
        ],
        generations: BTreeMap::from([(1, partition_generation())]),
    }
}

fn dropped_entry() -> (TopicName, TopicEntry) {
    let name = topic("payments");
    (name.clone(), TopicEntry { topic: name, target_topic: topic("uk-payments"), ..topic_entry() })
}

fn event() -> Event {
    Event {
        flow: flow(),
        time_ms: AT_MS,
        reason: "RETENTION_OVERRUN".into(),
        message: "records were deleted on the source before they were copied".into(),
        subject: "orders/1".into(),
        from_offset: Some(0),
        to_offset: Some(42),
        count: Some(40),
        sequence: 9,
    }
}

fn guard() -> WriteGuard {
    WriteGuard { request_id: "r-1".into(), fingerprint: 0xdead_beef, expected_revision: Some(12) }
}

/// All kinds of units.
fn units() -> [Unit; 5] {
    [
        Unit::Topology(flow()),
        Unit::Groups(flow()),
        Unit::Heartbeat(flow()),
        Unit::Group(flow(), group("shop/1 ü")),
        Unit::Partition(flow(), topic("orders"), 1),
    ]
}

/// A flow with the options of an earlier version.
fn retired_options() -> CommandKind {
    CommandKind::PutFlow {
        id: flow(),
        spec: FlowSpec { retired: RetiredOptions { strict_delivery: true, at_least_once: true }, ..spec() },
        create: true,
        start_over: false,
        guard: guard(),
    }
}

fn commands() -> Vec<(&'static str, CommandKind)> {
    let id = flow;
    vec![
        (
            "put-cluster-id",
            CommandKind::PutCluster { id: cluster("uk"), spec: cluster_spec(), create: true, guard: guard() },
        ),
        (
            "report-cluster",
            CommandKind::ReportCluster {
                id: cluster("uk"),
                kafka_cluster_id: "MkU3OEVBNTcwNTJENDM2Qk".into(),
            },
        ),
        ("delete-cluster", CommandKind::DeleteCluster { id: cluster("uk"), guard: guard() }),
        (
            "put-flow-message",
            CommandKind::PutFlow { id: id(), spec: spec(), create: true, start_over: true, guard: guard() },
        ),
        ("put-flow-message-defaults", default_flow()),
        ("put-flow-message-retired", retired_options()),
        ("delete-flow", CommandKind::DeleteFlow { id: id(), guard: WriteGuard::default() }),
        ("set-paused", CommandKind::SetPaused { id: id(), paused: true, guard: guard() }),
        (
            "set-topic-paused",
            CommandKind::SetTopicPaused {
                id: id(),
                topic: topic("orders"),
                partitions: vec![0, 3],
                paused: true,
                guard: guard(),
            },
        ),
        ("claim-producer", CommandKind::ClaimProducer { flow: flow(), generation: generation() }),
        ("name-mesh", CommandKind::NameMesh { mesh_id: "b1946ac9".into() }),
        ("begin-generation-epoch", CommandKind::BeginGeneration(generation_request())),
        (
            "put-inventory-loops",
            CommandKind::PutInventory { flow: flow(), number: 5, change: inventory_change() },
        ),
        ("put-inventory-seen", CommandKind::PutInventory { flow: id(), number: 5, change: seen_change() }),
        (
            "register-worker",
            CommandKind::RegisterWorker {
                worker: worker(),
                role: Role::Source,
                capacity: 500,
                version: "0.1.0".into(),
            },
        ),
        ("expire-worker", CommandKind::ExpireWorker { worker: worker(), session: 8 }),
        ("drain-worker", CommandKind::DrainWorker { worker: worker() }),
        ("apply-plan", CommandKind::ApplyPlan { steps: steps() }),
        (
            "release-units",
            CommandKind::ReleaseUnits { worker: worker(), units: units().into_iter().zip(3..).collect() },
        ),
        ("record-events-count", CommandKind::RecordEvents { events: vec![event()] }),
    ]
}

fn default_flow() -> CommandKind {
    let spec = FlowSpec {
        naming: Naming::Identity,
        start: StartAt::Latest,
        ..FlowSpec::new(cluster("uk"), cluster("hq"))
    };
    CommandKind::PutFlow { id: flow(), spec, create: false, start_over: false, guard: WriteGuard::default() }
}

fn generation_request() -> GenerationRequest {
    GenerationRequest {
        flow: flow(),
        topic: topic("orders"),
        partition: 1,
        number: 5,
        after: generation(),
        offered: Some(4_712),
        start: partition_generation().start,
        events: vec![event()],
    }
}

fn inventory_change() -> InventoryChange {
    InventoryChange {
        topics: vec![topic_entry()],
        removed_topics: vec![topic("gone")],
        groups: vec![group("shop-1")],
        removed_groups: vec![group("shop-0")],
        seen: Vec::new(),
        seen_all: false,
    }
}

/// What a flow that begins at the latest records reports.
fn seen_change() -> InventoryChange {
    InventoryChange {
        topics: vec![TopicEntry { earliest: vec![3, 4], ..topic_entry() }],
        seen: vec![SeenTopic { topic: topic("orders"), partitions: 2, selected: true }],
        seen_all: true,
        ..InventoryChange::default()
    }
}

fn steps() -> Vec<PlanStep> {
    let assign = units().into_iter().map(|unit| PlanStep::Assign(unit, worker()));
    units().into_iter().map(PlanStep::Release).chain(assign).collect()
}

/// Every field set.
pub(crate) fn flow_record() -> FlowRecord {
    FlowRecord {
        spec: spec(),
        paused: true,
        generation: Some(generation()),
        created_ms: AT_MS,
        updated_ms: AT_MS + 1,
        revision: 11,
        topics: BTreeMap::from([(topic("orders"), topic_entry())]),
        dropped: BTreeMap::from([dropped_entry()]),
        groups: BTreeSet::from([group("shop-1")]),
        event_sequence: 9,
        paused_topics: BTreeMap::from([
            (topic("orders"), TopicPause::Partitions(BTreeSet::from([1]))),
            (topic("payments"), TopicPause::All),
        ]),
        seen: SeenTopics { topics: BTreeMap::from([(topic("orders"), 2)]), complete: true },
    }
}

pub(crate) fn worker_record(role: Role) -> WorkerRecord {
    WorkerRecord {
        role,
        capacity: 500,
        version: "0.1.0".into(),
        session: 8,
        draining: true,
        registered_ms: AT_MS,
    }
}

fn state() -> ControlState {
    let record =
        ClusterRecord { spec: cluster_spec(), created_ms: AT_MS, updated_ms: AT_MS + 1, revision: 10 };
    let mut plain = flow_record();
    plain.spec = FlowSpec::new(cluster("uk"), cluster("hq"));
    plain.generation = None;
    let owner = |number| Owner { worker: worker(), number, releasing: number % 2 == 0 };
    let workers = [("w1", Role::Source), ("w2", Role::Checkpoint), ("w3", Role::Heartbeat)];
    ControlState {
        revision: 20,
        mesh_id: "b1946ac9".into(),
        assignment_number: 30,
        session_number: 8,
        clusters: BTreeMap::from([(cluster("uk"), record)]),
        flows: BTreeMap::from([(flow(), flow_record()), (FlowId::new("plain").unwrap(), plain)]),
        retired: [RetiredFlow {
            id: FlowId::new("old").unwrap(),
            spec: spec(),
            generation: Some(generation()),
            topics: BTreeMap::from([(topic("orders"), topic_entry())]),
            dropped: BTreeMap::from([dropped_entry()]),
        }]
        .into(),
        workers: workers
            .into_iter()
            .map(|(id, role)| (WorkerId::new(id).unwrap(), worker_record(role)))
            .collect(),
        owners: units().into_iter().zip((1..).map(owner)).collect(),
        events: [event()].into(),
        requests: [RequestRecord { request_id: "r-1".into(), fingerprint: 0xdead_beef, revision: 11 }].into(),
    }
}

fn position_key(kind: PositionKind) -> PositionKey {
    PositionKey { flow: flow(), target_topic_id: TopicId([2; 16]), partition: 1, kind }
}

fn position() -> PositionValue {
    PositionValue::Position(Position {
        generation: generation(),
        sequence_base: 5,
        count: 1_000,
        source_offset: 1_100,
        source_topic_id: TopicId([1; 16]),
        source_leader_epoch: 4,
        target_offset: 1_007,
        target_leader_epoch: -1,
        last: LastBatch {
            count: 10,
            base_timestamp: 1_700_000_000_001,
            max_timestamp: 1_700_000_000_005,
            body_crc: 0xcafe_babe,
        },
        shared_leader_epoch: None,
        source_epochs: Epochs::default(),
        skip_version: 2,
        assignment_number: 30,
        topic: "orders".into(),
        target_topic: "uk-orders".into(),
    })
}

fn registry() -> Vec<(&'static str, RegistryKey, RegistryValue)> {
    let key = WriterKey { producer_id: 0, topic: topic("uk-orders"), partition: 1 };
    let generation = Generation { producer_id: 0, epoch: 4 };
    let writer = Writer {
        source_cluster: "MkU3OEVBNTcwNTJENDM2Qk".into(),
        source: cluster("uk"),
        flow: flow(),
        mesh_id: "b1946ac9".into(),
        source_topic: topic("orders"),
        source_topic_id: TopicId([1; 16]),
        target_topic_id: TopicId([2; 16]),
        first_offset: 12,
        begun: PartitionGeneration { generation, ..partition_generation() },
    };
    let claim_key = ClaimKey { source_cluster: "MkU3OEVBNTcwNTJENDM2Qk".into(), topic: topic("uk-orders") };
    let claim = Claim {
        mesh_id: "b1946ac9".into(),
        flow: flow(),
        source: cluster("uk"),
        source_topic: Some(topic("orders")),
    };
    vec![
        ("writer", RegistryKey::Writer(key), RegistryValue::Writer(writer)),
        ("claim-topic", RegistryKey::Claim(claim_key), RegistryValue::Claim(claim)),
    ]
}

/// A stored value: its name and its bytes. The part of the name before `_` says what kind.
pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = commands()
        .into_iter()
        .map(|(name, kind)| {
            let command = Command { at_ms: AT_MS, kind };
            (format!("command_{name}"), encode_command(&command))
        })
        .collect();
    let state = state();
    all.push(("state_of-messages".into(), encode_state(&state)));
    let slot = position_key(PositionKind::Position { generation: generation(), slot: 7 });
    let zeros = PositionKey {
        partition: 0,
        ..position_key(PositionKind::Position {
            generation: Generation { producer_id: 0, epoch: 0 },
            slot: 0,
        })
    };
    let chunk = position_key(PositionKind::Segments { producer_id: 4_711, number: 0, chunk: 3 });
    let owners = position_key(PositionKind::Segments { producer_id: 4_711, number: 17, chunk: 3 });
    for (name, key) in [("slot", slot), ("zeros", zeros), ("chunk", chunk), ("chunk-owner", owners)] {
        all.push((format!("key_{name}"), encode_key(&key)));
    }
    let segments = PositionValue::Segments(vec![
        Segment { source: 0, target: 0, count: 10 },
        Segment { source: 11, target: 10, count: 5 },
    ]);
    for (name, key, value) in registry() {
        all.push((format!("registry-key_{name}"), encode_registry_key(&key)));
        let kind = if matches!(key, RegistryKey::Writer(_)) { "writer" } else { "claim" };
        all.push((format!("{kind}_{name}"), encode_registry_value(&value)));
    }
    all.push(("position_full".into(), encode_value(&position())));
    let PositionValue::Position(full) = position() else { panic!() };
    let source_epochs = Epochs::new([(1, 900), (4, 1_050)]);
    let epochs = PositionValue::Position(Position { source_epochs, ..full.clone() });
    all.push(("position_epochs".into(), encode_value(&epochs)));
    let shared = PositionValue::Position(Position { shared_leader_epoch: Some(3), ..full });
    all.push(("position_shared".into(), encode_value(&shared)));
    all.push(("segments_two".into(), encode_value(&segments)));
    all
}
