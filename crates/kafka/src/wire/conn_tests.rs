//! Tests of connections: opening, requests, answers, the end.

use std::time::Duration;

use kafka_protocol::messages::fetch_response::FetchableTopicResponse;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ApiKey, FetchResponse, ProduceResponse};

use super::*;
use crate::client::topic_name;
use crate::config::Limits;
use crate::error::Class;
use crate::wire::NO_TOPIC_ID;
use crate::wire::fetch::FetchRequest;
use crate::wire::produce::{ProduceEntry, ProduceRequest};
use crate::wire::testing::{Received, Responder, Script};

const LONG: Duration = Duration::from_mins(1);
const VERSION: i16 = 9;

fn limits() -> Limits {
    // Only the tests about time shall see a timeout, however slow the machine is.
    Limits { request_timeout: LONG, connect_timeout: LONG, ..Limits::default() }
}

fn script() -> Script {
    Script::knowing(&[(ApiKey::Produce, 3, VERSION), (ApiKey::Fetch, 4, 12)])
}

async fn pair(limits: Limits) -> (Responder, Connection) {
    let responder = Responder::start(script()).await;
    let connection = Connection::connect(&responder.address, "test", limits).await.unwrap();
    (responder, connection)
}

fn produce(partition: i32) -> ProduceRequest {
    let records = Bytes::from(vec![0xab; 40]).into();
    let entry = ProduceEntry { topic: "t".into(), topic_id: NO_TOPIC_ID, partition, records };
    ProduceRequest { timeout: Duration::from_secs(1), entries: vec![entry] }
}

fn fetch(max_wait: Duration) -> FetchRequest {
    FetchRequest { max_wait, min_bytes: 1, max_bytes: 1, read_committed: false, partitions: vec![] }
}

async fn ack(request: &Received, base_offset: i64) {
    ack_throttled(request, base_offset, 0).await;
}

async fn ack_throttled(request: &Received, base_offset: i64, throttle_ms: i32) {
    let asked: kafka_protocol::messages::ProduceRequest = request.decode();
    let partition = asked.topic_data[0].partition_data[0].index;
    let answer = PartitionProduceResponse::default().with_index(partition).with_base_offset(base_offset);
    let topic =
        TopicProduceResponse::default().with_name(topic_name("t")).with_partition_responses(vec![answer]);
    let response = ProduceResponse::default().with_responses(vec![topic]);
    request.answer(&response.with_throttle_time_ms(throttle_ms)).await;
}

fn base_offset(response: &crate::wire::produce::ProduceResponse) -> i64 {
    response.partitions[0].base_offset
}

#[tokio::test]
async fn requests_go_out_in_call_order_before_any_answer() {
    let (mut responder, connection) = pair(limits()).await;
    let mut answers = Vec::new();
    for partition in 0..20 {
        answers.push(connection.try_produce_enqueue(&produce(partition)).unwrap());
    }
    let mut requests = Vec::new();
    for partition in 0..20 {
        let request = responder.next().await;
        let asked: kafka_protocol::messages::ProduceRequest = request.decode();
        assert_eq!(asked.topic_data[0].partition_data[0].index, partition);
        requests.push(request);
    }
    for (offset, request) in (100..).zip(&requests) {
        ack(request, offset).await;
    }
    // Awaited from the last to the first: each gets its own.
    for (partition, answer) in (0..20_i32).zip(answers).rev() {
        assert_eq!(base_offset(&answer.await.unwrap()), i64::from(100 + partition));
    }
}

