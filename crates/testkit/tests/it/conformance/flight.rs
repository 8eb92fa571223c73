//! Many requests in flight and a connection that dies (3.6 i).

use kafka_protocol::messages::ProduceRequest;
use mirrormesh_testkit::proxy::Proxy;

use super::cases;
use super::ops::*;
use super::target::Target;
use super::wire::Wire;

cases!(solo:
    a_killed_connection_with_64_in_flight_loses_and_doubles_nothing,
    what_a_closed_connection_had_sent_may_still_be_appended,
);

const IN_FLIGHT: i32 = 64;
const RECORDS: i32 = 10;

fn next(id: i64, n: i32) -> mirrormesh_testkit::broker::batch::Batch {
    batch_of(id, 0, n * RECORDS, RECORDS)
}

/// How many batches stand in the log, by the header of its last one.
async fn batches_there(wire: &mut Wire, topic: &Topic, id: i64) -> i32 {
    let end = end(wire, topic).await;
    if end == 0 {
        return 0;
    }
    let tail = batch_in_log(wire, topic, end - 1).await;
    assert_eq!(tail.header.producer_id, id);
    assert_eq!(i64::from(tail.header.last_sequence()) + 1, end, "the only writer: sequences count the log");
    (tail.header.last_sequence() + 1) / RECORDS
}

async fn a_killed_connection_with_64_in_flight_loses_and_doubles_nothing(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let proxy = Proxy::start(target.address(1)).unwrap();
    let mut direct = target.wire(1).await;
    let (mut from, mut kills) = (0, 0);
    while kills < 5 {
        let mut wire = Wire::connect(&proxy.address()).await.unwrap();
        for n in from..from + IN_FLIGHT {
            let request = produce_request(&topic, &[(0, next(id, n).bytes)], PRODUCE);
            wire.send(PRODUCE, &request).await.unwrap();
        }
        // Some are answered; the rest is in flight when the connection goes.
        for n in from..from + 7 {
            let answer = wire.receive::<ProduceRequest>(PRODUCE).await.unwrap();
            let answer = &answer.responses[0].partition_responses[0];
            assert_eq!((answer.error_code, answer.base_offset), (0, i64::from(n * RECORDS)));
        }
        proxy.cut();
        kills += 1;
        // Compare and append: from whatever is there now; if more arrives meanwhile, the next append says so.
        from = loop {
            let there = batches_there(&mut direct, &topic, id).await;
            assert!((from + 7..=from + IN_FLIGHT).contains(&there), "{from} {there}");
            match append(&mut direct, &topic, &next(id, there)).await {
                Ok(offset) if offset == i64::from(there * RECORDS) => break there + 1,
                Ok(offset) => panic!("{offset}: written twice or elsewhere"),
                Err(code) => assert_eq!(code, 45),
            }
        };
    }
    let count = batches_there(&mut direct, &topic, id).await;
    let expected: Vec<_> = (0..count * RECORDS).map(|n| format!("value of {n}")).collect();
    assert_eq!(values(&mut direct, &topic).await, expected);
}

async fn what_a_closed_connection_had_sent_may_still_be_appended(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    for n in 0..IN_FLIGHT {
        let request = produce_request(&topic, &[(0, next(id, n).bytes)], PRODUCE);
        wire.send(PRODUCE, &request).await.unwrap();
    }
    // Nothing was read: the client is gone before the first answer.
    drop(wire);
    let mut wire = target.wire(1).await;
    // What the broker had received it works off, in order and without a hole; nobody tells how far.
    let mut last = 0;
    for _ in 0..20 {
        let there = batches_there(&mut wire, &topic, id).await;
        assert!((last..=IN_FLIGHT).contains(&there));
        last = there;
    }
    // The same again from the start: what is there is a repeat or refused, what is not is appended.
    for n in 0..IN_FLIGHT {
        match append(&mut wire, &topic, &next(id, n)).await {
            Ok(offset) => assert_eq!(offset, i64::from(n * RECORDS)),
            Err(code) => assert_eq!(code, 45),
        }
    }
    let there = batches_there(&mut wire, &topic, id).await;
    let expected: Vec<_> = (0..there * RECORDS).map(|n| format!("value of {n}")).collect();
    assert_eq!(values(&mut wire, &topic).await, expected);
}
