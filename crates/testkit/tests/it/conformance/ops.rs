//! The words that the cases are written in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::ProducerState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponsePartition;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DescribeProducersRequest, FetchRequest, ListOffsetsRequest,
    MetadataRequest, ProduceRequest, ProducerId, TopicName, TransactionalId, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::StrBytes;
use mirrormesh_testkit::broker::batch::{self, Batch, BatchHeader};
use mirrormesh_testkit::broker::codec::Codec;
use mirrormesh_testkit::broker::records::{self, Record};
use mirrormesh_testkit::topics::unique_name;
use uuid::Uuid;

use super::target::Target;
use super::wire::Wire;

/// By name, in every version of Kafka.
pub(super) const PRODUCE: i16 = 11;
pub(super) const FETCH: i16 = 12;
pub(super) const LATEST: i64 = -1;
pub(super) const EARLIEST: i64 = -2;
pub(super) const CONSUMER: i32 = -1;
/// Sees what is not replicated yet.
pub(super) const DEBUGGING: i32 = -2;
pub(super) const HOUR_MS: i64 = 3_600_000;
const POLL_STEP: Duration = Duration::from_millis(20);
const POLL_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A producer id that nobody else uses: brokers don't check where an id comes from.
pub(super) fn some_id() -> i64 {
    i64::try_from(Uuid::new_v4().as_u128() >> 72).unwrap() & !0xffff
}

pub(super) fn name(text: &str) -> TopicName {
    TopicName(StrBytes::from_string(text.to_owned()))
}

/// Asks until the answer is there.
pub(super) async fn poll<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + POLL_TIMEOUT;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {POLL_TIMEOUT:?}");
        tokio::time::sleep(POLL_STEP).await;
    }
}

// Batches.

/// `count` records of a producer, stamped now.
pub(super) fn batch_of(id: i64, epoch: i16, sequence: i32, count: i32) -> Batch {
    batch_at(id, epoch, sequence, count, now_ms())
}

/// As [`batch_of`], stamped at another time.
pub(super) fn batch_at(id: i64, epoch: i16, sequence: i32, count: i32, timestamp_ms: i64) -> Batch {
    let header = BatchHeader {
        producer_id: id,
        producer_epoch: epoch,
        base_sequence: sequence,
        ..BatchHeader::plain(count, timestamp_ms)
    };
    Batch::sealed(header, &records::encode(&some_records(sequence, count)))
}

/// Records that tell their place.
pub(super) fn some_records(first: i32, count: i32) -> Vec<Record> {
    (0..count)
        .map(|offset_delta| {
            let place = batch::sequence_after(first.max(0), offset_delta);
            Record { offset_delta, ..Record::new(format!("k{place}"), format!("value of {place}")) }
        })
        .collect()
}

/// Packs the records of a header's batch with a codec.
pub(super) fn packed(mut header: BatchHeader, codec: Codec, records: &[Record]) -> Batch {
    header.attributes |= codec.number();
    Batch::sealed(header, &codec.compress(&records::encode(records)).unwrap())
}

/// The batch with another header; the CRC fits.
pub(super) fn with_header(batch: &Batch, change: impl FnOnce(&mut BatchHeader)) -> Batch {
    let mut header = batch.header;
    change(&mut header);
    Batch::sealed(header, &batch.body())
}

pub(super) fn records_of(batch: &Batch) -> Vec<Record> {
    let plain = Codec::of(batch.header.codec()).unwrap().decompress(batch.body()).unwrap();
    records::parse(plain, batch.header.count, records::Lengths::Checked).unwrap()
}

// Topics.

#[derive(Debug, Clone)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) id: Uuid,
}

pub(super) async fn topic(target: &Target, settings: &[(&str, &str)]) -> Topic {
    topic_on(target, &unique_name("t"), &[&[1]], settings).await
}

/// Each partition on these nodes.
pub(super) async fn topic_on(
    target: &Target,
    named: &str,
    layout: &[&[i32]],
    settings: &[(&str, &str)],
) -> Topic {
    let assignments = (0..).zip(layout).map(|(index, nodes)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(index)
            .with_broker_ids(nodes.iter().copied().map(BrokerId).collect())
    });
    let configs = settings.iter().map(|(setting, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string((*setting).to_owned()))
            .with_value(Some(StrBytes::from_string((*value).to_owned())))
    });
    let topic = CreatableTopic::default()
        .with_name(name(named))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_assignments(assignments.collect())
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let id = poll("the topic is made", || async {
        let answer = target.wire(1).await.call(7, &request).await;
        let result = &answer.topics[0];
        // A name that was just deleted is taken for a moment.
        assert!(matches!(result.error_code, 0 | 36), "{result:?}");
        (result.error_code == 0).then_some(result.topic_id)
    })
    .await;
    let topic = Topic { name: named.to_owned(), id };
    for partition in 0..i32::try_from(layout.len()).unwrap() {
        led(target, &topic, partition).await;
    }
    topic
}

