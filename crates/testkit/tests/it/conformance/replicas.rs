//! Several replicas: who answers what, high watermark and log end apart, elections (3.6 c, e and j).

use mirrormesh_testkit::topics::unique_name;

use super::cases;
use super::ops::*;
use super::target::Target;
use super::wire::Wire;

cases!(trio:
    followers_describe_producers,
    what_is_not_replicated_is_seen_by_some,
    an_append_that_times_out_is_there,
    too_few_replicas_after_the_append,
    an_unclean_election_rolls_back_log_and_producers,
    a_clean_election_keeps_producers_and_ends_the_epoch,
    a_restarted_broker_remembers_one_batch_of_each_producer,
    a_restarted_broker_that_retains_nothing_of_a_producer,
);

async fn followers_describe_producers(target: Target) {
    let topic = topic_on(&target, &unique_name("t"), &[&[1, 2]], &[]).await;
    let id = some_id();
    let mut leader = target.wire(1).await;
    append(&mut leader, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    let told = producer(&mut leader, &topic, id).await.unwrap();
    let follower = producer(&mut target.wire(2).await, &topic, id).await.unwrap();
    assert_eq!((told.last_sequence, follower), (9, told.clone()), "no check of leadership");
    // A broker without a replica refuses, and nobody knows an unknown topic.
    assert_eq!(producers(&mut target.wire(3).await, &topic).await, Err(6));
    let unknown = Topic { name: unique_name("none"), ..topic.clone() };
    assert_eq!(producers(&mut leader, &unknown).await, Err(3));
    // A follower that stands still for a while tells what was.
    target.pause(2);
    let more = with_acks_1(&mut leader, &topic, 10).await;
    assert_eq!(more, Ok(10));
    target.resume(2);
    poll("the follower catches up", || async {
        let state = producer(&mut target.wire(2).await, &topic, id).await.unwrap();
        assert!(matches!(state.last_sequence, 9 | 19));
        (state.last_sequence == 19).then_some(())
    })
    .await;

    async fn with_acks_1(wire: &mut Wire, topic: &Topic, sequence: i32) -> Result<i64, i16> {
        let id = producers(wire, topic).await.unwrap()[0].producer_id.0;
        append_acks_1(wire, topic, id, sequence).await
    }
}

async fn append_acks_1(wire: &mut Wire, topic: &Topic, id: i64, sequence: i32) -> Result<i64, i16> {
    let batch = batch_of(id, 0, sequence, 10);
    let request = produce_request(topic, &[(0, batch.bytes)], PRODUCE).with_acks(1);
    let answer = wire.call(PRODUCE, &request).await.responses[0].partition_responses[0].clone();
    if answer.error_code == 0 { Ok(answer.base_offset) } else { Err(answer.error_code) }
}

async fn what_is_not_replicated_is_seen_by_some(target: Target) {
    let topic = topic_on(&target, &unique_name("t"), &[&[1, 2]], &[]).await;
    let id = some_id();
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    settled(&target, &topic, 10).await;
    target.pause(2);
    assert_eq!(append_acks_1(&mut wire, &topic, id, 10).await, Ok(10));
    // Consumers are told of the high watermark, by fetches and by ListOffsets(latest).
    assert_eq!(end(&mut wire, &topic).await, 10);
    let seen = fetch(&mut wire, &topic, Ask::from(0)).await;
    assert_eq!((seen.high_watermark, batches(&seen).len()), (10, 1));
    // Between high watermark and log end there is nothing yet, and no error.
    for offset in [10, 15, 20] {
        let seen = fetch(&mut wire, &topic, Ask::from(offset)).await;
        assert_eq!((seen.error_code, batches(&seen).len()), (0, 0), "{offset}");
    }
    assert_eq!(fetch(&mut wire, &topic, Ask::from(21)).await.error_code, 1);
    // Whoever says that he debugs sees the log's end, and needs no right for it.
    assert_eq!(list_offset(&mut wire, &topic, 0, DEBUGGING, 0, LATEST).await, Ok(20));
    let seen = fetch(&mut wire, &topic, Ask { replica: DEBUGGING, ..Ask::from(10) }).await;
    // But no fetch shows it the records.
    assert_eq!((seen.error_code, seen.high_watermark, batches(&seen).len()), (0, 10, 0));
    // DescribeProducers tells what lies there.
    assert_eq!(producer(&mut wire, &topic, id).await.unwrap().last_sequence, 19);
    target.resume(2);
    settled(&target, &topic, 20).await;
}

/// Waits until consumers see everything.
async fn settled(target: &Target, topic: &Topic, to: i64) {
    poll("the high watermark reaches the log's end", || async {
        let leader = led(target, topic, 0).await;
        let seen = list_offset(&mut target.wire(leader).await, topic, 0, CONSUMER, 0, LATEST).await;
        (seen == Ok(to)).then_some(())
    })
    .await;
}

async fn an_append_that_times_out_is_there(target: Target) {
    let topic = topic_on(&target, &unique_name("t"), &[&[1, 2]], &[]).await;
    let id = some_id();
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    target.pause(2);
    let batch = batch_of(id, 0, 10, 10);
    let request = produce_request(&topic, &[(0, batch.bytes.clone())], PRODUCE).with_timeout_ms(500);
    let answer = wire.call(PRODUCE, &request).await.responses[0].partition_responses[0].clone();
    // The outcome is unknown, but the answer tells where it stands.
    assert_eq!((answer.error_code, answer.base_offset), (7, 10));
    target.resume(2);
    // A repeat waits for the replicas like the first one.
    let again = send(&mut wire, &topic, &batch).await;
    assert_eq!((again.error_code, again.base_offset), (0, 10));
    assert_eq!(again.log_append_time_ms, batch.header.max_timestamp);
    assert_eq!(end(&mut wire, &topic).await, 20);
}

async fn too_few_replicas_after_the_append(target: Target) {
    let settings = [("min.insync.replicas", "2")];
    let topic = topic_on(&target, &unique_name("t"), &[&[1, 2]], &settings).await;
    let id = some_id();
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    target.pause(2);
    // It is appended while two are in sync; then one drops out.
    let batch = batch_of(id, 0, 10, 10);
    let request = produce_request(&topic, &[(0, batch.bytes.clone())], PRODUCE).with_timeout_ms(10_000);
    let answer = wire.call(PRODUCE, &request).await.responses[0].partition_responses[0].clone();
    // The high watermark stays where it is (KIP-966), so the wait does not end with 20 but with 7, at its time.
    assert_eq!((answer.error_code, answer.base_offset), (7, 10));
    assert_eq!(end(&mut wire, &topic).await, 10);
    // While one is missing nothing is taken, not even a repeat.
    assert_eq!(append(&mut wire, &topic, &batch).await, Err(19));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 20, 10)).await, Err(19));
    target.resume(2);
    poll("both are in sync", || async {
        let found = metadata(&mut target.wire(1).await, &topic, 0).await?;
        (found.isr_nodes.len() == 2).then_some(())
    })
    .await;
    // What was unknown turns out to be there.
    poll("the leader takes appends again", || async {
        let mut wire = target.wire(1).await;
        match append(&mut wire, &topic, &batch).await {
            Ok(offset) => Some(assert_eq!(offset, 10)),
            Err(code) => {
                assert_eq!(code, 19);
                None
            }
        }
    })
    .await;
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 20, 10)).await, Ok(20));
    assert_eq!(end(&mut wire, &topic).await, 30);
}

