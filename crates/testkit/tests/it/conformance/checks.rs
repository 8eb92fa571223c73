//! What a broker checks of a produced batch, and what it changes.

use bytes::Bytes;
use mirrormesh_testkit::broker::batch::{self, Batch, CONTROL, LOG_APPEND_TIME, TRANSACTIONAL};
use mirrormesh_testkit::broker::codec::Codec;

use super::cases;
use super::ops::*;
use super::target::Target;

cases!(solo:
    exactly_one_batch_of_format_2,
    zstd_needs_version_7,
    base_offset_must_be_zero,
    size_is_limited_by_the_topic,
    a_batch_must_fit_into_a_segment,
    the_crc_must_fit,
    counts_must_agree,
    control_batches_are_refused,
    a_producer_needs_a_sequence,
    a_transactional_batch_needs_a_transactional_id,
    only_some_acks_are_known,
    a_torn_tail_is_ignored,
    the_order_of_the_checks,
    the_leader_epoch_is_overwritten,
);

async fn refused(target: &Target, batch: &Batch) -> i16 {
    let topic = topic(target, &[]).await;
    let mut wire = target.wire(1).await;
    let code = append(&mut wire, &topic, batch).await.expect_err("it should be refused");
    assert_eq!(end(&mut wire, &topic).await, 0);
    code
}

async fn exactly_one_batch_of_format_2(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    assert_eq!(send_raw(&mut wire, PRODUCE, &topic, Bytes::new()).await.error_code, 87);
    let batch = batch_of(-1, -1, -1, 2);
    for (magic, code) in [(0, 87), (1, 87), (3, 2), (-1, 2)] {
        let odd = with_header(&batch, |header| header.magic = magic);
        assert_eq!(send_raw(&mut wire, PRODUCE, &topic, odd.bytes).await.error_code, code, "magic {magic}");
    }
    // A length that can't be.
    let mut short = batch.bytes.to_vec();
    short[8..12].copy_from_slice(&13_i32.to_be_bytes());
    assert_eq!(send_raw(&mut wire, PRODUCE, &topic, short.into()).await.error_code, 2);
    assert_eq!(end(&mut wire, &topic).await, 0);
}

async fn zstd_needs_version_7(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let batch = packed(batch_of(-1, -1, -1, 2).header, Codec::Zstd, &some_records(0, 2));
    assert_eq!(send_raw(&mut wire, 6, &topic, batch.bytes.clone()).await.error_code, 76);
    assert_eq!(send_raw(&mut wire, 7, &topic, batch.bytes).await.error_code, 0);
}

async fn base_offset_must_be_zero(target: Target) {
    assert_eq!(refused(&target, &batch_of(-1, -1, -1, 2).at(5, -1)).await, 87);
}

async fn size_is_limited_by_the_topic(target: Target) {
    let topic = topic(&target, &[("max.message.bytes", "10000")]).await;
    let mut wire = target.wire(1).await;
    let sized = |bytes: usize| {
        let mut records = some_records(0, 1);
        records[0].value = Some(vec![7; bytes].into());
        packed(batch_of(-1, -1, -1, 1).header, Codec::None, &records)
    };
    let overhead = sized(9000).bytes.len() - 9000;
    assert_eq!(append(&mut wire, &topic, &sized(10_000 - overhead)).await, Ok(0));
    assert_eq!(append(&mut wire, &topic, &sized(10_001 - overhead)).await, Err(10));
}

async fn a_batch_must_fit_into_a_segment(target: Target) {
    let settings = [("segment.bytes", "1048576"), ("max.message.bytes", "5000000")];
    let topic = topic(&target, &settings).await;
    let mut wire = target.wire(1).await;
    let mut records = some_records(0, 1);
    records[0].value = Some(vec![7; 2 << 20].into());
    let batch = packed(batch_of(-1, -1, -1, 1).header, Codec::None, &records);
    assert_eq!(append(&mut wire, &topic, &batch).await, Err(18));
}

async fn the_crc_must_fit(target: Target) {
    let batch = batch_of(-1, -1, -1, 2);
    for at in [18, 22, 30, 60, batch.bytes.len() - 1] {
        let mut bytes = batch.bytes.to_vec();
        bytes[at] ^= 0x40;
        let damaged = Batch { header: batch.header, bytes: bytes.into() };
        assert_eq!(refused(&target, &damaged).await, 2, "byte {at}");
    }
}

