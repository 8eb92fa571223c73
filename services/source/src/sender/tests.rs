//! Tests of `sender` against a strict fake broker.

use mirrormesh_kafka::ClientConfig;
use mirrormesh_testkit::broker::batch::{Batch, BatchHeader};
use mirrormesh_testkit::broker::records::{Record, encode};
use mirrormesh_testkit::broker::{Api, FakeCluster, FakeSpec, Fault, Rule};

use super::*;

const TOPIC: &str = "t";
const PRODUCER: i64 = 4_000;
const NOT_LEADER: i16 = 6;
/// More than may be in flight at first.
const MANY: u64 = 100;

struct Rig {
    cluster: FakeCluster,
    client: Client,
    topic_id: [u8; 16],
    answers_in: mpsc::UnboundedSender<(u64, Answer)>,
    answers: mpsc::UnboundedReceiver<(u64, Answer)>,
}

impl Rig {
    async fn new(partitions: i32) -> Self {
        let cluster = FakeCluster::start(FakeSpec::new("target")).await.unwrap();
        cluster.create_topic(TOPIC, partitions, 1, &[]).unwrap();
        let client = Client::new(ClientConfig::new([cluster.address(1).unwrap()], "test")).unwrap();
        let topic_id = client.topics(Some(&[TOPIC])).await.unwrap().remove(0).topic_id;
        let (answers_in, answers) = mpsc::unbounded_channel();
        Self { cluster, client, topic_id, answers_in, answers }
    }

    fn sender(&self) -> Sender {
        Sender::start(self.client.clone(), 1, ConnectionRole::Produce(0), Acknowledging::new())
    }

    /// A batch of one record, which is number `id` of its partition.
    fn append(&self, row: &Arc<Row>, partition: i32, id: u64) -> QueuedBatch {
        let header = BatchHeader {
            producer_id: PRODUCER,
            producer_epoch: 0,
            base_sequence: i32::try_from(id).unwrap(),
            ..BatchHeader::plain(1, self.cluster.now_ms())
        };
        let bytes = Batch::sealed(header, &encode(&[Record::new("key", "value")])).bytes;
        let header = *bytes.first_chunk().unwrap();
        let batch = StampedBatch { header, body: bytes.slice(header.len()..), body_crc: 0 };
        // The answers of several partitions are told apart by their numbers.
        let told = id + 1_000 * u64::try_from(partition).unwrap();
        let reply = Reply::new(told, self.answers_in.clone(), Arc::clone(row), batch.body.len());
        QueuedBatch { topic: TOPIC.into(), topic_id: self.topic_id, partition, batch, reply }
    }

    async fn answer(&mut self) -> (u64, Answer) {
        let answered = tokio::time::timeout(Duration::from_mins(1), self.answers.recv());
        answered.await.expect("an answer within a minute").unwrap()
    }
}

fn code(answer: &Answer) -> i16 {
    match answer {
        Answer::Refused { code, .. } => *code,
        Answer::Appended { .. } => 0,
        _ => -1,
    }
}

#[tokio::test]
async fn nothing_follows_a_failed_batch_of_its_partition() {
    let mut rig = Rig::new(2).await;
    let (sender, row) = (rig.sender(), Arc::default());
    // The broker knows the producer: it refuses what follows a gap in the sequences.
    sender.append(rig.append(&row, 0, 0)).await;
    assert_eq!(code(&rig.answer().await.1), 0);
    rig.cluster.script(Rule::new(Api::Produce, Fault::Error(NOT_LEADER)).partition(TOPIC, 0));
    rig.cluster.script(Rule::new(Api::Produce, Fault::Delay(Duration::from_millis(500))));
    for id in 1..MANY {
        sender.append(rig.append(&row, 0, id)).await;
    }
    let first = rig.answer().await;
    assert_eq!((first.0, code(&first.1)), (1, NOT_LEADER));
    // What the partition hands over before it learns of the failure is not sent either.
    for id in MANY..MANY + 10 {
        sender.append(rig.append(&row, 0, id)).await;
    }
    sender.append(rig.append(&Arc::default(), 1, 0)).await;
    let (mut sent, mut unsent, mut expected) = (0, 0, 2);
    while expected < MANY + 10 {
        let (id, answer) = rig.answer().await;
        if id >= 1_000 {
            assert_eq!(code(&answer), 0, "another partition goes on: {answer:?}");
            continue;
        }
        assert_eq!(id, expected, "answers come in the order of the batches");
        expected += 1;
        if answer == Answer::NotSent {
            unsent += 1;
        } else {
            assert!(unsent == 0 && matches!(answer, Answer::Refused { .. }), "{id}: {answer:?}");
            sent += 1;
        }
    }
    assert!((1..80).contains(&sent) && unsent > 20, "{sent} were in flight, {unsent} not sent");
    assert_eq!(rig.cluster.partition(TOPIC, 0).unwrap().log_end, 1);
    sender.append(rig.append(&Arc::default(), 0, 1)).await;
    while rig.cluster.partition(TOPIC, 0).unwrap().log_end == 1 {
        assert_eq!(code(&rig.answer().await.1), 0, "a new row is sent");
    }
}

