//! Any domain value that is valid.

mod mesh;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use mirrormesh_core::control::{
    ClusterRecord, Command, CommandKind, ControlState, FlowRecord, GenerationRequest, InventoryChange,
    RequestRecord, RetiredFlow, SeenTopic, SeenTopics, TopicEntry, TopicPause, WriteGuard,
};
use mirrormesh_core::flow::{
    FlowSpec, LossPolicy, Naming, OversizedPolicy, RetiredOptions, StartAt, TimestampPolicy,
};
use mirrormesh_core::ids::{ClusterId, FlowId, GroupId, TopicId, TopicName, WorkerId};
use mirrormesh_core::plan::PlanStep;
use mirrormesh_core::report::{Delivery, Event, PartitionFigures, UnitReport, UnitState};
use mirrormesh_core::throttle::{Share, Throttle};
use mirrormesh_core::unit::{
    AssignedFlow, AssignedUnit, ClusterSpec, Generation, Owner, PartitionDetail, PartitionGeneration,
    PartitionStart, Role, ThrottleShares, Unit, WorkerAssignment, WorkerRecord,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) use mesh::{assignment, partition_detail, partition_figures, unit_report};
pub(crate) use topics::{position_record, registry_record};

pub(crate) fn cluster_id() -> impl Strategy<Value = ClusterId> {
    "[a-zA-Z0-9][a-zA-Z0-9_-]{0,12}".prop_map(|id| ClusterId::new(id).unwrap())
}

pub(crate) fn flow_id() -> impl Strategy<Value = FlowId> {
    "[a-zA-Z0-9][a-zA-Z0-9_-]{0,12}".prop_map(|id| FlowId::new(id).unwrap())
}

pub(crate) fn topic_name() -> impl Strategy<Value = TopicName> {
    "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}".prop_map(|id| TopicName::new(id).unwrap())
}

pub(crate) fn group_id() -> impl Strategy<Value = GroupId> {
    "\\PC{1,12}".prop_map(|id| GroupId::new(id).unwrap())
}

pub(crate) fn worker_id() -> impl Strategy<Value = WorkerId> {
    "[a-zA-Z0-9._:-]{1,12}".prop_map(|id| WorkerId::new(id).unwrap())
}

pub(crate) fn topic_id() -> impl Strategy<Value = TopicId> {
    any::<[u8; 16]>().prop_map(TopicId)
}

pub(crate) fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Source), Just(Role::Checkpoint), Just(Role::Heartbeat)]
}

pub(crate) fn generation() -> impl Strategy<Value = Generation> {
    (any::<i64>(), any::<i16>()).prop_map(|(producer_id, epoch)| Generation { producer_id, epoch })
}

pub(crate) fn unit() -> impl Strategy<Value = Unit> {
    prop_oneof![
        flow_id().prop_map(Unit::Topology),
        flow_id().prop_map(Unit::Groups),
        flow_id().prop_map(Unit::Heartbeat),
        (flow_id(), group_id()).prop_map(|(flow, group)| Unit::Group(flow, group)),
        (flow_id(), topic_name(), 0..i32::MAX).prop_map(|(flow, topic, p)| Unit::Partition(flow, topic, p)),
    ]
}

fn properties() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[a-z]{1,6}\\.[a-z]{1,6}s", "\\PC{0,12}", 0..4)
}

pub(crate) fn cluster_spec() -> impl Strategy<Value = ClusterSpec> {
    let ids = option::of("[A-Za-z0-9_-]{22}");
    (vec("[a-z]{1,8}:[1-9][0-9]{0,3}", 1..4), properties(), ids).prop_map(
        |(bootstrap_servers, properties, kafka_cluster_id)| ClusterSpec {
            bootstrap_servers,
            properties,
            kafka_cluster_id,
        },
    )
}

fn patterns(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    vec("[a-z]{1,6}(\\.\\*)?", count)
}

