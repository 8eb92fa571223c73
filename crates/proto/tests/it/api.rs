//! Flows, workers and events of the public API: defaults, limits, and which field is at fault.

use std::collections::{BTreeMap, BTreeSet};

use mirrormesh_core::flow::{FlowSpec, Naming, StartAt};
use mirrormesh_core::ids::{ClusterId, FlowId, TopicName, WorkerId};
use mirrormesh_core::report::Event;
use mirrormesh_core::unit::Role;
use mirrormesh_proto::convert::api::{
    FlowStatus, event_to_api, expected_revision, flow_spec, flow_to_api, flow_topic_name, parse_id,
    parse_name, spec_to_api, timestamp, worker_to_api, write_guard,
};
use mirrormesh_proto::{Faults, v1};
use proptest::prelude::*;
use prost_types::{Duration, Timestamp};

use crate::{samples, strategies};

fn minimal() -> v1::Flow {
    v1::Flow { source: "clusters/uk".into(), target: "clusters/hq".into(), ..Default::default() }
}

fn faults_of(flow: &v1::Flow) -> Vec<String> {
    match flow_spec(flow) {
        Ok(_) => vec![],
        Err(faults) => faults.fields().map(str::to_owned).collect(),
    }
}

proptest! {
    #[test]
    fn what_is_shown_can_be_sent_back(spec in strategies::api_spec(), id in strategies::flow_id()) {
        prop_assert_eq!(flow_spec(&spec_to_api(&spec)), Ok(spec.clone()));
        let record = mirrormesh_core::control::FlowRecord { spec: spec.clone(), ..samples::flow_record() };
        prop_assert_eq!(flow_spec(&flow_to_api(&id, &record, FlowStatus::default())), Ok(spec));
    }

    #[test]
    fn any_flow_can_be_shown(record in strategies::flow_record(), id in strategies::flow_id()) {
        let flow = flow_to_api(&id, &record, FlowStatus::default());
        prop_assert_eq!(flow.etag, record.revision.to_string());
    }
}

#[test]
fn two_clusters_are_enough() {
    let default = FlowSpec::new(samples::cluster("uk"), samples::cluster("hq"));
    assert_eq!(flow_spec(&minimal()), Ok(default.clone()));
    let empty_messages = v1::Flow {
        topics: Some(v1::TopicSelection::default()),
        groups: Some(v1::GroupSelection::default()),
        naming: Some(v1::Naming { policy: Some(v1::naming::Policy::Prefix(v1::PrefixNaming::default())) }),
        start: Some(v1::Start::default()),
        records: Some(v1::RecordOptions::default()),
        checkpoints: Some(v1::CheckpointOptions::default()),
        heartbeats: Some(v1::HeartbeatOptions::default()),
        topic_creation: Some(v1::TopicCreation::default()),
        ..minimal()
    };
    assert_eq!(flow_spec(&empty_messages), Ok(default.clone()));
    // What is in effect is shown.
    let shown = spec_to_api(&default);
    let topics = shown.topics.unwrap();
    assert_eq!(topics.include, [".*"]);
    assert_eq!(topics.exclude, [r".*[\-\.]internal", r".*\.replica", "__.*"]);
    assert_eq!(shown.discovery_interval, Some(Duration { seconds: 5, nanos: 0 }));
    assert_eq!(shown.records.unwrap().enabled, Some(true));
}

#[test]
fn the_empty_pattern_alone_excludes_nothing() {
    let flow = v1::Flow {
        topics: Some(v1::TopicSelection { include: vec![], exclude: vec![String::new()] }),
        ..minimal()
    };
    let spec = flow_spec(&flow).unwrap();
    assert!(spec.topics_exclude.is_empty());
    assert!(spec.topic_rules(&BTreeSet::new()).unwrap().target_of("a.replica").is_some());
    assert_eq!(spec_to_api(&spec).topics.unwrap().exclude, [""]);
}

fn absurd_throttles() -> v1::RecordOptions {
    v1::RecordOptions {
        throttle: Some(v1::Throttle { bytes_per_second: Some(0), records_per_second: Some(-1) }),
        throttle_by_topic: [
            ("a".to_owned(), v1::Throttle { bytes_per_second: Some(i64::MAX), records_per_second: Some(7) }),
            ("a b".to_owned(), v1::Throttle { bytes_per_second: Some(1_024), records_per_second: None }),
        ]
        .into(),
        ..Default::default()
    }
}

