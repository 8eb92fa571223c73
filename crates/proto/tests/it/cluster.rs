//! Clusters: addresses, properties, secrets, masks.

use std::collections::BTreeMap;

use mirrormesh_core::control::ClusterRecord;
use mirrormesh_core::unit::ClusterSpec;
use mirrormesh_proto::convert::api::{
    apply_cluster_mask, cluster_spec, cluster_to_api, is_reference, is_secret,
};
use mirrormesh_proto::{Faults, v1};
use prost_types::FieldMask;

use crate::samples;

fn faults_of(cluster: &v1::Cluster) -> Vec<(String, String)> {
    let mut faults = Faults::new();
    let spec = cluster_spec(cluster, &mut faults);
    assert_eq!(spec.is_none(), !faults.is_empty());
    match faults.finish() {
        Ok(()) => vec![],
        Err(found) => found.into_iter().map(|fault| (fault.field, fault.problem)).collect(),
    }
}

fn fields_of(cluster: &v1::Cluster) -> Vec<String> {
    faults_of(cluster).into_iter().map(|(field, _)| field).collect()
}

fn with_servers(servers: &[&str]) -> v1::Cluster {
    v1::Cluster { bootstrap_servers: servers.iter().map(|&s| s.to_owned()).collect(), ..Default::default() }
}

fn with_property(name: &str, value: &str) -> v1::Cluster {
    let properties = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    v1::Cluster { properties, ..with_servers(&["a:1"]) }
}

#[test]
fn what_is_shown_can_be_sent_back() {
    let record =
        ClusterRecord { spec: samples::cluster_spec(), created_ms: 1_000, updated_ms: 2_500, revision: 42 };
    let shown = cluster_to_api(&samples::cluster("uk"), &record);
    assert_eq!((shown.name.as_str(), shown.etag.as_str()), ("clusters/uk", "42"));
    assert_eq!(shown.create_time, Some(prost_types::Timestamp { seconds: 1, nanos: 0 }));
    assert_eq!(shown.update_time, Some(prost_types::Timestamp { seconds: 2, nanos: 500_000_000 }));
    assert_eq!(Some(&shown.kafka_cluster_id), record.spec.kafka_cluster_id.as_ref());
    let sent_back = cluster_spec(&shown, &mut Faults::new()).unwrap();
    assert_eq!(
        ClusterSpec { kafka_cluster_id: record.spec.kafka_cluster_id.clone(), ..sent_back },
        record.spec
    );
}

#[test]
fn addresses_are_checked() {
    let right = ["a:1", "a.example:65535", "10.0.0.1:9092", "[::1]:9092", "[2001:db8::1]:9092", "a_b-c:1"];
    assert!(fields_of(&with_servers(&right)).is_empty());
    let wrong = [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:-1",
        "a:+1",
        "a:x",
        "::1:9092",
        "[::1]",
        "[x]:1",
        "[]:1",
        "a b:1",
        "PLAINTEXT://a:1",
        "a:1,b:2",
        "a/b:1",
        "ä:1",
    ];
    let expected: Vec<_> = (0..wrong.len()).map(|i| format!("cluster.bootstrap_servers[{i}]")).collect();
    assert_eq!(fields_of(&with_servers(&wrong)), expected, "every wrong one is named");
    assert_eq!(fields_of(&with_servers(&[])), ["cluster.bootstrap_servers"]);
    assert_eq!(fields_of(&with_servers(&["a:1"; 101])), ["cluster.bootstrap_servers"]);
    assert_eq!(
        fields_of(&with_servers(&[&format!("{}:1", "a".repeat(254))])),
        ["cluster.bootstrap_servers[0]"]
    );
}

#[test]
fn secrets_are_taken_by_reference_only() {
    for name in [
        "sasl.jaas.config",
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.truststore.password",
        "SSL.Keystore.Password",
        "ssl.keystore.key",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.config",
        "basic.auth.user.info",
        "password",
        "consumer.sasl.jaas.config",
    ] {
        assert!(is_secret(name), "{name}");
        let canary = "hunter2-canary";
        let found = faults_of(&with_property(name, canary));
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found[0].0, format!("cluster.properties[{name:?}]"));
        assert!(found[0].1.contains("${env:NAME}") && found[0].1.contains("${file:/path:key}"));
        assert!(!found[0].1.contains(canary), "a message must not repeat a secret");
        assert!(fields_of(&with_property(name, "${env:UK_PASSWORD}")).is_empty(), "{name}");
        let beside = format!("username=\"${{env:USER}}\" password=\"{canary}\"");
        assert_eq!(fields_of(&with_property(name, &beside)).len(), 1, "{name}: a reference beside a secret");
    }
    for name in [
        "security.protocol",
        "sasl.mechanism",
        "sasl.username",
        "ssl.keystore.location",
        "ssl.keystore.certificate.chain",
        "ssl.key.location",
        "sasl.oauthbearer.token.endpoint.url",
        "client.id",
    ] {
        assert!(!is_secret(name), "{name}");
        assert!(fields_of(&with_property(name, "x")).is_empty());
    }
}

