//! Workloads and the checker.

use std::time::Duration;

use mirrormesh_testkit::checker::matcher::{Kind, Outcome};
use mirrormesh_testkit::checker::{Comparison, Options, Place, TopicPair, compare, count_repeats};
use mirrormesh_testkit::shared::shared_pair;
use mirrormesh_testkit::topics::{create_topic, unique_name};
use mirrormesh_testkit::workload::{Codec, TopicPlan, Workload};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const SEED: u64 = 20_261_121;

async fn equal_to_itself(bootstrap: &str, topic: &str) -> Comparison {
    let comparison =
        compare(bootstrap, bootstrap, &[TopicPair::same(topic)], &Options::default()).await.unwrap();
    assert!(comparison.is_equal(), "{comparison}");
    comparison
}

/// All committed records of partition 0, by a reader of its own.
fn read_all(bootstrap: &str, topic: &str) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", unique_name("reader"))
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut records = Vec::new();
    loop {
        match consumer.poll(Duration::from_secs(30)).expect("nothing arrives") {
            Ok(message) => records.push(message.detach()),
            Err(rdkafka::error::KafkaError::PartitionEOF(0)) => return records,
            Err(error) => panic!("{error}"),
        }
    }
}

fn write_all(bootstrap: &str, topic: &str, records: &[OwnedMessage]) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .create()
        .unwrap();
    for record in records {
        let mut copy: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(0).timestamp(record.timestamp().to_millis().unwrap());
        copy.key = record.key();
        copy.payload = record.payload();
        copy.headers = record
            .headers()
            .map(|headers| headers.iter().fold(OwnedHeaders::new(), |all, header| all.insert(header)));
        producer.send(copy).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
}

/// Copies records into a new topic with a change and judges the copy.
async fn judge_copy(
    bootstrap: &str,
    topic: &str,
    records: &[OwnedMessage],
    edit: impl FnOnce(&mut Vec<OwnedMessage>),
) -> Outcome {
    let copy = unique_name("copy");
    create_topic(bootstrap, &copy, 1).await.unwrap();
    let mut edited = records.to_vec();
    edit(&mut edited);
    write_all(bootstrap, &copy, &edited);
    let pair = TopicPair::new(topic, copy);
    compare(bootstrap, bootstrap, &[pair], &Options::default()).await.unwrap().totals
}

fn counts(outcome: &Outcome) -> [u64; 5] {
    [outcome.lost, outcome.duplicated, outcome.reordered, outcome.different, outcome.extra]
}

#[tokio::test]
async fn mixed_records_survive_and_one_wrong_record_is_found() {
    let bootstrap = shared_pair().await.unwrap().source.bootstrap();
    let topic = unique_name("mixed");
    create_topic(&bootstrap, &topic, 1).await.unwrap();
    let workload = Workload::new(SEED).topic(TopicPlan::new(&topic, 1, 10_000).mixed().codec(Codec::Lz4));
    let report = workload.produce(&bootstrap).await.unwrap();
    assert_eq!(report.records(), 10_000);
    assert_eq!(equal_to_itself(&bootstrap, &topic).await.totals.matched, 10_000);

    let records = read_all(&bootstrap, &topic);
    // Nulls and empties arrive as what they were sent as.
    assert!(
        records.iter().any(|r| r.payload().is_none()) && records.iter().any(|r| r.payload() == Some(&[]))
    );
    assert!(records.iter().any(|r| r.key().is_none()) && records.iter().any(|r| r.key() == Some(&[])));

    assert!(judge_copy(&bootstrap, &topic, &records, |_| {}).await.is_equal());
    let lost = judge_copy(&bootstrap, &topic, &records, |all| drop(all.remove(5_000))).await;
    assert_eq!(counts(&lost), [1, 0, 0, 0, 0]);
    assert_eq!((lost.differences[0].kind, lost.differences[0].source_offset), (Kind::Lost, Some(5_000)));
    let again = judge_copy(&bootstrap, &topic, &records, |all| all.insert(7, all[3].clone())).await;
    assert_eq!(counts(&again), [0, 1, 0, 0, 0]);
    let swapped = judge_copy(&bootstrap, &topic, &records, |all| all.swap(9_998, 9_999)).await;
    assert_eq!(counts(&swapped), [0, 0, 1, 0, 0]);
    let empty_for_null = judge_copy(&bootstrap, &topic, &records, |all| {
        let index = all.iter().position(|record| record.payload().is_none()).unwrap();
        all[index] = all[index].clone().set_payload(Some(Vec::new()));
    });
    let empty_for_null = empty_for_null.await;
    assert_eq!(counts(&empty_for_null), [0, 0, 0, 1, 0]);
    assert!(empty_for_null.differences[0].what.contains("value null became \"\""), "{empty_for_null:?}");
}

