//! Tests of `produce`.

use std::collections::HashSet;

use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::protocol::StrBytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::client::topic_name;

/// What kafka-protocol makes of the same request.
fn theirs(request: &ProduceRequest, sent: &Sent, version: i16, correlation: i32) -> Bytes {
    let topics = sent.topics.iter().map(|topic| {
        let partitions = topic.entries.iter().map(|index| {
            let entry = &request.entries[*index];
            let records = [entry.records.header.clone(), entry.records.body.clone()].concat();
            PartitionProduceData::default().with_index(entry.partition).with_records(Some(records.into()))
        });
        let wire = TopicProduceData::default().with_partition_data(partitions.collect());
        if version >= FIRST_WITH_TOPIC_IDS {
            wire.with_topic_id(Uuid::from_bytes(topic.id))
        } else {
            wire.with_name(topic_name(&topic.name))
        }
    });
    let wire = WireRequest::default()
        .with_acks(-1)
        .with_timeout_ms(i32::try_from(request.timeout.as_millis()).unwrap())
        .with_topic_data(topics.collect());
    request::encode_frame(&wire, version, correlation, &StrBytes::from_static_str("me")).unwrap()
}

fn entries() -> impl Strategy<Value = Vec<ProduceEntry>> {
    // Topics repeat, so that they have to be grouped; lengths around 127 need a second byte in the compact form.
    let entry = (0u8..6, 0i32..300, 0usize..200, 0usize..200).prop_map(|(topic, partition, header, body)| {
        ProduceEntry {
            topic: format!("{topic}{}", "x".repeat(usize::from(topic) * 30)).into(),
            topic_id: [topic + 1; 16],
            partition,
            records: ProduceRecords::new(vec![1; header].into(), vec![2; body].into()),
        }
    });
    prop::collection::vec(entry, 0..40).prop_map(|mut entries| {
        let mut seen = HashSet::new();
        entries.retain(|entry| seen.insert((entry.topic_id, entry.partition)));
        entries
    })
}

proptest! {
    #[test]
    fn the_hand_made_encoding_is_kafka_protocols(entries in entries(), timeout_ms in 0u64..100_000, correlation: i32) {
        let request = ProduceRequest { timeout: Duration::from_millis(timeout_ms), entries };
        for version in WireRequest::VERSIONS.min..=WireRequest::VERSIONS.max {
            let sent = Sent::of(&request, version).unwrap();
            let ours = encode(&request, &sent, version, correlation, "me").unwrap().concat();
            prop_assert_eq!(&Bytes::from(ours), &theirs(&request, &sent, version, correlation), "version {}", version);
        }
    }
}

#[test]
fn records_are_not_copied() {
    let header = Bytes::from(vec![1; 61]);
    let body = Bytes::from(vec![2; 5000]);
    let records = ProduceRecords::new(header, body.clone());
    let entry = ProduceEntry { topic: "t".into(), topic_id: [1; 16], partition: 0, records };
    let request = ProduceRequest { timeout: Duration::from_secs(1), entries: vec![entry] };
    let sent = Sent::of(&request, 13).unwrap();
    let segments = encode(&request, &sent, 13, 1, "me").unwrap();
    let is_body = |segment: &Bytes| segment.as_ptr() == body.as_ptr() && segment.len() == body.len();
    assert!(segments.iter().any(is_body));
    assert_eq!(segments.len(), 4, "length, all before the records with their header, records, end");
}

#[test]
fn a_partition_may_be_in_a_request_once() {
    let entry = ProduceEntry {
        topic: "t".into(),
        topic_id: NO_TOPIC_ID,
        partition: 1,
        records: ProduceRecords::default(),
    };
    let request = ProduceRequest { timeout: Duration::from_secs(1), entries: vec![entry.clone(), entry] };
    let error = Sent::of(&request, 9).err().unwrap();
    assert!(error.to_string().contains("t-1 is in it twice"), "{error}");
}

#[test]
fn ids_are_used_only_if_all_are_known() {
    let entry = |id| ProduceEntry {
        topic: "t".into(),
        topic_id: [id; 16],
        partition: i32::from(id),
        records: ProduceRecords::default(),
    };
    let request = |entries| ProduceRequest { timeout: Duration::from_secs(1), entries };
    assert_eq!(versions(&request(vec![entry(1), entry(2)])).max, 13);
    assert_eq!(versions(&request(vec![entry(1), entry(0)])).max, 12);
}