async fn an_unclean_election_rolls_back_log_and_producers(target: Target) {
    let settings = [("unclean.leader.election.enable", "true")];
    let topic = topic_on(&target, &unique_name("t"), &[&[1, 2]], &settings).await;
    let id = some_id();
    let mut wire = target.wire(1).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    settled(&target, &topic, 10).await;
    target.stop(2).await;
    poll("one is in sync", || async {
        let found = metadata(&mut target.wire(1).await, &topic, 0).await?;
        (found.isr_nodes.len() == 1).then_some(())
    })
    .await;
    for n in 1..3 {
        append(&mut wire, &topic, &batch_of(id, 0, n * 10, 10)).await.unwrap();
    }
    let before = metadata(&mut wire, &topic, 0).await.unwrap().leader_epoch;
    // Only the one that was away is left: of three controllers two must live to elect it.
    target.kill(1);
    target.start(2).await;
    let leader = led(&target, &topic, 0).await;
    assert_eq!(leader, 2);
    let mut wire = target.wire(2).await;
    assert_eq!(end(&mut wire, &topic).await, 10);
    assert_eq!(producer(&mut wire, &topic, id).await.unwrap().last_sequence, 9);
    // The loss shows at once, and everything from the place where the log ends goes in again.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 30, 10)).await, Err(45));
    for n in 1..4 {
        assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, n * 10, 10)).await, Ok(i64::from(n) * 10));
    }
    let after = metadata(&mut wire, &topic, 0).await.unwrap().leader_epoch;
    assert!(after > before, "{before} {after}");
    // The old leader comes back and cuts off what it had more.
    target.start(1).await;
    target.ready().await;
    poll("the old leader follows", || async {
        let found = metadata(&mut target.wire(2).await, &topic, 0).await?;
        (found.isr_nodes.len() == 2).then_some(())
    })
    .await;
    assert_eq!(producer(&mut target.wire(1).await, &topic, id).await.unwrap().last_sequence, 39);
    let expected: Vec<_> = (0..40).map(|n| format!("value of {n}")).collect();
    let leader = led(&target, &topic, 0).await;
    assert_eq!(values(&mut target.wire(leader).await, &topic).await, expected);
}

