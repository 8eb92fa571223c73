//! Markers of the present epoch, as they arm a partition for the next batch (exactly-once.md 3): what they change and what
//! they leave alone.

use mirrormesh_testkit::broker::batch::CONTROL;

use super::cases;
use super::ops::*;
use super::target::Target;
use super::wire::Wire;

cases!(solo:
    a_marker_of_the_same_epoch_keeps_the_sequences,
    a_marker_of_the_same_epoch_arms_for_the_next_old_batch,
    a_marker_of_the_same_epoch_arms_a_forgotten_producer_without_sequences,
    a_marker_begins_a_producer_that_was_never_seen,
    markers_between_batches_disturb_no_reader,
);

async fn forgotten(target: &Target, topic: &Topic, id: i64) {
    poll("the producer is forgotten", || async {
        producer(&mut target.wire(1).await, topic, id).await.is_none().then_some(())
    })
    .await;
}

/// Old enough to be forgotten at the next look.
fn old_ms() -> i64 {
    now_ms() - 25 * HOUR_MS
}

async fn arm(wire: &mut Wire, topic: &Topic, producer: (i64, i16)) {
    assert_eq!(mark(wire, topic, producer, false, 0).await, 0);
}

async fn a_marker_of_the_same_epoch_keeps_the_sequences(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let first = batch_at(id, 1, 0, 10, now_ms() - 20 * HOUR_MS);
    assert_eq!(append(&mut wire, &topic, &first).await, Ok(0));
    arm(&mut wire, &topic, (id, 1)).await;
    arm(&mut wire, &topic, (id, 1)).await;
    // Each one takes an offset, and what is remembered is the batch, as of now.
    assert_eq!(end(&mut wire, &topic).await, 12);
    let state = producer(&mut wire, &topic, id).await.unwrap();
    assert_eq!((state.producer_epoch, state.last_sequence, state.coordinator_epoch), (1, 9, 0));
    assert!(state.last_timestamp > now_ms() - HOUR_MS, "armed from now on");
    assert_eq!(append(&mut wire, &topic, &first).await, Ok(0), "a repeat");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 11, 1)).await, Err(45), "a gap");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 0, 1)).await, Err(45), "an overlap");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 10, 1)).await, Err(47));
    let next = batch_of(id, 1, 10, 5);
    assert_eq!(append(&mut wire, &topic, &next).await, Ok(12));
    arm(&mut wire, &topic, (id, 1)).await;
    assert_eq!(append(&mut wire, &topic, &next).await, Ok(12));
    assert_eq!(append(&mut wire, &topic, &first).await, Ok(0));
    // A new epoch without a marker begins as ever, and the old one's markers are refused from then on.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 2, 0, 1)).await, Ok(18));
    assert_eq!(mark(&mut wire, &topic, (id, 1), false, 0).await, 47);
}

async fn a_marker_of_the_same_epoch_arms_for_the_next_old_batch(target: Target) {
    let (topic, id, witness) = (topic(&target, &[]).await, some_id(), some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_at(id, 0, 0, 10, now_ms() - 20 * HOUR_MS)).await.unwrap();
    arm(&mut wire, &topic, (id, 0)).await;
    // A look for silent producers passes between the marker and the batch.
    append(&mut wire, &topic, &batch_at(witness, 0, 0, 1, old_ms())).await.unwrap();
    forgotten(&target, &topic, witness).await;
    assert_eq!(append(&mut wire, &topic, &batch_at(id, 0, 11, 1, old_ms())).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_at(id, 0, 10, 1, old_ms())).await, Ok(12));
    // It is the batch's own time that counts from then on.
    forgotten(&target, &topic, id).await;
}

async fn a_marker_of_the_same_epoch_arms_a_forgotten_producer_without_sequences(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let first = batch_at(id, 1, 0, 10, old_ms());
    append(&mut wire, &topic, &first).await.unwrap();
    forgotten(&target, &topic, id).await;
    arm(&mut wire, &topic, (id, 1)).await;
    let state = producer(&mut wire, &topic, id).await.unwrap();
    assert_eq!((state.producer_epoch, state.last_sequence), (1, -1));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 10, 1)).await, Err(45), "what would continue");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 0, 1)).await, Err(47));
    // Only the first sequence is taken, also where it is a repeat of what stands there: of that nothing is known.
    assert_eq!(append(&mut wire, &topic, &first).await, Ok(11));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 10, 1)).await, Ok(21));
}

async fn a_marker_begins_a_producer_that_was_never_seen(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    arm(&mut wire, &topic, (id, 3)).await;
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 2, 0, 1)).await, Err(47));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 3, 1, 1)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 3, 0, 1)).await, Ok(1));
}

async fn markers_between_batches_disturb_no_reader(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    for n in 0..4 {
        arm(&mut wire, &topic, (id, 0)).await;
        let base = i64::from(n) * 6 + 1;
        assert_eq!(
            append(&mut wire, &topic, &batch_at(id, 0, n * 5, 5, now_ms() - 20 * HOUR_MS)).await,
            Ok(base)
        );
        assert_eq!(list_offset(&mut wire, &topic, 0, CONSUMER, 1, LATEST).await, Ok(base + 5));
        assert_eq!(producer(&mut wire, &topic, id).await.unwrap().current_txn_start_offset, -1);
    }
    arm(&mut wire, &topic, (id, 0)).await;
    for ask in [Ask::from(0).committed(), Ask::from(9).committed()] {
        let data = fetch(&mut wire, &topic, ask).await;
        assert_eq!((data.high_watermark, data.last_stable_offset), (25, 25));
        assert!(data.aborted_transactions.as_ref().is_none_or(Vec::is_empty), "nothing is aborted");
        let records: i32 =
            batches(&data).iter().filter(|b| !b.header.has(CONTROL)).map(|b| b.header.count).sum();
        assert_eq!(records, if ask.offset == 0 { 20 } else { 15 });
    }
}