#[test]
fn all_faults_are_named_at_once() {
    let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
    let strings = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
    let flow = v1::Flow {
        source: "uk".into(),
        target: "clusters/".into(),
        topics: Some(v1::TopicSelection {
            include: strings(&["ok", "or(ders", "a)(b"]),
            exclude: strings(&["["]),
        }),
        groups: Some(v1::GroupSelection { include: strings(&["*"]), exclude: strings(&["ok", "(?P<"]) }),
        naming: Some(v1::Naming {
            policy: Some(v1::naming::Policy::Prefix(v1::PrefixNaming { separator: "/".into() })),
        }),
        start: Some(v1::Start { at: Some(v1::start::At::Timestamp(Timestamp { seconds: -1, nanos: 0 })) }),
        records: Some(v1::RecordOptions {
            isolation: 7,
            on_loss: 8,
            on_loss_by_topic: [("a".to_owned(), 9), ("a b".to_owned(), 1)].into(),
            on_oversized: 10,
            timestamps: 11,
            ..absurd_throttles()
        }),
        checkpoints: Some(v1::CheckpointOptions { enabled: None, interval: seconds(0) }),
        heartbeats: Some(v1::HeartbeatOptions { enabled: None, interval: seconds(-1) }),
        topic_creation: Some(v1::TopicCreation {
            replication_factor: -1,
            internal_replication_factor: 32_768,
        }),
        discovery_interval: seconds(86_401),
        ..Default::default()
    };
    assert_eq!(
        faults_of(&flow),
        [
            "flow.source",
            "flow.target",
            "flow.topics.include[1]",
            "flow.topics.include[2]",
            "flow.topics.exclude[0]",
            "flow.groups.include[0]",
            "flow.groups.exclude[1]",
            "flow.naming.prefix.separator",
            "flow.start.timestamp",
            "flow.records.isolation",
            "flow.records.on_loss",
            "flow.records.on_loss_by_topic[\"a\"]",
            "flow.records.on_loss_by_topic[\"a b\"]",
            "flow.records.on_oversized",
            "flow.records.timestamps",
            "flow.records.throttle.bytes_per_second",
            "flow.records.throttle.records_per_second",
            "flow.records.throttle_by_topic[\"a\"].bytes_per_second",
            "flow.records.throttle_by_topic[\"a b\"]",
            "flow.checkpoints.interval",
            "flow.heartbeats.interval",
            "flow.topic_creation.replication_factor",
            "flow.topic_creation.internal_replication_factor",
            "flow.discovery_interval",
        ]
    );
    let text = flow_spec(&flow).unwrap_err().to_string();
    let wanted = "`flow.topics.include[1]`: pattern \"or(ders\" does not compile: unclosed group";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn source_and_target_must_differ() {
    assert_eq!(faults_of(&v1::Flow { target: "clusters/uk".into(), ..minimal() }), ["flow.target"]);
    assert_eq!(faults_of(&v1::Flow::default()), ["flow.source", "flow.target"]);
}

#[test]
fn patterns_are_limited() {
    let include = |include: Vec<String>| {
        let topics = Some(v1::TopicSelection { include, exclude: vec![] });
        faults_of(&v1::Flow { topics, ..minimal() })
    };
    assert!(include(vec!["a".repeat(2048)]).is_empty());
    assert_eq!(include(vec!["a".repeat(2049)]), ["flow.topics.include[0]"]);
    assert_eq!(include(vec!["a".into(); 1001]), ["flow.topics.include"]);
    assert_eq!(include(vec!["\\pL{20}".into(); 40]), ["flow.topics.include"], "too large together");
    assert_eq!(include(vec!["(".into(); 1000]).len(), 100, "no more are looked at");
}

#[test]
fn usual_mistakes_in_patterns_get_a_hint() {
    let topics = |pattern: &str| {
        let topics = Some(v1::TopicSelection { include: vec![pattern.to_owned()], exclude: vec![] });
        flow_spec(&v1::Flow { topics, ..minimal() }).map(drop).map_err(|faults| faults.to_string())
    };
    for (pattern, hint) in [
        (
            "orders,payments",
            r#"holds a comma, which can't be in a topic name: give each topic a pattern of its own, ["orders", "payments"]"#,
        ),
        ("orders, payments", r#"["orders", "payments"]"#),
        ("o{1,2},p", r#"["o{1,2}", "p"]"#),
        ("(orders,payments)", "give each topic a pattern of its own"),
        ("o{1,2,3}", "holds a comma"),
        (" orders", r#"holds a blank, which can't be in a topic name: write "orders""#),
        ("orders\t", "holds a blank"),
        ("my orders", "holds a blank"),
        ("(?!test).*", "put what is not to be selected into the exclude list"),
        ("*", "everything is `.*`"),
        ("*.orders", "any text is `.*`"),
    ] {
        let fault = topics(pattern).unwrap_err();
        assert!(
            fault.starts_with("`flow.topics.include[0]`: ") && fault.contains(hint),
            "{pattern}: {fault}"
        );
    }
    for right in ["orders", "o{1,2}", "o{2,}", "o{3}", r"\p{L}{1,2}x{4}", "orders|payments"] {
        assert_eq!(topics(right), Ok(()), "{right}");
    }
    // Group ids may hold anything.
    let groups =
        Some(v1::GroupSelection { include: vec!["my group, the first".to_owned()], exclude: vec![] });
    assert!(faults_of(&v1::Flow { groups, ..minimal() }).is_empty());
}

#[test]
fn intervals_have_limits() {
    type Set = fn(&mut v1::Flow, Duration);
    let discovery: Set = |flow, duration| flow.discovery_interval = Some(duration);
    let checkpoints: Set = |flow, interval| {
        flow.checkpoints = Some(v1::CheckpointOptions { enabled: None, interval: Some(interval) });
    };
    let heartbeats: Set = |flow, interval| {
        flow.heartbeats = Some(v1::HeartbeatOptions { enabled: None, interval: Some(interval) });
    };
    for (field, set, min_ms, max_ms) in [
        ("flow.discovery_interval", discovery, 1_000, 86_400_000),
        ("flow.checkpoints.interval", checkpoints, 1_000, 315_576_000_000_000),
        ("flow.heartbeats.interval", heartbeats, 100, 315_576_000_000_000),
    ] {
        let faults = |seconds: i64, nanos: i32| {
            let mut flow = minimal();
            set(&mut flow, Duration { seconds, nanos });
            faults_of(&flow)
        };
        let at = |ms: i64| faults(ms / 1_000, i32::try_from(ms % 1_000).unwrap() * 1_000_000);
        assert!(at(min_ms).is_empty(), "{field}");
        assert_eq!(at(min_ms - 1), [field]);
        assert!(at(max_ms).is_empty(), "{field}");
        assert_eq!(at(max_ms + 1), [field]);
        for (seconds, nanos) in [(2, 1), (2, -1), (2, 1_000_000_000), (-2, 0), (i64::MAX, 0), (i64::MIN, 0)] {
            assert_eq!(faults(seconds, nanos), [field], "{seconds} s {nanos} ns");
        }
    }
}

#[test]
fn the_start_is_the_first_ms_at_or_after_the_time() {
    let start = |seconds, nanos| {
        let at = Some(v1::start::At::Timestamp(Timestamp { seconds, nanos }));
        flow_spec(&v1::Flow { start: Some(v1::Start { at }), ..minimal() })
    };
    let ms = |seconds, nanos| start(seconds, nanos).unwrap().start;
    assert_eq!(ms(0, 0), StartAt::Timestamp(0));
    assert_eq!(ms(1, 500_000_000), StartAt::Timestamp(1_500));
    assert_eq!(ms(1, 500_000_001), StartAt::Timestamp(1_501));
    assert_eq!(ms(1, 999_999_999), StartAt::Timestamp(2_000));
    for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (253_402_300_800, 0), (i64::MAX, 0)] {
        assert!(start(seconds, nanos).is_err(), "{seconds} {nanos}");
    }
}

#[test]
fn names_on_the_target_are_checked() {
    let naming =
        |policy| faults_of(&v1::Flow { naming: Some(v1::Naming { policy: Some(policy) }), ..minimal() });
    let separator = |separator: &str| {
        naming(v1::naming::Policy::Prefix(v1::PrefixNaming { separator: separator.into() }))
    };
    assert!(separator("_-.9a").is_empty());
    for wrong in ["/", " ", "ä", "a:b", &".".repeat(17)] {
        assert_eq!(separator(wrong), ["flow.naming.prefix.separator"], "{wrong}");
    }
    let rename = |pairs: &[(&str, &str)]| {
        let topics: BTreeMap<_, _> = pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        naming(v1::naming::Policy::Rename(v1::RenameNaming { topics }))
    };
    assert!(rename(&[("a", "b"), ("b", "a")]).is_empty());
    assert_eq!(rename(&[("a", "x"), ("b", "y"), ("c", "x")]), ["flow.naming.rename.topics[\"c\"]"]);
    assert_eq!(
        rename(&[("", "x"), ("a", ".."), ("b", "b c")]),
        ["\"\"", "\"a\"", "\"b\""].map(|key| format!("flow.naming.rename.topics[{key}]"))
    );
    let flow = v1::Flow {
        naming: Some(v1::Naming { policy: Some(v1::naming::Policy::Identity(v1::IdentityNaming {})) }),
        ..minimal()
    };
    assert_eq!(flow_spec(&flow).unwrap().naming, Naming::Identity);
}

#[test]
fn names_are_parsed() {
    assert_eq!(parse_name::<ClusterId>("clusters", "clusters/uk", "name").unwrap().as_str(), "uk");
    for wrong in [
        "",
        "uk",
        "clusters",
        "clusters/",
        "flows/uk",
        "clusters/a/b",
        "clusters//a",
        "/clusters/a",
        "clustersx",
    ] {
        let fault = parse_name::<ClusterId>("clusters", wrong, "name").unwrap_err();
        assert_eq!(fault.field, "name", "{wrong}");
    }
    let fault = parse_name::<FlowId>("flows", "", "name").unwrap_err();
    assert_eq!(fault.to_string(), "`name`: is empty: give a name like `flows/ID`");
    assert_eq!(parse_id::<FlowId>("a.b", "flow_id").unwrap_err().field, "flow_id");
    let name = flow_topic_name(&FlowId::new("f").unwrap(), &TopicName::new("a.b").unwrap());
    assert_eq!(name, "flows/f/topics/a.b");
}

#[test]
fn etags_guard_writes() {
    assert_eq!(expected_revision("", "etag"), Ok(None));
    assert_eq!(expected_revision("12", "etag"), Ok(Some(12)));
    for wrong in ["0", "012", "+12", "-1", "12 ", "x", "\"12\"", "18446744073709551616"] {
        assert_eq!(expected_revision(wrong, "flow.etag").unwrap_err().field, "flow.etag", "{wrong}");
    }
    let guard = write_guard("r", 7, "12", "etag").unwrap();
    assert_eq!((guard.request_id.as_str(), guard.fingerprint, guard.expected_revision), ("r", 7, Some(12)));
    assert!(write_guard(&"ä".repeat(64), 7, "", "etag").is_ok());
    let faults = write_guard(&"a".repeat(65), 7, "x", "etag").unwrap_err();
    assert_eq!(faults.fields().collect::<Vec<_>>(), ["request_id", "etag"]);
}

#[test]
fn faults_of_several_parts_are_one_answer() {
    let mut faults = Faults::new();
    let id = faults.keep(parse_id::<FlowId>("a b", "flow_id"));
    let spec = faults.keep(flow_spec(&v1::Flow::default()));
    assert!(id.is_none() && spec.is_none());
    let found = faults.finish_with(id.zip(spec)).unwrap_err();
    assert_eq!(found.fields().collect::<Vec<_>>(), ["flow_id", "flow.source", "flow.target"]);
    assert!(Faults::new().finish_with(None::<()>).is_err(), "no value is never a success");
}

#[test]
fn flows_are_shown_with_their_status() {
    let condition = v1::Condition { reason: "CLUSTER_UNREACHABLE".into(), ..Default::default() };
    let status = FlowStatus {
        state: v1::flow::State::Degraded,
        conditions: vec![condition.clone()],
        progress: Some(v1::Progress { partitions: 3, ..Default::default() }),
    };
    let flow = flow_to_api(&samples::flow(), &samples::flow_record(), status);
    assert_eq!(flow.name, "flows/uk-to-hq");
    assert_eq!((flow.source.as_str(), flow.target.as_str()), ("clusters/uk", "clusters/hq"));
    assert_eq!(flow.state(), v1::flow::State::Degraded);
    assert_eq!(flow.conditions, [condition]);
    assert_eq!(flow.generation, Some(v1::Generation { producer_id: Some(4_711), epoch: Some(3) }));
    assert_eq!(flow.progress.unwrap().partitions, 3);
    assert_eq!(flow.create_time, Some(Timestamp { seconds: 1_795_000_000, nanos: 123_000_000 }));
    assert_eq!(flow.etag, "11");
    assert_eq!(
        flow.start.unwrap().at,
        Some(v1::start::At::Timestamp(Timestamp { seconds: 1_700_000_000, nanos: 1_000_000 }))
    );
}

#[test]
fn workers_and_events_are_shown() {
    let id = WorkerId::new("w").unwrap();
    for (role, expected) in [
        (Role::Source, v1::worker::Role::Source),
        (Role::Checkpoint, v1::worker::Role::Checkpoint),
        (Role::Heartbeat, v1::worker::Role::Heartbeat),
    ] {
        let worker = worker_to_api(&id, &samples::worker_record(role), 7);
        assert_eq!((worker.name.as_str(), worker.role(), worker.units), ("workers/w", expected, 7));
        assert_eq!((worker.capacity, worker.draining, worker.version.as_str()), (500, true, "0.1.0"));
    }
    let event = Event {
        flow: samples::flow(),
        time_ms: 1_500,
        reason: "R".into(),
        message: "m".into(),
        subject: "s".into(),
        from_offset: Some(0),
        to_offset: None,
        count: Some(7),
        sequence: 3,
    };
    let shown = event_to_api(&event);
    assert_eq!(
        (shown.sequence, shown.from_offset, shown.to_offset, shown.count),
        (3, Some(0), None, Some(7))
    );
    assert_eq!(shown.time, Some(Timestamp { seconds: 1, nanos: 500_000_000 }));
}

#[test]
fn times_stay_in_range() {
    assert_eq!(timestamp(0), Timestamp { seconds: 0, nanos: 0 });
    assert_eq!(timestamp(u64::MAX), Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 });
}
