//! What a broker makes of the records inside of a batch.

use bytes::Bytes;
use mirrormesh_testkit::broker::batch::{Batch, DELETE_HORIZON, LOG_APPEND_TIME};
use mirrormesh_testkit::broker::codec::Codec;
use mirrormesh_testkit::broker::records;

use super::cases;
use super::ops::*;
use super::target::Target;

cases!(solo:
    a_compacted_topic_needs_keys,
    timestamps_from_the_future_are_refused_by_default_since_4_0,
    timestamps_may_be_limited_both_ways,
    no_timestamp_is_a_timestamp,
    records_must_be_readable,
    compressed_records_must_be_readable,
    an_unknown_codec_is_refused,
    inner_offsets_of_compressed_batches_must_be_in_order,
    inner_offsets_of_plain_batches_are_not_looked_at,
    the_topic_may_choose_the_codec,
    a_wrong_max_timestamp_is_put_right,
    the_log_append_time_bit_is_refused_by_topics_of_that_kind,
    the_log_append_time_bit_is_cleared_by_others,
    a_log_append_time_topic_sets_its_own_time,
    the_delete_horizon_bit_is_kept,
);

async fn a_compacted_topic_needs_keys(target: Target) {
    let topic = topic(&target, &[("cleanup.policy", "compact")]).await;
    let mut wire = target.wire(1).await;
    for codec in [Codec::None, Codec::Lz4] {
        let mut records = some_records(0, 3);
        records[1].key = None;
        let answer = send(&mut wire, &topic, &packed(batch_of(-1, -1, -1, 3).header, codec, &records)).await;
        assert_eq!(answer.error_code, 87);
        let told: Vec<_> = answer.record_errors.iter().map(|error| error.batch_index).collect();
        assert_eq!(told, [1], "{codec:?}");
    }
    assert_eq!(append(&mut wire, &topic, &batch_of(-1, -1, -1, 3)).await, Ok(0));
}

async fn timestamps_from_the_future_are_refused_by_default_since_4_0(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let early = batch_at(-1, -1, -1, 2, now_ms() + HOUR_MS / 2);
    assert_eq!(append(&mut wire, &topic, &early).await, Ok(0));
    let late = send(&mut wire, &topic, &batch_at(-1, -1, -1, 2, now_ms() + 2 * HOUR_MS)).await;
    assert_eq!(late.error_code, if target.is_4_3() { 32 } else { 0 });
    assert_eq!(late.record_errors.len(), if target.is_4_3() { 2 } else { 0 });
    // The past has no limit.
    let old = batch_at(-1, -1, -1, 2, 1000);
    assert_eq!(append(&mut wire, &topic, &old).await, Ok(if target.is_4_3() { 2 } else { 4 }));
}

async fn timestamps_may_be_limited_both_ways(target: Target) {
    let limits =
        [("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.after.max.ms", "60000")];
    let topic = topic(&target, &limits).await;
    let mut wire = target.wire(1).await;
    for (ago, code) in [(2 * HOUR_MS, 32), (HOUR_MS / 2, 0), (-30_000, 0), (-120_000, 32)] {
        let answer = send(&mut wire, &topic, &batch_at(-1, -1, -1, 1, now_ms() - ago)).await;
        assert_eq!(answer.error_code, code, "{ago} ms ago");
    }
    // One record is enough; which one is told.
    let mut records = some_records(0, 3);
    records[2].timestamp_delta = -2 * HOUR_MS;
    let answer =
        send(&mut wire, &topic, &packed(batch_of(-1, -1, -1, 3).header, Codec::Gzip, &records)).await;
    let told: Vec<_> = answer.record_errors.iter().map(|error| error.batch_index).collect();
    assert_eq!((answer.error_code, told), (32, vec![2]));
}

async fn no_timestamp_is_a_timestamp(target: Target) {
    let topic = topic(&target, &[("message.timestamp.before.max.ms", "1000")]).await;
    let mut wire = target.wire(1).await;
    assert_eq!(append(&mut wire, &topic, &batch_at(-1, -1, -1, 2, -1)).await, Ok(0));
    let kept = batch_in_log(&mut wire, &topic, 0).await;
    assert_eq!((kept.header.base_timestamp, kept.header.max_timestamp), (-1, -1));
}

/// Taken, or the code.
type Verdict = Result<(), i16>;

