//! The ends of a log: offsets, deletion, epochs.

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{BrokerId, DeleteRecordsRequest, OffsetForLeaderEpochRequest};

use super::cases;
use super::ops::*;
use super::target::Target;
use super::wire::Wire;

cases!(solo:
    offsets_by_end_and_time,
    a_fetch_begins_with_the_batch_that_holds_the_offset,
    a_fetch_outside_of_the_log_is_refused,
    deleted_records_leave_the_producer_armed,
    an_empty_log_knows_its_epoch,
    compaction_keeps_the_last_header_of_a_producer,
);

/// Epoch and end offset, or the code.
pub(super) async fn epoch_end(
    wire: &mut Wire,
    topic: &Topic,
    epoch: i32,
    current: i32,
) -> Result<(i32, i64), i16> {
    let asked = OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_leader_epoch(epoch)
        .with_current_leader_epoch(current);
    let topics = OffsetForLeaderTopic::default().with_topic(name(&topic.name)).with_partitions(vec![asked]);
    let request =
        OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topics]);
    let answer = wire.call(4, &request).await;
    let found = &answer.topics[0].partitions[0];
    if found.error_code == 0 { Ok((found.leader_epoch, found.end_offset)) } else { Err(found.error_code) }
}

/// The new start, or the code.
pub(super) async fn delete_records(wire: &mut Wire, topic: &Topic, offset: i64) -> Result<i64, i16> {
    let asked = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let topics = DeleteRecordsTopic::default().with_name(name(&topic.name)).with_partitions(vec![asked]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topics]).with_timeout_ms(30_000);
    let answer = wire.call(2, &request).await;
    let found = &answer.topics[0].partitions[0];
    if found.error_code == 0 { Ok(found.low_watermark) } else { Err(found.error_code) }
}

async fn offsets_by_end_and_time(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    let base = now_ms() - HOUR_MS;
    for n in 0..3 {
        let batch = batch_at(id, 0, n * 10, 10, base + i64::from(n) * 1000);
        append(&mut wire, &topic, &batch).await.unwrap();
    }
    for (timestamp, offset) in
        [(LATEST, 30), (EARLIEST, 0), (0, 0), (base + 1, 10), (base + 2000, 20), (base + 2001, -1), (-3, 20)]
    {
        let found = list_offset(&mut wire, &topic, 0, CONSUMER, 0, timestamp).await;
        assert_eq!(found, Ok(offset), "{timestamp}");
    }
    assert_eq!(delete_records(&mut wire, &topic, 15).await, Ok(15));
    assert_eq!(list_offset(&mut wire, &topic, 0, CONSUMER, 0, EARLIEST).await, Ok(15));
}

async fn a_fetch_begins_with_the_batch_that_holds_the_offset(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    for n in 0..3 {
        append(&mut wire, &topic, &batch_of(id, 0, n * 10, 10)).await.unwrap();
    }
    let data = fetch(&mut wire, &topic, Ask::from(17)).await;
    let found: Vec<_> = batches(&data).iter().map(|batch| batch.header.base_offset).collect();
    assert_eq!(found, [10, 20]);
    // Too little room: the first batch comes whole, the rest may be torn.
    let one = batches(&data)[0].bytes.len();
    for room in [1, one, one + 30] {
        let data =
            fetch(&mut wire, &topic, Ask { bytes_max: i32::try_from(room).unwrap(), ..Ask::from(17) }).await;
        assert_eq!(batches(&data).len(), 1, "{room}");
        assert_eq!(data.records.unwrap().len(), room.max(one), "{room}");
    }
    // The start of the log may lie inside of a batch too.
    assert_eq!(delete_records(&mut wire, &topic, 13).await, Ok(13));
    let data = fetch(&mut wire, &topic, Ask::from(13)).await;
    assert_eq!((data.log_start_offset, batches(&data)[0].header.base_offset), (13, 10));
}

