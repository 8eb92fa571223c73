//! What workers and coordinators say comes back as it was.

use mirrormesh_core::flow::{PreviewPage, PreviewQuestion, PreviewedTopic};
use mirrormesh_core::paused::PausedSet;
use mirrormesh_core::report::PartitionFigures;
use mirrormesh_core::unit::{Generation, Role, WorkerAssignment};
use mirrormesh_proto::convert::session::{
    EventsReport, InventoryReport, ProducerClaim, ProgressReport, Question, Registration, Speaker,
    inventory_response, paused_answer, paused_figures, preview_answer, preview_page, refused_topics,
};
use mirrormesh_proto::mesh;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::strategies::{self, flow_id, topic_name, unit, worker_id};

fn speaker() -> impl Strategy<Value = Speaker> {
    (worker_id(), any::<u64>()).prop_map(|(worker, session)| Speaker { worker, session })
}

proptest! {
    #[test]
    fn assignments_come_back(assignment in strategies::assignment()) {
        let message = mesh::WatchAssignmentsResponse::from(&assignment);
        prop_assert_eq!(WorkerAssignment::try_from(message), Ok(assignment));
    }

    #[test]
    fn reports_come_back(
        speaker in speaker(),
        sequence in any::<u64>(),
        units in vec(strategies::unit_report(), 0..4),
        released in vec((unit(), any::<u64>()), 0..4),
    ) {
        let report = ProgressReport { speaker, sequence, units, released };
        prop_assert_eq!(ProgressReport::try_from(mesh::ReportProgressRequest::from(&report)), Ok(report));
    }

    #[test]
    fn inventories_come_back(
        speaker in speaker(),
        flow in flow_id(),
        number in any::<u64>(),
        change in strategies::inventory_change(),
        refused in vec((topic_name(), "[A-Z_]{1,9}", "\\PC{0,9}"), 0..3),
    ) {
        let report = InventoryReport { speaker, flow, number, change };
        prop_assert_eq!(InventoryReport::try_from(mesh::ReportInventoryRequest::from(&report)), Ok(report));
        prop_assert_eq!(refused_topics(inventory_response(&refused)), Ok(refused));
    }

    #[test]
    fn registrations_claims_and_events_come_back(
        speaker in speaker(),
        flow in flow_id(),
        role in strategies::role(),
        capacity in 0..=i32::MAX.unsigned_abs(),
        generation in strategies::generation(),
        events in vec(strategies::event(), 0..3),
    ) {
        let message = mesh::WatchAssignmentsRequest::from(&speaker);
        prop_assert_eq!(Speaker::try_from(message), Ok(speaker.clone()));
        let registration = Registration { worker: speaker.worker.clone(), role, capacity, version: "1.2.3".into() };
        prop_assert_eq!(Registration::try_from(mesh::RegisterRequest::from(&registration)), Ok(registration));
        let claim = ProducerClaim { speaker: speaker.clone(), flow, generation };
        prop_assert_eq!(ProducerClaim::try_from(mesh::ClaimProducerRequest::from(&claim)), Ok(claim));
        let answer = mesh::ClaimProducerResponse::from(&generation);
        prop_assert_eq!(Generation::try_from(answer), Ok(generation));
        let report = EventsReport { speaker, events };
        prop_assert_eq!(EventsReport::try_from(mesh::ReportEventsRequest::from(&report)), Ok(report));
    }

    #[test]
    fn questions_about_paused_partitions_come_back(
        flow in flow_id(),
        source in strategies::cluster_spec(),
        target in strategies::cluster_spec(),
        revision in any::<u64>(),
        partitions in vec((topic_name(), 0..i32::MAX, strategies::partition_detail()), 0..3),
        figures in vec((topic_name(), 0..i32::MAX, strategies::partition_figures()), 0..3),
    ) {
        let positions_topic = "p".to_owned();
        let set = PausedSet { flow, source, target, positions_topic, revision, partitions };
        let question = Question::Paused(Box::new(set));
        let query = question.to_query(8);
        prop_assert_eq!(query.query_id, 8);
        prop_assert_eq!(Question::try_from(query), Ok(question));
        prop_assert_eq!(paused_figures(paused_answer(&figures)), Ok(figures));
    }
}

