//! Compare-and-append: what a broker does with chosen producer ids, epochs and sequences (3.6 a and d).

use super::cases;
use super::ops::*;
use super::target::Target;

cases!(solo:
    in_order_is_appended,
    an_exact_repeat_is_answered_and_not_written,
    contents_of_a_repeat_are_not_compared,
    five_batches_are_remembered,
    overlap_and_gap_are_refused,
    a_higher_epoch_begins_at_zero_and_fences,
    any_id_and_any_first_sequence_are_taken,
    sequences_wrap,
    a_batch_may_straddle_the_wrap,
    two_batches_for_one_partition_are_refused,
    partitions_of_a_request_are_judged_apart,
    a_refusal_changes_nothing_and_the_rest_of_a_pipeline_is_refused,
);

async fn in_order_is_appended(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    for n in 0..3 {
        let answer = send(&mut wire, &topic, &batch_of(id, 0, n * 10, 10)).await;
        assert_eq!((answer.error_code, answer.base_offset), (0, i64::from(n) * 10));
        assert_eq!((answer.log_append_time_ms, answer.log_start_offset), (-1, 0));
    }
    assert_eq!(end(&mut wire, &topic).await, 30);
    let state = producer(&mut wire, &topic, id).await.unwrap();
    assert_eq!((state.producer_epoch, state.last_sequence), (0, 29));
    assert_eq!((state.coordinator_epoch, state.current_txn_start_offset), (-1, -1));
}

async fn an_exact_repeat_is_answered_and_not_written(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let (mut one, mut two) = (target.wire(1).await, target.wire(1).await);
    append(&mut one, &topic, &batch_of(id, 0, 0, 20)).await.unwrap();
    let repeated = batch_at(id, 0, 20, 10, now_ms() - 5000);
    let fresh = send(&mut two, &topic, &repeated).await;
    let again = send(&mut one, &topic, &repeated).await;
    assert_eq!((fresh.error_code, fresh.base_offset, fresh.log_append_time_ms), (0, 20, -1));
    // How a repeat is recognised: it tells the highest timestamp of the batch in the log.
    assert_eq!((again.error_code, again.base_offset), (0, 20));
    assert_eq!(again.log_append_time_ms, repeated.header.max_timestamp);
    assert_eq!(end(&mut one, &topic).await, 30);
}

async fn contents_of_a_repeat_are_not_compared(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let first = batch_at(id, 0, 0, 3, now_ms() - 60_000);
    append(&mut wire, &topic, &first).await.unwrap();
    let other = batch_at(id, 0, 7, 3, now_ms());
    let other = with_header(&other, |header| header.base_sequence = 0);
    let answer = send(&mut wire, &topic, &other).await;
    assert_eq!((answer.error_code, answer.base_offset), (0, 0));
    assert_eq!(answer.log_append_time_ms, first.header.max_timestamp);
    assert_eq!(values(&mut wire, &topic).await, ["value of 0", "value of 1", "value of 2"]);
}

async fn five_batches_are_remembered(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let sent: Vec<_> = (0..6).map(|n| batch_of(id, 0, n * 2, 2)).collect();
    for batch in &sent {
        append(&mut wire, &topic, batch).await.unwrap();
    }
    assert_eq!(append(&mut wire, &topic, &sent[0]).await, Err(45));
    for (n, batch) in (0..).zip(&sent).skip(1) {
        assert_eq!(append(&mut wire, &topic, batch).await, Ok(n * 2));
    }
    assert_eq!(end(&mut wire, &topic).await, 12);
}

async fn overlap_and_gap_are_refused(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    for n in 0..3 {
        append(&mut wire, &topic, &batch_of(id, 0, n * 10, 10)).await.unwrap();
    }
    for (sequence, count) in [(20, 4), (25, 5), (40, 5), (20, 11), (31, 1)] {
        assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, sequence, count)).await, Err(45), "{sequence}");
    }
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 30, 5)).await, Ok(30));
}