#[tokio::test]
async fn a_dropped_answer_disturbs_nobody() {
    let (mut responder, connection) = pair(limits()).await;
    drop(connection.produce_enqueue(&produce(0)).await.unwrap());
    let second = connection.produce_enqueue(&produce(1)).await.unwrap();
    for offset in [5, 6] {
        ack(&responder.next().await, offset).await;
    }
    assert_eq!(base_offset(&second.await.unwrap()), 6);
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn a_late_answer_ends_the_connection() {
    let limits =
        Limits { produce_margin: Duration::from_millis(50), connect_timeout: LONG, ..Limits::default() };
    let (mut responder, connection) = pair(limits).await;
    // Its own time is longer: it is not late, but lost with the connection.
    let patient = connection.fetch_enqueue(&fetch(LONG)).await.unwrap();
    let late = connection.produce_enqueue(&produce(0)).await.unwrap();
    let (_request, _late_request) = (responder.next().await, responder.next().await);
    let error = late.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && error.outcome_unknown(), "{error}");
    let error = patient.await.unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }) && error.outcome_unknown(), "{error}");
    assert!(error.to_string().contains("Produce was not answered within 1050 ms"), "{error}");
    let error = connection.produce_enqueue(&produce(0)).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }) && !error.outcome_unknown(), "{error}");
}

#[tokio::test]
async fn a_deadline_counts_from_the_last_answer() {
    let limits =
        Limits { produce_margin: Duration::from_millis(500), connect_timeout: LONG, ..Limits::default() };
    let (mut responder, connection) = pair(limits).await;
    let mut answers = Vec::new();
    for partition in 0..4 {
        answers.push(connection.produce_enqueue(&produce(partition)).await.unwrap());
    }
    let last = answers.pop().unwrap();
    // Each answer takes most of the 1.5 s that a request has; in all they take longer than that.
    for answer in answers {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ack(&responder.next().await, 1).await;
        answer.await.unwrap();
    }
    let _unanswered = responder.next().await;
    assert!(!connection.is_closed(), "its broker answered a moment ago");
    let since = std::time::Instant::now();
    assert!(matches!(last.await.unwrap_err(), Error::Timeout { .. }));
    assert!(since.elapsed() >= Duration::from_millis(1_400), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_throttled_connection_is_waited_for() {
    let limits =
        Limits { produce_margin: Duration::from_millis(1), connect_timeout: LONG, ..Limits::default() };
    let (mut responder, connection) = pair(limits).await;
    let first = connection.produce_enqueue(&produce(0)).await.unwrap();
    let second = connection.produce_enqueue(&produce(1)).await.unwrap();
    let (request, unread) = (responder.next().await, responder.next().await);
    ack_throttled(&request, 6, 30_000).await;
    first.await.unwrap();
    // Longer than a request may take, and far from the end of the throttling.
    assert!(tokio::time::timeout(Duration::from_secs(2), connection.closed()).await.is_err());
    ack(&unread, 7).await;
    assert_eq!(base_offset(&second.await.unwrap()), 7);
}

#[tokio::test]
async fn a_throttled_connection_is_not_waited_for_for_ever() {
    let limits =
        Limits { produce_margin: Duration::from_millis(1), connect_timeout: LONG, ..Limits::default() };
    let (mut responder, connection) = pair(limits).await;
    let first = connection.produce_enqueue(&produce(0)).await.unwrap();
    let second = connection.produce_enqueue(&produce(1)).await.unwrap();
    let (request, _unread) = (responder.next().await, responder.next().await);
    ack_throttled(&request, 6, 200).await;
    first.await.unwrap();
    assert!(matches!(second.await.unwrap_err(), Error::Timeout { .. }));
}

#[tokio::test]
async fn an_answer_in_time_does_not_end_the_connection_later() {
    let limits =
        Limits { produce_margin: Duration::from_millis(1), connect_timeout: LONG, ..Limits::default() };
    let (mut responder, connection) = pair(limits).await;
    let answer = connection.produce_enqueue(&produce(0)).await.unwrap();
    ack(&responder.next().await, 1).await;
    answer.await.unwrap();
    // The first request's alarm rings while the fetch waits: that is nobody's deadline any more.
    let fetching = connection.fetch_enqueue(&fetch(LONG)).await.unwrap();
    let request = responder.next().await;
    tokio::time::timeout(Duration::from_millis(1_500), connection.closed()).await.unwrap_err();
    request.answer(&FetchResponse::default()).await;
    assert!(fetching.await.unwrap().partitions.is_empty());
}

#[tokio::test]
async fn a_disconnect_leaves_all_outcomes_unknown() {
    let (mut responder, connection) = pair(limits()).await;
    let answers: Vec<_> = (0..3).map(|i| connection.try_produce_enqueue(&produce(i)).unwrap()).collect();
    let first = responder.next().await;
    ack(&first, 9).await;
    first.disconnect().await;
    let mut outcomes = Vec::new();
    for answer in answers {
        outcomes.push(answer.await);
    }
    assert_eq!(base_offset(outcomes[0].as_ref().unwrap()), 9, "what was answered before counts");
    for outcome in &outcomes[1..] {
        let error = outcome.as_ref().unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert_eq!(error.class(), Class::Retriable);
        assert!(error.to_string().contains("the broker closed it"), "{error}");
    }
    assert_eq!(&*connection.closed().await, "the broker closed it");
}

#[tokio::test]
async fn closing_it_ourselves_leaves_outcomes_unknown_too() {
    let (_responder, connection) = pair(limits()).await;
    let answer = connection.produce_enqueue(&produce(0)).await.unwrap();
    connection.close();
    let error = answer.await.unwrap_err();
    assert!(error.outcome_unknown() && error.to_string().contains("we closed it"), "{error}");
}

#[tokio::test]
async fn oversized_and_wrong_frames_end_the_connection() {
    let frames: [(&[u8], &str); 4] = [
        (b"\x7f\xff\xff\xff", "claims 2147483647 bytes"),
        (b"\xff\xff\xff\xfe", "claims -2 bytes"),
        (b"\0\0\0\x02\0\0", "no correlation id"),
        (b"\0\0\0\x04\0\0\x4d\0", "has correlation id 19712"),
    ];
    for (frame, problem) in frames {
        let (mut responder, connection) = pair(limits()).await;
        let answer = connection.produce_enqueue(&produce(0)).await.unwrap();
        responder.next().await.write(frame).await;
        let error = answer.await.unwrap_err();
        assert!(error.outcome_unknown() && error.to_string().contains(problem), "{error}");
        assert!(connection.is_closed());
    }
}

#[tokio::test]
async fn an_answer_without_a_question_ends_the_connection() {
    let (mut responder, connection) = pair(limits()).await;
    let answer = connection.produce_enqueue(&produce(0)).await.unwrap();
    let request = responder.next().await;
    ack(&request, 1).await;
    answer.await.unwrap();
    ack(&request, 1).await;
    assert!(connection.closed().await.contains("nobody waits for"));
}

#[tokio::test]
async fn an_undecodable_answer_is_an_unknown_outcome_and_keeps_the_connection() {
    let (mut responder, connection) = pair(limits()).await;
    let answer = connection.produce_enqueue(&produce(0)).await.unwrap();
    let request = responder.next().await;
    let mut frame = vec![0, 0, 0, 10];
    frame.extend_from_slice(&request.header.correlation_id.to_be_bytes());
    frame.extend_from_slice(b"\0\xff\xff\xff\xff\x0f");
    request.write(&frame).await;
    let error = answer.await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }) && error.outcome_unknown(), "{error}");
    assert!(!connection.is_closed(), "the frame itself was in order");
}

