//! Transactions as readers see them, and markers as a fence.

use bytes::Buf as _;
use mirrormesh_core::format::batch::{self as core_batch, ControlKind};
use mirrormesh_testkit::broker::batch::{Batch, CONTROL, TRANSACTIONAL};

use super::cases;
use super::ops::*;
use super::target::Target;
use super::wire::Wire;

cases!(solo:
    an_abort_marker_at_the_next_epoch_fences_without_data,
    an_abort_marker_arms_a_producer_that_was_forgotten,
    a_marker_of_an_older_epoch_or_coordinator_is_refused,
    the_aborted_list_tells_every_transaction_that_a_fetch_touches,
    an_id_aborts_up_to_its_marker_only,
    an_open_transaction_holds_the_last_stable_offset,
    markers_are_control_batches,
    transactional_batches_are_sequenced_like_others,
);

async fn an_abort_marker_at_the_next_epoch_fences_without_data(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_at(id, 0, 0, 10, now_ms() - 20 * HOUR_MS)).await.unwrap();
    assert_eq!(mark(&mut wire, &topic, (id, 1), false, 0).await, 0);
    // One control record stands in the log; the old epoch is fenced; the new one begins at 0.
    assert_eq!(end(&mut wire, &topic).await, 11);
    let state = producer(&mut wire, &topic, id).await.unwrap();
    assert_eq!((state.producer_epoch, state.last_sequence, state.coordinator_epoch), (1, -1, 0));
    assert!(state.last_timestamp > now_ms() - HOUR_MS, "armed from now on");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 10, 1)).await, Err(47));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await, Err(47), "even a repeat");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 10, 1)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 0, 1)).await, Ok(11));
    // No transaction was aborted: readers of committed records see everything.
    let data = fetch(&mut wire, &topic, Ask::from(0).committed()).await;
    assert_eq!((data.last_stable_offset, data.aborted_transactions.unwrap_or_default().len()), (12, 0));
}

async fn an_abort_marker_arms_a_producer_that_was_forgotten(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_at(id, 0, 0, 10, now_ms() - 25 * HOUR_MS)).await.unwrap();
    poll("the producer is forgotten", || async {
        producer(&mut target.wire(1).await, &topic, id).await.is_none().then_some(())
    })
    .await;
    assert_eq!(mark(&mut wire, &topic, (id, 1), false, 0).await, 0);
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 10, 1)).await, Err(47));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 7, 1)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 1, 0, 1)).await, Ok(11));
}

async fn a_marker_of_an_older_epoch_or_coordinator_is_refused(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 5, 0, 1)).await.unwrap();
    assert_eq!(mark(&mut wire, &topic, (id, 4), false, 0).await, 47);
    assert_eq!(mark(&mut wire, &topic, (id, 5), false, 3).await, 0, "the same epoch will do");
    assert_eq!(mark(&mut wire, &topic, (id, 6), false, 2).await, 52);
    assert_eq!(end(&mut wire, &topic).await, 2);
    // A marker of the same epoch keeps the sequence.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 5, 1, 1)).await, Ok(2));
}

async fn aborted(wire: &mut Wire, topic: &Topic, ask: Ask) -> Vec<(i64, i64)> {
    let data = fetch(wire, topic, ask.committed()).await;
    let told = data.aborted_transactions.unwrap_or_default();
    told.iter().map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect()
}

