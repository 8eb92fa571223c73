//! Tests of `batch`.

use bytes::BytesMut;
use kafka_protocol::records as kp;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1 << 20;

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Records with everything that a decoder can get wrong.
fn records() -> Vec<Record> {
    let first = Record {
        offset: 0,
        timestamp: 1_700_000_000_000,
        key: Some(bytes("key")),
        value: Some(Bytes::from(vec![b'v'; 3000])),
        headers: vec![
            (bytes("trace"), Some(bytes("1"))),
            (bytes("trace"), Some(bytes("2"))),
            (Bytes::from_static(b"\xff\xfe"), None),
            (bytes(""), Some(bytes(""))),
        ],
    };
    let tombstone =
        Record { offset: 1, timestamp: 1_699_999_999_000, key: Some(bytes("gone")), ..Record::default() };
    let empty = Record { offset: 2, timestamp: -1, key: None, value: Some(Bytes::new()), headers: vec![] };
    vec![first, tombstone, empty]
}

const PRODUCER: Producer = Producer { producer_id: 4000, epoch: 7, base_sequence: i32::MAX };

/// Corrects a batch's length and checksum, so that a change of its content is found by what reads the content.
fn sealed(mut batch: Vec<u8>) -> Bytes {
    let length = i32::try_from(batch.len() - LOG_OVERHEAD).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

#[test]
fn every_codec_makes_the_round_trip() {
    for codec in Codec::ALL {
        let batch = encode_records(&records(), codec, PRODUCER).unwrap();
        assert_eq!(decode_records(&batch, LIMIT).unwrap(), records(), "{codec:?}");
        let smaller = codec == Codec::None || batch.len() < 2000;
        assert!(smaller, "{codec:?} did not compress: {} bytes", batch.len());
    }
}

#[test]
fn the_header_is_what_a_broker_wants() {
    let batch = encode_records(&records(), Codec::Lz4, PRODUCER).unwrap();
    assert_eq!(i64::from_be_bytes(at(&batch, 0)), 0, "base offset");
    assert_eq!(i16::from_be_bytes(at(&batch, 21)), 3, "attributes: lz4 and nothing else");
    assert_eq!(i32::from_be_bytes(at(&batch, 23)), 2, "last offset delta");
    assert_eq!(i64::from_be_bytes(at(&batch, 27)), 1_700_000_000_000, "base timestamp");
    assert_eq!(i64::from_be_bytes(at(&batch, 35)), 1_700_000_000_000, "max timestamp");
    assert_eq!(i64::from_be_bytes(at(&batch, 43)), 4000);
    assert_eq!(i16::from_be_bytes(at(&batch, 51)), 7);
    assert_eq!(i32::from_be_bytes(at(&batch, 53)), i32::MAX);
    assert_eq!(i32::from_be_bytes(at(&batch, 57)), 3, "count");
}

#[test]
fn offsets_are_renumbered_without_gaps() {
    let mut gappy = records();
    for (record, offset) in gappy.iter_mut().zip([500, 507, 900]) {
        record.offset = offset;
    }
    let batch = encode_records(&gappy, Codec::None, Producer::NONE).unwrap();
    let offsets: Vec<i64> =
        decode_records(&batch, LIMIT).unwrap().iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [0, 1, 2]);
}

/// The same layout as other people's code, in both directions.
#[test]
fn kafka_protocol_reads_ours_and_we_read_theirs() {
    let codecs = [
        (Codec::None, kp::Compression::None),
        (Codec::Gzip, kp::Compression::Gzip),
        (Codec::Snappy, kp::Compression::Snappy),
        (Codec::Lz4, kp::Compression::Lz4),
    ];
    // What its map of headers can hold.
    let mut plain = records();
    plain[0].headers = vec![(bytes("a"), Some(bytes("1"))), (bytes("b"), None)];
    for (codec, compression) in codecs {
        let mut ours = encode_records(&plain, codec, PRODUCER).unwrap();
        let decoded = kp::RecordBatchDecoder::decode(&mut ours).unwrap();
        assert_eq!(decoded.compression, compression);
        assert_eq!(decoded.records.len(), plain.len());
        for (theirs, record) in decoded.records.iter().zip(&plain) {
            assert_eq!((theirs.offset, theirs.timestamp), (record.offset, record.timestamp));
            assert_eq!((&theirs.key, &theirs.value), (&record.key, &record.value));
            assert_eq!((theirs.producer_id, theirs.producer_epoch), (4000, 7));
            let headers: Vec<_> =
                theirs.headers.iter().map(|(k, v)| (k.clone().into_bytes(), v.clone())).collect();
            assert_eq!(headers, record.headers);
        }
        let mut theirs = BytesMut::new();
        let options = kp::RecordEncodeOptions { version: 2, compression };
        kp::RecordBatchEncoder::encode(&mut theirs, &decoded.records, &options).unwrap();
        assert_eq!(decode_records(&theirs.freeze(), LIMIT).unwrap(), plain, "{codec:?}");
    }
}

