//! Updates of flows by field mask.

use mirrormesh_core::flow::{FlowSpec, LossPolicy, Naming, StartAt};
use mirrormesh_core::throttle::Throttle;
use mirrormesh_proto::convert::api::{apply_flow_mask, spec_to_api};
use mirrormesh_proto::{Violations, v1};
use proptest::prelude::*;
use prost_types::FieldMask;

use crate::samples::{cluster, spec};
use crate::strategies;

fn apply(present: &FlowSpec, update: &v1::Flow, paths: &[&str]) -> Result<FlowSpec, Violations> {
    let mask = FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() };
    apply_flow_mask(present, update, Some(&mask))
}

fn plain() -> FlowSpec {
    FlowSpec::new(cluster("uk"), cluster("hq"))
}

/// The paths of throttles.
fn throttle_paths() -> Vec<(&'static str, FlowSpec)> {
    let (p, s) = (plain, spec);
    vec![
        ("records.throttle", FlowSpec { throttle: s().throttle, ..p() }),
        (
            "records.throttle.bytes_per_second",
            FlowSpec { throttle: Throttle { records_per_second: None, ..s().throttle }, ..p() },
        ),
        (
            "records.throttle.records_per_second",
            FlowSpec { throttle: Throttle { bytes_per_second: None, ..s().throttle }, ..p() },
        ),
        ("records.throttle_by_topic", FlowSpec { throttle_by_topic: s().throttle_by_topic, ..p() }),
    ]
}

/// Every path, and what it does to a flow with all defaults when the update is the sample.
fn paths() -> Vec<(&'static str, FlowSpec)> {
    let (p, s) = (plain, spec);
    vec![
        (
            "topics",
            FlowSpec { topics_include: s().topics_include, topics_exclude: s().topics_exclude, ..p() },
        ),
        ("topics.include", FlowSpec { topics_include: s().topics_include, ..p() }),
        ("topics.exclude", FlowSpec { topics_exclude: s().topics_exclude, ..p() }),
        (
            "groups",
            FlowSpec { groups_include: s().groups_include, groups_exclude: s().groups_exclude, ..p() },
        ),
        ("groups.include", FlowSpec { groups_include: s().groups_include, ..p() }),
        ("groups.exclude", FlowSpec { groups_exclude: s().groups_exclude, ..p() }),
        ("naming", FlowSpec { naming: s().naming, ..p() }),
        ("naming.rename", FlowSpec { naming: s().naming, ..p() }),
        ("naming.rename.topics", FlowSpec { naming: s().naming, ..p() }),
        ("naming.identity", p()),
        ("start", FlowSpec { start: s().start, ..p() }),
        ("start.timestamp", FlowSpec { start: s().start, ..p() }),
        ("start.latest", p()),
        (
            "records",
            FlowSpec {
                read_uncommitted: true,
                on_loss: s().on_loss,
                on_loss_by_topic: s().on_loss_by_topic,
                on_oversized: s().on_oversized,
                timestamps: s().timestamps,
                skip_mirrored: true,
                require_exactly_once: true,
                throttle: s().throttle,
                throttle_by_topic: s().throttle_by_topic,
                ..p()
            },
        ),
        ("records.on_loss", FlowSpec { on_loss: s().on_loss, ..p() }),
        ("records.on_loss_by_topic", FlowSpec { on_loss_by_topic: s().on_loss_by_topic, ..p() }),
        ("records.on_oversized", FlowSpec { on_oversized: s().on_oversized, ..p() }),
        ("records.timestamps", FlowSpec { timestamps: s().timestamps, ..p() }),
        ("records.isolation", FlowSpec { read_uncommitted: true, ..p() }),
        ("records.forward_mirrored", FlowSpec { skip_mirrored: true, ..p() }),
        ("records.require_exactly_once", FlowSpec { require_exactly_once: true, ..p() }),
        ("adopt", FlowSpec { adopt: true, ..p() }),
        ("checkpoints", FlowSpec { checkpoint_interval_ms: 6_000, ..p() }),
        ("checkpoints.interval", FlowSpec { checkpoint_interval_ms: 6_000, ..p() }),
        ("heartbeats", FlowSpec { heartbeat_interval_ms: 2_000, ..p() }),
        ("heartbeats.interval", FlowSpec { heartbeat_interval_ms: 2_000, ..p() }),
        (
            "topic_creation",
            FlowSpec { replication_factor: Some(3), internal_replication_factor: Some(2), ..p() },
        ),
        ("topic_creation.replication_factor", FlowSpec { replication_factor: Some(3), ..p() }),
        (
            "topic_creation.internal_replication_factor",
            FlowSpec { internal_replication_factor: Some(2), ..p() },
        ),
        ("discovery_interval", FlowSpec { discovery_interval_ms: 7_000, ..p() }),
        ("shared_target", FlowSpec { shared_target: true, ..p() }),
        ("source", p()),
        ("target", p()),
        ("*", s()),
    ]
}

