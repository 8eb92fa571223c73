//! Tests of rebuilding and identifying.

use mirrormesh_core::format::batch::{RawBatch, split};
use mirrormesh_relay::rebuild::{Codecs as _, Oversized, Piece, RebuildPlan, Rebuilt, Run};

use super::*;

const CODECS: RecordCodecs = RecordCodecs::new(LIMIT);
const ALL: RebuildPlan = RebuildPlan { bytes_max: LIMIT, ..RebuildPlan::ALL };

/// A batch as a source has it: offsets as the records say, a place behind the last one for each of `behind`.
fn source(records: &[Record], codec: Codec, behind: i32) -> RawBatch {
    let base = records[0].offset;
    let delta = |_, offset: i64| i32::try_from(offset - base).ok();
    let mut bytes = encode_with(records, codec, PRODUCER, base, delta).unwrap().to_vec();
    let last = i32::from_be_bytes(at(&bytes, 23)) + behind;
    bytes[23..27].copy_from_slice(&last.to_be_bytes());
    raw(sealed(bytes))
}

fn raw(bytes: Bytes) -> RawBatch {
    split(bytes).next().unwrap().unwrap()
}

fn numbered(offsets: impl IntoIterator<Item = i64>, value: impl Fn(i64) -> Vec<u8>) -> Vec<Record> {
    let record = |offset| Record {
        offset,
        timestamp: 1_700_000_000_000 + offset,
        key: Some(Bytes::from(offset.to_string())),
        value: Some(Bytes::from(value(offset))),
        headers: vec![],
    };
    offsets.into_iter().map(record).collect()
}

/// Bytes that nothing compresses.
fn noise(seed: i64, count: usize) -> Vec<u8> {
    let mut state = seed.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..count).map(step).collect()
}

/// What pieces hold, at their source offsets; checks what is true of every piece.
fn contents(rebuilt: &Rebuilt, codec: Codec, bytes_max: usize) -> Vec<Record> {
    let mut all = Vec::new();
    for piece in &rebuilt.pieces {
        let header = piece.batch.header;
        assert!(piece.batch.bytes.len() <= bytes_max, "{} > {bytes_max}", piece.batch.bytes.len());
        assert_eq!((header.base_offset, header.attributes), (0, codec.attributes()));
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (-1, -1, -1));
        assert!(header.is_dense());
        let records = decode_records(&piece.batch.bytes, LIMIT * 4).unwrap();
        assert_eq!(header.max_timestamp, records.iter().map(|r| r.timestamp).max().unwrap());
        let offsets: Vec<i64> = piece.runs.iter().flat_map(|run| run.first..run.first + run.count).collect();
        assert!(piece.runs.windows(2).all(|two| two[0].first + two[0].count < two[1].first), "joined");
        assert_eq!(offsets.len(), records.len());
        assert!(piece.next_source > *offsets.last().unwrap());
        for (place, (mut record, offset)) in (0..).zip(records.into_iter().zip(offsets)) {
            assert_eq!(record.offset, place);
            record.offset = offset;
            all.push(record);
        }
    }
    all
}

#[test]
fn gaps_are_closed_and_nothing_else_changes() {
    let mut gappy = records();
    for (record, offset) in gappy.iter_mut().zip([500, 501, 900]) {
        record.offset = offset;
    }
    for codec in Codec::ALL {
        let rebuilt = CODECS.rebuild(&[source(&gappy, codec, 5)], &ALL).unwrap();
        assert_eq!(contents(&rebuilt, codec, LIMIT), gappy, "{codec:?}");
        let [piece] = &rebuilt.pieces[..] else { panic!("{rebuilt:?}") };
        assert_eq!(piece.runs, [Run { first: 500, count: 2 }, Run { first: 900, count: 1 }]);
        assert_eq!(piece.next_source, 906, "behind the batch, not behind the record");
        assert_eq!(rebuilt.oversized, None);
    }
}

