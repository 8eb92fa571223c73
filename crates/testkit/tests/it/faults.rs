//! The fake broker's script, clock and hands: what real brokers can't be told to do.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, FetchRequest, MetadataRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request, StrBytes};
use mirrormesh_testkit::broker::batch::{self, Batch, BatchHeader};
use mirrormesh_testkit::broker::records::{self, Record};
use mirrormesh_testkit::broker::{Api, FakeCluster, FakeSpec, Fault, Marker, Rule};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const VERSION: i16 = 11;

/// Long enough for an answer that comes, short enough to wait for one that does not.
const SHORT: Duration = Duration::from_millis(200);

async fn start() -> FakeCluster {
    let cluster = FakeCluster::start(FakeSpec::new("faults").nodes(2)).await.unwrap();
    cluster.create_topic("t", 2, 2, &[]).unwrap();
    cluster
}

async fn connect(cluster: &FakeCluster, node: i32) -> TcpStream {
    TcpStream::connect(cluster.address(node).unwrap()).await.unwrap()
}

/// None if the connection ends instead of an answer.
async fn call<R: Request>(stream: &mut TcpStream, version: i16, request: &R) -> Option<R::Response> {
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    let header = RequestHeader::default().with_request_api_key(R::KEY).with_request_api_version(version);
    let key = ApiKey::try_from(R::KEY).unwrap();
    header.encode(&mut bytes, key.request_header_version(version)).unwrap();
    request.encode(&mut bytes, version).unwrap();
    let length = i32::try_from(bytes.len() - 4).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&bytes).await.ok()?;
    let length = stream.read_u32().await.ok()?;
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await.ok()?;
    let mut frame = Bytes::from(frame);
    ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
    Some(R::Response::decode(&mut frame, version).unwrap())
}

fn batch(id: i64, sequence: i32, count: i32) -> Batch {
    let header = BatchHeader {
        producer_id: id,
        producer_epoch: 0,
        base_sequence: sequence,
        ..BatchHeader::plain(count, 1000)
    };
    let records: Vec<_> = (0..count)
        .map(|offset_delta| Record {
            offset_delta,
            ..Record::new(format!("k{offset_delta}"), format!("v{sequence}"))
        })
        .collect();
    Batch::sealed(header, &records::encode(&records))
}

fn topic_name() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

fn request(parts: &[(i32, &Batch)], acks: i16) -> ProduceRequest {
    let data = parts.iter().map(|(index, batch)| {
        PartitionProduceData::default().with_index(*index).with_records(Some(batch.bytes.clone()))
    });
    let topic = TopicProduceData::default().with_name(topic_name()).with_partition_data(data.collect());
    ProduceRequest::default().with_acks(acks).with_timeout_ms(300).with_topic_data(vec![topic])
}

/// Code and base offset.
async fn produce(stream: &mut TcpStream, partition: i32, batch: &Batch) -> Option<(i16, i64)> {
    let answer = call(stream, VERSION, &request(&[(partition, batch)], -1)).await?;
    let told = &answer.responses[0].partition_responses[0];
    Some((told.error_code, told.base_offset))
}

async fn fetch(stream: &mut TcpStream, offset: i64, max_wait_ms: i32) -> Bytes {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(topic_name()).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_max_wait_ms(max_wait_ms)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let answer = call(stream, 12, &request).await.unwrap();
    answer.responses[0].partitions[0].records.clone().unwrap_or_default()
}

#[tokio::test]
async fn an_error_is_answered_for_its_partition_only_and_so_often() {
    let cluster = FakeCluster::start(FakeSpec::new("faults")).await.unwrap();
    cluster.create_topic("t", 2, 1, &[]).unwrap();
    let mut stream = connect(&cluster, 1).await;
    let rule = cluster.script(Rule::new(Api::Produce, Fault::Error(6)).partition("t", 1).times(2));
    for n in 0..3 {
        let (one, two) = (batch(1, n * 2, 2), batch(2, 0, 2));
        let answer = call(&mut stream, VERSION, &request(&[(0, &one), (1, &two)], -1)).await.unwrap();
        let codes: Vec<_> = answer.responses[0].partition_responses.iter().map(|p| p.error_code).collect();
        assert_eq!(codes, [0, if n < 2 { 6 } else { 0 }], "{n}");
    }
    assert_eq!(cluster.fired(rule), 2);
    assert_eq!(cluster.requests(Api::Produce), 3);
    assert_eq!(cluster.partition("t", 1).unwrap().log_end, 2);
}