#[test]
fn each_path_changes_what_it_names_and_nothing_else() {
    let update = spec_to_api(&spec());
    for (path, expected) in paths().into_iter().chain(throttle_paths()) {
        assert_eq!(apply(&plain(), &update, &[path]), Ok(expected), "{path}");
    }
    let both = FlowSpec { shared_target: true, start: spec().start, ..plain() };
    assert_eq!(apply(&plain(), &update, &["shared_target", "start"]), Ok(both));
}

#[test]
fn switches_are_set_one_by_one() {
    let update = v1::Flow {
        records: Some(v1::RecordOptions {
            enabled: Some(false),
            heartbeat_topics: Some(false),
            ..Default::default()
        }),
        checkpoints: Some(v1::CheckpointOptions { enabled: Some(false), interval: None }),
        heartbeats: Some(v1::HeartbeatOptions { enabled: Some(false), interval: None }),
        ..Default::default()
    };
    for (path, expected) in [
        ("records.enabled", FlowSpec { records_enabled: false, ..spec() }),
        ("records.heartbeat_topics", FlowSpec { heartbeat_topics: false, ..spec() }),
        ("checkpoints.enabled", FlowSpec { checkpoints_enabled: false, ..spec() }),
        ("heartbeats.enabled", FlowSpec { heartbeats_enabled: false, ..spec() }),
    ] {
        assert_eq!(apply(&spec(), &update, &[path]), Ok(expected), "{path}");
    }
}

#[test]
fn what_is_named_and_left_out_goes_back_to_its_default() {
    let empty = v1::Flow::default();
    let reset =
        apply(&spec(), &empty, &["topics.exclude", "start", "checkpoints.interval", "records.on_loss"])
            .unwrap();
    let expected = FlowSpec {
        topics_exclude: plain().topics_exclude,
        start: StartAt::Earliest,
        checkpoint_interval_ms: plain().checkpoint_interval_ms,
        on_loss: LossPolicy::StopPartition,
        ..spec()
    };
    assert_eq!(reset, expected);
    assert_eq!(apply(&spec(), &empty, &["start.timestamp"]).unwrap().start, StartAt::Earliest);
    assert_eq!(apply(&spec(), &empty, &["start.latest"]).unwrap().start, spec().start, "was not set");
    let latest = v1::Flow {
        start: Some(v1::Start { at: Some(v1::start::At::Latest(v1::Latest {})) }),
        ..Default::default()
    };
    assert_eq!(apply(&spec(), &latest, &["start.latest"]).unwrap().start, StartAt::Latest);
}

#[test]
fn no_mask_means_all_that_can_be_changed() {
    let empty = v1::Flow::default();
    let expected = FlowSpec { naming: spec().naming, ..plain() };
    assert_eq!(apply_flow_mask(&spec(), &empty, None), Ok(expected.clone()));
    assert_eq!(apply(&spec(), &empty, &[]), Ok(expected.clone()));
    assert_eq!(apply(&spec(), &empty, &["*"]), Ok(expected));
    // A value that differs comes through, so that core can refuse it aloud.
    let moved = v1::Flow { target: "clusters/us".into(), ..Default::default() };
    assert_eq!(apply(&spec(), &moved, &[]).unwrap().target, cluster("us"));
    let identity = Some(v1::Naming { policy: Some(v1::naming::Policy::Identity(v1::IdentityNaming {})) });
    let renamed = v1::Flow { naming: identity, ..Default::default() };
    assert_eq!(apply(&spec(), &renamed, &[]).unwrap().naming, Naming::Identity);
}

#[test]
fn output_fields_are_passed_over_and_unknown_ones_refused() {
    let update = spec_to_api(&spec());
    let output = [
        "name",
        "state",
        "conditions",
        "generation",
        "progress",
        "progress.records",
        "create_time",
        "update_time",
        "etag",
    ];
    assert_eq!(apply(&plain(), &update, &output), Ok(plain()), "not the same as no mask");
    for path in [
        "",
        "Topics",
        "topic",
        "topics.",
        "topics.includes",
        "topics.include.0",
        "start.never",
        "topicCreation",
        "**",
    ] {
        let faults = apply(&plain(), &update, &[path]).unwrap_err();
        assert_eq!(faults.fields().collect::<Vec<_>>(), ["update_mask"], "{path}");
    }
}

#[test]
fn faults_of_mask_and_values_are_told_together() {
    let update = v1::Flow {
        discovery_interval: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        ..Default::default()
    };
    let faults = apply(&plain(), &update, &["nonsense", "discovery_interval"]).unwrap_err();
    assert_eq!(faults.fields().collect::<Vec<_>>(), ["update_mask", "flow.discovery_interval"]);
    assert_eq!(
        apply(&plain(), &update, &["shared_target"]),
        Ok(plain()),
        "what is not named is not looked at"
    );
}

proptest! {
    #[test]
    fn the_whole_of_one_flow_over_another(present in strategies::api_spec(), update in strategies::api_spec()) {
        let changed = apply_flow_mask(&present, &spec_to_api(&update), None);
        prop_assert_eq!(changed, Ok(update));
    }

    #[test]
    fn an_update_that_names_nothing_new_changes_nothing(spec in strategies::api_spec(), index in 0..27_usize) {
        let path = paths()[index].0;
        prop_assert_eq!(apply(&spec, &spec_to_api(&spec), &[path]), Ok(spec));
    }
}