/// Bodies that are not what the header says, and the codes for them, plain and compressed.
fn unreadable() -> Vec<(&'static str, Bytes, Verdict, Verdict)> {
    let encode = |count| records::encode(&some_records(0, count));
    let mut more = encode(3).to_vec();
    more.push(0);
    let mut lying = encode(3).to_vec();
    lying[0] ^= 0x08;
    vec![
        ("a record less", encode(2), Err(87), Err(87)),
        ("a record more", encode(4), Err(87), Err(87)),
        ("a byte more", more.into(), Err(87), Err(87)),
        // Compressed records are skipped through by their fields.
        ("a wrong length", lying.into(), Err(87), Ok(())),
        ("nothing", Bytes::new(), Err(87), Err(87)),
        ("no number", Bytes::from_static(&[0xff; 40]), Err(-1), Err(87)),
    ]
}

async fn records_must_be_readable(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    for (what, body, plain, _) in unreadable() {
        let batch = Batch::sealed(batch_of(-1, -1, -1, 3).header, &body);
        assert_eq!(append(&mut wire, &topic, &batch).await.map(drop), plain, "{what}");
    }
    assert_eq!(end(&mut wire, &topic).await, 0);
}

async fn compressed_records_must_be_readable(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    for codec in Codec::ALL.into_iter().skip(1) {
        let mut header = batch_of(-1, -1, -1, 3).header;
        header.attributes |= codec.number();
        for (what, body, _, packed) in unreadable() {
            let batch = Batch::sealed(header, &codec.compress(&body).unwrap());
            assert_eq!(append(&mut wire, &topic, &batch).await.map(drop), packed, "{codec:?}: {what}");
        }
        // Not even packed.
        let noise = Batch::sealed(header, &[0x5a; 50]);
        assert_eq!(append(&mut wire, &topic, &noise).await, Err(-1), "{codec:?}: noise");
    }
    // One of each codec was taken.
    assert_eq!(end(&mut wire, &topic).await, 12);
}

async fn an_unknown_codec_is_refused(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    for number in [5, 6, 7] {
        let batch = with_header(&batch_of(-1, -1, -1, 2), |header| header.attributes |= number);
        assert_eq!(append(&mut wire, &topic, &batch).await, Err(-1), "codec {number}");
    }
}

/// The broker would build such a batch anew, but has skipped its keys and values, and fails.
async fn inner_offsets_of_compressed_batches_must_be_in_order(target: Target) {
    let topic = topic(&target, &[]).await;
    let recompressing = super::ops::topic(&target, &[("compression.type", "gzip")]).await;
    let mut wire = target.wire(1).await;
    for deltas in [[0, 1, 7], [0, 2, 1], [1, 2, 3], [0, 0, 0]] {
        let mut records = some_records(0, 3);
        records.iter_mut().zip(deltas).for_each(|(record, delta)| record.offset_delta = delta);
        for codec in Codec::ALL.into_iter().skip(1) {
            let batch = packed(batch_of(some_id(), 0, 0, 3).header, codec, &records);
            assert_eq!(append(&mut wire, &topic, &batch).await, Err(-1), "{codec:?} {deltas:?}");
        }
        // Where it reads all of it for another reason, it puts them right.
        let batch = packed(batch_of(some_id(), 0, 0, 3).header, Codec::Lz4, &records);
        let offset = append(&mut wire, &recompressing, &batch).await.unwrap();
        let kept = batch_in_log(&mut wire, &recompressing, offset).await;
        let kept: Vec<_> = records_of(&kept).iter().map(|record| record.offset_delta).collect();
        assert_eq!(kept, [0, 1, 2], "{deltas:?}");
    }
    assert_eq!(end(&mut wire, &topic).await, 0);
}

async fn inner_offsets_of_plain_batches_are_not_looked_at(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let mut records = some_records(0, 3);
    records[2].offset_delta = 7;
    let batch = packed(batch_of(-1, -1, -1, 3).header, Codec::None, &records);
    assert_eq!(append(&mut wire, &topic, &batch).await, Ok(0));
    assert_eq!(batch_in_log(&mut wire, &topic, 0).await.body(), batch.body());
}