async fn a_higher_epoch_begins_at_zero_and_fences(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let old = batch_of(id, 0, 0, 5);
    append(&mut wire, &topic, &old).await.unwrap();
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 7, 5, 5)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 7, 0, 5)).await, Ok(5));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 5, 5)).await, Err(47));
    // Even an exact repeat of the old epoch is fenced.
    assert_eq!(append(&mut wire, &topic, &old).await, Err(47));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 7, 5, 5)).await, Ok(10));
}

async fn any_id_and_any_first_sequence_are_taken(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    assert_eq!(append(&mut wire, &topic, &batch_of(some_id(), 3, 77, 5)).await, Ok(0));
    assert_eq!(append(&mut wire, &topic, &batch_of(some_id(), i16::MAX, 1, 1)).await, Ok(5));
    // None at all: no memory, no check.
    for n in 0..2 {
        assert_eq!(append(&mut wire, &topic, &batch_of(-1, -1, -1, 1)).await, Ok(6 + n));
    }
}

async fn sequences_wrap(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, i32::MAX - 4, 5)).await.unwrap();
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 1, 5)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 0, 5)).await, Ok(5));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 5, 5)).await, Ok(10));
}

async fn a_batch_may_straddle_the_wrap(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, i32::MAX - 9, 5)).await.unwrap();
    let straddling = batch_of(id, 0, i32::MAX - 4, 8);
    assert_eq!(append(&mut wire, &topic, &straddling).await, Ok(5));
    assert_eq!(append(&mut wire, &topic, &straddling).await, Ok(5), "a repeat");
    assert_eq!(producer(&mut wire, &topic, id).await.unwrap().last_sequence, 2);
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 4, 5)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 3, 5)).await, Ok(13));
}

async fn two_batches_for_one_partition_are_refused(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let mut two = batch_of(id, 0, 0, 5).bytes.to_vec();
    two.extend_from_slice(&batch_of(id, 0, 5, 5).bytes);
    assert_eq!(send_raw(&mut wire, PRODUCE, &topic, two.into()).await.error_code, 87);
    assert_eq!(end(&mut wire, &topic).await, 0);
}

async fn partitions_of_a_request_are_judged_apart(target: Target) {
    let named = mirrormesh_testkit::topics::unique_name("t");
    let topic = topic_on(&target, &named, &[&[1], &[1], &[1]], &[]).await;
    let (mut wire, id) = (target.wire(1).await, some_id());
    let bad = {
        let mut bytes = batch_of(id, 0, 0, 5).bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        bytes.into()
    };
    let parts = [(0, batch_of(id, 0, 0, 5).bytes), (1, bad), (2, batch_of(id, 0, 9, 5).bytes)];
    let answer = wire.call(PRODUCE, &produce_request(&topic, &parts, PRODUCE)).await;
    let mut codes: Vec<_> =
        answer.responses[0].partition_responses.iter().map(|p| (p.index, p.error_code)).collect();
    codes.sort_unstable();
    assert_eq!(codes, [(0, 0), (1, 2), (2, 0)]);
}

async fn a_refusal_changes_nothing_and_the_rest_of_a_pipeline_is_refused(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    // The second of ten is lost before it is sent: all behind it are refused, and a resend of all goes in.
    let sent: Vec<_> = (0..10).map(|n| batch_of(id, 0, n * 3, 3)).collect();
    for (n, batch) in sent.iter().enumerate().filter(|(n, _)| *n != 1) {
        let request = produce_request(&topic, &[(0, batch.bytes.clone())], PRODUCE);
        wire.send(PRODUCE, &request).await.unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    for n in 0..9 {
        let answer = wire.receive::<kafka_protocol::messages::ProduceRequest>(PRODUCE).await.unwrap();
        let code = answer.responses[0].partition_responses[0].error_code;
        assert_eq!(code, if n == 0 { 0 } else { 45 }, "{n}");
    }
    for (n, batch) in (0..).zip(&sent).skip(1) {
        assert_eq!(append(&mut wire, &topic, batch).await, Ok(n * 3));
    }
}
