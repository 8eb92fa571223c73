//! What the fuzz targets run (`fuzz/` at the root of the tree): every decoder of this crate on foreign bytes.
//!
//! Owns the making of inputs that get past checksums, which no fuzzer guesses, and the properties that must hold. A
//! property that does not hold is a panic. Only with the feature `fuzzing`; not part of the interface.

#![expect(clippy::panic, reason = "a fuzz target reports by panicking")]

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::Message as _;
use mirrormesh_core::format::batch::{Stamp, control_kind, split};
use mirrormesh_core::format::crc32c;
use mirrormesh_relay::rebuild::{Codecs as _, RebuildPlan};

use crate::batch::codec::{Codec, compress};
use crate::batch::{HEADER_BYTES, RecordCodecs, decode_records};
use crate::wire::{decode, fetch, produce, versions};

/// On decompressed records.
const LIMIT: usize = 256 << 10;
/// On decoded answers.
const HEAP_BYTES_MAX: usize = 8 << 20;
const CODECS: RecordCodecs = RecordCodecs::new(LIMIT);

/// The core's view of batches: splitting, new headers, control records.
pub fn batches(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let bytes = if mode & 1 == 0 { Bytes::copy_from_slice(data) } else { sealed(data.to_vec()) };
    let total = bytes.len();
    let mut seen = 0;
    for batch in split(bytes) {
        let Ok(batch) = batch else { break };
        seen += batch.bytes.len();
        control_kind(&batch);
        let stamp = Stamp { producer_id: 7, producer_epoch: 1, base_sequence: 9 };
        let sound = batch.stamp_checked(stamp).is_ok();
        let Ok(stamped) = batch.stamp(stamp) else { continue };
        let again = Bytes::from([&stamped.header[..], &stamped.body].concat());
        match split(again).next() {
            Some(Ok(again))
                if again.stamp_checked(stamp).is_ok() == sound
                    && again.header.count == batch.header.count => {}
            other => panic!("a stamped batch is not one: {other:?}"),
        }
    }
    assert!(seen <= total, "batches have more bytes than their source");
}

/// Records: rebuilding, identifying, the old formats.
pub fn contents(data: &[u8]) {
    let Some(([mode, from, size, clamp], data)) = data.split_first_chunk::<4>() else { return };
    match mode % 4 {
        0 => of_batch(&sealed(data.to_vec()), *from, *size, *clamp),
        1 => of_batch(&compressed(data), *from, *size, *clamp),
        2 => old(&entry_sealed(data.to_vec())),
        _ => old(&wrapper(data, *from, *size, *clamp)),
    }
}

/// An answer of a broker: which, in what version, then its frame. Each number stands for one decoder.
#[deny(unreachable_patterns)]
pub fn answers(data: &[u8]) {
    let Some(([api, version], data)) = data.split_first_chunk::<2>() else { return };
    let (frame, version) = (Bytes::copy_from_slice(data), i16::from(*version));
    macro_rules! decode {
        ($($number:literal => $request:ty,)*) => {
            match api {
                $($number => {
                    let all = <$request>::VERSIONS;
                    let version = version.clamp(all.min, all.max);
                    drop(decode::decode::<$request>(frame, version, HEAP_BYTES_MAX));
                })*
                19 => drop(versions::read(&frame, version.clamp(0, 3), HEAP_BYTES_MAX)),
                20 => fetch::fuzz(frame, version.clamp(m::FetchRequest::VERSIONS.min, m::FetchRequest::VERSIONS.max), HEAP_BYTES_MAX),
                21 => produce::fuzz(frame, version.clamp(m::ProduceRequest::VERSIONS.min, m::ProduceRequest::VERSIONS.max), HEAP_BYTES_MAX),
                _ => {}
            }
        };
    }
    decode! {
        0 => m::ApiVersionsRequest,
        1 => m::ConsumerGroupDescribeRequest,
        2 => m::CreatePartitionsRequest,
        3 => m::CreateTopicsRequest,
        4 => m::DeleteRecordsRequest,
        5 => m::DeleteTopicsRequest,
        6 => m::DescribeConfigsRequest,
        7 => m::DescribeGroupsRequest,
        8 => m::DescribeProducersRequest,
        9 => m::FetchRequest,
        10 => m::FindCoordinatorRequest,
        11 => m::InitProducerIdRequest,
        12 => m::ListGroupsRequest,
        13 => m::ListOffsetsRequest,
        14 => m::MetadataRequest,
        16 => m::OffsetFetchRequest,
        17 => m::OffsetForLeaderEpochRequest,
        18 => m::ProduceRequest,
    }
}