#[test]
fn several_batches_become_one_in_the_first_ones_codec() {
    let batches = [
        source(&numbered(10..20, |_| vec![1; 100]), Codec::Lz4, 0),
        source(&numbered(20..21, |_| vec![2; 100]), Codec::None, 3),
        source(&numbered(30..40, |_| vec![3; 100]), Codec::Zstd, 0),
    ];
    let rebuilt = CODECS.rebuild(&batches, &RebuildPlan { from: 15, ..ALL }).unwrap();
    let found: Vec<i64> = contents(&rebuilt, Codec::Lz4, LIMIT).iter().map(|r| r.offset).collect();
    assert_eq!(found, (15..21).chain(30..40).collect::<Vec<_>>());
    assert_eq!(rebuilt.pieces.len(), 1);
    assert_eq!(rebuilt.pieces[0].next_source, 40);
    let none = CODECS.rebuild(&batches, &RebuildPlan { from: 40, ..ALL }).unwrap();
    assert!(none.pieces.is_empty() && none.oversized.is_none());
    assert!(CODECS.rebuild(&[], &ALL).unwrap().pieces.is_empty());
}

#[test]
fn pieces_fit_and_are_few() {
    // Half of each value can be compressed; the last third of the records not at all.
    let records = numbered(0..600, |n| [noise(n, if n < 400 { 500 } else { 1000 }), vec![0; 500]].concat());
    for codec in Codec::ALL {
        let whole = source(&records, codec, 0);
        for bytes_max in [5_000, 50_000, 200_000] {
            let plan = RebuildPlan { bytes_max, ..ALL };
            let rebuilt = CODECS.rebuild(std::slice::from_ref(&whole), &plan).unwrap();
            assert_eq!(contents(&rebuilt, codec, bytes_max), records, "{codec:?} {bytes_max}");
            let fewest = whole.bytes.len().div_ceil(bytes_max);
            let found = rebuilt.pieces.len();
            assert!(
                found <= fewest * 3 / 2 + 2,
                "{codec:?}: {found} pieces of {bytes_max}, {fewest} at best"
            );
            let ends: Vec<i64> = rebuilt.pieces.iter().map(|piece| piece.next_source).collect();
            assert!(ends.is_sorted_by(|a, b| a < b) && ends.last() == Some(&600));
        }
    }
}

#[test]
fn a_size_is_used_to_the_last_byte() {
    let records = numbered(0..3, |_| vec![9; 50]);
    let whole = source(&records, Codec::None, 0);
    let bytes = whole.bytes.len();
    let count = |bytes_max| {
        let plan = RebuildPlan { bytes_max, ..ALL };
        CODECS.rebuild(std::slice::from_ref(&whole), &plan).unwrap().pieces.len()
    };
    assert_eq!((count(bytes), count(bytes - 1)), (1, 2));
}

#[test]
fn pieces_fit_without_compression_and_by_records() {
    let records = numbered(0..40, |n| if n == 7 { vec![7; 9_000] } else { vec![1; 400] });
    for codec in Codec::ALL {
        let whole = source(&records, codec, 0);
        let plan = RebuildPlan { plain_bytes_max: 2_000, ..ALL };
        let rebuilt = CODECS.rebuild(std::slice::from_ref(&whole), &plan).unwrap();
        assert_eq!(contents(&rebuilt, codec, LIMIT), records, "{codec:?}");
        if codec != Codec::None {
            let unpacked = |piece: &Piece| {
                let ids = CODECS.identify(&piece.batch).unwrap();
                ids.iter().map(|id| if id.offset == 7 { 9_000 } else { 400 }).sum::<usize>()
            };
            let largest =
                rebuilt.pieces.iter().filter(|piece| piece.batch.header.count > 1).map(unpacked).max();
            assert!(largest.is_some_and(|bytes| bytes <= 2_000), "{codec:?}: {largest:?}");
            assert!(rebuilt.oversized.is_none(), "{codec:?}: one alone may be larger without compression");
        }
        let plan = RebuildPlan { records_max: 7, ..ALL };
        let rebuilt = CODECS.rebuild(std::slice::from_ref(&whole), &plan).unwrap();
        assert_eq!(contents(&rebuilt, codec, LIMIT), records, "{codec:?}");
        assert!(rebuilt.pieces.iter().all(|piece| piece.batch.header.count <= 7), "{codec:?}");
    }
}

