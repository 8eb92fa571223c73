//! Tests of `fetch`.

use kafka_protocol::messages::ProducerId;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction as WireAborted, EpochEndOffset, LeaderIdAndEpoch,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _};

use super::*;
use crate::client::topic_name;

/// A request for itself.
fn part(request: &FetchRequest) -> InSession<'static> {
    InSession { session: NO_SESSION, forgotten: &[], names: Arc::new(Names::of(request)) }
}

fn request(ids: bool) -> FetchRequest {
    let partition = |topic: &str, id: u8, partition| FetchPartition {
        topic: topic.into(),
        topic_id: if ids { [id; 16] } else { NO_TOPIC_ID },
        partition,
        offset: 100 + i64::from(partition),
        leader_epoch: 5,
        last_fetched_epoch: 4,
        max_bytes: 1 << 20,
    };
    FetchRequest {
        max_wait: Duration::from_millis(500),
        min_bytes: 1,
        max_bytes: 50 << 20,
        read_committed: true,
        partitions: vec![partition("a", 1, 0), partition("b", 2, 0), partition("a", 1, 1)],
    }
}

#[test]
fn every_version_can_be_written_and_means_the_same() {
    let all = WireRequest::VERSIONS;
    for version in all.min..=all.max {
        let request = request(version >= FIRST_WITH_TOPIC_IDS);
        let mut bytes = bytes::BytesMut::new();
        encode(&request, &part(&request), version).encode(&mut bytes, version).unwrap();
        let read = WireRequest::decode(&mut bytes.freeze(), version).unwrap();
        assert_eq!((read.max_wait_ms, read.min_bytes, read.isolation_level), (500, 1, 1));
        assert_eq!(read.topics.len(), 2, "grouped by topic");
        assert_eq!(read.topics[0].partitions.len(), 2);
        assert_eq!(read.topics[0].partitions[1].fetch_offset, 101);
        if version >= FIRST_WITH_TOPIC_IDS {
            assert_eq!(read.topics[1].topic_id.into_bytes(), [2; 16]);
        } else {
            assert_eq!(read.topics[1].topic.as_str(), "b");
        }
    }
}

#[test]
fn ids_are_used_only_if_all_are_known() {
    let max = |request: &FetchRequest| versions(request, &part(request)).max;
    assert_eq!(max(&request(true)), WireRequest::VERSIONS.max);
    assert_eq!(max(&request(false)), 12);
    let mut mixed = request(true);
    mixed.partitions[1].topic_id = NO_TOPIC_ID;
    assert_eq!(max(&mixed), 12);
}

#[test]
fn answers_are_slices_of_the_frame() {
    for version in [12, 13, 16] {
        let request = request(version >= FIRST_WITH_TOPIC_IDS);
        let partition = PartitionData::default()
            .with_partition_index(1)
            .with_high_watermark(200)
            .with_last_stable_offset(190)
            .with_log_start_offset(3)
            .with_aborted_transactions(Some(vec![
                WireAborted::default().with_producer_id(ProducerId(8)).with_first_offset(150),
            ]))
            .with_diverging_epoch(EpochEndOffset::default().with_epoch(4).with_end_offset(120))
            .with_current_leader(LeaderIdAndEpoch::default().with_leader_id(BrokerId(2)).with_leader_epoch(6))
            .with_records(Some(Bytes::from(vec![9; 300])));
        let mut topic = FetchableTopicResponse::default().with_partitions(vec![partition]);
        if version >= FIRST_WITH_TOPIC_IDS {
            topic.topic_id = Uuid::from_bytes([1; 16]);
        } else {
            topic.topic = topic_name("a");
        }
        let response = WireResponse::default().with_responses(vec![topic]);
        let frame = crate::wire::testing::frame(&response, version, 1).slice(4..);
        let read = read(&"b".into(), frame.clone(), version, &Names::of(&request), usize::MAX).unwrap();
        assert_eq!(read.frame_bytes, frame.len());
        let fetched = &read.partitions[0];
        assert!(Arc::ptr_eq(&fetched.topic, &request.partitions[2].topic), "names are shared, not copied");
        assert_eq!((fetched.partition, fetched.high_watermark, fetched.last_stable_offset), (1, 200, 190));
        assert_eq!(fetched.aborted, [AbortedTransaction { producer_id: 8, first_offset: 150 }]);
        assert_eq!(fetched.diverging, Some(EpochEnd { epoch: 4, end_offset: 120 }));
        assert_eq!(fetched.current_leader, Some(CurrentLeader { node_id: 2, leader_epoch: 6 }));
        assert_eq!(fetched.records, vec![9; 300]);
        assert!(frame.as_ptr_range().contains(&fetched.records.as_ptr()), "records are not copied");
    }
}

#[test]
fn a_refused_fetch_and_an_empty_one_are_told_apart() {
    let names = Names::of(&request(false));
    let frame = |response: &WireResponse| crate::wire::testing::frame(response, 12, 1).slice(4..);
    let refused = WireResponse::default().with_error_code(70);
    let error = read(&"b".into(), frame(&refused), 12, &names, usize::MAX).unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::FETCH_SESSION_ID_NOT_FOUND));

    let nothing = PartitionData::default().with_records(None).with_aborted_transactions(None);
    let topic = FetchableTopicResponse::default().with_topic(topic_name("a")).with_partitions(vec![nothing]);
    let empty = WireResponse::default().with_responses(vec![topic]);
    let read = read(&"b".into(), frame(&empty), 12, &names, usize::MAX).unwrap();
    assert!(read.partitions[0].records.is_empty() && read.partitions[0].aborted.is_empty());
    assert_eq!((read.partitions[0].diverging, read.partitions[0].current_leader), (None, None));
}