fn naming() -> impl Strategy<Value = Naming> {
    let renames = btree_set(topic_name(), 0..4).prop_flat_map(|targets| {
        let count = targets.len();
        btree_set(topic_name(), count).prop_map(move |sources| {
            let names = |set: &BTreeSet<TopicName>| set.iter().map(ToString::to_string).collect::<Vec<_>>();
            Naming::Rename(names(&sources).into_iter().zip(names(&targets)).collect())
        })
    });
    prop_oneof![
        "[a-zA-Z0-9._-]{1,16}".prop_map(|separator| Naming::Prefix { separator }),
        Just(Naming::Identity),
        renames,
    ]
}

fn start_at(timestamps: std::ops::Range<i64>) -> impl Strategy<Value = StartAt> {
    prop_oneof![Just(StartAt::Earliest), Just(StartAt::Latest), timestamps.prop_map(StartAt::Timestamp)]
}

type Throttles = (Throttle, BTreeMap<TopicName, Throttle>);

fn throttle() -> impl Strategy<Value = Throttle> {
    (option::of(1_024..=1_u64 << 40), option::of(1..=1_000_000_000_u64)).prop_map(|(bytes, records)| {
        Throttle {
            bytes_per_second: bytes.and_then(NonZeroU64::new),
            records_per_second: records.and_then(NonZeroU64::new),
        }
    })
}

/// One that limits something.
fn limit() -> impl Strategy<Value = Throttle> {
    throttle().prop_filter("limits nothing", |throttle| *throttle != Throttle::NONE)
}

fn policies() -> impl Strategy<
    Value = (LossPolicy, BTreeMap<TopicName, LossPolicy>, OversizedPolicy, TimestampPolicy, Throttles),
> {
    let loss = || prop_oneof![Just(LossPolicy::StopPartition), Just(LossPolicy::Continue)];
    (
        loss(),
        btree_map(topic_name(), loss(), 0..3),
        prop_oneof![Just(OversizedPolicy::StopPartition), Just(OversizedPolicy::Skip)],
        prop_oneof![Just(TimestampPolicy::Keep), Just(TimestampPolicy::Clamp)],
        (throttle(), btree_map(topic_name(), limit(), 0..3)),
    )
}

/// A specification as the API can make it.
pub(crate) fn api_spec() -> impl Strategy<Value = FlowSpec> {
    const DAY_MS: u64 = 86_400_000;
    const DURATION_MAX_MS: u64 = 315_576_000_000_000;
    const YEAR_10000_MS: i64 = 253_402_300_800_000;
    let clusters = (cluster_id(), cluster_id()).prop_filter("must differ", |(a, b)| a != b);
    let lists = (patterns(0..4), patterns(0..4), patterns(0..4), patterns(0..4));
    let intervals = (1_000..=DURATION_MAX_MS, 100..=DURATION_MAX_MS, 1_000..=DAY_MS);
    let factors = (option::of(1..=i16::MAX), option::of(1..=i16::MAX));
    (
        clusters,
        lists,
        naming(),
        start_at(0..YEAR_10000_MS),
        any::<[bool; 10]>(),
        intervals,
        factors,
        policies(),
    )
        .prop_map(|((source, target), lists, naming, start, flags, intervals, factors, policies)| {
            FlowSpec {
                topics_include: lists.0,
                topics_exclude: lists.1,
                groups_include: lists.2,
                groups_exclude: lists.3,
                naming,
                start,
                records_enabled: flags[0],
                read_uncommitted: flags[1],
                heartbeat_topics: flags[2],
                checkpoints_enabled: flags[3],
                checkpoint_interval_ms: intervals.0,
                heartbeats_enabled: flags[4],
                heartbeat_interval_ms: intervals.1,
                replication_factor: factors.0,
                internal_replication_factor: factors.1,
                discovery_interval_ms: intervals.2,
                shared_target: flags[5],
                on_loss: policies.0,
                on_loss_by_topic: policies.1,
                on_oversized: policies.2,
                timestamps: policies.3,
                skip_mirrored: flags[6],
                adopt: flags[7],
                require_exactly_once: flags[8],
                retired: RetiredOptions::default(),
                throttle: policies.4.0,
                throttle_by_topic: policies.4.1,
                source,
                target,
            }
        })
}