#[tokio::test]
async fn an_ending_sender_answers_everybody_in_order() {
    let mut rig = Rig::new(1).await;
    rig.cluster.script(Rule::new(Api::Produce, Fault::Mute).always());
    let (sender, row) = (rig.sender(), Arc::default());
    for id in 0..MANY {
        sender.append(rig.append(&row, 0, id)).await;
    }
    let many = rig.cluster.wait_until(Duration::from_secs(10), |cluster| cluster.requests(Api::Produce) > 0);
    many.await.unwrap();
    drop(sender);
    let mut told = Vec::new();
    for id in 0..MANY {
        let (answered, answer) = rig.answer().await;
        assert_eq!(answered, id);
        told.push(answer);
    }
    let lost = told.iter().take_while(|answer| **answer == Answer::Lost).count();
    assert!(lost > 0, "{told:?}");
    assert!(told.iter().skip(lost).all(|answer| *answer == Answer::NotSent), "{told:?}");
}

#[tokio::test]
async fn a_slow_partition_is_named_and_the_others_keep_their_answers() {
    let mut rig = Rig::new(2).await;
    rig.cluster.hold_high_watermark(TOPIC, 0).unwrap();
    // Both in one request, while the first one is answered.
    rig.cluster.script(Rule::new(Api::Produce, Fault::Delay(Duration::from_millis(300))));
    let sender = rig.sender();
    let rows = [Arc::default(), Arc::default()];
    let began = Instant::now();
    for (row, partition) in rows.iter().zip(0..) {
        sender.append(rig.append(row, partition, 0)).await;
    }
    let mut codes = Vec::new();
    for _ in 0..2 {
        let (id, answer) = rig.answer().await;
        codes.push((id, code(&answer)));
    }
    codes.sort_unstable();
    assert_eq!(codes, [(0, ErrorCode::REQUEST_TIMED_OUT.0), (1_000, 0)]);
    let took = began.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_secs(12), "{took:?}");
    rig.cluster.release_high_watermark(TOPIC, 0).unwrap();
    sender.append(rig.append(&rows[1], 1, 1)).await;
    assert_eq!(code(&rig.answer().await.1), 0);
    assert!(!rows[1].is_failed() && rows[0].is_failed());
}

#[tokio::test]
async fn a_silent_broker_loses_its_connection_within_five_seconds() {
    let mut rig = Rig::new(1).await;
    let (sender, row) = (rig.sender(), Arc::default());
    sender.append(rig.append(&row, 0, 0)).await;
    assert_eq!(code(&rig.answer().await.1), 0);
    rig.cluster.pause_node(1).unwrap();
    let began = Instant::now();
    sender.append(rig.append(&row, 0, 1)).await;
    assert_eq!(rig.answer().await, (1, Answer::Lost));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_millis(7_500), "{took:?}");
}

#[tokio::test]
async fn a_slow_broker_that_answers_a_probe_keeps_its_connection() {
    let mut rig = Rig::new(1).await;
    let late = Fault::DelayAnswer(Duration::from_secs(8));
    rig.cluster.script(Rule::new(Api::Produce, late));
    let (sender, row) = (rig.sender(), Arc::default());
    for id in 0..3 {
        sender.append(rig.append(&row, 0, id)).await;
    }
    for id in 0..3 {
        let (answered, answer) = rig.answer().await;
        assert_eq!((answered, code(&answer)), (id, 0), "{answer:?}");
    }
    let metadata = rig.cluster.requests(Api::Metadata);
    assert!(metadata >= 3, "it was asked meanwhile: {metadata}");
    assert_eq!(sender.acknowledging.lock().timeout(Instant::now().into_std()), Duration::from_secs(30));
}

#[tokio::test]
async fn a_row_that_its_partition_gave_up_is_not_sent() {
    let mut rig = Rig::new(1).await;
    let (sender, row) = (rig.sender(), Arc::new(Row::default()));
    row.fail();
    for id in 0..2 {
        sender.append(rig.append(&row, 0, id)).await;
    }
    assert_eq!([rig.answer().await, rig.answer().await], [(0, Answer::NotSent), (1, Answer::NotSent)]);
    assert_eq!(rig.cluster.requests(Api::Produce), 0);
}

#[tokio::test]
async fn batches_that_wait_are_refused_before_newer_ones() {
    let mut rig = Rig::new(1).await;
    let (sender, row) = (rig.sender(), Arc::new(Row::default()));
    sender.append(rig.append(&row, 0, 0)).await;
    assert_eq!(code(&rig.answer().await.1), 0);
    rig.cluster.script(Rule::new(Api::Produce, Fault::Delay(Duration::from_millis(300))));
    for id in 1..MANY {
        sender.append(rig.append(&row, 0, id)).await;
    }
    // The partition gives up while most batches wait, and hands over one more.
    let sent = rig.cluster.wait_until(Duration::from_secs(10), |cluster| cluster.requests(Api::Produce) > 1);
    sent.await.unwrap();
    row.fail();
    sender.append(rig.append(&row, 0, MANY)).await;
    let mut unsent = 0;
    for id in 1..=MANY {
        let (answered, answer) = rig.answer().await;
        assert_eq!(answered, id, "{answer:?}");
        unsent += u64::from(answer == Answer::NotSent);
        assert!(unsent == 0 || answer == Answer::NotSent, "{id}: {answer:?}");
    }
    assert!(unsent > 20, "{unsent}");
}
