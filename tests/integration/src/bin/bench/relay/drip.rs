//! Few records each to very many partitions.
//!
//! Owns the load of the cost measurement: what is due goes out in batches of one record, many partitions in a request, as
//! Kafka's own producer packs them. librdkafka sends one partition per request and looks at all of its partitions each
//! time that it wakes up: with 10,000 it is slower than the relay that it is to load. What is produced is judged on the
//! source by the readers of `stream`, which are librdkafka's.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use mirrormesh_kafka::batch::{Codec, Producer, Record, encode_records};
use mirrormesh_kafka::wire::Answer;
use mirrormesh_kafka::wire::produce::{ProduceEntry, ProduceRecords, ProduceRequest, ProduceResponse};
use mirrormesh_kafka::{Client, ClientConfig, Connection, ConnectionRole};

use super::stream::{Spot, VALUE_BYTES};
use crate::load;

/// As long as Kafka's producer waits for company by default since version 4.
const TICK: Duration = Duration::from_millis(5);
/// Requests that may be unanswered: as many as Kafka's producer has.
const IN_FLIGHT_MAX: usize = 5;
/// Partitions in a request at most: the first record of a partition has the broker write a checkpoint through to the disk.
const PARTITIONS_MAX: u64 = 200;
/// How long a broker may take to append.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends numbered records at the rate, to one partition after the other, until it is told to stop. `sent` counts those that
/// were handed to the socket.
pub(super) fn produce(
    bootstrap: &str,
    spots: &[Spot],
    rate: u64,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut drip = Drip::connect(bootstrap, spots).await?;
        let began = Instant::now();
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let due = u64::try_from(began.elapsed().as_micros())? * rate / 1_000_000;
            while number < due {
                number = drip.send(number..due).await?;
                sent.store(number, Ordering::Relaxed);
            }
            tokio::time::sleep(TICK).await;
        }
        drip.settle(0).await
    })
}

/// A connection to the one broker, and what is on its way.
struct Drip<'a> {
    connection: Connection,
    spots: &'a [Spot],
    topics: HashMap<&'a str, (Arc<str>, [u8; 16])>,
    value: Vec<u8>,
    unanswered: VecDeque<Answer<ProduceResponse>>,
}

impl<'a> Drip<'a> {
    async fn connect(bootstrap: &str, spots: &'a [Spot]) -> Result<Self> {
        let client = Client::new(ClientConfig::new([bootstrap], "bench-drip"))?;
        let names: BTreeSet<&str> = spots.iter().map(|spot| spot.topic.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let found = client.topics(Some(&names)).await?;
        let leaders: BTreeSet<Option<i32>> =
            found.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.leader).collect();
        let [Some(leader)] = leaders.into_iter().collect::<Vec<_>>()[..] else {
            bail!("the load knows one broker only, and needs a leader of every partition");
        };
        let mut topics = HashMap::new();
        for name in names {
            let topic = found.iter().find(|topic| *topic.name == *name).context("a topic is missing")?;
            topics.insert(name, (Arc::clone(&topic.name), topic.topic_id));
        }
        let value = load::pool(load::Fill::Random, VALUE_BYTES, 7);
        let connection = client.connection(leader, ConnectionRole::Produce(0)).await?;
        Ok(Self { connection, spots, topics, value, unanswered: VecDeque::new() })
    }

    /// Sends some of these, each partition once; returns the number of the next one.
    async fn send(&mut self, numbers: std::ops::Range<u64>) -> Result<u64> {
        let count = u64::try_from(self.spots.len())?.max(1);
        let end = numbers.end.min(numbers.start + count.min(PARTITIONS_MAX));
        let timestamp = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let mut entries = Vec::new();
        for number in numbers.start..end {
            let spot =
                self.spots.get(usize::try_from(number % count)?).context("no partitions to write to")?;
            let (topic, topic_id) = self.topics.get(spot.topic.as_str()).context("an unknown topic")?;
            self.value.get_mut(..8).context("a value is too short")?.copy_from_slice(&number.to_be_bytes());
            let value = self.value.get(..VALUE_BYTES).context("a value is too short")?;
            let record =
                Record { timestamp, value: Some(Bytes::copy_from_slice(value)), ..Record::default() };
            entries.push(ProduceEntry {
                topic: Arc::clone(topic),
                topic_id: *topic_id,
                partition: spot.partition,
                records: ProduceRecords::from(encode_records(&[record], Codec::None, Producer::NONE)?),
            });
        }
        self.settle(IN_FLIGHT_MAX - 1).await?;
        let request = ProduceRequest { timeout: ACK_TIMEOUT, entries };
        self.unanswered.push_back(self.connection.produce_enqueue(&request).await?);
        Ok(end)
    }

    /// Waits until no more than so many are on their way.
    async fn settle(&mut self, most: usize) -> Result<()> {
        while self.unanswered.len() > most {
            let Some(answer) = self.unanswered.pop_front() else { break };
            let refused = answer.await?.partitions.into_iter().find(|partition| !partition.error.is_ok());
            if let Some(partition) = refused {
                bail!("{} partition {}: {}", partition.topic, partition.partition, partition.error);
            }
        }
        Ok(())
    }
}