/// Any specification that may be stored: limits change, and options that are gone may be set.
pub(crate) fn flow_spec() -> impl Strategy<Value = FlowSpec> {
    const YEAR_10000_MS: i64 = 253_402_300_800_000;
    let lists = (vec("\\PC{1,8}", 0..3), vec("\\PC{1,8}", 0..3));
    let start = start_at(-YEAR_10000_MS..YEAR_10000_MS);
    (api_spec(), lists, start, any::<[u64; 3]>(), any::<[bool; 2]>()).prop_map(
        |(spec, lists, start, intervals, [strict_delivery, at_least_once])| FlowSpec {
            topics_include: lists.0,
            groups_exclude: lists.1,
            start,
            checkpoint_interval_ms: intervals[0],
            heartbeat_interval_ms: intervals[1],
            discovery_interval_ms: intervals[2],
            retired: RetiredOptions { strict_delivery, at_least_once },
            ..spec
        },
    )
}

pub(crate) fn partition_start() -> impl Strategy<Value = PartitionStart> {
    (any::<i64>(), any::<i64>(), any::<[bool; 3]>(), (option::of(any::<u64>()), option::of(any::<i32>())))
        .prop_map(
            |(
                source_offset,
                target_offset,
                [read_uncommitted, skip_mirrored, marked],
                (adopted, source_leader_epoch),
            )| PartitionStart {
                source_offset,
                target_offset,
                read_uncommitted,
                skip_mirrored,
                adopted,
                source_leader_epoch,
                marked,
            },
        )
}

pub(crate) fn partition_generation() -> impl Strategy<Value = PartitionGeneration> {
    (generation(), partition_start())
        .prop_map(|(generation, start)| PartitionGeneration { generation, start })
}

pub(crate) fn generation_request() -> impl Strategy<Value = GenerationRequest> {
    let place = (flow_id(), topic_name(), 0..i32::MAX, any::<u64>());
    (place, generation(), option::of(any::<i64>()), partition_start(), vec(event(), 0..3)).prop_map(
        |((flow, topic, partition, number), after, offered, start, events)| GenerationRequest {
            flow,
            topic,
            partition,
            number,
            after,
            offered,
            start,
            events,
        },
    )
}

pub(crate) fn topic_entry() -> impl Strategy<Value = TopicEntry> {
    let begun = btree_map(0..i32::MAX, partition_generation(), 0..3);
    let starts = vec(partition_start(), 0..4);
    (topic_name(), topic_name(), topic_id(), topic_id(), starts, begun).prop_map(
        |(topic, target_topic, source_topic_id, target_topic_id, starts, generations)| TopicEntry {
            earliest: Vec::new(),
            topic,
            target_topic,
            source_topic_id,
            target_topic_id,
            starts,
            generations,
        },
    )
}

fn topics() -> impl Strategy<Value = BTreeMap<TopicName, TopicEntry>> {
    vec(topic_entry(), 0..4)
        .prop_map(|list| list.into_iter().map(|entry| (entry.topic.clone(), entry)).collect())
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let texts = ("[A-Z_]{0,8}", "\\PC{0,8}", "\\PC{0,8}");
    let known = || option::of(any::<i64>());
    let offsets = (known(), known(), known());
    (flow_id(), any::<u64>(), texts, offsets, any::<u64>()).prop_map(
        |(flow, time_ms, (reason, message, subject), (from_offset, to_offset, count), sequence)| Event {
            flow,
            time_ms,
            reason,
            message,
            subject,
            from_offset,
            to_offset,
            count,
            sequence,
        },
    )
}

