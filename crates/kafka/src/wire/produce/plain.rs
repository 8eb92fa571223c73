//! The answer that nearly every append gets: all was taken, in the order of the request, and there is nothing to say.
//!
//! Owns a reader of that one form, which takes no memory but for its result: answers come as often as batches do, and
//! decoding them in full was a fifth of what a relayed batch cost. It must not judge anything else: whatever differs in
//! one byte (an error, words, a tagged field, another order) is left to the full decoder.

use bytes::Buf;

use super::super::decode;
use super::{FIRST_WITH_TOPIC_IDS, ProduceResponse, ProducedPartition, Sent, SentTopic, WireRequest};
use crate::error::ErrorCode;
use crate::wire::api::Api as _;

/// From this version on an answer tells where the log begins.
const FIRST_WITH_LOG_START: i16 = 5;
/// From this version on an answer has words about single records.
const FIRST_WITH_WORDS: i16 = 8;

/// Reads a whole frame, header included; `None` if it has any other form.
pub(super) fn read(frame: &[u8], version: i16, sent: &Sent) -> Option<ProduceResponse> {
    let mut form = Form { rest: frame, version, flexible: version >= WireRequest::FLEXIBLE_FROM };
    let _correlation = form.rest.try_get_i32().ok()?;
    form.no_tags()?;
    form.count(sent.topics.len())?;
    let mut partitions = Vec::with_capacity(sent.topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in &sent.topics {
        form.topic(topic)?;
        form.count(topic.partitions.len())?;
        for partition in &topic.partitions {
            partitions.push(form.partition(topic, *partition)?);
        }
        form.no_tags()?;
    }
    let throttle = decode::throttle(form.rest.try_get_i32().ok()?);
    form.no_tags()?;
    form.rest.is_empty().then_some(ProduceResponse { throttle, partitions })
}

/// What is left of the frame.
struct Form<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
}

impl Form<'_> {
    fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(bytes)?;
        Some(())
    }

    fn no_tags(&mut self) -> Option<()> {
        if self.flexible { self.expect(&[0]) } else { Some(()) }
    }

    /// So many elements; of more than a byte of the compact form can tell, the full decoder reads.
    fn count(&mut self, count: usize) -> Option<()> {
        if self.flexible {
            let length = u8::try_from(count + 1).ok().filter(|length| *length < 0x80)?;
            self.expect(&[length])
        } else {
            self.expect(&i32::try_from(count).ok()?.to_be_bytes())
        }
    }

    fn topic(&mut self, topic: &SentTopic) -> Option<()> {
        if self.version >= FIRST_WITH_TOPIC_IDS {
            return self.expect(&topic.id);
        }
        if self.flexible {
            self.count(topic.name.len())?;
        } else {
            self.expect(&i16::try_from(topic.name.len()).ok()?.to_be_bytes())?;
        }
        self.expect(topic.name.as_bytes())
    }

    fn partition(&mut self, topic: &SentTopic, partition: i32) -> Option<ProducedPartition> {
        self.expect(&partition.to_be_bytes())?;
        self.expect(&ErrorCode::NONE.0.to_be_bytes())?;
        let base_offset = self.rest.try_get_i64().ok()?;
        let log_append_time = self.rest.try_get_i64().ok()?;
        let log_start_offset =
            if self.version >= FIRST_WITH_LOG_START { self.rest.try_get_i64().ok()? } else { -1 };
        if self.version >= FIRST_WITH_WORDS {
            self.count(0)?;
            // A text that is null.
            if self.flexible { self.expect(&[0])? } else { self.expect(&(-1_i16).to_be_bytes())? }
        }
        self.no_tags()?;
        Some(ProducedPartition {
            topic: topic.name.clone(),
            topic_id: topic.id,
            partition,
            error: ErrorCode::NONE,
            base_offset,
            log_append_time,
            log_start_offset,
            error_message: None,
        })
    }
}
