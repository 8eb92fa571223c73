//! Tests of `client`.

use std::sync::atomic::Ordering;

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId, CreateTopicsResponse, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse,
    ProducerId,
};

use super::*;
use crate::admin::{NewTopic, OffsetQuery, OffsetSpec};
use crate::config::ExpectedCluster;
use crate::wire::testing::{Received, Responder, Script};

const CLUSTER_ID: &str = "the-right-one";
const LONG: Duration = Duration::from_mins(1);

async fn responder() -> Responder {
    let versions = [
        (ApiKey::Metadata, 4, 12),
        (ApiKey::ListOffsets, 1, 7),
        (ApiKey::InitProducerId, 0, 4),
        (ApiKey::CreateTopics, 2, 7),
    ];
    Responder::start(Script::knowing(&versions)).await
}

fn client(responder: &Responder) -> Client {
    let mut config = ClientConfig::new([responder.address.as_str()], "test");
    config.limits =
        Limits { request_timeout: LONG, connect_timeout: LONG, admin_timeout: LONG, ..Limits::default() };
    Client::new(config).unwrap()
}

/// As [`client`], for a cluster with this id.
fn client_of(responder: &Responder, cluster_id: &str) -> Client {
    let mut config = client(responder).config().clone();
    config.expected =
        Some(ExpectedCluster { kafka_cluster_id: cluster_id.into(), name: "clusters/uk".into() });
    Client::new(config).unwrap()
}

/// Metadata of one broker, which is the responder, that leads partition 0 of every topic asked for.
async fn describe(request: &Received, responder: &Responder, leader_epoch: i32) -> Vec<String> {
    let asked: MetadataRequest = request.decode();
    assert!(!asked.allow_auto_topic_creation);
    let names: Vec<String> = asked
        .topics
        .unwrap_or_default()
        .iter()
        .map(|topic| topic.name.as_ref().unwrap().to_string())
        .collect();
    let (host, port) = responder.address.rsplit_once(':').unwrap();
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(1))
        .with_host(StrBytes::from_string(host.to_owned()))
        .with_port(port.parse().unwrap());
    let topics = names.iter().map(|name| {
        let partition =
            MetadataResponsePartition::default().with_leader_id(BrokerId(1)).with_leader_epoch(leader_epoch);
        MetadataResponseTopic::default().with_name(Some(topic_name(name))).with_partitions(vec![partition])
    });
    let response = MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(StrBytes::from_static_str(CLUSTER_ID)))
        .with_controller_id(BrokerId(1))
        .with_topics(topics.collect());
    request.answer(&response).await;
    names
}

#[tokio::test]
async fn a_leader_is_asked_for_once_and_again_when_it_is_out_of_date() {
    let mut responder = responder().await;
    let client = client(&responder);
    let (leader, _) = tokio::join!(client.leader("t", 0), async {
        let request = responder.next().await;
        describe(&request, &responder, 3).await
    });
    assert_eq!((leader.as_ref().unwrap().node_id, leader.unwrap().leader_epoch), (1, 3));
    // No answer is given now: it must come from the cache.
    assert_eq!(client.leader("t", 0).await.unwrap().leader_epoch, 3);
    assert!(responder.is_idle());
    client.invalidate("t", 0);
    let (leader, _) = tokio::join!(client.leader("t", 0), async {
        let request = responder.next().await;
        describe(&request, &responder, 4).await
    });
    assert_eq!(leader.unwrap().leader_epoch, 4);
    let (missing, _) = tokio::join!(client.leader("t", 9), async {
        let request = responder.next().await;
        describe(&request, &responder, 4).await
    });
    let missing = missing.unwrap_err();
    assert!(matches!(missing, Error::NoLeader { partition: 9, .. }), "{missing}");
}

#[tokio::test]
async fn many_who_ask_share_requests() {
    let mut responder = responder().await;
    let client = client(&responder);
    let names: Vec<String> = (0..50).map(|i| format!("t{i}")).collect();
    let asking = futures::future::join_all(names.iter().map(|name| client.leader(name, 0)));
    let answering = async {
        let mut asked = Vec::new();
        while asked.len() < 50 {
            let request = responder.next().await;
            asked.push(describe(&request, &responder, 1).await.len());
            if asked.iter().sum::<usize>() >= 50 {
                break;
            }
        }
        asked
    };
    let (leaders, asked) = tokio::join!(asking, answering);
    assert!(leaders.iter().all(Result::is_ok));
    assert!(asked.len() <= 2, "the first may go alone, the second has all others: {asked:?}");
}