#[tokio::test]
async fn every_codec_and_transactions_are_counted_as_a_consumer_sees_them() {
    let pair = shared_pair().await.unwrap();
    let bootstrap = pair.target.bootstrap();
    let mut workload = Workload::new(SEED);
    let mut pairs = Vec::new();
    for codec in Codec::ALL {
        let topic = unique_name(codec.name());
        create_topic(&bootstrap, &topic, 3).await.unwrap();
        pairs.push(TopicPair::same(&topic));
        workload = workload.topic(TopicPlan::new(&topic, 3, 2_000).mixed().codec(codec));
    }
    let topic = unique_name("transactional");
    create_topic(&bootstrap, &topic, 2).await.unwrap();
    workload = workload.topic(TopicPlan::new(&topic, 2, 2_000).transactions(50, 0.4));
    let report = workload.produce(&bootstrap).await.unwrap();
    assert_eq!(report.records() + report.aborted, 12_000);
    assert!((200..1_800).contains(&report.aborted), "{}", report.aborted);

    assert!(compare(&bootstrap, &bootstrap, &pairs, &Options::default()).await.unwrap().is_equal());
    // The source is read committed, the target is not: aborted records on a target are wrong, and seen.
    let pairs = [TopicPair::same(&topic)];
    let transactional = compare(&bootstrap, &bootstrap, &pairs, &Options::default()).await.unwrap();
    assert_eq!(transactional.totals.source_records, 2_000 - report.aborted);
    assert_eq!(transactional.totals.extra, report.aborted);
    for part in &transactional.partitions {
        let committed = report.committed[&(topic.clone(), part.partition)];
        assert_eq!(part.outcome.source_records, committed, "partition {}", part.partition);
    }
}

#[tokio::test]
async fn a_missing_topic_and_a_missing_partition_are_told() {
    let pair = shared_pair().await.unwrap();
    let (source, target) = (pair.source.bootstrap(), pair.target.bootstrap());
    let topic = unique_name("partitions");
    create_topic(&source, &topic, 2).await.unwrap();
    let error = compare(&source, &target, &[TopicPair::same(&topic)], &Options::default()).await.unwrap_err();
    assert!(format!("{error:#}").contains("is not on the target cluster"), "{error:#}");
    create_topic(&target, &topic, 1).await.unwrap();
    Workload::new(SEED).topic(TopicPlan::new(&topic, 2, 100)).produce(&source).await.unwrap();
    let comparison =
        compare(&source, &target, &[TopicPair::same(&topic)], &Options::default()).await.unwrap();
    assert_eq!(counts(&comparison.totals), [100, 0, 0, 0, 0], "{comparison}");
}

#[tokio::test]
async fn what_a_topic_holds_twice_is_counted() {
    let clusters = shared_pair().await.unwrap();
    let bootstrap = clusters.source.bootstrap();
    let topic = unique_name("repeats");
    create_topic(&bootstrap, &topic, 1).await.unwrap();
    let plan = TopicPlan::new(&topic, 1, 50).random();
    Workload::new(SEED).topic(plan).produce(&bootstrap).await.unwrap();
    let none = count_repeats(&bootstrap, &topic, &Options::default()).await.unwrap();
    assert_eq!((none.records, none.repeated), (50, 0));
    let records = read_all(&bootstrap, &topic);
    write_all(&bootstrap, &topic, &records[20..23]);
    let some = count_repeats(&bootstrap, &topic, &Options::default()).await.unwrap();
    assert_eq!((some.records, some.repeated), (53, 3));
    assert_eq!(some.places[0], Place { partition: 0, first_offset: 20, offset: 50 });
}