#[tokio::test]
async fn an_answer_about_other_partitions_is_refused() {
    let (mut responder, connection) = pair(limits()).await;
    let answer = connection.produce_enqueue(&produce(3)).await.unwrap();
    responder.next().await.answer(&ProduceResponse::default()).await;
    let error = answer.await.unwrap_err();
    assert!(error.outcome_unknown() && error.to_string().contains("t-3 is not in it"), "{error}");

    let answer = connection.fetch_enqueue(&fetch(LONG)).await.unwrap();
    let foreign = FetchableTopicResponse::default().with_topic(topic_name("other"));
    responder.next().await.answer(&FetchResponse::default().with_responses(vec![foreign])).await;
    assert!(answer.await.unwrap_err().to_string().contains("not asked for"));
}

#[tokio::test]
async fn the_pipeline_is_bounded() {
    let (mut responder, connection) = pair(Limits { in_flight_max: 2, ..limits() }).await;
    let first = connection.try_produce_enqueue(&produce(0)).unwrap();
    let _second = connection.try_produce_enqueue(&produce(1)).unwrap();
    let error = connection.try_produce_enqueue(&produce(2)).unwrap_err();
    assert!(matches!(error, Error::Overloaded { in_flight_max: 2, .. }), "{error}");
    let waiting_request = produce(2);
    let third = connection.produce_enqueue(&waiting_request);
    tokio::pin!(third);
    assert!(futures::poll!(&mut third).is_pending());
    ack(&responder.next().await, 7).await;
    first.await.unwrap();
    let _third = third.await.unwrap();
    assert_eq!(
        responder.next().await.decode::<kafka_protocol::messages::ProduceRequest>().topic_data[0]
            .partition_data[0]
            .index,
        1
    );
    assert_eq!(
        responder.next().await.decode::<kafka_protocol::messages::ProduceRequest>().topic_data[0]
            .partition_data[0]
            .index,
        2
    );
}

