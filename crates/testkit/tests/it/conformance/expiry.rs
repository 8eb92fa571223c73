//! When a broker forgets a producer (3.6 b). All targets look every second and forget after a day.

use super::cases;
use super::ops::*;
use super::target::Target;

cases!(solo:
    old_records_disarm,
    a_fresh_record_keeps_armed,
    records_without_timestamp_disarm,
    log_append_time_keeps_armed,
    an_open_transaction_keeps_armed,
    an_old_append_brings_the_state_back,
);

cases!(rarely_checked:
    age_alone_drops_no_state,
);

async fn topic_for_witness(target: &Target) -> Topic {
    topic(target, &[]).await
}

const OLD_MS: i64 = 25 * HOUR_MS;

/// Waits until a check for expired producers has run on the partition: it forgets a witness.
async fn checked(target: &Target, topic: &Topic) {
    let id = some_id();
    let mut wire = target.wire(1).await;
    append(&mut wire, topic, &batch_at(id, 0, 0, 1, now_ms() - OLD_MS)).await.unwrap();
    poll("the expiry check runs", || async {
        producer(&mut target.wire(1).await, topic, id).await.is_none().then_some(())
    })
    .await;
}

async fn old_records_disarm(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_at(id, 0, 0, 10, now_ms() - OLD_MS)).await.unwrap();
    poll("the producer is forgotten", || async {
        producer(&mut target.wire(1).await, &topic, id).await.is_none().then_some(())
    })
    .await;
    // A gap, then something below it, then an older epoch: nothing is checked.
    assert_eq!(append(&mut wire, &topic, &batch_at(id, 5, 50, 1, now_ms() - OLD_MS)).await, Ok(10));
    poll("the producer is forgotten again", || async {
        producer(&mut target.wire(1).await, &topic, id).await.is_none().then_some(())
    })
    .await;
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 10, 1)).await, Ok(11));
    // That one was fresh.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 50, 1)).await, Err(45));
}

async fn a_fresh_record_keeps_armed(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    checked(&target, &topic).await;
    assert_eq!(append(&mut wire, &topic, &batch_at(id, 0, 50, 1, now_ms() - OLD_MS)).await, Err(45));
    assert_eq!(producer(&mut wire, &topic, id).await.unwrap().last_sequence, 9);
    // The batch's highest timestamp counts, not that of its last record.
    let old = now_ms() - OLD_MS;
    let mut records = some_records(0, 2);
    records[0].timestamp_delta = OLD_MS;
    let mixed =
        packed(batch_at(id, 0, 10, 2, old).header, mirrormesh_testkit::broker::codec::Codec::None, &records);
    append(&mut wire, &topic, &mixed).await.unwrap();
    checked(&target, &topic).await;
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 50, 1)).await, Err(45));
    let state = producer(&mut wire, &topic, id).await.unwrap();
    assert_eq!(state.last_timestamp, old + OLD_MS);
}

async fn records_without_timestamp_disarm(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_at(id, 0, 0, 10, -1)).await.unwrap();
    checked(&target, &topic).await;
    assert_eq!(append(&mut wire, &topic, &batch_at(id, 0, 50, 1, -1)).await, Ok(11));
}

async fn log_append_time_keeps_armed(target: Target) {
    let topic = topic(&target, &[("message.timestamp.type", "LogAppendTime")]).await;
    let (id, witness) = (some_id(), topic_for_witness(&target).await);
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_at(id, 0, 0, 10, now_ms() - OLD_MS)).await.unwrap();
    // Both partitions are looked at in the same rounds.
    checked(&target, &witness).await;
    assert_eq!(append(&mut wire, &topic, &batch_at(id, 0, 50, 1, now_ms() - OLD_MS)).await, Err(45));
    assert!(producer(&mut wire, &topic, id).await.unwrap().last_timestamp > now_ms() - HOUR_MS);
}

async fn an_open_transaction_keeps_armed(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let old = batch_at(id, 0, 0, 10, now_ms() - OLD_MS);
    append_transactional(&mut wire, &topic, &old).await.unwrap();
    checked(&target, &topic).await;
    let state = producer(&mut wire, &topic, id).await.unwrap();
    assert_eq!((state.last_sequence, state.current_txn_start_offset), (9, 0));
    assert_eq!(append_transactional(&mut wire, &topic, &batch_of(id, 0, 50, 1)).await, Err(45));
    // The marker's own time keeps it armed from then on.
    assert_eq!(mark(&mut wire, &topic, (id, 0), true, 0).await, 0);
    checked(&target, &topic).await;
    let state = producer(&mut wire, &topic, id).await.unwrap();
    assert!(state.last_timestamp > now_ms() - HOUR_MS);
    assert_eq!((state.last_sequence, state.current_txn_start_offset), (9, -1));
}

/// What pipelining old records rests on: between two checks the broker refuses what does not follow, however old the last
/// batch is.
async fn age_alone_drops_no_state(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let old = |sequence, count| batch_at(id, 0, sequence, count, now_ms() - OLD_MS);
    append(&mut wire, &topic, &old(0, 10)).await.unwrap();
    // A batch behind a missing one, then a repeat, then those in order.
    assert_eq!(append(&mut wire, &topic, &old(20, 10)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &old(0, 10)).await, Ok(0));
    assert_eq!(append(&mut wire, &topic, &old(10, 10)).await, Ok(10));
    assert_eq!(append(&mut wire, &topic, &batch_at(id, 0, 30, 10, -1)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &old(20, 10)).await, Ok(20));
    assert_eq!(end(&mut wire, &topic).await, 30);
    assert_eq!(producer(&mut wire, &topic, id).await.unwrap().last_sequence, 29);
}

/// After the state was dropped, an old batch is taken whatever its sequence, and from then on the next one has to follow it,
/// until the next check.
async fn an_old_append_brings_the_state_back(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let old = |sequence| batch_at(id, 0, sequence, 1, now_ms() - OLD_MS);
    let mut sequence = 0;
    // A check may run between the two appends: then the pair is tried again.
    loop {
        poll("the producer is forgotten", || async {
            producer(&mut target.wire(1).await, &topic, id).await.is_none().then_some(())
        })
        .await;
        append(&mut wire, &topic, &old(sequence)).await.unwrap();
        match append(&mut wire, &topic, &old(sequence + 5)).await {
            Err(code) => return assert_eq!(code, 45),
            Ok(_) => sequence += 100,
        }
    }
}