async fn counts_must_agree(target: Target) {
    let batch = batch_of(some_id(), 0, 0, 3);
    for (count, delta) in [(3, 3), (3, 1), (2, 2), (0, -1), (0, 0), (-1, -2), (3, -1)] {
        let wrong = with_header(&batch, |header| {
            header.count = count;
            header.last_offset_delta = delta;
        });
        assert_eq!(refused(&target, &wrong).await, 87, "{count} records up to delta {delta}");
    }
}

async fn control_batches_are_refused(target: Target) {
    let control = with_header(&batch_of(-1, -1, -1, 1), |header| header.attributes |= CONTROL);
    assert_eq!(refused(&target, &control).await, 87);
}

async fn a_producer_needs_a_sequence(target: Target) {
    assert_eq!(refused(&target, &batch_of(some_id(), 0, -1, 1)).await, 87);
}

async fn a_transactional_batch_needs_a_transactional_id(target: Target) {
    let batch = with_header(&batch_of(some_id(), 0, 0, 1), |header| header.attributes |= TRANSACTIONAL);
    assert_eq!(refused(&target, &batch).await, 53);
}

async fn only_some_acks_are_known(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    for (acks, code) in [(2, 21), (-2, 21), (1, 0), (-1, 0)] {
        let batch = batch_of(-1, -1, -1, 1);
        let request = produce_request(&topic, &[(0, batch.bytes)], PRODUCE).with_acks(acks);
        let answer = wire.call(PRODUCE, &request).await;
        assert_eq!(answer.responses[0].partition_responses[0].error_code, code, "acks {acks}");
    }
}

async fn a_torn_tail_is_ignored(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let batch = batch_of(-1, -1, -1, 2);
    let mut bytes = batch.bytes.to_vec();
    bytes.extend_from_slice(&batch.bytes[..40]);
    assert_eq!(send_raw(&mut wire, PRODUCE, &topic, bytes.into()).await.error_code, 0);
    assert_eq!(append(&mut wire, &topic, &batch).await, Ok(2));
    assert_eq!(values(&mut wire, &topic).await.len(), 4);
}

/// What is wrong in two ways is refused for the earlier one.
async fn the_order_of_the_checks(target: Target) {
    let (topic, id) = (topic(&target, &[("max.message.bytes", "1000")]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 3, 0, 1)).await.unwrap();
    let damaged = |batch: &Batch| {
        let mut bytes = batch.bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        Batch { header: batch.header, bytes: bytes.into() }
    };
    let gap = batch_of(id, 3, 50, 1);
    // Damage before the sequence, size before damage, base offset before size.
    assert_eq!(append(&mut wire, &topic, &damaged(&gap)).await, Err(2));
    let large = batch_of(id, 3, 50, 100);
    assert_eq!(append(&mut wire, &topic, &damaged(&large)).await, Err(10));
    assert_eq!(append(&mut wire, &topic, &damaged(&large).at(7, -1)).await, Err(87));
    // Contents before the producer: a batch that is fenced and out of its range of timestamps is the latter.
    let control = with_header(&batch_of(id, 0, 0, 1), |header| header.attributes |= CONTROL);
    assert_eq!(append(&mut wire, &topic, &control).await, Err(87));
    // The epoch before the sequence.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 2, 50, 1)).await, Err(47));
    // The right one still goes in.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 3, 1, 1)).await, Ok(1));
}

async fn the_leader_epoch_is_overwritten(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let batch = batch_of(-1, -1, -1, 2);
    for (n, claimed) in [-1, 0, 99].into_iter().enumerate() {
        append(&mut wire, &topic, &batch.at(0, claimed)).await.unwrap();
        let offset = i64::try_from(n).unwrap() * 2;
        let kept = batch_in_log(&mut wire, &topic, offset).await;
        assert_eq!((kept.header.base_offset, kept.header.leader_epoch), (offset, 0));
        assert_eq!(kept.bytes[batch::HEADER_BYTES..], batch.bytes[batch::HEADER_BYTES..]);
        assert_eq!(kept.header.crc, batch.header.crc, "both lie outside of the CRC");
        assert!(!kept.header.has(LOG_APPEND_TIME));
    }
}