#[tokio::test]
async fn waiting_for_a_place_ends_with_the_connection() {
    let (_responder, connection) = pair(Limits { in_flight_max: 1, ..limits() }).await;
    let first = connection.try_produce_enqueue(&produce(0)).unwrap();
    let waiting_request = produce(1);
    let waiting = connection.produce_enqueue(&waiting_request);
    tokio::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    connection.close();
    let error = waiting.await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    assert!(first.await.is_err());
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let (mut responder, connection) = pair(Limits { frame_bytes_max: 1024, ..limits() }).await;
    let mut request = produce(0);
    request.entries[0].records = Bytes::from(vec![0; 1024]).into();
    let error = connection.produce_enqueue(&request).await.unwrap_err();
    assert!(matches!(error, Error::Request { .. }) && !error.outcome_unknown(), "{error}");
    assert!(responder.is_idle() && !connection.is_closed());
}

#[tokio::test]
async fn an_answer_keeps_the_connection_open_until_it_is_gone() {
    let (mut responder, connection) = pair(limits()).await;
    let answer = connection.produce_enqueue(&produce(0)).await.unwrap();
    let end = Arc::clone(&connection.inner.end);
    drop(connection);
    ack(&responder.next().await, 4).await;
    assert_eq!(base_offset(&answer.await.unwrap()), 4);
    assert!(end.token.is_cancelled(), "the last one to use it is gone");
}

#[tokio::test]
async fn an_old_broker_is_asked_again_in_its_own_version() {
    for api_versions_max in [0, 1, 2] {
        let script = Script { api_versions_max: Some(api_versions_max), ..script() };
        let mut responder = Responder::start(script).await;
        let connection = Connection::connect(&responder.address, "test", limits()).await.unwrap();
        let answer = connection.produce_enqueue(&produce(0)).await.unwrap();
        let request = responder.next().await;
        assert_eq!(request.header.request_api_version, VERSION);
        assert_eq!(request.header.client_id.as_deref(), Some("test"));
        ack(&request, 2).await;
        assert_eq!(base_offset(&answer.await.unwrap()), 2);
    }
}

#[tokio::test]
async fn a_request_that_the_broker_does_not_know_is_named() {
    let responder = Responder::start(Script::knowing(&[(ApiKey::Produce, 0, 2)])).await;
    let connection = Connection::connect(&responder.address, "test", limits()).await.unwrap();
    let error = connection.produce_enqueue(&produce(0)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fatal);
    assert!(error.to_string().contains("Produce: we need 3..12, it has 0..2"), "{error}");
    let error = connection.fetch(&fetch(LONG)).await.unwrap_err();
    assert!(error.to_string().contains("it has none"), "{error}");
}

#[tokio::test]
async fn nobody_listening_and_nobody_answering_are_errors_with_the_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let short = Limits { connect_timeout: Duration::from_millis(50), ..Limits::default() };
    let error = Connection::connect(&address, "test", short).await.unwrap_err();
    assert!(matches!(error, Error::ConnectTimeout { .. }) && error.to_string().contains(&address), "{error}");
    drop(listener);
    let error = Connection::connect(&address, "test", limits()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }) && error.to_string().contains(&address), "{error}");
}
