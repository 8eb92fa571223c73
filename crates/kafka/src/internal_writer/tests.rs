//! Tests of `internal_writer`.

use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, BrokerId, InitProducerIdResponse, MetadataResponse, ProduceRequest as WireRequest,
    ProduceResponse as WireResponse, ProducerId,
};
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::batch::decode_records;
use crate::client::topic_name;
use crate::config::{ClientConfig, Limits};
use crate::wire::testing::{Received, Responder, Script};

const TOPIC: &str = "positions";

async fn responder() -> (Responder, InternalWriter) {
    let versions = [(ApiKey::Metadata, 4, 12), (ApiKey::InitProducerId, 0, 4), (ApiKey::Produce, 3, 8)];
    let responder = Responder::start(Script::knowing(&versions)).await;
    let mut config = ClientConfig::new([responder.address.as_str()], "test");
    let long = Duration::from_mins(1);
    config.limits =
        Limits { request_timeout: long, connect_timeout: long, admin_timeout: long, ..Limits::default() };
    (responder, InternalWriter::new(Client::new(config).unwrap()))
}

fn new(key: &str) -> NewRecord {
    NewRecord { key: key.into(), value: Some(b"value".to_vec()), timestamp_ms: 1_000 }
}

/// What a batch says of its producer, and its keys.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    producer_id: i64,
    epoch: i16,
    sequence: i32,
    keys: Vec<String>,
}

fn batch(producer_id: i64, epoch: i16, sequence: i32, keys: &[&str]) -> Batch {
    Batch { producer_id, epoch, sequence, keys: keys.iter().map(|&key| key.to_owned()).collect() }
}

/// Answers everything but appends until one comes.
async fn next_append(responder: &mut Responder) -> (Received, Batch) {
    loop {
        let request = responder.next().await;
        if request.header.request_api_key == ApiKey::InitProducerId as i16 {
            let response = InitProducerIdResponse::default().with_producer_id(ProducerId(77));
            request.answer(&response).await;
        } else if request.header.request_api_key == ApiKey::Metadata as i16 {
            describe(&request, &responder.address).await;
        } else {
            let asked: WireRequest = request.decode();
            assert_eq!(asked.acks, -1);
            let bytes = asked.topic_data[0].partition_data[0].records.clone().unwrap();
            let keys = decode_records(&bytes, 1 << 20).unwrap();
            let keys = keys.iter().map(|r| String::from_utf8(r.key.clone().unwrap().to_vec()).unwrap());
            let found = Batch {
                producer_id: i64::from_be_bytes(bytes[43..51].try_into().unwrap()),
                epoch: i16::from_be_bytes(bytes[51..53].try_into().unwrap()),
                sequence: i32::from_be_bytes(bytes[53..57].try_into().unwrap()),
                keys: keys.collect(),
            };
            return (request, found);
        }
    }
}

async fn describe(request: &Received, address: &str) {
    let (host, port) = address.rsplit_once(':').unwrap();
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(1))
        .with_host(StrBytes::from_string(host.to_owned()))
        .with_port(port.parse().unwrap());
    let partition = MetadataResponsePartition::default().with_leader_id(BrokerId(1));
    let topic =
        MetadataResponseTopic::default().with_name(Some(topic_name(TOPIC))).with_partitions(vec![partition]);
    let response = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
    request.answer(&response).await;
}

async fn answer(request: &Received, code: i16, base_offset: i64) {
    let partition = PartitionProduceResponse::default().with_error_code(code).with_base_offset(base_offset);
    let topic = TopicProduceResponse::default()
        .with_name(topic_name(TOPIC))
        .with_partition_responses(vec![partition]);
    request.answer(&WireResponse::default().with_responses(vec![topic])).await;
}

