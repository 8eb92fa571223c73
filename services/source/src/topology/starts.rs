//! Where the mirror of a new partition begins, asked once; the Raft log keeps the answer.

use mirrormesh_core::control::TopicEntry;
use mirrormesh_core::flow::{FlowSpec, StartAt};
use mirrormesh_core::ids::TopicName;
use mirrormesh_core::unit::PartitionStart;
use mirrormesh_kafka::admin::{ListedOffset, OffsetQuery, OffsetSpec};
use mirrormesh_kafka::{Client, ErrorCode};

use super::{Topology, Trouble, unreachable};

/// Partitions asked about at a time.
const ASK_MAX: usize = 1_000;

impl Topology {
    /// Fills in the missing starts. Entries of which a partition did not answer are left out and said.
    pub(super) async fn starts(
        &self,
        spec: &FlowSpec,
        fresh: Vec<(usize, TopicEntry)>,
    ) -> Result<(Vec<TopicEntry>, Option<Trouble>), Trouble> {
        let mut places: Vec<(usize, i32)> = Vec::new();
        for (index, (count, entry)) in fresh.iter().enumerate() {
            let partitions = entry.starts.len()..*count;
            places.extend(partitions.filter_map(|p| i32::try_from(p).ok()).map(|p| (index, p)));
        }
        let ask = |of: fn(&TopicEntry) -> &TopicName, spec: OffsetSpec| -> Vec<OffsetQuery> {
            let place = |(index, partition): &(usize, i32)| {
                let (_, entry) = fresh.get(*index)?;
                Some(OffsetQuery { topic: of(entry).shared(), partition: *partition, spec, leader_epoch: -1 })
            };
            places.iter().filter_map(place).collect()
        };
        let at = spec.start;
        let source_spec = match at {
            StartAt::Earliest => OffsetSpec::Earliest,
            StartAt::Latest => OffsetSpec::Latest,
            StartAt::Timestamp(ms) => OffsetSpec::Timestamp(ms),
        };
        let sources = list(&self.link.source, ask(|e| &e.topic, source_spec)).await?;
        // No record that young: the timestamp lies behind the end.
        let ends = match at {
            StartAt::Timestamp(_) => list(&self.link.source, ask(|e| &e.topic, OffsetSpec::Latest)).await?,
            StartAt::Earliest | StartAt::Latest => Vec::new(),
        };
        // Partitions that appeared later begin at their first record: the coordinator knows which ones.
        let firsts = match at {
            StartAt::Earliest => Vec::new(),
            StartAt::Latest | StartAt::Timestamp(_) => {
                list(&self.link.source, ask(|e| &e.topic, OffsetSpec::Earliest)).await?
            }
        };
        let targets = list(&self.link.target, ask(|e| &e.target_topic, OffsetSpec::Latest)).await?;

        let mut entries: Vec<Option<TopicEntry>> = fresh.into_iter().map(|(_, entry)| Some(entry)).collect();
        let mut trouble = None;
        for (n, (index, partition)) in places.into_iter().enumerate() {
            let Some(slot) = entries.get_mut(index) else { continue };
            let Some(entry) = slot else { continue };
            let source = answer(&sources, n).and_then(|offset| match offset {
                -1 => answer(&ends, n),
                offset => Ok(offset),
            });
            let first = if firsts.is_empty() { Ok(None) } else { answer(&firsts, n).map(Some) };
            match (source.and_then(|offset| Ok((offset, first?))), answer(&targets, n)) {
                (Ok((source_offset, first)), Ok(target_offset)) => {
                    if let Some(first) = first {
                        let known = entry.starts.get(entry.earliest.len()..).unwrap_or_default();
                        entry.earliest.extend(known.iter().map(|start| start.source_offset));
                        entry.earliest.push(first);
                    }
                    entry.starts.push(PartitionStart {
                        source_offset,
                        target_offset,
                        ..PartitionStart::default()
                    });
                }
                (Err(code), _) | (_, Err(code)) => {
                    let text = format!("{}/{partition} has no answer about its offsets: {code}", entry.topic);
                    trouble = Some(("PARTITION_UNAVAILABLE".to_owned(), text));
                    // Starts are in the order of partitions: what comes behind the hole waits for the next scan.
                    *slot = None;
                }
            }
        }
        Ok((entries.into_iter().flatten().collect(), trouble))
    }
}

fn answer(listed: &[ListedOffset], n: usize) -> Result<i64, ErrorCode> {
    match listed.get(n) {
        Some(l) if l.error.is_ok() => Ok(l.offset),
        Some(l) => Err(l.error),
        None => Err(ErrorCode::UNKNOWN_SERVER_ERROR),
    }
}

/// Asks in portions; answers come in the order of questions.
async fn list(client: &Client, questions: Vec<OffsetQuery>) -> Result<Vec<ListedOffset>, Trouble> {
    let mut answers = Vec::with_capacity(questions.len());
    for portion in questions.chunks(ASK_MAX) {
        answers.extend(client.list_offsets(portion, false).await.map_err(unreachable)?);
    }
    Ok(answers)
}