/// Bytes of a Java producer: snappy-java's framing around one block.
#[test]
fn snappy_as_java_writes_it_and_bare() {
    let java = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x0f\x0d\x30\x18\0\0\0\x01\x0csdfdsf\0";
    let plain = b"\x18\0\0\0\x01\x0csdfdsf\0";
    for stream in [&java[..], &java[20..]] {
        let decompressed = codec::decompress(Codec::Snappy, Bytes::copy_from_slice(stream), LIMIT).unwrap();
        assert_eq!(decompressed, plain[..]);
    }
}

#[test]
fn several_blocks_and_members_are_one_stream() {
    let large = Record { value: Some(Bytes::from(vec![7; 200_000])), ..Record::default() };
    for codec in Codec::ALL {
        let batch = encode_records(std::slice::from_ref(&large), codec, Producer::NONE).unwrap();
        assert_eq!(decode_records(&batch, LIMIT).unwrap()[0].value, large.value, "{codec:?}");
    }
    let member = codec::compress(Codec::Gzip, b"abc").unwrap();
    let two = Bytes::from([&member[..], &member[..]].concat());
    assert_eq!(codec::decompress(Codec::Gzip, two, LIMIT).unwrap(), "abcabc");
}

#[test]
fn a_bomb_is_not_decompressed() {
    let bomb = Record { value: Some(Bytes::from(vec![0; 64 << 20])), ..Record::default() };
    for codec in Codec::ALL {
        let batch = encode_records(std::slice::from_ref(&bomb), codec, Producer::NONE).unwrap();
        assert!(codec == Codec::None || batch.len() < 4 << 20, "{codec:?}: {}", batch.len());
        let error = decode_records(&batch, LIMIT).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes"), "{codec:?}: {error}");
    }
    // A snappy block that only claims to be large.
    let claim = Bytes::from_static(b"\xff\xff\xff\xff\x0f\0");
    assert!(codec::decompress(Codec::Snappy, claim, LIMIT).unwrap_err().contains("more than"));
}

/// A stream without an end, which counts how much was taken from it.
struct Endless<'a>(&'a mut usize);

impl std::io::Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        *self.0 += buffer.len();
        Ok(buffer.len())
    }
}

#[test]
fn no_more_than_the_limit_is_taken_from_a_stream() {
    let mut taken = 0;
    assert!(codec::read_bounded(Endless(&mut taken), 100_000).is_err());
    assert_eq!(taken, 100_001);
}

#[test]
fn the_limit_is_exact() {
    for codec in Codec::ALL {
        let body = Bytes::from(codec::compress(codec, &[5; 1000]).unwrap());
        assert_eq!(codec::decompress(codec, body.clone(), 1000).unwrap().len(), 1000, "{codec:?}");
        assert!(codec::decompress(codec, body, 999).is_err(), "{codec:?}");
    }
}

#[test]
fn append_time_is_every_records_time() {
    let mut batch = encode_records(&records(), Codec::None, PRODUCER).unwrap().to_vec();
    batch[22] |= 0x08;
    batch[35..43].copy_from_slice(&123_i64.to_be_bytes());
    let decoded = decode_records(&sealed(batch), LIMIT).unwrap();
    assert!(decoded.iter().all(|record| record.timestamp == 123));
}