#[tokio::test]
async fn connections_are_dropped_before_and_after_the_work() {
    let cluster = start().await;
    for (fault, log_end) in [(Fault::DropBefore, 0), (Fault::DropAnswer, 2)] {
        let rule = cluster.script(Rule::new(Api::Produce, fault.clone()));
        assert_eq!(produce(&mut connect(&cluster, 1).await, 0, &batch(1, 0, 2)).await, None, "{fault:?}");
        assert_eq!((cluster.fired(rule), cluster.partition("t", 0).unwrap().log_end), (1, log_end));
    }
    assert_eq!(produce(&mut connect(&cluster, 1).await, 0, &batch(1, 0, 2)).await, Some((0, 0)), "a repeat");
}

#[tokio::test]
async fn a_mute_broker_answers_nothing_and_reads_nothing_behind() {
    let cluster = start().await;
    for (fault, log_end) in [(Fault::Mute, 0), (Fault::MuteAnswer, 2)] {
        cluster.script(Rule::new(Api::Produce, fault.clone()));
        let mut stream = connect(&cluster, 1).await;
        let answer = tokio::time::timeout(SHORT, produce(&mut stream, 0, &batch(1, 0, 2))).await;
        assert!(answer.is_err(), "{fault:?}");
        let behind = tokio::time::timeout(SHORT, call(&mut stream, 1, &MetadataRequest::default())).await;
        assert!(behind.is_err(), "{fault:?}");
        assert_eq!(cluster.partition("t", 0).unwrap().log_end, log_end, "{fault:?}");
    }
}

#[tokio::test]
async fn delays_come_before_or_after_the_work() {
    let cluster = start().await;
    for (fault, early) in [(Fault::Delay(SHORT), 0), (Fault::DelayAnswer(SHORT), 2)] {
        let sequence = i32::try_from(cluster.partition("t", 0).unwrap().log_end).unwrap();
        cluster.script(Rule::new(Api::Produce, fault.clone()));
        let (mut stream, batch) = (connect(&cluster, 1).await, batch(1, sequence, 2));
        let mut answer = Box::pin(produce(&mut stream, 0, &batch));
        assert!(tokio::time::timeout(SHORT / 2, &mut answer).await.is_err());
        let end = cluster.partition("t", 0).unwrap().log_end;
        assert_eq!(end - i64::from(sequence), early, "{fault:?}");
        assert_eq!(answer.await, Some((0, i64::from(sequence))));
    }
}

#[tokio::test]
async fn fetched_bytes_are_damaged_on_the_way_only() {
    let cluster = start().await;
    let mut stream = connect(&cluster, 1).await;
    produce(&mut stream, 0, &batch(1, 0, 2)).await.unwrap();
    cluster.script(Rule::new(Api::Fetch, Fault::CorruptRecords));
    let damaged = batch::split(fetch(&mut stream, 0, 0).await).unwrap();
    assert!(!damaged[0].is_intact());
    assert!(batch::split(fetch(&mut stream, 0, 0).await).unwrap()[0].is_intact());
}

#[tokio::test]
async fn a_fetch_waits_for_records() {
    let cluster = start().await;
    let mut reader = connect(&cluster, 1).await;
    let waiting = tokio::spawn(async move { fetch(&mut reader, 0, 20_000).await });
    cluster.wait_until(SHORT * 10, |cluster| cluster.requests(Api::Fetch) == 1).await.unwrap();
    produce(&mut connect(&cluster, 1).await, 0, &batch(1, 0, 2)).await.unwrap();
    assert_eq!(batch::split(waiting.await.unwrap()).unwrap().len(), 1);
}

#[tokio::test]
async fn the_high_watermark_is_held_and_released() {
    let cluster = start().await;
    let mut stream = connect(&cluster, 1).await;
    produce(&mut stream, 0, &batch(1, 0, 2)).await.unwrap();
    cluster.hold_high_watermark("t", 0).unwrap();
    assert_eq!(produce(&mut stream, 0, &batch(1, 2, 2)).await, Some((7, 2)));
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.high_watermark, view.log_end), (2, 4));
    assert_eq!(batch::split(fetch(&mut stream, 0, 0).await).unwrap().len(), 1);
    cluster.release_high_watermark("t", 0).unwrap();
    assert_eq!(cluster.partition("t", 0).unwrap().high_watermark, 4);
    // With it held, a leader that moves takes only what was replicated.
    cluster.hold_high_watermark("t", 0).unwrap();
    produce(&mut stream, 0, &batch(1, 4, 2)).await.unwrap();
    cluster.move_leader("t", 0, 2).unwrap();
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.leader, view.leader_epoch, view.log_end), (Some(2), 1, 4));
    assert_eq!(view.producers[&1].last_sequence(), 3);
    assert_eq!(produce(&mut stream, 0, &batch(1, 4, 2)).await, Some((6, -1)));
}