/// Waits until the partition's leader says that it is the leader; its node.
pub(super) async fn led(target: &Target, topic: &Topic, partition: i32) -> i32 {
    poll("the partition is led", || async {
        for node in target.nodes() {
            let Ok(mut wire) = Wire::connect(&target.address(node)).await else { continue };
            let Some(found) = metadata(&mut wire, topic, partition).await else { continue };
            let leader = found.leader_id.0;
            if leader != node {
                continue;
            }
            let end = list_offset(&mut wire, topic, partition, CONSUMER, 0, LATEST).await;
            if end.is_ok() {
                return Some(node);
            }
        }
        None
    })
    .await
}

/// What a node knows of a partition of this very topic.
pub(super) async fn metadata(
    wire: &mut Wire,
    topic: &Topic,
    partition: i32,
) -> Option<MetadataResponsePartition> {
    let asked = MetadataRequestTopic::default().with_name(Some(name(&topic.name)));
    let request = MetadataRequest::default().with_topics(Some(vec![asked]));
    let answer = wire.call(12, &request).await;
    let found = answer.topics.iter().find(|found| found.topic_id == topic.id)?;
    found.partitions.iter().find(|found| found.partition_index == partition).cloned()
}

// Appending.

pub(super) fn produce_request(topic: &Topic, partitions: &[(i32, Bytes)], version: i16) -> ProduceRequest {
    let data = partitions.iter().map(|(index, records)| {
        PartitionProduceData::default().with_index(*index).with_records(Some(records.clone()))
    });
    let topic_data = TopicProduceData::default().with_partition_data(data.collect());
    let topic_data = if version >= 13 {
        topic_data.with_topic_id(topic.id)
    } else {
        topic_data.with_name(name(&topic.name))
    };
    ProduceRequest::default().with_acks(-1).with_timeout_ms(20_000).with_topic_data(vec![topic_data])
}

pub(super) async fn send_raw(
    wire: &mut Wire,
    version: i16,
    topic: &Topic,
    records: Bytes,
) -> PartitionProduceResponse {
    let request = produce_request(topic, &[(0, records)], version);
    wire.call(version, &request).await.responses[0].partition_responses[0].clone()
}

/// Appends to partition 0 with all acknowledgements; the whole answer.
pub(super) async fn send(wire: &mut Wire, topic: &Topic, batch: &Batch) -> PartitionProduceResponse {
    send_raw(wire, PRODUCE, topic, batch.bytes.clone()).await
}

/// Base offset or code.
pub(super) async fn append(wire: &mut Wire, topic: &Topic, batch: &Batch) -> Result<i64, i16> {
    let answer = send(wire, topic, batch).await;
    if answer.error_code == 0 { Ok(answer.base_offset) } else { Err(answer.error_code) }
}

/// Appends a batch of a transaction.
pub(super) async fn append_transactional(wire: &mut Wire, topic: &Topic, batch: &Batch) -> Result<i64, i16> {
    let batch = with_header(batch, |header| header.attributes |= batch::TRANSACTIONAL);
    let request = produce_request(topic, &[(0, batch.bytes)], PRODUCE)
        .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("conformance"))));
    let answer = wire.call(PRODUCE, &request).await.responses[0].partition_responses[0].clone();
    if answer.error_code == 0 { Ok(answer.base_offset) } else { Err(answer.error_code) }
}

/// Ends a producer's transaction on partition 0; the code.
pub(super) async fn mark(
    wire: &mut Wire,
    topic: &Topic,
    producer: (i64, i16),
    commit: bool,
    coordinator_epoch: i32,
) -> i16 {
    let topics =
        WritableTxnMarkerTopic::default().with_name(name(&topic.name)).with_partition_indexes(vec![0]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(ProducerId(producer.0))
        .with_producer_epoch(producer.1)
        .with_transaction_result(commit)
        .with_coordinator_epoch(coordinator_epoch)
        .with_topics(vec![topics]);
    let answer = wire.call(1, &WriteTxnMarkersRequest::default().with_markers(vec![marker])).await;
    answer.markers[0].topics[0].partitions[0].error_code
}

// Reading.

/// What a fetch of partition 0 asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) offset: i64,
    pub(super) isolation: i8,
    pub(super) replica: i32,
    pub(super) bytes_max: i32,
    pub(super) epoch: i32,
    pub(super) last_epoch: i32,
}