#[test]
fn a_record_that_is_too_large_ends_the_pieces() {
    let records = numbered(0..10, |n| noise(n, if n == 6 { 9000 } else { 300 }));
    for codec in Codec::ALL {
        let plan = RebuildPlan { bytes_max: 2000, ..ALL };
        let rebuilt = CODECS.rebuild(&[source(&records, codec, 0)], &plan).unwrap();
        assert_eq!(contents(&rebuilt, codec, 2000), records[..6], "{codec:?}");
        let alone = encode_records(&records[6..7], codec, Producer::NONE).unwrap().len();
        assert_eq!(rebuilt.oversized, Some(Oversized { offset: 6, bytes: alone }), "{codec:?}");
        assert_eq!(rebuilt.pieces.last().unwrap().next_source, 6);
    }
}

#[test]
fn timestamps_are_clamped_save_none() {
    let batch = source(&records(), Codec::Gzip, 0);
    let plan = RebuildPlan { clamp: Some((1_699_999_999_500, 1_699_999_999_900)), ..ALL };
    let rebuilt = CODECS.rebuild(&[batch], &plan).unwrap();
    let times: Vec<i64> = contents(&rebuilt, Codec::Gzip, LIMIT).iter().map(|r| r.timestamp).collect();
    assert_eq!(times, [1_699_999_999_900, 1_699_999_999_500, -1]);
}

#[test]
fn append_time_stays_with_the_records() {
    let mut bytes = source(&records(), Codec::None, 0).bytes.to_vec();
    bytes[22] |= 0x08;
    bytes[35..43].copy_from_slice(&1_800_000_000_000_i64.to_be_bytes());
    let batch = raw(sealed(bytes));
    let rebuilt = CODECS.rebuild(std::slice::from_ref(&batch), &ALL).unwrap();
    let found = contents(&rebuilt, Codec::None, LIMIT);
    assert!(found.iter().all(|record| record.timestamp == 1_800_000_000_000));
    assert!(CODECS.identify(&batch).unwrap().iter().all(|id| id.timestamp == 1_800_000_000_000));
}

#[test]
fn times_that_are_too_far_apart_are_parted() {
    let mut far = records();
    far[0].timestamp = 5;
    far[1].timestamp = i64::MAX;
    for codec in [Codec::None, Codec::Snappy] {
        let low = source(&far[..1], codec, 0);
        let high = source(&far[1..2], codec, 0);
        let mut first = low.bytes.to_vec();
        first[27..35].copy_from_slice(&(-5_i64).to_be_bytes());
        let batches = [raw(sealed(first)), high];
        let rebuilt = CODECS.rebuild(&batches, &ALL).unwrap();
        assert_eq!(rebuilt.pieces.len(), 2, "{codec:?}");
        let times: Vec<i64> = rebuilt.pieces.iter().map(|piece| piece.batch.header.max_timestamp).collect();
        assert_eq!(times, [-5, i64::MAX]);
    }
}

#[test]
fn refusals_name_the_batch() {
    let good = source(&numbered(7..9, |_| vec![1]), Codec::None, 0);
    let broken = |damage: Damage| {
        let mut bytes = good.bytes.to_vec();
        damage(&mut bytes);
        raw(sealed(bytes))
    };
    let cases: [(&str, RawBatch); 4] = [
        ("control", broken(|b| b[22] |= 0x20)),
        ("codec 6", broken(|b| b[22] = 6)),
        ("after a higher one", broken(|b| b[HEADER_BYTES + 3] = 2)),
        ("bytes follow", broken(|b| b.push(0))),
    ];
    for (problem, batch) in cases {
        let error = CODECS.rebuild(&[batch], &ALL).unwrap_err();
        assert_eq!(error.offset, 7);
        assert!(error.problem.contains(problem), "{problem}: {error}");
    }
    let mut damaged = good.clone();
    damaged.bytes = [&good.bytes[..good.bytes.len() - 1], b"x"].concat().into();
    assert!(CODECS.rebuild(&[damaged.clone()], &ALL).unwrap_err().problem.contains("checksum"));
    assert!(CODECS.identify(&damaged).unwrap_err().problem.contains("checksum"));
    assert!(CODECS.rebuild(&[good.clone(), good], &ALL).unwrap_err().problem.contains("after a higher one"));
}