fn guard() -> impl Strategy<Value = WriteGuard> {
    ("\\PC{0,8}", any::<u64>(), option::of(1..=u64::MAX)).prop_map(
        |(request_id, fingerprint, expected_revision)| WriteGuard {
            request_id,
            fingerprint,
            expected_revision,
        },
    )
}

pub(crate) fn inventory_change() -> impl Strategy<Value = InventoryChange> {
    let seen = (topic_name(), 0..9_i32, any::<bool>());
    let seen = seen.prop_map(|(topic, partitions, selected)| SeenTopic { topic, partitions, selected });
    let reported = (topic_entry(), vec(any::<i64>(), 0..3));
    let reported = reported.prop_map(|(entry, earliest)| TopicEntry { earliest, ..entry });
    (
        vec(reported, 0..3),
        vec(topic_name(), 0..3),
        (vec(group_id(), 0..3), vec(group_id(), 0..3)),
        (vec(seen, 0..3), any::<bool>()),
    )
        .prop_map(|(topics, removed_topics, (groups, removed_groups), (seen, seen_all))| {
            InventoryChange { topics, removed_topics, groups, removed_groups, seen, seen_all }
        })
}

fn user_command() -> impl Strategy<Value = CommandKind> {
    prop_oneof![
        (cluster_id(), cluster_spec(), any::<bool>(), guard())
            .prop_map(|(id, spec, create, guard)| CommandKind::PutCluster { id, spec, create, guard }),
        (cluster_id(), "[A-Za-z0-9_-]{22}")
            .prop_map(|(id, kafka_cluster_id)| CommandKind::ReportCluster { id, kafka_cluster_id }),
        (cluster_id(), guard()).prop_map(|(id, guard)| CommandKind::DeleteCluster { id, guard }),
        (flow_id(), flow_spec(), any::<bool>(), any::<bool>(), guard()).prop_map(
            |(id, spec, create, start_over, guard)| CommandKind::PutFlow {
                id,
                spec,
                create,
                start_over,
                guard
            }
        ),
        (flow_id(), guard()).prop_map(|(id, guard)| CommandKind::DeleteFlow { id, guard }),
        (flow_id(), any::<bool>(), guard()).prop_map(|(id, paused, guard)| CommandKind::SetPaused {
            id,
            paused,
            guard
        }),
        (flow_id(), topic_name(), vec(0..i32::MAX, 0..3), any::<bool>(), guard()).prop_map(
            |(id, topic, partitions, paused, guard)| CommandKind::SetTopicPaused {
                id,
                topic,
                partitions,
                paused,
                guard
            }
        ),
    ]
}

fn mesh_command() -> impl Strategy<Value = CommandKind> {
    // Releases come first, as the planner says them.
    let steps = (vec(unit(), 0..3), vec((unit(), worker_id()), 0..3)).prop_map(|(release, assign)| {
        let assign = assign.into_iter().map(|(unit, worker)| PlanStep::Assign(unit, worker));
        release.into_iter().map(PlanStep::Release).chain(assign).collect()
    });
    prop_oneof![
        generation_request().prop_map(CommandKind::BeginGeneration),
        (flow_id(), generation())
            .prop_map(|(flow, generation)| CommandKind::ClaimProducer { flow, generation }),
        "\\PC{0,8}".prop_map(|mesh_id| CommandKind::NameMesh { mesh_id }),
        (flow_id(), any::<u64>(), inventory_change())
            .prop_map(|(flow, number, change)| CommandKind::PutInventory { flow, number, change }),
        (worker_id(), role(), any::<u32>(), "\\PC{0,8}").prop_map(|(worker, role, capacity, version)| {
            CommandKind::RegisterWorker { worker, role, capacity, version }
        }),
        (worker_id(), any::<u64>())
            .prop_map(|(worker, session)| CommandKind::ExpireWorker { worker, session }),
        worker_id().prop_map(|worker| CommandKind::DrainWorker { worker }),
        steps.prop_map(|steps| CommandKind::ApplyPlan { steps }),
        (worker_id(), vec((unit(), any::<u64>()), 0..3))
            .prop_map(|(worker, units)| CommandKind::ReleaseUnits { worker, units }),
        vec(event(), 0..3).prop_map(|events| CommandKind::RecordEvents { events }),
    ]
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    let kind = prop_oneof![user_command(), mesh_command()];
    (any::<u64>(), kind).prop_map(|(at_ms, kind)| Command { at_ms, kind })
}