fn of_batch(bytes: &Bytes, from: u8, size: u8, clamp: u8) {
    let Some(Ok(batch)) = split(bytes.clone()).next() else {
        drop(decode_records(bytes, LIMIT));
        return;
    };
    let Ok(ids) = CODECS.identify(&batch) else {
        drop(CODECS.rebuild(&[batch], &RebuildPlan { bytes_max: LIMIT, ..RebuildPlan::ALL }));
        return;
    };
    // The same again behind it: offsets are not in the checksum.
    let mut second = batch.clone();
    second.header.base_offset = batch.header.next_offset();
    second.bytes = [&second.header.base_offset.to_be_bytes()[..], batch.bytes.get(8..).unwrap_or_default()]
        .concat()
        .into();
    let plan = RebuildPlan {
        from: batch.header.base_offset.saturating_add(from.into()),
        bytes_max: 61 + usize::from(size) * 16,
        clamp: (clamp > 0).then(|| (i64::from(clamp), i64::from(clamp) * 1000)),
        ..RebuildPlan::ALL
    };
    let Ok(rebuilt) = CODECS.rebuild(&[batch, second], &plan) else { return };
    let mut wanted = ids.iter().filter(|id| id.offset >= plan.from).map(|id| id.content);
    for piece in &rebuilt.pieces {
        assert!(piece.batch.bytes.len() <= plan.bytes_max && piece.batch.header.is_dense(), "{piece:?}");
        let Ok(found) = CODECS.identify(&piece.batch) else { panic!("a piece can't be read: {piece:?}") };
        let count: i64 = piece.runs.iter().map(|run| run.count).sum();
        assert_eq!(usize::try_from(count), Ok(found.len()), "runs and records of {piece:?}");
        for id in found {
            if let Some(wanted) = wanted.next() {
                assert_eq!(id.content, wanted, "content of {piece:?}");
            }
        }
    }
}

fn old(bytes: &Bytes) {
    let Ok(batch) = CODECS.modernise(bytes) else { return };
    let Ok(ids) = CODECS.identify(&batch) else { panic!("what was made of it can't be read: {batch:?}") };
    assert_eq!(i32::try_from(ids.len()), Ok(batch.header.count));
    let plan = RebuildPlan { bytes_max: LIMIT * 2, ..RebuildPlan::ALL };
    let offset = batch.header.next_offset();
    match CODECS.rebuild(&[batch], &plan) {
        Ok(rebuilt) => assert!(rebuilt.pieces.last().is_none_or(|piece| piece.next_source == offset)),
        Err(error) => panic!("what was made of it can't be rebuilt: {error}"),
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// With a length, a format and a checksum that are right.
fn sealed(mut batch: Vec<u8>) -> Bytes {
    let length = i32::try_from(batch.len().saturating_sub(12)).unwrap_or(0);
    put(&mut batch, 8, &length.to_be_bytes());
    put(&mut batch, 16, &[2]);
    let crc = crc32c(batch.get(21..).unwrap_or_default());
    put(&mut batch, 17, &crc.to_be_bytes());
    batch.into()
}

/// A batch whose records are compressed as its attributes say.
fn compressed(data: &[u8]) -> Bytes {
    let Some((header, plain)) = data.split_at_checked(HEADER_BYTES) else { return Bytes::new() };
    let codec = codec_of(header.get(22).copied().unwrap_or(0));
    let mut batch = header.to_vec();
    put(
        &mut batch,
        22,
        &[u8::try_from(codec.attributes()).unwrap_or(0) | header.get(22).unwrap_or(&0) & 0xf8],
    );
    batch.extend(compress(codec, plain).unwrap_or_default());
    sealed(batch)
}

fn codec_of(number: u8) -> Codec {
    Codec::from_attributes(i16::from(number & 7)).unwrap_or(Codec::None)
}

/// An entry of format 0 or 1 with a right size and checksum.
fn entry_sealed(mut entry: Vec<u8>) -> Bytes {
    let size = i32::try_from(entry.len().saturating_sub(12)).unwrap_or(0);
    put(&mut entry, 8, &size.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(entry.get(16..).unwrap_or_default());
    put(&mut entry, 12, &crc.sum().to_be_bytes());
    entry.into()
}

/// A wrapper around entries, whose checksums are made right.
fn wrapper(mut entries: &[u8], codec: u8, format: u8, attributes: u8) -> Bytes {
    let mut plain = Vec::new();
    while let Some(size) = entries.get(8..12).and_then(|size| size.first_chunk()) {
        let size = usize::try_from(i32::from_be_bytes(*size)).unwrap_or(usize::MAX).saturating_add(12);
        let (entry, rest) = entries.split_at_checked(size).unwrap_or((entries, &[]));
        plain.extend_from_slice(&entry_sealed(entry.to_vec()));
        entries = rest;
    }
    let body = compress(codec_of(codec), &plain).unwrap_or_default();
    let mut outer = vec![0; 16];
    put(&mut outer, 0, &1_000_i64.to_be_bytes());
    let format = format % 3;
    outer.push(format);
    outer.push(attributes & 0xf8 | codec & 7);
    if format > 0 {
        outer.extend_from_slice(&55_i64.to_be_bytes());
    }
    outer.extend_from_slice(&(-1_i32).to_be_bytes());
    outer.extend_from_slice(&i32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    outer.extend_from_slice(&body);
    entry_sealed(outer)
}