#[test]
fn answers_are_read_by_id_and_by_name() {
    use kafka_protocol::messages::produce_response::{BatchIndexAndErrorMessage, TopicProduceResponse};
    let entry = ProduceEntry {
        topic: "t".into(),
        topic_id: [7; 16],
        partition: 4,
        records: ProduceRecords::default(),
    };
    let request = ProduceRequest { timeout: Duration::from_secs(1), entries: vec![entry] };
    for version in [9, 13] {
        let about = BatchIndexAndErrorMessage::default()
            .with_batch_index(2)
            .with_batch_index_error_message(Some(StrBytes::from_static_str("no key")));
        let partition = PartitionProduceResponse::default()
            .with_index(4)
            .with_error_code(87)
            .with_base_offset(-1)
            .with_log_append_time_ms(-1)
            .with_error_message(Some(StrBytes::from_static_str("bad")))
            .with_record_errors(vec![about]);
        let mut topic = TopicProduceResponse::default().with_partition_responses(vec![partition]);
        if version >= 13 {
            topic.topic_id = Uuid::from_bytes([7; 16]);
        } else {
            topic.name = topic_name("t");
        }
        let response = WireResponse::default().with_responses(vec![topic]).with_throttle_time_ms(250);
        let frame = crate::wire::testing::frame(&response, version, 1).slice(4..);
        let sent = Sent::of(&request, version).unwrap();
        let read = read(&"b".into(), frame, version, sent, usize::MAX).unwrap();
        assert_eq!(read.throttle, Duration::from_millis(250));
        let produced = &read.partitions[0];
        assert_eq!((&*produced.topic, produced.topic_id, produced.partition), ("t", [7; 16], 4));
        assert_eq!((produced.error, produced.base_offset), (ErrorCode::INVALID_RECORD, -1));
        assert_eq!(produced.error_message.as_deref(), Some("bad; record 2: no key"));
    }
}

/// An answer to `request`, as kafka-protocol writes it, with an edit.
fn answered(
    request: &ProduceRequest,
    version: i16,
    edit: impl FnOnce(&mut WireResponse),
) -> (Bytes, ProduceResponse) {
    use kafka_protocol::messages::produce_response::TopicProduceResponse;
    let sent = Sent::of(request, version).unwrap();
    let topics = sent.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| {
            PartitionProduceResponse::default()
                .with_index(*index)
                .with_base_offset(i64::from(*index) * 1_000)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(if version >= 5 { 7 } else { -1 })
        });
        let wire = TopicProduceResponse::default().with_partition_responses(partitions.collect());
        if version >= FIRST_WITH_TOPIC_IDS {
            wire.with_topic_id(Uuid::from_bytes(topic.id))
        } else {
            wire.with_name(topic_name(&topic.name))
        }
    });
    let mut response = WireResponse::default().with_responses(topics.collect()).with_throttle_time_ms(12);
    edit(&mut response);
    let frame = crate::wire::testing::frame(&response, version, 1).slice(4..);
    let full = read_in_full(&"b".into(), frame.clone(), version, sent, usize::MAX).unwrap();
    (frame, full)
}

proptest! {
    /// The short way reads what the long one reads, in every version.
    #[test]
    fn a_plain_answer_is_read_as_in_full(mut entries in entries(), cut: prop::sample::Index) {
        entries.truncate(30);
        let request = ProduceRequest { timeout: Duration::from_secs(1), entries };
        for version in WireRequest::VERSIONS.min..=WireRequest::VERSIONS.max {
            let (frame, full) = answered(&request, version, |_| {});
            let sent = Sent::of(&request, version).unwrap();
            let short = plain::read(&frame, version, &sent);
            let names_fit = !(9..FIRST_WITH_TOPIC_IDS).contains(&version) || request.entries.iter().all(|e| e.topic.len() < 127);
            prop_assert_eq!(short, names_fit.then_some(full), "version {}", version);
            prop_assert_eq!(plain::read(&frame[..cut.index(frame.len())], version, &sent), None);
        }
    }
}

#[test]
fn whatever_is_not_plain_is_read_in_full() {
    let entry = |partition| ProduceEntry {
        topic: "t".into(),
        topic_id: [7; 16],
        partition,
        records: ProduceRecords::default(),
    };
    let request = ProduceRequest { timeout: Duration::from_secs(1), entries: vec![entry(4), entry(5)] };
    let first = |response: &mut WireResponse, edit: fn(&mut PartitionProduceResponse)| {
        edit(&mut response.responses[0].partition_responses[0]);
    };
    for version in [8, 9, 13] {
        let is_plain = |edit: &dyn Fn(&mut WireResponse)| {
            let (frame, full) = answered(&request, version, edit);
            let sent = Sent::of(&request, version).unwrap();
            let short = plain::read(&frame, version, &sent);
            assert!(short.is_none() || short == Some(full));
            short.is_some()
        };
        assert!(is_plain(&|_| {}));
        assert!(is_plain(&|response| first(response, |p| p.log_append_time_ms = 99)));
        assert!(!is_plain(&|response| first(response, |p| p.error_code = 45)));
        assert!(!is_plain(&|response| first(response, |p| {
            p.error_message = Some(StrBytes::from_static_str("words"));
        })));
        assert!(!is_plain(&|response| response.responses[0].partition_responses.reverse()));
    }
}