#[tokio::test]
async fn one_connection_per_broker_and_lane() {
    let mut responder = responder().await;
    let client = client(&responder);
    tokio::join!(async { client.cluster().await.unwrap() }, async {
        let request = responder.next().await;
        describe(&request, &responder, 1).await
    });
    let before = responder.accepted.load(Ordering::SeqCst);
    let connections =
        futures::future::join_all((0..20).map(|i| client.connection(1, ConnectionRole::Produce(i % 2))))
            .await;
    assert!(connections.iter().all(Result::is_ok));
    assert_eq!(responder.accepted.load(Ordering::SeqCst) - before, 2, "two lanes");
    connections[0].as_ref().unwrap().close();
    let again = client.connection(1, ConnectionRole::Produce(0)).await.unwrap();
    assert!(!again.is_closed());
    assert_eq!(responder.accepted.load(Ordering::SeqCst) - before, 3);
}

#[tokio::test]
async fn a_probe_tells_a_silent_broker_from_one_that_works() {
    let mut responder = responder().await;
    let client = client(&responder);
    tokio::join!(async { client.cluster().await.unwrap() }, async {
        let request = responder.next().await;
        describe(&request, &responder, 1).await
    });
    let (probed, _) = tokio::join!(client.probe(1, LONG), async {
        let request = responder.next().await;
        describe(&request, &responder, 1).await
    });
    probed.unwrap();
    let silent = client.probe(1, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(silent, Error::Timeout { .. }), "{silent}");
}

#[tokio::test]
async fn each_new_connection_asks_for_the_cluster_id_first() {
    let mut responder = responder().await;
    let client = client_of(&responder, CLUSTER_ID);
    let serving = async {
        // The check of the connection to the bootstrap server, then what was asked for.
        for _ in 0..2 {
            assert!(describe(&responder.next().await, &responder, 1).await.is_empty());
        }
        let check = responder.next().await;
        assert!(describe(&check, &responder, 1).await.is_empty(), "no topic is asked about");
    };
    let asking = async {
        client.cluster().await.unwrap();
        client.connection(1, ConnectionRole::Produce(0)).await.unwrap();
        // The same connection is not checked again.
        client.connection(1, ConnectionRole::Produce(0)).await.unwrap();
    };
    tokio::join!(asking, serving);
    assert!(responder.is_idle());
}

#[tokio::test]
async fn another_cluster_gets_nothing_but_the_question() {
    let mut responder = responder().await;
    let client = client_of(&responder, "another");
    let topic = NewTopic { name: "t".into(), partitions: 1, replication_factor: -1, configs: [].into() };
    let serving = async {
        let check = responder.next().await;
        assert!(describe(&check, &responder, 1).await.is_empty());
    };
    let (created, ()) = tokio::join!(client.create_topics(vec![topic]), serving);
    let error = created.unwrap_err();
    let Some(Error::ClusterChanged { expected, found, cluster, .. }) = error.changed_cluster() else {
        panic!("{error}");
    };
    assert_eq!((&**expected, &**found, &**cluster), ("another", CLUSTER_ID, "clusters/uk"));
    assert!(responder.is_idle(), "nothing is created there");
}

#[tokio::test]
async fn client_goes_on_when_the_right_cluster_is_back() {
    let mut responder = responder().await;
    let client = client_of(&responder, CLUSTER_ID);
    let serving = async {
        // Another cluster answers first.
        let check = responder.next().await;
        check
            .answer(&MetadataResponse::default().with_cluster_id(Some(StrBytes::from_static_str("x"))))
            .await;
        for _ in 0..2 {
            describe(&responder.next().await, &responder, 1).await;
        }
    };
    let asking = async {
        let error = client.cluster().await.unwrap_err();
        assert!(error.changed_cluster().is_some(), "{error}");
        assert_eq!(client.cluster_id().await.unwrap().as_deref(), Some(CLUSTER_ID));
    };
    tokio::join!(asking, serving);
}

#[tokio::test]
async fn an_unreachable_cluster_is_named() {
    let mut unused = Vec::new();
    for _ in 0..2 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        unused.push(listener.local_addr().unwrap().to_string());
    }
    let mut config = ClientConfig::new(unused.clone(), "test");
    config.limits.admin_timeout = Duration::from_millis(200);
    let client = Client::new(config).unwrap();
    let error = client.cluster().await.unwrap_err();
    assert_eq!(error.class(), Class::Retriable);
    for address in &unused {
        assert!(error.to_string().contains(address), "{error}");
    }
    let error = client.init_producer_id().await.unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    let error = client.leader("t", 0).await.unwrap_err();
    assert!(matches!(error, Error::NoBroker { .. }), "{error}");
}