async fn the_aborted_list_tells_every_transaction_that_a_fetch_touches(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let (one, two, three) = (some_id(), some_id(), some_id());
    // 0..10 one, 10..20 two, 20..30 three, 30 abort two, 31 commit three, 32..42 one, 42 abort one.
    for (n, id) in (0..).zip([one, two, three]) {
        assert_eq!(append_transactional(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await, Ok(n * 10));
    }
    assert_eq!(mark(&mut wire, &topic, (two, 0), false, 0).await, 0);
    assert_eq!(mark(&mut wire, &topic, (three, 0), true, 0).await, 0);
    append_transactional(&mut wire, &topic, &batch_of(one, 0, 10, 10)).await.unwrap();
    assert_eq!(mark(&mut wire, &topic, (one, 0), false, 0).await, 0);
    // In the order of their markers, not of their first offsets: a reader must sort.
    assert_eq!(aborted(&mut wire, &topic, Ask::from(0)).await, [(two, 10), (one, 0)]);
    // Whoever begins in the middle hears of what began before; what ended before is left out.
    assert_eq!(aborted(&mut wire, &topic, Ask::from(25)).await, [(two, 10), (one, 0)]);
    assert_eq!(aborted(&mut wire, &topic, Ask::from(31)).await, [(one, 0)]);
    assert_eq!(aborted(&mut wire, &topic, Ask::from(42)).await, [(one, 0)]);
    assert_eq!(aborted(&mut wire, &topic, Ask::from(43)).await, []);
    // A short answer may tell of what begins behind it. Readers of everything are told nothing.
    let short = batches(&fetch(&mut wire, &topic, Ask::from(0)).await)[0].bytes.len();
    let ask = Ask { bytes_max: i32::try_from(short).unwrap(), ..Ask::from(0) };
    assert_eq!(aborted(&mut wire, &topic, ask).await, [(two, 10), (one, 0)]);
    let open = fetch(&mut wire, &topic, Ask::from(0)).await;
    assert!(open.aborted_transactions.as_ref().is_none_or(Vec::is_empty));
    assert_eq!(batches(&open).len(), 7, "they see aborted records and markers");
}

async fn an_id_aborts_up_to_its_marker_only(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    // 0..5 aborted (marker 5), 6..11 committed (marker 11), 12..17 not of a transaction, 17..22 aborted (marker 22).
    append_transactional(&mut wire, &topic, &batch_of(id, 0, 0, 5)).await.unwrap();
    mark(&mut wire, &topic, (id, 0), false, 0).await;
    append_transactional(&mut wire, &topic, &batch_of(id, 0, 5, 5)).await.unwrap();
    mark(&mut wire, &topic, (id, 0), true, 0).await;
    append(&mut wire, &topic, &batch_of(id, 0, 10, 5)).await.unwrap();
    append_transactional(&mut wire, &topic, &batch_of(id, 0, 15, 5)).await.unwrap();
    mark(&mut wire, &topic, (id, 0), false, 0).await;
    let data = fetch(&mut wire, &topic, Ask::from(0).committed()).await;
    assert_eq!(aborted(&mut wire, &topic, Ask::from(0)).await, [(id, 0), (id, 17)]);
    // Kafka's own consumer's rule, with the product's reader of markers.
    let mut list: Vec<_> = data.aborted_transactions.clone().unwrap();
    list.sort_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
    let (mut open, mut seen) = (std::collections::BTreeSet::new(), Vec::new());
    for batch in core_batch::split(data.records.unwrap()) {
        let batch = batch.unwrap();
        while list.last().is_some_and(|aborted| aborted.first_offset <= batch.header.last_offset()) {
            open.insert(list.pop().unwrap().producer_id.0);
        }
        if batch.header.is_control() {
            if core_batch::control_kind(&batch) == ControlKind::Abort {
                open.remove(&batch.header.producer_id);
            }
        } else if !(batch.header.is_transactional() && open.contains(&batch.header.producer_id)) {
            seen.push(batch.header.base_offset);
        }
    }
    assert_eq!(seen, [6, 12]);
}

async fn an_open_transaction_holds_the_last_stable_offset(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(-1, -1, -1, 5)).await.unwrap();
    append_transactional(&mut wire, &topic, &batch_of(id, 0, 0, 5)).await.unwrap();
    append(&mut wire, &topic, &batch_of(-1, -1, -1, 5)).await.unwrap();
    // What comes behind it waits as well, whether it is of a transaction or not.
    let data = fetch(&mut wire, &topic, Ask::from(0).committed()).await;
    assert_eq!((data.high_watermark, data.last_stable_offset, batches(&data).len()), (15, 5, 1));
    assert_eq!(list_offset(&mut wire, &topic, 0, CONSUMER, 1, LATEST).await, Ok(5));
    assert_eq!(list_offset(&mut wire, &topic, 0, CONSUMER, 0, LATEST).await, Ok(15));
    let beyond = fetch(&mut wire, &topic, Ask::from(10).committed()).await;
    assert_eq!((beyond.error_code, batches(&beyond).len()), (0, 0));
    assert_eq!(producer(&mut wire, &topic, id).await.unwrap().current_txn_start_offset, 5);
    mark(&mut wire, &topic, (id, 0), false, 0).await;
    let data = fetch(&mut wire, &topic, Ask::from(0).committed()).await;
    assert_eq!((data.last_stable_offset, batches(&data).len()), (16, 4));
}

async fn markers_are_control_batches(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append_transactional(&mut wire, &topic, &batch_of(id, 2, 0, 1)).await.unwrap();
    let before = now_ms();
    mark(&mut wire, &topic, (id, 2), true, 9).await;
    append_transactional(&mut wire, &topic, &batch_of(id, 2, 1, 1)).await.unwrap();
    mark(&mut wire, &topic, (id, 2), false, 9).await;
    let all = read(&mut wire, &topic, Ask::from(0)).await;
    for (n, kind, number) in [(1, ControlKind::Commit, 1), (3, ControlKind::Abort, 0)] {
        let marker: &Batch = &all[n];
        let header = marker.header;
        assert_eq!(header.attributes, TRANSACTIONAL | CONTROL);
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (id, 2, -1));
        assert_eq!((header.count, header.last_offset_delta), (1, 0));
        assert!((before..=now_ms()).contains(&header.max_timestamp));
        let record = records_of(marker).remove(0);
        let (mut key, mut value) = (record.key.unwrap(), record.value.unwrap());
        assert_eq!((key.get_i16(), key.get_i16()), (0, number));
        value.advance(2);
        assert_eq!(value.get_i32(), 9, "the coordinator's epoch");
        let raw = core_batch::split(marker.bytes.clone()).next().unwrap().unwrap();
        assert_eq!(core_batch::control_kind(&raw), kind);
    }
    // Markers take no sequence.
    assert_eq!(producer(&mut wire, &topic, id).await.unwrap().last_sequence, 1);
}

async fn transactional_batches_are_sequenced_like_others(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let first = batch_of(id, 0, 0, 5);
    assert_eq!(append_transactional(&mut wire, &topic, &first).await, Ok(0));
    assert_eq!(append_transactional(&mut wire, &topic, &first).await, Ok(0), "a repeat");
    assert_eq!(append_transactional(&mut wire, &topic, &batch_of(id, 0, 6, 5)).await, Err(45));
    assert_eq!(mark(&mut wire, &topic, (id, 0), true, 0).await, 0);
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 5, 5)).await, Ok(6), "without one goes on");
    assert_eq!(end(&mut wire, &topic).await, 11);
}