async fn a_clean_election_keeps_producers_and_ends_the_epoch(target: Target) {
    let topic = topic_on(&target, &unique_name("t"), &[&[3, 2]], &[]).await;
    let id = some_id();
    let mut wire = target.wire(3).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    let old_epoch = metadata(&mut wire, &topic, 0).await.unwrap().leader_epoch;
    target.stop(3).await;
    assert_eq!(led(&target, &topic, 0).await, 2);
    let mut wire = target.wire(2).await;
    let epoch = metadata(&mut wire, &topic, 0).await.unwrap().leader_epoch;
    assert!(epoch > old_epoch);
    // The new leader remembers.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await, Ok(0), "a repeat");
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 11, 1)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 10, 5)).await, Ok(10));
    // Epochs: where the old one ended, who asks with the wrong one.
    assert_eq!(super::ends::epoch_end(&mut wire, &topic, old_epoch, -1).await, Ok((old_epoch, 10)));
    assert_eq!(super::ends::epoch_end(&mut wire, &topic, epoch, epoch).await, Ok((epoch, 15)));
    assert_eq!(super::ends::epoch_end(&mut wire, &topic, epoch + 5, -1).await, Ok((-1, -1)));
    assert_eq!(super::ends::epoch_end(&mut wire, &topic, epoch, old_epoch).await, Err(74));
    assert_eq!(super::ends::epoch_end(&mut wire, &topic, epoch, epoch + 1).await, Err(75));
    for (asked, code) in [(old_epoch, 74), (epoch, 0), (epoch + 1, 75)] {
        assert_eq!(fetch(&mut wire, &topic, Ask { epoch: asked, ..Ask::from(0) }).await.error_code, code);
    }
    // A reader that has more of the old epoch than there is hears where to go back to.
    let read = fetch(&mut wire, &topic, Ask { last_epoch: old_epoch, ..Ask::from(12) }).await;
    let diverging = &read.diverging_epoch;
    assert_eq!((read.error_code, diverging.epoch, diverging.end_offset), (0, old_epoch, 10));
    let read = fetch(&mut wire, &topic, Ask { last_epoch: old_epoch, ..Ask::from(10) }).await;
    assert_eq!((read.diverging_epoch.end_offset, batches(&read).len()), (-1, 1));
    target.start(3).await;
    target.ready().await;
}

async fn a_restarted_broker_remembers_one_batch_of_each_producer(target: Target) {
    let topic = topic_on(&target, &unique_name("t"), &[&[3]], &[]).await;
    let (id, old) = (some_id(), some_id());
    let mut wire = target.wire(3).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    append(&mut wire, &topic, &batch_of(id, 0, 10, 10)).await.unwrap();
    append(&mut wire, &topic, &batch_at(old, 0, 0, 10, now_ms() - 25 * HOUR_MS)).await.unwrap();
    target.kill(3);
    target.start(3).await;
    target.ready().await;
    led(&target, &topic, 0).await;
    let mut wire = target.wire(3).await;
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 10, 10)).await, Ok(10), "a repeat");
    // Of the five it remembers one: the others are there, and refused.
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 21, 1)).await, Err(45));
    assert_eq!(append(&mut wire, &topic, &batch_of(old, 0, 99, 1)).await, Ok(30), "it had expired");
}

async fn a_restarted_broker_that_retains_nothing_of_a_producer(target: Target) {
    let topic = topic_on(&target, &unique_name("t"), &[&[3]], &[("segment.ms", "100")]).await;
    let id = some_id();
    let mut wire = target.wire(3).await;
    append(&mut wire, &topic, &batch_of(id, 0, 0, 10)).await.unwrap();
    // Others write until ours is in a closed segment, and all of that is deleted.
    let first = now_ms();
    while now_ms() < first + 300 {
        append(&mut wire, &topic, &batch_at(-1, -1, -1, 1, now_ms())).await.unwrap();
    }
    super::ends::delete_records(&mut wire, &topic, -1).await.unwrap();
    append(&mut wire, &topic, &batch_of(-1, -1, -1, 1)).await.unwrap();
    assert_eq!(append(&mut wire, &topic, &batch_of(id, 0, 50, 1)).await, Err(45), "it is remembered");
    for kill in [false, true] {
        if kill {
            target.kill(3)
        } else {
            target.stop(3).await
        }
        target.start(3).await;
        target.ready().await;
        led(&target, &topic, 0).await;
        let mut wire = target.wire(3).await;
        let state = producer(&mut wire, &topic, id).await;
        println!("EXPLORE {:?} fake={} kill={kill} {state:?}", target.kafka, target.as_fake().is_some());
    }
}
