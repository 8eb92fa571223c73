//! What comes of a fetch for one partition.

use mirrormesh_kafka::ErrorCode;
use mirrormesh_kafka::wire::fetch::FetchedPartition;
use mirrormesh_relay::page::SourcePage;
use mirrormesh_relay::reader::Aborted;

/// What a subscriber gets.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// Records, or only a new end.
    Page(SourcePage),
    /// The broker refused; the subscription is over.
    Refused(ErrorCode),
    /// The broker can't be reached; the subscription is over.
    Lost(String),
}

/// A partition of a fetch as the relay reads it.
pub(crate) fn page_of(partition: FetchedPartition, read_committed: bool) -> SourcePage {
    let committed = read_committed && partition.last_stable_offset >= 0;
    let end_offset = if committed { partition.last_stable_offset } else { partition.high_watermark };
    let aborted = partition
        .aborted
        .iter()
        .map(|a| Aborted { producer_id: a.producer_id, first_offset: a.first_offset })
        .collect();
    SourcePage {
        records: partition.records,
        aborted,
        end_offset,
        high_watermark: partition.high_watermark,
        log_start: partition.log_start_offset,
    }
}
