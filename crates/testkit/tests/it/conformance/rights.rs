//! What a client needs a right for. Real brokers only: the fake has no authorizer.
//!
//! All clients are anonymous here, the brokers among each other too: who may do what goes by the host that it comes from.

use std::net::Ipv4Addr;

use kafka_protocol::messages::CreateAclsRequest;
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::protocol::StrBytes;

use super::ops::*;
use super::target::Target;
use super::wire::Wire;

// Numbers of `AclOperation` and `AclPermissionType`.
const ALL: i8 = 2;
const ALTER: i8 = 7;
const CLUSTER_ACTION: i8 = 9;
const DENY: i8 = 2;
const ALLOW: i8 = 3;

/// May do neither of the two.
const NEITHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Has Alter, and no `ClusterAction`.
const ALTERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

mod a_marker_takes_alter_on_the_cluster {
    use crate::conformance::target::Target;
    use mirrormesh_testkit::jars::KafkaVersion::{V3_9, V4_3};

    #[tokio::test]
    async fn kafka_4_3() {
        super::a_marker_takes_alter_on_the_cluster(Target::guarded(V4_3).await).await;
    }

    #[tokio::test]
    async fn kafka_3_9() {
        super::a_marker_takes_alter_on_the_cluster(Target::guarded(V3_9).await).await;
    }
}

/// A rule on the cluster, for everybody who comes from this host.
fn rule(host: &str, operation: i8, permission: i8) -> AclCreation {
    // The cluster; its name, literally.
    AclCreation::default()
        .with_resource_type(4)
        .with_resource_name(StrBytes::from_static_str("kafka-cluster"))
        .with_resource_pattern_type(3)
        .with_principal(StrBytes::from_static_str("User:*"))
        .with_host(StrBytes::from_string(host.to_owned()))
        .with_operation(operation)
        .with_permission_type(permission)
}

async fn a_marker_takes_alter_on_the_cluster(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let address = target.address(1);
    let rules = vec![
        rule("*", ALL, ALLOW),
        rule(&NEITHER.to_string(), ALTER, DENY),
        rule(&NEITHER.to_string(), CLUSTER_ACTION, DENY),
        rule(&ALTERS.to_string(), CLUSTER_ACTION, DENY),
    ];
    let created = wire.call(2, &CreateAclsRequest::default().with_creations(rules)).await;
    assert!(created.results.iter().all(|rule| rule.error_code == 0), "{created:?}");

    let neither = || async { Wire::connect_from(NEITHER, &address).await.unwrap() };
    poll("the rules are known", || async {
        let code = mark(&mut neither().await, &topic, (id, 0), false, 0).await;
        (code == 31).then_some(())
    })
    .await;
    let before = end(&mut wire, &topic).await;
    let mut refused = neither().await;
    assert_eq!(mark(&mut refused, &topic, (id, 0), false, 0).await, 31);
    assert_eq!(end(&mut wire, &topic).await, before, "nothing was written");
    // It may append, and the connection stands: nothing but the marker is refused.
    assert_eq!(append(&mut refused, &topic, &batch_of(id, 0, 0, 1)).await, Ok(before));
    let mut alters = Wire::connect_from(ALTERS, &address).await.unwrap();
    assert_eq!(mark(&mut alters, &topic, (id, 0), false, 0).await, 0);
    assert_eq!(end(&mut wire, &topic).await, before + 2);
}