async fn the_topic_may_choose_the_codec(target: Target) {
    let topic = topic(&target, &[("compression.type", "gzip")]).await;
    let mut wire = target.wire(1).await;
    for (n, codec) in (0..).zip([Codec::None, Codec::Lz4, Codec::Gzip]) {
        let sent = packed(batch_of(-1, -1, -1, 3).header, codec, &some_records(0, 3));
        assert_eq!(append(&mut wire, &topic, &sent).await, Ok(n * 3));
        let kept = batch_in_log(&mut wire, &topic, n * 3).await;
        assert_eq!(kept.header.codec(), Codec::Gzip.number());
        assert_eq!(records_of(&kept), some_records(0, 3));
        // Only what has the codec already stays as it is.
        assert_eq!(kept.body() == sent.body(), codec == Codec::Gzip);
    }
}

async fn a_wrong_max_timestamp_is_put_right(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    for (n, codec) in (0..).zip([Codec::None, Codec::Zstd]) {
        let sent = packed(batch_of(-1, -1, -1, 3).header, codec, &some_records(0, 3));
        let wrong = with_header(&sent, |header| header.max_timestamp += 12_345);
        assert_eq!(append(&mut wire, &topic, &wrong).await, Ok(n * 3));
        let kept = batch_in_log(&mut wire, &topic, n * 3).await;
        assert_eq!(kept.header.max_timestamp, sent.header.max_timestamp, "{codec:?}");
        assert_eq!((kept.header.crc, kept.body()), (sent.header.crc, sent.body()), "{codec:?}");
    }
}

async fn the_log_append_time_bit_is_refused_by_topics_of_that_kind(target: Target) {
    let topic = topic(&target, &[("message.timestamp.type", "LogAppendTime")]).await;
    let mut wire = target.wire(1).await;
    let batch = with_header(&batch_of(-1, -1, -1, 2), |header| header.attributes |= LOG_APPEND_TIME);
    assert_eq!(append(&mut wire, &topic, &batch).await, Err(32));
}

async fn the_log_append_time_bit_is_cleared_by_others(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let create_time = now_ms() - HOUR_MS;
    for (n, codec) in (0..).zip([Codec::None, Codec::Snappy]) {
        // As a batch of a log-append-time topic reads: its time is the highest timestamp, the records' are older.
        let sent = packed(batch_at(-1, -1, -1, 2, create_time).header, codec, &some_records(0, 2));
        let source = with_header(&sent, |header| {
            header.attributes |= LOG_APPEND_TIME;
            header.max_timestamp = create_time + 60_000;
        });
        assert_eq!(append(&mut wire, &topic, &source).await, Ok(n * 2));
        let kept = batch_in_log(&mut wire, &topic, n * 2).await;
        assert!(!kept.header.has(LOG_APPEND_TIME), "{codec:?}");
        // The batch says the append time, its records their own times again.
        assert_eq!(kept.header.max_timestamp, create_time + 60_000, "{codec:?}");
        assert_eq!((kept.header.base_timestamp, kept.body()), (create_time, sent.body()), "{codec:?}");
    }
}

async fn a_log_append_time_topic_sets_its_own_time(target: Target) {
    let topic = topic(&target, &[("message.timestamp.type", "LogAppendTime")]).await;
    let (mut wire, id) = (target.wire(1).await, some_id());
    let (before, sent) = (now_ms(), batch_at(id, 0, 0, 2, 1000));
    let first = send(&mut wire, &topic, &sent).await;
    let again = send(&mut wire, &topic, &sent).await;
    assert_eq!((first.error_code, again.error_code, again.base_offset), (0, 0, 0));
    let kept = batch_in_log(&mut wire, &topic, 0).await;
    assert!(kept.header.has(LOG_APPEND_TIME));
    assert!((before..=now_ms()).contains(&kept.header.max_timestamp));
    assert_eq!((kept.header.base_timestamp, kept.body()), (1000, sent.body()));
    // A repeat can't be told from an append here: both have a time.
    assert_eq!(first.log_append_time_ms, kept.header.max_timestamp);
    assert_eq!(again.log_append_time_ms, kept.header.max_timestamp);
}

async fn the_delete_horizon_bit_is_kept(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let sent = with_header(&batch_of(-1, -1, -1, 2), |header| header.attributes |= DELETE_HORIZON);
    assert_eq!(append(&mut wire, &topic, &sent).await, Ok(0));
    let kept = batch_in_log(&mut wire, &topic, 0).await;
    assert_eq!((kept.header.attributes, kept.header.crc), (DELETE_HORIZON, sent.header.crc));
}
