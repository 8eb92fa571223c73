//! Topics that go and come back under the same name (3.6 f).

use kafka_protocol::messages::DeleteTopicsRequest;
use mirrormesh_testkit::topics::unique_name;

use super::cases;
use super::ops::*;
use super::target::Target;

cases!(solo:
    by_name_an_append_lands_in_the_new_topic,
    by_id_an_append_does_not,
    an_unknown_topic_is_said_so,
    a_name_is_taken_once,
);

async fn delete(target: &Target, topic: &Topic) {
    let request =
        DeleteTopicsRequest::default().with_topic_names(vec![name(&topic.name)]).with_timeout_ms(30_000);
    let answer = target.wire(1).await.call(5, &request).await;
    assert_eq!(answer.responses[0].error_code, 0);
}

async fn by_name_an_append_lands_in_the_new_topic(target: Target) {
    let old = topic(&target, &[]).await;
    let (mut wire, id) = (target.wire(1).await, some_id());
    append(&mut wire, &old, &batch_of(id, 0, 0, 10)).await.unwrap();
    delete(&target, &old).await;
    poll("the topic is gone", || async {
        let mut wire = target.wire(1).await;
        (append(&mut wire, &old, &batch_of(-1, -1, -1, 1)).await == Err(3)).then_some(())
    })
    .await;
    let new = topic_on(&target, &old.name, &[&[1]], &[]).await;
    assert_ne!(new.id, old.id);
    // The next batch of the old log is taken as the first of the new one: what a gap would be is not seen.
    assert_eq!(append(&mut wire, &new, &batch_of(id, 0, 10, 10)).await, Ok(0));
    assert_eq!(end(&mut wire, &new).await, 10);
}

async fn by_id_an_append_does_not(target: Target) {
    let old = topic(&target, &[]).await;
    let (mut wire, id) = (target.wire(1).await, some_id());
    if !target.is_4_3() {
        // Kafka 3.9 does not know the request: it hangs up.
        let request = produce_request(&old, &[(0, batch_of(id, 0, 0, 10).bytes)], 13);
        wire.send(13, &request).await.unwrap();
        assert!(wire.receive::<kafka_protocol::messages::ProduceRequest>(13).await.is_err());
        assert_eq!(end(&mut target.wire(1).await, &old).await, 0);
        return;
    }
    let first = send_raw(&mut wire, 13, &old, batch_of(id, 0, 0, 10).bytes).await;
    assert_eq!((first.error_code, first.base_offset), (0, 0));
    delete(&target, &old).await;
    poll("the topic is gone", || async {
        let mut wire = target.wire(1).await;
        (send_raw(&mut wire, 13, &old, batch_of(-1, -1, -1, 1).bytes).await.error_code == 100).then_some(())
    })
    .await;
    let new = topic_on(&target, &old.name, &[&[1]], &[]).await;
    let next = batch_of(id, 0, 10, 10);
    assert_eq!(send_raw(&mut wire, 13, &old, next.bytes.clone()).await.error_code, 100);
    assert_eq!(end(&mut wire, &new).await, 0);
    let taken = send_raw(&mut wire, 13, &new, next.bytes).await;
    assert_eq!((taken.error_code, taken.base_offset), (0, 0));
}

async fn an_unknown_topic_is_said_so(target: Target) {
    let topic = topic(&target, &[]).await;
    let unknown = Topic { name: unique_name("none"), ..topic.clone() };
    let mut wire = target.wire(1).await;
    assert_eq!(append(&mut wire, &unknown, &batch_of(-1, -1, -1, 1)).await, Err(3));
    assert_eq!(fetch(&mut wire, &unknown, Ask::from(0)).await.error_code, 3);
    assert_eq!(list_offset(&mut wire, &unknown, 0, CONSUMER, 0, LATEST).await, Err(3));
    // A partition too many.
    assert_eq!(list_offset(&mut wire, &topic, 1, CONSUMER, 0, LATEST).await, Err(3));
    let answer =
        wire.call(PRODUCE, &produce_request(&topic, &[(1, batch_of(-1, -1, -1, 1).bytes)], PRODUCE)).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 3);
}

async fn a_name_is_taken_once(target: Target) {
    use kafka_protocol::messages::CreateTopicsRequest;
    use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
    use kafka_protocol::protocol::StrBytes;
    let existing = topic(&target, &[]).await;
    let mut wire = target.wire(1).await;
    let asked = |named: &str, partitions: i32, replicas: i16, setting: &'static str| {
        let config = CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(setting))
            .with_value(Some(StrBytes::from_static_str("compact")));
        let configs = if setting.is_empty() { Vec::new() } else { vec![config] };
        let topic = CreatableTopic::default()
            .with_name(name(named))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
            .with_configs(configs);
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000)
    };
    let fresh = unique_name("t");
    for (request, code) in [
        (asked(&existing.name, 1, 1, ""), 36),
        (asked(&fresh, 1, 9, ""), 38),
        (asked(&fresh, 0, 1, ""), 37),
        (asked("no/name", 1, 1, ""), 17),
        (asked(&fresh, 1, 1, "no.such.setting"), 40),
        (asked(&fresh, 1, 1, "retention.ms"), 40),
        (asked(&fresh, -1, -1, "cleanup.policy"), 0),
    ] {
        let answer = wire.call(7, &request).await;
        assert_eq!(answer.topics[0].error_code, code, "{request:?}");
    }
}
