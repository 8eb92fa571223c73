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
fn a_star_means_all_that_can_be_changed() {
    let empty = v1::Flow::default();
    assert_eq!(apply(&spec(), &empty, &["*"]), Ok(FlowSpec { naming: spec().naming, ..plain() }));
    // A value that differs comes through, so that core can refuse it aloud.
    let moved = v1::Flow { target: "clusters/us".into(), ..Default::default() };
    assert_eq!(apply(&spec(), &moved, &["*"]).unwrap().target, cluster("us"));
    let identity = Some(v1::Naming { policy: Some(v1::naming::Policy::Identity(v1::IdentityNaming {})) });
    let renamed = v1::Flow { naming: identity, ..Default::default() };
    assert_eq!(apply(&spec(), &renamed, &["*"]).unwrap().naming, Naming::Identity);
}

#[test]
fn without_a_mask_an_empty_update_changes_nothing() {
    for update in [
        v1::Flow::default(),
        v1::Flow {
            topics: Some(v1::TopicSelection::default()),
            groups: Some(v1::GroupSelection::default()),
            naming: Some(v1::Naming::default()),
            start: Some(v1::Start::default()),
            records: Some(v1::RecordOptions {
                throttle: Some(v1::Throttle::default()),
                ..Default::default()
            }),
            checkpoints: Some(v1::CheckpointOptions::default()),
            heartbeats: Some(v1::HeartbeatOptions::default()),
            topic_creation: Some(v1::TopicCreation::default()),
            ..Default::default()
        },
    ] {
        assert_eq!(apply_flow_mask(&spec(), &update, None), Ok(spec()));
        assert_eq!(apply(&spec(), &update, &[]), Ok(spec()));
    }
}

/// An operator sets a throttle and nothing else: the selection must not widen, nor any other option go back to its default.
#[test]
fn without_a_mask_one_filled_field_changes_alone() {
    let throttle = v1::Throttle { bytes_per_second: Some(2_048), records_per_second: None };
    let update = v1::Flow {
        records: Some(v1::RecordOptions { throttle: Some(throttle), ..Default::default() }),
        ..Default::default()
    };
    let limited = Throttle { bytes_per_second: std::num::NonZeroU64::new(2_048), ..spec().throttle };
    assert_eq!(apply_flow_mask(&spec(), &update, None), Ok(FlowSpec { throttle: limited, ..spec() }));
}

/// A message in which only the fields of this path are filled, from the sample.
fn only(path: &str) -> v1::Flow {
    let spec = apply(&plain(), &spec_to_api(&spec()), &[path]).unwrap();
    let (all, mut one) = (spec_to_api(&spec), v1::Flow::default());
    let (records, empty) = (all.records.unwrap(), v1::RecordOptions::default());
    match path {
        "topics.include" => one.topics.get_or_insert_default().include = all.topics.unwrap().include,
        "topics.exclude" => one.topics.get_or_insert_default().exclude = all.topics.unwrap().exclude,
        "groups.include" => one.groups.get_or_insert_default().include = all.groups.unwrap().include,
        "groups.exclude" => one.groups.get_or_insert_default().exclude = all.groups.unwrap().exclude,
        "naming" => one.naming = all.naming,
        "start" => one.start = all.start,
        "adopt" => one.adopt = true,
        "shared_target" => one.shared_target = true,
        "discovery_interval" => one.discovery_interval = all.discovery_interval,
        "topic_creation" => one.topic_creation = all.topic_creation,
        "checkpoints.interval" => {
            one.checkpoints = Some(v1::CheckpointOptions { enabled: None, ..all.checkpoints.unwrap() });
        }
        "heartbeats.interval" => {
            one.heartbeats = Some(v1::HeartbeatOptions { enabled: None, ..all.heartbeats.unwrap() });
        }
        "records.isolation" => {
            one.records = Some(v1::RecordOptions { isolation: records.isolation, ..empty });
        }
        "records.on_loss" => one.records = Some(v1::RecordOptions { on_loss: records.on_loss, ..empty }),
        "records.on_loss_by_topic" => {
            one.records = Some(v1::RecordOptions { on_loss_by_topic: records.on_loss_by_topic, ..empty });
        }
        "records.on_oversized" => {
            one.records = Some(v1::RecordOptions { on_oversized: records.on_oversized, ..empty });
        }
        "records.timestamps" => {
            one.records = Some(v1::RecordOptions { timestamps: records.timestamps, ..empty });
        }
        "records.forward_mirrored" => {
            one.records = Some(v1::RecordOptions { forward_mirrored: records.forward_mirrored, ..empty });
        }
        "records.require_exactly_once" => {
            one.records = Some(v1::RecordOptions { require_exactly_once: true, ..empty });
        }
        "records.throttle" => {
            one.records = Some(v1::RecordOptions { throttle: records.throttle, ..empty });
        }
        "records.throttle_by_topic" => {
            one.records = Some(v1::RecordOptions { throttle_by_topic: records.throttle_by_topic, ..empty });
        }
        other => panic!("{other} is not known here"),
    }
    one
}

