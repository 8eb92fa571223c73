//! Tests of the old message formats, on bytes that Kafka's own Java library wrote (testdata/batches/README.md).

use mirrormesh_relay::rebuild::{Codecs as _, RebuildPlan, Run};

use super::*;

const CODECS: RecordCodecs = RecordCodecs::new(LIMIT);

macro_rules! golden {
    ($name:literal) => {
        Bytes::from_static(include_bytes!(concat!("../../../testdata/batches/", $name, ".bin")))
    };
}

fn big() -> Vec<u8> {
    (0..100_000_u32).map(|i| u8::try_from(i / 1000).unwrap()).collect()
}

/// What all of the files hold; the last value differs.
fn written(format: u8, last: &[u8]) -> Vec<Record> {
    let times = [1_500_000_000_000, 1_500_000_000_500, -1, 1_400_000_000_000];
    let contents: [(Option<Bytes>, Option<Bytes>); 4] = [
        (Some(bytes("key")), Some(bytes("value"))),
        (Some(bytes("gone")), None),
        (None, Some(bytes(""))),
        (Some(bytes("")), Some(Bytes::copy_from_slice(last))),
    ];
    let places = [1000, 1001, 1004, 1007].into_iter().zip(times).zip(contents);
    places
        .map(|((offset, timestamp), (key, value))| Record {
            offset,
            timestamp: if format == 0 { -1 } else { timestamp },
            key,
            value,
            headers: vec![],
        })
        .collect()
}

#[test]
fn wrappers_of_java_are_read() {
    let files = [
        (0, Codec::Gzip, golden!("v0-gzip")),
        (0, Codec::Snappy, golden!("v0-snappy")),
        (0, Codec::Lz4, golden!("v0-lz4")),
        (1, Codec::Gzip, golden!("v1-gzip")),
        (1, Codec::Snappy, golden!("v1-snappy")),
        (1, Codec::Lz4, golden!("v1-lz4")),
    ];
    for (format, codec, file) in files {
        let batch = CODECS.modernise(&file).unwrap();
        assert_eq!(
            decode_records(&batch.bytes, LIMIT).unwrap(),
            written(format, &big()),
            "{format} {codec:?}"
        );
        let header = batch.header;
        assert_eq!((header.base_offset, header.last_offset_delta, header.count), (1000, 7, 4));
        assert_eq!(header.attributes, codec.attributes());
        assert_eq!(header.max_timestamp, if format == 0 { -1 } else { 1_500_000_000_500 });
        let plan = RebuildPlan { from: 1001, bytes_max: LIMIT, ..RebuildPlan::ALL };
        let rebuilt = CODECS.rebuild(&[batch], &plan).unwrap();
        let runs = [(1001, 1), (1004, 1), (1007, 1)].map(|(first, count)| Run { first, count });
        assert_eq!(rebuilt.pieces[0].runs, runs);
        assert_eq!(rebuilt.pieces[0].next_source, 1008);
    }
}

#[test]
fn append_time_of_a_wrapper_is_its_records() {
    for file in [golden!("v1-gzip-append"), golden!("v1-snappy-append"), golden!("v1-lz4-append")] {
        let batch = CODECS.modernise(&file).unwrap();
        let records = decode_records(&batch.bytes, LIMIT).unwrap();
        assert_eq!(records.len(), 4);
        assert!(records.iter().all(|record| record.timestamp == 1_600_000_000_000));
        assert!(!batch.header.is_log_append_time());
    }
}

/// Brokers before 0.11 left the producer's times inside.
#[test]
fn append_time_of_a_wrapper_hides_the_times_inside() {
    let mut inner = entry(0, 1, 0, b"v");
    inner[18..26].copy_from_slice(&5_i64.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&inner[16..]);
    inner[12..16].copy_from_slice(&crc.sum().to_be_bytes());
    for (attributes, wanted) in [(0, 5), (0x08, 77)] {
        let body = codec::compress(Codec::Gzip, &inner).unwrap();
        let batch = CODECS.modernise(&entry(9, 1, attributes | 1, &body).into()).unwrap();
        assert_eq!(decode_records(&batch.bytes, LIMIT).unwrap()[0].timestamp, wanted);
    }
}

/// The entries of a series, each whole.
fn entries(mut series: Bytes) -> Vec<Bytes> {
    let mut entries = Vec::new();
    while !series.is_empty() {
        let size = usize::try_from(i32::from_be_bytes(at(&series, 8))).unwrap();
        entries.push(series.split_to(LOG_OVERHEAD + size));
    }
    entries
}

#[test]
fn bare_records_of_java_are_read() {
    let append: Vec<Record> = written(1, b"last")
        .into_iter()
        .map(|record| Record { timestamp: 1_600_000_000_000, ..record })
        .collect();
    let files = [
        (golden!("v0-none"), written(0, b"last")),
        (golden!("v1-none"), written(1, b"last")),
        (golden!("v1-none-append"), append),
    ];
    for (file, wanted) in files {
        let batches = entries(file).into_iter().map(|entry| CODECS.modernise(&entry).unwrap());
        let found: Vec<Record> =
            batches.flat_map(|batch| decode_records(&batch.bytes, LIMIT).unwrap()).collect();
        assert_eq!(found, wanted);
    }
}