#[tokio::test]
async fn writes_that_wait_share_a_request() {
    let (mut responder, writer) = responder().await;
    let a = tokio::spawn({
        let writer = writer.clone();
        async move { writer.send(TOPIC, new("a")).await }
    });
    let (first, found) = next_append(&mut responder).await;
    assert_eq!(found, batch(77, 0, 0, &["a"]));
    let serving = async {
        // The others come while the first one is in flight.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(responder.is_idle(), "one request at a time");
        answer(&first, 0, 40).await;
        let (second, found) = next_append(&mut responder).await;
        assert_eq!(found, batch(77, 0, 1, &["b", "c", "d"]));
        answer(&second, 0, 41).await;
    };
    let (b, cd, ()) =
        tokio::join!(writer.send(TOPIC, new("b")), writer.write(TOPIC, vec![new("c"), new("d")]), serving);
    assert_eq!((a.await.unwrap().unwrap(), b.unwrap()), (40, 41));
    cd.unwrap();
}

#[tokio::test]
async fn lost_answer_repeats_under_the_same_sequence() {
    let (mut responder, writer) = responder().await;
    let serving = async {
        let (lost, found) = next_append(&mut responder).await;
        assert_eq!(found, batch(77, 0, 0, &["a"]));
        lost.disconnect().await;
        let (again, found) = next_append(&mut responder).await;
        assert_eq!(found, batch(77, 0, 0, &["a"]));
        // The first time had its effect.
        answer(&again, ErrorCode::DUPLICATE_SEQUENCE_NUMBER.0, -1).await;
        let (next, found) = next_append(&mut responder).await;
        assert_eq!(found, batch(77, 0, 1, &["b"]));
        answer(&next, 0, 8).await;
    };
    let writing = async {
        assert_eq!(writer.send(TOPIC, new("a")).await.unwrap(), -1);
        assert_eq!(writer.send(TOPIC, new("b")).await.unwrap(), 8);
    };
    tokio::join!(writing, serving);
}

/// What is in flight when a write is given up must not land behind what is written later.
#[tokio::test]
async fn given_up_write_is_fenced() {
    let (mut responder, writer) = responder().await;
    let first = tokio::spawn({
        let writer = writer.clone();
        async move { writer.send(TOPIC, new("a")).await }
    });
    let (lost, _) = next_append(&mut responder).await;
    first.abort();
    assert!(first.await.is_err());
    lost.disconnect().await;
    let serving = async {
        let (next, found) = next_append(&mut responder).await;
        assert_eq!(found, batch(77, 1, 0, &["b"]), "the next epoch");
        answer(&next, 0, 3).await;
    };
    let (sent, ()) = tokio::join!(writer.send(TOPIC, new("b")), serving);
    assert_eq!(sent.unwrap(), 3);
}

#[tokio::test]
async fn refusal_is_not_repeated_and_names_the_topic() {
    let (mut responder, writer) = responder().await;
    let serving = async {
        let (request, _) = next_append(&mut responder).await;
        answer(&request, ErrorCode::TOPIC_AUTHORIZATION_FAILED.0, -1).await;
    };
    let (sent, ()) = tokio::join!(writer.send(TOPIC, new("a")), serving);
    let error = sent.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
    assert!(error.to_string().contains(TOPIC), "{error}");
    assert!(responder.is_idle());
}

#[tokio::test]
async fn broker_that_lost_the_producer_gets_the_next_epoch() {
    let (mut responder, writer) = responder().await;
    let serving = async {
        let (request, _) = next_append(&mut responder).await;
        answer(&request, 0, 0).await;
        let (request, found) = next_append(&mut responder).await;
        assert_eq!(found, batch(77, 0, 1, &["b"]));
        answer(&request, ErrorCode::UNKNOWN_PRODUCER_ID.0, -1).await;
        let (request, found) = next_append(&mut responder).await;
        assert_eq!(found, batch(77, 1, 0, &["b"]));
        answer(&request, 0, 1).await;
    };
    let writing = async {
        assert_eq!(writer.send(TOPIC, new("a")).await.unwrap(), 0);
        assert_eq!(writer.send(TOPIC, new("b")).await.unwrap(), 1);
    };
    tokio::join!(writing, serving);
}

#[test]
fn sequences_begin_again_behind_the_largest() {
    assert_eq!(following(5, 3), 8);
    assert_eq!(following(i32::MAX, 1), 0);
    assert_eq!(following(i32::MAX - 1, 3), 1);
}