#[test]
fn without_a_mask_each_filled_field_counts() {
    const PATHS: [&str; 21] = [
        "topics.include",
        "topics.exclude",
        "groups.include",
        "groups.exclude",
        "naming",
        "start",
        "adopt",
        "shared_target",
        "discovery_interval",
        "topic_creation",
        "checkpoints.interval",
        "heartbeats.interval",
        "records.isolation",
        "records.on_loss",
        "records.on_loss_by_topic",
        "records.on_oversized",
        "records.timestamps",
        "records.forward_mirrored",
        "records.require_exactly_once",
        "records.throttle",
        "records.throttle_by_topic",
    ];
    for path in PATHS {
        let update = only(path);
        let by_mask = apply(&plain(), &update, &[path]).unwrap();
        assert_ne!(by_mask, plain(), "{path}");
        assert_eq!(apply_flow_mask(&plain(), &update, None), Ok(by_mask), "{path}");
    }
}

#[test]
fn paths_may_be_spelled_as_json_spells_them() {
    let update = spec_to_api(&spec());
    for (camel, snake) in [
        ("records.onLoss", "records.on_loss"),
        ("records.throttle.bytesPerSecond", "records.throttle.bytes_per_second"),
        ("topicCreation.replicationFactor", "topic_creation.replication_factor"),
        ("discoveryInterval", "discovery_interval"),
    ] {
        assert_eq!(apply(&plain(), &update, &[camel]), apply(&plain(), &update, &[snake]), "{camel}");
        assert_ne!(apply(&plain(), &update, &[camel]), Ok(plain()), "{camel}");
    }
}

#[test]
fn output_only_and_unknown_paths_are_refused_by_name() {
    let update = spec_to_api(&spec());
    assert_eq!(apply(&plain(), &update, &["name", "etag"]), Ok(plain()), "not the same as no mask");
    for path in [
        "state",
        "conditions",
        "generation",
        "progress",
        "progress.records",
        "create_time",
        "createTime",
        "update_time",
    ] {
        let faults = apply(&plain(), &update, &["shared_target", path]).unwrap_err().to_string();
        assert!(faults.contains(&format!("{path:?} is output only")), "{faults}");
    }
    for path in [
        "",
        "Topics",
        "topic",
        "topics.",
        "topics.includes",
        "topics.include.0",
        "topics.include,adopt",
        "start.never",
        "**",
    ] {
        let faults = apply(&plain(), &update, &[path]).unwrap_err();
        assert_eq!(faults.fields().collect::<Vec<_>>(), ["update_mask"], "{path}");
        assert!(faults.to_string().contains(&format!("{path:?}")), "{faults}");
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
        let changed = apply(&present, &spec_to_api(&update), &["*"]);
        prop_assert_eq!(changed, Ok(update));
    }

    #[test]
    fn an_update_that_names_nothing_new_changes_nothing(spec in strategies::api_spec(), index in 0..27_usize) {
        let path = paths()[index].0;
        prop_assert_eq!(apply(&spec, &spec_to_api(&spec), &[path]), Ok(spec));
    }
}