async fn a_fetch_outside_of_the_log_is_refused(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    delete_records(&mut wire, &topic, 5).await.unwrap();
    for (offset, code) in [(4, 1), (5, 0), (10, 0), (11, 1)] {
        let data = fetch(&mut wire, &topic, Ask::from(offset)).await;
        assert_eq!(data.error_code, code, "{offset}");
        if code == 1 {
            assert_eq!((data.high_watermark, data.log_start_offset), (-1, -1));
        }
    }
}

async fn deleted_records_leave_the_producer_armed(target: Target) {
    let (topic, id) = (topic(&target, &[]).await, some_id());
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    assert_eq!(delete_records(&mut wire, &topic, 11).await, Err(1), "beyond the end");
    assert_eq!(delete_records(&mut wire, &topic, -1).await, Ok(10), "all there is");
    assert_eq!(batches(&fetch(&mut wire, &topic, Ask::from(10)).await).len(), 0);
    // Nothing of ours is left, but it is remembered (KIP-360).
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 50, 1)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await, Ok(0), "a repeat");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 10, 1)).await, Ok(10));
    let compacted = super::ops::topic(&target, &[("cleanup.policy", "compact")]).await;
    append(&mut wire, &compacted, &batch_of(id, 0, 0, 10)).await.unwrap();
    assert_eq!(delete_records(&mut wire, &compacted, 5).await, Err(44));
}

async fn an_empty_log_knows_its_epoch(target: Target) {
    let topic = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    assert_eq!(epoch_end(&mut wire, &topic, 0, 0).await, Ok((0, 0)));
    assert_eq!(epoch_end(&mut wire, &topic, 1, -1).await, Ok((-1, -1)));
    append(&mut wire, &topic, &batch_of(-1, -1, -1, 3)).await.unwrap();
    assert_eq!(epoch_end(&mut wire, &topic, 0, 0).await, Ok((0, 3)));
    assert_eq!(epoch_end(&mut wire, &topic, 0, 1).await, Err(75));
}

/// Real brokers clean when they like; the fake is told to.
async fn compaction_keeps_the_last_header_of_a_producer(target: Target) {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.0001"),
        ("min.compaction.lag.ms", "0"),
    ];
    let topic = topic(&target, &settings).await;
    let (mut wire, ours, theirs) = (target.wire(1).await, some_id(), some_id());
    // Two batches of ours; then another producer replaces every key of them.
    for n in 0..2 {
        append(&mut wire, &topic, &batch_of(ours, 4, n * 5, 5)).await.unwrap();
    }
    for n in 0..2 {
        append(&mut wire, &topic, &batch_of(theirs, 0, n * 5, 5)).await.unwrap();
    }
    let kept = poll("the cleaner has run", || async {
        let mut wire = target.wire(1).await;
        match target.as_fake() {
            Some(fake) => fake.compact(&topic.name, 0, 20).unwrap(),
            // Something must arrive for the active segment to roll: only closed ones are cleaned.
            None => drop(append(&mut wire, &topic, &batch_of(-1, -1, 100, 1)).await),
        }
        let all = read(&mut wire, &topic, Ask::from(0)).await;
        let ours_left: Vec<_> =
            all.iter().filter(|batch| batch.header.producer_id == ours).cloned().collect();
        (ours_left.len() == 1 && ours_left[0].header.count == 0).then_some(ours_left[0].clone())
    })
    .await;
    // An empty batch that still says where we were.
    let header = kept.header;
    assert_eq!((header.base_offset, header.last_offset()), (5, 9));
    assert_eq!((header.producer_epoch, header.base_sequence, header.last_sequence()), (4, 5, 9));
    assert!(kept.body().is_empty() && kept.is_intact());
    // And the producer is armed as before.
    assert_eq!(append(&mut wire, &topic, &batch_of(ours, 4, 11, 1)).await, Err(45));
    assert!(append(&mut wire, &topic, &batch_of(ours, 4, 10, 1)).await.is_ok());
}
