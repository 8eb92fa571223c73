//! What coordinators and workers say to each other.

use super::*;

pub(crate) fn partition_detail() -> impl Strategy<Value = PartitionDetail> {
    (topic_name(), topic_id(), topic_id(), partition_generation()).prop_map(
        |(target_topic, source_topic_id, target_topic_id, begun)| PartitionDetail {
            target_topic,
            source_topic_id,
            target_topic_id,
            begun,
        },
    )
}

pub(crate) fn assignment() -> impl Strategy<Value = WorkerAssignment> {
    let share = || (1..u32::MAX, 1..u32::MAX).prop_map(|(part, of)| Share { part, of });
    let shares = (share(), btree_map(topic_name(), share(), 0..3))
        .prop_map(|(flow, topics)| ThrottleShares { flow, topics });
    let flow =
        (flow_spec(), option::of(generation()), "[a-f0-9]{0,8}", btree_set(cluster_id(), 0..3), shares)
            .prop_map(|(spec, generation, mesh_id, clusters, shares)| AssignedFlow {
                spec,
                generation,
                mesh_id,
                clusters,
                shares,
            });
    let assigned = (any::<u64>(), option::of(partition_detail()))
        .prop_map(|(number, partition)| AssignedUnit { number, partition });
    (
        any::<u64>(),
        btree_map(cluster_id(), cluster_spec(), 0..3),
        btree_map(flow_id(), flow, 0..3),
        btree_map(unit(), assigned, 0..4),
        btree_map(flow_id(), "[0-9a-f-]{0,55}", 0..3),
    )
        .prop_map(|(revision, clusters, flows, units, traces)| WorkerAssignment {
            revision,
            clusters,
            flows,
            units,
            traces,
        })
}

pub(crate) fn partition_figures() -> impl Strategy<Value = PartitionFigures> {
    let known = || option::of(0..i64::MAX);
    let delivery = proptest::sample::select(Delivery::ALL);
    (any::<[i64; 6]>(), known(), known(), known(), [known(), known()], delivery).prop_map(
        |(numbers, source_end_offset, oldest_pending_ms, source_start_offset, more, delivery)| {
            PartitionFigures {
                source_offset: numbers[0],
                source_end_offset,
                target_offset: numbers[1],
                records: numbers[2],
                bytes: numbers[3],
                oldest_pending_ms,
                resyncs: numbers[4],
                delivery,
                held_records: numbers[5],
                source_start_offset,
                lag_bytes: more[0],
                stale_since_ms: more[1],
            }
        },
    )
}

pub(crate) fn unit_report() -> impl Strategy<Value = UnitReport> {
    let state = prop_oneof![
        Just(UnitState::Resyncing),
        Just(UnitState::Running),
        Just(UnitState::Backoff),
        Just(UnitState::Stopped)
    ];
    (unit(), any::<u64>(), state, "[A-Z]{0,6}", "\\PC{0,8}", option::of(partition_figures())).prop_map(
        |(unit, number, state, reason, message, partition)| UnitReport {
            unit,
            number,
            state,
            reason,
            message,
            partition,
        },
    )
}
