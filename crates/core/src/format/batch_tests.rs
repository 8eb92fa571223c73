//! Tests of `batch`.

use super::*;
use crate::format::samples::{header, make};
use proptest::prelude::*;

fn one(bytes: Bytes) -> RawBatch {
    split(bytes).next().unwrap().unwrap()
}

#[test]
fn stamping_rewrites_the_header_and_keeps_the_records() {
    let mut h = header(77, 4);
    h.attributes = TRANSACTIONAL | LOG_APPEND_TIME | DELETE_HORIZON | 4;
    let batch = one(make(h, b"some records"));
    let stamped = batch.stamp(Stamp { producer_id: 9, producer_epoch: 2, base_sequence: 100 }).unwrap();
    let mut bytes = stamped.header.to_vec();
    bytes.extend_from_slice(&stamped.body);
    let again = one(Bytes::from(bytes.clone()));
    assert_eq!(again.header.crc, crc32c::crc32c(&bytes[CRC_START..]));
    assert_eq!((again.header.base_offset, again.header.attributes, again.header.count), (0, 4, 4));
    assert_eq!(
        (again.header.producer_id, again.header.producer_epoch, again.header.base_sequence),
        (9, 2, 100)
    );
    assert_eq!((again.header.base_timestamp, again.header.max_timestamp), (1_000, 1_004));
    assert_eq!(&again.bytes[HEADER_BYTES..], b"some records");
    assert_eq!(stamped.body.as_ptr(), batch.bytes[HEADER_BYTES..].as_ptr(), "no copy");
}

#[test]
fn damage_is_seen() {
    let mut bytes = make(header(5, 1), b"abc").to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let stamp = Stamp { producer_id: 1, producer_epoch: 0, base_sequence: 0 };
    let damaged = one(Bytes::from(bytes));
    assert!(matches!(damaged.stamp_checked(stamp), Err(BatchError::Corrupt { offset: 5, .. })));
    // Without a look at the records their damage stays one: the target will find the checksum wrong.
    let stamped = damaged.stamp(stamp).unwrap();
    let again = one(Bytes::from([&stamped.header[..], &stamped.body].concat()));
    assert!(matches!(again.stamp_checked(stamp), Err(BatchError::Corrupt { .. })));
}

#[test]
fn a_checksum_is_the_same_with_and_without_reading_the_records() {
    let batch = one(make(header(5, 3), b"some more records"));
    let stamp = Stamp { producer_id: 1, producer_epoch: 2, base_sequence: 3 };
    let (quick, checked) = (batch.stamp(stamp).unwrap(), batch.stamp_checked(stamp).unwrap());
    assert_eq!((quick.header, quick.body_crc), (checked.header, checked.body_crc));
    assert_eq!(quick.body_crc, crc32c::crc32c(b"some more records"));
}

#[test]
fn splitting_stops_at_a_partial_batch_and_names_bad_ones() {
    let two = [make(header(0, 2), b"xx"), make(header(2, 3), b"yyy")].concat();
    let whole: Vec<_> = split(Bytes::from(two.clone())).map(|b| b.unwrap().header.base_offset).collect();
    assert_eq!(whole, [0, 2]);
    let cut = Bytes::copy_from_slice(&two[..two.len() - 1]);
    assert_eq!(split(cut).count(), 1);
    let mut old = two.clone();
    old[16] = 1;
    assert!(matches!(split(Bytes::from(old)).next(), Some(Err(BatchError::OldFormat { magic: 1, .. }))));
    let mut lying = two;
    lying[8..12].copy_from_slice(&(-5_i32).to_be_bytes());
    assert!(matches!(split(Bytes::from(lying)).next(), Some(Err(BatchError::BadLength { length: -5, .. }))));
    let counting = |count, body: &[u8]| split(make(BatchHeader { count, ..header(0, 2) }, body)).next();
    assert!(matches!(counting(9, b""), Some(Err(BatchError::BadCount { .. }))));
    assert!(
        matches!(counting(0, b"xx"), Some(Err(BatchError::BadCount { .. }))),
        "they would be passed over"
    );
    assert!(matches!(counting(0, b""), Some(Ok(_))), "what a cleaner leaves");
}

#[test]
fn control_records_are_read() {
    let control = |kind: u8| {
        let body = [0x16, 0x00, 0x00, 0x00, 0x08, 0, 0, 0, kind, 0x0c, 0, 0, 0, 0, 0, 0, 0];
        one(make(BatchHeader { attributes: CONTROL | TRANSACTIONAL, ..header(0, 1) }, &body))
    };
    assert_eq!(control_kind(&control(0)), ControlKind::Abort);
    assert_eq!(control_kind(&control(1)), ControlKind::Commit);
    assert_eq!(control_kind(&one(make(BatchHeader { count: 0, ..header(0, 1) }, &[]))), ControlKind::Other);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in 0_u8..4) {
        let mut bytes = bytes;
        if let Some(b) = bytes.get_mut(16) { *b = magic; }
        for batch in split(Bytes::from(bytes)).flatten() {
            control_kind(&batch);
            drop(batch.stamp_checked(Stamp { producer_id: 0, producer_epoch: 0, base_sequence: 0 }));
        }
    }
}
