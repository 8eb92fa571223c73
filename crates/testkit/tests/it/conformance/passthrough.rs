//! Batches that are read from one topic and appended to another as they are (3.6 g and h).

use mirrormesh_core::format::batch as core_batch;
use mirrormesh_testkit::broker::batch::{Batch, HEADER_BYTES, LOG_APPEND_TIME};
use mirrormesh_testkit::broker::codec::Codec;

use super::cases;
use super::ops::*;
use super::target::Target;
use super::wire::Wire;

cases!(solo:
    every_codec_passes_through_with_a_patched_crc,
    a_log_append_time_batch_gets_its_create_times_back,
    a_batch_with_a_delete_horizon_keeps_its_timestamps,
    records_of_37_mb_pass,
);

/// Reads a batch raw, stamps it with the product's own code, appends it.
async fn pass(
    wire: &mut Wire,
    from: &Topic,
    to: &Topic,
    offset: i64,
    stamp: core_batch::Stamp,
) -> (Batch, Result<i64, i16>) {
    let data = fetch(wire, from, Ask { bytes_max: 64 << 20, ..Ask::from(offset) }).await;
    let source = core_batch::split(data.records.unwrap()).next().unwrap().unwrap();
    let stamped = source.stamp(stamp).unwrap();
    let mut bytes = stamped.header.to_vec();
    bytes.extend_from_slice(&stamped.body);
    let sent = mirrormesh_testkit::broker::batch::split(bytes.into()).unwrap().remove(0);
    let outcome = append(wire, to, &sent).await;
    (sent, outcome)
}

async fn every_codec_passes_through_with_a_patched_crc(target: Target) {
    let (from, to) = (topic(&target, &[]).await, topic(&target, &[]).await);
    let mut wire = target.wire(1).await;
    let (id, mut sequence) = (some_id(), 0);
    for (n, codec) in (0..).zip(Codec::ALL) {
        let made = packed(batch_of(some_id(), 0, 0, 50).header, codec, &some_records(sequence, 50));
        append(&mut wire, &from, &made).await.unwrap();
        let stamp = core_batch::Stamp { producer_id: id, producer_epoch: 3, base_sequence: sequence };
        let (sent, outcome) = pass(&mut wire, &from, &to, n * 50, stamp).await;
        assert_eq!(outcome, Ok(n * 50), "{codec:?}");
        let kept = batch_in_log(&mut wire, &to, n * 50).await;
        assert_eq!(kept.bytes[HEADER_BYTES..], made.bytes[HEADER_BYTES..], "{codec:?}: not one byte differs");
        assert_eq!((kept.header.crc, kept.header.codec()), (sent.header.crc, codec.number()));
        assert!(kept.is_intact());
        assert_eq!(
            (kept.header.producer_id, kept.header.producer_epoch, kept.header.base_sequence),
            (id, 3, sequence)
        );
        sequence += 50;
    }
    let expected: Vec<_> = (0..250).map(|n| format!("value of {n}")).collect();
    assert_eq!(values(&mut wire, &to).await, expected);
}

async fn a_log_append_time_batch_gets_its_create_times_back(target: Target) {
    let from = topic(&target, &[("message.timestamp.type", "LogAppendTime")]).await;
    let to = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let made = batch_at(some_id(), 0, 0, 3, 1_000_000);
    append(&mut wire, &from, &made).await.unwrap();
    let source = batch_in_log(&mut wire, &from, 0).await;
    assert!(source.header.has(LOG_APPEND_TIME) && source.header.max_timestamp > 1_000_000);
    let stamp = core_batch::Stamp { producer_id: some_id(), producer_epoch: 0, base_sequence: 0 };
    let (sent, outcome) = pass(&mut wire, &from, &to, 0, stamp).await;
    assert_eq!(outcome, Ok(0));
    assert_eq!(sent.header.max_timestamp, source.header.max_timestamp);
    // The broker sees that no record bears the highest timestamp and rewrites it: the append times are lost.
    let kept = batch_in_log(&mut wire, &to, 0).await;
    assert_eq!((kept.header.base_timestamp, kept.header.max_timestamp), (1_000_000, 1_000_000));
    assert!(!kept.header.has(LOG_APPEND_TIME) && kept.is_intact());
}

async fn a_batch_with_a_delete_horizon_keeps_its_timestamps(target: Target) {
    use mirrormesh_testkit::broker::batch::DELETE_HORIZON;
    use mirrormesh_testkit::broker::records;
    let (from, to) = (topic(&target, &[]).await, topic(&target, &[]).await);
    let mut wire = target.wire(1).await;
    // As the cleaner writes it: the base timestamp is the horizon, the deltas go back from there.
    let (create_time, horizon) = (now_ms() - HOUR_MS, now_ms() + 23 * HOUR_MS);
    let mut made = some_records(0, 3);
    made.iter_mut().for_each(|record| record.timestamp_delta = create_time - horizon);
    let mut header = batch_at(some_id(), 0, 0, 3, horizon).header;
    header.max_timestamp = create_time;
    header.attributes |= DELETE_HORIZON;
    append(&mut wire, &from, &Batch::sealed(header, &records::encode(&made))).await.unwrap();
    let stamp = core_batch::Stamp { producer_id: some_id(), producer_epoch: 0, base_sequence: 0 };
    let (_, outcome) = pass(&mut wire, &from, &to, 0, stamp).await;
    assert_eq!(outcome, Ok(0));
    let kept = batch_in_log(&mut wire, &to, 0).await;
    assert!(!kept.header.has(DELETE_HORIZON));
    assert_eq!((kept.header.base_timestamp, kept.header.max_timestamp), (horizon, create_time));
    assert_eq!(records_of(&kept), made, "base timestamp plus delta is the time of creation");
}

async fn records_of_37_mb_pass(target: Target) {
    let settings = [("max.message.bytes", "41943040")];
    let (from, to) = (topic(&target, &settings).await, topic(&target, &settings).await);
    let mut wire = target.wire(1).await;
    let mut records = some_records(0, 1);
    // Noise, so that no codec could make it small.
    let mut noise = vec![0_u8; 37 << 20];
    let mut seed = 1_u32;
    for byte in &mut noise {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (seed >> 24) as u8;
    }
    records[0].value = Some(noise.into());
    let made = packed(batch_of(some_id(), 0, 0, 1).header, Codec::None, &records);
    append(&mut wire, &from, &made).await.unwrap();
    // A batch that is larger than what was asked for comes whole, as the first one.
    let data = fetch(&mut wire, &from, Ask { bytes_max: 1000, ..Ask::from(0) }).await;
    assert_eq!(data.records.unwrap().len(), made.bytes.len());
    let stamp = core_batch::Stamp { producer_id: some_id(), producer_epoch: 0, base_sequence: 0 };
    let (_, outcome) = pass(&mut wire, &from, &to, 0, stamp).await;
    assert_eq!(outcome, Ok(0));
    let kept = fetch(&mut wire, &to, Ask { bytes_max: 1000, ..Ask::from(0) }).await.records.unwrap();
    assert!(kept[HEADER_BYTES..] == made.bytes[HEADER_BYTES..]);
}