/// Java's batches of format 2, larger than a block of each codec.
#[test]
fn batches_of_java_are_read() {
    let mut wanted = written(2, &big());
    wanted[3].headers = vec![(bytes("h"), Some(bytes("1"))), (bytes("h"), None)];
    for file in [golden!("v2-gzip"), golden!("v2-snappy"), golden!("v2-lz4"), golden!("v2-zstd")] {
        assert_eq!(decode_records(&file, LIMIT).unwrap(), wanted);
    }
}

/// An entry of either format with a right checksum.
fn entry(offset: i64, magic: u8, attributes: u8, value: &[u8]) -> Vec<u8> {
    let mut content = vec![magic, attributes];
    if magic > 0 {
        content.extend_from_slice(&77_i64.to_be_bytes());
    }
    content.extend_from_slice(&(-1_i32).to_be_bytes());
    content.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
    content.extend_from_slice(value);
    let mut crc = flate2::Crc::new();
    crc.update(&content);
    let size = i32::try_from(content.len() + 4).unwrap();
    [&offset.to_be_bytes()[..], &size.to_be_bytes(), &crc.sum().to_be_bytes(), &content].concat()
}

fn wrapper(offset: i64, magic: u8, codec: Codec, inner: &[u8]) -> Vec<u8> {
    let attributes = u8::try_from(codec.attributes()).unwrap();
    entry(offset, magic, attributes, &codec::compress(codec, inner).unwrap())
}

fn problem(old: Vec<u8>) -> String {
    let error = CODECS.modernise(&old.into()).unwrap_err();
    assert_eq!(error.offset, 9);
    error.problem
}

#[test]
fn what_contradicts_itself_is_refused() {
    let inner = entry(4, 1, 0, b"v");
    let gzip = |inner: &[u8]| wrapper(9, 1, Codec::Gzip, inner);
    let cut = |bytes: &[u8], from_end| bytes[..bytes.len() - from_end].to_vec();
    let damaged = |at: usize| {
        let mut bytes = entry(9, 1, 0, b"value");
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        ("bytes, ", cut(&entry(9, 1, 0, b"value"), 1)),
        ("cut off", entry(9, 1, 0, b"")[..11].to_vec()),
        ("follow", [entry(9, 1, 0, b"a"), entry(10, 1, 0, b"b")].concat()),
        ("damaged", damaged(37)),
        ("damaged", damaged(13)),
        ("format is 2", entry(9, 2, 0, b"value")),
        ("codec 7", entry(9, 1, 7, b"value")),
        ("no zstd", wrapper(9, 1, Codec::Zstd, &inner)),
        ("no zstd", wrapper(9, 0, Codec::Zstd, &inner)),
        ("no records", gzip(b"")),
        ("format 0 is in a wrapper of 1", gzip(&entry(4, 0, 0, b"v"))),
        ("compressed record is in", gzip(&gzip(&inner))),
        ("cut off", gzip(&cut(&inner, inner.len() - 5))),
        ("do not ascend", gzip(&[inner.clone(), inner.clone()].concat())),
        (
            "do not ascend",
            wrapper(9, 1, Codec::Gzip, &[entry(0, 1, 0, b"v"), entry(50, 1, 0, b"v")].concat()),
        ),
        (
            "too far apart",
            wrapper(9, 0, Codec::Gzip, &[entry(9, 0, 0, b""), entry(1 << 40, 0, 0, b"")].concat()),
        ),
        ("more than", gzip(&entry(4, 1, 0, &vec![0; LIMIT]))),
        ("more than", wrapper(9, 0, Codec::Lz4, &entry(9, 0, 0, &vec![0; LIMIT]))),
        ("more than", wrapper(9, 0, Codec::Snappy, &entry(9, 0, 0, &vec![0; LIMIT]))),
        ("cut off", entry(9, 1, 3, &cut(&codec::compress(Codec::Lz4, &inner).unwrap(), 5))),
    ];
    for (wanted, old) in cases {
        let found = problem(old);
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
    assert!(CODECS.modernise(&Bytes::new()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The checksum is right, so that the change is met by what reads the content.
    #[test]
    fn mutated_wrappers_never_panic(
        magic in 0_u8..2,
        codec in any_codec(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        inside in any::<bool>(),
    ) {
        let mut inner = [entry(4, magic, 0, b"one"), entry(5, magic, 0, &[0; 90])].concat();
        let mutate = |bytes: &mut Vec<u8>| {
            for (at, byte) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
        };
        if inside {
            mutate(&mut inner);
        }
        let mut body = codec::compress(codec, &inner).unwrap();
        if !inside {
            mutate(&mut body);
        }
        let attributes = u8::try_from(codec.attributes()).unwrap();
        drop(CODECS.modernise(&entry(9, magic, attributes, &body).into()));
    }

    #[test]
    fn foreign_entries_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        drop(CODECS.modernise(&bytes.into()));
    }
}