fn cluster_record() -> impl Strategy<Value = ClusterRecord> {
    (cluster_spec(), any::<[u64; 3]>()).prop_map(|(spec, [created_ms, updated_ms, revision])| ClusterRecord {
        spec,
        created_ms,
        updated_ms,
        revision,
    })
}

fn topic_pause() -> impl Strategy<Value = TopicPause> {
    prop_oneof![Just(TopicPause::All), btree_set(0..i32::MAX, 0..3).prop_map(TopicPause::Partitions),]
}

pub(crate) fn flow_record() -> impl Strategy<Value = FlowRecord> {
    (
        flow_spec(),
        any::<bool>(),
        option::of(generation()),
        any::<[u64; 4]>(),
        (topics(), topics()),
        btree_set(group_id(), 0..3),
        btree_map(topic_name(), topic_pause(), 0..3),
        (btree_map(topic_name(), 0..9_i32, 0..3), any::<bool>()),
    )
        .prop_map(
            |(spec, paused, generation, numbers, (topics, dropped), groups, paused_topics, seen)| {
                FlowRecord {
                    seen: SeenTopics { topics: seen.0, complete: seen.1 },
                    spec,
                    paused,
                    generation,
                    created_ms: numbers[0],
                    updated_ms: numbers[1],
                    revision: numbers[2],
                    topics,
                    dropped,
                    groups,
                    event_sequence: numbers[3],
                    paused_topics,
                }
            },
        )
}

fn retired_flow() -> impl Strategy<Value = RetiredFlow> {
    (flow_id(), flow_spec(), option::of(generation()), topics(), topics()).prop_map(
        |(id, spec, generation, topics, dropped)| RetiredFlow { id, spec, generation, topics, dropped },
    )
}

pub(crate) fn worker_record() -> impl Strategy<Value = WorkerRecord> {
    (role(), any::<u32>(), "\\PC{0,8}", any::<[u64; 2]>(), any::<bool>()).prop_map(
        |(role, capacity, version, [session, registered_ms], draining)| WorkerRecord {
            role,
            capacity,
            version,
            session,
            draining,
            registered_ms,
        },
    )
}

fn owner() -> impl Strategy<Value = Owner> {
    (worker_id(), any::<u64>(), any::<bool>()).prop_map(|(worker, number, releasing)| Owner {
        worker,
        number,
        releasing,
    })
}

fn request_record() -> impl Strategy<Value = RequestRecord> {
    ("\\PC{0,8}", any::<u64>(), any::<u64>()).prop_map(|(request_id, fingerprint, revision)| RequestRecord {
        request_id,
        fingerprint,
        revision,
    })
}

pub(crate) fn state() -> impl Strategy<Value = ControlState> {
    let resources =
        (btree_map(cluster_id(), cluster_record(), 0..3), btree_map(flow_id(), flow_record(), 0..3));
    let workers = (btree_map(worker_id(), worker_record(), 0..3), btree_map(unit(), owner(), 0..3));
    let logs = (vec(retired_flow(), 0..3), vec(event(), 0..3), vec(request_record(), 0..3));
    (any::<[u64; 3]>(), "[a-f0-9]{0,8}", resources, workers, logs).prop_map(
        |(numbers, mesh_id, (clusters, flows), (workers, owners), (retired, events, requests))| {
            ControlState {
                revision: numbers[0],
                mesh_id,
                assignment_number: numbers[1],
                session_number: numbers[2],
                clusters,
                flows,
                retired: retired.into(),
                workers,
                owners,
                events: events.into(),
                requests: requests.into(),
            }
        },
    )
}