/// Kafka's readers refuse it, and a broker would the batch that it is copied into.
#[test]
fn a_number_of_more_than_five_bytes_is_refused() {
    let with_key_length = |length: &[u8]| {
        let content = [&[0, 0, 0], length, &[1, 0]].concat();
        let record = [&[u8::try_from(content.len() * 2).unwrap()], &content[..]].concat();
        let mut batch =
            encode_records(&records()[2..], Codec::None, PRODUCER).unwrap()[..HEADER_BYTES].to_vec();
        batch.extend_from_slice(&record);
        decode_records(&sealed(batch), LIMIT)
    };
    assert_eq!(with_key_length(b"\x81\x80\x80\x80\0").unwrap()[0].key, None);
    let error = with_key_length(b"\x81\x80\x80\x80\x80\0").unwrap_err().to_string();
    assert!(error.contains("more than 5 bytes"), "{error}");
}

type Damage = fn(&mut Vec<u8>);

#[test]
fn damage_and_contradictions_are_named() {
    let good = encode_records(&records(), Codec::None, PRODUCER).unwrap().to_vec();
    let cases: [(&str, Damage, bool); 9] = [
        ("checksum", |b| b[100] ^= 1, false),
        ("fewer than its header", |b| b.truncate(60), false),
        ("to be counted", |b| b.push(0), false),
        ("format is 1", |b| b[16] = 1, true),
        ("codec 5", |b| b[22] = 5, true),
        ("says -1 records", |b| b[57..61].fill(0xff), true),
        ("says 2147483647 records", |b| b[57..61].copy_from_slice(&i32::MAX.to_be_bytes()), true),
        ("follow its last record", |b| b[60] = 2, true),
        ("outside the batch", |b| b[26] = 1, true),
    ];
    for (problem, damage, seal) in cases {
        let mut batch = good.clone();
        damage(&mut batch);
        let batch = if seal { sealed(batch) } else { batch.into() };
        let error = decode_records(&batch, LIMIT).unwrap_err().to_string();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    assert!(encode_records(&[], Codec::None, PRODUCER).is_err());
}

fn any_record() -> impl Strategy<Value = Record> {
    let field = || prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let headers = prop::collection::vec((field(), prop::option::of(field())), 0..4);
    (any::<i32>(), prop::option::of(field()), prop::option::of(field()), headers).prop_map(
        |(timestamp, key, value, headers)| Record {
            offset: 0,
            timestamp: i64::from(timestamp),
            key,
            value,
            headers,
        },
    )
}

fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn records_survive_the_round_trip(mut records in prop::collection::vec(any_record(), 1..20), codec in any_codec()) {
        for (record, offset) in records.iter_mut().zip(0..) {
            record.offset = offset;
        }
        let batch = encode_records(&records, codec, PRODUCER).unwrap();
        prop_assert_eq!(decode_records(&batch, LIMIT).unwrap(), records);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(decode_records(&bytes.into(), LIMIT));
    }

    /// The checksum is right, so that the change reaches the decompressors and the record decoder.
    #[test]
    fn mutated_batches_never_panic(
        codec in any_codec(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut batch = encode_records(&records(), codec, PRODUCER).unwrap().to_vec();
        for (at, byte) in edits {
            let at = at.index(batch.len() - CRC_START) + CRC_START;
            batch[at] = byte;
        }
        if let Some(cut) = cut {
            batch.truncate(HEADER_BYTES + cut.index(batch.len() - HEADER_BYTES));
        }
        if let Ok(decoded) = decode_records(&sealed(batch), LIMIT) {
            let bytes: usize = decoded.iter().map(|r| r.value.as_ref().map_or(0, Bytes::len)).sum();
            prop_assert!(bytes <= LIMIT);
        }
    }

    /// Foreign bytes as the stream of each codec.
    #[test]
    fn arbitrary_streams_never_panic(
        codec in any_codec(),
        prefix in 0usize..3,
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let magics: [&[u8]; 3] = [b"", b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01", b"\x28\xb5\x2f\xfd"];
        let stream = [magics[prefix], &bytes].concat();
        if let Ok(out) = codec::decompress(codec, stream.into(), 5000) {
            prop_assert!(out.len() <= 5000);
        }
    }
}

mod legacy;
mod rebuilding;