impl Ask {
    pub(super) fn from(offset: i64) -> Self {
        Self { offset, isolation: 0, replica: CONSUMER, bytes_max: 1 << 20, epoch: -1, last_epoch: -1 }
    }

    pub(super) fn committed(self) -> Self {
        Self { isolation: 1, ..self }
    }
}

pub(super) async fn fetch(wire: &mut Wire, topic: &Topic, ask: Ask) -> PartitionData {
    let partition = FetchPartition::default()
        .with_fetch_offset(ask.offset)
        .with_partition_max_bytes(ask.bytes_max)
        .with_current_leader_epoch(ask.epoch)
        .with_last_fetched_epoch(ask.last_epoch);
    let topics = FetchTopic::default().with_topic(name(&topic.name)).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(ask.replica))
        .with_max_wait_ms(0)
        .with_max_bytes(100 << 20)
        .with_isolation_level(ask.isolation)
        .with_session_epoch(-1)
        .with_topics(vec![topics]);
    let answer = wire.call(FETCH, &request).await;
    assert_eq!(answer.error_code, 0);
    answer.responses[0].partitions[0].clone()
}

pub(super) fn batches(data: &PartitionData) -> Vec<Batch> {
    batch::split(data.records.clone().unwrap_or_default()).unwrap()
}

/// All batches that a reader sees from an offset on.
pub(super) async fn read(wire: &mut Wire, topic: &Topic, ask: Ask) -> Vec<Batch> {
    let (mut all, mut ask) = (Vec::new(), ask);
    loop {
        let data = fetch(wire, topic, ask).await;
        assert_eq!(data.error_code, 0);
        let found = batches(&data);
        let Some(last) = found.last() else { return all };
        ask.offset = last.header.next_offset();
        all.extend(found);
    }
}

/// The values in the log, in order.
pub(super) async fn values(wire: &mut Wire, topic: &Topic) -> Vec<String> {
    let all = read(wire, topic, Ask::from(0)).await;
    let data = all.iter().filter(|batch| !batch.header.has(batch::CONTROL));
    data.flat_map(records_of).map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect()
}

/// The first of the batches at an offset.
pub(super) async fn batch_in_log(wire: &mut Wire, topic: &Topic, offset: i64) -> Batch {
    batches(&fetch(wire, topic, Ask::from(offset)).await)[0].clone()
}

/// An offset, or the code.
pub(super) async fn list_offset(
    wire: &mut Wire,
    topic: &Topic,
    partition: i32,
    replica: i32,
    isolation: i8,
    timestamp: i64,
) -> Result<i64, i16> {
    let asked = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(timestamp);
    let topics = ListOffsetsTopic::default().with_name(name(&topic.name)).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(replica))
        .with_isolation_level(isolation)
        .with_topics(vec![topics]);
    let answer = wire.call(7, &request).await;
    let found = &answer.topics[0].partitions[0];
    if found.error_code == 0 { Ok(found.offset) } else { Err(found.error_code) }
}

/// The end of partition 0 for consumers.
pub(super) async fn end(wire: &mut Wire, topic: &Topic) -> i64 {
    list_offset(wire, topic, 0, CONSUMER, 0, LATEST).await.unwrap()
}

/// What a replica of partition 0 remembers of producers, or the code.
pub(super) async fn producers(wire: &mut Wire, topic: &Topic) -> Result<Vec<ProducerState>, i16> {
    let asked = TopicRequest::default().with_name(name(&topic.name)).with_partition_indexes(vec![0]);
    let answer = wire.call(0, &DescribeProducersRequest::default().with_topics(vec![asked])).await;
    let found = &answer.topics[0].partitions[0];
    if found.error_code == 0 { Ok(found.active_producers.clone()) } else { Err(found.error_code) }
}

/// What it remembers of one producer.
pub(super) async fn producer(wire: &mut Wire, topic: &Topic, id: i64) -> Option<ProducerState> {
    producers(wire, topic).await.unwrap().into_iter().find(|producer| producer.producer_id.0 == id)
}
