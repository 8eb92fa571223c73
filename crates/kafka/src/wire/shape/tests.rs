//! Every shape against kafka-protocol's own encoding of every version, and every decoder against foreign bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages as m;
use proptest::prelude::*;

mod samples;

use samples::{Case, cases};

use super::*;
use crate::wire::decode;

/// Generous, so that only counts that no bytes stand behind are refused.
const HEAP_BYTES_MAX: usize = 64 << 20;

#[test]
fn every_shape_fits_every_version_to_the_last_byte() {
    for case in cases() {
        for version in case.versions.clone() {
            let sample = (case.sample)(version);
            let checked = (case.check)(&sample, version);
            assert_eq!(checked, Ok(sample.len()), "{} version {version}", case.name);
            (case.decode)(sample, version).unwrap_or_else(|e| panic!("{} version {version}: {e}", case.name));
        }
    }
}

#[test]
fn every_truncation_is_refused_by_the_shape() {
    for case in cases() {
        for version in case.versions.clone() {
            let sample = (case.sample)(version);
            for length in 0..sample.len() {
                let checked = (case.check)(&sample[..length], version);
                assert_eq!(checked, Err(Misfit::Short), "{} version {version} cut to {length}", case.name);
            }
        }
    }
}

/// Eight bytes that make kafka-protocol ask for hundreds of gigabytes: without the check this test ends the process.
#[test]
fn claimed_counts_without_bytes_are_refused() {
    let frames: [(&[u8], i16); 3] = [
        // Header, throttle time, and 2^32 - 2 brokers.
        (b"\0\0\0\x01\0\0\0\0\0\xff\xff\xff\xff\x0f", 9),
        // 2^31 - 1 brokers.
        (b"\0\0\0\x01\0\0\0\0\x7f\xff\xff\xff", 4),
        // No brokers, no cluster id, a controller, 2^28 topics.
        (b"\0\0\0\x01\0\0\0\0\0\x01\0\0\0\0\x01\x80\x80\x80\x80\x01", 9),
    ];
    for (frame, version) in frames {
        let error = decode::decode::<m::MetadataRequest>(Bytes::from_static(frame), version, HEAP_BYTES_MAX)
            .unwrap_err();
        assert_eq!(error, Misfit::Short.to_string());
    }
}

/// Many small elements with bytes behind each of them still have to stay within the limit.
#[test]
fn decoding_stays_within_its_memory() {
    let mut frame = BytesMut::new();
    frame.put_slice(&[0; 8]);
    frame.put_i32(100_000);
    // Topics of version 1: an empty name and no partitions.
    frame.put_bytes(0, 6 * 100_000);
    let decode = |limit| decode::decode::<m::ListOffsetsRequest>(frame.clone().freeze(), 2, limit).map(drop);
    assert_eq!(decode(10 << 20), Err(Misfit::TooLarge.to_string()));
    assert_eq!(decode(100 << 20), Ok(()));
}

#[test]
fn tagged_fields_are_bounded_and_must_have_their_size() {
    let fields = [Field::always(Kind::Fixed(1)), Field::tagged(0, 0, Kind::Fixed(4))];
    let walk = |bytes: &[u8]| check(bytes, &fields, 0, true, HEAP_BYTES_MAX);
    assert_eq!(walk(b"a\0"), Ok(2));
    assert_eq!(walk(b"a\x01\0\x041234"), Ok(8));
    assert_eq!(walk(b"a\x01\x09\x0212"), Ok(6), "unknown ones are skipped");
    assert_eq!(walk(b"a\x01\0\x051234"), Err(Misfit::TagSize));
    assert_eq!(walk(b"a\x7f"), Err(Misfit::TooManyTags));
    assert_eq!(walk(b"a\xff\xff\xff\xff\xff\x01"), Err(Misfit::LongNumber));
}

#[test]
fn lengths_below_null_are_refused() {
    let text = [Field::always(Kind::Text)];
    let blob = [Field::always(Kind::Blob)];
    assert_eq!(check(b"\xff\xff", &text, 0, false, 0), Ok(2));
    assert_eq!(check(b"\xff\xfe", &text, 0, false, 0), Err(Misfit::NegativeLength));
    assert_eq!(check(b"\xff\xff\xff\xff", &blob, 0, false, 0), Ok(4));
    assert_eq!(check(b"\x80\0\0\0", &blob, 0, false, 0), Err(Misfit::NegativeLength));
}

#[test]
fn the_estimate_of_a_structure_is_not_too_small() {
    let sizes = [
        size_of::<m::metadata_response::MetadataResponseBroker>(),
        size_of::<m::metadata_response::MetadataResponseTopic>(),
        size_of::<m::metadata_response::MetadataResponsePartition>(),
        size_of::<m::fetch_response::FetchableTopicResponse>(),
        size_of::<m::fetch_response::PartitionData>(),
        size_of::<m::fetch_response::NodeEndpoint>(),
        size_of::<m::produce_response::TopicProduceResponse>(),
        size_of::<m::produce_response::PartitionProduceResponse>(),
        size_of::<m::describe_groups_response::DescribedGroup>(),
        size_of::<m::describe_groups_response::DescribedGroupMember>(),
        size_of::<m::consumer_group_describe_response::DescribedGroup>(),
        size_of::<m::describe_configs_response::DescribeConfigsResourceResult>(),
        size_of::<m::describe_configs_response::DescribeConfigsResult>(),
        size_of::<m::create_topics_response::CreatableTopicResult>(),
        size_of::<m::offset_fetch_response::OffsetFetchResponsePartition>(),
        size_of::<m::find_coordinator_response::Coordinator>(),
        size_of::<m::describe_producers_response::PartitionResponse>(),
    ];
    assert!(sizes.iter().all(|size| *size <= STRUCT_BYTES), "{sizes:?}");
    // Its members are larger, but each has at least as many bytes on the wire as the estimate lacks.
    assert!(size_of::<m::consumer_group_describe_response::Member>() <= 2 * STRUCT_BYTES);
}

/// A case and one of its versions.
fn pick(index: usize, version: usize) -> (Case, i16) {
    let mut cases = cases();
    let case = cases.swap_remove(index % cases.len());
    let versions: Vec<i16> = case.versions.clone().collect();
    let version = versions[version % versions.len()];
    (case, version)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn arbitrary_bytes_never_panic(case: usize, version: usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (case, version) = pick(case, version);
        drop((case.decode)(bytes.into(), version));
    }

    /// Mostly valid frames come much further into the decoders than arbitrary bytes.
    #[test]
    fn mutated_frames_never_panic(
        case: usize,
        version: usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        tail in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let (case, version) = pick(case, version);
        let mut bytes = (case.sample)(version).to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(tail);
        drop((case.decode)(bytes.into(), version));
    }

    /// Where a length may stand, the worst lengths.
    #[test]
    fn hostile_lengths_never_panic(case: usize, version: usize, at: prop::sample::Index, pick_length in 0usize..4) {
        let lengths: [&[u8]; 4] = [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\x80\0\0\0", b"\x0f\xff\xff\xff"];
        let (case, version) = pick(case, version);
        let sample = (case.sample)(version);
        let (head, mut rest) = (sample.slice(..at.index(sample.len())), sample.slice(at.index(sample.len())..));
        let length = lengths[pick_length];
        rest.advance(length.len().min(rest.len()));
        drop((case.decode)([&head[..], length, &rest[..]].concat().into(), version));
    }
}