#[test]
fn references_are_whole_values() {
    for reference in ["${env:A}", "${env:_a9}", "${file:/run/secrets/uk:password}", "${file:/a:b:key}"] {
        assert!(is_reference(reference), "{reference}");
    }
    for other in [
        "",
        "secret",
        "${env:}",
        "${env:9A}",
        "${env:A B}",
        "${env:A",
        "env:A",
        "x${env:A}",
        "${env:A}x",
        "${env:A}${env:B}",
        "${file:/path}",
        "${file:path:key}",
        "${file:/path:}",
        "${file:/:key}",
        "${dir:/a:b}",
        "${file:/a\n:key}",
        "password=\"${env:A}\";",
    ] {
        assert!(!is_reference(other), "{other}");
    }
}

#[test]
fn property_names_and_sizes_are_checked() {
    let field = |name: &str, value: &str| fields_of(&with_property(name, value));
    assert_eq!(field("", "x"), ["cluster.properties[\"\"]"]);
    assert_eq!(field("a b", "x"), ["cluster.properties[\"a b\"]"]);
    assert_eq!(field("bootstrap.servers", "a:1"), ["cluster.properties[\"bootstrap.servers\"]"]);
    assert_eq!(field("client.id", &"x".repeat(32 * 1024 + 1)), ["cluster.properties[\"client.id\"]"]);
    assert_eq!(field(&"n".repeat(257), "x").len(), 1);
    let many = (0..201).map(|i| (format!("p{i}"), String::new())).collect();
    assert_eq!(
        fields_of(&v1::Cluster { properties: many, ..with_servers(&["a:1"]) }),
        ["cluster.properties"]
    );
    let both = v1::Cluster { bootstrap_servers: vec![], ..with_property("sasl.password", "x") };
    assert_eq!(fields_of(&both), ["cluster.bootstrap_servers", "cluster.properties[\"sasl.password\"]"]);
}

#[test]
fn masks_change_what_they_name() {
    let present = samples::cluster_spec();
    let update = with_property("client.id", "new");
    let apply = |paths: &[&str]| {
        let mask = FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() };
        apply_cluster_mask(&present, &update, Some(&mask))
    };
    let changed = apply(&["properties"]).unwrap();
    assert_eq!(changed.properties, update.properties);
    assert_eq!(changed.bootstrap_servers, present.bootstrap_servers);
    let changed = apply(&["bootstrap_servers"]).unwrap();
    assert_eq!(changed.properties, present.properties);
    assert_eq!(changed.bootstrap_servers, update.bootstrap_servers);
    for all in [apply(&[]), apply(&["*"]), apply_cluster_mask(&present, &update, None)] {
        let all = all.unwrap();
        assert_eq!(
            (all.bootstrap_servers, all.properties),
            (update.bootstrap_servers.clone(), update.properties.clone())
        );
    }
    // Without a mask the fields that the update leaves empty stay.
    let servers = v1::Cluster { properties: BTreeMap::new(), ..update.clone() };
    let changed = apply_cluster_mask(&present, &servers, None).unwrap();
    assert_eq!(
        (changed.bootstrap_servers, changed.properties),
        (servers.bootstrap_servers, present.properties.clone())
    );
    assert_eq!(apply(&["name", "etag"]), Ok(present.clone()));
    assert_eq!(apply(&["bootstrapServers"]), apply(&["bootstrap_servers"]));
    for path in ["create_time", "updateTime"] {
        let faults = apply(&[path]).unwrap_err().to_string();
        assert!(faults.contains(&format!("{path:?} is output only")), "{faults}");
    }
    let faults = apply(&["properties", "nonsense", "bootstrap.servers"]).unwrap_err();
    assert_eq!(faults.fields().collect::<Vec<_>>(), ["update_mask", "update_mask"]);
    assert!(faults.to_string().contains("\"nonsense\""), "{faults}");
}

#[test]
fn only_a_mask_that_names_it_accepts_another_cluster_id() {
    let present = samples::cluster_spec();
    let update = v1::Cluster { kafka_cluster_id: "another".into(), ..with_servers(&["b:1"]) };
    let apply = |update: &v1::Cluster, paths: &[&str]| {
        let mask = FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() };
        apply_cluster_mask(&present, update, Some(&mask))
    };
    // Who sends back what he has read must not accept an id by accident.
    for paths in [&["*"][..], &["bootstrap_servers"], &[]] {
        let changed = apply(&update, paths).unwrap();
        assert_eq!(changed.kafka_cluster_id, present.kafka_cluster_id, "{paths:?}");
        assert_eq!(changed.bootstrap_servers, ["b:1"]);
    }
    for path in ["kafka_cluster_id", "kafkaClusterId"] {
        let changed = apply(&update, &[path]).unwrap();
        assert_eq!(changed.kafka_cluster_id.as_deref(), Some("another"));
        assert_eq!(changed.bootstrap_servers, present.bootstrap_servers);
    }
    let forgotten = apply(&v1::Cluster::default(), &["kafka_cluster_id"]).unwrap();
    assert_eq!(forgotten.kafka_cluster_id, None, "the next contact tells it");
    let wrong = v1::Cluster { kafka_cluster_id: "a b".into(), ..v1::Cluster::default() };
    let faults = apply(&wrong, &["kafka_cluster_id"]).unwrap_err();
    assert_eq!(faults.fields().collect::<Vec<_>>(), ["cluster.kafka_cluster_id"]);
    assert_eq!(fields_of(&update), Vec::<String>::new());
    let created = cluster_spec(&update, &mut Faults::new()).unwrap();
    assert_eq!(created.kafka_cluster_id, None, "a worker reports it");
}
