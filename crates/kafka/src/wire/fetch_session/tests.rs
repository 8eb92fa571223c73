//! Tests of `fetch_session`: what is said to a broker, request after request.

use kafka_protocol::messages::{ApiKey, FetchRequest as WireRequest, FetchResponse as WireResponse};

use super::*;
use crate::config::Limits;
use crate::wire::testing::{Responder, Script};

fn partition(number: i32, offset: i64) -> FetchPartition {
    FetchPartition {
        topic: "t".into(),
        topic_id: [1; 16],
        partition: number,
        offset,
        leader_epoch: 3,
        last_fetched_epoch: -1,
        max_bytes: 1 << 20,
    }
}

const BOUNDS: FetchBounds =
    FetchBounds { max_wait: Duration::from_millis(500), max_bytes: 8 << 20, read_committed: true };

/// What a request says: session, partitions with offsets, partitions no longer read.
type Said = ((i32, i32), Vec<(i32, i64)>, Vec<i32>);

fn said(request: &WireRequest) -> Said {
    let partitions = request.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.partition, p.fetch_offset));
    let forgotten = request.forgotten_topics_data.iter().flat_map(|t| t.partitions.clone());
    ((request.session_id, request.session_epoch), partitions.collect(), forgotten.collect())
}

/// Fetches once; the broker answers with a session id or an error.
async fn exchange(
    session: &mut FetchSession,
    connection: &Connection,
    broker: &mut Responder,
    answers: &[(i16, i32)],
) -> (Vec<Said>, Result<FetchResponse>) {
    let answering = async {
        let mut heard = Vec::new();
        for (error, id) in answers {
            let received = broker.next().await;
            heard.push(said(&received.decode::<WireRequest>()));
            received.answer(&WireResponse::default().with_error_code(*error).with_session_id(*id)).await;
        }
        heard
    };
    let (result, heard) = tokio::join!(session.fetch(connection, BOUNDS), answering);
    (heard, result)
}

async fn broker(versions_max: i16) -> (Responder, Connection) {
    let broker = Responder::start(Script::knowing(&[(ApiKey::Fetch, 4, versions_max)])).await;
    let connection = Connection::connect(&broker.address, "test", Limits::default()).await.unwrap();
    (broker, connection)
}

#[tokio::test]
async fn only_changes_are_said() {
    let (mut broker, connection) = broker(16).await;
    let mut session = FetchSession::default();
    session.set(partition(0, 10));
    session.set(partition(1, 20));
    let (heard, _) = exchange(&mut session, &connection, &mut broker, &[(0, 77)]).await;
    assert_eq!(heard, [((0, 0), vec![(0, 10), (1, 20)], vec![])], "a session begins with everything");
    let (heard, _) = exchange(&mut session, &connection, &mut broker, &[(0, 77)]).await;
    assert_eq!(heard, [((77, 1), vec![], vec![])]);
    session.set(partition(1, 25));
    session.remove(&("t".into(), 0));
    session.set(partition(2, 0));
    let (heard, _) = exchange(&mut session, &connection, &mut broker, &[(0, 77)]).await;
    assert_eq!(heard, [((77, 2), vec![(1, 25), (2, 0)], vec![0])]);
    session.remove(&("t".into(), 1));
    session.set(partition(1, 30));
    let (heard, _) = exchange(&mut session, &connection, &mut broker, &[(0, 77)]).await;
    assert_eq!(heard, [((77, 3), vec![(1, 30)], vec![])], "what is read again is not forgotten");
}

#[tokio::test]
async fn a_topic_that_was_made_again_is_another_one() {
    let (mut broker, connection) = broker(16).await;
    let mut session = FetchSession::default();
    session.set(partition(0, 10));
    let _begun = exchange(&mut session, &connection, &mut broker, &[(0, 77)]).await;
    session.set(FetchPartition { topic_id: [2; 16], ..partition(0, 0) });
    let (heard, _) = exchange(&mut session, &connection, &mut broker, &[(0, 77)]).await;
    assert_eq!(heard, [((77, 1), vec![(0, 0)], vec![0])]);
}

#[tokio::test]
async fn a_session_that_the_broker_lost_begins_anew_at_once() {
    let (mut broker, connection) = broker(16).await;
    for (code, next) in
        [(ErrorCode::FETCH_SESSION_ID_NOT_FOUND, 0), (ErrorCode::INVALID_FETCH_SESSION_EPOCH, 77)]
    {
        let mut session = FetchSession::default();
        session.set(partition(0, 10));
        let _begun = exchange(&mut session, &connection, &mut broker, &[(0, 77)]).await;
        let (heard, result) = exchange(&mut session, &connection, &mut broker, &[(code.0, 0), (0, 78)]).await;
        result.unwrap();
        assert_eq!(heard, [((77, 1), vec![], vec![]), ((next, 0), vec![(0, 10)], vec![])]);
        let (heard, _) = exchange(&mut session, &connection, &mut broker, &[(0, 78)]).await;
        assert_eq!(heard, [((78, 1), vec![], vec![])]);
    }
}

#[tokio::test]
async fn without_room_or_after_an_error_everything_is_said_each_time() {
    let (mut broker, connection) = broker(16).await;
    let mut session = FetchSession::default();
    session.set(partition(0, 10));
    for answer in [(0, 0), (ErrorCode::UNKNOWN_SERVER_ERROR.0, 0), (0, 0)] {
        let (heard, _) = exchange(&mut session, &connection, &mut broker, &[answer]).await;
        assert_eq!(heard, [((0, 0), vec![(0, 10)], vec![])]);
    }
}

#[tokio::test]
async fn a_broker_without_sessions_is_asked_for_none() {
    let (mut broker, connection) = broker(6).await;
    let mut session = FetchSession::default();
    session.set(FetchPartition { topic_id: [0; 16], leader_epoch: -1, ..partition(0, 10) });
    for _ in 0..2 {
        let received = async { broker.next().await };
        let (result, received) = tokio::join!(session.fetch(&connection, BOUNDS), async {
            let received = received.await;
            received.answer(&WireResponse::default()).await;
            received
        });
        result.unwrap();
        let request = received.decode::<WireRequest>();
        assert_eq!((request.session_id, request.topics.len()), (0, 1));
    }
}
