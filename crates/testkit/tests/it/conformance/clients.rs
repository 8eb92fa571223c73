//! The clients that the product uses, against the fake and against real brokers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mirrormesh_kafka::admin::{EpochQuery, NewTopic, OffsetQuery, OffsetSpec};
use mirrormesh_kafka::internal_writer::{InternalWriter, NewRecord};
use mirrormesh_kafka::librdkafka::InternalReader;
use mirrormesh_kafka::wire::fetch::{FetchPartition, FetchRequest};
use mirrormesh_kafka::wire::produce::{ProduceEntry, ProduceRequest};
use mirrormesh_kafka::{Client, ClientConfig, ConnectionRole, ErrorCode};
use mirrormesh_testkit::topics::unique_name;

use super::cases;
use super::ops::{batch_of, poll, some_id};
use super::target::Target;

cases!(solo: our_client_administers, our_client_appends_and_reads, librdkafka_reads_what_we_wrote);

fn client(target: &Target) -> Client {
    let servers: Vec<_> = target.bootstrap().split(',').map(str::to_owned).collect();
    Client::new(ClientConfig::new(servers, "conformance")).unwrap()
}

async fn our_client_administers(target: Target) {
    let client = client(&target);
    let name: Arc<str> = unique_name("t").into();
    let configs = BTreeMap::from([("retention.ms".to_owned(), "77000000".to_owned())]);
    let wanted = NewTopic { name: Arc::clone(&name), partitions: 1, replication_factor: 1, configs };
    let made = client.create_topics(vec![wanted.clone()]).await.unwrap().remove(0);
    assert_eq!(made.error, ErrorCode(0));
    let again = client.create_topics(vec![wanted]).await.unwrap().remove(0);
    assert_eq!(again.error, ErrorCode::TOPIC_ALREADY_EXISTS);
    client.create_partitions(&name, 3).await.unwrap();
    let topic = poll("all partitions are led", || async {
        let topic = client.topics(Some(&[&*name])).await.unwrap().remove(0);
        let led = topic.partitions.iter().filter(|partition| partition.leader.is_some()).count();
        (led == 3).then_some(topic)
    })
    .await;
    assert_eq!(topic.topic_id, made.topic_id);
    let configs = client.describe_topic_configs(&[&*name], None).await.unwrap().remove(&*name).unwrap();
    let entry = |setting: &str| configs.entries[setting].clone();
    assert_eq!(entry("retention.ms").value.as_deref(), Some("77000000"));
    assert!(entry("retention.ms").is_topic_override && entry("segment.bytes").is_default);
    let gone = client.delete_topics(&[&*name]).await.unwrap().remove(0);
    assert_eq!(gone.error, ErrorCode(0));
}

async fn our_client_appends_and_reads(target: Target) {
    let client = client(&target);
    let name: Arc<str> = super::ops::topic(&target, &[]).await.name.into();
    let topic = client.topics(Some(&[&*name])).await.unwrap().remove(0);
    let identity = client.init_producer_id().await.unwrap();
    let other = client.init_producer_id().await.unwrap();
    assert!(identity.producer_id >= 0 && identity.producer_id != other.producer_id);
    let connection =
        client.connection(topic.partitions[0].leader.unwrap(), ConnectionRole::Produce(0)).await.unwrap();
    let batch = batch_of(identity.producer_id, identity.epoch, 0, 10);
    let entry = ProduceEntry {
        topic: Arc::clone(&name),
        topic_id: topic.topic_id,
        partition: 0,
        records: batch.bytes.clone().into(),
    };
    let append = ProduceRequest { timeout: Duration::from_secs(5), entries: vec![entry] };
    for repeated in [false, true] {
        let answer = connection.produce_enqueue(&append).await.unwrap().await.unwrap().partitions.remove(0);
        assert_eq!((answer.error, answer.base_offset), (ErrorCode(0), 0));
        assert_eq!(answer.log_append_time >= 0, repeated);
    }
    let partition = FetchPartition {
        topic: Arc::clone(&name),
        topic_id: topic.topic_id,
        partition: 0,
        offset: 0,
        leader_epoch: topic.partitions[0].leader_epoch,
        last_fetched_epoch: -1,
        max_bytes: 1 << 20,
    };
    let fetch = FetchRequest {
        max_wait: Duration::from_secs(5),
        min_bytes: 1,
        max_bytes: 1 << 20,
        read_committed: true,
        partitions: vec![partition],
    };
    let fetched = connection.fetch(&fetch).await.unwrap().partitions.remove(0);
    assert_eq!((fetched.error, fetched.high_watermark, fetched.log_start_offset), (ErrorCode(0), 10, 0));
    assert_eq!(fetched.records[61..], batch.bytes[61..]);

    let ask = |spec| OffsetQuery { topic: Arc::clone(&name), partition: 0, spec, leader_epoch: -1 };
    for (spec, offset) in [
        (OffsetSpec::Earliest, 0),
        (OffsetSpec::Latest, 10),
        (OffsetSpec::LogEnd, 10),
        (OffsetSpec::Timestamp(0), 0),
    ] {
        let told = client.list_offsets(&[ask(spec)], false).await.unwrap().remove(0);
        assert_eq!((told.error, told.offset), (ErrorCode(0), offset), "{spec:?}");
    }
    let query =
        EpochQuery { topic: Arc::clone(&name), partition: 0, leader_epoch: 0, current_leader_epoch: -1 };
    let told = client.offset_for_leader_epoch(&[query]).await.unwrap().remove(0);
    assert_eq!((told.error, told.leader_epoch, told.end_offset), (ErrorCode(0), 0, 10));
    let states = client.describe_producers(&name, 0).await.unwrap();
    assert_eq!((states[0].producer_id, states[0].last_sequence), (identity.producer_id, 9));
    assert_eq!(client.delete_records(&name, 0, 4).await.unwrap(), 4);
}

async fn librdkafka_reads_what_we_wrote(target: Target) {
    let client = client(&target);
    let topic = super::ops::topic(&target, &[("cleanup.policy", "compact")]).await;
    let writer = InternalWriter::new(client.clone());
    let record = |key: &str, value: Option<&str>, timestamp_ms| NewRecord {
        key: key.into(),
        value: value.map(Into::into),
        timestamp_ms,
    };
    for n in 0..20_i64 {
        let (key, value) = (format!("k{n}"), format!("v{n}"));
        let value = (n != 7).then_some(value.as_str());
        let offset = writer.send(&topic.name, record(&key, value, 1000 + n)).await.unwrap();
        assert_eq!(offset, n);
    }
    // Something of a transaction that was aborted, which a reader of committed records must not return.
    let (mut wire, id) = (target.wire(1).await, some_id());
    super::ops::append_transactional(&mut wire, &topic, &batch_of(id, 0, 0, 3)).await.unwrap();
    assert_eq!(super::ops::mark(&mut wire, &topic, (id, 0), false, 0).await, 0);
    writer.send(&topic.name, record("last", Some("one"), 5000)).await.unwrap();
    let mut reader = InternalReader::open(&client, &topic.name).await.unwrap();
    let records = reader.read_to_end().await.unwrap();
    reader.close().await;
    let offsets: Vec<_> = records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, (0..20).chain([24]).collect::<Vec<_>>());
    assert_eq!((records[7].value.clone(), records[7].timestamp_ms), (None, 1007));
    assert_eq!(records[19].value.as_deref(), Some(b"v19".as_slice()));
}
