//! `WriteTxnMarkers`: ends of transactions, as a coordinator or `Admin.abortTransaction` writes them.

use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use crate::broker::call::{Call, Mentions, Served};
use crate::broker::code;
use crate::broker::log::Marker;
use crate::broker::state::State;

impl Served for WriteTxnMarkersRequest {
    fn mentions(&self, _state: &State) -> Mentions {
        let topics = self.markers.iter().flat_map(|marker| &marker.topics);
        topics.flat_map(|t| t.partition_indexes.iter().map(|p| (t.name.to_string(), *p))).collect()
    }

    async fn serve(self, call: Call) -> Option<WriteTxnMarkersResponse> {
        let markers =
            call.shared.change(|state| self.markers.iter().map(|m| write(state, &call, m)).collect());
        Some(WriteTxnMarkersResponse::default().with_markers(markers))
    }
}

fn write(state: &mut State, call: &Call, marker: &WritableTxnMarker) -> WritableTxnMarkerResult {
    let mut topics = Vec::new();
    for topic in &marker.topics {
        let partitions = topic.partition_indexes.iter().map(|index| {
            let written = write_one(state, call, marker, &topic.name, *index);
            WritableTxnMarkerPartitionResult::default()
                .with_partition_index(*index)
                .with_error_code(written.err().unwrap_or(code::NONE))
        });
        topics.push(
            WritableTxnMarkerTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect()),
        );
    }
    WritableTxnMarkerResult::default().with_producer_id(marker.producer_id).with_topics(topics)
}

fn write_one(
    state: &mut State,
    call: &Call,
    marker: &WritableTxnMarker,
    topic: &str,
    index: i32,
) -> Result<(), i16> {
    call.scripted(topic, index)?;
    call.led(state, topic, index, -1)?;
    let now_ms = state.now_ms();
    let partition = state.partition_mut(topic, index).ok_or(code::UNKNOWN_TOPIC_OR_PARTITION)?;
    let (id, epoch, coordinator) = (marker.producer_id.0, marker.producer_epoch, marker.coordinator_epoch);
    partition.log.producers.check_marker(id, epoch, coordinator)?;
    let kind = if marker.transaction_result { Marker::Commit } else { Marker::Abort };
    let leader_epoch = partition.leader_epoch;
    partition.log.append_marker((id, epoch), kind, coordinator, now_ms, leader_epoch);
    Ok(())
}
