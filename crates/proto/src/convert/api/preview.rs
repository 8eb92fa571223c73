//! Previews as users see them.

use mirrormesh_core::flow::PreviewedTopic;

use crate::v1;

/// What a flow does with one source topic.
pub fn previewed_to_api(topic: PreviewedTopic) -> v1::PreviewedTopic {
    let (reason, message) = topic.left_out.unwrap_or_default();
    v1::PreviewedTopic {
        topic: topic.topic.to_string(),
        target_topic: topic.target.map(|target| target.to_string()).unwrap_or_default(),
        reason,
        message,
        partitions: i32::try_from(topic.partitions).unwrap_or(i32::MAX),
    }
}