#[tokio::test]
async fn an_unclean_election_truncates() {
    let cluster = start().await;
    let mut stream = connect(&cluster, 1).await;
    for n in 0..3 {
        produce(&mut stream, 0, &batch(1, n * 2, 2)).await.unwrap();
    }
    cluster.unclean_election("t", 0, 2, 2).unwrap();
    let mut stream = connect(&cluster, 2).await;
    assert_eq!(produce(&mut stream, 0, &batch(1, 6, 2)).await, Some((45, -1)));
    assert_eq!(produce(&mut stream, 0, &batch(1, 2, 2)).await, Some((0, 2)));
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.epochs, view.log_end), (vec![(0, 0), (1, 2)], 4));
}

#[tokio::test]
async fn the_clock_expires_producers_when_the_check_is_due() {
    let cluster = start().await;
    cluster.set_clock(1000);
    let mut stream = connect(&cluster, 1).await;
    produce(&mut stream, 0, &batch(1, 0, 2)).await.unwrap();
    cluster.advance(Duration::from_secs(24 * 3600 - 1));
    assert_eq!(produce(&mut stream, 0, &batch(1, 50, 1)).await, Some((45, -1)));
    // It has expired, but the next check comes ten minutes after the last.
    cluster.advance(Duration::from_secs(2));
    assert_eq!(produce(&mut stream, 0, &batch(1, 50, 1)).await, Some((45, -1)));
    cluster.advance(Duration::from_mins(10));
    assert_eq!(produce(&mut stream, 0, &batch(1, 50, 1)).await, Some((0, 2)));
    cluster.expire_producers();
    assert!(cluster.partition("t", 0).unwrap().producers.is_empty());
}

#[tokio::test]
async fn logs_are_made_by_hand() {
    let cluster = start().await;
    let mut open = batch(7, 0, 2);
    open = Batch::sealed(BatchHeader { attributes: batch::TRANSACTIONAL, ..open.header }, &open.body());
    assert_eq!(cluster.append_batch("t", 0, &open).unwrap(), 0);
    // A gap, as compaction leaves it.
    let gap = batch(8, 0, 2);
    let gap = Batch::sealed(BatchHeader { last_offset_delta: 9, ..gap.header }, &gap.body());
    assert_eq!(cluster.append_batch("t", 0, &gap).unwrap(), 2);
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.last_stable_offset, view.high_watermark), (0, 12));
    assert_eq!(cluster.append_marker("t", 0, (7, 0), Marker::Abort).unwrap(), 12);
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.last_stable_offset, view.aborted.len(), view.records().len()), (13, 1, 4));
    cluster.retain_from("t", 0, 5).unwrap();
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.log_start, view.batches.len(), view.producers.len()), (5, 2, 2));
    let old = view.topic_id;
    assert_ne!(cluster.recreate_topic("t").unwrap(), old);
    assert_eq!(cluster.partition("t", 0).unwrap().log_end, 0);
}

#[tokio::test]
async fn a_node_that_is_down_is_not_there_and_comes_back() {
    let cluster = start().await;
    let mut stream = connect(&cluster, 1).await;
    produce(&mut stream, 0, &batch(1, 0, 2)).await.unwrap();
    cluster.kill_node(1).unwrap();
    assert_eq!(produce(&mut stream, 0, &batch(1, 2, 2)).await, None);
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.leader, view.isr), (Some(2), vec![2]));
    assert_eq!(produce(&mut connect(&cluster, 2).await, 0, &batch(1, 2, 2)).await, Some((0, 2)));
    cluster.start_node(1).await.unwrap();
    let view = cluster.partition("t", 0).unwrap();
    assert_eq!((view.leader, view.isr), (Some(2), vec![2, 1]));
    connect(&cluster, 1).await;
}

#[tokio::test]
async fn a_standing_node_answers_when_it_is_resumed() {
    let cluster = start().await;
    cluster.pause_node(1).unwrap();
    let (mut stream, batch) = (connect(&cluster, 1).await, batch(1, 0, 2));
    let mut answer = Box::pin(produce(&mut stream, 0, &batch));
    assert!(tokio::time::timeout(SHORT, &mut answer).await.is_err());
    assert_eq!(cluster.partition("t", 0).unwrap().log_end, 0);
    cluster.resume_node(1).unwrap();
    assert_eq!(answer.await, Some((0, 0)));
}

#[tokio::test]
async fn a_dropped_cluster_closes_its_ports() {
    let cluster = start().await;
    let (address, mut stream) = (cluster.address(1).unwrap(), connect(&cluster, 1).await);
    drop(cluster);
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(address).await.is_err());
}