fn hash_of(record: &Record) -> u64 {
    CODECS.identify(&source(std::slice::from_ref(record), Codec::None, 0)).unwrap()[0].content
}

#[test]
fn a_hash_tells_all_that_differs() {
    let some = |text: &'static str| Some(bytes(text));
    let record = |key, value, headers| Record { offset: 3, timestamp: 9, key, value, headers };
    let different = [
        record(None, None, vec![]),
        record(some(""), None, vec![]),
        record(None, some(""), vec![]),
        record(some(""), some(""), vec![]),
        record(some("ab"), some("c"), vec![]),
        record(some("a"), some("bc"), vec![]),
        record(some("a"), some("bc\0"), vec![]),
        record(some("abcdefgh"), some("a"), vec![]),
        record(some("abcdefgh\0"), some("a"), vec![]),
        record(None, None, vec![(bytes(""), None)]),
        record(None, None, vec![(bytes(""), some(""))]),
        record(None, None, vec![(bytes("a"), some("1")), (bytes("a"), some("2"))]),
        record(None, None, vec![(bytes("a"), some("2")), (bytes("a"), some("1"))]),
        record(None, None, vec![(bytes("a"), some("2"))]),
    ];
    let mut hashes: Vec<u64> = different.iter().map(hash_of).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), different.len());
    // Neither place nor time counts; the function is the same for ever.
    let moved = Record { offset: 99, timestamp: 1, ..records()[0].clone() };
    assert_eq!(hash_of(&moved), hash_of(&records()[0]));
    assert_eq!(hash_of(&record(some("key"), some("a value"), vec![])), 12_439_850_338_989_261_781);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever is rebuilt holds the same records, and says the same of them.
    #[test]
    fn rebuilding_loses_nothing(
        mut records in prop::collection::vec((any_record(), 1_i64..4), 1..40),
        codecs in prop::collection::vec(any_codec(), 3),
        bytes_max in 150_usize..3000,
        from in 0_i64..60,
    ) {
        let mut offset = 0;
        for (record, step) in &mut records {
            offset += *step;
            record.offset = offset;
        }
        let records: Vec<Record> = records.into_iter().map(|(record, _)| record).collect();
        let batches: Vec<RawBatch> =
            records.chunks(15).zip(&codecs).map(|(records, codec)| source(records, *codec, 0)).collect();
        let plan = RebuildPlan { from, bytes_max, ..RebuildPlan::ALL };
        let rebuilt = CODECS.rebuild(&batches, &plan).unwrap();
        let mut wanted: Vec<Record> = records.iter().filter(|record| record.offset >= from).cloned().collect();
        if let Some(oversized) = rebuilt.oversized {
            prop_assert!(oversized.bytes > bytes_max);
            wanted.retain(|record| record.offset < oversized.offset);
        } else if let Some(piece) = rebuilt.pieces.last() {
            prop_assert_eq!(piece.next_source, offset + 1);
        }
        prop_assert_eq!(&contents(&rebuilt, codecs[0], bytes_max), &wanted);
        let ids = |batches: &mut dyn Iterator<Item = &RawBatch>| -> Vec<u64> {
            batches.flat_map(|batch| CODECS.identify(batch).unwrap()).map(|id| id.content).collect()
        };
        let before: Vec<u64> = batches.iter().flat_map(|batch| CODECS.identify(batch).unwrap())
            .filter(|id| id.offset >= from).map(|id| id.content).take(wanted.len()).collect();
        prop_assert_eq!(ids(&mut rebuilt.pieces.iter().map(|piece| &piece.batch)), before);
    }
}