#[tokio::test]
async fn a_producer_id_is_waited_for_while_the_cluster_loads() {
    let mut responder = responder().await;
    let client = client(&responder);
    let answering = async {
        for code in [14, 15, 0] {
            let response = InitProducerIdResponse::default()
                .with_error_code(code)
                .with_producer_id(ProducerId(if code == 0 { 77 } else { -1 }));
            responder.next().await.answer(&response).await;
        }
    };
    let (identity, ()) = tokio::join!(client.init_producer_id(), answering);
    assert_eq!(identity.unwrap().producer_id, 77);
}

#[tokio::test]
async fn a_refusal_that_time_does_not_cure_is_not_repeated() {
    let mut responder = responder().await;
    let client = client(&responder);
    let answering = async {
        responder.next().await.answer(&InitProducerIdResponse::default().with_error_code(31)).await;
    };
    let (identity, ()) = tokio::join!(client.init_producer_id(), answering);
    let error = identity.unwrap_err();
    assert_eq!(
        (error.code(), error.class()),
        (Some(ErrorCode::CLUSTER_AUTHORIZATION_FAILED), Class::Rejected)
    );
}

#[tokio::test]
async fn creating_topics_is_not_repeated_after_an_unknown_outcome() {
    let mut responder = responder().await;
    let client = client(&responder);
    let topic = NewTopic { name: "t".into(), partitions: 1, replication_factor: -1, configs: [].into() };
    let answering = async {
        let request = responder.next().await;
        describe(&request, &responder, 1).await;
        let creating = responder.next().await;
        assert_eq!(creating.header.request_api_key, ApiKey::CreateTopics as i16);
        creating.disconnect().await;
    };
    let (created, ()) = tokio::join!(client.create_topics(vec![topic.clone()]), answering);
    let error = created.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert!(responder.is_idle());
    // A controller that moved has done nothing: that is repeated.
    let answering = async {
        for code in [41, 36] {
            let request = responder.next().await;
            describe(&request, &responder, 1).await;
            let result = kafka_protocol::messages::create_topics_response::CreatableTopicResult::default()
                .with_name(topic_name("t"))
                .with_error_code(code);
            responder.next().await.answer(&CreateTopicsResponse::default().with_topics(vec![result])).await;
        }
    };
    let (created, ()) = tokio::join!(client.create_topics(vec![topic]), answering);
    assert_eq!(created.unwrap()[0].error, ErrorCode::TOPIC_ALREADY_EXISTS);
}

#[tokio::test]
async fn offsets_come_in_the_order_of_the_questions_and_a_moved_leader_is_looked_up_once() {
    use kafka_protocol::messages::list_offsets_response::{
        ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
    };
    let mut responder = responder().await;
    let client = client(&responder);
    let query = |topic: &str, partition| OffsetQuery {
        topic: topic.into(),
        partition,
        spec: OffsetSpec::Latest,
        leader_epoch: -1,
    };
    let queries = [query("b", 0), query("a", 0), query("a", 5)];
    let answering = async {
        for (round, code) in [(0, 6), (1, 0)] {
            let request = responder.next().await;
            let names = describe(&request, &responder, round).await;
            assert_eq!(names, ["a", "b"], "one request for all topics");
            let request = responder.next().await;
            let asked: ListOffsetsRequest = request.decode();
            let topics = asked.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    assert_eq!((partition.partition_index, partition.timestamp), (0, -1));
                    let offset = if topic.name.as_str() == "a" { 10 } else { 20 };
                    ListOffsetsPartitionResponse::default().with_error_code(code).with_offset(offset)
                });
                ListOffsetsTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            });
            request.answer(&ListOffsetsResponse::default().with_topics(topics.collect())).await;
        }
    };
    let (listed, ()) = tokio::join!(client.list_offsets(&queries, false), answering);
    let listed: Vec<_> =
        listed.unwrap().into_iter().map(|l| (l.topic.to_string(), l.error, l.offset)).collect();
    assert_eq!(
        listed,
        [
            ("b".to_owned(), ErrorCode::NONE, 20),
            ("a".to_owned(), ErrorCode::NONE, 10),
            ("a".to_owned(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, -1),
        ]
    );
}