proptest! {
    #[test]
    fn previews_come_back(
        spec in strategies::flow_spec(),
        clusters in (strategies::cluster_spec(), strategies::cluster_spec()),
        after in "[a-z]{0,5}",
        topics in vec((topic_name(), any::<u32>(), option::of(topic_name()), option::of(("[A-Z]{1,5}", "[a-z]{0,9}"))), 0..3),
        more in any::<bool>(),
    ) {
        let (source, target) = clusters;
        let clusters = [spec.source.clone()].into();
        let question = PreviewQuestion { spec, source, target, mesh_id: "m".into(), clusters, after, limit: 7 };
        let question = Question::Preview(Box::new(question));
        prop_assert_eq!(Question::try_from(question.to_query(9)), Ok(question));
        let topic = |(topic, partitions, target, left_out)| PreviewedTopic { topic, partitions, target, left_out };
        let page = PreviewPage { topics: topics.into_iter().map(topic).collect(), more };
        prop_assert_eq!(preview_page(preview_answer(page.clone())), Ok(page));
    }
}

#[test]
fn unknown_figures_are_minus_one_on_the_wire() {
    let unknown = mesh::PartitionFigures::from(&PartitionFigures::default());
    assert_eq!((unknown.source_end_offset, unknown.oldest_pending_ms), (-1, -1));
    let known =
        PartitionFigures { source_end_offset: Some(0), oldest_pending_ms: Some(0), ..Default::default() };
    let known = mesh::PartitionFigures::from(&known);
    assert_eq!((known.source_end_offset, known.oldest_pending_ms), (0, 0));
    // A record may carry any timestamp: it must not spoil the whole report.
    let odd = PartitionFigures { oldest_pending_ms: Some(-5), ..Default::default() };
    let odd = mesh::PartitionFigures::from(&odd);
    assert_eq!(PartitionFigures::try_from(odd).unwrap().oldest_pending_ms, None);
    let wrong = mesh::PartitionFigures { source_end_offset: -2, ..unknown };
    assert_eq!(PartitionFigures::try_from(wrong).unwrap_err().field, "source_end_offset");
}

#[test]
fn faulty_messages_name_the_field() {
    let request = |f: fn(&mut mesh::RegisterRequest)| {
        let registration = Registration {
            worker: mirrormesh_core::ids::WorkerId::new("w").unwrap(),
            role: Role::Checkpoint,
            capacity: 1,
            version: String::new(),
        };
        let mut request = mesh::RegisterRequest::from(&registration);
        f(&mut request);
        Registration::try_from(request).unwrap_err().field
    };
    assert_eq!(request(|r| r.role = 0), "role");
    assert_eq!(request(|r| r.role = 99), "role");
    assert_eq!(request(|r| r.capacity = -1), "capacity");
    assert_eq!(request(|r| r.worker_id.clear()), "worker_id");
    assert_eq!(request(|r| r.version = "v".repeat(129)), "version");

    let inventory = mesh::ReportInventoryRequest {
        worker_id: "w".into(),
        flow_id: "f".into(),
        removed_topics: vec!["ok".into(), "not ok".into()],
        ..Default::default()
    };
    assert_eq!(InventoryReport::try_from(inventory).unwrap_err().field, "removed_topics[1]");

    let report = mesh::ReportProgressRequest {
        worker_id: "w".into(),
        released: vec![mesh::ReleasedUnit::default()],
        ..Default::default()
    };
    assert_eq!(ProgressReport::try_from(report).unwrap_err().field, "released[0].unit");
}
