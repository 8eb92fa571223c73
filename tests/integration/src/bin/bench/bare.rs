//! The bare relay: fetches and produces with our client and does nothing else. No position, no resume, no check of
//! what a broker answers but "no error": what passing batches on costs when nothing makes it safe.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use mirrormesh_core::format::batch;
use mirrormesh_kafka::batch::HEADER_BYTES;
use mirrormesh_kafka::wire::Answer;
use mirrormesh_kafka::wire::fetch::{FetchPartition, FetchRequest, FetchResponse};
use mirrormesh_kafka::wire::produce::{ProduceEntry, ProduceRecords, ProduceRequest, ProduceResponse};
use mirrormesh_kafka::{Client, ClientConfig, Connection, ConnectionRole};

/// Bytes that one fetch may bring for one partition.
const PARTITION_BYTES: i32 = 1 << 20;
/// Bytes that one fetch may bring.
const FETCH_BYTES: i32 = 4 << 20;
/// The field in front of a batch.
const BASE_OFFSET_BYTES: usize = 8;
/// Produce requests that may be unanswered.
const IN_FLIGHT_MAX: usize = 16;

/// What to copy.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CopyArgs {
    #[arg(long)]
    pub(crate) source: String,
    #[arg(long)]
    pub(crate) target: String,
    #[arg(long)]
    pub(crate) topic: String,
    #[arg(long)]
    pub(crate) target_topic: String,
    #[arg(long)]
    pub(crate) partitions: i32,
    #[arg(long)]
    pub(crate) records: u64,
}

/// One end of the relay: a topic and the connection to the one broker that leads all of its partitions.
struct End {
    connection: Connection,
    topic: Arc<str>,
    id: [u8; 16],
}

async fn end(bootstrap: &str, topic: &str) -> Result<End> {
    let client = Client::new(ClientConfig::new([bootstrap], "bench-bare"))?;
    let found = client.topics(Some(&[topic])).await?.into_iter().next().context("no answer about a topic")?;
    let leader = found.partitions.first().and_then(|p| p.leader).context("the topic has no leader")?;
    if found.partitions.iter().any(|p| p.leader != Some(leader)) {
        bail!("the bare relay knows one broker only");
    }
    Ok(End {
        connection: client.connection(leader, ConnectionRole::Produce(0)).await?,
        topic: found.name,
        id: found.topic_id,
    })
}

/// Copies, and waits to be killed so that its memory can be read.
pub(crate) async fn run(args: &CopyArgs) -> Result<()> {
    let source = end(&args.source, &args.topic).await?;
    let target = end(&args.target, &args.target_topic).await?;
    let mut offsets = vec![0_i64; usize::try_from(args.partitions)?];
    let (mut sent, mut unanswered) = (0_u64, VecDeque::new());
    let mut fetch = source.connection.fetch_enqueue(&request(&source, &offsets)).await?;
    while sent < args.records {
        let mut rounds = split(fetch.await?, &mut offsets)?;
        // The next fetch is under way while this one is written.
        fetch = source.connection.fetch_enqueue(&request(&source, &offsets)).await?;
        while rounds.iter().any(|batches| !batches.is_empty()) {
            let mut entries = Vec::new();
            for (partition, batches) in (0_i32..).zip(&mut rounds) {
                let Some((records, batch)) = batches.pop_front() else { continue };
                sent += records;
                entries.push(ProduceEntry {
                    topic: Arc::clone(&target.topic),
                    topic_id: target.id,
                    partition,
                    records: batch,
                });
            }
            let request = ProduceRequest { timeout: Duration::from_secs(5), entries };
            unanswered.push_back(target.connection.produce_enqueue(&request).await?);
            if unanswered.len() >= IN_FLIGHT_MAX {
                check(unanswered.pop_front()).await?;
            }
        }
    }
    while !unanswered.is_empty() {
        check(unanswered.pop_front()).await?;
    }
    std::future::pending().await
}

fn request(source: &End, offsets: &[i64]) -> FetchRequest {
    let partition = |(partition, &offset)| FetchPartition {
        topic: Arc::clone(&source.topic),
        topic_id: source.id,
        partition,
        offset,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        max_bytes: PARTITION_BYTES,
    };
    FetchRequest {
        max_wait: Duration::from_millis(500),
        min_bytes: 1,
        max_bytes: FETCH_BYTES,
        read_committed: false,
        partitions: (0_i32..).zip(offsets).map(partition).collect(),
    }
}

/// The batches of each partition with their record counts; moves the offsets behind them.
fn split(response: FetchResponse, offsets: &mut [i64]) -> Result<Vec<VecDeque<(u64, ProduceRecords)>>> {
    let mut rounds = vec![VecDeque::new(); offsets.len()];
    for part in response.partitions {
        if !part.error.is_ok() {
            bail!("fetching partition {}: {:?}", part.partition, part.error);
        }
        let index = usize::try_from(part.partition)?;
        for batch in batch::split(part.records) {
            let batch = batch?;
            *offsets.get_mut(index).context("a partition that was not asked for")? =
                batch.header.next_offset();
            let records = u64::try_from(batch.header.count)?;
            rounds.get_mut(index).context("no such partition")?.push_back((records, rebased(&batch.bytes)));
        }
    }
    Ok(rounds)
}

/// The batch with base offset 0, which brokers demand; the checksum does not cover it.
fn rebased(batch: &Bytes) -> ProduceRecords {
    let mut header = BytesMut::from(&*batch.slice(..HEADER_BYTES.min(batch.len())));
    header.iter_mut().take(BASE_OFFSET_BYTES).for_each(|byte| *byte = 0);
    ProduceRecords::new(header.freeze(), batch.slice(HEADER_BYTES.min(batch.len())..))
}

async fn check(answer: Option<Answer<ProduceResponse>>) -> Result<()> {
    let Some(answer) = answer else { return Ok(()) };
    for part in answer.await?.partitions {
        if !part.error.is_ok() {
            bail!("producing to partition {}: {:?} {:?}", part.partition, part.error, part.error_message);
        }
    }
    Ok(())
}
